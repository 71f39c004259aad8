"""Answers of an inference service that the gateway believes, and the replica that it asks next."""

import asyncio
import dataclasses
import json

import pytest

from bento_services.gateway.errors import ApiError
from bento_services.gateway.routing.dispatcher import Dispatcher, InferenceRequest
from bento_services.gateway.routing.inference_client import (
    Failed,
    Rejected,
    Scores,
    read_replies,
    read_reply,
    read_tensor_reply,
)
from bento_services.gateway.routing.routes import ProjectRoute, ServingSettings
from bento_services.inference.responses import Answers
from pipeline_tasks.contracts import RouteEntry

CLASSES = ("bag", "boot", "coat")
GOOD = {"model_version": "A", "labels": list(CLASSES), "probabilities": [0.7, 0.2, 0.1]}
SCORES = Scores(CLASSES, (0.7, 0.2, 0.1))
A1 = RouteEntry("a1", "A", "http://a1", 100)
A2 = RouteEntry("a2", "A", "http://a2", 0)
B = RouteEntry("b", "B", "http://b", 0)


def reply(body, status=200, classes=CLASSES):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_reply(status, data, version="A", classes=classes)


def test_a_distribution_over_the_classes_is_believed():
    assert reply(GOOD) == SCORES
    assert reply(GOOD, classes=()) == SCORES


TENSOR = Answers(version="A", labels=CLASSES).tensor((0.5, 0.25, 0.25))


def test_a_tensor_is_believed_alike():
    assert read_tensor_reply(200, TENSOR, version="A", classes=CLASSES) == Scores(CLASSES, (0.5, 0.25, 0.25))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        json.dumps(GOOD).encode(),
        TENSOR[:-1],
        TENSOR + b"\0",
        TENSOR[:7],
        TENSOR.replace(b'"F32"', b'"F64"'),
        TENSOR.replace(b'"__metadata__"', b'"__metabola__"'),
        TENSOR.replace(b'"probabilities"', b'"embeddings___"'),
        TENSOR[:-4] + b"\0\0\xc0\x7f",  # NaN
        TENSOR[:-4] + b"\0\0\x80\x3f",  # they sum to 1.75
        (2**63).to_bytes(8, "little") + TENSOR[8:],
        Answers(version="B", labels=CLASSES).tensor((0.5, 0.25, 0.25)),
        Answers(version="A", labels=("bag", "boot", "hat")).tensor((0.5, 0.25, 0.25)),
    ],
)
def test_a_tensor_of_nonsense_is_not_believed(body):
    assert read_tensor_reply(200, body, version="A", classes=CLASSES) == Failed("nonsense")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"[]",
        b"null",
        GOOD | {"model_version": "B"},
        GOOD | {"labels": ["bag", "boot"]},
        GOOD | {"labels": ["bag", "boot", "boot"]},
        GOOD | {"labels": ["bag", "boot", "hat"]},
        GOOD | {"labels": [1, 2, 3]},
        GOOD | {"labels": "abc"},
        GOOD | {"probabilities": [0.7, 0.3]},
        GOOD | {"probabilities": [0.7, 0.2, 0.2]},
        GOOD | {"probabilities": [1.2, -0.1, -0.1]},
        GOOD | {"probabilities": ["x", 0, 0]},
        GOOD | {"probabilities": None},
        b'{"model_version":"A","labels":["bag","boot","coat"],"probabilities":[NaN,0.5,0.5]}',
        b'{"model_version":"A","labels":["bag","boot","coat"],"probabilities":[Infinity,0,0]}',
        b'{"model_version":"A","labels":["bag","boot","coat"],"probabilities":[1e999,0,0]}',
        {"model_version": "A", "labels": [], "probabilities": []},
    ],
)
def test_nonsense_is_not_believed(body):
    assert reply(body) == Failed("nonsense")


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (500, b"", Failed("failed")),
        (404, b"", Failed("failed")),
        (302, b"", Failed("failed")),
        (429, b"", Failed("overloaded")),
        (504, b'{"error":{"code":"DEADLINE_EXCEEDED"}}', Failed("timeout")),
        (503, b'{"error":{"code":"OVERLOADED"}}', Failed("overloaded")),
        (503, b'{"error":{"code":"MODEL_FAILED"}}', Failed("failed")),
        (422, b'{"error":{"code":"NOT_AN_IMAGE","message":"m"}}', Rejected(422, "NOT_AN_IMAGE", "m")),
        (413, b'{"error":{"code":"BODY_TOO_LARGE","message":"m"}}', Rejected(413, "BODY_TOO_LARGE", "m")),
        (422, b"{}", Failed("nonsense")),
    ],
)
def test_a_status_says_whether_another_replica_can_help(status, body, expected):
    assert reply(body, status=status) == expected


