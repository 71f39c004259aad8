"""The client against a scripted gateway: what it sends, what it understands, when it tries again."""

from __future__ import annotations

import base64
import datetime as dt
import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from dethrone_client import (
    ApiError,
    Candidate,
    Client,
    ConnectionFailed,
    ItemError,
    NodeAnswer,
    Prediction,
    PredictionFailed,
    Review,
    Row,
    StillPending,
)

ANSWER = {
    "prediction_id": "p1",
    "model_version": "A",
    "label": "bag",
    "confidence": 0.7,
    "business_label": "Accessory",
    "abstained": False,
    "top": [{"label": "bag", "confidence": 0.7}],
    "needs_review": False,
    "a_later_field": 1,
}
PREDICTION = Prediction("p1", "A", "bag", 0.7, "Accessory", False, (Candidate("bag", 0.7),), False)
ERROR = {"code": "NOT_AN_IMAGE", "message": "m", "field": "body", "request_id": "r"}


class Gateway:
    """Answers in order, or raises; keeps what was asked and how long the client slept."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.requests = []
        self.sleeps = []
        self.now = 0.0

    def __call__(self, request):
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        status, body, *headers = answer
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return httpx.Response(status, content=content, headers=dict(headers))

    def sleep(self, seconds):
        self.sleeps.append(seconds)
        self.now += seconds

    def client(self, **more):
        return Client(
            "http://gateway",
            api_key="k",
            project="fashion",
            transport=httpx.MockTransport(self),
            sleep=self.sleep,
            monotonic=lambda: self.now,
            **more,
        )


def test_a_composed_answer_names_its_nodes():
    node = {"node": "shoes", "project": "boots", "model_version": "A", "label": "boot", "confidence": 0.9}
    prediction = Prediction.from_json(ANSWER | {"answered_by": "shoes", "nodes": [node]})
    assert (prediction.answered_by, prediction.nodes) == ("shoes", (NodeAnswer("shoes", "boots", "A", "boot", 0.9),))
    assert (PREDICTION.answered_by, PREDICTION.nodes) == (None, ())


def test_a_prediction_is_typed_and_the_request_says_who_and_what():
    gateway = Gateway((200, ANSWER))
    with gateway.client() as client:
        prediction = client.predict(
            b"png", media_type="image/png", user_key="u", business_key="b", model_version="A", request_id="r-1"
        )
    assert prediction == PREDICTION
    (request,) = gateway.requests
    assert (request.method, request.url.path, request.content) == ("POST", "/v1/projects/fashion/predict", b"png")
    sent = {name: request.headers[name] for name in ("authorization", "content-type", "x-user-key")}
    assert sent == {"authorization": "Bearer k", "content-type": "image/png", "x-user-key": "u"}
    names = ("x-business-key", "x-model-version", "x-request-id")
    assert [request.headers[name] for name in names] == ["b", "A", "r-1"]


@pytest.mark.parametrize(
    ("item", "content", "media_type"),
    [
        (b"\x00", b"\x00", "application/octet-stream"),
        ("h\u00e9", "h\u00e9".encode(), "text/plain; charset=utf-8"),
        (Row({"a": 1.5, "b": None}), b'{"a": 1.5, "b": null}', "application/json"),
    ],
)
def test_each_kind_of_item_is_encoded_as_itself(item, content, media_type):
    gateway = Gateway((200, ANSWER))
    gateway.client().predict(item)
    assert (gateway.requests[0].content, gateway.requests[0].headers["content-type"]) == (content, media_type)


def test_a_batch_has_an_answer_or_an_error_for_each_item():
    results = [
        {"index": 0, "status": 200, "prediction": ANSWER, "error": None},
        {"index": 1, "status": 422, "prediction": None, "error": ERROR},
    ]
    gateway = Gateway((200, {"request_id": "r", "num_ok": 1, "num_failed": 1, "results": results}))
    answers = gateway.client().predict_batch([b"png", "text", Row({"a": 1})], media_type="image/png")
    assert answers == [PREDICTION, ItemError(422, "NOT_AN_IMAGE", "m", "body")]
    assert json.loads(gateway.requests[0].content) == {
        "items": [
            {"base64": base64.b64encode(b"png").decode(), "media_type": "image/png"},
            {"text": "text"},
            {"row": {"a": 1}},
        ]
    }


def status(state, **more):
    body = {"prediction_id": "p1", "project": "fashion", "status": state, "prediction": None, "error": None}
    return (200, body | {"review": None} | more)


def test_a_later_answer_is_waited_for():
    gateway = Gateway(
        (202, {"prediction_id": "p1", "status": "pending"}),
        status("pending"),
        status("done", prediction=ANSWER),
    )
    client = gateway.client()
    accepted = client.predict_async(b"png", callback_url="https://hooks.example.com/")
    assert client.wait(accepted.prediction_id) == PREDICTION
    assert gateway.requests[0].headers["x-callback-url"] == "https://hooks.example.com/"
    assert [request.url.path for request in gateway.requests[1:]] == ["/v1/predictions/p1"] * 2
    assert gateway.sleeps == [0.5]


def test_waiting_ends_with_the_failure_or_the_time():
    with pytest.raises(PredictionFailed, match="NOT_AN_IMAGE"):
        Gateway(status("failed", error=ERROR)).client().wait("p1")
    with pytest.raises(StillPending, match="must be made within 1 s"):
        Gateway(*[status("pending")] * 9).client().wait("p1", timeout_seconds=1)


def test_a_persons_answer_is_read():
    review = {"state": "answered", "label": "boot", "answered_at": "2026-01-02T03:04:05+00:00"}
    answered = Gateway(status("done", prediction=ANSWER, review=review)).client().status("p1")
    assert answered.review == Review("answered", "boot", dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.timezone.utc))


def test_feedback_and_what_serves():
    described = {
        "project": "fashion",
        "generation": 3,
        "champion_version": "A",
        "deployments": [{"deployment_id": "d1", "model_version": "A", "weight": 100}],
        "classes": ["bag", "boot"],
    }
    gateway = Gateway((202, {"accepted": True, "request_id": "r"}), (200, described))
    client = gateway.client()
    client.feedback("boot", business_key="order-7")
    assert json.loads(gateway.requests[0].content) == {"label": "boot", "business_key": "order-7"}
    assert client.project().deployments[0].weight == 100


@pytest.mark.parametrize("first", [(503, {"error": ERROR}), (429, {"error": ERROR}), httpx.ReadError("x")])
def test_what_is_safe_to_repeat_is_repeated_under_one_request_id(first):
    gateway = Gateway(first, (200, ANSWER))
    assert gateway.client().predict(b"png") == PREDICTION
    ids = {request.headers["x-request-id"] for request in gateway.requests}
    assert (len(gateway.requests), len(ids)) == (2, 1)


def test_retry_after_is_kept_to_within_a_bound():
    gateway = Gateway(
        (503, {"error": ERROR}, ("retry-after", "5")),
        (503, {"error": ERROR}, ("retry-after", "9999")),
        (503, {"error": ERROR}, ("retry-after", "soon")),
        (200, ANSWER),
    )
    gateway.client().predict(b"png")
    assert gateway.sleeps == [5.0, 30.0, 0.4]


def test_in_the_end_the_error_is_raised_with_all_it_says():
    gateway = Gateway(*[(503, {"error": ERROR | {"code": "OVERLOADED"}})] * 3)
    with pytest.raises(ApiError, match="503 OVERLOADED: m") as caught:
        gateway.client(max_retries=2).predict(b"png")
    assert (caught.value.status, caught.value.field, caught.value.request_id) == (503, "body", "r")
    assert len(gateway.requests) == 3
    with pytest.raises(ConnectionFailed, match="got ConnectError"):
        Gateway(*[httpx.ConnectError("x")] * 2).client(max_retries=1).predict(b"png")


@pytest.mark.parametrize("code", [400, 404, 422, 500])
def test_what_repeating_cannot_help_is_not_repeated(code):
    gateway = Gateway((code, {"error": ERROR}))
    with pytest.raises(ApiError, match="NOT_AN_IMAGE"):
        gateway.client().predict(b"png")
    assert gateway.sleeps == []


@pytest.mark.parametrize("body", [b"<html>proxy</html>", b"[]", b'{"error":"x"}'])
def test_an_answer_that_is_not_the_gateways_says_so(body):
    with pytest.raises(ApiError, match="NOT_THE_GATEWAY"):
        Gateway((502, body)).client().predict(b"png")


def test_the_client_needs_httpx_and_nothing_heavier():
    code = "import json, sys, dethrone_client; print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    src = Path(__file__).resolve().parents[1] / "src"
    shown = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(src)}, capture_output=True, text=True, check=True
    )
    loaded = set(json.loads(shown.stdout))
    assert "httpx" in loaded
    assert not loaded & {"torch", "airflow", "bentoml", "numpy", "pydantic", "pipeline_tasks", "bento_services"}
