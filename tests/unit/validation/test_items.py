import io
import json

import pytest
import sqlalchemy as sa
from PIL import Image

from pipeline_tasks.catalog import tables as t
from pipeline_tasks.contracts import sha256_hex
from pipeline_tasks.errors import GateClosed
from pipeline_tasks.ingest.item_reader import FEW_ITEMS
from pipeline_tasks.validation.item_facts import item_facts
from pipeline_tasks.validation.task import check_items
from tests.unit.validation.builders import Scene, png


def quarantined(scene) -> set[tuple[str, str]]:
    with scene.database.read() as connection:
        return {(row.key, row.code) for row in connection.execute(sa.select(t.quarantine))}


def image(mode: str, size: tuple[int, int], color) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, color).save(buffer, format="PNG")
    return buffer.getvalue()


def test_a_good_batch_passes(scene):
    for index in range(4):
        scene.add_item(png(index))
    report = check_items(scene.project, "b1", **scene.arguments)
    assert (report.severity, report.num_rows, report.num_quarantined) == ("ok", 4, 0)
    assert scene.store.content_types[report.report_key] == "text/html; charset=utf-8"


def test_bad_items_are_put_aside_each_with_its_rule(database, object_store, tmp_path):
    checks = {"min_side_pixels": 3, "max_pixels": 100, "max_item_bytes": 2000}
    scene = Scene(database, object_store, tmp_path, checks=checks)
    for index in range(20):
        scene.add_item(png(index))
    scene.add_item(b"no image", key="text.png")
    scene.add_item(png(90)[:60], key="truncated.png")
    scene.add_item(image("L", (2, 9), 7), key="narrow.png")
    scene.add_item(image("L", (11, 10), 7), key="large.png")
    scene.add_item(png(91), media_type="image/gif", key="type.png")
    scene.add_item(png(92) + b"\0" * 2000, key="heavy.png")
    report = check_items(scene.project, "b1", **scene.arguments)
    assert quarantined(scene) == {
        ("text.png", "READABLE"),
        ("truncated.png", "READABLE"),
        ("narrow.png", "WIDTH"),
        ("large.png", "PIXELS"),
        ("type.png", "MEDIA_TYPE"),
        ("heavy.png", "SIZE_BYTES"),
        ("heavy.png", "READABLE"),
    }
    assert (report.severity, report.num_quarantined) == ("quarantine", 6)


def test_a_flat_image_only_warns(scene):
    scene.add_item(image("RGB", (5, 5), (9, 9, 9)))
    assert check_items(scene.project, "b1", **scene.arguments).severity == "warn"
    assert quarantined(scene) == set()


def test_too_many_bad_items_stop_the_run_but_are_recorded(scene):
    scene.add_item(png(0))
    for index in range(2):
        scene.add_item(f"no image {index}".encode(), key=f"bad{index}")
    with pytest.raises(GateClosed, match=r"at most 50% of the rows may be bad .*got 2 of 3") as caught:
        check_items(scene.project, "b1", **scene.arguments)
    assert caught.value.code == "TOO_MANY_BAD_ROWS"
    assert quarantined(scene) == {("bad0", "READABLE"), ("bad1", "READABLE")}


def test_a_batch_without_one_readable_item_stops_with_the_reason(scene):
    scene.add_item(b"no image")
    with pytest.raises(GateClosed, match="READABLE: readable must be True"):
        check_items(scene.project, "b1", **scene.arguments)


def test_an_empty_batch_is_refused(scene):
    with pytest.raises(GateClosed, match="at least one row") as caught:
        check_items(scene.project, "nothing", **scene.arguments)
    assert caught.value.code == "EMPTY_BATCH"


def test_bytes_that_do_not_match_their_id_stop_the_run(scene):
    ids = [scene.add_item(png(index)) for index in range(3)]
    scene.store.objects["packs/pets/x"] = png(7)
    with scene.database.write() as connection:
        where = t.items.c.item_id == ids[0]
        connection.execute(t.items.update().where(where).values(object_key="packs/pets/x", size_bytes=len(png(7))))
    with pytest.raises(GateClosed, match="digest_matches must be True") as caught:
        check_items(scene.project, "b1", **scene.arguments)
    assert caught.value.code == "BYTES_MATCH_ID"


