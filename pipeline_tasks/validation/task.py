"""Checks what came in, and freezes labels into snapshots and exams.

Each effect is safe to repeat: objects are named by their content, catalog rows go in once, under the attempt's lease.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_checks.suites import EQUAL_TO_EXAM, NEAR_DUPLICATE_OF_EXAM
from pipeline_tasks.catalog.database import Database
from pipeline_tasks.catalog.datasets import DatasetRepository
from pipeline_tasks.catalog.exam_window import window
from pipeline_tasks.catalog.set_aside import SetAsideRepository
from pipeline_tasks.contracts import Attempt, CheckReport, ExamRef, Fence, SnapshotRef
from pipeline_tasks.core.crash_points import crash_point
from pipeline_tasks.core.ports import ObjectStore
from pipeline_tasks.errors import DataCorrupt, GateClosed
from pipeline_tasks.project.schema import SCHEMA_VERSION, LoadedProject
from pipeline_tasks.validation import check_tables, fingerprints, items, manifest
from pipeline_tasks.validation.after_alarm import AfterAlarm
from pipeline_tasks.validation.check_reports import CheckContext
from pipeline_tasks.validation.items import CHUNK_ROWS, items_check
from pipeline_tasks.validation.labeler_check import HELD_CODES
from pipeline_tasks.validation.leakage import ExamComparison, compare_with_exams, forget_parts, keep_fingerprints
from pipeline_tasks.validation.run_checks import (
    LABEL_STAGE,
    check_dataset,
    checked_items,
    checked_labels,
    rows_of,
    without,
)
from pipeline_tasks.validation.training_trigger import TrainDecision, count_new, enough_new_labels

_log = logging.getLogger(__name__)
PARQUET = "application/vnd.apache.parquet"
EXAM_TOO_SMALL = "EXAM_TOO_SMALL"
Window = Literal["all", "newest"]


def check_items(
    project: LoadedProject,
    batch_id: str,
    *,
    datasets: DatasetRepository,
    store: ObjectStore,
    docs_dir: Path,
    run_id: str,
    now: dt.datetime,
) -> CheckReport:
    """Check one ingested batch; failing items go to quarantine and are neither labeled nor trained on.

    Raises:
        GateClosed: a rule stops the run, or too great a share of the batch is bad.
    """
    return checked_items(
        project,
        batch_id,
        context=CheckContext(project.name, store, datasets, docs_dir, run_id, now, project.config.deny_list),
    )


def release_decodable(project: LoadedProject, *, set_aside: SetAsideRepository, store: ObjectStore) -> int:
    """Bring back the items that could not be decoded and can with today's recipe; return how many."""
    return items.release_decodable(project, repository=set_aside, store=store)


def build_snapshot(
    project: LoadedProject,
    *,
    datasets: DatasetRepository,
    store: ObjectStore,
    attempt: Attempt,
    database: Database,
    docs_dir: Path,
    run_id: str,
    now: dt.datetime,
    window: Window = "all",
) -> SnapshotRef:
    """Freeze the decided training labels as the next snapshot; the same labels give the same snapshot.

    Window `newest` takes only what the champion was not trained on.

    Raises:
        GateClosed: a check stops the run; no snapshot is recorded.
        StaleAttempt: a newer attempt is at work.
    """
    fence = database.acquire(f"snapshot/{project.name}", attempt, now=now)
    context = CheckContext(project.name, store, datasets, docs_dir, run_id, now, project.config.deny_list)
    decided = datasets.decided(project.name, "train")
    if window == "newest":
        decided = _newest_only(decided, base=datasets.champion_snapshot(project.name), store=store)
    decided = checked_labels(project, decided, context=context, fence=fence)
    comparison = _compared_with_exams(project, decided, context=context)
    num_checked, leaked_ids = decided.num_rows, {leak.trained_item_id for leak in comparison.leaks}
    leaked = rows_of(decided, leaked_ids)
    if project.config.gate.exam.near_duplicates.policy != "stop":  # off: only what is equal stands here
        decided = without(decided, leaked_ids)
    table = manifest.build_manifest(decided)
    del decided
    snapshot_id = manifest.manifest_id(table)
    check_dataset(
        project,
        table,
        snapshot_id=snapshot_id,
        num_checked=num_checked,
        leaked=leaked,
        comparison=comparison,
        context=context,
        fence=fence,
    )
    if comparison.values.num_rows:
        values = fingerprints.select(comparison.values, table["item_id"])
        keep_fingerprints(project, snapshot_id, values, store=store)
        del values
    del comparison
    pa.default_memory_pool().release_unused()  # of the fingerprints and the checks
    key = f"snapshots/{project.name}/{snapshot_id}/manifest.parquet"
    crash_point("snapshot.put.before")
    database.check(fence)
    store.put(key, manifest.to_parquet(table), content_type=PARQUET)
    crash_point("snapshot.put.after")
    snapshot = datasets.add_snapshot(
        project=project.name,
        snapshot_id=snapshot_id,
        object_key=key,
        class_counts=check_tables.count_classes(
            check_tables.count_labels(table["label"]), project.config.labels.classes
        ),
        schema_version=SCHEMA_VERSION,
        run_id=run_id,
        now=now,
        fence=fence,
    )
    crash_point("snapshot.put.recorded")
    forget_parts(project, store=store)
    _log.info(
        "snapshot %s of %s: %d rows, generation %d",
        snapshot_id[:12],
        project.name,
        snapshot.num_rows,
        snapshot.generation,
    )
    return snapshot


