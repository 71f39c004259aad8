"""Columns that are declared otherwise later on: a row keeps its item."""

from __future__ import annotations

import json
import re
import sqlite3

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline_tasks.errors import SourceUnavailable
from pipeline_tasks.ingest import task
from pipeline_tasks.ingest.column_versions import next_reading
from pipeline_tasks.ingest.item_reader import read_items
from tests.reported.rows_case import declare
from tests.unit.ingest.conftest import World, without_columns

ROWS = (
    {"id": "1", "amount": "7", "code": "1.10", "label": "yes"},
    {"id": "2", "amount": "NA", "code": "2", "label": ""},
)


def contents(world: World) -> dict[str, list[str]]:
    """Return the contents of the items of each key."""
    texts: dict[str, list[str]] = {}
    for item, data in read_items(world.store, world.items.iterate("some_rows")):
        texts.setdefault(item.key, []).append(data.decode())
    return {key: sorted(values) for key, values in texts.items()}


def ids(world: World) -> dict[str, str]:
    return {item.item_id: item.key for item in world.items.iterate("some_rows")}


def write(world: World, kind: str, rows=ROWS) -> None:
    """Put the same rows into a file of a kind, or into a database."""
    names = list(rows[0])
    if kind == "csv":
        lines = [names, *(list(row.values()) for row in rows)]
        world.write("rows.csv", "".join(f"{','.join(line)}\n" for line in lines))
    elif kind == "jsonl":
        world.write("rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "parquet":
        world.incoming.mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist(list(rows)), world.incoming / "rows.parquet")
    else:
        path = world.folder / "rows.db"
        with sqlite3.connect(path) as connection:
            connection.execute(f"create table r ({', '.join(f'{name} text' for name in names)})")
            connection.executemany(
                f"insert into r values ({','.join('?' * len(names))})", [[*r.values()] for r in rows]
            )
        connection.close()
        world.environment["ROWS_URL"] = f"sqlite:///{path}"
        text = (world.folder / "project.yaml").read_text()
        start, end = text.index("  - type: table"), text.index("\nlabels:")
        (world.folder / "project.yaml").write_text(text[:start] + SQL + text[end:])


SQL = """  - type: sql
    name: shop
    url_variable: ROWS_URL
    query: SELECT * FROM r
    key_column: id
    label_column: label
"""
TEXTS = "{name: amount, type: category, values: ['7']}, {name: code, type: category, values: ['1.10']}"
CHANGES = [
    pytest.param(
        "{name: amount, type: number, missing: [NA]}, {name: code, type: text}",
        ['{"amount":7,"code":"1.10"}', '{"amount":null,"code":"2"}'],
        id="missing-and-type",
    ),
    pytest.param(
        "{name: amount, type: text}, {name: code, type: decimal}",
        ['{"amount":"7","code":"1.1"}', '{"amount":"NA","code":"2"}'],
        id="decimal",
    ),
    pytest.param(
        "{name: amount, type: category, values: ['7']}", ['{"amount":"7"}', '{"amount":"NA"}'], id="a-column-less"
    ),
    pytest.param(
        f"{TEXTS}, {{name: label, type: text}}",
        ['{"amount":"7","code":"1.10","label":"yes"}', '{"amount":"NA","code":"2","label":null}'],
        id="a-column-more",
    ),
]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "sql"])
@pytest.mark.parametrize(("columns", "expected"), CHANGES)
def test_rows_keep_their_items_when_their_columns_change(world, kind, columns, expected):
    """Every row that read otherwise became a second item beside the one with its labels."""
    declare(world, f"[{TEXTS}]")
    write(world, kind)
    world.run()
    before = ids(world)
    declare(world, f"[{columns}]")
    report = world.run(batch="changed")
    assert (report.num_new, ids(world)) == (0, before)
    assert contents(world) == {"1": [expected[0]], "2": [expected[1]]}
    assert report.reading.endswith("items keep their ids; `columns` changed")
    again = world.run(batch="again")
    assert (again.num_new, again.reading, ids(world)) == (0, None, before)


def test_a_row_of_the_time_before_columns_keeps_its_item_through_every_change(world):
    without_columns(world.folder)
    write(world, "csv", [{"id": "1", "amount": "7.0", "country": "DE", "label": "yes"}])
    world.run()
    before = ids(world)
    path = world.folder / "project.yaml"
    old = "[{name: amount, type: number}, {name: country, type: text}]"
    text = path.read_text().replace("    content_columns: [amount, country]\n", "")
    text = re.sub(r"(?m)^  params: .*\n", "", text)
    path.write_text(text.replace("sources:\n", f"columns: {old}\nsources:\n", 1))
    world.run(batch="declared")
    for number, columns in enumerate(
        (
            "[{name: amount, type: decimal}, {name: country, type: text}]",
            "[{name: amount, type: category, values: ['7.0']}]",
            "[{name: amount, type: number, missing: ['7']}, {name: country, type: text}]",
            old,
        )
    ):
        declare(world, columns)
        world.run(batch=f"change-{number}")
        assert ids(world) == before, columns
    assert contents(world) == {"1": ['{"amount":7,"country":"DE"}']}


