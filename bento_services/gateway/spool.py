"""The local, bounded, append-only spool of the prediction log.

Policy: a record is written with one `write` before its answer is sent and is in the kernel's hands then, so it survives
a killed gateway; it is forced to the disk when its segment is sealed (a power cut loses at most one shipping interval).
A full spool drops the record, a disk that refuses it fails it; the caller counts both: serving never waits for the log.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
from pathlib import Path
from typing import Literal

from bento_services.gateway.records import LogRecord, read_records, to_bytes

Outcome = Literal["logged", "dropped", "failed"]
OPEN, SEALED = ".open", ".sealed"

logger = logging.getLogger(__name__)


class Spool:
    """Segments of one folder: one open for appending by this process, sealed ones waiting to be shipped.

    An open segment is locked by its writer, so that another gateway on the same folder adopts only what the dead left.
    """

    def __init__(self, folder: Path, *, limit_bytes: int, segment_bytes: int) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._segment_bytes = segment_bytes
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        self._path: Path | None = None
        self._size = 0
        self._sequence = 0
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._adopt_left_over()
        self._sealed_bytes = sum(path.stat().st_size for path in self.sealed())

    @property
    def size_bytes(self) -> int:
        """The bytes that wait here, open and sealed."""
        return self._size + self._sealed_bytes

    def append(self, record: LogRecord) -> Outcome:
        """Write a record, and say what became of it: exactly one of the outcomes, whatever happens."""
        try:
            data = to_bytes(record)
            with self._lock:
                if self.size_bytes + len(data) > self._limit_bytes:
                    return "dropped"
                self._write(data)
                if self._size >= self._segment_bytes:
                    self._seal()
        except (OSError, ValueError, TypeError) as error:
            logger.warning("the spool cannot take a record: %s", error)
            return "failed"
        return "logged"

    def seal(self) -> None:
        """Close the open segment, if it holds anything, so that it can be shipped."""
        with self._lock:
            self._seal()

    def sealed(self) -> list[Path]:
        """Return the segments to ship, oldest first."""
        return sorted(self._folder.glob(f"*{SEALED}"))

    def remove(self, segment: Path) -> None:
        """Forget a shipped segment."""
        with self._lock:
            size = segment.stat().st_size
            segment.unlink()
            self._sealed_bytes -= size

    def close(self) -> None:
        """Seal what is open."""
        self.seal()

    def _write(self, data: bytes) -> None:
        """Append whole or not at all: a short write (full disk) is taken back."""
        descriptor = self._descriptor if self._descriptor is not None else self._open()
        try:
            written = os.write(descriptor, data)
            while written < len(data):
                written += os.write(descriptor, data[written:])
        except OSError:
            self._take_back(descriptor)
            raise
        self._size += len(data)

    def _take_back(self, descriptor: int) -> None:
        """Cut half a record off; where that fails too, nothing may follow it in this segment."""
        try:
            os.ftruncate(descriptor, self._size)
        except OSError as error:
            logger.warning("the segment is given up: %s", error.strerror)
            self._give_up(descriptor)

    def _give_up(self, descriptor: int) -> None:
        """Close a segment with a torn end: what stands before it is shipped, as after a kill."""
        path, size = self._path, self._size
        self._descriptor, self._path, self._size = None, None, 0
        with contextlib.suppress(OSError):
            os.close(descriptor)
        if path is not None:
            with contextlib.suppress(OSError):
                path.rename(path.with_suffix(SEALED))
                self._sealed_bytes += path.with_suffix(SEALED).stat().st_size
        logger.warning("%d bytes of whole records stand in it", size)

    def _open(self) -> int:
        names = [path.name.partition("-")[0] for path in self._folder.glob("*-*.*")]
        last = max([self._sequence, *(int(name) for name in names if name.isdigit())])
        self._sequence = last + 1
        path = self._folder / f"{self._sequence:012d}-{os.getpid()}{OPEN}"
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL
        descriptor = os.open(path, flags, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._descriptor, self._path, self._size = descriptor, path, 0
        return descriptor

    def _seal(self) -> None:
        if self._descriptor is None or self._path is None or self._size == 0:
            return
        try:
            os.fsync(self._descriptor)
            self._path.rename(self._path.with_suffix(SEALED))
        except OSError as error:
            logger.warning("a segment of the spool cannot be sealed yet: %s", error.strerror)
            return
        os.close(self._descriptor)
        self._sealed_bytes += self._size
        self._descriptor, self._path, self._size = None, None, 0

    def _adopt_left_over(self) -> None:
        """Seal what a killed gateway left open, without the record it was writing when it died."""
        for path in sorted(self._folder.glob(f"*{OPEN}")):
            with contextlib.suppress(FileNotFoundError), path.open("r+b") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                data = file.read()
                whole = max((end for _, end in read_records(data)), default=0)
                file.truncate(whole)
                os.fsync(file.fileno())
                if whole:
                    path.rename(path.with_suffix(SEALED))
                else:
                    path.unlink()