def _compared_with_exams(project: LoadedProject, decided: pa.Table, *, context: CheckContext) -> ExamComparison:
    """Compare the training items with every exam that was ever frozen; what was looked at before is taken over."""
    datasets = context.datasets
    known = [ref for ref in (datasets.champion_snapshot(project.name), datasets.head_snapshot(project.name)) if ref]
    exams = datasets.exams(project.name)
    leaks = compare_with_exams(project, manifest.places(decided), exams, known=known, store=context.store)
    if leaks.leaks:
        _log.warning("%d training items of %s are near duplicates of exam items", len(leaks.leaks), project.name)
    return leaks


def open_exam(
    project: LoadedProject,
    *,
    datasets: DatasetRepository,
    store: ObjectStore,
    attempt: Attempt,
    database: Database,
    docs_dir: Path,
    run_id: str,
    now: dt.datetime,
    after: AfterAlarm | None = None,
) -> list[ExamRef]:
    """Return the exams that are judged together, after opening a new epoch if enough new exam items are labeled.

    An item that the recipe cannot decode is left out, and put aside by name. Of a group at most
    `gate.exam.max_group_items` items go into one epoch; the others wait for a later one. While the exam waits for
    items from after an alarm (`after`), an epoch opens when it gives the exam all of them, and not with the old ones.

    Raises:
        GateClosed: EXAM_TOO_SMALL while there is no exam and too few items for one, or a check on its labels stops.
        StaleAttempt: a newer attempt is at work.
    """
    exams = datasets.exams(project.name)
    members, _groups = datasets.exam_members(project.name)
    exam = project.config.gate.exam
    decided = without(datasets.decided(project.name, "exam"), members)
    if not project.config.labels.imported_in_exam:
        decided = decided.filter(pc.not_equal(decided["method"].cast(pa.string()), "imported"))
    decided = few_of_each_group(decided, most=exam.max_group_items)
    minimum = exam.min_items
    if after is not None and after.can_open:
        minimum -= after.in_exam.items  # what another policy put into an epoch before
    if decided.num_rows >= minimum and (after is None or after.can_open):
        fence = database.acquire(f"exam/{project.name}", attempt, now=now)
        context = CheckContext(project.name, store, datasets, docs_dir, run_id, now, project.config.deny_list)
        decided = checked_labels(project, decided, context=context, fence=fence)
        if decided.num_rows >= minimum:
            decided = _decodable(project, decided, context=context)
        if decided.num_rows >= minimum:
            _open_epoch(project, decided, epoch=exams[0].epoch + 1 if exams else 1, context=context, fence=fence)
            exams = datasets.exams(project.name)
    if not exams:
        _refuse_small_exam(project, num_items=decided.num_rows, minimum=minimum)
    return window(exams, items=exam.window_items)


def few_of_each_group(decided: pa.Table, *, most: int) -> pa.Table:
    """Return at most so many rows of each group, those with the smallest item ids (hashes, so no one's choice)."""
    counts: Counter[str] = Counter()
    keep = np.zeros(decided.num_rows, dtype=bool)
    group_keys = decided["group_key"].to_pylist()
    for row in pc.sort_indices(decided["item_id"]).to_pylist():
        counts[group_keys[row]] += 1
        keep[row] = counts[group_keys[row]] <= most
    return decided.filter(pa.array(keep))


def _decodable(project: LoadedProject, decided: pa.Table, *, context: CheckContext) -> pa.Table:
    """Return the rows but those of items that the project's recipe cannot decode, which go to quarantine."""
    check = items_check(project)
    problems: dict[str, str] = {}
    for batch in manifest.places(decided).to_batches(max_chunksize=CHUNK_ROWS):
        problems |= check.problems_of(batch.to_pydict(), store=context.store)
    if problems:
        listed = "; ".join(f"{item_id[:16]}: {problems[item_id]}" for item_id in sorted(problems)[:10])
        _log.warning("%d exam items of %s do not decode and are left out: %s", len(problems), project.name, listed)
        check.put_aside_undecodable(rows_of(decided, problems), problems, context=context)
    return without(decided, problems)


