"""Batches over HTTP, in this process: every item has its own answer or error, and nobody pays for a neighbour."""

from __future__ import annotations

import base64
import dataclasses
import json

import pytest

from bento_services.gateway import request_validation
from bento_services.gateway.api import predict_batch as module
from bento_services.gateway.routing.inference_client import Failed, Scores, all_failed
from tests.service.conftest import MAX_REQUEST_BYTES, bearer, png, snapshot, token_of
from tests.service.servers import CLASSES
from tests.service.test_gateway_http import error_of

GOOD = {"base64": base64.b64encode(png()).decode()}


def item(seed: int = 0, **more: str) -> dict[str, str]:
    return {"base64": base64.b64encode(png(seed)).decode()} | more


def send(bench, document, *, project: str = "fashion", name: str = "shop", **headers: str):
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return bench.client.post(
        f"/v1/projects/{project}/predict:batch",
        content=body,
        headers=bearer(name) | {"Content-Type": "application/json"} | headers,
    )


def codes(response) -> list[str | None]:
    return [result["error"] and result["error"]["code"] for result in response.json()["results"]]


def test_each_item_has_its_answer_its_id_and_its_log_record(bench):
    response = send(bench, {"items": [item(1), item(2, user_key="alice", business_key="order 7")]})
    assert response.status_code == 200
    body = response.json()
    assert (body["num_ok"], body["num_failed"], body["request_id"]) == (2, 0, response.headers["x-request-id"])
    assert [result["index"] for result in body["results"]] == [0, 1]
    records = {record.prediction_id: record for record in bench.records()}
    assert [result["prediction"]["prediction_id"] for result in body["results"]] == sorted(records)
    first, second = (records[result["prediction"]["prediction_id"]] for result in body["results"])
    assert (first.payload, first.user_key, first.request_id) == (png(1), None, f"{body['request_id']}:0")
    assert (second.payload, second.user_key, second.business_key) == (png(2), "alice", "order 7")
    assert bench.counts() == (2, 2, 0)


def test_one_items_failure_fails_nobody_else(bench):
    bad = [
        {"base64": "not base64!"},
        {"base64": base64.b64encode(b"no image").decode()},
        {"text": "a text in an image project"},
        {},
        "no object",
        {"base64": GOOD["base64"], "colour": "red"},
        {"base64": GOOD["base64"], "media_type": "text/html"},
        {"base64": base64.b64encode(b"x" * (MAX_REQUEST_BYTES + 1)).decode()},
        {"base64": GOOD["base64"], "user_key": "a\nb"},
        {"base64": 7},
    ]
    response = send(bench, {"items": [GOOD, *bad, GOOD]})
    assert response.status_code == 200
    assert codes(response) == [
        None,
        "BASE64_INVALID",
        "NOT_AN_IMAGE",
        "CONTENT_MISSING",
        "CONTENT_MISSING",
        "ITEM_INVALID",
        "FIELD_UNKNOWN",
        "MEDIA_TYPE_UNSUPPORTED",
        "BODY_TOO_LARGE",
        "FIELD_INVALID",
        "BASE64_INVALID",
        None,
    ]
    assert response.json()["num_failed"] == len(bad)
    assert bench.counts() == (12, 12, 0)
    assert [record.error_code for record in bench.records() if record.status != 200] == codes(response)[1:-1]


