"""Reads items back: packs whole and once each, every item's bytes checked against its content id, or bytes by place."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import NamedTuple, TypeVar

from pipeline_tasks.contracts import Item, Location, sha256_hex
from pipeline_tasks.core.ports import ObjectStore
from pipeline_tasks.errors import DataCorrupt

FEW_ITEMS = 8  # up to so many items of one pack are cheaper to read one by one than with the whole pack
READS = 4


def read_items(store: ObjectStore, items: Iterable[Item]) -> Iterator[tuple[Item, bytes]]:
    """Yield every item with its bytes: pack after pack, inside a pack in the order of the items.

    Holds at most five packs (16 MiB each) at a time.

    Raises:
        DataCorrupt: an item's bytes are missing or do not hash to its content id.
    """
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(item.location.object_key, []).append(item)
    waiting = iter(groups.values())
    ahead: deque[tuple[list[Item], Future[list[bytes]]]] = deque()
    with ThreadPoolExecutor(READS, thread_name_prefix="read-items") as pool:
        for group in islice(waiting, READS):
            ahead.append((group, pool.submit(_read_group, store, group)))
        while ahead:
            group, future = ahead.popleft()
            payloads = future.result()
            for following in islice(waiting, 1):
                ahead.append((following, pool.submit(_read_group, store, following)))
            for item, data in zip(group, payloads, strict=True):
                yield item, check_item(item, data)


def check_item(item: Item, data: bytes) -> bytes:
    """Return the bytes.

    Raises:
        DataCorrupt: they do not hash to the item's content id.
    """
    got = sha256_hex(data)
    if got != item.content_id:
        place = f"{item.location.object_key} at {item.location.offset}"
        wanted = "" if item.content_id == item.item_id else f", which hash to {item.content_id}"
        raise DataCorrupt(
            f"{place} must hold the bytes of item {item.item_id}{wanted} (got {got}). "
            "Restore the object from a backup, or ingest its source again."
        )
    return data


class PlaceReader:
    """Reads bytes by place, in the order asked for; keeps the pack that it read last, since neighbours come next."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._key, self._pack = "", b""

    def __call__(self, locations: Sequence[Location]) -> list[bytes]:
        """Return the bytes at each place; who asks in the order of places reads each pack once.

        Raises:
            DataCorrupt: an object is gone.
        """
        rows: dict[str, list[int]] = {}
        for row, at in enumerate(locations):
            rows.setdefault(at.object_key, []).append(row)
        found, alone = [b""] * len(locations), []
        for key, chosen in rows.items():
            if len(chosen) <= FEW_ITEMS and key != self._key:
                alone += chosen
                continue
            self._fetch(key)
            for row in chosen:
                found[row] = _part(self._pack, locations[row])
        if alone:
            with ThreadPoolExecutor(READS, thread_name_prefix="read-places") as pool:
                for row, data in zip(alone, pool.map(self._range, [locations[row] for row in alone]), strict=True):
                    found[row] = data
        return found

    def _fetch(self, key: str) -> None:
        if key != self._key:
            self._key, self._pack = "", b""
            with _gone_is_corrupt(key):
                self._key, self._pack = key, self._store.get(key)

    def _range(self, location: Location) -> bytes:
        with _gone_is_corrupt(location.object_key):
            return self._store.get_range(location)


@contextmanager
def _gone_is_corrupt(key: str) -> Iterator[None]:
    try:
        yield
    except KeyError as error:
        raise DataCorrupt(f"{key} must exist (got no such object). Restore it, or ingest its source again.") from error


def _read_group(store: ObjectStore, group: Sequence[Item]) -> list[bytes]:
    with _gone_is_corrupt(group[0].location.object_key):
        if len(group) <= FEW_ITEMS:
            return [store.get_range(item.location) for item in group]
        data = store.get(group[0].location.object_key)
    return [_part(data, item.location) for item in group]


def _part(data: bytes, location: Location) -> bytes:
    return data[location.offset : location.offset + location.size_bytes]


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
