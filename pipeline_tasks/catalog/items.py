"""Items, what was seen of each source, what was refused, and how far each source was read."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.database import Repository, columns_of, insert_ignore
from pipeline_tasks.catalog.group_sides import on_their_sides, sides_of
from pipeline_tasks.contracts import Fence, Item, Location, Split
from pipeline_tasks.errors import LostRace

PAGE_ROWS = 5000
_PLAIN_FIELDS = tuple(field.name for field in dataclasses.fields(Item) if field.name != "location")


@dataclasses.dataclass(frozen=True, slots=True)
class Quarantined:
    """One refused piece of data; `object_key` is where its bytes lie, if they were kept."""

    stage: str
    source: str
    key: str
    digest: str
    code: str
    reason: str
    object_key: str | None
    at: dt.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class Cursor:
    """The place up to which a source was read; `generation` grows by one with each move."""

    value: Any
    generation: int


class KnownItem(NamedTuple):
    """A source's statement about an item that is there: its label, which source, and under which key."""

    label: str | None
    source: str
    key: str


@dataclasses.dataclass(frozen=True, slots=True)
class Chunk:
    """The rows of one transaction of an ingest run; the bytes of its items are stored before."""

    project: str
    source: str
    batch_id: str
    items: Sequence[Item]
    seen: Mapping[str, str] = dataclasses.field(default_factory=dict)
    quarantined: Sequence[Quarantined] = ()
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    corrected: Mapping[str, KnownItem] = dataclasses.field(default_factory=dict)
    renewed: Sequence[Item] = ()


class ItemRepository(Repository):
    """Items and the bookkeeping of their sources."""

    def record(self, fence: Fence, chunk: Chunk) -> int:
        """Record a chunk whole or not at all and return how many of its items are new.

        `labels` gives a label from the source to items that have none, `corrected` another label and key to items that
        have one: a new version of the decision follows when labels are accepted. `seen` overwrites.
        `renewed` are items that keep all but their bytes, which were read anew. An item whose group has a side already
        is of that side, whatever it comes with.

        Raises:
            StaleAttempt: a newer attempt holds the lease.
        """
        seen = [
            {"project": chunk.project, "source": chunk.source, "key": key, "fingerprint": fingerprint}
            for key, fingerprint in chunk.seen.items()
        ]
        refused = [{"project": chunk.project, **dataclasses.asdict(entry)} for entry in chunk.quarantined]
        with self.database.write(fence) as connection:
            placed = on_their_sides(connection, chunk.project, chunk.items)
            rows = [_item_row(item, batch_id=chunk.batch_id) for item in placed]
            num_new = insert_ignore(connection, t.items, rows)
            _renew(connection, chunk.renewed)
            _add_labels(connection, project=chunk.project, labels=chunk.labels)
            _correct_labels(connection, project=chunk.project, corrected=chunk.corrected)
            _upsert_seen(connection, seen)
            insert_ignore(connection, t.quarantine, refused)
        return num_new

    def known(self, project: str, item_ids: Iterable[str]) -> dict[str, KnownItem]:
        """Return what the sources said about each of these items that is there."""
        c = t.items.c
        query = sa.select(c.item_id, c.source_label, c.source, c.key).where(c.project == project)
        return {row[0]: KnownItem(*row[1:]) for row in self.database.rows_among(query, c.item_id, item_ids)}

    def known_refusals(self, project: str, source: str, digests: Iterable[str]) -> set[tuple[str, str, str]]:
        """Return the key, digest and code of what is in quarantine already of these digests."""
        c = t.quarantine.c
        query = sa.select(c.key, c.digest, c.code).where(c.project == project, c.source == source)
        return {(row.key, row.digest, row.code) for row in self.database.rows_among(query, c.digest, digests)}

    def seen(self, project: str, source: str, keys: Iterable[str]) -> dict[str, str]:
        """Return the fingerprint at which each of these keys was read last, for those that were."""
        seen = t.seen_objects.c
        query = sa.select(seen.key, seen.fingerprint).where(seen.project == project, seen.source == source)
        return {row.key: row.fingerprint for row in self.database.rows_among(query, seen.key, keys)}

    def get(self, project: str, item_ids: Iterable[str]) -> dict[str, Item]:
        """Return the items with these ids, by id; unknown ids are left out."""
        query = sa.select(t.items).where(t.items.c.project == project)
        return {row.item_id: item_of(row) for row in self.database.rows_among(query, t.items.c.item_id, item_ids)}

    def sides(self, project: str, group_keys: Iterable[str]) -> dict[str, Split]:
        """Return the side of each of these groups that has an item."""
        with self.database.read() as connection:
            return sides_of(connection, project, group_keys)

    def by_content(self, project: str, content_ids: Iterable[str]) -> dict[str, str]:
        """Return by content id an item with that content, for those that have one: of the exam before all others."""
        item = t.items.c
        exam_last = sa.case((item.split == "exam", 1), else_=0)
        query = sa.select(item.content_id, item.item_id).where(item.project == project)
        query = query.order_by(exam_last, item.item_id.desc())
        return {row[0]: row[1] for row in self.database.rows_among(query, item.content_id, content_ids)}

    def iterate(self, project: str, *, split: Split | None = None, batch_id: str | None = None) -> Iterator[Item]:
        """Yield the items of a project in the order of their ids, a page at a time."""
        where = [t.items.c.project == project]
        where += [t.items.c.split == split] if split is not None else []
        where += [t.items.c.batch_id == batch_id] if batch_id is not None else []
        after = ""
        while True:
            query = sa.select(t.items).where(*where, t.items.c.item_id > after)
            page = self.database.rows(query.order_by(t.items.c.item_id).limit(PAGE_ROWS))
            yield from map(item_of, page)
            if len(page) < PAGE_ROWS:
                return
            after = page[-1].item_id

    def count(self, project: str, *, split: Split | None = None, batch_id: str | None = None) -> int:
        """Return how many items a project has, all or those of one split or batch."""
        query = sa.select(sa.func.count()).select_from(t.items).where(t.items.c.project == project)
        query = query if split is None else query.where(t.items.c.split == split)
        query = query if batch_id is None else query.where(t.items.c.batch_id == batch_id)
        return int(self.database.scalar(query))

    def num_groups(self, project: str) -> dict[Split, int]:
        """Return how many groups of items there are on each side."""
        item = t.items.c
        query = (
            sa.select(item.split, sa.func.count(sa.distinct(item.group_key)))
            .where(item.project == project)
            .group_by(item.split)
        )
        return {split: int(count) for split, count in self.database.rows(query)}

    def quarantined(self, project: str, *, limit: int = 1000, offset: int = 0) -> list[Quarantined]:
        """Return what was refused, newest first."""
        c = t.quarantine.c
        query = sa.select(*columns_of(t.quarantine, Quarantined)).where(c.project == project)
        query = query.order_by(c.at.desc(), c.source, c.key, c.stage, c.digest, c.code).limit(limit).offset(offset)
        return self.database.records(Quarantined, query)

    def count_quarantined(self, project: str) -> int:
        """Return how much was refused."""
        query = sa.select(sa.func.count()).select_from(t.quarantine).where(t.quarantine.c.project == project)
        return int(self.database.scalar(query))

    def cursor(self, project: str, name: str) -> Cursor | None:
        """Return how far `name` was read, or None if it never was."""
        query = sa.select(*columns_of(t.cursors, Cursor))
        return self.database.record(Cursor, query.where(t.cursors.c.project == project, t.cursors.c.name == name))

    def move_cursor(
        self, fence: Fence, *, project: str, name: str, value: Any, after: Cursor | None, now: dt.datetime
    ) -> None:
        """Set a cursor, if it still is where it was read.

        Raises:
            LostRace: somebody else moved it.
            StaleAttempt: a newer attempt holds the lease.
        """
        c = t.cursors.c
        row = {"project": project, "name": name, "value": value, "generation": 1, "updated_at": now}
        with self.database.write(fence) as connection:
            if after is None:
                moved = insert_ignore(connection, t.cursors, [row])
            else:
                row["generation"] = after.generation + 1
                where = (c.project == project, c.name == name, c.generation == after.generation)
                moved = connection.execute(t.cursors.update().where(*where).values(row)).rowcount
        if moved != 1:
            raise LostRace(f"the cursor {name} of {project} must be where it was read (got: moved). Read it again.")