def test_rows_and_texts_are_items_as_they_are(bench):
    rows = b'{"items":[{"row":{"a":1.5,"b":null}},{"row":{"a":NaN}},{"row":{"a":1,"a":2}},{"row":{"a":[1]}}]}'
    response = send(bench, rows, project="rows", name="stack")
    assert codes(response) == [None, "NOT_FINITE", "FIELD_INVALID", "VALUE_TYPE"]
    assert bench.models.asked == [("d1", b'{"a":1.5,"b":null}', "application/json")]
    texts = send(
        bench, b'{"items":[{"text":"h\\u00e9"},{"text":"\\ud800"},{"text":" "}]}', project="texts", name="texts"
    )
    assert codes(texts) == [None, "TEXT_NOT_UTF8", "TEXT_EMPTY"]
    assert bench.models.asked[1:] == [("d1", "h\u00e9".encode(), "text/plain")]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", (400, "JSON_INVALID", "body")),
        (b"[]", (400, "JSON_INVALID", "body")),
        (b"\xff", (400, "JSON_INVALID", "body")),
        (b"[" * 100_000, (400, "JSON_INVALID", "body")),
        (b'{"items":[],"items":[]}', (400, "JSON_INVALID", "body")),
        (b"{}", (422, "FIELD_INVALID", "items")),
        (b'{"items":[]}', (422, "FIELD_INVALID", "items")),
        (b'{"items":{}}', (422, "FIELD_INVALID", "items")),
        (b'{"items":[{}],"x":1}', (422, "FIELD_UNKNOWN", "x")),
        (b'{"items":[{}],"\\ud800":1}', (422, "FIELD_UNKNOWN", "\\ud800")),
        (json.dumps({"items": [{}] * 257}).encode(), (413, "TOO_MANY_ITEMS", "items")),
    ],
)
def test_a_body_that_is_no_batch_is_refused_whole(bench, body, expected):
    assert error_of(send(bench, body)) == expected
    assert bench.models.asked == []
    assert [record.error_code for record in bench.records()] == [expected[1]]


def test_a_batch_of_too_many_bytes_or_another_type_is_refused(bench):
    object.__setattr__(bench.gateway.config, "batch_max_bytes", 1000)
    assert error_of(send(bench, {"items": [item()] * 3})) == (413, "BODY_TOO_LARGE", "body")
    assert error_of(send(bench, {"items": [item()]}, **{"Content-Type": "image/png"}))[:2] == (
        415,
        "MEDIA_TYPE_UNSUPPORTED",
    )
    assert error_of(send(bench, {"items": [item()]}, **{"Content-Encoding": "gzip"}))[:2] == (
        415,
        "ENCODING_UNSUPPORTED",
    )


def test_only_a_key_of_the_project_with_the_scope_may_send_a_batch(bench):
    assert error_of(send(bench, {"items": [GOOD]}, name="texts"))[:2] == (403, "PROJECT_FORBIDDEN")
    assert error_of(send(bench, {"items": [GOOD]}, Authorization="Bearer x"))[:2] == (401, "KEY_INVALID")
    assert bench.counts() == (0, 0, 0)


def test_the_items_for_one_deployment_go_there_in_one_request(bench):
    assert send(bench, {"items": [item(n) for n in range(7)] + [{}]}).json()["num_ok"] == 7
    assert bench.models.bundles == [("d1", 7)]
    assert [payload for _, payload, _ in bench.models.asked] == [png(n) for n in range(7)]


def test_the_items_of_two_deployments_go_in_two_requests(bench):
    now = bench.follower.snapshot
    entries = tuple(dataclasses.replace(entry, weight=50) for entry in now.routes["fashion"].entries)
    shared = dataclasses.replace(now.routes["fashion"], entries=entries)
    bench.follow(dataclasses.replace(now, routes={**now.routes, "fashion": shared}))
    results = send(bench, {"items": [item(n, user_key=f"user {n}") for n in range(8)]}).json()["results"]
    versions = [result["prediction"]["model_version"] for result in results]
    assert sorted(bench.models.bundles) == [("d1", versions.count("A")), ("d2", versions.count("B"))]
    assert bench.counts() == (8, 8, 0)


def test_a_large_batch_goes_in_parts_that_follow_the_pace(bench, monkeypatch):
    monkeypatch.setattr(module, "FIRST_PART", 3)
    monkeypatch.setattr(module, "LARGEST_PART", 5)
    object.__setattr__(bench.gateway.config, "max_in_flight", 5)
    body = send(bench, {"items": [item(n) for n in range(14)]}).json()
    assert [result["index"] for result in body["results"]] == list(range(14))
    assert body["num_ok"] == 14
    assert [count for _, count in bench.models.bundles] == [3, 5, 5]  # and one alone
    assert bench.gateway.num_open == 0


@pytest.mark.parametrize(("num_items", "seconds", "size"), [(16, 0.1, 32), (16, 2.0, 8), (8, 20.0, 1), (16, 0.0, 32)])
def test_a_slow_model_gets_smaller_parts(num_items, seconds, size):
    assert module.next_size(num_items, seconds=seconds) == size


