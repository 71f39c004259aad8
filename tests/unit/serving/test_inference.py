"""The inference service's parts: batches, isolation, bodies, readiness."""

import asyncio
import contextvars
import math
import threading
import time

import numpy as np
import pytest
from starlette.requests import Request

from bento_services.inference.batcher import MicroBatcher, QueueFullError, TooLateError
from bento_services.inference.predictor import BATCH_SIZES, predict_rows, probe, warm_up
from bento_services.inference.schemas import (
    DECODE_IN_THREAD_BYTES,
    MODEL_FAILED,
    JsonAnswer,
    Prediction,
    RawItem,
    Refusal,
    decode_item,
    read_body,
)
from pipeline_tasks.errors import InputError


class Doubles:
    """A model of one number per item; a poisoned item fails its whole pass."""

    version = "A"
    labels = ("low", "high")

    def __init__(self, *, poison: float | None = None, answer=None):
        self.poison = poison
        self.answer = answer
        self.batches = []

    def decode(self, data):
        return np.array([float(data)])

    def example(self):
        return np.array([0.5])

    def predict(self, items):
        self.batches.append(len(items))
        values = [float(item[0]) for item in items]
        if self.poison in values:
            raise RuntimeError("out of memory")
        return self.answer(values) if self.answer else [[1.0 - value, value] for value in values]


def items(*values):
    return [np.array([value]) for value in values]


def test_rows_come_in_the_order_of_their_items():
    rows = predict_rows(Doubles(), items(0.1, 0.2, 0.3))
    assert [row.probabilities[1] for row in rows] == [0.1, 0.2, 0.3]
    assert rows[0] == Prediction("A", ("low", "high"), (0.9, 0.1))


def test_one_poisoned_item_fails_alone():
    model = Doubles(poison=0.2)
    rows = predict_rows(model, items(0.1, 0.2, 0.3))
    assert [type(row) for row in rows] == [Prediction, Refusal, Prediction]
    assert rows[1] == MODEL_FAILED
    assert model.batches == [3, 1, 1, 1]


@pytest.mark.parametrize(
    "answer",
    [
        lambda values: [[math.nan, 1.0]] * len(values),
        lambda values: [[math.inf, 0.0]] * len(values),
        lambda values: [[1.0]] * len(values),
        lambda values: [[0.5, 0.5]] * (len(values) + 1),
        lambda _values: [],
    ],
)
def test_an_answer_without_sense_is_no_answer(answer):
    assert predict_rows(Doubles(answer=answer), items(0.1)) == [MODEL_FAILED]
    assert probe(Doubles(answer=answer)) is False


def test_every_batch_size_is_warmed_and_readiness_is_a_prediction():
    model = Doubles()
    warm_up(model)
    assert tuple(model.batches) == BATCH_SIZES
    assert probe(model) is True
    assert probe(Doubles(poison=0.5)) is False


def batcher(predict, **changes):
    settings = {"max_batch_size": 4, "max_queue": 8, "deadline_seconds": 5.0}
    return MicroBatcher(predict, **(settings | changes))


def run_together(under_test, values):
    async def together():
        return await asyncio.gather(*(under_test.submit(value) for value in values), return_exceptions=True)

    return asyncio.run(together())


def test_what_waits_together_is_predicted_together():
    sizes = []

    def predict(batch):
        sizes.append(len(batch))
        return [value * 2 for value in batch]

    observed = []
    under_test = batcher(predict, observe=lambda size, wait: observed.append((size, wait >= 0)))
    assert run_together(under_test, range(7)) == [0, 2, 4, 6, 8, 10, 12]
    assert sizes == [4, 3]
    assert observed == [(4, True), (3, True)]


def test_a_lone_request_does_not_wait_also_after_a_burst():
    def predict(batch):
        time.sleep(0.02)
        return list(batch)

    async def burst_then_lone():
        under_test = batcher(predict, max_queue=64)
        await asyncio.gather(*(under_test.submit(number) for number in range(64)))
        began = time.monotonic()
        await under_test.submit(0)
        return time.monotonic() - began

    assert asyncio.run(burst_then_lone()) < 0.15


def test_a_full_queue_refuses_and_recovers():
    release = threading.Event()

    def predict(batch):
        release.wait(5)
        return list(batch)

    async def overload():
        under_test = batcher(predict, max_batch_size=1, max_queue=2)
        first = asyncio.ensure_future(under_test.submit(0))
        await asyncio.sleep(0.05)
        waiting = [asyncio.ensure_future(under_test.submit(number)) for number in (1, 2)]
        await asyncio.sleep(0)
        with pytest.raises(QueueFullError):
            await under_test.submit(3)
        release.set()
        answers = await asyncio.gather(first, *waiting)
        return [*answers, await under_test.submit(4)]

    assert asyncio.run(overload()) == [0, 1, 2, 4]


