"""Compares training items with the exam: fingerprints from the object store, computed once per item, then pairs.

What is computed is stored in parts as it comes, below `parts/<subject>/`, so that a retry goes on where the last
attempt ended; once the subject's own file is there the parts are removed.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_tasks.contracts import ExamRef, Leak, Location, SnapshotRef, content_id, sha256_hex
from pipeline_tasks.core.crash_points import crash_point
from pipeline_tasks.core.ports import ObjectStore
from pipeline_tasks.errors import DataCorrupt
from pipeline_tasks.ingest.item_reader import map_items
from pipeline_tasks.project.schema import LoadedProject
from pipeline_tasks.validation import fingerprints as fp
from pipeline_tasks.validation import manifest, near_duplicates
from pipeline_tasks.validation.exam_groups import exam_groups as groups_of

_log = logging.getLogger(__name__)
PARQUET = "application/vnd.apache.parquet"
PART_ITEMS = 5_000  # 1.5 MB; seconds of computing for small photos, minutes for large ones
TRAINING = "training"  # the subject of a snapshot in the making, whose id is not known yet
READ_AT_ONCE = 10_000
_NONE = fp.SCHEMA.empty_table()
Seen = TypeVar("Seen")


@dataclasses.dataclass(frozen=True, slots=True)
class ExamComparison:
    """Training items that are near duplicates of exam items, each with its likest, and all their fingerprints."""

    leaks: tuple[Leak, ...] = ()
    values: pa.Table = dataclasses.field(default_factory=fp.SCHEMA.empty_table)

    @property
    def num_not_compared(self) -> int:
        """The number of training items with nothing to compare: unreadable, or an image of one colour."""
        return int(self.values["fingerprint"].null_count)


class Place(NamedTuple):
    """The place of an item's bytes, and their SHA-256."""

    location: Location
    content_id: str


def places_of(columns: Mapping[str, Sequence[Any]]) -> dict[str, Place]:
    """Return where each item of a few columns lies, and what its bytes hash to."""
    names = ("item_id", "object_key", "offset", "size_bytes")
    rows = zip(*(columns[name] for name in names), columns.get("content_id", columns["item_id"]), strict=True)
    return {item_id: Place(Location(*where), content) for item_id, *where, content in rows}


def looked_at(store: ObjectStore, places: Mapping[str, Place], look: Callable[[str, bytes], Seen]) -> Iterator[Seen]:
    """Yield `look(item id, bytes)` of each item, object after object; raises DataCorrupt when one is gone."""
    return map_items(store, ((item_id, place.location) for item_id, place in places.items()), look)


def compare_with_exams(
    project: LoadedProject,
    trained: pa.Table,
    exams: Iterable[ExamRef],
    *,
    known: Iterable[SnapshotRef],
    store: ObjectStore,
) -> ExamComparison:
    """Return which training items (manifest.places) have the content of an item of an exam, or are all but one.

    The fingerprints of `known` snapshots, and of an attempt that did not get to its end, are taken over. Items that
    are in an exam themselves are not compared here.

    Raises:
        DataCorrupt: an item's bytes, or an exam, are missing or changed.
    """
    exam_places = _exam_places(store, exams)
    equal = [leak for leak in _equal(exam_places, trained) if leak.item_id != leak.trained_item_id]
    if project.config.gate.exam.near_duplicates.policy == "off":
        return ExamComparison(tuple(near_duplicates.best_by_trained_item(equal)))
    stored = (_stored(project, subject, store=store) for subject in {ref.snapshot_id: ref for ref in known})
    values = _complete(project, TRAINING, trained, known=stored, store=store)
    exam_values = _exam_values(project, exam_places, store=store)
    leaks = equal + _near(project, exam_values, values, places=[trained, *exam_places.values()], store=store)
    return ExamComparison(tuple(near_duplicates.best_by_trained_item(leaks)), values)


def keep_fingerprints(project: LoadedProject, subject: str, values: pa.Table, *, store: ObjectStore) -> None:
    """Write the fingerprints of a snapshot or an exam, unless they lie there already."""
    key = fingerprints_key(project, subject)
    if not values.num_rows or store.exists(key):
        return
    crash_point("fingerprints.put.before")
    store.create(key, fp.to_parquet(values), content_type=PARQUET)
    crash_point("fingerprints.put.after")


def forget_parts(project: LoadedProject, subject: str = TRAINING, *, store: ObjectStore) -> None:
    """Remove the parts of a subject whose own file is stored and, for a snapshot, recorded: later runs read that."""
    store.delete([info.key for info in store.list(_parts_prefix(project, subject))])
    crash_point("fingerprints.put.recorded")


