"""Reader of stored items: object after object, each read once, or bytes by place in the order asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import TypeVar

from pipeline_tasks.contracts import Item, Location, sha256_hex
from pipeline_tasks.core.ports import ObjectStore
from pipeline_tasks.errors import DataCorrupt

FEW_ITEMS = 8  # up to so many items of one pack are cheaper to read one by one than with the whole pack
READS, READERS = 4, 8
Key = TypeVar("Key")
Seen = TypeVar("Seen")


def read_items(store: ObjectStore, items: Iterable[Item]) -> Iterator[tuple[Item, bytes]]:
    """Yield every item with its bytes: pack after pack, inside a pack in the order of the items.

    Holds at most five packs (16 MiB each) at a time.

    Raises:
        DataCorrupt: an item's bytes are missing or do not hash to its content id.
    """
    places = ((item, item.location) for item in items)
    return map_items(store, places, lambda item, data: (item, check_item(item, data)), threads=READS)


def map_items(
    store: ObjectStore,
    places: Iterable[tuple[Key, Location]],
    look: Callable[[Key, bytes], Seen],
    *,
    threads: int | None = None,
) -> Iterator[Seen]:
    """Yield `look(key, bytes)` for every (key, place), pack after pack; the threads look, too.

    Holds the bytes of at most as many packs (16 MiB each) as there are threads, and what was seen in one more.

    Raises:
        DataCorrupt: an object is gone.
    """
    groups: dict[str, list[tuple[Key, Location]]] = {}
    for key, location in places:
        groups.setdefault(location.object_key, []).append((key, location))

    def look_at(group: Sequence[tuple[Key, Location]]) -> list[Seen]:
        payloads = _read_group(store, [location for _, location in group])
        return [look(key, data) for (key, _), data in zip(group, payloads, strict=True)]

    threads, waiting = threads or READERS, iter(groups.values())
    with ThreadPoolExecutor(threads, thread_name_prefix="read-items") as pool:
        ahead = deque(pool.submit(look_at, group) for group in islice(waiting, threads))
        while ahead:
            seen = ahead.popleft().result()
            ahead.extend(pool.submit(look_at, group) for group in islice(waiting, 1))
            yield from seen


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
        contents, alone = [b""] * len(locations), []
        for key, chosen in rows.items():
            if len(chosen) <= FEW_ITEMS and key != self._key:
                alone += chosen
                continue
            self._fetch(key)
            for row in chosen:
                contents[row] = _part(self._pack, locations[row])
        if alone:
            with ThreadPoolExecutor(READS, thread_name_prefix="read-places") as pool:
                read = partial(_read_range, self._store)
                for row, data in zip(alone, pool.map(read, [locations[row] for row in alone]), strict=True):
                    contents[row] = data
        return contents

    def _fetch(self, key: str) -> None:
        if key != self._key:
            self._key, self._pack = "", b""
            self._key, self._pack = key, _read_pack(self._store, key)


def _read_group(store: ObjectStore, locations: Sequence[Location]) -> list[bytes]:
    """Return the bytes at places in one object."""
    if len(locations) <= FEW_ITEMS:
        return [_read_range(store, location) for location in locations]
    data = _read_pack(store, locations[0].object_key)
    return [_part(data, location) for location in locations]


def _read_pack(store: ObjectStore, key: str) -> bytes:
    with _gone_is_corrupt(key):
        return store.get(key)


def _read_range(store: ObjectStore, location: Location) -> bytes:
    with _gone_is_corrupt(location.object_key):
        return store.get_range(location)


def _part(data: bytes, location: Location) -> bytes:
    return data[location.offset : location.offset + location.size_bytes]


@contextmanager
def _gone_is_corrupt(key: str) -> Iterator[None]:
    try:
        yield
    except KeyError as error:
        raise DataCorrupt(f"{key} must exist (got no such object). Restore it, or ingest its source again.") from error