def test_what_waited_too_long_is_not_started():
    now = [0.0]
    started = []

    def predict(batch):
        started.extend(batch)
        now[0] += 10.0
        return list(batch)

    results = run_together(batcher(predict, max_batch_size=1, monotonic=lambda: now[0]), [1, 2, 3])
    assert results[0] == 1
    assert [type(result) for result in results[1:]] == [TooLateError, TooLateError]
    assert started == [1]


def test_a_caller_who_is_gone_is_not_predicted_for():
    started = []
    release = threading.Event()

    def predict(batch):
        release.wait(5)
        started.extend(batch)
        return list(batch)

    async def cancelled():
        under_test = batcher(predict, max_batch_size=1)
        first = asyncio.ensure_future(under_test.submit(1))
        await asyncio.sleep(0.05)
        gone = asyncio.ensure_future(under_test.submit(2))
        last = asyncio.ensure_future(under_test.submit(3))
        await asyncio.sleep(0)
        gone.cancel()
        release.set()
        return await asyncio.gather(first, last)

    assert asyncio.run(cancelled()) == [1, 3]
    assert started == [1, 3]


def test_a_defect_reaches_every_waiting_caller_and_the_batcher_lives_on():
    calls = []

    def predict(batch):
        calls.append(list(batch))
        if len(calls) == 1:
            raise RuntimeError("defect")
        return list(batch)

    under_test = batcher(predict, max_batch_size=2)
    results = run_together(under_test, [1, 2, 3])
    assert [type(result) for result in results] == [RuntimeError, RuntimeError, int]


def test_the_wrong_number_of_rows_is_a_defect():
    results = run_together(batcher(lambda batch: batch[:-1]), [1, 2])
    assert [type(result) for result in results] == [ValueError, ValueError]


def test_the_worker_sees_nothing_of_the_first_request():
    caller = contextvars.ContextVar("caller", default="nobody")
    seen = []

    async def request(under_test, name):
        caller.set(name)
        return await under_test.submit(name)

    async def several():
        under_test = batcher(lambda batch: [seen.append(caller.get()) or value for value in batch])
        await asyncio.gather(request(under_test, "alice"), request(under_test, "bob"))

    asyncio.run(several())
    assert seen == ["nobody", "nobody"]


def request_of(body: list[bytes], **headers: str) -> Request:
    chunks = list(body)

    async def receive():
        if not chunks:
            return {"type": "http.disconnect"}
        data = chunks.pop(0)
        return {"type": "http.request", "body": data, "more_body": bool(chunks)}

    scope = {"type": "http", "headers": [(name.encode(), value.encode()) for name, value in headers.items()]}
    return Request(scope, receive)


def test_a_body_is_refused_from_its_header_or_while_it_arrives():
    assert asyncio.run(read_body(request_of([b"ab", b"cd"]), limit_bytes=4)) == b"abcd"
    with pytest.raises(InputError, match="at most 4 bytes"):
        asyncio.run(read_body(request_of([b"x"], **{"content-length": "5"}), limit_bytes=4))
    with pytest.raises(InputError, match="at most 4 bytes"):
        asyncio.run(read_body(request_of([b"abc", b"de"]), limit_bytes=4))


def refuse(_data):
    raise InputError("an image must be whole (got half).", code="IMAGE_TRUNCATED")


def break_down(_data):
    raise RecursionError


def run_out(_data):
    raise MemoryError


@pytest.mark.parametrize("size", [1, DECODE_IN_THREAD_BYTES + 1])
@pytest.mark.parametrize(
    ("decode", "status", "code"),
    [(refuse, 422, "IMAGE_TRUNCATED"), (break_down, 422, "ITEM_INVALID"), (run_out, 503, "MODEL_FAILED")],
)
def test_an_item_that_does_not_decode_is_a_refusal(decode, status, code, size):
    refusal = asyncio.run(decode_item(b"x" * size, decode=decode))
    assert (refusal.status, refusal.code) == (status, code)


def test_the_body_is_decoded_by_the_loaded_model(monkeypatch):
    monkeypatch.setattr(RawItem, "decoder", None)
    assert asyncio.run(RawItem.from_http_request(request_of([b"1"]), None)).code == "NOT_READY"
    monkeypatch.setattr(RawItem, "decoder", Doubles().decode)
    assert asyncio.run(RawItem.from_http_request(request_of([b"0.5"]), None)) == np.array([0.5])
    too_long = request_of([b"1"], **{"content-length": str(2**40)})
    assert asyncio.run(RawItem.from_http_request(too_long, None)).status == 413
    assert asyncio.run(RawItem.from_http_request(request_of([]), None)).code == "CLIENT_GONE"


def test_an_answer_is_json_and_an_error_keeps_its_status():
    good = asyncio.run(JsonAnswer.to_http_response(Prediction("A", ("x",), (1.0,)), None))
    assert (good.status_code, good.body) == (200, b'{"model_version":"A","labels":["x"],"probabilities":[1.0]}')
    bad = asyncio.run(JsonAnswer.to_http_response(MODEL_FAILED, None))
    assert (bad.status_code, bad.headers["retry-after"]) == (503, "1")
    assert b'"code":"MODEL_FAILED"' in bad.body
