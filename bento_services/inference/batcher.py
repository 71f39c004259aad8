"""Requests that wait together are predicted together.

In place of BentoML's adaptive batching, which (1.4.39, measured) keeps the wait of a past burst for lone requests,
gives every request of a batch the context of the first, fails a batch as a whole, and sheds by the length of its queue.
Here a batch leaves as soon as the model is free, with whatever waits, and never waits for anybody.
"""

from __future__ import annotations

import asyncio
import contextvars
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
NEWEST_PASS_WEIGHT = 0.2
PACE_MARGIN = 1.25  # what is promised to a caller must hold for nearly all


class QueueFullError(Exception):
    """More items wait than can be answered in the caller's time, or at all: try elsewhere or later."""


class TooLateError(Exception):
    """The request waited longer than its caller does."""


class Observer(Protocol):
    """The observer of the batcher; called in the event loop."""

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


@dataclasses.dataclass(frozen=True, slots=True)
class PredictedRows(Generic[RowT]):
    """A request's rows in the order of its items, its wait for the first pass, and the time of its passes."""

    rows: Sequence[RowT]
    queue_seconds: float
    model_seconds: float


@dataclasses.dataclass(slots=True, eq=False)
class _Job(Generic[ItemT, RowT]):
    """One request's items; `rows` grows until each has one."""

    items: Sequence[ItemT]
    future: asyncio.Future[PredictedRows[RowT]]
    queued_at: float
    deadline: float
    num_taken: int = 0
    queue_seconds: float = 0.0
    model_seconds: float = 0.0
    rows: list[RowT] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, slots=True)
class _Part(Generic[ItemT, RowT]):
    """The items of one request in one pass."""

    job: _Job[ItemT, RowT]
    items: Sequence[ItemT]


