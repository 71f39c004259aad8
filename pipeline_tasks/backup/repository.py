"""A folder of backups: every file once under its SHA-256, and one manifest per backup, written last."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline_tasks.contracts import canonical_json, sha256_of_file
from pipeline_tasks.errors import ConfigError, DataCorrupt

FORMAT = 1
UNFINISHED_SECONDS = 24 * 3600  # no backup that still runs writes one file for so long
_NAME = re.compile(r"[0-9]{8}T[0-9]{6}Z(-[0-9]+)?")
MAX_NAMED = 10


@dataclasses.dataclass(frozen=True, slots=True)
class Blob:
    """A file of the repository."""

    sha256: str
    size_bytes: int


class BackupRepository:
    """`blobs/<2>/<sha256>` and `manifests/<time>.json`, for the owner only.

    A blob is there whole or not at all, and a manifest only after all of its blobs: a killed backup leaves the ones
    before it as they were.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def remove_unfinished(self, *, now: float) -> None:
        """Remove the files that killed backups were writing, by the seconds since the epoch."""
        for path in (self.folder / "unfinished").glob("*"):
            with contextlib.suppress(FileNotFoundError):  # a backup beside this one has finished it
                if path.stat().st_mtime < now - UNFINISHED_SECONDS:
                    path.unlink()

    def path_of(self, sha256: str) -> Path:
        return self.folder / "blobs" / sha256[:2] / sha256

    def holds(self, blob: Blob) -> bool:
        """Return whether a blob of this name and size is there; its bytes are not read."""
        path = self.path_of(blob.sha256)
        return path.is_file() and path.stat().st_size == blob.size_bytes

    def is_whole(self, blob: Blob) -> bool:
        """Return whether a blob is there with the bytes that were written: it is read."""
        return self.holds(blob) and sha256_of_file(self.path_of(blob.sha256)) == blob.sha256

    def add(self, write: Callable[[Path], None]) -> Blob:
        """Keep what `write` puts into the file that it is given, also in place of a blob that was damaged since."""
        work = self.folder / "unfinished" / secrets.token_hex(8)
        private_folder(work.parent)
        try:
            work.touch(mode=0o600)
            write(work)
            blob = Blob(sha256_of_file(work), work.stat().st_size)
            if not self.is_whole(blob):
                self._settle(work, self.path_of(blob.sha256))
            return blob
        finally:
            work.unlink(missing_ok=True)

    def add_file(self, path: Path) -> Blob:
        """Keep a copy of a file; one that is appended to meanwhile is kept as long as it was at some moment."""
        return self.add(lambda work: _copy(path, work))

    def add_json_lines(self, rows: Iterable[Mapping[str, Any]]) -> Blob:
        """Keep one JSON document per line."""

        def write(work: Path) -> None:
            with work.open("wb") as file:
                file.writelines(canonical_json(row) + b"\n" for row in rows)

        return self.add(write)

    def json_lines(self, blob: Blob) -> list[dict[str, Any]]:
        """Return what `add_json_lines` kept."""
        with self.path_of(blob.sha256).open("rb") as file:
            return [json.loads(line) for line in file]

    def write_manifest(self, name: str, document: Mapping[str, Any]) -> Path:
        """Make a backup whole: with this file it exists. A second one within a second gets a number."""
        folder = self.folder / "manifests"
        private_folder(folder)
        path, number = folder / f"{name}.json", 1
        while path.exists():
            number += 1
            path = folder / f"{name}-{number}.json"
        work = self.folder / "unfinished" / f"{path.name}.{secrets.token_hex(4)}"
        work.write_text(json.dumps({"format": FORMAT, **document}, indent=2, sort_keys=True) + "\n")
        self._settle(work, path)
        return path

    def manifest_names(self) -> list[str]:
        """Return the whole backups, oldest first."""
        names = {path.stem for path in (self.folder / "manifests").glob("*.json") if _NAME.fullmatch(path.stem)}
        return sorted(names, key=lambda name: (name[:16], int(name[17:] or 1)))

    def manifest(self, name: str | None = None) -> dict[str, Any]:
        """Return a backup's manifest, by default the newest.

        Raises:
            ConfigError: there is no such backup, or a newer Dethrone wrote it.
        """
        names = self.manifest_names()
        if not names or name not in {None, *names}:
            known = ", ".join(names[-MAX_NAMED:]) or "none"
            raise ConfigError(
                f"{self.folder} must hold the backup {name or 'asked for'} (got {known}). "
                "`dethrone backup <folder>` writes one."
            )
        document = json.loads((self.folder / "manifests" / f"{name or names[-1]}.json").read_text())
        if document.get("format") != FORMAT:
            raise ConfigError(
                f"the backup's format must be {FORMAT} (got {document.get('format')}). Restore it with the Dethrone "
                f"that wrote it: {document.get('version', 'unknown')}."
            )
        return dict(document)

    def check(self, blobs: Iterable[Blob]) -> int:
        """Read every blob again and return how many there are.

        Raises:
            DataCorrupt: one is missing, or its bytes are others; the message names up to ten.
        """
        wanted = {blob.sha256: blob for blob in blobs}
        bad = sorted(sha256 for sha256, blob in wanted.items() if not self.is_whole(blob))
        if bad:
            named = ", ".join(sha256[:12] for sha256 in bad[:MAX_NAMED])
            raise DataCorrupt(
                f"every file of the backup must be there with the bytes that were written (got {len(bad)} of "
                f"{len(wanted)} missing or changed: {named}). Use another copy of the folder, or an older backup."
            )
        return len(wanted)

    def _settle(self, work: Path, path: Path) -> None:
        """Move a finished file to its place, durably."""
        private_folder(path.parent)
        with work.open("rb") as file:
            os.fsync(file.fileno())
        work.chmod(0o600)
        work.replace(path)


def private_folder(folder: Path) -> None:
    """Make a folder, and those above it that are missing, for the owner only."""
    for parent in reversed((folder, *folder.parents)):
        parent.mkdir(mode=0o700, exist_ok=True)


def _copy(path: Path, work: Path) -> None:
    with path.open("rb") as source, work.open("wb") as target:
        shutil.copyfileobj(source, target)
