"""Requests and feedback that met an earlier gateway badly; ids of the reports of 2026-11-29."""

from __future__ import annotations

import asyncio
import base64
import json

import httpx
import pytest
import yaml

from bento_services.gateway.api.examples import EXAMPLES
from bento_services.gateway.errors import ApiError, error_response
from bento_services.gateway.routing.inference_client import Failed, Scores
from bento_services.gateway.routing.request_coalescing import Bundle
from tests.service import conftest
from tests.service.conftest import bearer, png
from tests.service.servers import CLASSES, ROOT

bench = conftest.bench
PREDICT, BATCH, ASYNC = (f"/v1/projects/fashion/predict{kind}" for kind in ("", ":batch", ":async"))
JSON = {"Content-Type": "application/json"}


def in_one_loop(bench, conversation):
    """Run a conversation of several callers with the gateway in one event loop."""

    async def run():
        transport = httpx.ASGITransport(app=bench.client.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            return await conversation(client)

    return asyncio.run(run())


def send(client, seed: int = 0, *, name: str = "shop", **headers):
    return client.post(PREDICT, content=png(seed), headers=bearer(name, **headers))


def ids(responses) -> set[str]:
    return {response.json()["prediction_id"] for response in responses}


def batch_of(*seeds: int) -> bytes:
    return json.dumps({"items": [{"base64": base64_png(seed), "media_type": "image/png"} for seed in seeds]}).encode()


def base64_png(seed: int) -> str:
    return base64.b64encode(png(seed)).decode()


def test_c8_eight_requests_at_once_with_one_id_are_one_prediction_logged_once(bench):
    bench.models.delay_seconds = 0.05

    async def conversation(client):
        return await asyncio.gather(*(send(client, **{"X-Request-Id": "r-1"}) for _ in range(8)))

    responses = in_one_loop(bench, conversation)
    assert {response.status_code for response in responses} == {200}
    assert len({response.text for response in responses}) == 1
    assert len(bench.models.asked) == 1
    (record,) = bench.records()
    assert ids(responses) == {record.prediction_id}
    assert bench.counts() == (1, 1, 0)
    assert bench.metrics.get("dethrone_answers_repeated_total") == 7
    assert bench.gateway.num_open == 0


def test_c8_an_id_is_the_callers_and_another_request_under_it_is_a_conflict_while_the_first_is_on_its_way(bench):
    bench.models.delay_seconds = 0.05
    chosen = {"X-Request-Id": "r-1"}

    async def conversation(client):
        return await asyncio.gather(
            send(client, **chosen),
            send(client, name="stack", **chosen),
            send(client, 1, **chosen),
            send(client, **chosen, **{"X-User-Key": "alice"}),
            send(client, **chosen, **{"X-Business-Key": "order-7"}),
            send(client, **chosen, **{"X-Model-Version": "B"}),
        )

    first, other, *conflicts = in_one_loop(bench, conversation)
    assert len(ids([first, other])) == 2
    assert {response.status_code for response in conflicts} == {409}
    assert {response.json()["error"]["code"] for response in conflicts} == {"REQUEST_ID_REUSED"}
    assert sorted(record.status for record in bench.records()) == [200, 200, 409, 409, 409, 409]


@pytest.mark.parametrize("num_left", [1, 3])
def test_c8_who_hangs_up_and_repeats_gets_the_one_prediction(bench, num_left):
    """A caller who goes takes nothing from those who joined it, nor from the log."""
    bench.models.delay_seconds = 0.1
    chosen = {"X-Request-Id": "r-1"}

    async def conversation(client):
        gone = [asyncio.ensure_future(send(client, **chosen)) for _ in range(num_left)]
        await asyncio.sleep(0.03)
        for caller in gone:
            caller.cancel()
        again = await asyncio.gather(send(client, **chosen), send(client, **chosen))
        return [*again, await send(client, **chosen)]

    responses = in_one_loop(bench, conversation)
    (record,) = bench.records()
    assert ids(responses) == {record.prediction_id}
    assert len(bench.models.asked) == 1


def test_c8_requests_that_fail_together_are_logged_once_and_the_next_one_is_tried(bench):
    bench.models.delay_seconds = 0.05
    bench.models.replies = {"d1": Failed("timeout"), "d2": Failed("timeout")}
    chosen = {"X-Request-Id": "r-1"}

    async def conversation(client):
        failed = await asyncio.gather(*(send(client, **chosen) for _ in range(4)))
        bench.models.replies = {}
        return failed, await send(client, **chosen)

    failed, good = in_one_loop(bench, conversation)
    assert {response.status_code for response in failed} == {503}
    assert good.status_code == 200
    assert [record.status for record in bench.records()] == [503, 200]
    assert bench.counts() == (2, 2, 0)


def test_c8_a_defect_met_together_is_logged_once(bench):
    bench.models.error = RuntimeError("a defect")

    async def conversation(client):
        return await asyncio.gather(*(send(client, **{"X-Request-Id": "r-1"}) for _ in range(3)))

    assert {response.status_code for response in in_one_loop(bench, conversation)} == {500}
    assert [(record.status, record.error_code) for record in bench.records()] == [(500, "INTERNAL")]


def test_c8_batches_at_once_with_one_id_answer_each_item_once(bench):
    """Also batches that overlap in parts, of which each waits for items of the other."""
    bench.models.delay_seconds = 0.05
    headers = bearer(**{"X-Request-Id": "b-1"}) | JSON
    whole, part = batch_of(*range(6)), batch_of(*range(3))

    async def conversation(client):
        sent = [client.post(BATCH, content=body, headers=headers) for body in (whole, part, whole, part)]
        return await asyncio.gather(*sent)

    bodies = [response.json() for response in in_one_loop(bench, conversation)]
    assert [(body["num_ok"], body["num_failed"]) for body in bodies] == [(6, 0), (3, 0), (6, 0), (3, 0)]
    given = [[result["prediction"]["prediction_id"] for result in body["results"]] for body in bodies]
    assert given[0] == given[2]
    assert given[1] == given[3] == given[0][:3]
    assert sorted(record.prediction_id for record in bench.records()) == sorted(given[0])
    assert len(bench.models.asked) == 6


def test_c8_who_hangs_up_on_a_batch_and_repeats_gets_the_predictions_that_were_begun(bench):
    bench.models.delay_seconds = 0.1
    headers = bearer(**{"X-Request-Id": "b-1"}) | JSON

    async def conversation(client):
        gone = asyncio.ensure_future(client.post(BATCH, content=batch_of(0, 1), headers=headers))
        await asyncio.sleep(0.03)
        gone.cancel()
        await asyncio.wait([gone])
        return await client.post(BATCH, content=batch_of(0, 1, 2), headers=headers)

    body = in_one_loop(bench, conversation).json()
    assert (body["num_ok"], body["num_failed"]) == (3, 0)
    given = {result["prediction"]["prediction_id"] for result in body["results"]}
    assert {record.prediction_id for record in bench.records()} == given
    assert len(bench.models.asked) == 3


def test_c8_an_item_that_asks_after_its_caller_has_gone_is_not_kept_waiting(bench):
    """Its place in the batch was given up: it travels alone."""

    async def run():
        bundle = Bundle(bench.models, num_items=2)
        places = bundle.place(), bundle.place()
        for place in places:
            place.leave()
        async with asyncio.timeout(5):
            entry = bench.gateway.route("fashion").entries[0]
            return [await place.ask(entry, png(), media_type="image/png", classes=CLASSES) for place in places]

    assert [reply.labels for reply in asyncio.run(run())] == [CLASSES, CLASSES]


def test_c8_asynchronous_requests_at_once_with_one_id_are_one_prediction(bench):
    async def conversation(client):
        sent = [client.post(ASYNC, content=png(), headers=bearer(**{"X-Request-Id": "a-1"})) for _ in range(8)]
        return await asyncio.gather(*sent)

    responses = in_one_loop(bench, conversation)
    assert len(ids(responses)) == 1
    bench.work()
    bench.work()
    (record,) = bench.records()
    assert ids(responses) == {record.prediction_id}


def test_c8_who_repeats_takes_no_place_from_others(bench):
    """With 8 places, twelve who wait for one answer take one."""
    bench.models.delay_seconds = 0.05

    async def conversation(client):
        repeated = [send(client, **{"X-Request-Id": "r-1"}) for _ in range(12)]
        return await asyncio.gather(*repeated, *(send(client, seed) for seed in range(1, 8)))

    assert {response.status_code for response in in_one_loop(bench, conversation)} == {200}
    assert len(bench.records()) == 8


LONG = "n" * 1025
NAMES = {
    "B5-half-a-pair": (rb'{"amount": 5, "note\ud800": "x"}', 422, "COLUMN_NAME_INVALID"),
    "B5-other-half": (rb'{"\udfff": 1}', 422, "COLUMN_NAME_INVALID"),
    "B5-nul": (rb'{"amount": 5, "a\u0000b": "x"}', 422, "COLUMN_NAME_INVALID"),
    "B5-line-break": (rb'{"amount": 5, "a\nb": "x"}', 422, "COLUMN_NAME_INVALID"),
    "B5-escape": (rb'{"amount": 5, "\u001b[2J": "x"}', 422, "COLUMN_NAME_INVALID"),
    "B5-long": (json.dumps({LONG: 5}).encode(), 422, "COLUMN_NAME_INVALID"),
    "B5-long-in-bytes": (json.dumps({"é" * 513: 5}).encode(), 422, "COLUMN_NAME_INVALID"),
    "B5-nested": (rb'{"amount": 5, "a": {"b\ud800": 1}}', 422, "VALUE_TYPE"),
    "B5-half-a-pair-as-value": (rb'{"amount": "\ud800"}', 422, "TEXT_NOT_UTF8"),
    "B5-nul-as-value": (rb'{"amount": "a\u0000"}', 422, "TEXT_CONTROL_CHARACTER"),
    "B5-number-without-end": (rb'{"amount": 1e999}', 422, "NOT_FINITE"),
    "B5-twice": (b'{"amount": 5, "amount": 6}', 400, "JSON_INVALID"),
    "B5-twice-once-unescaped": (rb'{"amount": 5, "\u0061mount": 6}', 400, "JSON_INVALID"),
}


@pytest.fixture
def rows(bench):
    """A gateway whose models are never sure: a row's answer is kept for a person."""
    bench.follow(conftest.snapshot())
    bench.models.replies = {"d1": Scores(CLASSES, (0.4, 0.35, 0.25))}
    return bench


def ask_row(bench, body: bytes, path: str = "predict", **headers):
    sent = bearer("stack", **headers) | JSON
    return bench.client.post(f"/v1/projects/rows/{path}", content=body, headers=sent)


@pytest.mark.parametrize(("body", "status", "code"), NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("path", ["predict", "predict:async"])
def test_a_row_that_no_store_takes_is_refused_and_logged_as_that(rows, path, body, status, code):
    """A column's name is guarded as a value is; nothing stands in the log as answered that was not."""
    response = ask_row(rows, body, path)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert response.json()["error"]["message"].isprintable()
    (record,) = rows.records()
    assert (record.status, record.error_code, record.prediction_id) == (status, code, None)


@pytest.mark.parametrize(("body", "status", "code"), NAMES.values(), ids=NAMES)
def test_in_a_batch_it_is_refused_alone(rows, body, status, code):
    document = b'{"items": [{"row": {"amount": 1}}, {"row": %s}, {"row": {"amount": 2}}]}' % body
    results = ask_row(rows, document, "predict:batch").json()["results"]
    assert [result["status"] for result in results] == [200, 422, 200]
    assert sorted(record.status for record in rows.records()) == [200, 200, 422]


@pytest.mark.parametrize("name", ["amount", "Größe in m²", "日付", "a b.c", "n" * 1024, "🙂"])
def test_an_ordinary_name_is_answered_and_kept_for_a_person(rows, name):
    answer = ask_row(rows, json.dumps({name: 5}).encode()).json()
    assert answer["needs_review"]
    (record,) = rows.records()
    assert (record.status, record.prediction_id) == (200, answer["prediction_id"])
    kept = rows.client.get(f"/v1/predictions/{answer['prediction_id']}", headers=bearer("stack"))
    assert kept.json()["review"]["state"] == "not_asked"


def test_a_defect_behind_the_model_is_logged_as_an_error_only(rows, monkeypatch):
    """Whatever fails when an answer is made ready stands once in the log, with what the caller was told."""
    monkeypatch.setattr("bento_services.gateway.request_validation.item_id", lambda *_, **__: 1 / 0)
    assert ask_row(rows, b'{"amount": 5}').status_code == 500
    assert [(record.status, record.error_code) for record in rows.records()] == [(500, "INTERNAL")]


def test_a_message_with_half_a_pair_is_told_all_the_same():
    error = ApiError(422, "X", "got \ud800")
    assert error_response(error, request_id="r").body == (
        b'{"error":{"code":"X","message":"got \\\\ud800","field":null,"request_id":"r"}}'
    )


LOCAL = {
    "no-header": {},
    "empty-header": {"X-Forwarded-For": ""},
    "real-ip": {"X-Real-IP": "10.0.0.9"},
    "forwarded": {"X-Forwarded-For": "127.0.0.1"},
}


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "testclient"])
@pytest.mark.parametrize("headers", LOCAL.values(), ids=LOCAL)
def test_f7_nothing_is_open_because_its_caller_looks_local(bench, address, headers):
    """Behind a proxy on this machine everybody looks local: what asks for a key asks everybody for it."""
    bench.client._transport.client = (address, 5000)
    closed = [example for example in EXAMPLES if not example.open_to_all]
    paths = {(endpoint.method, endpoint.path.format(project="fashion", prediction_id="p")) for endpoint in closed}
    assert ("GET", "/metrics") in paths
    answers = {path: bench.client.request(*path, headers=headers).status_code for path in paths}
    assert answers == dict.fromkeys(paths, 401)
    scrape = bench.client.get("/metrics", headers=bearer("stack"))
    assert (scrape.status_code, scrape.headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")


def test_f7_the_stacks_prometheus_brings_its_key():
    jobs = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"]
    (job,) = [job for job in jobs if job["job_name"] == "gateway"]
    assert job["authorization"] == {"credentials_file": "/run/secrets/gateway_admin_key"}


def test_g8_kubernetes_runs_one_gateway_and_nothing_scales_it():
    """Rollouts, drains, rate limits and the store of asynchronous predictions look at one gateway."""
    text = (ROOT / "deploy/kubernetes/base/gateway.yaml").read_text()
    bodies = {body["kind"]: body for body in yaml.safe_load_all(text)}
    spec = bodies["Deployment"]["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
    assert sorted(bodies) == ["Deployment", "Service", "ServiceAccount"]
    assert "There is one gateway" in (ROOT / "docs/operations.md").read_text()


@pytest.mark.parametrize("name", ["p 1", "../p", "é", "p" * 129, "p;drop"])
def test_h11_feedback_on_what_cannot_be_a_prediction_is_not_found(bench, name):
    body = {"prediction_id": name, "label": "boot"}
    response = bench.client.post("/v1/projects/fashion/feedback", json=body, headers=bearer())
    assert (response.status_code, response.json()["error"]["code"]) == (404, "PREDICTION_UNKNOWN")
    assert bench.records() == []
