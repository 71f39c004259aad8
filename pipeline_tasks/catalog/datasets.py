"""Snapshots, exams, and the checks that stand behind them."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.database import Repository, columns_of, insert_ignore, slices
from pipeline_tasks.catalog.labels import newest_decisions
from pipeline_tasks.catalog.schema_versions import SchemaRepository, counts_now
from pipeline_tasks.catalog.set_aside import BadRow, is_usable, put_aside
from pipeline_tasks.contracts import ExamRef, Fence, Queue, SnapshotRef, Split
from pipeline_tasks.errors import ConfigError, LostRace

MAX_ATTEMPTS = 20
DATASET_STAGE = "dataset"
_ONCE = pa.dictionary(pa.int32(), pa.string())  # what repeats (a pack's name, a label, a source) is held once
DECIDED = pa.schema(
    [
        ("item_id", pa.string()),
        ("content_id", pa.string()),
        ("label", _ONCE),
        ("split", _ONCE),
        ("group_key", pa.string()),
        ("object_key", _ONCE),
        ("offset", pa.int64()),
        ("size_bytes", pa.int64()),
        ("media_type", _ONCE),
        ("version", pa.int64()),
        ("method", _ONCE),
        ("annotators", pa.list_(pa.string())),
        ("agreement", pa.float64()),
        ("source", _ONCE),
        ("origin", _ONCE),
        ("key", pa.string()),
        ("arrived_at", pa.timestamp("us", tz="UTC")),
    ]
)
ROWS_AT_ONCE = 10_000
Columns = dict[str, list[Any]]


@dataclasses.dataclass(frozen=True, slots=True)
class CheckRecord:
    """One check as the catalog keeps it."""

    project: str
    stage: str
    subject: str
    suite: str
    success: bool
    statistics: Mapping[str, Any]
    failures: Sequence[Mapping[str, Any]]
    report_key: str | None
    run_id: str
    created_at: dt.datetime


_CHECK = columns_of(t.checks, CheckRecord)
_SNAPSHOT = columns_of(t.snapshots, SnapshotRef)


class DatasetRepository(Repository):
    """Frozen snapshots and exams, and the checks that they passed."""

    # Labels and items, as far as datasets need them

    def decided(self, project: str, split: Split) -> pa.Table:
        """Return the newest decided label of each item of a split (columns: DECIDED), ordered by item id.

        Items that the items check put in quarantine, and retired ones, are left out; annotators are sorted.
        """
        item, decision = t.items.c, t.label_decisions.c
        chosen = [decision[name] if name in decision else item[name] for name in DECIDED.names if name != "item_id"]
        query = _decided(project, split, item.item_id, *chosen).order_by(item.item_id)
        with self.database.read() as connection:
            result = connection.execution_options(yield_per=ROWS_AT_ONCE).execute(query)
            batches = [_decided_batch(rows) for rows in result.partitions()]
        return _joined(batches)

    def decided_pairs(self, project: str, split: Split) -> Iterator[tuple[str, str]]:
        """Yield (item id, label) of the same items, in any order, without holding them."""
        query = _decided(project, split, t.items.c.item_id, t.label_decisions.c.label)
        with self.database.read() as connection:
            for row in connection.execution_options(yield_per=ROWS_AT_ONCE).execute(query):
                yield str(row.item_id), str(row.label)

    def num_decided(self, project: str, *, imported_in_exam: bool = False) -> dict[Queue, int]:
        """Return how many items have a label to train on, and how many exam items have one and are in no epoch yet.

        Labels of the source are none of an exam item, unless `imported_in_exam`.
        """
        item, member = t.items.c, t.exam_items.c
        newest = newest_decisions(project).where(t.label_decisions.c.status == "decided").subquery()
        frozen = sa.exists().where(member.project == item.project, member.item_id == item.item_id)
        by_source = sa.and_(item.split == "exam", newest.c.method == "imported")
        query = (
            sa.select(item.split, sa.func.count())
            .join(newest, newest.c.item_id == item.item_id)
            .where(item.project == project, ~frozen)
            .where(sa.true() if imported_in_exam else ~by_source)
            .group_by(item.split)
        )
        counts = {str(split): int(count) for split, count in self.database.rows(query)}
        return {"label": counts.get("train", 0), "exam": counts.get("exam", 0)}

    def batch(self, project: str, batch_id: str, *, size: int) -> Iterator[Columns]:
        """Yield the items of one ingested batch, by column, so many at a time, in the order of their places."""
        columns = [column for column in t.items.c if column.name != "project"]
        where = sa.and_(t.items.c.project == project, t.items.c.batch_id == batch_id)
        order = (t.items.c.object_key, t.items.c.offset, t.items.c.item_id)
        query = sa.select(*columns).where(where).order_by(*order)
        with self.database.read() as connection:
            result = connection.execute(query, execution_options={"yield_per": size})
            for rows in result.partitions():
                yield {
                    column.name: list(values) for column, values in zip(columns, zip(*rows, strict=True), strict=True)
                }

    def put_aside(
        self, project: str, stage: str, rows: Iterable[BadRow], *, at: dt.datetime, fence: Fence | None = None
    ) -> None:
        """Write rows that a check puts into quarantine; those that are there stay as they are."""
        with self.database.write(fence) as connection:
            put_aside(connection, project, stage, rows, at=at)

    def set_aside(self, project: str, code: str, *, stage: str = DATASET_STAGE) -> set[str]:
        """Return the items that a check of a dataset left out for this reason."""
        bad = t.quarantine.c
        query = sa.select(bad.digest).where(bad.project == project, bad.stage == stage, bad.code == code)
        return set(self.database.scalars(query))

    def put_back(self, project: str, code: str, item_ids: Iterable[str], *, stage: str, fence: Fence) -> None:
        """Take items out of the quarantine that a check no longer leaves out for this reason."""
        bad = t.quarantine.c
        mine = sa.and_(bad.project == project, bad.stage == stage, bad.code == code)
        with self.database.write(fence) as connection:
            for some in slices(sorted(item_ids)):
                connection.execute(t.quarantine.delete().where(mine, bad.digest.in_(some)))

    # Checks

    def record_check(
        self, record: CheckRecord, *, quarantine: Iterable[BadRow] = (), fence: Fence | None = None
    ) -> None:
        """Write a check and the rows that it puts aside, in one transaction; the first record stays."""
        row = {**dataclasses.asdict(record), "failures": list(record.failures), "statistics": dict(record.statistics)}
        with self.database.write(fence) as connection:
            insert_ignore(connection, t.checks, [row])
            put_aside(connection, record.project, record.stage, quarantine, at=record.created_at)

    def checks(self, project: str, *, limit: int = 200) -> list[CheckRecord]:
        """Return a project's checks, newest first."""
        order = (t.checks.c.created_at.desc(), t.checks.c.stage, t.checks.c.subject, t.checks.c.suite)
        query = sa.select(*_CHECK).where(t.checks.c.project == project).order_by(*order).limit(limit)
        return self.database.records(CheckRecord, query)

    def check_of(self, project: str, *, stage: str, subject: str | None = None) -> CheckRecord | None:
        """Return the newest check of a subject or of a stage, or None."""
        where = sa.and_(t.checks.c.project == project, t.checks.c.stage == stage)
        where = where if subject is None else sa.and_(where, t.checks.c.subject == subject)
        query = sa.select(*_CHECK).where(where).order_by(t.checks.c.created_at.desc()).limit(1)
        return self.database.record(CheckRecord, query)

    def check_counts(self) -> dict[str, int]:
        """Return how many checks each project has."""
        query = sa.select(t.checks.c.project, sa.func.count()).group_by(t.checks.c.project)
        return {str(project): int(count) for project, count in self.database.rows(query)}

    # Snapshots

    def head_snapshot(self, project: str) -> SnapshotRef | None:
        """Return the newest snapshot, or None before the first."""
        table = t.snapshots.c
        query = sa.select(*_SNAPSHOT).where(table.project == project).order_by(table.generation.desc()).limit(1)
        return self.database.record(SnapshotRef, query)

    def find_snapshot(self, project: str, snapshot_id: str) -> SnapshotRef | None:
        where = sa.and_(t.snapshots.c.project == project, t.snapshots.c.snapshot_id == snapshot_id)
        return self.database.record(SnapshotRef, sa.select(*_SNAPSHOT).where(where))

    def snapshot(self, project: str, snapshot_id: str) -> SnapshotRef:
        """Return a snapshot by its id.

        Raises:
            ConfigError: there is none.
        """
        snapshot = self.find_snapshot(project, snapshot_id)
        if snapshot is None:
            raise ConfigError(f"snapshot_id must be a snapshot of {project} (got {snapshot_id!r}). See the train runs.")
        return snapshot

    def parent_snapshot(self, project: str, snapshot_id: str) -> str | None:
        """Return the id of the snapshot before this one, or None for the first."""
        row = t.snapshots.c
        query = sa.select(row.parent_id).where(row.project == project, row.snapshot_id == snapshot_id)
        return cast("str | None", self.database.scalar(query))

    def class_counts(self, project: str, snapshot_id: str) -> dict[str, int]:
        """Return rows per class of a snapshot, under the class names of now."""
        where = sa.and_(t.snapshots.c.project == project, t.snapshots.c.snapshot_id == snapshot_id)
        counts = self.database.scalar(sa.select(t.snapshots.c.class_counts).where(where))
        return counts_now(counts, SchemaRepository(self.database).names_now(project))

    def champion_snapshot(self, project: str) -> SnapshotRef | None:
        """Return what the serving champion was trained on, or None while nothing serves."""
        route, version = t.routes.c, t.model_versions.c
        query = (
            sa.select(version.snapshot_id)
            .join(t.routes, sa.and_(route.project == version.project, route.champion_version == version.version))
            .where(version.project == project)
            .order_by(route.generation.desc())
            .limit(1)
        )
        snapshot_id = self.database.scalar(query)
        return None if snapshot_id is None else self.snapshot(project, str(snapshot_id))

    def add_snapshot(
        self,
        *,
        project: str,
        snapshot_id: str,
        object_key: str,
        class_counts: Mapping[str, int],
        schema_version: int,
        run_id: str,
        now: dt.datetime,
        fence: Fence,
    ) -> SnapshotRef:
        """Append a snapshot to the project's chain, or return the one with this content.

        Raises:
            StaleAttempt: a newer attempt holds the lease.
            LostRace: others were faster MAX_ATTEMPTS times in a row.
        """
        row = {
            "project": project,
            "snapshot_id": snapshot_id,
            "object_key": object_key,
            "num_rows": sum(class_counts.values()),
            "class_counts": dict(class_counts),
            "schema_version": schema_version,
            "run_id": run_id,
            "created_at": now,
        }
        for _ in range(MAX_ATTEMPTS):
            known = self.find_snapshot(project, snapshot_id)
            if known is not None:
                return known
            head = self.head_snapshot(project)
            link = {
                "generation": head.generation + 1 if head else 1,
                "parent_id": head.snapshot_id if head else None,
            }
            try:
                with self.database.write(fence) as connection:
                    connection.execute(t.snapshots.insert(), row | link)
            except IntegrityError:
                continue  # somebody took this generation, or wrote this very snapshot: look again
        raise LostRace(f"the snapshot chain of {project} must take a new link (got: others were faster). Run again.")

    # Exams

    def exams(self, project: str) -> list[ExamRef]:
        """Return a project's exams, the current epoch first."""
        query = (
            sa.select(*columns_of(t.exams, ExamRef))
            .where(t.exams.c.project == project)
            .order_by(t.exams.c.epoch.desc())
        )
        return self.database.records(ExamRef, query)

    def exam_openings(self, project: str) -> dict[int, dt.datetime]:
        """Return when each epoch of a project's exam was opened."""
        query = sa.select(t.exams.c.epoch, t.exams.c.opened_at).where(t.exams.c.project == project)
        return {row.epoch: row.opened_at for row in self.database.rows(query)}

    def exam_members(self, project: str) -> tuple[set[str], set[str]]:
        """Return the item ids and the group keys of all epochs."""
        item, member = t.items.c, t.exam_items.c
        same = sa.and_(item.project == member.project, item.item_id == member.item_id)
        query = sa.select(member.item_id, item.group_key).join(t.items, same).where(member.project == project)
        rows = self.database.rows(query)
        return {str(row.item_id) for row in rows}, {str(row.group_key) for row in rows}

    def open_exam(
        self, exam: ExamRef, *, labels: Sequence[tuple[str, str]], run_id: str, now: dt.datetime, fence: Fence
    ) -> bool:
        """Write an epoch with its (item id, label) pairs, all or nothing; False if another attempt opened it first.

        Raises:
            StaleAttempt: a newer attempt holds the lease.
        """
        epoch = {**dataclasses.asdict(exam), "run_id": run_id, "opened_at": now}
        rows = [
            {"project": exam.project, "item_id": item_id, "epoch": exam.epoch, "label": label}
            for item_id, label in labels
        ]
        try:
            with self.database.write(fence) as connection:
                connection.execute(t.exams.insert(), epoch)
                connection.execute(t.exam_items.insert(), rows)
        except IntegrityError:
            return False
        return True


