"""A sealed world with a row in every table and every kind of object; and what its owner may do behind our back."""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import sqlalchemy as sa

from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.append_only import create_statements
from pipeline_tasks.catalog.database import Database, create_engine
from pipeline_tasks.catalog.ledger_repository import append, read_drafts
from pipeline_tasks.catalog.signatures import new_key, parse_key
from pipeline_tasks.contracts import sha256_hex
from pipeline_tasks.invariants.check import check
from pipeline_tasks.orchestration.ledger_anchors import note_head
from pipeline_tasks.orchestration.ledger_seals import seal
from tests.fakes import FakeObjectStore
from tests.unit.invariants.invariants_case import NOW, Labeling, World, at, logged

PAGE = b"<p>a page</p>"
CHECK = f"reports/pets/checks/items/{'a' * 16}-{sha256_hex(PAGE)}.html"
MONITOR = f"reports/pets/monitor/quality-{'a' * 16}-{sha256_hex(PAGE)}.html"


def whole_world() -> World:
    """Return the rows and objects of a loop at rest, one or more in every table."""
    world = World()
    world.objects |= {CHECK: PAGE, MONITOR: PAGE, "bentos/pets/sbom.json": b"{}"}
    world.objects |= {f"bentos/pets/release-v{number}.golden.json": b"[]" for number in (1, 2, 3, 4)}
    for row in world.rows["verdicts"]:
        world.objects[f"{row['object_key']}/report.html"] = PAGE
        row["report_digest"] = sha256_hex(PAGE)
    world.predictions([logged("p7", "v4", 55)])
    world.add("seen_objects", source="folder", key="a", fingerprint="f")
    world.add("schema_versions", version=1, classes=["cat"], mapping={}, undoes=None, changed_by="", created_at=at(1))
    world.add("item_retirements", item_id="b", reason="blurred", by="ann", at=at(3))
    bad = {"key": "k", "digest": "d", "code": "DARK", "reason": "too dark", "object_key": None, "at": at(1)}
    world.add("quarantine", stage="labels", source="folder", **bad)
    world.add("cursors", name="folder", value={"after": "a"}, generation=1, updated_at=at(1))
    said = {"queue": "label", "annotator": "ann", "label": "cat", "result": [], "cancelled": False, "deleted": False}
    times = {"lead_time_seconds": 1.5, "created_at": at(1), "collected_at": at(1)}
    world.add("annotations", annotation_id="1", revision="r", item_id="a", **said, **times)
    report = {"success": True, "statistics": {"num_rows": 3}, "failures": [], "report_key": CHECK}
    world.add("checks", stage="items", subject="b", suite="image", run_id="run-v1", created_at=at(1), **report)
    yes = {"decision": "approve", "by": "ann", "requested_by": "bob", "reason": "good"}
    world.add("approvals", verdict_id="verdict-v1", sequence=1, at=at(9.5), **yes)
    image = {"image_id": "sha256:i", "base_digest": "sha256:b", "layer_bytes": 9, "sbom_key": "bentos/pets/sbom.json"}
    world.add("release_images", release_id="release-v1", image="r@sha256:c", created_at=at(9), **image)
    for key in sorted(key for key in world.objects if key.startswith("predictions/")):
        world.add("prediction_parts", object_key=key, num_predictions=1, num_feedback=0, imported_at=at(60))
    asked = {
        "item_id": "b",
        "model_version": "v4",
        "predicted_label": "cat",
        "confidence": 0.9,
        "kind": "audit",
        "inclusion": 0.5,
    }
    world.add("audits", prediction_id="p7", predicted_at=at(55), picked_at=at(60), **asked)
    told = {"prediction_id": "p7", "business_key": None, "label": "cat", "source": "api", "at": at(58)}
    world.add("outcomes", outcome_id="o1", **told)
    measured = {"statistics": {"kind": "quality", "page": MONITOR}, "alarms": [], "run_id": "m1", "created_at": at(60)}
    world.add("monitor_windows", window_id=f"quality-{'a' * 16}", **measured)
    key = {"name": "shop", "sha256": sha256_hex(b"token"), "scopes": ["predict"], "revoked_at": None}
    world.rows["api_keys"].append({"key_id": "k1", "project": "*", "created_at": at(0), **key})
    return world


