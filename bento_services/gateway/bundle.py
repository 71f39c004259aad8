"""The items of one client batch on their way: those that go to the same deployment go in one request.

Each item is still checked, routed, judged, replayed and logged for itself; only the way to the model is shared.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence

from bento_services.gateway.client import Asks, Reply
from bento_services.gateway.gather import Parked, send_together
from pipeline_tasks.contracts import RouteEntry

_Way = tuple[RouteEntry, tuple[str, ...]]


class Bundle:
    """Waits until every item has asked or ended without asking, then sends what there is; in one event loop."""

    def __init__(self, client: Asks, *, num_items: int) -> None:
        self._client = client
        self._num_missing = num_items
        self._parked: dict[_Way, list[Parked]] = defaultdict(list)
        self._tasks: set[asyncio.Task[None]] = set()

    def seat(self) -> Seat:
        """Return one item's place; each of the items takes one."""
        return Seat(self)

    async def ask(self, entry: RouteEntry, payload: bytes, *, media_type: str, classes: Sequence[str]) -> Reply:
        """Return the answer on an item once all of the bundle are here."""
        parked = Parked(payload, media_type, asyncio.get_running_loop().create_future())
        self._parked[entry, tuple(classes)].append(parked)
        self.arrived()
        return await parked.future

    def arrived(self) -> None:
        """Count an item that has asked, or that will not; after the last one the requests leave."""
        self._num_missing -= 1
        if self._num_missing > 0:
            return  # below 0: one whose caller had gone asks after all
        for (entry, classes), parked in self._parked.items():
            sending = send_together(self._client, entry, parked, classes=classes)
            task = asyncio.get_running_loop().create_task(sending)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._parked = defaultdict(list)


class Seat:
    """One item's place in a bundle; a replay travels alone and takes none."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._taken = False

    async def ask(self, entry: RouteEntry, payload: bytes, *, media_type: str, classes: Sequence[str]) -> Reply:
        """Return the deployment's answer on this item."""
        self._taken = True
        return await self._bundle.ask(entry, payload, media_type=media_type, classes=classes)

    def leave(self) -> None:
        """Tell the others not to wait: this item has ended."""
        if not self._taken:
            self._taken = True
            self._bundle.arrived()