MANY = {"model_version": "A", "labels": list(CLASSES)}
ROW = {"probabilities": [0.7, 0.2, 0.1]}


def replies(body, status=200, count=2):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return list(read_replies(status, data, version="A", classes=CLASSES, count=count))


def test_each_item_of_a_batch_is_judged_for_itself():
    items = [
        ROW,
        {"error": {"code": "NOT_AN_IMAGE", "message": "m"}},
        {"error": {"code": "MODEL_FAILED", "message": "m"}},
        {"error": {}},
        {"error": None},
        {"probabilities": [0.7, 0.2, 0.2]},
        {"probabilities": None},
        {},
        None,
    ]
    nonsense = Failed("nonsense")
    expected = [SCORES, Rejected(422, "NOT_AN_IMAGE", "m"), Failed("failed"), *[nonsense] * 6]
    assert replies(MANY | {"items": items}, count=9) == expected


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        (b"not json", 200, "nonsense"),
        (MANY | {"items": [ROW]}, 200, "nonsense"),
        (MANY | {"items": None}, 200, "nonsense"),
        (MANY | {"items": [ROW, ROW], "model_version": "B"}, 200, "nonsense"),
        ({"items": [ROW, ROW]}, 200, "nonsense"),
        (b'{"error":{"code":"OVERLOADED"}}', 503, "overloaded"),
        (b'{"error":{"code":"DEADLINE_EXCEEDED"}}', 504, "timeout"),
        (b'{"error":{"code":"BATCH_TOO_LARGE","message":"m"}}', 413, "failed"),
        (b"", 500, "failed"),
    ],
)
def test_a_batch_that_fails_as_a_whole_fails_each_item_and_is_told_once(body, status, kind):
    answers = replies(body, status=status)
    assert answers == [Failed(kind), Failed(kind)]
    assert [failed.echo for failed in answers] == [False, True]


class Stub:
    """Answers per deployment, in order; remembers whom it was asked about."""

    def __init__(self, **answers):
        self.answers = answers
        self.asked = []

    async def ask(self, entry, payload, *, media_type, classes):
        self.asked.append(entry.deployment_id)
        await asyncio.sleep(0)
        return self.answers[entry.deployment_id]


def route(*entries, champion="A"):
    return ProjectRoute("fashion", 1, "c1", champion, entries, (), ServingSettings())


def predict(stub, *routes, version=None, dispatcher=None):
    left = list(routes)

    def current():
        return left.pop(0) if len(left) > 1 else left[0]

    dispatcher = dispatcher or Dispatcher(stub, monotonic=lambda: 0.0)
    return asyncio.run(dispatcher.predict(InferenceRequest(b"x", "image/png", "s", version), current_route=current))


def test_a_good_answer_is_not_replayed():
    stub = Stub(a1=SCORES)
    answered = predict(stub, route(A1, A2))
    assert (answered.entry, answered.scores, answered.replayed, stub.asked) == (A1, SCORES, False, ["a1"])