def test_columns_in_another_order_or_unit_are_the_same_reading(world):
    declare(world, f"[{TEXTS}]")
    write(world, "csv")
    world.run()
    reading = world.items.cursor("some_rows", "reading")
    first, other = TEXTS.split("}, ")
    declare(world, f"[{other}, {first}}}]")
    assert world.run(batch="turned").reading is None
    assert world.items.cursor("some_rows", "reading") == reading


def test_rows_of_a_run_that_failed_keep_their_items_too(world, monkeypatch):
    """The reading is written down before the first row is read by it."""
    declare(world, f"[{TEXTS}]")
    world.run()
    monkeypatch.setattr(task, "_move_cursor", lambda *_, **__: (_ for _ in ()).throw(SourceUnavailable("gone")))
    write(world, "csv")
    declare(world, "[{name: amount, type: number, missing: [NA]}]")
    with pytest.raises(SourceUnavailable, match="gone"):
        world.run(batch="broken")
    monkeypatch.undo()
    before = ids(world)
    declare(world, "[{name: amount, type: text}, {name: code, type: decimal}]")
    assert world.run(batch="mended").num_new == 1, "the row that had no value"
    assert before.items() < ids(world).items()


TWICE = [{"id": "1", "code": "1.10", "label": "yes"}, {"id": "1", "code": "1.1", "label": "yes"}]


def test_one_key_twice_that_is_two_contents_now_is_two_items(world):
    """1.10 and 1.1 were one number: the first of them keeps the item, and no reading gives it back and forth."""
    without_columns(world.folder)
    world.edit("content_columns: [amount, country]", "content_columns: [code]")
    world.edit("{numbers: [amount], categories: {country: [DE, FR, US]}}", "{numbers: [code]}")
    write(world, "csv", TWICE)
    world.run()
    (first,) = ids(world)
    path = world.folder / "project.yaml"
    text = path.read_text().replace("  params: {numbers: [code]}\n", "")
    path.write_text(text.replace("sources:\n", "columns: [{name: code, type: category, values: ['1.1']}]\nsources:\n"))
    for batch in ("columns", "again", "turned"):
        write(world, "csv", TWICE if batch == "columns" else list(reversed(TWICE)))
        world.run(batch=batch)
        assert len(ids(world)) == 2
        (kept,) = read_items(world.store, world.items.get("some_rows", [first]).values())
        assert kept[1] == b'{"code":"1.10"}', batch
    assert contents(world) == {"1": ['{"code":"1.1"}', '{"code":"1.10"}']}


@pytest.mark.parametrize("label", ["yes", "no"], ids=["same-label", "other-label"])
def test_one_key_twice_that_is_one_content_now_is_the_item_of_that_content(world, label):
    """The other item stays as it was, with its label, and back under the first columns each row has its own again."""
    declare(world, "[{name: code, type: category, values: ['1.1']}]")
    write(world, "csv", [TWICE[0] | {"label": label}, TWICE[1]])
    world.run()
    before = ids(world)
    declare(world, "[{name: code, type: decimal}]")
    world.run(batch="decimal")
    assert ids(world) == before
    assert contents(world) == {"1": ['{"code":"1.1"}', '{"code":"1.10"}']}
    assert set(world.refused().values()) == ({"LABEL_CONFLICT"} if label == "no" else set())
    declare(world, "[{name: code, type: category, values: ['1.1']}]")
    assert world.run(batch="back").num_new == 0
    assert ids(world) == before


def test_a_row_whose_item_holds_another_row_now_is_an_item_of_its_own(world):
    """Two rows of one key were one decimal; as texts the second would have the id that the first keeps."""
    declare(world, "[{name: code, type: decimal}]")
    write(world, "csv", TWICE)
    world.run()
    (first,) = ids(world)
    declare(world, "[{name: code, type: category, values: ['1.1']}]")
    for batch in ("texts", "again"):
        write(world, "csv", TWICE)
        world.run(batch=batch)
        assert contents(world) == {"1": ['{"code":"1.1"}', '{"code":"1.10"}']}, batch
    assert first in ids(world)
    assert not world.refused()


def test_a_changed_row_is_a_new_item_under_changed_columns_too(world):
    declare(world, "[{name: code, type: category, values: ['1.1'], missing: [NA, '-']}]")
    write(world, "csv", [TWICE[0], {"id": "2", "code": "NA", "label": "yes"}])
    world.run()
    before = ids(world)
    declare(world, "[{name: code, type: category, values: ['1.1']}]")
    world.run(batch="changed")
    write(world, "csv", [{"id": "1", "code": "1.2", "label": "yes"}])
    assert world.run(batch="other").num_new == 1
    assert before.items() < ids(world).items()


A, B, C = ([{"name": name, "type": "text"}] for name in "abc")


@pytest.mark.parametrize(
    ("before", "columns", "expected"),
    [
        (None, A, {"version": 2, "columns": A}),
        ({"version": 2, "columns": A}, A, {"version": 2, "columns": A}),
        ({"version": 2, "columns": A}, B, {"version": 2, "columns": B, "earlier": [A]}),
        ({"version": 2, "columns": B, "earlier": [A]}, C, {"version": 2, "columns": C, "earlier": [A, B]}),
        ({"version": 2, "columns": B, "earlier": [A]}, A, {"version": 2, "columns": A, "earlier": [B]}),
    ],
    ids=["first", "same", "second", "third", "back"],
)
def test_the_columns_of_before_stay_written_down(before, columns, expected):
    assert next_reading(before, columns) == expected
