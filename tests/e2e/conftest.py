"""A whole stack of its own for the end-to-end tests: its own home folder, free ports, the installed `dethrone`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DETHRONE = Path(sys.executable).with_name("dethrone")
# The shell of a company's machine: proxies that answer nothing, one of them SOCKS, in both spellings; a POSIX locale.
CLOSED = "127.0.0.1:9"
HOSTILE = {
    name: value
    for upper, value in {
        "HTTP_PROXY": f"http://{CLOSED}", "HTTPS_PROXY": f"http://{CLOSED}", "ALL_PROXY": f"socks5://{CLOSED}",
    }.items()
    for name in (upper, upper.lower())
} | {"LC_ALL": "C"}  # fmt: skip
SPLIT_KEY = "the-same-split-in-every-installation-0123456789"


class Installation:
    """One home folder, below a path with a blank, and the commands on it, as a user gives them in a hostile shell."""

    def __init__(self, home: Path, projects: Path) -> None:
        self.home = home
        self.projects = projects
        self.more: dict[str, str] = {}

    @property
    def environment(self) -> dict[str, str]:
        foreign = ("AIRFLOW", "DETHRONE", "WANDB", "NO_PROXY", "no_proxy")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
        own = {"DETHRONE_HOME": str(self.home), "DETHRONE_PROJECTS": str(self.projects)}
        return kept | HOSTILE | own | self.more

    def run(self, *arguments: str, timeout: float = 900, check: bool = True) -> subprocess.CompletedProcess:
        done = subprocess.run(
            [str(DETHRONE), *arguments],
            env=self.environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode != 0:
            pytest.fail(f"dethrone {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done

    def json(self, *arguments: str) -> object:
        """Return a command's JSON object, or the list that it holds."""
        document = json.loads(self.run(*arguments, "--json").stdout)
        return document.get("rows", document)

    def popen(self, *arguments: str) -> subprocess.Popen:
        return subprocess.Popen(
            [str(DETHRONE), *arguments],
            env=self.environment,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @property
    def stack(self) -> dict:
        return json.loads((self.home / "stack.json").read_text())

    def secret(self, name: str) -> str:
        return (self.home / "secrets" / name).read_text().strip()

    def set_split_key(self, key: str) -> None:
        """Set the split key before the first start: with the same one, the same items are exam items."""
        file = self.home / "secrets" / "split_key"
        file.parent.mkdir(parents=True, mode=0o700)
        file.write_text(key)
        file.chmod(0o600)


@pytest.fixture(scope="module")
def make_installation(tmp_path_factory):
    """Return a factory of installations; each is taken down with its module: two stacks at once starve each other."""
    made: list[Installation] = []

    def make(name: str, *, projects_of: tuple[str, ...] = ("fashion", "newsgroups")) -> Installation:
        folder = tmp_path_factory.mktemp(name) / "with a blank"
        projects = folder / "projects"
        projects.mkdir(parents=True)
        for project in projects_of:
            source = ROOT / "projects" / project
            target = projects / project
            target.mkdir()
            for file in source.iterdir():
                if file.is_file():
                    (target / file.name).write_bytes(file.read_bytes())
            (target / "incoming").mkdir()
        installation = Installation(folder / "home", projects)
        made.append(installation)
        return installation

    yield make
    for installation in made:
        installation.run("down", check=False)