def find_leaks(
    project: LoadedProject, snapshot: SnapshotRef, exams: Sequence[ExamRef], *, store: ObjectStore
) -> list[Leak]:
    """Return the exam items that a snapshot holds, exactly or nearly, each with the likest training item.

    Raises:
        DataCorrupt: a manifest, an exam or an item's bytes are missing or changed.
    """
    trained = manifest.read_places(store, snapshot.object_key)
    exam_places = _exam_places(store, exams)
    leaks = _equal(exam_places, trained)
    if project.config.gate.exam.near_duplicates.policy != "off":
        values = _values_of(project, snapshot.snapshot_id, trained, store=store)
        exam_values = _exam_values(project, exam_places, store=store)
        leaks += _near(project, exam_values, values, places=[trained, *exam_places.values()], store=store)
    return near_duplicates.best_by_exam_item(leaks)


def exam_groups(project: LoadedProject, exam: ExamRef, *, store: ObjectStore) -> dict[str, str]:
    """Return the group of each item of an exam, by item id: of one group key, or near duplicates of one another.

    Raises:
        DataCorrupt: the exam or an item's bytes are missing or changed.
    """
    keys = manifest.read(store, exam.object_key, columns=("item_id", "group_key"))
    group_keys = dict(zip(keys["item_id"].to_pylist(), keys["group_key"].to_pylist(), strict=True))
    settings, modality = project.config.gate.exam.near_duplicates, project.config.modality
    places = _exam_places(store, [exam])
    values = _NONE if settings.policy == "off" else _exam_values(project, places, store=store)
    return groups_of(
        group_keys,
        fp.pack(values, modality=modality),
        modality=modality,
        settings=settings,
        read=lambda item_ids: _read(store, [*places.values()], item_ids),
    )


def fingerprints_key(project: LoadedProject, subject: str) -> str:
    """Return where the fingerprints of a snapshot or an exam lie."""
    columns = fp.RowColumns.of(project.config)
    kind = fp.kind(project.config.modality, project.config.gate.exam.near_duplicates, columns)
    return f"fingerprints/{project.name}/{kind}/{subject}.parquet"


def _near(
    project: LoadedProject,
    exam_values: pa.Table,
    values: pa.Table,
    *,
    places: Sequence[pa.Table],
    store: ObjectStore,
) -> list[Leak]:
    config = project.config
    return near_duplicates.near_leaks(
        fp.pack(exam_values, modality=config.modality),
        fp.pack(values, modality=config.modality),
        modality=config.modality,
        settings=config.gate.exam.near_duplicates,
        read=lambda item_ids: _read(store, places, item_ids),
    )


def _equal(exams: Mapping[str, pa.Table], trained: pa.Table) -> list[Leak]:
    """Return each exam item whose content is trained on, with the training items that have it."""
    exam: dict[str, str] = {}
    for places in exams.values():
        exam |= _contents(places)
    ids, contents = (pa.array(sorted(keys), pa.string()) for keys in (exam, set(exam.values())))
    same = pc.or_(pc.is_in(trained["content_id"], contents), pc.is_in(trained["item_id"], ids))
    return near_duplicates.exact_leaks(exam, _contents(trained.filter(same)))


def _contents(places: pa.Table) -> dict[str, str]:
    return dict(zip(places["item_id"].to_pylist(), places["content_id"].to_pylist(), strict=True))


def _exam_values(project: LoadedProject, exams: Mapping[str, pa.Table], *, store: ObjectStore) -> pa.Table:
    tables = [_values_of(project, exam_id, places, store=store) for exam_id, places in exams.items()]
    joined = pa.concat_tables([_NONE, *tables])
    return fp.select(joined, pa.chunked_array([joined["item_id"].unique()]))


def _values_of(project: LoadedProject, subject: str, places: pa.Table, *, store: ObjectStore) -> pa.Table:
    """Return the fingerprints of a snapshot's or an exam's items, from the store or computed and stored."""
    known = (_stored(project, subject, store=store) for _ in range(1))
    values = _complete(project, subject, places, known=known, store=store)
    keep_fingerprints(project, subject, values, store=store)
    forget_parts(project, subject, store=store)
    return values


def _complete(
    project: LoadedProject, subject: str, places: pa.Table, *, known: Iterable[pa.Table], store: ObjectStore
) -> pa.Table:
    """Return the fingerprints of all these items; what is neither known nor in a part is computed and kept in parts."""
    gathered = fp.Gathered(places["item_id"], modality=project.config.modality)
    for stored in known:
        if stored["item_id"].equals(places["item_id"]):
            return pa.table([places["item_id"], stored["fingerprint"]], schema=fp.SCHEMA)
        gathered.take_over(stored)
    if len(gathered.missing()):
        gathered.take_over(pa.concat_tables([_NONE, *_parts(project, subject, store=store)]))
    missing_n, num_computed = gathered.missing(), 0
    if len(missing_n):
        _log.info("computing %d of %d fingerprints of %s", len(missing_n), places.num_rows, project.name)
    computed = _computed(project, places, missing_n, store=store)
    while some := list(islice(computed, PART_ITEMS)):
        _keep_part(project, subject, {item_id: value for _, item_id, value in some}, store=store)
        for row, _, value in some:
            gathered.put(row, value)
        num_computed += len(some)
        _log.info("%d of %d fingerprints of %s computed", num_computed, len(missing_n), project.name)
    return gathered.table()