@pytest.mark.parametrize("kind", ["unreachable", "timeout", "overloaded", "failed", "nonsense"])
def test_a_failure_is_replayed_once_on_the_other_replica(kind):
    stub = Stub(a1=Failed(kind), a2=SCORES)
    answered = predict(stub, route(A1, A2))
    assert (answered.entry, answered.replayed, stub.asked) == (A2, True, ["a1", "a2"])


def test_a_failure_follows_a_swap_that_happened_meanwhile():
    stub = Stub(a1=Failed("unreachable"), b=SCORES)
    answered = predict(stub, route(A1), route(dataclasses.replace(B, weight=100), champion="B"))
    assert answered.entry.deployment_id == "b"


def test_an_only_replica_is_asked_twice():
    stub = Stub(a1=Failed("unreachable"))
    with pytest.raises(ApiError, match="must answer with sense and in time") as caught:
        predict(stub, route(A1))
    assert (caught.value.status, caught.value.code, caught.value.retry_after_seconds) == (503, "MODEL_FAILED", 1)
    assert stub.asked == ["a1", "a1"]


def test_a_named_version_is_never_answered_by_another():
    stub = Stub(a1=SCORES, b=Failed("nonsense"))
    with pytest.raises(ApiError, match="must answer with sense"):
        predict(stub, route(A1, B), version="B")
    assert stub.asked == ["b", "b"]
    with pytest.raises(ApiError, match="X-Model-Version must be a version that serves now") as caught:
        predict(stub, route(A1, B), version="Z")
    assert caught.value.status == 404


def test_a_bad_item_is_not_replayed():
    stub = Stub(a1=Rejected(422, "NOT_AN_IMAGE", "m"), a2=SCORES)
    with pytest.raises(ApiError, match="m") as caught:
        predict(stub, route(A1, A2))
    assert (caught.value.status, caught.value.code, stub.asked) == (422, "NOT_AN_IMAGE", ["a1"])


def test_two_full_replicas_are_an_overload():
    with pytest.raises(ApiError, match="free slot") as caught:
        predict(Stub(a1=Failed("overloaded"), a2=Failed("overloaded")), route(A1, A2))
    assert (caught.value.status, caught.value.code) == (503, "OVERLOADED")


def test_a_route_without_entries_serves_nothing():
    with pytest.raises(ApiError, match="must have a champion") as caught:
        predict(Stub(), route())
    assert (caught.value.status, caught.value.retry_after_seconds) == (503, 5)


def test_an_unreachable_replica_is_passed_over_for_a_second():
    now = [0.0]
    stub = Stub(a1=Failed("unreachable"), a2=SCORES)
    dispatcher = Dispatcher(stub, monotonic=lambda: now[0])
    both = route(A1, dataclasses.replace(A2, weight=1))
    predict(stub, both, dispatcher=dispatcher)
    predict(stub, both, dispatcher=dispatcher)
    assert stub.asked == ["a1", "a2", "a2"]
    now[0] = 1.1
    predict(stub, both, dispatcher=dispatcher)
    assert stub.asked[3] == "a1"
    assert dispatcher.num_replays == 2


def test_what_is_in_flight_is_counted_until_its_answer_also_when_that_raises():
    seen = []

    class Slow:
        async def ask(self, entry, payload, *, media_type, classes):
            seen.append(dispatcher.in_flight("a1"))
            await asyncio.sleep(0)
            raise RuntimeError("defect")

    dispatcher = Dispatcher(Slow())

    async def two():
        question = InferenceRequest(b"x", "image/png", "s", None)
        jobs = [dispatcher.predict(question, current_route=lambda: route(A1)) for _ in range(2)]
        return await asyncio.gather(*jobs, return_exceptions=True)

    results = asyncio.run(two())
    assert [type(result) for result in results] == [RuntimeError, RuntimeError]
    assert seen == [1, 2]
    assert dispatcher.in_flight("a1") == 0
