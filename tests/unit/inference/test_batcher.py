"""Items that wait together are predicted together, and nobody gets another's answer."""

import asyncio
import contextvars
import random
import threading
import time

import pytest

from bento_services.inference.batcher import MicroBatcher, QueueFullError, TooLateError

NEVER = float("inf")


class Seen:
    """Remembers what the batcher reports."""

    def __init__(self):
        self.waits = []
        self.passes = []
        self.times = []

    def waited(self, seconds):
        self.waits.append(seconds)

    def passed(self, size, *, reason):
        self.passes.append((size, reason))

    def took(self, seconds):
        self.times.append(seconds)


def batcher(predict, **changes):
    return MicroBatcher(predict, **({"max_batch_size": 4, "max_queue": 64} | changes))


def run_together(under_test, requests, *, deadline=NEVER):
    async def together():
        futures = [under_test.submit(request, deadline=deadline) for request in requests]
        return [getattr(answer, "rows", answer) for answer in await asyncio.gather(*futures, return_exceptions=True)]

    return asyncio.run(together())


def test_lone_items_share_passes_and_the_observer_hears_of_it():
    seen, sizes = Seen(), []

    def predict(batch):
        sizes.append(len(batch))
        return [value * 2 for value in batch]

    answers = run_together(batcher(predict, observer=seen), [[number] for number in range(7)])
    assert answers == [[number * 2] for number in range(7)]
    assert sizes == [4, 3]
    assert seen.passes == [(4, "full"), (3, "free")]
    assert len(seen.waits) == 7
    assert len(seen.times) == 2
    assert min(seen.waits) >= 0


def test_a_client_batch_that_fits_is_never_split_and_a_larger_one_takes_turns():
    passes = []

    def predict(batch):
        passes.append(list(batch))
        return [f"row {value}" for value in batch]

    requests = [["a1", "a2", "a3"], ["b1", "b2"], ["c1", "c2", "c3", "c4", "c5", "c6"], ["d1"], ["e1"]]
    answers = run_together(batcher(predict), requests)
    assert answers == [[f"row {value}" for value in request] for request in requests]
    assert passes == [["a1", "a2", "a3"], ["b1", "b2"], ["c1", "c2", "c3", "c4"], ["d1", "e1", "c5", "c6"]]


def test_every_request_of_any_size_gets_its_own_rows():
    choose = random.Random(0)
    requests = [[(name, number) for number in range(choose.randint(1, 11))] for name in range(300)]

    def predict(batch):
        return [("row", *value) for value in batch]

    answers = run_together(batcher(predict, max_queue=10_000), requests)
    assert answers == [[("row", *value) for value in request] for request in requests]


def test_a_lone_request_does_not_wait_also_after_a_burst():
    def predict(batch):
        time.sleep(0.02)
        return list(batch)

    async def burst_then_lone():
        under_test = batcher(predict)
        await asyncio.gather(*(under_test.submit([number], deadline=NEVER) for number in range(64)))
        began = time.monotonic()
        await under_test.submit([0], deadline=NEVER)
        return time.monotonic() - began

    assert asyncio.run(burst_then_lone()) < 0.15


def test_a_full_queue_refuses_and_recovers():
    release = threading.Event()

    def predict(batch):
        release.wait(5)
        return list(batch)

    async def overload():
        under_test = batcher(predict, max_batch_size=1, max_queue=2)
        first = under_test.submit([0], deadline=NEVER)
        await asyncio.sleep(0.05)
        waiting = under_test.submit([1, 2], deadline=NEVER)
        assert under_test.num_waiting == 2
        with pytest.raises(QueueFullError):
            under_test.submit([3], deadline=NEVER)
        release.set()
        answers = [*(await first).rows, *(await waiting).rows]
        assert under_test.num_waiting == 0
        return [*answers, *(await under_test.submit([4], deadline=NEVER)).rows]

    assert asyncio.run(overload()) == [0, 1, 2, 4]


def test_what_cannot_start_in_time_is_not_started():
    now = [0.0]
    started = []

    def predict(batch):
        started.extend(batch)
        now[0] += 10.0
        return list(batch)

    under_test = batcher(predict, max_batch_size=1, monotonic=lambda: now[0])
    results = run_together(under_test, [[1], [2], [3]], deadline=5.0)
    assert results[0] == [1]
    assert [type(result) for result in results[1:]] == [TooLateError, TooLateError]
    assert started == [1]
    assert under_test.num_waiting == 0


def test_a_caller_who_is_gone_is_not_predicted_for():
    started = []
    release = threading.Event()

    def predict(batch):
        release.wait(5)
        started.extend(batch)
        return list(batch)

    async def cancelled():
        under_test = batcher(predict, max_batch_size=1)
        first = under_test.submit([1], deadline=NEVER)
        await asyncio.sleep(0.05)
        gone = under_test.submit([2], deadline=NEVER)
        last = under_test.submit([3], deadline=NEVER)
        gone.cancel()
        release.set()
        return [done.rows for done in await asyncio.gather(first, last)]

    assert asyncio.run(cancelled()) == [[1], [3]]
    assert started == [1, 3]


