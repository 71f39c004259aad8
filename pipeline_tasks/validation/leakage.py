"""Compares training items with the exam: fingerprints from the object store, computed once per item, then pairs.

What is computed is stored in parts as it comes, below `parts/<subject>/`, so that a retry goes on where the last
attempt ended; once the subject's own file is there the parts are removed.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import pyarrow as pa

from pipeline_tasks.contracts import ExamRef, Leak, Location, SnapshotRef, content_id, sha256_hex
from pipeline_tasks.errors import DataCorrupt
from pipeline_tasks.faults import crash_point
from pipeline_tasks.ports import ObjectStore
from pipeline_tasks.project import LoadedProject
from pipeline_tasks.validation import fingerprints as fp
from pipeline_tasks.validation import manifest, near_duplicates
from pipeline_tasks.validation.item_bytes import Place, map_items

_log = logging.getLogger(__name__)
PARQUET = "application/vnd.apache.parquet"
PART_ITEMS = 5_000  # 1.5 MB; seconds of computing for small photos, minutes for large ones
TRAINING = "training"  # the subject of a snapshot in the making, whose id is not known yet
Places = Mapping[str, Place]
Values = dict[str, bytes | None]


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    """Training items that are near duplicates of exam items, each with its likest, and all their fingerprints."""

    leaks: tuple[Leak, ...] = ()
    values: Mapping[str, bytes | None] = dataclasses.field(default_factory=dict)

    @property
    def num_not_compared(self) -> int:
        """How many training items have nothing to compare: unreadable, or an image of one colour."""
        return sum(value is None for value in self.values.values())


def places_of(columns: Mapping[str, Sequence[Any]] | pa.Table) -> dict[str, Place]:
    """Return where each item of a manifest, or of its columns, lies, and what its bytes hash to."""
    names = ["item_id", "object_key", "offset", "size_bytes"]
    if isinstance(columns, pa.Table):
        contents: Sequence[str] = manifest.content_ids(columns)
        columns = columns.select(names).to_pydict()
    else:
        contents = columns.get("content_id", columns["item_id"])
    rows = zip(*(columns[name] for name in names), contents, strict=True)
    return {item_id: Place(Location(*where), content) for item_id, *where, content in rows}


def compare_with_exams(
    project: LoadedProject,
    trained: Places,
    exams: Iterable[ExamRef],
    *,
    known: Iterable[SnapshotRef],
    store: ObjectStore,
) -> Comparison:
    """Return which training items have the content of an item of any of the exams, or are near duplicates of one.

    The fingerprints of `known` snapshots, and of an attempt that did not get to its end, are taken over. Items that
    are in an exam themselves are not compared here.

    Raises:
        DataCorrupt: an item's bytes, or an exam, are missing or changed.
    """
    exam_places = _exam_places(store, exams)
    equal = [leak for leak in _equal(exam_places, trained) if leak.item_id != leak.trained_item_id]
    if project.config.gate.exam.near_duplicates.policy == "off":
        return Comparison(tuple(near_duplicates.best_by_trained_item(equal)))
    values: Values = {}
    for ref in known:
        values |= _stored(project, ref.snapshot_id, store=store) or {}
    values = _complete(project, TRAINING, trained, known=values, store=store)
    exam_values = _exam_values(project, exam_places, store=store)
    leaks = equal + _near(project, exam_values, values, places=_joined(trained, exam_places), store=store)
    return Comparison(tuple(near_duplicates.best_by_trained_item(leaks)), values)


def keep_fingerprints(
    project: LoadedProject,
    subject: str,
    values: Mapping[str, bytes | None],
    *,
    item_ids: Sequence[str],
    store: ObjectStore,
) -> None:
    """Write the fingerprints of a snapshot or an exam, unless they lie there already."""
    key = fingerprints_key(project, subject)
    if not values or store.exists(key):
        return
    crash_point("fingerprints.put.before")
    store.create(key, fp.to_parquet(values, item_ids=item_ids), content_type=PARQUET)
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
    trained = places_of(manifest.read(store, snapshot.object_key))
    exam_places = _exam_places(store, exams)
    leaks = _equal(exam_places, trained)
    if project.config.gate.exam.near_duplicates.policy != "off":
        values = _values_of(project, snapshot.snapshot_id, trained, store=store)
        exam_values = _exam_values(project, exam_places, store=store)
        leaks += _near(project, exam_values, values, places=_joined(trained, exam_places), store=store)
    return near_duplicates.best_by_exam_item(leaks)


def fingerprints_key(project: LoadedProject, subject: str) -> str:
    """Return where the fingerprints of a snapshot or an exam lie."""
    kind = fp.kind(project.config.modality, project.config.gate.exam.near_duplicates)
    return f"fingerprints/{project.name}/{kind}/{subject}.parquet"


def _near(
    project: LoadedProject,
    exam_values: Mapping[str, bytes | None],
    values: Mapping[str, bytes | None],
    *,
    places: Places,
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


def _equal(exams: Mapping[str, Places], trained: Places) -> list[Leak]:
    """Return each exam item whose content is trained on, with the training items that have it."""
    contents = ({item_id: place.content_id for item_id, place in one.items()} for one in (_joined({}, exams), trained))
    return near_duplicates.exact_leaks(*contents)


def _exam_values(project: LoadedProject, exams: Mapping[str, Places], *, store: ObjectStore) -> Values:
    values: Values = {}
    for exam_id, places in exams.items():
        values |= _values_of(project, exam_id, places, store=store)
    return values


def _joined(trained: Places, exams: Mapping[str, Places]) -> dict[str, Place]:
    joined = dict(trained)
    for places in exams.values():
        joined |= places
    return joined


def _values_of(project: LoadedProject, subject: str, places: Places, *, store: ObjectStore) -> Values:
    """Return the fingerprints of a snapshot's or an exam's items, from the store or computed and stored."""
    known = _stored(project, subject, store=store) or {}
    values = _complete(project, subject, places, known=known, store=store)
    keep_fingerprints(project, subject, values, item_ids=sorted(places), store=store)
    forget_parts(project, subject, store=store)
    return values


def _complete(project: LoadedProject, subject: str, places: Places, *, known: Values, store: ObjectStore) -> Values:
    """Return the fingerprints of all these items; what is neither known nor in a part is computed and kept in parts."""
    if not places.keys() <= known.keys():
        known = known | _parts(project, subject, store=store)
    missing = [(item_id, place) for item_id, place in places.items() if item_id not in known]
    if missing:
        _log.info("computing %d of %d fingerprints of %s", len(missing), len(places), project.name)
    computed: Values = {}
    for part in _in_parts(_computed(project, missing, store=store)):
        _keep_part(project, subject, part, store=store)
        computed |= part
        _log.info("%d of %d fingerprints of %s computed", len(computed), len(missing), project.name)
    return {item_id: computed[item_id] if item_id in computed else known[item_id] for item_id in places}


def _computed(
    project: LoadedProject, places: Sequence[tuple[str, Place]], *, store: ObjectStore
) -> Iterable[tuple[str, bytes | None]]:
    config = project.config
    digits = config.gate.exam.near_duplicates.significant_digits
    by_id = dict(places)

    def look(item_id: str, data: bytes) -> tuple[str, bytes | None]:
        value = fp.fingerprint(
            _checked(item_id, data, by_id), modality=config.modality, max_pixels=config.checks.max_pixels, digits=digits
        )
        return item_id, value

    return _mapped(store, places, look)


def _in_parts(pairs: Iterable[tuple[str, bytes | None]]) -> Iterator[Values]:
    waiting = iter(pairs)
    while part := dict(islice(waiting, PART_ITEMS)):
        yield part


def _keep_part(project: LoadedProject, subject: str, part: Values, *, store: ObjectStore) -> None:
    """Store a part under the hash of its item ids, so that whoever computes the same items writes the same object."""
    item_ids = sorted(part)
    key = f"{_parts_prefix(project, subject)}{content_id(item_ids)}.parquet"
    crash_point("fingerprints.part.before")
    store.create(key, fp.to_parquet(part, item_ids=item_ids), content_type=PARQUET)
    crash_point("fingerprints.part.after")


def _parts(project: LoadedProject, subject: str, *, store: ObjectStore) -> Values:
    values: Values = {}
    for info in store.list(_parts_prefix(project, subject)):
        values |= _fingerprints_at(project, info.key, store=store) or {}
    return values


def _parts_prefix(project: LoadedProject, subject: str) -> str:
    return f"{fingerprints_key(project, f'parts/{subject}').removesuffix('.parquet')}/"


def _stored(project: LoadedProject, subject: str, *, store: ObjectStore) -> Values | None:
    return _fingerprints_at(project, fingerprints_key(project, subject), store=store)


def _fingerprints_at(project: LoadedProject, key: str, *, store: ObjectStore) -> Values | None:
    try:
        data = store.get(key)
    except KeyError:
        return None
    return fp.from_parquet(data, object_key=key, modality=project.config.modality)


def _read(store: ObjectStore, places: Places, item_ids: Collection[str]) -> dict[str, bytes]:
    wanted = [(item_id, places[item_id]) for item_id in sorted(item_ids)]
    return dict(_mapped(store, wanted, lambda item_id, data: (item_id, _checked(item_id, data, places))))


def _mapped(store: ObjectStore, places: Iterable[tuple[str, Place]], look: Any) -> Iterable[tuple[str, Any]]:
    try:
        yield from map_items(store, places, look)
    except KeyError as error:
        raise DataCorrupt(f"the object {error} must exist (got nothing). Restore it from a backup.") from error


def _checked(item_id: str, data: bytes, places: Places) -> bytes:
    found, wanted = sha256_hex(data), places[item_id].content_id
    if found != wanted:
        raise DataCorrupt(f"item {item_id} must have bytes that hash to {wanted} (got {found}). Restore a backup.")
    return data


def _exam_places(store: ObjectStore, exams: Iterable[ExamRef]) -> dict[str, dict[str, Place]]:
    """Return where each exam's items lie, by exam id."""
    return {exam.exam_id: places_of(manifest.read(store, exam.object_key)) for exam in exams}
