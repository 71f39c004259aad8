"""Reads items back: packs whole and once each, every item's bytes checked against its id."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

from pipeline_tasks.contracts import Item, Location, sha256_hex
from pipeline_tasks.errors import DataCorrupt
from pipeline_tasks.ports import ObjectStore

FEW_ITEMS = 8  # up to so many items of one pack are cheaper to read one by one than with the whole pack
READS = 4


def read_items(store: ObjectStore, items: Iterable[Item]) -> Iterator[tuple[Item, bytes]]:
    """Yield every item with its bytes: pack after pack, inside a pack in the order of the items.

    Holds at most five packs (16 MiB each) at a time.

    Raises:
        DataCorrupt: an item's bytes are missing or do not hash to its id.
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
        DataCorrupt: they do not hash to the item's id.
    """
    got = sha256_hex(data)
    if got != item.item_id:
        place = f"{item.location.object_key} at {item.location.offset}"
        raise DataCorrupt(
            f"{place} must hold the bytes of item {item.item_id} (got {got}). "
            "Restore the object from a backup, or ingest its source again."
        )
    return data


def _read_group(store: ObjectStore, group: Sequence[Item]) -> list[bytes]:
    try:
        if len(group) <= FEW_ITEMS:
            return [store.get_range(item.location) for item in group]
        data = store.get(group[0].location.object_key)
    except KeyError as error:
        raise DataCorrupt(
            f"{group[0].location.object_key} must exist (got no such object). Restore it, or ingest its source again."
        ) from error
    return [_part(data, item.location) for item in group]


def _part(data: bytes, location: Location) -> bytes:
    return data[location.offset : location.offset + location.size_bytes]
