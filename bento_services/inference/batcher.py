"""Requests that wait together are predicted together.

In place of BentoML's adaptive batching, which (1.4.39, measured) keeps the wait of a past burst for lone requests,
gives every request of a batch the context of the first, fails a batch as a whole, and sheds by the length of its queue.
Here a batch leaves as soon as the model is free, with whatever waits: no request ever waits for company.
"""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import anyio
import anyio.to_thread

ItemT = TypeVar("ItemT")
RowT = TypeVar("RowT")


class QueueFullError(Exception):
    """More requests wait than can be answered in time: try elsewhere or later."""


class TooLateError(Exception):
    """The request waited longer than its caller does."""


@dataclasses.dataclass(slots=True)
class _Job(Generic[ItemT, RowT]):
    item: ItemT
    future: asyncio.Future[RowT]
    queued_at: float


class MicroBatcher(Generic[ItemT, RowT]):
    """One batch at a time in one thread; belongs to the event loop that calls `submit`.

    `observe` is told each batch's size and its oldest request's wait in seconds.
    """

    def __init__(
        self,
        predict: Callable[[Sequence[ItemT]], Sequence[RowT]],
        *,
        max_batch_size: int,
        max_queue: int,
        deadline_seconds: float,
        observe: Callable[[int, float], None] = lambda _size, _wait: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._predict = predict
        self._max_batch_size = max_batch_size
        self._max_queue = max_queue
        self._deadline_seconds = deadline_seconds
        self._observe = observe
        self._monotonic = monotonic
        self._queue: deque[_Job[ItemT, RowT]] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._limiter = anyio.CapacityLimiter(1)

    async def submit(self, item: ItemT) -> RowT:
        """Return the item's row.

        Raises:
            QueueFullError: too many wait already.
            TooLateError: it could not be started before its deadline.
        """
        if len(self._queue) >= self._max_queue:
            raise QueueFullError
        loop = asyncio.get_running_loop()
        future: asyncio.Future[RowT] = loop.create_future()
        self._queue.append(_Job(item, future, self._monotonic()))
        if self._worker is None or self._worker.done():
            # A context of its own: the worker outlives this request and must see nothing of it.
            self._worker = loop.create_task(self._work(), context=contextvars.Context())
        return await future

    async def _work(self) -> None:
        """Predict until nothing waits."""
        while self._queue:
            jobs = self._take()
            if not jobs:
                continue
            self._observe(len(jobs), self._monotonic() - jobs[0].queued_at)
            try:
                rows = await anyio.to_thread.run_sync(self._predict, [job.item for job in jobs], limiter=self._limiter)
                answers: list[tuple[_Job[ItemT, RowT], RowT]] = list(zip(jobs, rows, strict=True))
            except Exception as error:  # noqa: BLE001  every waiting caller must hear of it, whatever it is
                _fail(jobs, error)
                continue
            for job, row in answers:
                if not job.future.done():
                    job.future.set_result(row)

    def _take(self) -> list[_Job[ItemT, RowT]]:
        """Take the next batch, without those whose caller is gone or would be."""
        jobs: list[_Job[ItemT, RowT]] = []
        latest = self._monotonic() - self._deadline_seconds
        while self._queue and len(jobs) < self._max_batch_size:
            job = self._queue.popleft()
            if job.future.done():
                continue
            if job.queued_at < latest:
                job.future.set_exception(TooLateError())
                continue
            jobs.append(job)
        return jobs


def _fail(jobs: Sequence[_Job[ItemT, RowT]], error: Exception) -> None:
    for job in jobs:
        if not job.future.done():
            job.future.set_exception(error)
