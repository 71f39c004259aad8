"""The invariants that hold after any crash: nothing lost, nothing twice, one chain of gated champions. Reads only.

`check` is run by tests after every fault, and by `dethrone verify`. The numbers are those of the reliability guide; I10
is the ledger, I11 the evidence of tables and objects. I8 (secrets) and the processes of I9 are looked for by the
stack's own tests, which know where to look.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import sqlalchemy as sa

from pipeline_tasks.catalog import ledger, ledger_repository
from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.database import Database
from pipeline_tasks.catalog.routes import EVERY_PROJECT, GRAPH
from pipeline_tasks.catalog.signatures import PublicKey, signature_faults
from pipeline_tasks.core.object_keys import digest_in_key
from pipeline_tasks.core.ports import LabelingTool, ObjectStore
from pipeline_tasks.errors import DataCorrupt, printable
from pipeline_tasks.invariants.champions import chain_violations, gate_violations, whole_violations
from pipeline_tasks.invariants.composed_projects import graph_violations
from pipeline_tasks.invariants.evidence import (
    item_violations,
    manifest_violations,
    model_violations,
    noted_violations,
    page_violations,
    sealed_violations,
    trigger_violations,
)
from pipeline_tasks.invariants.ledger import ledger_violations
from pipeline_tasks.invariants.predictions import prediction_violations
from pipeline_tasks.invariants.violation import Row, Violation, listed

SERVED_SLACK = dt.timedelta(seconds=30)
TEMPORARY_FOR = dt.timedelta(hours=1)
INGEST_STAGE = "ingest"
"""The stage whose quarantine holds bytes that became no item; later stages, the items check first, set aside items."""


def check(
    database: Database,
    store: ObjectStore,
    *,
    now: dt.datetime,
    labeling: LabelingTool | None = None,
    anchors: Mapping[str, Sequence[tuple[int, str]]] | None = None,
    served_slack: dt.timedelta = SERVED_SLACK,
    public_keys: Sequence[PublicKey] = (),
    deep: bool = False,
) -> list[Violation]:
    """Return what is not as it must be in a loop at rest, in the order of the invariants; we want an empty list.

    `labeling` adds the comparison with the labeling tool; `anchors` gives, by project, ledger entries (sequence, hash)
    noted down elsewhere; `public_keys` are those whose signatures the ledger's entries must have; `deep` re-reads and
    re-hashes every object and every verdict's evidence, which takes as long as it takes.
    """
    known = anchors or {}
    # Before the catalog is read: what is noted down by then is in the ledger, even while the loop goes on.
    noted = ledger.noted_in(info.key for info in store.list(ledger.NOTED_PREFIX))
    with database.read() as connection:
        projects = sorted({*_projects(connection), *known, *noted})
        by_project: tuple[Callable[[str], Iterator[Violation]], ...] = (
            lambda project: _items(connection, store, project, deep=deep),
            lambda project: _labels(connection, store, project, labeling),
            lambda project: _predictions(connection, store, project, served_slack),
            lambda project: _champions(connection, store, project, deep=deep),
            lambda project: _ledger(connection, store, project, known, noted, deep=deep),
            lambda project: _evidence(connection, store, project, public_keys, deep=deep),
        )
        violations = [
            *(
                violation
                for look in by_project
                for project in projects
                for violation in _despite_forms(project, look(project))
            ),
            *_despite_forms(EVERY_PROJECT, _runs(connection, now)),
            *_despite_forms(EVERY_PROJECT, _leftovers(connection, store, now)),
            *trigger_violations(connection),
        ]
    return sorted(violations, key=lambda violation: (int(violation.invariant.removeprefix("I")), violation.project))


def _despite_forms(project: str, violations: Iterator[Violation]) -> Iterator[Violation]:
    """Yield what is found; a row that no release has written so is a finding too."""
    try:
        yield from violations
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        text = printable(f"{type(error).__name__}: {error}")
        yield Violation("I11", project, f"every row and object must have the form that a release writes (got {text})")


def _projects(connection: sa.Connection) -> list[str]:
    tables = [table for table in t.metadata.sorted_tables if "project" in table.c]
    query = sa.union(*(sa.select(table.c.project) for table in tables if table is not t.api_keys))
    return sorted({*connection.execute(query).scalars(), ledger.KEYS})


def _rows(connection: sa.Connection, table: sa.Table, project: str) -> list[Row]:
    return list(connection.execute(sa.select(table).where(table.c.project == project)).mappings())


def _items(connection: sa.Connection, store: ObjectStore, project: str, *, deep: bool) -> Iterator[Violation]:
    """I1: every item is there once, with its bytes, and what refers to an item refers to one that exists."""
    yield from _dangling(connection, project)
    # A second copy of an item with another label is refused; the item itself stays what it is.
    refused = sa.and_(
        t.quarantine.c.project == project,
        t.quarantine.c.stage == INGEST_STAGE,
        t.quarantine.c.code != "LABEL_CONFLICT",
    )
    both = sa.select(t.items.c.item_id).where(
        t.items.c.project == project, t.items.c.item_id.in_(sa.select(t.quarantine.c.digest).where(refused))
    )
    yield from listed("I1", project, "items that are in quarantine too", connection.execute(both).scalars())
    end = sa.func.max(t.items.c.offset + t.items.c.size_bytes).label("end")
    query = sa.select(t.items.c.object_key, end).where(t.items.c.project == project).group_by(t.items.c.object_key)
    needed = {row.object_key: int(row.end) for row in connection.execute(query)}
    there = {info.key: info.size_bytes for kind in ("items", "packs") for info in store.list(f"{kind}/{project}/")}
    yield from listed("I1", project, "objects of items that are not in the store", needed.keys() - there.keys())
    short = [key for key, size in needed.items() if there.get(key, size) < size]
    yield from listed("I1", project, "objects that end before their last item", short)
    if deep:
        named = sorted(key for key in needed if key in there and digest_in_key(key) is not None)
        yield from listed("I1", project, "objects that do not hash to their name", _corrupt(store, named))


def _dangling(connection: sa.Connection, project: str) -> Iterator[Violation]:
    for table in (t.labeling_tasks, t.annotations, t.label_decisions, t.exam_items, t.audits, t.item_retirements):
        exists = sa.exists().where(t.items.c.project == table.c.project, t.items.c.item_id == table.c.item_id)
        query = sa.select(table.c.item_id).where(table.c.project == project, ~exists).distinct()
        yield from listed("I1", project, f"{table.name} of unknown items", connection.execute(query).scalars())
    exam = sa.select(t.exam_items.c.item_id).where(t.exam_items.c.project == project)
    leaked = sa.select(t.items.c.item_id).where(
        t.items.c.project == project, t.items.c.item_id.in_(exam), t.items.c.split != "exam"
    )
    yield from listed("I1", project, "exam items whose split is train", connection.execute(leaked).scalars())


def _corrupt(store: ObjectStore, keys: Iterable[str]) -> Iterator[str]:
    for key in keys:
        try:
            store.get(key)
        except DataCorrupt:
            yield key


def _labels(
    connection: sa.Connection, store: ObjectStore, project: str, labeling: LabelingTool | None
) -> Iterator[Violation]:
    """I1, I2: snapshots hold each item once and whole; the labeling tool has each asked-for task, once."""
    snapshots = sorted(_rows(connection, t.snapshots, project), key=lambda row: row["generation"])
    yield from _snapshot_chain(project, snapshots)
    for row in snapshots:
        if not store.exists(row["object_key"]):
            yield Violation("I1", project, f"snapshot {row['snapshot_id'][:12]} has no manifest {row['object_key']}")
        else:
            yield from _manifest(connection, store, project, row)
    given = _rows(connection, t.approvals, project)
    twice = _repeated(f"{row['decision']} by {row['by']} at {row['at']} on {row['verdict_id']}" for row in given)
    yield from listed("I2", project, "answers to requests for approval that are kept twice", twice)
    if labeling is not None:
        yield from _labeling_tool(connection, project, labeling)


def _snapshot_chain(project: str, snapshots: list[Row]) -> Iterator[Violation]:
    parent = None
    for number, row in enumerate(snapshots, start=1):
        if row["generation"] != number or row["parent_id"] != parent:
            message = f"snapshot {row['snapshot_id'][:12]} must be generation {number} after {parent}"
            yield Violation("I3", project, f"{message} (got {row['generation']} after {row['parent_id']})")
        parent = row["snapshot_id"]


def _manifest(connection: sa.Connection, store: ObjectStore, project: str, row: Row) -> Iterator[Violation]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    name = f"snapshot {row['snapshot_id'][:12]}"
    try:
        manifest = pq.read_table(pa.BufferReader(store.get(row["object_key"])), columns=["item_id", "split"])
    except (DataCorrupt, pa.ArrowException) as error:
        yield Violation("I1", project, f"{name} must be readable (got {type(error).__name__})")
        return
    rows = manifest.to_pylist()
    ids = [member["item_id"] for member in rows]
    if len(ids) != row["num_rows"]:
        yield Violation("I1", project, f"{name} must have {row['num_rows']} rows (got {len(ids)})")
    known = sa.select(t.items.c.item_id).where(t.items.c.project == project)
    exam = sa.select(t.exam_items.c.item_id).where(t.exam_items.c.project == project)
    yield from listed("I2", project, f"items twice in {name}", _repeated(ids))
    yield from listed("I1", project, f"unknown items in {name}", set(ids) - set(connection.execute(known).scalars()))
    trained = {member["item_id"] for member in rows if member["split"] == "train"}
    trained &= set(connection.execute(exam).scalars())
    yield from listed("I1", project, f"exam items trained on in {name}", trained)


def _labeling_tool(connection: sa.Connection, project: str, labeling: LabelingTool) -> Iterator[Violation]:
    query = sa.select(t.projects.c.ls_project_ids).where(t.projects.c.project == project)
    known = connection.execute(query).scalar_one_or_none() or {}
    there: dict[str, list[int]] = {}
    for ls_project_id in known.values():
        for item_id, task_ids in labeling.task_ids(int(ls_project_id)).items():
            there.setdefault(item_id, []).extend(task_ids)
    tasks = {row["item_id"]: row for row in _rows(connection, t.labeling_tasks, project)}
    pushed = {item_id for item_id, row in tasks.items() if row["state"] == "pushed"}
    twice = [item_id for item_id, task_ids in there.items() if len(task_ids) > 1]
    yield from listed("I2", project, "items with more than one labeling task", twice)
    yield from listed("I1", project, "pushed items without their labeling task", pushed - there.keys())
    yield from listed("I1", project, "labeling tasks that nobody asked for", there.keys() - tasks.keys())
    unplaced = [item_id for item_id, row in tasks.items() if row["state"] == "pushed" and row["ls_task_id"] is None]
    yield from listed("I1", project, "pushed items without a task id", unplaced)


def _predictions(
    connection: sa.Connection, store: ObjectStore, project: str, slack: dt.timedelta
) -> Iterator[Violation]:
    parts = sa.select(t.prediction_parts.c.object_key).where(t.prediction_parts.c.project == project)
    return prediction_violations(
        project,
        store,
        imported=frozenset(connection.execute(parts).scalars()),
        routes=_rows(connection, t.routes, project),
        slack=slack,
    )


def _champions(connection: sa.Connection, store: ObjectStore, project: str, *, deep: bool) -> Iterator[Violation]:
    """I3, I4, I6: one linear chain of routes, its newest three whole, each generation gated."""
    routes = sorted(_rows(connection, t.routes, project), key=lambda row: row["generation"])
    if routes and routes[0]["action"] == GRAPH:
        yield from graph_violations(project, routes, first_champions=_first_champions(connection))
        return
    models = {row["version"]: row for row in _rows(connection, t.model_versions, project)}
    releases = _rows(connection, t.releases, project)
    yield from chain_violations(project, routes, _rows(connection, t.deployments, project))
    yield from whole_violations(project, routes, models, releases, store, deep=deep)
    yield from gate_violations(
        project,
        routes,
        verdicts={row["verdict_id"]: row for row in _rows(connection, t.verdicts, project)},
        approvals=_rows(connection, t.approvals, project),
        releases=releases,
        models=models,
        store=store,
    )


def _first_champions(connection: sa.Connection) -> dict[str, dt.datetime]:
    first = sa.select(t.routes.c.project, t.routes.c.created_at).where(
        t.routes.c.generation == 1, t.routes.c.action != GRAPH
    )
    return {row.project: row.created_at for row in connection.execute(first)}


def _ledger(
    connection: sa.Connection,
    store: ObjectStore,
    project: str,
    anchors: Mapping[str, Sequence[tuple[int, str]]],
    noted: Mapping[str, Sequence[tuple[int, str]]],
    *,
    deep: bool,
) -> Iterator[Violation]:
    """I10: the ledger is an unbroken chain that says what the rows and the stored evidence say."""
    yield from ledger_violations(
        project,
        ledger_repository.read_entries(connection, project),
        ledger_repository.read_drafts(connection, project),
        store=store,
        anchors=anchors.get(project, ()),
        noted=noted.get(project, ()),
        deep=deep,
    )


def _evidence(
    connection: sa.Connection, store: ObjectStore, project: str, public_keys: Sequence[PublicKey], *, deep: bool
) -> Iterator[Violation]:
    """I11: rows and objects are as they were sealed or as they are named, and entries are signed."""
    entries = ledger_repository.read_entries(connection, project)
    yield from (Violation("I11", project, fault) for fault in signature_faults(entries, public_keys))
    yield from sealed_violations(connection, store, project, entries, deep=deep)
    if not deep:
        return
    yield from noted_violations(project, store)
    yield from model_violations(project, _rows(connection, t.model_versions, project), store)
    yield from manifest_violations(
        project,
        _rows(connection, t.exams, project),
        _rows(connection, t.exam_items, project),
        _rows(connection, t.snapshots, project),
        store,
    )
    windows = _rows(connection, t.monitor_windows, project)
    yield from page_violations(project, _rows(connection, t.checks, project), windows, store)
    yield from item_violations(project, _rows(connection, t.items, project), store)
    yield from release_violations(connection, project)


def release_violations(connection: sa.Connection, project: str) -> Iterator[Violation]:
    """I11: deployments and images are of recorded releases."""
    for table in (t.deployments, t.release_images):
        exists = sa.exists().where(
            t.releases.c.project == table.c.project, t.releases.c.release_id == table.c.release_id
        )
        query = sa.select(table.c.release_id).where(table.c.project == project, ~exists)
        yield from listed("I11", project, f"{table.name} of unknown releases", connection.execute(query).scalars())


def _runs(connection: sa.Connection, now: dt.datetime) -> Iterator[Violation]:
    """I7: no run open past its deadline; a closed one has an outcome, a reason, and says what the route says."""
    promoted = {
        (row.project, row.attempt.split("/")[0])
        for row in connection.execute(sa.select(t.routes).where(t.routes.c.action == "promote"))
    }
    for run in connection.execute(sa.select(t.runs)).mappings():
        name = f"run {run['run_id']}"
        ended = all(run[field] is not None for field in ("outcome", "reason_code", "reason", "closed_at"))
        if run["state"] == "open" and run["deadline_at"] < now:
            deadline = run["deadline_at"].isoformat()
            yield Violation("I7", run["project"], f"{name} must be closed by its deadline {deadline} (got open)")
        if (run["state"] == "closed") != ended:
            yield Violation("I7", run["project"], f"{name} is {run['state']} with outcome {run['outcome']}")
        moved = (run["project"], run["run_id"]) in promoted
        if run["kind"] == "train" and run["state"] == "closed" and moved != (run["outcome"] == "promoted"):
            did = "moved the route" if moved else "did not move the route"
            yield Violation("I7", run["project"], f"{name} ended {run['outcome']} but {did}")


def _leftovers(connection: sa.Connection, store: ObjectStore, now: dt.datetime) -> Iterator[Violation]:
    """I9: nothing temporary stays, and leases are counted up from one by somebody."""
    old = [info.key for info in store.list("self-test/") if info.modified_at < now - TEMPORARY_FOR]
    yield from listed("I9", "*", "temporary objects older than an hour", old)
    leases = connection.execute(sa.select(t.leases)).mappings()
    broken = [row["name"] for row in leases if row["token"] < 1 or not row["holder"]]
    yield from listed("I9", "*", "leases without a holder", broken)


def _repeated(values: Iterable[str]) -> list[str]:
    return [value for value, count in Counter(values).items() if count > 1]
