"""Paths of the one-machine stack; nothing is touched."""

from __future__ import annotations

import dataclasses
import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path

from pipeline_tasks.core.below import Below
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

    stack_file = Below("home", "stack.json")
    lock_file = Below("home", "up.lock")
    deploy_lock_file = Below("supervisor_dir", "deploy.lock")
    secrets_dir = Below("home", "secrets")
    logs_dir = Below("home", "logs")
    supervisor_dir = Below("home", "supervisor")
    supervisor_conf = Below("supervisor_dir", "supervisord.conf")
    programs_dir = Below("supervisor_dir", "conf.d")
    supervisor_pid_file = Below("supervisor_dir", "supervisord.pid")
    socket = Below("runtime_dir", "supervisor.sock")
    s3_dir = Below("home", "s3")
    s3_identities_file = Below("supervisor_dir", "s3.json")  # whom the store's S3 port lets in
    s3_identity_file = Below("secrets_dir", "s3_identity")  # certificate and key of the store's own parts
    label_studio_dir = Below("home", "label-studio")
    label_studio_stamp = Below("label_studio_dir", "first-start-done")
    label_studio_template = Below("root", ".venv-label-studio", "template", "label_studio.sqlite3")
    airflow_home = Below("home", "airflow")
    airflow_cfg = Below("airflow_home", "airflow.cfg")
    airflow_template = Below("root", "airflow.cfg.template")
    passwords_file = Below("airflow_home", "passwords.json")
    bentoml_home = Below("home", "bentoml")
    label_studio_bin = Below("root", ".venv-label-studio", "bin")

    @property
    def runtime_dir(self) -> Path:
        """Folder of the unix sockets: below the home, or a short private one when that path is too long to bind."""
        inside = self.supervisor_dir / "run"
        if not _is_too_long(inside):
            return inside
        digest = hashlib.sha256(str(self.home).encode()).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"dethrone-{digest}"

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
