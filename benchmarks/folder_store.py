"""An object store in a folder: what lies in it is not in this process's memory, unlike in the tests' one."""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline_tasks.contracts import Location
from pipeline_tasks.core.ports import ObjectInfo

MODIFIED_AT = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


class FolderStore:
    """The port's methods on files below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def get(self, key: str) -> bytes:
        try:
            return (self.root / key).read_bytes()
        except FileNotFoundError:
            raise KeyError(key) from None

    def get_range(self, location: Location) -> bytes:
        with (self.root / location.object_key).open("rb") as file:
            file.seek(location.offset)
            return file.read(location.size_bytes)

    def get_file(self, key: str, path: Path) -> None:
        shutil.copyfile(self.root / key, path)

    def put(self, key: str, data: bytes, *, content_type: str = "") -> None:  # noqa: ARG002  (the port's)
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def put_file(self, key: str, path: Path, *, content_type: str = "") -> None:
        self.put(key, path.read_bytes(), content_type=content_type)

    def create(self, key: str, data: bytes, *, content_type: str = "") -> bool:
        if self.exists(key):
            return self.get(key) == data
        self.put(key, data, content_type=content_type)
        return True

    def exists(self, key: str) -> bool:
        return (self.root / key).exists()

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        for path in sorted((self.root / prefix).rglob("*")):
            if path.is_file():
                yield ObjectInfo(str(path.relative_to(self.root)), path.stat().st_size, "", MODIFIED_AT)

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            (self.root / key).unlink(missing_ok=True)
