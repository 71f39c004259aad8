"""The local, bounded, append-only spool of the prediction log.

Policy: a record is written with one `write` before its answer is sent and is in the kernel's hands then, so it survives
a killed gateway; it is forced to the disk when its segment is sealed (a power cut loses at most a shipping interval and
the time that a segment takes to the store). Sealing is the shipper's work, in its thread: no answer waits for an fsync.
A full spool drops the record, a disk that refuses it fails it; the caller counts both: serving never waits for the log.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import logging
import os
import threading
from pathlib import Path

from bento_services.gateway.metrics import Outcome
from bento_services.gateway.prediction_log.records import LogRecord, read_records, to_bytes

OPEN, SEALED = ".open", ".sealed"

logger = logging.getLogger(__name__)


@dataclasses.dataclass(slots=True)
class _Segment:
    """A file that this process writes, or has written and not sealed yet."""

    descriptor: int
    path: Path
    size_bytes: int = 0


class Spool:
    """Segments of one folder: one open for appending by this process, sealed ones waiting to be shipped.

    An open segment is locked by its writer, so that another gateway on the same folder adopts only what the dead left.
    """

    def __init__(self, folder: Path, *, limit_bytes: int, segment_bytes: int) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._segment_bytes = segment_bytes
        self._lock = threading.Lock()
        self._open: _Segment | None = None
        self._unsealed: list[_Segment] = []  # oldest first
        self._sequence = 0
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._adopt_left_over()
        self._sealed_sizes = {path: path.stat().st_size for path in self.sealed()}
        self._num_bytes = sum(self._sealed_sizes.values())

    @property
    def size_bytes(self) -> int:
        """The bytes that wait here, sealed or not."""
        return self._num_bytes

    def append(self, record: LogRecord) -> Outcome:
        """Write a record, and say what became of it: exactly one of the outcomes, whatever happens."""
        try:
            data = to_bytes(record)
            with self._lock:
                if self.size_bytes + len(data) > self._limit_bytes:
                    return "dropped"
                segment = self._write(data)
                if segment.size_bytes >= self._segment_bytes:
                    self._set_aside(segment)
        except (OSError, ValueError, TypeError) as error:
            logger.warning("the spool cannot take a record: %s", error)
            return "failed"
        return "logged"

    def seal(self) -> None:
        """Close what is written, so that it can be shipped; where the disk fails, the next call tries again.

        One thread may do it at a time; `append` may go on meanwhile.
        """
        with self._lock:
            if self._open is not None and self._open.size_bytes:
                self._set_aside(self._open)
            unsealed = list(self._unsealed)
        for segment in unsealed:
            self._seal(segment)
        self._forget_what_is_gone()

    def _seal(self, segment: _Segment) -> None:
        sealed = segment.path.with_suffix(SEALED)
        try:
            os.fsync(segment.descriptor)
            segment.path.rename(sealed)
        except FileNotFoundError:
            logger.error("segment %s is gone; somebody has removed it", segment.path.name)  # noqa: TRY400
        except OSError as error:
            logger.warning("a segment of the spool cannot be sealed yet: %s", error.strerror)
            return
        with self._lock:
            self._unsealed.remove(segment)
            self._sealed_sizes[sealed] = segment.size_bytes
        os.close(segment.descriptor)

    def _forget_what_is_gone(self) -> None:
        """Count no more what another gateway on this folder has shipped."""
        here = set(self.sealed())
        with self._lock:
            for path in [path for path in self._sealed_sizes if path not in here]:
                self._num_bytes -= self._sealed_sizes.pop(path)

    def sealed(self) -> list[Path]:
        """Return the segments to ship, oldest first."""
        return sorted(self._folder.glob(f"*{SEALED}"))

    def remove(self, segment: Path) -> None:
        """Forget a shipped segment."""
        segment.unlink(missing_ok=True)
        with self._lock:
            self._num_bytes -= self._sealed_sizes.pop(segment, 0)

    def _write(self, data: bytes) -> _Segment:
        """Append whole or not at all: a short write (full disk) is taken back."""
        segment = self._open = self._open or self._begin()
        try:
            written = os.write(segment.descriptor, data)
            while written < len(data):
                written += os.write(segment.descriptor, data[written:])
        except OSError:
            self._take_back(segment)
            raise
        segment.size_bytes += len(data)
        self._num_bytes += len(data)
        return segment

    def _set_aside(self, segment: _Segment) -> None:
        self._unsealed.append(segment)
        self._open = None

    def _take_back(self, segment: _Segment) -> None:
        """Cut half a record off; where that fails too, nothing may follow it in this segment."""
        try:
            os.ftruncate(segment.descriptor, segment.size_bytes)
        except OSError as error:
            logger.warning("the segment is given up: %s", error.strerror)
            self._give_up(segment)

    def _give_up(self, segment: _Segment) -> None:
        """Close a segment with a torn end: what stands before it is shipped, as after a kill."""
        self._open = None
        sealed = segment.path.with_suffix(SEALED)
        with contextlib.suppress(OSError):
            os.close(segment.descriptor)
        with contextlib.suppress(OSError):
            segment.path.rename(sealed)
            self._sealed_sizes[sealed] = sealed.stat().st_size
            self._num_bytes += self._sealed_sizes[sealed] - segment.size_bytes
        logger.warning("%d bytes of whole records stand in it", segment.size_bytes)

    def _begin(self) -> _Segment:
        names = [path.name.partition("-")[0] for path in self._folder.glob("*-*.*")]
        last = max([self._sequence, *(int(name) for name in names if name.isdigit())])
        self._sequence = last + 1
        path = self._folder / f"{self._sequence:012d}-{os.getpid()}{OPEN}"
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL
        descriptor = os.open(path, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # a file system without locks
            os.close(descriptor)
            path.unlink()
            raise
        return _Segment(descriptor, path)

    def _adopt_left_over(self) -> None:
        """Seal what a killed gateway left open, without the record it was writing when it died."""
        for path in sorted(self._folder.glob(f"*{OPEN}")):
            with contextlib.suppress(FileNotFoundError), path.open("r+b") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                whole = _whole_bytes(file.read(), name=path.name)
                file.truncate(whole)
                os.fsync(file.fileno())
                if whole:
                    path.rename(path.with_suffix(SEALED))
                else:
                    path.unlink()


def _whole_bytes(data: bytes, *, name: str) -> int:
    """Return where the whole records end; a record of another format is kept, for whoever looks into it."""
    try:
        return max((end for _, end in read_records(data)), default=0)
    except (ValueError, TypeError, KeyError) as error:
        logger.error("segment %s has a record of another format: %s", name, error)  # noqa: TRY400
        return len(data)
