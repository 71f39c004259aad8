"""POST /predict in this process: forms of bodies, refusals, deadlines, identity, what is counted."""

import asyncio
import hashlib
import json
import re
import time

import numpy as np
import pytest
import safetensors.numpy

from bento_services.gateway.routing.inference_client import Failed, read_tensor_reply
from bento_services.inference import endpoint as module
from bento_services.inference.endpoint import Endpoint, PathRouter, read_body
from bento_services.inference.request_decoding import BATCH, NPY, SAFETENSORS, join_batch, npy_bytes, read_safetensors
from bento_services.inference.warmup import warm_through
from pipeline_tasks.errors import InputError
from tests.unit.inference.inference_model import Doubles, ask, endpoint_of


def answer(endpoint, body=b"0.25", **more):
    return asyncio.run(ask(endpoint, body, **more))


def code_of(body):
    return json.loads(body)["error"]["code"]


def test_one_item_is_answered_with_its_probabilities():
    status, headers, body = answer(endpoint_of(Doubles()), content_type="text/plain")
    assert status == 200
    assert json.loads(body) == {"model_version": "A", "labels": ["low", "high"], "probabilities": [0.75, 0.25]}
    timing = headers.pop(b"server-timing").decode()
    assert re.fullmatch(r"decode;dur=\d+\.\d{3}, queue;dur=\d+\.\d{3}, model;dur=\d+\.\d{3}", timing)
    assert headers == {b"content-type": b"application/json", b"content-length": str(len(body)).encode()}


def test_a_batch_is_answered_item_by_item_and_bad_ones_fail_alone():
    batch = join_batch([b"0.25", b"no number", b"9", b"0.5"])
    status, _, body = answer(endpoint_of(Doubles(poison=9.0)), batch, content_type=BATCH, x_request_id="r1")
    document = json.loads(body)
    assert status == 200
    assert document["model_version"] == "A"
    assert document["items"][0] == {"probabilities": [0.75, 0.25]}
    assert document["items"][1]["error"] == {
        "code": "NOT_A_NUMBER",
        "message": "an item must be a number (got text).",
        "field": "body",
        "request_id": "r1",
    }
    assert document["items"][2]["error"]["code"] == "MODEL_FAILED"
    assert document["items"][3] == {"probabilities": [0.5, 0.5]}


def test_an_answer_can_be_asked_for_as_a_tensor_that_another_model_takes():
    status, headers, body = answer(endpoint_of(Doubles()), content_type="text/plain", accept=SAFETENSORS)
    assert (status, headers[b"content-type"]) == (200, SAFETENSORS.encode())
    tensors = safetensors.numpy.load(body)
    assert list(tensors) == ["probabilities"]
    assert (tensors["probabilities"].dtype, tensors["probabilities"].tolist()) == (np.float32, [0.75, 0.25])
    assert read_safetensors(body).tolist() == [0.75, 0.25]
    reply = read_tensor_reply(200, body, version="A", classes=("low", "high"))
    assert (reply.labels, reply.probabilities) == (("low", "high"), (0.75, 0.25))
    assert reply.tensor is body
    assert read_tensor_reply(200, body, version="B", classes=()) == Failed("nonsense")
    assert read_tensor_reply(200, body, version="A", classes=("low", "mid")) == Failed("nonsense")


@pytest.mark.parametrize("more", [{"content_type": BATCH}, {"body": b"x"}])
def test_batches_and_refusals_stay_json_whatever_is_asked_for(more):
    body = join_batch([b"0.25"]) if "content_type" in more else more["body"]
    _, headers, text = answer(
        endpoint_of(Doubles()),
        body,
        **{"accept": SAFETENSORS, "content_type": "text/plain"}
        | {name: value for name, value in more.items() if name != "body"},
    )
    assert headers[b"content-type"] == b"application/json"
    json.loads(text)


