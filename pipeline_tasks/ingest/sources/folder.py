"""Files below a folder, in one pass over the folders; links that lead outside are not followed."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from pipeline_tasks.errors import ConfigError, InputError, SourceUnavailable
from pipeline_tasks.ingest.sources.listing import Entry, FileRead, glob_regex
from pipeline_tasks.ingest.sources.opening import Opening
from pipeline_tasks.project.source_schema import FolderSource, TableSource

READ_ATTEMPTS = 3
EVERYTHING = "**/*"


def open_folder(source: FolderSource | TableSource, opening: Opening) -> FolderFiles:
    """Return the files of a source on disk; a relative path starts at the project's folder."""
    root = opening.folder / Path(source.path)
    return FolderFiles(name=source.name, root=root, pattern=source.pattern, setting=f"{opening.setting}.path")


class FolderFiles:
    """The files below `root` whose key (path below it) matches the glob; names that begin with a dot are skipped."""

    parallel_reads = 1

    def __init__(self, *, name: str, root: Path, pattern: str, setting: str) -> None:
        self.name = name
        self.root = root
        self._matches = None if pattern == EVERYTHING else glob_regex(pattern).match
        self._setting = setting
        self._base = f"{root.parent if root.is_file() else root}{os.sep}"
        self.newest_ns = 0  # the latest change that the last listing met

    def listing(self) -> Iterator[Entry]:
        """Yield every file once, and note the latest change of a file or folder.

        Raises:
            ConfigError: the folder does not exist.
            SourceUnavailable: the folder may not be read, or the disk fails. One below it is listed with its problem.
        """
        self.newest_ns = 0
        if self.root.is_file():
            yield from self._single_file()
            return
        if not self.root.is_dir():
            raise ConfigError(
                f"{self._setting} must be an existing folder (got {self.root}: no such folder). "
                "Create it, or correct the path in project.yaml."
            )
        folders = [""]
        while folders:
            below = folders.pop()
            try:
                self.newest_ns = max(self.newest_ns, (self.root / below).stat().st_mtime_ns)
                with os.scandir(self.root / below) as children:
                    yield from self._entries(children, below=below, folders=folders)
            except OSError as error:
                if below:
                    if not isinstance(error, FileNotFoundError):  # removed since its parent was listed
                        yield Entry(below, "folder", 0, "FOLDER_UNREADABLE")
                    continue
                raise SourceUnavailable(
                    f"{self._setting} must be a readable folder (got {error.strerror} at {self.root / below}). "
                    "Check its permissions and the disk; the next run tries again."
                ) from error

    def read(self, entry: Entry) -> FileRead | None:
        """Return the bytes of a file that did not change while they were read.

        Raises:
            InputError: FILE_UNREADABLE.
        """
        try:
            for _ in range(READ_ATTEMPTS):
                read = _read_unchanged(self._base + entry.key)
                if read is not None:
                    return read
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InputError(
                f"a file must be readable (got {error.strerror}). Check its permissions; the next run tries again.",
                code="FILE_UNREADABLE",
            ) from None
        return None

    def folders_digest(self) -> str | None:
        """Return a fingerprint of the folders and their times: it changes when a file is added, removed or renamed.

        It does not change when a file is overwritten in place, but costs a tenth of a listing.

        Raises:
            OSError: a folder cannot be read.
        """
        digest = hashlib.blake2b(digest_size=16)
        folders = [self._base]
        while folders:
            folder = folders.pop()
            with os.scandir(folder) as children:
                subfolders = [child.path for child in children if child.is_dir(follow_symlinks=False)]
            digest.update(f"{folder}\0{Path(folder).stat().st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
            folders += subfolders
        return digest.hexdigest()

    def path_of(self, entry: Entry) -> Path:
        """Return where an entry lies, for readers that stream."""
        return Path(self._base + entry.key)

    def fingerprint_of(self, entry: Entry) -> str | None:
        """Return the fingerprint that an entry has now; None if it is gone."""
        try:
            return _fingerprint(self.path_of(entry).stat())
        except OSError:
            return None

    def _single_file(self) -> Iterator[Entry]:
        status = self.root.stat()
        yield Entry(self.root.name, _fingerprint(status), status.st_size)

    def _entries(self, children: Iterator[os.DirEntry[str]], *, below: str, folders: list[str]) -> Iterator[Entry]:
        prefix = f"{below}/" if below else ""
        matches = self._matches
        for child in children:
            name = child.name
            if name[0] == ".":
                continue
            key = prefix + name
            try:
                if child.is_dir(follow_symlinks=False):
                    folders.append(key)
                elif matches is None or matches(key):
                    yield self._entry(child, key=key)
            except FileNotFoundError:
                continue  # deleted since it was listed
            except OSError:
                yield Entry(key, "unreadable", 0, "FILE_UNREADABLE")

    def _entry(self, child: os.DirEntry[str], *, key: str) -> Entry:
        if child.is_symlink():
            try:
                target = Path(child.path).resolve()
                is_inside = target.is_relative_to(self.root.resolve()) and target.is_file()
            except (OSError, RuntimeError):  # a link that leads to itself
                is_inside = False
            if not is_inside:
                return Entry(key, "link", 0, "PATH_NOT_ALLOWED")
        status = child.stat()
        if not stat.S_ISREG(status.st_mode):
            return Entry(key, "special", 0, "TYPE_NOT_ALLOWED")
        self.newest_ns = max(self.newest_ns, status.st_mtime_ns)
        return Entry(key, f"{status.st_size}-{status.st_mtime_ns}", status.st_size)


def _read_unchanged(path: str) -> FileRead | None:
    """Return a file's bytes, or None if it changed meanwhile. Plain calls: this runs once for each small file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        before = os.fstat(descriptor)
        data = os.read(descriptor, before.st_size + 1)
        after = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    fingerprint = _fingerprint(after)
    return FileRead(data, fingerprint) if fingerprint == _fingerprint(before) and len(data) == after.st_size else None


def _fingerprint(status: os.stat_result) -> str:
    return f"{status.st_size}-{status.st_mtime_ns}"
