"""Back an installation up while it runs, and restore it where there is nothing yet.

Order makes it consistent without stopping anything. The catalog comes first: all that it names was in the object store
before its row was, and objects never change. Label Studio, the gateway's waiting predictions and its spool follow, the
objects come last: what was shipped from the spool meanwhile is among them. So a backup is what a power cut at the
moment of the catalog's copy would leave, plus some things that nothing refers to yet, and the loop is built to go on
from there.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from pipeline_tasks.backup import catalog_copy, home_files
from pipeline_tasks.backup.repository import BackupRepository, Blob
from pipeline_tasks.catalog.database import Database, create_engine
from pipeline_tasks.catalog.ledger_repository import LedgerRepository
from pipeline_tasks.core.crash_points import crash_point
from pipeline_tasks.core.object_keys import digest_in_key
from pipeline_tasks.core.ports import ObjectInfo, ObjectStore
from pipeline_tasks.errors import ConfigError, DataCorrupt
from pipeline_tasks.invariants import check

PARALLEL = 8
NUM_NAMED = 10
CONTENT_TYPES = {
    ".json": "application/json",
    ".html": "text/html; charset=utf-8",
    ".parquet": "application/vnd.apache.parquet",
}


class LabelingDatabase(Protocol):
    """Label Studio's own database where it is not a file of the home folder."""

    def dump(self, path: Path) -> None: ...
    def load(self, path: Path) -> None: ...
    def is_empty(self) -> bool: ...


@dataclasses.dataclass(frozen=True, slots=True)
class BackupReport:
    """Contents of a backup; `num_new_objects` were not in the folder before, `violations` were broken already."""

    name: str
    num_rows: int
    num_files: int
    num_objects: int
    num_new_objects: int
    size_bytes: int
    with_secrets: bool
    violations: tuple[str, ...] = ()


def backup(
    repository: BackupRepository,
    *,
    home_dir: Path,
    projects_dir: Path,
    catalog_url: str,
    store: ObjectStore,
    labeling: LabelingDatabase | None = None,
    with_secrets: bool,
    version: str,
    now: dt.datetime,
    reread: bool = False,
) -> BackupReport:
    """Write a backup beside those that the folder holds; what they hold already is not copied again.

    With `reread` the objects that the folder holds are read, and those whose bytes are others now are copied again;
    of everything else that is done anyway.

    Raises:
        PermanentError: the catalog's schema is not the one of this code.
        ServiceUnavailable: the object store or the catalog does not answer; the folder's backups are as they were.
    """
    known = _known_objects(repository)
    facts: dict[str, Any] = {}

    repository.remove_unfinished(now=now.timestamp())

    def dump(path: Path) -> None:
        path.unlink()
        facts["num_rows"] = catalog_copy.dump(catalog_url, path)
        facts["anchors"], facts["violations"] = _state(path, store, now=now)

    catalog = repository.add(dump)
    crash_point("backup.catalog.after")
    files = home_files.save_databases(home_dir, repository)
    if labeling is not None:
        files[home_files.LABEL_STUDIO_DUMP] = repository.add(labeling.dump)
    files |= home_files.save_files(home_dir, repository, with_secrets=with_secrets)
    projects = home_files.save_projects(projects_dir, repository)
    rows = list(
        _save_objects(store, known, repository=repository, is_there=repository.is_whole if reread else repository.holds)
    )
    objects = repository.add_json_lines(row for row, _new in rows)
    crash_point("backup.manifest.before")
    path = repository.write_manifest(
        f"{now:%Y%m%dT%H%M%SZ}",
        {
            "version": version,
            "created_at": now.isoformat(),
            "with_secrets": with_secrets,
            **facts,
            "catalog": dataclasses.asdict(catalog),
            "objects": dataclasses.asdict(objects),
            "home": {name: dataclasses.asdict(blob) for name, blob in sorted(files.items())},
            "projects": {name: dataclasses.asdict(blob) for name, blob in sorted(projects.items())},
        },
    )
    crash_point("backup.manifest.recorded")
    blobs = [catalog, *files.values(), *projects.values()]
    return BackupReport(
        name=path.stem,
        num_rows=facts["num_rows"],
        num_files=len(files) + len(projects),
        num_objects=len(rows),
        num_new_objects=sum(new for _row, new in rows),
        size_bytes=sum(blob.size_bytes for blob in blobs) + sum(int(row["size_bytes"]) for row, _new in rows),
        with_secrets=with_secrets,
        violations=tuple(facts["violations"]),
    )