def test_a_tensor_of_one_and_of_many():
    endpoint = endpoint_of(Doubles())
    _, _, single = answer(endpoint, npy_bytes(np.array([0.25])), content_type=NPY)
    assert json.loads(single)["probabilities"] == [0.75, 0.25]
    endpoint = endpoint_of(Doubles())
    _, _, many = answer(endpoint, npy_bytes(np.array([[0.25], [0.5]])), content_type=f"{NPY}; a=b")
    assert json.loads(many)["items"] == [{"probabilities": [0.75, 0.25]}, {"probabilities": [0.5, 0.5]}]


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"x", {}, 422, "NOT_A_NUMBER"),
        (b"\0", {"content_type": BATCH}, 422, "BATCH_INVALID"),
        (join_batch([b"1"] * 7), {"content_type": BATCH}, 413, "BATCH_TOO_LARGE"),
        (b"1", {"content_type": NPY}, 422, "TENSOR_INVALID"),
        (b"1", {"content_type": "application/vnd.bentoml+pickle"}, 415, "MEDIA_TYPE_INVALID"),
        (b"1", {"content_encoding": "gzip"}, 415, "MEDIA_TYPE_INVALID"),
        (b"1", {"content_length": str(2**40)}, 413, "BODY_TOO_LARGE"),
        (b"1", {"x_request_timeout_ms": "0"}, 400, "HEADER_INVALID"),
        (b"1", {"x_request_timeout_ms": "-5"}, 400, "HEADER_INVALID"),
        (b"1", {"x_request_timeout_ms": "9" * 10}, 400, "HEADER_INVALID"),
        (b"1", {"method": "GET"}, 405, "METHOD_NOT_ALLOWED"),
    ],
)
def test_what_cannot_be_answered_says_why(body, headers, status, code):
    endpoint = endpoint_of(Doubles())
    got, _, text = answer(endpoint, body, **headers)
    assert (got, code_of(text)) == (status, code)
    assert endpoint.metrics.requests == {status: 1}
    assert endpoint.metrics.items[code] == 1


def test_before_the_model_is_loaded_nothing_is_taken():
    status, headers, body = answer(Endpoint())
    assert (status, code_of(body), headers[b"retry-after"]) == (503, "NOT_READY", b"1")


def test_a_failed_model_is_503_and_an_own_defect_is_a_500_without_its_trace(monkeypatch):
    status, headers, body = answer(endpoint_of(Doubles(poison=0.25)), x_request_id="r-1")
    assert (status, code_of(body), headers[b"retry-after"]) == (503, "MODEL_FAILED", b"1")
    assert headers[b"x-request-id"] == b"r-1"
    assert json.loads(body)["error"]["request_id"] == "r-1"

    def broken(*_args, **_more):
        raise RuntimeError("secret detail")

    monkeypatch.setattr(module, "read_content", broken)
    status, _, body = answer(endpoint_of(Doubles()))
    assert (status, code_of(body)) == (500, "INTERNAL")
    assert b"secret" not in body


def test_a_request_id_that_could_be_a_header_is_not_returned():
    _, headers, _ = answer(endpoint_of(Doubles()), x_request_id="a\r\nset-cookie: b")
    assert b"x-request-id" not in headers


class Slow(Doubles):
    def predict(self, batch):
        time.sleep(0.1)
        return super().predict(batch)


def test_a_full_queue_is_503_at_once_for_the_whole_request():
    async def overload():
        endpoint = endpoint_of(Slow(), max_batch_size=1, max_queue=2)
        first = asyncio.ensure_future(ask(endpoint, b"0.5"))
        await asyncio.sleep(0.03)
        waiting = [asyncio.ensure_future(ask(endpoint, b"0.5")) for _ in range(2)]
        await asyncio.sleep(0)
        refused = await ask(endpoint, join_batch([b"1", b"2"]), content_type=BATCH)
        return refused, [status for status, _, _ in await asyncio.gather(first, *waiting)], endpoint.metrics.items

    (status, headers, body), others, items = asyncio.run(overload())
    assert (status, code_of(body), headers[b"retry-after"]) == (503, "OVERLOADED", b"1")
    assert others == [200, 200, 200]
    assert items == {"OK": 3, "OVERLOADED": 1}  # refused unread: how many items it had is not known


