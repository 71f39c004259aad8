"""The items of one client batch on their way: those that go to the same deployment go in one request.

Each item is still checked, routed, judged, replayed and logged for itself; only the way to the model is shared.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence

from bento_services.gateway.client import Asks, Reply
from pipeline_tasks.contracts import RouteEntry

_Parked = tuple[bytes, str, asyncio.Future[Reply]]
_Way = tuple[RouteEntry, tuple[str, ...]]


class Bundle:
    """Waits until every item has asked or ended without asking, then sends what there is; in one event loop."""

    def __init__(self, client: Asks, *, num_items: int) -> None:
        self._client = client
        self._num_missing = num_items
        self._parked: dict[_Way, list[_Parked]] = defaultdict(list)
        self._tasks: set[asyncio.Task[None]] = set()

    def seat(self) -> Seat:
        """Return one item's place; each of the items takes one."""
        return Seat(self)

    async def ask(self, entry: RouteEntry, payload: bytes, *, media_type: str, classes: Sequence[str]) -> Reply:
        """Return the answer on an item once all of the bundle are here."""
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._parked[entry, tuple(classes)].append((payload, media_type, future))
        self.arrived()
        return await future

    async def ask_alone(self, entry: RouteEntry, payload: bytes, *, media_type: str, classes: Sequence[str]) -> Reply:
        """Return the answer on one item by itself: what failed in company must not fail its neighbours again."""
        return await self._client.ask(entry, payload, media_type=media_type, classes=classes)

    def arrived(self) -> None:
        """Count an item that has asked, or that will not; after the last one the requests leave."""
        self._num_missing -= 1
        if self._num_missing:
            return
        for (entry, classes), parked in self._parked.items():
            task = asyncio.get_running_loop().create_task(self._send(entry, parked, classes=classes))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._parked = defaultdict(list)

    async def _send(self, entry: RouteEntry, parked: Sequence[_Parked], *, classes: Sequence[str]) -> None:
        replies: Sequence[Reply] = ()
        try:
            if len(parked) == 1:
                ((payload, media_type, _),) = parked
                replies = [await self._client.ask(entry, payload, media_type=media_type, classes=classes)]
            else:
                replies = await self._client.ask_many(entry, [payload for payload, _, _ in parked], classes=classes)
        except Exception as error:  # noqa: BLE001  a defect of ours: every item that waits must hear of it
            for _, _, future in parked:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, _, future), reply in zip(parked, replies, strict=True):
            if not future.done():
                future.set_result(reply)


class Seat:
    """One item's place in a bundle: it travels with the others the first time it asks, alone when it is replayed."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._taken = False

    async def ask(self, entry: RouteEntry, payload: bytes, *, media_type: str, classes: Sequence[str]) -> Reply:
        """Return the deployment's answer on this item."""
        if self._taken:
            return await self._bundle.ask_alone(entry, payload, media_type=media_type, classes=classes)
        self._taken = True
        return await self._bundle.ask(entry, payload, media_type=media_type, classes=classes)

    def leave(self) -> None:
        """Tell the others not to wait: this item has ended."""
        if not self._taken:
            self._taken = True
            self._bundle.arrived()