def _known_objects(repository: BackupRepository) -> dict[tuple[str, str, int], str]:
    """Return the digests of the newest backup's objects, by what a listing says; none from a damaged list."""
    blob = Blob(**repository.manifest()["objects"]) if repository.manifest_names() else None
    if blob is None or not repository.is_whole(blob):
        return {}
    rows = repository.json_lines(blob)
    return {(row["key"], row["etag"], row["size_bytes"]): row["sha256"] for row in rows}


def _save_objects(
    store: ObjectStore,
    known: Mapping[tuple[str, str, int], str],
    *,
    repository: BackupRepository,
    is_there: Callable[[Blob], bool],
) -> Iterator[tuple[dict[str, Any], bool]]:
    def save(info: ObjectInfo) -> tuple[dict[str, Any], bool] | None:
        sha256 = digest_in_key(info.key) or known.get((info.key, info.etag, info.size_bytes))
        blob = Blob(sha256, info.size_bytes) if sha256 else None
        new = blob is None or not is_there(blob)
        if blob is None or new:
            try:
                blob = repository.add(lambda work: store.get_file(info.key, work))
            except KeyError:  # removed since it was listed: a working file; what a row names is never removed
                return None
        return {"key": info.key, "etag": info.etag, **dataclasses.asdict(blob)}, new

    with ThreadPoolExecutor(PARALLEL) as pool:
        yield from (saved for saved in pool.map(save, store.list("")) if saved is not None)


def _state(catalog: Path, store: ObjectStore, *, now: dt.datetime) -> tuple[dict[str, list[Any]], list[str]]:
    """Return the head of each project's ledger, and which invariants are broken: what a restored one must equal."""
    engine = create_engine(f"sqlite:///{catalog}")
    try:
        database = Database(engine)
        ledger = LedgerRepository(database)
        heads = {project: ledger.head(project) for project in ledger.projects()}
        anchors = {project: [head.sequence, head.entry_hash] for project, head in heads.items() if head}
        return anchors, [str(violation) for violation in check.check(database, store, now=now)]
    finally:
        engine.dispose()


def blobs_of(manifest: Mapping[str, Any], repository: BackupRepository) -> list[Blob]:
    """Return every file that a backup is made of."""
    objects = Blob(**manifest["objects"])
    repository.check([objects])
    files = [Blob(**entry) for part in ("home", "projects") for entry in manifest[part].values()]
    stored = [Blob(row["sha256"], row["size_bytes"]) for row in repository.json_lines(objects)]
    return [Blob(**manifest["catalog"]), objects, *files, *stored]


def files_of(manifest: Mapping[str, Any], part: str) -> dict[str, Blob]:
    """Return one part's files by their path.

    Raises:
        DataCorrupt: a path leads elsewhere than this version writes; nobody hashed the manifest that names it.
    """
    foreign = [name for name in manifest[part] if not home_files.is_ours(name, part)]
    if foreign:
        raise DataCorrupt(
            f"every path in the backup must lie inside of the folder it comes back to (got {foreign[0]!r} in {part}). "
            "Somebody changed the manifest: use another copy of the folder, or an older backup."
        )
    return {name: Blob(**entry) for name, entry in manifest[part].items()}


def require_empty_store(store: ObjectStore, repository: BackupRepository, manifest: Mapping[str, Any]) -> None:
    """Raise ConfigError if the bucket holds what this backup does not: a restore never mixes two installations."""
    wanted = {row["key"] for row in repository.json_lines(Blob(**manifest["objects"]))}
    foreign = [info.key for info in store.list("") if info.key not in wanted and not info.key.startswith("self-test/")]
    if foreign:
        raise ConfigError(
            f"the bucket must be empty (got {len(foreign)} objects that the backup does not hold: "
            f"{', '.join(foreign[:NUM_NAMED])}). Restore into a new bucket: DETHRONE_S3_BUCKET."
        )


def restore_objects(repository: BackupRepository, manifest: Mapping[str, Any], *, store: ObjectStore) -> int:
    """Write every object back under its key and return how many; again changes nothing."""

    def put(row: Mapping[str, Any]) -> None:
        content_type = CONTENT_TYPES.get(Path(row["key"]).suffix, "application/octet-stream")
        store.put_file(row["key"], repository.path_of(row["sha256"]), content_type=content_type)

    rows = repository.json_lines(Blob(**manifest["objects"]))
    with ThreadPoolExecutor(PARALLEL) as pool:
        return sum(1 for _ in pool.map(put, rows))


def restore_catalog(repository: BackupRepository, manifest: Mapping[str, Any], *, catalog_url: str) -> int:
    """Write the catalog's rows into an empty catalog and return how many."""
    with tempfile.TemporaryDirectory(prefix="dethrone-restore-") as folder:
        work = Path(folder) / "catalog.db"
        shutil.copyfile(repository.path_of(manifest["catalog"]["sha256"]), work)
        return catalog_copy.load(work, catalog_url)
