"""Looks at the bytes of many items: packs whole and once each, a few at a time, and keeps only what is found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

from pipeline_tasks.contracts import Location
from pipeline_tasks.ports import ObjectStore

READERS = 8
Found = TypeVar("Found")


class Place(NamedTuple):
    """The place of an item's bytes, and their SHA-256."""

    location: Location
    content_id: str


def map_items(
    store: ObjectStore, places: Iterable[tuple[str, Place]], look: Callable[[str, bytes], Found]
) -> Iterator[Found]:
    """Yield `look(item id, bytes)` for every (item id, place), pack after pack.

    Holds the bytes of at most READERS packs (16 MiB each) at a time.

    Raises:
        KeyError: an object is not there.
    """
    by_object: dict[str, list[tuple[str, Location]]] = {}
    for item_id, place in places:
        by_object.setdefault(place.location.object_key, []).append((item_id, place.location))

    def look_at(group: tuple[str, list[tuple[str, Location]]]) -> list[Found]:
        key, members = group
        whole = store.get(key) if len(members) > 1 else None
        found = []
        for item_id, place in members:
            data = store.get_range(place) if whole is None else whole[place.offset : place.offset + place.size_bytes]
            found.append(look(item_id, data))
        return found

    with ThreadPoolExecutor(READERS, thread_name_prefix="look-at-items") as pool:
        for found in pool.map(look_at, by_object.items()):
            yield from found