def plan_training(
    project: LoadedProject,
    *,
    datasets: DatasetRepository,
    store: ObjectStore,
    force: bool = False,
    alarm: bool = False,
    changed: Sequence[str] = (),
    num_waiting: int = 0,
    exam_has_come: bool = False,
) -> TrainDecision:
    """Count the labels that are in no recent snapshot and decide whether to train.

    What the last snapshot holds was tried already, so a refused contender is not trained again on the same labels.
    """
    # What is left out for good is in no snapshot, and would count as new for ever.
    left_out = datasets.set_aside(project.name, EQUAL_TO_EXAM)
    if project.config.gate.exam.near_duplicates.policy == "exclude":
        left_out |= datasets.set_aside(project.name, NEAR_DUPLICATE_OF_EXAM)
    for code in HELD_CODES:
        left_out |= datasets.set_aside(project.name, code, stage=LABEL_STAGE)
    pairs = (pair for pair in datasets.decided_pairs(project.name, "train") if pair[0] not in left_out)
    refs = {ref for ref in (datasets.head_snapshot(project.name), datasets.champion_snapshot(project.name)) if ref}
    known = (_each_pair(manifest.read(store, ref.object_key, columns=("item_id", "label"))) for ref in refs)
    minimum = project.config.train.min_new_labels
    return enough_new_labels(
        project=project.name,
        num_new=count_new(pairs, known=known),
        minimum=minimum,
        force=force,
        alarm=alarm,
        changed=changed,
        num_waiting=num_waiting,
        exam_has_come=exam_has_come,
    )


def read_manifest(store: ObjectStore, ref: SnapshotRef) -> pa.Table:
    """Return a snapshot's rows, sorted by item id (columns: manifest.SCHEMA).

    Raises:
        DataCorrupt: the rows do not hash to the snapshot's id.
    """
    table = manifest.read(store, ref.object_key)
    _require_id(ref.object_key, expected=ref.snapshot_id, actual=manifest.manifest_id(table))
    return table


def read_exam(store: ObjectStore, ref: ExamRef) -> pa.Table:
    """Return an exam's rows, sorted by item id (columns: manifest.SCHEMA).

    Raises:
        DataCorrupt: the item ids and labels do not hash to the exam's id.
    """
    table = manifest.read(store, ref.object_key)
    _require_id(ref.object_key, expected=ref.exam_id, actual=manifest.exam_id(table))
    return table


def _open_epoch(project: LoadedProject, decided: pa.Table, *, epoch: int, context: CheckContext, fence: Fence) -> None:
    table = manifest.build_manifest(decided)
    exam_id = manifest.exam_id(table)
    _refuse_leaked_exam(project, table, context=context)
    exam = ExamRef(
        project=project.name,
        epoch=epoch,
        exam_id=exam_id,
        object_key=f"exams/{project.name}/{exam_id}.parquet",
        num_items=table.num_rows,
    )
    crash_point("exam.put.before")
    context.store.put(exam.object_key, manifest.to_parquet(table), content_type=PARQUET)
    crash_point("exam.put.after")
    pairs = list(zip(table["item_id"].to_pylist(), table["label"].to_pylist(), strict=True))
    context.datasets.open_exam(exam, labels=pairs, run_id=context.run_id, now=context.now, fence=fence)
    crash_point("exam.put.recorded")


def _refuse_leaked_exam(project: LoadedProject, table: pa.Table, *, context: CheckContext) -> None:
    """Raise GateClosed if the new epoch shares an item or a group with what models were trained on."""
    head = context.datasets.head_snapshot(project.name)
    if head is None:
        return
    codes = {"item_id": "ITEM_LEAKAGE", "group_key": "GROUP_LEAKAGE"}
    trained = manifest.read(context.store, head.object_key, columns=tuple(codes))
    for column, code in codes.items():
        shared = sorted(set(trained[column].filter(pc.is_in(trained[column], table[column])).to_pylist()))
        if shared:
            listed = ", ".join(shared[:10])
            raise GateClosed(
                f"an exam of {project.name} must share no {column} with snapshot {head.snapshot_id[:16]} "
                f"(got {len(shared)}: {listed}). Was split.exam_share changed? The champion stays.",
                code=code,
            )


def _refuse_small_exam(project: LoadedProject, *, num_items: int, minimum: int) -> None:
    raise GateClosed(
        f"gate.exam.min_items must be reached before the first exam can open (got {num_items} labeled exam items of "
        f"{minimum}). {minimum - num_items} more are needed: label them in the project {project.name!r} exam.",
        code=EXAM_TOO_SMALL,
    )


def _newest_only(decided: pa.Table, *, base: SnapshotRef | None, store: ObjectStore) -> pa.Table:
    if base is None:
        return decided
    known = manifest.read(store, base.object_key, columns=("item_id", "label"))
    rows = pc.index_in(decided["item_id"], value_set=known["item_id"])
    is_known = pc.equal(decided["label"].cast(pa.string()), known["label"].cast(pa.string()).take(rows))
    return manifest.filtered(decided, pc.invert(pc.fill_null(is_known, fill_value=False)))


def _each_pair(table: pa.Table) -> Iterator[tuple[str, str]]:
    for batch in table.select(["item_id", "label"]).to_batches(max_chunksize=check_tables.ROWS_AT_ONCE):
        yield from zip(batch["item_id"].to_pylist(), batch["label"].to_pylist(), strict=True)


def _require_id(key: str, *, expected: str, actual: str) -> None:
    if expected != actual:
        raise DataCorrupt(f"{key} must hash to {expected} (got {actual}). Restore the object from a backup.")
