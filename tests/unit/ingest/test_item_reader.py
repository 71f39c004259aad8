"""Bytes by place: each pack once, in the order asked for, and what is gone."""

import pytest

from pipeline_tasks.contracts import Location, sha256_hex
from pipeline_tasks.errors import DataCorrupt
from pipeline_tasks.ingest.item_reader import FEW_ITEMS, PlaceReader, map_items

COUNT = FEW_ITEMS + 4


def put_pack(store, letter):
    """Store a pack of COUNT items of two bytes; return their places."""
    data = "".join(f"{letter}{chr(97 + index)}" for index in range(COUNT)).encode()
    digest = sha256_hex(data)
    key = f"packs/p/{digest[:2]}/{digest}.pack"
    store.put(key, data)
    return [Location(key, 2 * index, 2) for index in range(COUNT)]


def test_the_order_is_that_of_the_question(object_store):
    first, two = put_pack(object_store, "x"), put_pack(object_store, "y")
    asked = [place for pair in zip(first, two, strict=True) for place in pair]
    expected = [f"{letter}{chr(97 + index)}".encode() for index in range(COUNT) for letter in "xy"]
    assert PlaceReader(object_store)(asked) == expected


def test_a_pack_is_fetched_once_for_neighbouring_questions(object_store):
    places = put_pack(object_store, "x")
    read = PlaceReader(object_store)
    read(places)
    assert read(places[:2]) == [b"xa", b"xb"]
    assert (object_store.calls["get"], object_store.calls["get_range"]) == (1, 0)


def test_only_the_last_pack_is_kept(object_store):
    first, two = put_pack(object_store, "x"), put_pack(object_store, "y")
    read = PlaceReader(object_store)
    for places in (first, two, first):
        read(places)
    assert object_store.calls["get"] == 3


def test_few_items_of_a_pack_are_read_alone(object_store):
    places = put_pack(object_store, "x")
    read = PlaceReader(object_store)
    assert read(places[1 : 1 + FEW_ITEMS]) == [f"x{chr(98 + index)}".encode() for index in range(FEW_ITEMS)]
    assert (object_store.calls["get"], object_store.calls["get_range"]) == (0, FEW_ITEMS)


def test_nothing_is_read_for_nothing(object_store):
    assert PlaceReader(object_store)([]) == []


@pytest.mark.parametrize("count", [FEW_ITEMS, COUNT])
def test_an_object_that_is_gone_is_corrupt_data(object_store, count):
    places = put_pack(object_store, "x")
    object_store.delete([places[0].object_key])
    with pytest.raises(DataCorrupt, match=f"{places[0].object_key} must exist \\(got no such object\\)"):
        PlaceReader(object_store)(places[:count])


@pytest.mark.parametrize("threads", [1, 3])
def test_items_are_looked_at_object_after_object(object_store, threads):
    packs = [put_pack(object_store, letter) for letter in "vwxyz"]
    mixed = [place for places in zip(*packs, strict=True) for place in places]
    seen = list(map_items(object_store, enumerate(mixed), lambda key, data: (key, data), threads=threads))
    assert [data for _, data in seen] == [f"{letter}{chr(97 + i)}".encode() for letter in "vwxyz" for i in range(COUNT)]
    assert [mixed[key] for key, _ in seen] == [place for places in packs for place in places]
    assert (object_store.calls["get"], object_store.calls["get_range"]) == (5, 0)


def test_no_more_packs_are_read_than_are_taken(object_store):
    packs = [put_pack(object_store, letter) for letter in "uvwxyz"]
    places = enumerate(place for places in packs for place in places)
    looking = map_items(object_store, places, lambda _, data: data, threads=2)
    next(looking)
    looking.close()
    assert object_store.calls["get"] <= 3


@pytest.mark.parametrize("count", [FEW_ITEMS, COUNT])
def test_looking_at_an_object_that_is_gone_is_corrupt_data(object_store, count):
    places = put_pack(object_store, "x")
    object_store.delete([places[0].object_key])
    with pytest.raises(DataCorrupt, match="must exist"):
        list(map_items(object_store, enumerate(places[:count]), lambda _, data: data))