class MicroBatcher(Generic[ItemT, RowT]):
    """One pass at a time, in one thread of its own; belongs to the event loop that first calls `submit`.

    A request of several items goes into one pass, beside others; only one larger than a whole pass is cut, and its
    parts take turns with the other requests. A pass sees nothing of any request but its items. With `lone_here` an item
    that is alone is predicted in the event loop: handing it to the thread and back costs more than it spares, as long
    as one item takes only milliseconds.
    """

    def __init__(
        self,
        predict: Callable[[Sequence[ItemT]], Sequence[RowT]],
        *,
        max_batch_size: int,
        max_queue: int,
        lone_here: bool = False,
        observer: Observer | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._predict = predict
        self._max_batch_size = max_batch_size
        self._max_queue = max_queue
        self._lone_here = lone_here
        self._observer: Observer = observer or NoObserver()
        self._monotonic = monotonic
        self._waiting: deque[_Job[ItemT, RowT]] = deque()
        self._num_waiting = 0
        self._busy = False
        self._started_at = 0.0
        self._pass_seconds = 0.0  # from a full pass to the next, lately
        self._was_full = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._context = contextvars.Context()  # a pass must not inherit the variables of the request that starts it
        self._inbox: queue.SimpleQueue[list[_Part[ItemT, RowT]] | None] = queue.SimpleQueue()

    @property
    def num_waiting(self) -> int:
        """Return how many items wait for a pass."""
        return self._num_waiting

    def has_room(self, num_items: int, *, deadline: float) -> bool:
        """Return whether so many more items may wait, and be answered before the deadline at the pace of late."""
        num_waiting = self._num_waiting
        if num_waiting + num_items > self._max_queue:
            return False
        if num_waiting < self._max_batch_size:
            return True
        passes = (num_waiting + num_items) / self._max_batch_size + 1.0  # one is under way
        return self._monotonic() + PACE_MARGIN * passes * self._pass_seconds <= deadline

    def submit(self, items: Sequence[ItemT], *, deadline: float) -> asyncio.Future[PredictedRows[RowT]]:
        """Return a future of the items' rows; `deadline` is a time of the monotonic clock.

        The future raises TooLateError when the first pass could not start before the deadline, or, behind a full queue,
        not end before it. Cancelled, its items are left out.

        Raises:
            QueueFullError: too many wait already.
        """
        if not self.has_room(len(items), deadline=deadline):
            raise QueueFullError
        loop = self._loop or self._open()
        job: _Job[ItemT, RowT] = _Job(items, loop.create_future(), self._monotonic(), deadline)
        self._waiting.append(job)
        self._num_waiting += len(items)
        if not self._busy:
            self._busy = True
            # Not at once: what else arrives in this turn of the loop goes along.
            loop.call_soon(self._start, context=self._context)
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
            answer = self._answer(parts)
            if loop.is_closed():
                return
            loop.call_soon_threadsafe(self._finish, parts, answer, context=self._context)

    def _answer(self, parts: Sequence[_Part[ItemT, RowT]]) -> Sequence[RowT] | Exception:
        """Predict the items of a pass; an exception is an answer too."""
        try:
            return self._predict([item for part in parts for item in part.items])
        except Exception as error:  # noqa: BLE001  every waiting caller must hear of it, whatever it is
            return error

    def _after_answers(self, loop: asyncio.AbstractEventLoop, turns: int) -> None:
        """Start the next pass when the answers of the last have left, and what came meanwhile is read."""
        if turns:
            loop.call_soon(self._after_answers, loop, turns - 1, context=self._context)
            return
        self._start()

    def _start(self) -> None:
        """Predict what waits, in the model's thread or, alone, here; busy until nothing waits."""
        now = self._monotonic()
        parts = self._take(now)
        self._busy = bool(parts)
        if not parts:
            self._was_full = False
            return
        if self._was_full:  # what lies between two passes counts too
            self._pace(now - self._started_at)
        for part in parts:
            if not part.job.rows:
                part.job.queue_seconds = now - part.job.queued_at
                self._observer.waited(part.job.queue_seconds)
        size = sum(len(part.items) for part in parts)
        self._observer.passed(size, reason="full" if self._waiting or size >= self._max_batch_size else "free")
        self._started_at, self._was_full = now, size >= self._max_batch_size
        if self._lone_here and size == 1 and not self._waiting:
            self._finish(parts, self._answer(parts))
        else:
            self._inbox.put(parts)

    def _pace(self, seconds: float) -> None:
        known = self._pass_seconds or seconds
        self._pass_seconds = known + NEWEST_PASS_WEIGHT * (seconds - known)

    def _take(self, now: float) -> list[_Part[ItemT, RowT]]:
        """Take the next pass, without those whose caller is gone or would be."""
        parts: list[_Part[ItemT, RowT]] = []
        room = self._max_batch_size
        waiting = self._waiting
        # The last to be answered in time: behind a full queue, a pass is a full one.
        ends_at = now + (self._pass_seconds if self._num_waiting >= self._max_batch_size else 0.0)
        while waiting and room:
            job = waiting[0]
            if job.future.done() or (job.deadline < ends_at and not job.num_taken):
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

    def _finish(self, parts: Sequence[_Part[ItemT, RowT]], answer: Sequence[RowT] | Exception) -> None:
        """Give each request its rows, and let the next pass follow."""
        seconds = self._monotonic() - self._started_at
        self._observer.took(seconds)
        expected = sum(len(part.items) for part in parts)
        if self._was_full and not self._pass_seconds:
            self._pace(seconds)
        if not isinstance(answer, Exception) and len(answer) != expected:
            answer = ValueError(f"the model must answer {expected} rows (got {len(answer)}).")
        position = 0
        for part in parts:
            size = len(part.items)
            rows = answer if isinstance(answer, Exception) else answer[position : position + size]
            part.job.model_seconds += seconds
            _settle(part.job, rows)
            position += size
        if self._loop is not None:
            self._after_answers(self._loop, TURNS_BETWEEN)


def _settle(job: _Job[ItemT, RowT], rows: Sequence[RowT] | Exception) -> None:
    """Give a request its rows."""
    if job.future.done():
        return
    if isinstance(rows, Exception):
        job.future.set_exception(rows)
        return
    job.rows.extend(rows)
    if len(job.rows) == len(job.items):
        job.future.set_result(PredictedRows(job.rows, job.queue_seconds, job.model_seconds))
