"""The repository of items on SQLite and on PostgreSQL."""

import dataclasses
import datetime as dt

import pytest

from pipeline_tasks.catalog import tables
from pipeline_tasks.catalog.database import Database, create_engine
from pipeline_tasks.catalog.items import Chunk, Cursor, ItemRepository, KnownItem, Quarantined
from pipeline_tasks.contracts import Attempt, Item, Location
from pipeline_tasks.errors import LostRace, StaleAttempt

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


@pytest.fixture
def items(catalog_url):
    engine = create_engine(catalog_url)
    tables.metadata.create_all(engine)
    yield ItemRepository(Database(engine))
    engine.dispose()


@pytest.fixture
def fence(items):
    return items.database.acquire("p/ingest", Attempt("r", "ingest"), now=NOW)


def item(number, *, label=None, split="train"):
    item_id = f"{number:064x}"
    return Item(
        "p", item_id, "s", f"k{number}", "g", "image/png", Location("packs/x", number, 1), NOW, split, "source", label
    )


def chunk(*arrived, **changes):
    return Chunk(**{"project": "p", "source": "s", "batch_id": "b", "items": arrived, **changes})


REFUSED = Quarantined("ingest", "s", "bad", "d" * 64, "EMPTY_FILE", "a file must have bytes.", None, NOW)


def test_a_chunk_is_recorded_once(items, fence):
    first = chunk(item(1), item(2, label="cat"), seen={"k1": "f1"}, quarantined=[REFUSED])
    assert items.record(fence, first) == 2
    assert items.record(fence, first) == 0
    assert items.record(fence, chunk(item(2), item(3), batch_id="c", seen={"k1": "f2", "k3": "f3"})) == 1
    assert items.get("p", [item(2).item_id, "unknown"]) == {item(2).item_id: item(2, label="cat")}
    assert items.seen("p", "s", ["k1", "k2", "k3"]) == {"k1": "f2", "k3": "f3"}
    assert items.quarantined("p") == [REFUSED]
    assert [items.count("p"), items.count("p", batch_id="b"), items.count("p", split="exam")] == [3, 2, 0]


def test_labels_are_added_but_never_changed(items, fence):
    ids = [item(n).item_id for n in range(3)]
    items.record(fence, chunk(item(0), item(1, label="cat"), labels={ids[0]: "dog", ids[1]: "dog", ids[2]: "dog"}))
    assert items.known("p", ids) == {ids[0]: KnownItem("dog", "s", "k0"), ids[1]: KnownItem("cat", "s", "k1")}


def test_a_corrected_label_comes_with_its_key(items, fence):
    items.record(fence, chunk(item(1, label="cat")))
    items.record(fence, chunk(corrected={item(1).item_id: KnownItem("dog", "s", "new")}))
    assert items.known("p", [item(1).item_id]) == {item(1).item_id: KnownItem("dog", "s", "new")}


def test_quarantine_takes_any_text_counts_and_pages(items, fence):
    hostile = [f"{number} \0 \udcff \ud800 \u2028\r\n{'x' * 9000}" for number in range(5)]
    refused = [dataclasses.replace(REFUSED, key=text, reason=text) for text in hostile]
    items.record(fence, chunk(quarantined=refused))
    items.record(fence, chunk(quarantined=refused))
    entries = items.quarantined("p")
    assert (items.count_quarantined("p"), items.count_quarantined("q")) == (5, 0)
    assert all(text.isprintable() and len(text) <= 4000 for entry in entries for text in (entry.key, entry.reason))
    assert entries[0].reason.startswith(r"0 \x00 \udcff \ud800 \u2028\x0d\x0axxx")
    assert [items.quarantined("p", limit=2, offset=at) for at in (0, 2, 4)] == [entries[:2], entries[2:4], entries[4:]]
    known = items.known_refusals("p", "s", [REFUSED.digest, "other"])
    assert known == {(entry.key, REFUSED.digest, "EMPTY_FILE") for entry in entries}
    assert items.known_refusals("p", "other", [REFUSED.digest]) == set()


def test_pages_hold_everything_once(items, fence, monkeypatch):
    monkeypatch.setattr("pipeline_tasks.catalog.items.PAGE_ROWS", 7)
    monkeypatch.setattr("pipeline_tasks.catalog.database.SLICE_ROWS", 5)
    everything = [item(n, split="exam" if n % 4 == 0 else "train") for n in range(28)]
    items.record(fence, chunk(*everything))
    assert list(items.iterate("p")) == everything
    assert list(items.iterate("p", split="exam")) == everything[::4]
    assert list(items.iterate("p", batch_id="other")) == []
    assert len(items.get("p", [stored.item_id for stored in everything])) == 28
    assert items.seen("p", "s", [f"k{n}" for n in range(28)]) == {}


def test_groups_are_counted_on_each_side(items, fence):
    grouped = [
        dataclasses.replace(item(n), group_key=f"g{n % 3}", split="exam" if n % 3 else "train") for n in range(9)
    ]
    items.record(fence, chunk(*grouped))
    assert items.num_groups("p") == {"exam": 2, "train": 1}
    assert items.num_groups("q") == {}


def test_projects_are_apart(items, fence):
    items.record(fence, chunk(item(1)))
    other = dataclasses.replace(item(1), project="q")
    assert items.record(fence, Chunk("q", "s", "b", [other])) == 1
    assert items.count("q") == 1


def test_cursors_move_once(items, fence):
    assert items.cursor("p", "source/s") is None
    move = {"project": "p", "name": "source/s", "now": NOW}
    items.move_cursor(fence, value={"a": 1}, after=None, **move)
    assert items.cursor("p", "source/s") == Cursor({"a": 1}, 1)
    with pytest.raises(LostRace, match="the cursor source/s of p must be where it was read"):
        items.move_cursor(fence, value={"a": 2}, after=None, **move)
    items.move_cursor(fence, value={"a": 2}, after=Cursor({"a": 1}, 1), **move)
    assert items.cursor("p", "source/s") == Cursor({"a": 2}, 2)
    with pytest.raises(LostRace, match="Read it again"):
        items.move_cursor(fence, value={"a": 3}, after=Cursor({"a": 1}, 1), **move)


def test_a_stale_attempt_writes_nothing(items, fence):
    items.database.acquire("p/ingest", Attempt("r", "ingest", 2), now=NOW)
    with pytest.raises(StaleAttempt, match="r/ingest/1 must hold the lease p/ingest"):
        items.record(fence, chunk(item(1)))
    with pytest.raises(StaleAttempt, match="publishes nothing"):
        items.move_cursor(fence, project="p", name="n", value=1, after=None, now=NOW)
    assert items.count("p") == 0
