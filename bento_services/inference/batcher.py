"""Requests that wait together are predicted together.

In place of BentoML's adaptive batching, which (1.4.39, measured) keeps the wait of a past burst for lone requests,
gives every request of a batch the context of the first, fails a batch as a whole, and sheds by the length of its queue.
Here a batch leaves as soon as the model is free, with whatever waits: no request ever waits for company.
"""

from __future__ import annotations

import asyncio
import dataclasses
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, Literal, Protocol, TypeVar

ItemT = TypeVar("ItemT")
RowT = TypeVar("RowT")

Reason = Literal["full", "free"]

# Turns of the event loop between two passes: the answers of the last leave, then what has arrived meanwhile is read.
TURNS_BETWEEN = 2


class QueueFullError(Exception):
    """More items wait than can be answered in time: try elsewhere or later."""


class TooLateError(Exception):
    """The request waited longer than its caller does."""


class Observer(Protocol):
    """Who counts what the batcher does; called in the event loop."""

    def waited(self, seconds: float) -> None:
        """Note one request's wait, from its arrival to the start of its first pass."""

    def passed(self, size: int, *, reason: Reason) -> None:
        """Note one pass: its items, and why it left: no further request fitted, or the model was free."""

    def took(self, seconds: float) -> None:
        """Note how long a pass took."""


class NoObserver:
    """Counts nothing."""

    def waited(self, seconds: float) -> None: ...

    def passed(self, size: int, *, reason: Reason) -> None: ...

    def took(self, seconds: float) -> None: ...


@dataclasses.dataclass(slots=True, eq=False)
class _Job(Generic[ItemT, RowT]):
    """One request's items; `rows` grows until each has one."""

    items: Sequence[ItemT]
    future: asyncio.Future[list[RowT]]
    queued_at: float
    deadline: float
    num_taken: int = 0
    rows: list[RowT] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, slots=True)
class _Part(Generic[ItemT, RowT]):
    """What one request has in one pass."""

    job: _Job[ItemT, RowT]
    items: Sequence[ItemT]


class MicroBatcher(Generic[ItemT, RowT]):
    """One pass at a time in one thread of its own; belongs to the event loop that first calls `submit`.

    A request of several items goes into one pass, beside others; only one larger than a whole pass is cut, and its
    parts take turns with the other requests. The thread sees nothing of any request but its items.
    """

    def __init__(
        self,
        predict: Callable[[Sequence[ItemT]], Sequence[RowT]],
        *,
        max_batch_size: int,
        max_queue: int,
        observer: Observer | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._predict = predict
        self._max_batch_size = max_batch_size
        self._max_queue = max_queue
        self._observer: Observer = observer or NoObserver()
        self._monotonic = monotonic
        self._waiting: deque[_Job[ItemT, RowT]] = deque()
        self._num_waiting = 0
        self._busy = False
        self._started_at = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._inbox: queue.SimpleQueue[list[_Part[ItemT, RowT]] | None] = queue.SimpleQueue()

    @property
    def num_waiting(self) -> int:
        """Return how many items wait for a pass."""
        return self._num_waiting

    def submit(self, items: Sequence[ItemT], *, deadline: float) -> asyncio.Future[list[RowT]]:
        """Return a future of the items' rows, in their order; `deadline` is a time of the monotonic clock.

        The future raises TooLateError when the first pass could not start before the deadline. Cancelled, its items are
        left out.

        Raises:
            QueueFullError: too many wait already.
        """
        if self._num_waiting + len(items) > self._max_queue:
            raise QueueFullError
        loop = self._loop or self._open()
        job: _Job[ItemT, RowT] = _Job(items, loop.create_future(), self._monotonic(), deadline)
        self._waiting.append(job)
        self._num_waiting += len(items)
        if not self._busy:
            self._busy = True
            loop.call_soon(self._start)  # not at once: what else arrives in this turn of the loop goes along
        return job.future

    def close(self) -> None:
        """End the thread after its pass."""
        self._inbox.put(None)

    def _open(self) -> asyncio.AbstractEventLoop:
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._work, args=(self._loop,), name="model", daemon=True).start()
        return self._loop

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        """Predict what comes in until told to end; runs in the model's thread."""
        while (parts := self._inbox.get()) is not None:
            items = [item for part in parts for item in part.items]
            answer: Sequence[RowT] | Exception
            try:
                answer = self._predict(items)
            except Exception as error:  # noqa: BLE001  every waiting caller must hear of it, whatever it is
                answer = error
            if loop.is_closed():
                return
            loop.call_soon_threadsafe(self._finish, parts, answer)

    def _start(self, turns: int = 0) -> None:
        """Hand the next pass to the model's thread, `turns` turns of the loop from now; busy until nothing waits."""
        if turns and self._loop is not None:
            self._loop.call_soon(self._start, turns - 1)
            return
        now = self._monotonic()
        parts = self._take(now)
        self._busy = bool(parts)
        if not parts:
            return
        for part in parts:
            if not part.job.rows:
                self._observer.waited(now - part.job.queued_at)
        size = sum(len(part.items) for part in parts)
        self._observer.passed(size, reason="full" if self._waiting or size >= self._max_batch_size else "free")
        self._started_at = now
        self._inbox.put(parts)

    def _take(self, now: float) -> list[_Part[ItemT, RowT]]:
        """Take the next pass, without those whose caller is gone or would be."""
        parts: list[_Part[ItemT, RowT]] = []
        room = self._max_batch_size
        waiting = self._waiting
        while waiting and room:
            job = waiting[0]
            if job.future.done() or (job.deadline < now and not job.num_taken):
                waiting.popleft()
                self._num_waiting -= len(job.items) - job.num_taken
                if not job.future.done():
                    job.future.set_exception(TooLateError())
                continue
            left = len(job.items) - job.num_taken
            if left > room and (parts or len(job.items) <= self._max_batch_size):
                break
            waiting.popleft()
            size = min(left, room)
            items = job.items if size == len(job.items) else job.items[job.num_taken : job.num_taken + size]
            parts.append(_Part(job, items))
            job.num_taken += size
            self._num_waiting -= size
            room -= size
            if size < left:
                waiting.append(job)
        return parts

    def _finish(self, parts: list[_Part[ItemT, RowT]], answer: Sequence[RowT] | Exception) -> None:
        """Give each request its rows, and let the next pass follow."""
        self._observer.took(self._monotonic() - self._started_at)
        expected = sum(len(part.items) for part in parts)
        if not isinstance(answer, Exception) and len(answer) != expected:
            answer = ValueError(f"the model must answer {expected} rows (got {len(answer)}).")
        position = 0
        for part in parts:
            size = len(part.items)
            rows = answer if isinstance(answer, Exception) else answer[position : position + size]
            _settle(part.job, rows)
            position += size
        self._start(TURNS_BETWEEN)


def _settle(job: _Job[ItemT, RowT], rows: Sequence[RowT] | Exception) -> None:
    if job.future.done():
        return
    if isinstance(rows, Exception):
        job.future.set_exception(rows)
        return
    job.rows.extend(rows)
    if len(job.rows) == len(job.items):
        job.future.set_result(job.rows)