def test_the_callers_deadline_counts():
    async def hurry():
        model = Slow()
        endpoint = endpoint_of(model, max_batch_size=1)
        first = asyncio.ensure_future(ask(endpoint, b"0.5"))
        await asyncio.sleep(0.03)
        patient = asyncio.ensure_future(ask(endpoint, b"0.5", x_request_timeout_ms="5000"))
        late = await ask(endpoint, b"0.5", x_request_timeout_ms="20")
        await asyncio.gather(first, patient)
        return late, patient.result()[0], model.batches

    (status, _, body), patient, batches = asyncio.run(hurry())
    assert (status, code_of(body)) == (504, "DEADLINE_EXCEEDED")
    assert patient == 200
    assert batches == [1, 1]


def test_a_hundred_at_once_get_their_own_answers():
    async def many():
        endpoint = endpoint_of(Doubles(poison=77.0), max_queue=200)
        return await asyncio.gather(
            *(ask(endpoint, b"%d" % number, x_request_id=f"r{number}") for number in range(100))
        )

    for number, (status, headers, body) in enumerate(asyncio.run(many())):
        assert headers[b"x-request-id"] == b"r%d" % number
        assert status == (503 if number == 77 else 200)
        assert number == 77 or json.loads(body)["probabilities"] == [1.0 - number, float(number)]


def body_of(*chunks, **more):
    async def receive():
        if not left:
            return {"type": "http.disconnect"}
        chunk = left.pop(0)
        if chunk is None:
            await asyncio.sleep(60)
        return {"type": "http.request", "body": chunk, "more_body": bool(left)}

    left = list(chunks)
    return asyncio.run(read_body(receive, **({"declared_bytes": 0, "limit_bytes": 4} | more)))


def test_a_body_is_refused_from_its_header_while_it_arrives_or_when_it_does_not():
    assert body_of(b"ab", b"cd") == b"abcd"
    with pytest.raises(InputError, match="at most 4 bytes") as caught:
        body_of(b"x", declared_bytes=5)
    assert caught.value.code == "BODY_TOO_LARGE"
    with pytest.raises(InputError, match="at most 4 bytes"):
        body_of(b"abc", b"de")
    with pytest.raises(InputError, match=r"within 0\.01 s") as caught:
        body_of(b"a", None, seconds=0.01)
    assert caught.value.code == "BODY_TOO_SLOW"
    with pytest.raises(InputError, match="arrive whole") as caught:
        body_of()
    assert caught.value.code == "CLIENT_GONE"


def test_big_bodies_are_decoded_outside_the_loop(monkeypatch):
    monkeypatch.setattr(module, "DECODE_IN_THREAD_BYTES", 3)
    assert answer(endpoint_of(Doubles()), b"0.5")[0] == 200
    assert answer(endpoint_of(Doubles()), b"bad body")[0] == 422


def test_what_is_counted_is_rendered_for_prometheus():
    endpoint = endpoint_of(Doubles())
    answer(endpoint, join_batch([b"1", b"x", b"2"]), content_type=BATCH)
    lines = endpoint.metrics.render({"dethrone_queue_items": 0}, info={"model_version": "A"}).splitlines()
    for line in (
        'dethrone_model_info{model_version="A"} 1',
        'dethrone_requests_total{status="200"} 1',
        'dethrone_items_total{code="NOT_A_NUMBER"} 1',
        'dethrone_items_total{code="OK"} 2',
        'dethrone_batches_total{reason="free"} 1',
        'dethrone_batches_total{reason="full"} 0',
        'dethrone_batch_size_bucket{le="1.0"} 0',
        'dethrone_batch_size_bucket{le="2.0"} 1',
        'dethrone_batch_size_bucket{le="+Inf"} 1',
        "dethrone_batch_size_count 1",
        "dethrone_batch_wait_seconds_count 1",
        "dethrone_pass_seconds_count 1",
        "dethrone_request_seconds_count 1",
        "dethrone_queue_items 0",
    ):
        assert line in lines


class Beneath:
    """Stands for BentoML's stack: notes what reaches it."""

    def __init__(self):
        self.paths = []
        self.middleware_stack = self

    async def __call__(self, scope, _receive, _send):
        self.paths.append(scope.get("path", scope["type"]))


