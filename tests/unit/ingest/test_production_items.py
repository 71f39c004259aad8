"""Predictions that become items: idempotent, never on a side of their choice."""

import pytest

from pipeline_tasks.contracts import Attempt, sha256_hex
from pipeline_tasks.ingest.exam_split import split_of
from pipeline_tasks.ingest.item_reader import read_items
from pipeline_tasks.ingest.production_items import ProductionRecord, add_production_items
from tests.unit.ingest.conftest import NOW, png


def add(world, records):
    fence = world.items.database.acquire("p/monitor", Attempt("r", "monitor"), now=NOW)
    return add_production_items(
        world.project.config,
        records=records,
        items=world.items,
        store=world.store,
        fence=fence,
        split_key="secret",
        batch_id="monitor-1",
        now=NOW,
    )


def test_predictions_become_items_once(images):
    records = [ProductionRecord("p1", png(1), "user-7"), ProductionRecord("p2", png(2)), ProductionRecord("p3", png(1))]
    first = add(images, records)
    assert add(images, records) == first
    assert sorted(first) == ["p1", "p2", "p3"]
    assert first["p1"] == first["p3"]
    item = first["p1"]
    assert (item.origin, item.source, item.key, item.group_key) == ("production", "production", "p1", "user-7")
    assert item.split == split_of("user-7", project="some_image", split_key="secret", exam_share=0.1)
    assert first["p2"].group_key == sha256_hex(png(2))
    assert [data for _, data in read_items(images.store, [first["p2"]])] == [png(2)]
    assert images.items.count("some_image") == 2


def test_bytes_that_are_an_item_stay_that_item(images):
    images.write("labeled/cat/1.png", png(1))
    images.run()
    item = add(images, [ProductionRecord("p1", png(1))])["p1"]
    assert (item.origin, item.key, item.source_label) == ("source", "labeled/cat/1.png", "cat")


def test_what_a_guard_refuses_has_no_item(images):
    assert add(images, [ProductionRecord("p1", b"bad"), ProductionRecord("p\n2", png(2))]) == {}
    assert images.refused() == {"p1": "NOT_AN_IMAGE", "p\\x0a2": "KEY_INVALID"}


def test_rows_and_texts(rows, texts):
    item = add(rows, [ProductionRecord("p1", b'{"b": 1, "a": -0.0}')])["p1"]
    assert [data for _, data in read_items(rows.store, [item])] == [b'{"a":0.0,"b":1}']
    item = add(texts, [ProductionRecord("p1", b"a\r\nb")])["p1"]
    assert [data for _, data in read_items(texts.store, [item])] == [b"a\nb"]


@pytest.mark.parametrize("data", [b"{", b"[1]", b"\xff", b"[" * 100_000])
def test_rows_that_are_none(rows, data):
    assert add(rows, [ProductionRecord("p1", data)]) == {}
    assert rows.refused() == {"p1": "ROW_NOT_JSON"}
