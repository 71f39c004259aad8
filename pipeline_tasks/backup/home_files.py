"""Files of a home folder, and of the projects, that belong to a backup; a copy of each kind while it is in use."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath

from pipeline_tasks.backup.repository import BackupRepository, Blob, private_folder
from pipeline_tasks.contracts import sha256_of_file

# What `up` cannot make again. Airflow's database holds nothing of ours, and the rest is a copy of what S3 holds.
SECRETS, SPOOL = "secrets", "spool"
SINGLE_FILES = (
    "stack.json",
    "installed_at",
    "trusted_keys.pem",
    "serving/routes.json",
    "label-studio/first-start-done",
)
FOLDERS = ("label-studio/media", "wandb")
DATABASES = ("label-studio/label_studio.sqlite3", "serving/predictions.db")
LABEL_STUDIO_DUMP = "label-studio.dump"  # of PostgreSQL; not a file of the home
_SPOOL_READS = 5


def save_databases(home: Path, repository: BackupRepository) -> dict[str, Blob]:
    """Keep each SQLite database as it is at one moment, while others write it."""
    return {name: repository.add(_online_copy(home / name)) for name in DATABASES if (home / name).is_file()}


def save_files(home: Path, repository: BackupRepository, *, with_secrets: bool) -> dict[str, Blob]:
    """Keep the other files of the home, by their path in it; the spool is read last."""
    folders = (*FOLDERS, *((SECRETS,) if with_secrets else ()))
    names = [*SINGLE_FILES, *(name for folder in folders for name in _files_below(home, folder))]
    return _save(home, names, repository) | _save_spool(home / SPOOL, repository)


def save_projects(projects_dir: Path, repository: BackupRepository) -> dict[str, Blob]:
    """Keep every file of every project, what waits to be ingested included, by its path in the projects' folder."""
    folders = sorted(path.parent.name for path in projects_dir.glob("*/project.yaml"))
    names = [name for folder in folders for name in _files_below(projects_dir, folder) if "__pycache__" not in name]
    return _save(projects_dir, names, repository)


def is_ours(name: str, part: str) -> bool:
    """Return whether a backup's path is one that a backup can have: below its folder, and in the home a known one."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or str(path) != name or not path.parts:
        return False
    if part != "home" or name in {*SINGLE_FILES, *DATABASES, LABEL_STUDIO_DUMP}:
        return True
    return any(path.is_relative_to(folder) and name != folder for folder in (*FOLDERS, SECRETS, SPOOL))


def put_back(repository: BackupRepository, files: dict[str, Blob], folder: Path) -> None:
    """Write files to where they were, for the owner only; one that is there already stays."""
    changed = differing(files, folder)
    for name, blob in files.items():
        if (folder / name).exists() and name not in changed:
            continue
        path = folder / name
        private_folder(path.parent)
        work = path.with_name(f".{path.name}.restoring")
        work.touch(mode=0o600)
        shutil.copyfile(repository.path_of(blob.sha256), work)
        work.replace(path)


def differing(files: dict[str, Blob], folder: Path) -> list[str]:
    """Return the files that lie in the folder already with other bytes."""
    present = [name for name in files if (folder / name).exists()]
    return sorted(name for name in present if sha256_of_file(folder / name) != files[name].sha256)


def _save(root: Path, names: Iterable[str], repository: BackupRepository) -> dict[str, Blob]:
    kept: dict[str, Blob] = {}
    for name in names:
        with contextlib.suppress(FileNotFoundError):  # never written, or removed since it was listed
            kept[name] = repository.add_file(root / name)
    return kept


def _save_spool(spool: Path, repository: BackupRepository) -> dict[str, Blob]:
    """Keep every segment once: `n.open` becomes `n.sealed` under our eyes, and is gone when it was shipped to S3."""
    kept: dict[str, Blob] = {}
    for _ in range(_SPOOL_READS):
        known = {Path(name).stem for name in kept}
        for path in sorted(spool.glob("*-*.*")):
            if path.stem not in known:
                with contextlib.suppress(FileNotFoundError):
                    kept[f"{SPOOL}/{path.name}"] = repository.add_file(path)
    return kept


def _online_copy(path: Path) -> Callable[[Path], None]:
    def write(work: Path) -> None:
        with (
            contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=60)) as source,
            contextlib.closing(sqlite3.connect(work)) as target,
        ):
            source.backup(target)

    return write


def _files_below(root: Path, folder: str) -> Iterator[str]:
    for path in sorted((root / folder).rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield path.relative_to(root).as_posix()