@pytest.mark.parametrize("first", [True, False])
def test_own_paths_are_answered_in_front_of_the_stack_and_others_left_to_it(first):
    beneath, sent = Beneath(), []
    paths = PathRouter(beneath, endpoint=endpoint_of(Doubles()), first=first)

    async def receive():
        return {"type": "http.request", "body": b"0.5", "more_body": False}

    async def send(message):
        sent.append(message)

    async def life():
        await paths({"type": "lifespan", "app": beneath}, receive, send)
        for path, method in (("/predict", "POST"), ("/docs.json", "GET"), ("/", "GET"), ("/readyz", "GET")):
            await beneath.middleware_stack(
                {"type": "http", "path": path, "method": method, "headers": []}, receive, send
            )

    asyncio.run(life())
    if first:
        assert beneath.paths == ["lifespan", "/readyz"]
        assert [message["status"] for message in sent if "status" in message] == [200, 200, 404]
        assert json.loads(sent[-1]["body"])["error"]["code"] == "NOT_FOUND"
        document = json.loads(sent[-3]["body"])
        assert set(document["paths"]) == {"/predict"}
        assert "text/plain" in document["paths"]["/predict"]["post"]["requestBody"]["content"]
    else:
        assert beneath.paths == ["lifespan", "/predict", "/docs.json", "/", "/readyz"]


@pytest.mark.parametrize("path", ["/predict", "/docs.json", "/metrics", "/"])
@pytest.mark.parametrize(
    ("given", "let_in"),
    [
        ([], False),
        ([(b"authorization", b"Bearer k2")], False),
        ([(b"authorization", b"k1")], False),
        ([(b"authorization", b"Bearer ")], False),
        ([(b"authorization", b"Bearer k2"), (b"authorization", b"Bearer k1")], False),
        ([(b"authorization", b"Bearer k1")], True),
    ],
)
def test_all_but_health_asks_for_the_key(path, given, let_in):
    beneath, sent = Beneath(), []
    endpoint = endpoint_of(Doubles())
    endpoint.key_digest = hashlib.sha256(b"k1").digest()
    paths = PathRouter(beneath, endpoint=endpoint, first=False)

    async def receive():
        return {"type": "http.request", "body": b"0.5", "more_body": False}

    async def send(message):
        sent.append(message)

    asyncio.run(paths({"type": "http", "path": path, "method": "POST", "headers": given}, receive, send))
    statuses = [message["status"] for message in sent if "status" in message]
    assert (statuses != [401]) is let_in
    if not let_in:
        assert json.loads(sent[-1]["body"])["error"]["code"] == "KEY_UNKNOWN"
        assert beneath.paths == []
    asyncio.run(paths({"type": "http", "path": "/readyz", "method": "GET", "headers": given}, receive, send))
    assert beneath.paths[-1] == "/readyz"


def test_the_warm_up_runs_every_size_and_every_form():
    model = Doubles()
    endpoint = endpoint_of(model, max_batch_size=3, max_queue=128)
    asyncio.run(warm_through(endpoint, max_batch_size=3))
    assert model.batches[:3] == [1, 2, 3]
    # An encoded item (a text is no number), a batch of one of it, and a tensor; six of each.
    assert endpoint.metrics.requests == {422: 6, 200: 12}


def test_a_flood_is_refused_before_its_bodies_are_read():
    async def flood():
        endpoint = endpoint_of(Slow(), max_batch_size=1, max_queue=1)
        first = asyncio.ensure_future(ask(endpoint, b"0.5"))
        await asyncio.sleep(0.03)
        second = asyncio.ensure_future(ask(endpoint, b"0.5"))
        await asyncio.sleep(0)
        refused = await asyncio.wait_for(ask(endpoint, None, chunks=[None, b"never sent"]), 0.5)
        return refused[0], code_of(refused[2]), [status for status, _, _ in await asyncio.gather(first, second)]

    assert asyncio.run(flood()) == (503, "OVERLOADED", [200, 200])