def _joined(batches: list[pa.RecordBatch]) -> pa.Table:
    """Return batches, which the list then holds no more, as a table with each column in one piece of memory."""
    waiting = dict(zip(DECIDED.names, pa.Table.from_batches(batches, DECIDED).unify_dictionaries(), strict=True))
    batches.clear()
    pieces: dict[tuple[Any, ...], pa.ChunkedArray] = {}
    columns = []
    for name in DECIDED.names:
        column = waiting.pop(name)
        buffers = (buffer for chunk in column.chunks for buffer in chunk.buffers() if buffer is not None)
        place = (column.type, *(buffer.address for buffer in buffers))
        if place not in pieces:
            pieces[place] = pa.table({name: column}).combine_chunks()[name]
        columns.append(pieces[place])
    pa.default_memory_pool().release_unused()
    return pa.table(columns, schema=DECIDED)


def _decided_batch(rows: Sequence[sa.Row[Any]]) -> pa.RecordBatch:
    columns = dict(zip(DECIDED.names, zip(*rows, strict=True), strict=True))
    columns["annotators"] = tuple(sorted(str(name) for name in names or ()) for names in columns["annotators"])
    arrays = {"item_id": pa.array(columns["item_id"], DECIDED.field("item_id").type)}
    for field in DECIDED:  # where the content or the group is the item, it is in memory once
        is_item = columns[field.name] == columns["item_id"]
        arrays[field.name] = arrays["item_id"] if is_item else pa.array(columns[field.name], field.type)
    return pa.record_batch(arrays, schema=DECIDED)


def _decided(project: str, split: Split, *chosen: Any) -> sa.Select[Any]:
    """Select columns of the items with a decided label, and of its newest decision."""
    item, decision = t.items.c, t.label_decisions.c
    versions = sa.select(decision.item_id, sa.func.max(decision.version).label("version"))
    newest = versions.where(decision.project == project).group_by(decision.item_id).subquery()
    same = sa.and_(decision.item_id == item.item_id, decision.version == newest.c.version)
    return (
        sa.select(*chosen)
        .join_from(t.items, newest, newest.c.item_id == item.item_id)
        .join(t.label_decisions, sa.and_(decision.project == item.project, same))
        .where(item.project == project, item.split == split, decision.status == "decided")
        .where(is_usable(project))
    )
