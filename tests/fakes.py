"""Hand-written fakes of the ports; the contract suites run on these and on the real adapters alike."""

from __future__ import annotations

import datetime as dt
import hashlib
import threading
import uuid
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, MutableMapping
from pathlib import Path
from urllib.parse import quote, unquote

from pipeline_tasks.contracts import Location
from pipeline_tasks.core.object_keys import check_digest, check_key
from pipeline_tasks.core.ports import ObjectInfo
from pipeline_tasks.errors import DataCorrupt

EPOCH = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


class FakeObjectStore:
    """An ObjectStore in memory.

    `calls` counts calls by method; `fail` plans errors: before the effect, or after it (answer lost).
    """

    def __init__(self, *, now: dt.datetime = EPOCH) -> None:
        self.objects: MutableMapping[str, bytes] = {}
        self.content_types: dict[str, str] = {}
        self.calls: dict[str, int] = defaultdict(int)
        self.now = now
        self._modified_at: dict[str, dt.datetime] = {}
        self._lock = threading.RLock()
        self._planned: dict[str, deque[tuple[Exception, bool]]] = defaultdict(deque)

    def fail(self, method: str, error: Exception, *, times: int = 1, after: bool = False) -> None:
        """Let the next `times` calls of a method raise; with `after`, when their effect has happened."""
        self._planned[method].extend([(error, after)] * times)

    def corrupt(self, key: str) -> None:
        """Flip one bit of a stored object, as a bad disk would."""
        data = self.objects[key]
        self.objects[key] = bytes([data[0] ^ 1]) + data[1:]

    def put(self, key: str, data: bytes, *, content_type: str = "application/octet-stream") -> None:
        with self._effect("put", key):
            check_digest(key, data)
            self._store(key, data, content_type)

    def put_file(self, key: str, path: Path, *, content_type: str = "application/octet-stream") -> None:
        with self._effect("put_file", key):
            data = path.read_bytes()
            check_digest(key, data)
            self._store(key, data, content_type)

    def create(self, key: str, data: bytes, *, content_type: str = "application/octet-stream") -> bool:
        with self._effect("create", key):
            check_digest(key, data)
            if key in self.objects:
                return self.objects[key] == data
            self._store(key, data, content_type)
            return True

    def get(self, key: str) -> bytes:
        with self._effect("get", key):
            data = self.objects[key]
            check_digest(key, data)
            return data

    def get_range(self, location: Location) -> bytes:
        with self._effect("get_range", location.object_key):
            data = self.objects[location.object_key][location.offset : location.offset + location.size_bytes]
            if len(data) != location.size_bytes:
                raise DataCorrupt(
                    f"{location.object_key} must hold {location.size_bytes} bytes at offset {location.offset} "
                    f"(got {len(data)})."
                )
            return data

    def get_file(self, key: str, path: Path) -> None:
        with self._effect("get_file", key):
            data = self.objects[key]
            check_digest(key, data)
            path.write_bytes(data)

    def exists(self, key: str) -> bool:
        with self._effect("exists", key):
            return key in self.objects

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        with self._effect("list"):
            keys = sorted((key for key in self.objects if key.startswith(prefix)), key=str.encode)
        for key in keys:
            data = self.objects[key]
            etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
            yield ObjectInfo(key=key, size_bytes=len(data), etag=etag, modified_at=self._modified_at.get(key, self.now))

    def delete(self, keys: Iterable[str]) -> None:
        with self._effect("delete"):
            for key in keys:
                self.objects.pop(check_key(key), None)

    def _store(self, key: str, data: bytes, content_type: str) -> None:
        self.objects[key] = bytes(data)
        self.content_types[key] = content_type
        self._modified_at[key] = self.now

    def _effect(self, method: str, key: str | None = None) -> _Effect:
        if key is not None:
            check_key(key)
        self.calls[method] += 1
        planned = self._planned[method]
        return _Effect(self._lock, planned.popleft() if planned else None)


class _Effect:
    """One call under the store's lock, with the error planned for it."""

    def __init__(self, lock: threading.RLock, planned: tuple[Exception, bool] | None) -> None:
        self._lock = lock
        self._planned = planned

    def __enter__(self) -> None:
        if self._planned is not None and not self._planned[1]:
            raise self._planned[0]
        self._lock.acquire()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._lock.release()
        if kind is None and self._planned is not None:
            raise self._planned[0]


class FolderObjectStore(FakeObjectStore):
    """The fake with its objects in a folder, for tests that kill the process which writes them."""

    def __init__(self, folder: Path, *, now: dt.datetime = EPOCH) -> None:
        super().__init__(now=now)
        self.objects = _Folder(folder)


class _Folder(MutableMapping[str, bytes]):
    """Object keys and bytes as files; each is written whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def _path(self, key: str) -> Path:
        return self._folder / quote(key, safe="")

    def __getitem__(self, key: str) -> bytes:
        try:
            return self._path(key).read_bytes()
        except FileNotFoundError:
            raise KeyError(key) from None

    def __setitem__(self, key: str, data: bytes) -> None:
        part = self._folder / f"{uuid.uuid4().hex}.part~"
        part.write_bytes(data)
        part.replace(self._path(key))

    def __delitem__(self, key: str) -> None:
        try:
            self._path(key).unlink()
        except FileNotFoundError:
            raise KeyError(key) from None

    def __iter__(self) -> Iterator[str]:
        return (unquote(path.name) for path in self._folder.iterdir() if not path.name.endswith(".part~"))

    def __len__(self) -> int:
        return sum(1 for _ in self)
