"""Paths of the one-machine stack; nothing is touched."""

from __future__ import annotations

import dataclasses
import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path

from pipeline_tasks.errors import ConfigError

MAX_SOCKET_PATH_BYTES = 100  # Linux allows 107; the supervisor adds a suffix of its own while it binds

# What a path must not hold, and the part that could not read it; blanks, percent signs and other scripts are fine.
_UNREADABLE: Mapping[str, str] = {
    "$": "Airflow takes it for a variable",
    ",": "SeaweedFS takes it for a list of folders",
    "?": "SQLite's address ends there",
    "*": "the supervisor takes it for a pattern",
    "[": "the supervisor takes it for a pattern",
}


@dataclasses.dataclass(frozen=True, slots=True)
class StackLayout:
    """Every path of the stack, derived from the state folder and the source folder."""

    home: Path
    root: Path

    @property
    def stack_file(self) -> Path:
        return self.home / "stack.json"

    @property
    def lock_file(self) -> Path:
        return self.home / "up.lock"

    @property
    def deploy_lock_file(self) -> Path:
        return self.supervisor_dir / "deploy.lock"

    @property
    def secrets_dir(self) -> Path:
        return self.home / "secrets"

    @property
    def logs_dir(self) -> Path:
        return self.home / "logs"

    @property
    def supervisor_dir(self) -> Path:
        return self.home / "supervisor"

    @property
    def supervisor_conf(self) -> Path:
        return self.supervisor_dir / "supervisord.conf"

    @property
    def programs_dir(self) -> Path:
        return self.supervisor_dir / "conf.d"

    @property
    def supervisor_pid_file(self) -> Path:
        return self.supervisor_dir / "supervisord.pid"

    @property
    def runtime_dir(self) -> Path:
        """Folder of the unix sockets: below the home, or a short private one when that path is too long to bind."""
        inside = self.supervisor_dir / "run"
        if not _is_too_long(inside):
            return inside
        digest = hashlib.sha256(str(self.home).encode()).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"dethrone-{digest}"

    @property
    def socket(self) -> Path:
        return self.runtime_dir / "supervisor.sock"

    @property
    def s3_dir(self) -> Path:
        return self.home / "s3"

    @property
    def s3_identities_file(self) -> Path:
        return self.supervisor_dir / "s3.json"

    @property
    def s3_identity_file(self) -> Path:
        """Certificate and key of the store's own parts, unlike the identities that its S3 port lets in."""
        return self.secrets_dir / "s3_identity"

    @property
    def label_studio_dir(self) -> Path:
        return self.home / "label-studio"

    @property
    def label_studio_stamp(self) -> Path:
        return self.label_studio_dir / "first-start-done"

    @property
    def label_studio_template(self) -> Path:
        return self.root / ".venv-label-studio" / "template" / "label_studio.sqlite3"

    @property
    def airflow_home(self) -> Path:
        return self.home / "airflow"

    @property
    def airflow_cfg(self) -> Path:
        return self.airflow_home / "airflow.cfg"

    @property
    def airflow_template(self) -> Path:
        return self.root / "airflow.cfg.template"

    @property
    def passwords_file(self) -> Path:
        return self.airflow_home / "passwords.json"

    @property
    def bentoml_home(self) -> Path:
        return self.home / "bentoml"

    @property
    def label_studio_bin(self) -> Path:
        return self.root / ".venv-label-studio" / "bin"

    @property
    def label_studio_packages(self) -> list[Path]:
        """The site-packages of Label Studio's environment; none where it is not on this machine."""
        return sorted(self.label_studio_bin.parent.glob("lib/python*/site-packages"))

    def program_file(self, program: str) -> Path:
        return self.programs_dir / f"{program}.conf"

    def log_file(self, program: str) -> Path:
        return self.logs_dir / f"{program}.log"


def check_paths(layout: StackLayout) -> None:
    """Refuse, before anything is written, a path that a part of the stack could not read.

    Raises:
        ConfigError: names the path, the character and the part.
    """
    for name, path, unreadable in (
        ("DETHRONE_HOME", layout.home, _UNREADABLE),
        ("the checkout's path", layout.root, {"$": _UNREADABLE["$"]}),
    ):
        for character, reason in unreadable.items():
            if character in str(path):
                raise ConfigError(f"{name} must have no {character} (got {path}): {reason}. Use another folder.")
    if _is_too_long(layout.runtime_dir):
        raise ConfigError(
            f"the folder of temporary files must have a shorter path (got {tempfile.gettempdir()}): unix sockets lie "
            "in it, since DETHRONE_HOME's is too long for them. Set TMPDIR=/tmp, or DETHRONE_HOME to a shorter path."
        )


def _is_too_long(folder: Path) -> bool:
    return len(str(folder / "seaweedfs-filer.sock").encode()) > MAX_SOCKET_PATH_BYTES


def source_root() -> Path:
    """Return the folder of this checkout, which holds `dags/`, `airflow.cfg.template` and the environments."""
    return Path(__file__).resolve().parents[2]