def test_a_defect_reaches_every_caller_of_its_pass_and_the_batcher_lives_on():
    calls = []

    def predict(batch):
        calls.append(list(batch))
        if len(calls) == 1:
            raise RuntimeError("defect")
        return list(batch)

    results = run_together(batcher(predict, max_batch_size=2), [[1], [2], [3]])
    assert [type(result) for result in results] == [RuntimeError, RuntimeError, list]


def test_the_wrong_number_of_rows_is_a_defect():
    results = run_together(batcher(lambda batch: batch[:-1]), [[1], [2]])
    assert [type(result) for result in results] == [ValueError, ValueError]


def test_the_model_sees_nothing_of_a_request():
    caller = contextvars.ContextVar("caller", default="nobody")
    seen = []

    async def request(under_test, name):
        caller.set(name)
        return await under_test.submit([name], deadline=NEVER)

    async def several(**changes):
        under_test = batcher(lambda batch: [seen.append(caller.get()) or value for value in batch], **changes)
        await asyncio.gather(request(under_test, "alice"), request(under_test, "bob"))
        await request(under_test, "carol")

    asyncio.run(several())
    asyncio.run(several(lone_here=True))
    assert seen == ["nobody"] * 6


def test_the_thread_ends_when_it_is_closed():
    under_test = batcher(list)
    before = threading.active_count()
    run_together(under_test, [[1]])
    assert threading.active_count() == before + 1
    under_test.close()
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_a_lone_item_is_predicted_in_the_event_loop_and_company_in_the_thread():
    here, threads = threading.get_ident(), []

    def predict(batch):
        threads.append((len(batch), threading.get_ident() == here))
        return list(batch)

    async def lone_then_two():
        under_test = batcher(predict, lone_here=True)
        lone = await under_test.submit([1], deadline=NEVER)
        await asyncio.gather(*(under_test.submit([number], deadline=NEVER) for number in (2, 3)))
        return lone.rows

    assert asyncio.run(lone_then_two()) == [1]
    assert threads == [(1, True), (2, False)]


def test_a_defect_met_in_the_event_loop_reaches_its_caller_only():
    def predict(batch):
        if batch == [1]:
            raise RuntimeError("defect")
        return list(batch)

    async def one_after_another():
        under_test = batcher(predict, lone_here=True)
        with pytest.raises(RuntimeError, match="defect"):
            await under_test.submit([1], deadline=NEVER)
        return (await under_test.submit([2], deadline=NEVER)).rows

    assert asyncio.run(one_after_another()) == [2]


def test_who_could_not_be_answered_in_time_is_refused_at_once():
    now = [0.0]

    def predict(batch):
        now[0] += 1.0
        return list(batch)

    async def flood():
        under_test = batcher(predict, max_batch_size=2, monotonic=lambda: now[0])
        await under_test.submit([1, 2], deadline=NEVER)
        waiting = [under_test.submit([number], deadline=NEVER) for number in range(4)]
        room = [under_test.has_room(1, deadline=now[0] + seconds) for seconds in (4.0, 4.5)]
        with pytest.raises(QueueFullError):
            under_test.submit([9], deadline=now[0] + 3.0)
        await asyncio.gather(*waiting)
        return room, under_test.has_room(1, deadline=now[0])

    assert asyncio.run(flood()) == ([False, True], True)


def test_a_request_is_told_its_wait_and_the_time_of_its_passes():
    now = [0.0]

    def predict(batch):
        now[0] += 2.0
        return list(batch)

    async def three():
        under_test = batcher(predict, max_batch_size=1, monotonic=lambda: now[0])
        futures = [under_test.submit(items, deadline=NEVER) for items in ([1], [2, 3])]
        return [(done.rows, done.queue_seconds, done.model_seconds) for done in await asyncio.gather(*futures)]

    assert asyncio.run(three()) == [([1], 0.0, 2.0), ([2, 3], 2.0, 4.0)]


def test_what_would_end_too_late_behind_a_full_queue_is_not_started():
    now, started = [0.0], []

    def predict(batch):
        started.extend(batch)
        now[0] += 1.0
        return list(batch)

    async def full():
        under_test = batcher(predict, max_batch_size=1, monotonic=lambda: now[0])
        await under_test.submit([0], deadline=NEVER)
        both = [under_test.submit([number], deadline=11.0) for number in (1, 2)]
        now[0] = 9.5  # the first can end at 10.5, the second begin then and end at 11.5
        return await asyncio.gather(*both, return_exceptions=True)

    first, second = asyncio.run(full())
    assert first.rows == [1]
    assert isinstance(second, TooLateError)
    assert started == [0, 1]
