"""Single items on their way to one deployment: what finds it busy travels together with what else does.

Nagle's rule. While fewer than MAX_OPEN requests to a deployment are open an item leaves at once and alone; later ones
leave in one request as soon as one of those is answered, when they fill a request, or after a moment. The exchange of a
request costs both ends more than the rest of their work on an item (without it, text at 64 and 256 clients, the gateway
needs 1.7 and 1.9 times its CPU: docs/benchmarks.md), and the model would keep it waiting all the same.
Each item keeps its own checks, answer, log record and replay.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import defaultdict
from collections.abc import Sequence

from bento_services.gateway.routing.inference_client import SAFETENSORS, Predictor, Reply
from pipeline_tasks.contracts import RouteEntry

MAX_OPEN = 2  # one is in the model's pass, one waits behind it
MAX_ITEMS = 32
MAX_BYTES = 1024 * 1024
WAIT_SECONDS = 0.01

_Way = tuple[RouteEntry, tuple[str, ...]]


@dataclasses.dataclass(frozen=True, slots=True)
class WaitingItem:
    """An item that waits for others; whoever waits for its reply may be gone meanwhile."""

    payload: bytes
    media_type: str
    future: asyncio.Future[Reply]


@dataclasses.dataclass(slots=True)
class _Lane:
    """The items on the way to one deployment, and those that wait; the timer runs while something waits."""

    num_open: int = 0
    num_bytes: int = 0
    waiting: list[WaitingItem] = dataclasses.field(default_factory=list)
    timer: asyncio.TimerHandle | None = None


class RequestCoalescer:
    """Asks deployments about single items; lives in one event loop."""

    def __init__(self, client: Predictor, *, wait_seconds: float = WAIT_SECONDS) -> None:
        self._client = client
        self._wait_seconds = wait_seconds
        self._lanes: dict[_Way, _Lane] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, entry: RouteEntry, payload: bytes, *, media_type: str, classes: Sequence[str]) -> Reply:
        """Return the deployment's answer on one item; a tensor has no place in a request of encoded items."""
        if media_type == SAFETENSORS:
            return await self._client.ask(entry, payload, media_type=media_type, classes=classes)
        way = entry, tuple(classes)
        lane = self._lanes.setdefault(way, _Lane())
        if lane.num_open < MAX_OPEN and not lane.waiting:
            lane.num_open += 1
            try:
                return await self._client.ask(entry, payload, media_type=media_type, classes=classes)
            finally:
                self._returned(way, lane)
        if lane.num_bytes + len(payload) > MAX_BYTES:
            self._leave(way, lane)
        loop = asyncio.get_running_loop()
        item = WaitingItem(payload, media_type, loop.create_future())
        lane.waiting.append(item)
        lane.num_bytes += len(payload)
        if len(lane.waiting) == MAX_ITEMS:
            self._leave(way, lane)
        elif lane.timer is None:
            lane.timer = loop.call_later(self._wait_seconds, self._leave, way, lane)
        return await item.future

    def _returned(self, way: _Way, lane: _Lane) -> None:
        lane.num_open -= 1
        if lane.waiting:
            self._leave(way, lane)
        elif not lane.num_open:
            self._lanes.pop(way, None)

    def _leave(self, way: _Way, lane: _Lane) -> None:
        """Send what waits, without those whose caller is gone."""
        if lane.timer is not None:
            lane.timer.cancel()
        waiting = [item for item in lane.waiting if not item.future.done()]
        lane.waiting, lane.num_bytes, lane.timer = [], 0, None
        if waiting:
            lane.num_open += 1
            task = asyncio.get_running_loop().create_task(self._send(way, lane, waiting))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif not lane.num_open:
            self._lanes.pop(way, None)

    async def _send(self, way: _Way, lane: _Lane, items: Sequence[WaitingItem]) -> None:
        try:
            await send_together(self._client, way[0], items, classes=way[1])
        finally:
            self._returned(way, lane)


async def send_together(
    client: Predictor, entry: RouteEntry, items: Sequence[WaitingItem], *, classes: Sequence[str]
) -> None:
    """Ask about the items in one request, an item alone as itself, and give each its reply."""
    replies: Sequence[Reply] = ()
    try:
        if len(items) == 1:
            (lone,) = items
            replies = [await client.ask(entry, lone.payload, media_type=lone.media_type, classes=classes)]
        else:
            replies = await client.ask_many(entry, [item.payload for item in items], classes=classes)
    except Exception as error:  # noqa: BLE001  a defect of ours: every item that waits must hear of it
        for item in items:
            if not item.future.done():
                item.future.set_exception(error)
        return
    for item, reply in zip(items, replies, strict=True):
        if not item.future.done():
            item.future.set_result(reply)


class Bundle:
    """Waits until every item has asked or ended without asking, then sends what there is; in one event loop."""

    def __init__(self, client: Predictor, *, num_items: int) -> None:
        self._client = client
        self._num_missing = num_items
        self._waiting: dict[_Way, list[WaitingItem]] = defaultdict(list)
        self._tasks: set[asyncio.Task[None]] = set()

    def place(self) -> BundlePlace:
        """Return one item's place; each of the items takes one."""
        return BundlePlace(self)

    async def ask(self, entry: RouteEntry, payload: bytes, *, media_type: str, classes: Sequence[str]) -> Reply:
        """Return the answer on an item once all of the bundle are here."""
        item = WaitingItem(payload, media_type, asyncio.get_running_loop().create_future())
        self._waiting[entry, tuple(classes)].append(item)
        self.arrived()
        return await item.future

    def arrived(self) -> None:
        """Count an item that has asked, or that will not; after the last one the requests leave."""
        self._num_missing -= 1
        if self._num_missing > 0:
            return  # below 0: one whose caller had gone asks after all
        for (entry, classes), items in self._waiting.items():
            sending = send_together(self._client, entry, items, classes=classes)
            task = asyncio.get_running_loop().create_task(sending)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._waiting = defaultdict(list)


class BundlePlace:
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
