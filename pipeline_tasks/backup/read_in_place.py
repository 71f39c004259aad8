"""A backup read in place: its catalog in a file, its objects by their keys. Nothing is restored and nothing runs."""

from __future__ import annotations

import datetime as dt
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline_tasks.backup.repository import BackupRepository, Blob
from pipeline_tasks.catalog import migrate
from pipeline_tasks.catalog.database import Database, create_engine
from pipeline_tasks.contracts import Location
from pipeline_tasks.core.object_keys import check_digest
from pipeline_tasks.core.ports import ObjectInfo


class BackupStore:
    """The objects of a backup, to be read."""

    def __init__(self, repository: BackupRepository, manifest: Mapping[str, Any]) -> None:
        self._repository = repository
        self._rows = {row["key"]: row for row in repository.json_lines(Blob(**manifest["objects"]))}
        self._at = dt.datetime.fromisoformat(manifest["created_at"])

    def get(self, key: str) -> bytes:
        data = self._path(key).read_bytes()
        check_digest(key, data)
        return data

    def get_range(self, location: Location) -> bytes:
        return self.get(location.object_key)[location.offset : location.offset + location.size_bytes]

    def get_file(self, key: str, path: Path) -> None:
        shutil.copyfile(self._path(key), path)

    def exists(self, key: str) -> bool:
        return key in self._rows

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        for key in sorted(key for key in self._rows if key.startswith(prefix)):
            yield ObjectInfo(key, self._rows[key]["size_bytes"], self._rows[key]["etag"], self._at)

    def put(self, key: str, data: bytes, *, content_type: str = "") -> None:
        raise NotImplementedError(f"a backup is only read (got {len(data)} bytes of {content_type} for {key}).")

    def put_file(self, key: str, path: Path, *, content_type: str = "") -> None:
        raise NotImplementedError(f"a backup is only read (got {path} of {content_type} for {key}).")

    def create(self, key: str, data: bytes, *, content_type: str = "") -> bool:
        raise NotImplementedError(f"a backup is only read (got {len(data)} bytes of {content_type} for {key}).")

    def delete(self, keys: Iterable[str]) -> None:
        raise NotImplementedError(f"a backup is only read (got {keys} to delete).")

    def _path(self, key: str) -> Path:
        path = self._repository.path_of(self._rows[key]["sha256"])
        if not path.is_file():
            raise KeyError(key)
        return path


@contextmanager
def open_catalog(repository: BackupRepository, manifest: Mapping[str, Any]) -> Iterator[Database]:
    """Give a copy of a backup's catalog, in this version's schema.

    Raises:
        DataCorrupt: its bytes are not those that were written.
        PermanentError: a newer Dethrone wrote it.
    """
    repository.check([Blob(**manifest["catalog"])])
    with tempfile.TemporaryDirectory(prefix="dethrone-verify-") as folder:
        work = Path(folder) / "catalog.db"
        shutil.copyfile(repository.path_of(manifest["catalog"]["sha256"]), work)
        migrate.upgrade(f"sqlite:///{work}")
        engine = create_engine(f"sqlite:///{work}")
        try:
            yield Database(engine)
        finally:
            engine.dispose()