def _add_labels(connection: sa.Connection, *, project: str, labels: Mapping[str, str]) -> None:
    if not labels:
        return
    c = t.items.c
    where = (c.project == project, c.item_id == sa.bindparam("id_"), c.source_label.is_(None))
    statement = t.items.update().where(*where).values(source_label=sa.bindparam("label_"))
    connection.execute(statement, [{"id_": item_id, "label_": label} for item_id, label in sorted(labels.items())])


def _correct_labels(connection: sa.Connection, *, project: str, corrected: Mapping[str, KnownItem]) -> None:
    if not corrected:
        return
    where = (t.items.c.project == project, t.items.c.item_id == sa.bindparam("id_"))
    statement = t.items.update().where(*where).values(source_label=sa.bindparam("label_"), key=sa.bindparam("key_"))
    rows = [{"id_": item_id, "label_": to.label, "key_": to.key} for item_id, to in sorted(corrected.items())]
    connection.execute(statement, rows)


def _renew(connection: sa.Connection, items: Sequence[Item]) -> None:
    if not items:
        return
    names = ("object_key", "offset", "size_bytes", "content_id")
    where = (t.items.c.project == sa.bindparam("project_"), t.items.c.item_id == sa.bindparam("id_"))
    rows = [
        {"project_": item.project, "id_": item.item_id}
        | {f"{name}_": value for name, value in _item_row(item, batch_id="").items() if name in names}
        for item in items
    ]
    connection.execute(t.items.update().where(*where).values({name: sa.bindparam(f"{name}_") for name in names}), rows)


def _upsert_seen(connection: sa.Connection, rows: list[dict[str, str]]) -> None:
    if not rows:
        return
    module = postgresql if connection.dialect.name == "postgresql" else sqlite
    insert = module.insert(t.seen_objects)
    statement = insert.on_conflict_do_update(
        index_elements=["project", "source", "key"], set_={"fingerprint": insert.excluded.fingerprint}
    )
    connection.execute(statement, rows)


def _item_row(item: Item, *, batch_id: str) -> dict[str, Any]:
    row = dataclasses.asdict(item)
    location: dict[str, Any] = row.pop("location")
    return row | location | {"batch_id": batch_id}


def item_of(row: sa.Row[Any]) -> Item:
    """Return the item of a row that holds all columns of `items`."""
    fields = {name: getattr(row, name) for name in _PLAIN_FIELDS}
    return Item(**fields, location=Location(row.object_key, row.offset, row.size_bytes))