class _Open:
    """A catalog that is read inside of a transaction that somebody has open."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        yield self._connection


class Evidence:
    """A sound and sealed world; every edit is rolled back."""

    def __init__(self, path: Path, template: Path) -> None:
        shutil.copy(template, path / "catalog.db")
        self.world = whole_world()
        self.store = FakeObjectStore()
        self.signer = parse_key(new_key(at(0)))
        self.engine = create_engine(f"sqlite:///{path / 'catalog.db'}", signer=self.signer)
        parts = SimpleNamespace(database=Database(self.engine), store=self.store, brisk_store=self.store)
        self.store.objects.update(self.world.objects)
        with parts.database.write() as connection:
            for name, rows in self.world.rows.items():
                connection.execute(t.metadata.tables[name].insert(), rows) if rows else None
            for project in ("pets", "*"):
                for draft in read_drafts(connection, project):
                    append(connection, draft)
        seal(parts, "pets")
        for project in ("pets", "*"):
            note_head(parts, project)
        self.objects = dict(self.store.objects)

    def found(
        self,
        edit: Callable[[sa.Connection], object] | None = None,
        *,
        drop: bool = False,
        after_triggers: bool = False,
    ) -> list[str]:
        """Return what `dethrone verify` says after an owner's edit, who puts the triggers back unless he drops them."""
        with self.engine.connect() as connection:
            try:
                if edit is not None and not after_triggers:
                    _drop_triggers(connection)
                if edit is not None:
                    edit(connection)
                if edit is not None and not drop and not after_triggers:
                    _make_triggers(connection)
                labeling = Labeling(self.world.ls_tasks)
                violations = check(
                    _Open(connection),  # type: ignore[arg-type]
                    self.store,
                    now=NOW,
                    labeling=labeling,
                    public_keys=[self.signer.public],
                    deep=True,
                )
            finally:
                connection.rollback()
        return [str(violation) for violation in violations]

    def with_objects(self, changes: Mapping[str, bytes | None]) -> None:
        """Let the bucket hold other bytes, or nothing, under a key."""
        self.store.objects = {**self.objects, **{key: data for key, data in changes.items() if data is not None}}
        for key in (key for key, data in changes.items() if data is None):
            del self.store.objects[key]


def _drop_triggers(connection: sa.Connection) -> None:
    for table in t.APPEND_ONLY:
        for verb in ("UPDATE", "DELETE"):
            connection.exec_driver_sql(f"DROP TRIGGER {table.name}_append_only_{verb}")


def _make_triggers(connection: sa.Connection) -> None:
    for table in t.APPEND_ONLY:
        for statement in create_statements(table.name, dialect="sqlite"):
            connection.exec_driver_sql(statement)


def columns() -> Iterator[tuple[str, str]]:
    """Yield every table and column of the catalog."""
    for table in t.metadata.sorted_tables:
        for column in table.columns:
            yield table.name, column.name


def edit_of(table_name: str, column_name: str) -> Callable[[sa.Connection], object]:
    """Return the edit of one column of a table's first row to another value of its kind."""
    table = t.metadata.tables[table_name]

    def edit(connection: sa.Connection) -> object:
        row = _first(connection, table)
        value = _other(row[column_name], table.c[column_name])
        where = [table.c[column.name] == row[column.name] for column in table.primary_key]
        return connection.execute(table.update().where(*where).values({column_name: value}))

    return edit


def removal_of(table_name: str) -> Callable[[sa.Connection], object]:
    """Return the removal of a table's first row."""
    table = t.metadata.tables[table_name]

    def edit(connection: sa.Connection) -> object:
        row = _first(connection, table)
        where = [table.c[column.name] == row[column.name] for column in table.primary_key]
        return connection.execute(table.delete().where(*where))

    return edit


def insertion_into(table_name: str) -> Callable[[sa.Connection], object]:
    """Return the insertion of a copy of a table's first row, with another key of the owner's choice."""
    table = t.metadata.tables[table_name]

    def edit(connection: sa.Connection) -> object:
        row = dict(_first(connection, table))
        unique = {column.name for column in table.columns if column.unique}
        unique |= {
            column.name
            for constraint in table.constraints
            if isinstance(constraint, sa.UniqueConstraint)
            for column in constraint.columns
        }
        keys = {column.name for column in table.primary_key} | unique
        # The project stays where there is another key: a row of nobody's project does nothing.
        for name in keys - ({"project"} if len(keys) > 1 else set()):
            if name not in {"kind", "stage", "source"}:
                row[name] = _other(row[name], table.c[name])
        return connection.execute(table.insert(), row)

    return edit


def _first(connection: sa.Connection, table: sa.Table) -> Any:
    rows = connection.execute(sa.select(table)).mappings().all()
    # An API key counts as long as nobody has revoked it; of routes and runs the first is as good as any.
    return rows[0]


def _other(value: Any, column: sa.Column[Any]) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1000
    if isinstance(value, list):
        return [*value, "other"]
    if isinstance(value, dict):
        return value | {"other": "x"}
    if isinstance(column.type, t.UtcDateTime):
        return (value or at(1)) + dt.timedelta(seconds=1)
    return f"{value or ''}x"