def _computed(
    project: LoadedProject, places: pa.Table, rows_n: npt.NDArray[np.int64], *, store: ObjectStore
) -> Iterator[tuple[int, str, bytes | None]]:
    """Yield (row, item id, fingerprint) of some rows, object after object."""
    config = project.config
    digits = config.gate.exam.near_duplicates.significant_digits
    columns = fp.RowColumns.of(config)
    for some_n in _whole_objects(places, rows_n):
        by_id = places_of(places.take(pa.array(some_n)).to_pydict())
        row_of = dict(zip(by_id, some_n.tolist(), strict=True))

        def look(item_id: str, data: bytes, by_id: Mapping[str, Place] = by_id) -> tuple[str, bytes | None]:
            data = _checked(item_id, data, by_id)
            limits = {"max_pixels": config.checks.max_pixels, "digits": digits}
            return item_id, fp.fingerprint(data, modality=config.modality, columns=columns, **limits)

        for item_id, value in looked_at(store, by_id, look):
            yield row_of[item_id], item_id, value


def _whole_objects(places: pa.Table, rows_n: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
    """Yield some rows object after object, as they come first, at least READ_AT_ONCE at a time but for the last."""
    chunks = places["object_key"].unify_dictionaries().chunks
    codes_n = np.concatenate([np.empty(0, dtype=np.int32), *(chunk.indices.to_numpy() for chunk in chunks)])
    order_n = rows_n[np.argsort(codes_n[rows_n], kind="stable")]
    ends = [*np.flatnonzero(np.diff(codes_n[order_n])) + 1, len(order_n)]
    start = 0
    for end in ends:
        if end > start and (end - start >= READ_AT_ONCE or end == len(order_n)):
            yield order_n[start:end]
            start = end


def _keep_part(project: LoadedProject, subject: str, values: Mapping[str, bytes | None], *, store: ObjectStore) -> None:
    """Store a part under the hash of its item ids, so that whoever computes the same items writes the same object."""
    part = fp.as_table(values).sort_by("item_id")
    key = f"{_parts_prefix(project, subject)}{content_id(part['item_id'].to_pylist())}.parquet"
    crash_point("fingerprints.part.before")
    store.create(key, fp.to_parquet(part), content_type=PARQUET)
    crash_point("fingerprints.part.after")


def _parts(project: LoadedProject, subject: str, *, store: ObjectStore) -> list[pa.Table]:
    prefix = _parts_prefix(project, subject)
    return [_fingerprints_at(project, info.key, store=store) for info in store.list(prefix)]


def _parts_prefix(project: LoadedProject, subject: str) -> str:
    return f"{fingerprints_key(project, f'parts/{subject}').removesuffix('.parquet')}/"


def _stored(project: LoadedProject, subject: str, *, store: ObjectStore) -> pa.Table:
    return _fingerprints_at(project, fingerprints_key(project, subject), store=store)


def _fingerprints_at(project: LoadedProject, key: str, *, store: ObjectStore) -> pa.Table:
    """Return the fingerprints that lie there: none where there is no file."""
    try:
        data = store.get(key)
    except KeyError:
        return _NONE
    return fp.from_parquet(data, object_key=key, modality=project.config.modality)


def _read(store: ObjectStore, places: Iterable[pa.Table], item_ids: Collection[str]) -> dict[str, bytes]:
    wanted = pa.array(sorted(item_ids), pa.string())
    by_id: dict[str, Place] = {}
    for table in places:
        by_id |= places_of(table.filter(pc.is_in(table["item_id"], wanted)).to_pydict())
    return dict(looked_at(store, by_id, lambda item_id, data: (item_id, _checked(item_id, data, by_id))))


def _checked(item_id: str, data: bytes, places: Mapping[str, Place]) -> bytes:
    digests, wanted = sha256_hex(data), places[item_id].content_id
    if digests != wanted:
        raise DataCorrupt(f"item {item_id} must have bytes that hash to {wanted} (got {digests}). Restore a backup.")
    return data


def _exam_places(store: ObjectStore, exams: Iterable[ExamRef]) -> dict[str, pa.Table]:
    """Return where each exam's items lie (manifest.places), by exam id."""
    return {exam.exam_id: manifest.read_places(store, exam.object_key) for exam in exams}