def test_items_of_one_pack_are_read_with_one_call(scene):
    images = [png(index) for index in range(FEW_ITEMS + 1)]
    pack = b"".join(images)
    key = f"packs/pets/{sha256_hex(pack)[:2]}/{sha256_hex(pack)}.pack"
    scene.store.put(key, pack)
    offset = 0
    for data in images:
        item_id = scene.add_item(data)
        with scene.database.write() as connection:
            where = t.items.c.item_id == item_id
            connection.execute(t.items.update().where(where).values(object_key=key, offset=offset))
        offset += len(data)
    scene.store.calls.clear()
    assert check_items(scene.project, "b1", **scene.arguments).severity == "ok"
    assert (scene.store.calls["get"], scene.store.calls["get_range"]) == (1 + 1, 0)  # the pack, and the report


def test_texts(database, object_store, tmp_path):
    scene = Scene(database, object_store, tmp_path, modality="text", checks={"max_text_characters": 20})
    for index in range(4):
        scene.add_item(f"hello {index}".encode(), media_type="text/plain")
    scene.add_item(b"  \n ", media_type="text/plain", key="spaces")
    scene.add_item(b"x" * 21, media_type="text/plain", key="long")
    scene.add_item(b"\xff\xfe", media_type="text/plain", key="binary")
    check_items(scene.project, "b1", **scene.arguments)
    assert quarantined(scene) == {
        ("spaces", "CHARACTERS"),
        ("spaces", "UNDECODABLE"),
        ("long", "CHARACTERS"),
        ("binary", "READABLE"),
    }


def test_table_rows(database, object_store, tmp_path):
    source = {"type": "table", "path": "rows", "key_column": "id", "content_columns": ["a", "b"], "name": "folder"}
    scene = Scene(database, object_store, tmp_path, modality="tabular", sources=[source])
    for index in range(4):
        scene.add_item(json.dumps({"a": index, "b": None}).encode(), media_type="application/json")
    scene.add_item(b'{"a": 1}', media_type="application/json", key="short")
    scene.add_item(b"[1, 2]", media_type="application/json", key="list")
    check_items(scene.project, "b1", **scene.arguments)
    assert quarantined(scene) == {("short", "FIELD_COUNT"), ("list", "READABLE")}


def test_values_that_a_category_does_not_know_are_counted_and_named(database, object_store, tmp_path):
    source = {"type": "table", "path": "rows", "key_column": "id", "content_columns": ["c"], "name": "folder"}
    recipe = {"name": "tabular_mlp", "params": {"categories": {"c": ["2", "x"]}}}
    scene = Scene(database, object_store, tmp_path, modality="tabular", sources=[source], recipe=recipe)
    for value in ("2", "x", "y", "z", 2, 3, None):
        scene.add_item(json.dumps({"c": value}).encode(), media_type="application/json")
    scene.add_item(b'{"c":"y"}', media_type="application/json")
    report = check_items(scene.project, "b1", **scene.arguments)
    record = scene.datasets.check_of("pets", stage="items", subject="b1")
    assert (report.severity, quarantined(scene)) == ("warn", set())
    assert record.statistics["unmatched_categories"] == {"c": {"'y'": 2, "'z'": 1, "3": 1}}
    (failure,) = record.failures
    assert (failure["rule"], failure["observed"]) == ("KNOWN_CATEGORIES", "c: 'y' (2), 'z' (1), 3 (1)")


def test_facts_of_an_image():
    data = image("RGB", (3, 2), (255, 255, 255))
    facts = item_facts(data, item_id=sha256_hex(data), modality="image", max_pixels=100)
    assert facts == {
        "item_id": sha256_hex(data),
        "digest_matches": True,
        "readable": True,
        "width": 3,
        "height": 2,
        "num_pixels": 6,
        "pixel_mean": 255.0,
        "pixel_spread": 0,
    }


def test_an_image_beyond_the_limit_is_not_decoded():
    facts = item_facts(image("1", (12000, 12000), 1), item_id="x", modality="image", max_pixels=25_000_000)
    assert (facts["num_pixels"], facts["readable"], "pixel_mean" in facts) == (144_000_000, True, False)