def test_what_failed_together_is_asked_again_alone(bench):
    async def one_by_one_only(entry, payloads, *, classes):
        return all_failed(Failed("failed"), count=len(payloads))

    bench.models.ask_many = one_by_one_only
    assert send(bench, {"items": [item(n) for n in range(5)]}).json()["num_ok"] == 5
    assert len(bench.models.asked) == 5
    assert bench.gateway.dispatcher.num_replays == 5
    assert bench.gateway.dispatcher.breakers.state("d1") == "closed"  # one request failed, not five
    assert bench.counts() == (5, 5, 0)


def test_items_beyond_the_cap_on_open_requests_are_told_to_come_back(bench):
    bench.models.delay_seconds = 0.05
    results = send(bench, {"items": [item(n) for n in range(16)]})  # the cap of this gateway is 8
    assert sorted(str(code) for code in codes(results)) == ["None"] * 8 + ["OVERLOADED"] * 8


def test_no_item_is_begun_after_the_deadline(bench, monkeypatch):
    monkeypatch.setattr(module, "DEADLINE_SECONDS", -1.0)
    response = send(bench, {"items": [GOOD, GOOD]})
    assert codes(response) == ["BATCH_TOO_SLOW"] * 2
    assert bench.models.asked == []
    assert bench.counts() == (2, 2, 0)


def test_a_batch_is_paid_for_by_item(bench):
    bench.follow(snapshot(requests_per_second=4.0))
    assert send(bench, {"items": [GOOD] * 8}).status_code == 200
    late = send(bench, {"items": [GOOD]})
    assert error_of(late)[:2] == (429, "RATE_LIMITED")
    assert int(late.headers["retry-after"]) >= 1
    assert bench.counts() == (8, 8, 0)


def test_the_same_batch_again_gets_the_same_answers_logged_once(bench):
    document = {"items": [item(1), item(2)]}
    first, again = (send(bench, document, **{"X-Request-Id": "b-1"}).json() for _ in range(2))
    assert first == again
    assert bench.counts() == (2, 2, 0)
    changed = send(bench, {"items": [item(1), item(3)]}, **{"X-Request-Id": "b-1"})
    assert codes(changed) == [None, "REQUEST_ID_REUSED"]


def test_a_failing_model_and_a_defect_of_ours_are_results_of_their_item(bench, monkeypatch):
    bench.models.replies = {"d1": Failed("nonsense"), "d2": Failed("nonsense")}
    assert codes(send(bench, {"items": [GOOD]})) == ["MODEL_FAILED"]
    bench.models.replies = {}
    check = request_validation.canonical_item

    async def broken(payload, settings):
        if payload == png(5):
            raise RuntimeError("secret detail")
        return await check(payload, settings)

    monkeypatch.setattr(request_validation, "canonical_item", broken)
    response = send(bench, {"items": [item(4), item(5), item(6)]})
    assert codes(response) == [None, "INTERNAL", None]
    assert "secret" not in response.text


def test_a_defect_on_the_shared_way_reaches_every_item_and_nobody_waits_for_ever(bench):
    async def broken(entry, payloads, *, classes):
        raise RuntimeError("secret detail")

    bench.models.ask_many = broken
    response = send(bench, {"items": [item(1), item(2), {}]})
    assert codes(response) == ["INTERNAL", "INTERNAL", "CONTENT_MISSING"]
    assert bench.counts() == (3, 3, 0)


def test_a_named_version_holds_for_every_item(bench):
    bench.models.replies = {"d2": Scores(CLASSES, (0.1, 0.8, 0.1))}
    results = send(bench, {"items": [GOOD, GOOD]}, **{"X-Model-Version": "B"}).json()["results"]
    assert {result["prediction"]["model_version"] for result in results} == {"B"}
    assert codes(send(bench, {"items": [GOOD]}, **{"X-Model-Version": "Z"})) == ["MODEL_VERSION_UNKNOWN"]


def test_every_response_says_where_its_time_went(bench):
    headers = {"Authorization": f"Bearer {token_of('shop')}"}
    for response, names in (
        (bench.predict(), ["read", "check", "inference", "log", "total"]),
        (send(bench, {"items": [GOOD]}), ["read", "check", "items", "total"]),
        (bench.client.get("/v1/projects/fashion", headers=headers), ["total"]),
    ):
        parts = dict(part.split(";dur=") for part in response.headers["server-timing"].split(", "))
        assert list(parts) == names
        times = [float(value) for value in parts.values()]
        assert sum(times[:-1]) <= times[-1] + 0.01
