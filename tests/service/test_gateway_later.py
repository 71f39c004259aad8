"""Asynchronous predictions and people's answers over HTTP, in this process; the worker is run by hand."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
import time

import httpx
import pytest

from bento_services.gateway.api import predict_async as module
from bento_services.gateway.async_predictions.callbacks import parse_policy
from bento_services.gateway.async_predictions.reviews import Audited, Review
from bento_services.gateway.request_validation import DECODE_IN_THREAD_BYTES
from bento_services.gateway.routing.inference_client import Failed, Rejected, Scores
from tests.service.conftest import bearer, png, token_of
from tests.service.servers import CLASSES
from tests.service.test_gateway_http import error_of

UNSURE = Scores(CLASSES, (0.4, 0.35, 0.25))
URL = "https://hooks.example.com/x"


def submit(bench, body: bytes | None = None, *, name: str = "shop", project: str = "fashion", **headers: str):
    content = png() if body is None else body
    return bench.client.post(f"/v1/projects/{project}/predict:async", content=content, headers=bearer(name) | headers)


def look(bench, prediction_id: str, *, name: str = "shop"):
    return bench.client.get(f"/v1/predictions/{prediction_id}", headers={"Authorization": f"Bearer {token_of(name)}"})


def allow(bench, text: str = "hooks.example.com") -> None:
    object.__setattr__(bench.gateway.config, "callbacks", parse_policy(text))


def test_an_accepted_prediction_is_pending_then_done_and_logged_once_under_its_id(bench):
    accepted = submit(bench, **{"X-User-Key": "alice", "X-Business-Key": "order 7"})
    assert accepted.status_code == 202
    prediction_id = accepted.json()["prediction_id"]
    assert accepted.json() == {"prediction_id": prediction_id, "status": "pending"}
    assert accepted.headers["location"] == f"/v1/predictions/{prediction_id}"
    pending = look(bench, prediction_id)
    assert (pending.status_code, pending.headers["retry-after"]) == (200, "1")
    assert pending.json() == {
        "prediction_id": prediction_id,
        "project": "fashion",
        "status": "pending",
        "prediction": None,
        "error": None,
        "review": None,
    }
    assert bench.models.asked == []
    bench.work()
    done = look(bench, prediction_id)
    assert "retry-after" not in done.headers
    assert done.json()["status"] == "done"
    assert done.json()["prediction"]["label"] == "bag"
    assert done.json()["prediction"]["prediction_id"] == prediction_id
    assert done.json()["review"] == {"state": "none", "label": None, "answered_at": None}
    (record,) = bench.records()
    assert (record.prediction_id, record.payload) == (prediction_id, png())
    assert (record.user_key, record.business_key, record.client) == ("alice", "order 7", "shop")
    assert bench.counts() == (1, 1, 0)
    bench.work()
    assert len(bench.models.asked) == 1


def test_what_could_never_be_answered_is_refused_at_once(bench):
    assert error_of(submit(bench, b"no image"))[:2] == (422, "NOT_AN_IMAGE")
    assert error_of(submit(bench, **{"Content-Type": "text/plain"}))[:2] == (415, "MEDIA_TYPE_UNSUPPORTED")
    assert error_of(submit(bench, name="texts"))[:2] == (403, "PROJECT_FORBIDDEN")
    assert [record.error_code for record in bench.records()] == ["NOT_AN_IMAGE", "MEDIA_TYPE_UNSUPPORTED"]
    bench.work()
    assert bench.models.asked == []


def test_only_a_key_of_the_project_reads_it_and_others_learn_nothing(bench):
    prediction_id = submit(bench).json()["prediction_id"]
    bench.work()
    assert look(bench, prediction_id, name="reader").json()["status"] == "done"
    assert look(bench, prediction_id, name="stack").status_code == 200
    stranger = look(bench, prediction_id, name="texts")
    nobody = look(bench, "0" * 32)
    assert error_of(stranger) == error_of(nobody) == (404, "PREDICTION_UNKNOWN", "prediction_id")
    assert stranger.json()["error"]["message"] == nobody.json()["error"]["message"]
    assert bench.client.get(f"/v1/predictions/{prediction_id}").status_code == 401


def test_the_same_request_again_is_the_same_prediction(bench):
    first, again = (submit(bench, **{"X-Request-Id": "r-1"}).json() for _ in range(2))
    assert first == again
    bench.work()
    assert submit(bench, **{"X-Request-Id": "r-1"}).json() == first | {"status": "done"}
    assert error_of(submit(bench, png(1), **{"X-Request-Id": "r-1"}))[:2] == (409, "REQUEST_ID_REUSED")
    assert submit(bench, name="reader", **{"X-Request-Id": "r-1"}).json()["prediction_id"] != first["prediction_id"]
    bench.work()
    assert bench.counts()[0] == 2


def test_a_model_that_is_away_is_waited_for_and_given_up_in_the_end(bench, monkeypatch):
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.0)
    bench.models.replies = {"d1": Failed("unreachable"), "d2": Failed("unreachable")}
    prediction_id = submit(bench).json()["prediction_id"]
    bench.work()
    assert look(bench, prediction_id).json()["status"] == "pending"
    assert bench.counts() == (0, 0, 0)
    bench.models.replies = {}
    bench.work()
    assert look(bench, prediction_id).json()["status"] == "done"
    bench.models.replies = {"d1": Failed("unreachable"), "d2": Failed("unreachable")}
    monkeypatch.setattr(module, "GIVE_UP_SECONDS", -1.0)
    given_up = submit(bench, png(1)).json()["prediction_id"]
    bench.work()
    body = look(bench, given_up).json()
    assert (body["status"], body["error"]["code"], body["prediction"]) == ("failed", "MODEL_FAILED", None)
    assert [record.error_code for record in bench.records()] == [None, "MODEL_FAILED"]
    assert bench.counts() == (2, 2, 0)


def test_an_item_that_the_model_refuses_and_a_defect_of_ours_end_as_failed(bench):
    bench.models.replies = {"d1": Rejected(422, "COLUMN_MISSING", "m")}
    refused = submit(bench).json()["prediction_id"]
    bench.work()
    assert look(bench, refused).json()["error"]["code"] == "COLUMN_MISSING"
    bench.models.error = RuntimeError("secret detail")
    broken = submit(bench, png(1)).json()["prediction_id"]
    bench.work()
    body = look(bench, broken)
    assert body.json()["error"]["code"] == "INTERNAL"
    assert "secret" not in body.text


def test_a_full_queue_says_so(bench):
    store = bench.gateway.async_resources.store
    store._limits = store._limits.__class__(max_pending=2)
    assert [submit(bench, png(n)).status_code for n in range(2)] == [202, 202]
    full = submit(bench, png(2))
    assert error_of(full)[:2] == (503, "QUEUE_FULL")
    assert full.headers["retry-after"] == "10"
    bench.work()
    assert submit(bench, png(2)).status_code == 202
    store._limits = store._limits.__class__(max_pending_bytes=10)
    assert error_of(submit(bench, png(3)))[:2] == (503, "QUEUE_FULL")


def test_a_store_that_cannot_be_written_is_said(bench, monkeypatch):
    def broken(*_):
        raise sqlite3.OperationalError("disk I/O error in /srv/path")

    monkeypatch.setattr(bench.gateway.async_resources.store, "_find", broken)
    for response in (submit(bench), look(bench, "a" * 32)):
        assert error_of(response)[:2] == (503, "STORE_AWAY")
        assert "/srv" not in response.text


def test_an_expired_answer_is_gone_and_its_id_known(bench):
    prediction_id = submit(bench).json()["prediction_id"]
    bench.work()
    store = bench.gateway.async_resources.store
    store._limits = store._limits.__class__(keep_seconds=-1.0)
    store.expire().result()
    assert error_of(look(bench, prediction_id))[:2] == (410, "PREDICTION_EXPIRED")
    bench.reviews.audited[prediction_id] = Audited("fashion", Review("answered", "boot", "2026-01-02T00:00:00+00:00"))
    assert look(bench, prediction_id).json()["review"]["label"] == "boot"


def test_a_direct_answer_that_a_person_looks_at_can_be_read_later(bench):
    bench.models.replies = {"d1": UNSURE}
    answer = bench.predict().json()
    assert answer["needs_review"] is True
    status = look(bench, answer["prediction_id"]).json()
    assert (status["status"], status["prediction"]) == ("done", answer)
    assert status["review"]["state"] == "not_asked"
    bench.reviews.audited[answer["prediction_id"]] = Audited("fashion", Review("asked"))
    assert look(bench, answer["prediction_id"]).json()["review"]["state"] == "asked"
    said = Review("answered", "boot", "2026-01-02T03:04:05+00:00")
    bench.reviews.audited[answer["prediction_id"]] = Audited("fashion", said)
    assert look(bench, answer["prediction_id"]).json()["review"] == {
        "state": "answered",
        "label": "boot",
        "answered_at": "2026-01-02T03:04:05+00:00",
    }
    bench.models.replies = {}
    sure = bench.predict(png(1)).json()
    assert error_of(look(bench, sure["prediction_id"]))[:2] == (404, "PREDICTION_UNKNOWN")


def test_a_catalog_that_is_away_is_said_not_guessed(bench):
    bench.models.replies = {"d1": UNSURE}
    prediction_id = bench.predict().json()["prediction_id"]
    bench.reviews.error = OSError("away")
    assert look(bench, prediction_id).json()["review"] == {
        "state": "catalog_away",
        "label": None,
        "answered_at": None,
    }
    elsewhere = look(bench, "f" * 32)
    assert error_of(elsewhere)[:2] == (503, "CATALOG_AWAY")
    assert elsewhere.headers["retry-after"] == "10"


def test_a_catalog_that_hangs_takes_no_thread_from_predictions_and_is_said_to_be_away(bench, monkeypatch):
    monkeypatch.setattr(module, "REVIEW_LOOK_SECONDS", 0.5)
    bench.models.replies = {"d1": UNSURE}
    known = bench.predict().json()["prediction_id"]
    answers_again = threading.Event()
    bench.reviews.find = lambda *_, **__: answers_again.wait(20)
    bench.models.replies = {}

    async def crowd():
        transport = httpx.ASGITransport(app=bench.client.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway", headers=bearer()) as client:
            looks = [asyncio.ensure_future(client.get(f"/v1/predictions/{known}")) for _ in range(60)]
            await asyncio.sleep(0.1)
            began = time.monotonic()
            image = png(side=200)
            assert len(image) > DECODE_IN_THREAD_BYTES
            assert (await client.post("/v1/projects/fashion/predict", content=image)).status_code == 200
            seconds = time.monotonic() - began
            states = [(await look).json()["review"]["state"] for look in looks]
            answers_again.set()
            return seconds, states

    seconds, states = asyncio.run(crowd())
    assert seconds < 0.4
    assert states == ["catalog_away"] * 60


def test_an_audited_prediction_that_only_the_catalog_knows_is_the_projects_to_read(bench):
    bench.reviews.audited["p-old"] = Audited("fashion", Review("answered", "coat", "2026-01-02T00:00:00+00:00"))
    body = look(bench, "p-old").json()
    assert (body["status"], body["prediction"], body["review"]["label"]) == ("done", None, "coat")
    assert error_of(look(bench, "p-old", name="texts"))[:2] == (404, "PREDICTION_UNKNOWN")
    assert error_of(look(bench, "p%0aold"))[:2] == (404, "PREDICTION_UNKNOWN")
    assert error_of(look(bench, "x" * 200))[:2] == (404, "PREDICTION_UNKNOWN")


def test_callbacks_are_off_unless_the_operator_allows_hosts(bench):
    refused = submit(bench, **{"X-Callback-Url": URL})
    assert error_of(refused) == (422, "CALLBACK_NOT_ALLOWED", "X-Callback-Url")
    allow(bench)
    assert submit(bench, **{"X-Callback-Url": URL}).status_code == 202
    assert error_of(submit(bench, **{"X-Callback-Url": "http://hooks.example.com/x"}))[1] == "CALLBACK_NOT_ALLOWED"


def test_a_callback_tells_the_answer_once_and_a_persons_answer_once(bench, monkeypatch):
    monkeypatch.setattr(module, "REVIEW_SECONDS", 0.0)
    allow(bench)
    bench.models.replies = {"d1": UNSURE}
    prediction_id = submit(bench, **{"X-Callback-Url": URL}).json()["prediction_id"]
    bench.work()
    bench.work()
    assert bench.callbacks.calls == [(URL, "answered", prediction_id)]
    bench.reviews.audited[prediction_id] = Audited("fashion", Review("asked"))
    bench.work()
    bench.reviews.audited[prediction_id] = Audited("fashion", Review("answered", "boot", "t"))
    bench.work()
    bench.work()
    assert bench.callbacks.calls == [(URL, "answered", prediction_id), (URL, "reviewed", prediction_id)]
    assert bench.metrics.get("dethrone_callbacks_total", outcome="taken") == 2


def test_a_callback_that_is_refused_is_tried_three_times(bench, monkeypatch):
    monkeypatch.setattr("bento_services.gateway.async_predictions.store.CALLBACK_DELAYS_SECONDS", (0.0, 0.0, 0.0))
    allow(bench)
    bench.callbacks.takes = False
    submit(bench, **{"X-Callback-Url": URL})
    for _ in range(5):
        bench.work()
    assert len(bench.callbacks.calls) == 3
    assert bench.metrics.get("dethrone_callbacks_total", outcome="refused") == 3


def test_a_row_has_the_items_id_of_the_catalog(bench):
    body = json.dumps({"b": 1.0, "a": "x"}).encode()
    accepted = submit(bench, body, name="stack", project="rows", **{"Content-Type": "application/json"})
    stored = bench.gateway.async_resources.store.find(accepted.json()["prediction_id"]).result()
    from pipeline_tasks.contracts import content_id

    assert stored.item_id == content_id({"a": "x", "b": 1.0})


@pytest.mark.parametrize("value", ["", "x" * 201, "a\x7f"])
def test_a_strange_callback_header_is_refused(bench, value):
    allow(bench)
    assert error_of(submit(bench, **{"X-Callback-Url": value}))[0] in {400, 422}
