"""The gateway over HTTP, in this process: the good answers, who may call, what is logged, what failures look like."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from bento_services.gateway.api.app import ID_BYTES, IDS_AT_ONCE, random_ids
from bento_services.gateway.errors import ApiError
from bento_services.gateway.request_validation import canonical_item
from bento_services.gateway.routing.inference_client import Failed, Rejected, Scores
from bento_services.gateway.routing.routes import ServingSettings, parse_route, snapshot_of
from pipeline_tasks.contracts import sha256_hex
from pipeline_tasks.deployment.route_settings import route_config
from pipeline_tasks.project.loader import load_project
from tests.service.conftest import bearer, png, snapshot, token_of
from tests.service.servers import CLASSES, ROOT


def error_of(response) -> tuple[int, str, str | None]:
    error = response.json()["error"]
    assert set(error) == {"code", "message", "field", "request_id"}
    assert error["request_id"] == response.headers["x-request-id"]
    return response.status_code, error["code"], error["field"]


def test_a_prediction_has_its_id_version_label_and_whether_a_person_looks(bench):
    response = bench.predict()
    assert response.status_code == 200
    body = response.json()
    assert body.pop("prediction_id").startswith("id")
    assert body == {
        "model_version": "A",
        "label": "bag",
        "confidence": 0.7,
        "business_label": "bag",
        "abstained": False,
        "top": [
            {"label": "bag", "confidence": 0.7},
            {"label": "boot", "confidence": 0.2},
            {"label": "coat", "confidence": 0.1},
        ],
        "needs_review": False,
    }
    assert bench.models.asked == [("d1", png(), "image/png")]


def test_an_abstained_prediction_has_no_label_and_logs_what_the_model_said(bench):
    bench.follow(snapshot(thresholds={"bag": 0.9}, abstain_below=0.6, business_labels={"boot": "Footwear"}))
    body = bench.predict().json()
    assert (body["label"], body["business_label"], body["abstained"], body["needs_review"]) == (None, None, True, True)
    bench.models.replies = {"d1": Scores(CLASSES, (0.1, 0.8, 0.1))}
    assert bench.predict(png(1)).json()["business_label"] == "Footwear"
    first, second = bench.records()
    assert (first.label, first.answer_label, first.confidence, first.needs_review) == ("bag", None, 0.7, True)
    assert (second.label, second.answer_label) == ("boot", "boot")
    told = bench.client.get("/v1/projects/fashion", headers=bearer()).json()
    assert (told["thresholds"], told["abstain_below"]) == ({"bag": 0.9}, 0.6)
    assert told["business_labels"] == {"boot": "Footwear"}


def test_a_prediction_is_logged_whole_before_it_is_answered(bench):
    answer = bench.predict(**{"X-User-Key": "alice", "X-Business-Key": "order 7", "X-Request-Id": "r-1"}).json()
    (record,) = bench.records()
    assert record.prediction_id == answer["prediction_id"]
    assert (record.kind, record.status, record.project, record.request_id) == ("prediction", 200, "fashion", "r-1")
    assert (record.model_version, record.deployment_id) == ("A", "d1")
    assert (record.label, record.confidence, record.needs_review) == ("bag", 0.7, False)
    assert json.loads(record.scores) == {"bag": 0.7, "boot": 0.2, "coat": 0.1}
    assert (record.client, record.user_key, record.business_key) == ("shop", "alice", "order 7")
    assert (record.media_type, record.payload, record.payload_sha256) == ("image/png", png(), sha256_hex(png()))
    assert record.at_ms == 1_767_225_600_000
    assert 0 <= record.latency_ms < 5000
    assert bench.counts() == (1, 1, 0)


def test_a_named_version_answers_or_is_an_error(bench):
    assert bench.predict(**{"X-Model-Version": "B"}).json()["model_version"] == "B"
    assert error_of(bench.predict(**{"X-Model-Version": "Z"})) == (404, "MODEL_VERSION_UNKNOWN", "X-Model-Version")


def test_the_same_request_id_gives_the_same_answer_and_one_record(bench):
    first, again = (bench.predict(**{"X-Request-Id": "r-1"}) for _ in range(2))
    assert first.json() == again.json()
    assert first.headers["x-request-id"] == "r-1"
    assert len(bench.models.asked) == 1
    assert error_of(bench.predict(png(1), **{"X-Request-Id": "r-1"})) == (409, "REQUEST_ID_REUSED", "X-Request-Id")
    assert bench.predict(png(1), name="stack", **{"X-Request-Id": "r-1"}).status_code == 200
    assert [record.status for record in bench.records()] == [200, 409, 200]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, (401, "KEY_MISSING", "Authorization")),
        ({"Authorization": "Bearer wrong"}, (401, "KEY_INVALID", "Authorization")),
        ({"Authorization": f"Basic {token_of('shop')}"}, (401, "KEY_MISSING", "Authorization")),
        (bearer("texts"), (403, "PROJECT_FORBIDDEN", "Authorization")),
    ],
)
def test_without_the_right_key_nothing_is_read_predicted_or_logged(bench, headers, expected):
    response = bench.predict(headers={"Content-Type": "image/png"} | headers)
    assert error_of(response) == expected
    assert bench.models.asked == []
    assert bench.records() == []
    assert bench.counts() == (0, 0, 0)


def test_a_key_in_the_query_string_is_no_key(bench):
    response = bench.client.post(f"/v1/projects/fashion/predict?key={token_of('shop')}", content=png())
    assert error_of(response)[:2] == (401, "KEY_MISSING")


def test_a_401_says_how_to_authenticate(bench):
    assert bench.predict(headers={}).headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("method", "path", "names"),
    [
        ("POST", "/v1/projects/fashion/predict", {"shop", "reader", "stack"}),
        ("POST", "/v1/projects/fashion/feedback", {"shop", "stack"}),
        ("GET", "/v1/projects/fashion", {"shop", "reader", "stack"}),
        ("GET", "/internal/inflight?deployment=d1", {"stack"}),
        ("GET", "/internal/accounts/fashion", {"stack"}),
        ("GET", "/internal/targets", {"stack"}),
        ("GET", "/metrics", {"stack"}),
    ],
)
def test_every_endpoint_asks_for_its_scope_and_project(bench, method, path, names):
    content = {"POST": b'{"label":"bag","prediction_id":"p"}' if "feedback" in path else png(), "GET": b""}[method]
    allowed = {
        name
        for name in ("shop", "reader", "texts", "stack")
        if bench.client.request(method, path, content=content, headers=bearer(name)).status_code < 300
    }
    assert allowed == names
    assert bench.client.request(method, path, content=content).status_code == 401
    assert bench.client.request(method, path, content=content, headers={"Authorization": "Bearer x"}).status_code == 401


def test_a_revoked_key_is_refused_with_the_next_snapshot(bench):
    assert bench.predict().status_code == 200
    known = snapshot()
    bench.follow(snapshot_of(list(known.routes.values()), [key for key in known.keys.values() if key.key_id != "shop"]))
    assert error_of(bench.predict())[:2] == (401, "KEY_INVALID")


def test_the_rate_limit_is_per_key_and_says_when_to_come_back(bench):
    bench.follow(snapshot(requests_per_second=2))
    responses = [bench.predict() for _ in range(3)]
    assert [response.status_code for response in responses] == [200, 200, 429]
    assert error_of(responses[2])[1] == "RATE_LIMITED"
    assert responses[2].headers["retry-after"] == "1"
    assert bench.predict(name="stack").status_code == 200
    assert [record.status for record in bench.records()] == [200, 200, 200]


def test_unknown_and_untrained_projects_are_told_apart_for_those_who_may_know(bench):
    assert error_of(bench.predict(project="nobody", name="stack")) == (404, "PROJECT_UNKNOWN", "project")
    untrained = bench.predict(project="untrained", name="stack")
    assert error_of(untrained)[:2] == (503, "NOTHING_SERVES")
    assert untrained.headers["retry-after"] == "5"
    assert error_of(bench.predict(project="nobody"))[:2] == (403, "PROJECT_FORBIDDEN")
    assert error_of(bench.predict(project="untrained"))[:2] == (403, "PROJECT_FORBIDDEN")


def test_before_any_route_is_known_the_gateway_is_not_ready(bench):
    bench.follower.snapshot = None
    assert error_of(bench.predict())[:2] == (503, "NOT_READY")


def test_what_serves_now_is_told_without_addresses(bench):
    body = bench.client.get("/v1/projects/fashion", headers=bearer("reader")).json()
    assert (body["generation"], body["champion_version"], body["classes"]) == (3, "A", list(CLASSES))
    assert body["deployments"][0] == {"deployment_id": "d1", "model_version": "A", "weight": 100}
    assert "http" not in json.dumps(body)


@pytest.mark.parametrize(
    ("reply", "status", "code"),
    [
        (Failed("unreachable"), 503, "MODEL_FAILED"),
        (Failed("timeout"), 503, "MODEL_FAILED"),
        (Failed("nonsense"), 503, "MODEL_FAILED"),
        (Failed("overloaded"), 503, "OVERLOADED"),
        (Rejected(422, "COLUMN_MISSING", "m"), 422, "COLUMN_MISSING"),
    ],
)
def test_a_failing_model_is_an_error_of_the_contract_and_logged(bench, reply, status, code):
    bench.models.replies = {"d1": reply, "d2": reply}
    response = bench.predict()
    assert error_of(response)[:2] == (status, code)
    assert ("retry-after" in response.headers) == (status == 503)
    (record,) = bench.records()
    assert (record.status, record.error_code, record.payload, record.prediction_id) == (status, code, png(), None)
    assert bench.counts() == (1, 1, 0)


def test_a_failing_candidate_is_answered_for_by_the_champion(bench):
    bench.models.replies = {"d1": Failed("nonsense"), "d2": Scores(CLASSES, (0.1, 0.8, 0.1))}
    body = bench.predict().json()
    assert (body["model_version"], body["label"]) == ("B", "boot")


def test_a_defect_of_ours_shows_no_inside_and_is_logged(bench):
    bench.models.error = RuntimeError("secret detail in /srv/path")
    response = bench.predict()
    assert error_of(response)[:2] == (500, "INTERNAL")
    assert "secret" not in response.text
    assert "Traceback" not in response.text
    (record,) = bench.records()
    assert (record.status, record.error_code) == (500, "INTERNAL")


def test_a_full_spool_costs_no_answer_and_is_counted(bench):
    bench.spool._limit_bytes = 0
    assert [bench.predict().status_code for _ in range(3)] == [200, 200, 200]
    assert bench.counts() == (3, 0, 3)


def test_more_open_requests_than_the_cap_are_told_to_come_back(bench):
    bench.models.delay_seconds = 0.3

    async def crowd():
        transport = httpx.ASGITransport(app=bench.client.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            calls = [client.post("/v1/projects/fashion/predict", content=png(), headers=bearer()) for _ in range(12)]
            return await asyncio.gather(*calls)

    responses = asyncio.run(crowd())
    codes = sorted(response.status_code for response in responses)
    assert codes == [200] * 8 + [503] * 4
    assert bench.gateway.num_open == 0
    assert bench.counts() == (12, 12, 0)


def test_what_is_in_flight_is_told_to_the_deploy_stage(bench):
    bench.models.delay_seconds = 0.3

    async def look():
        transport = httpx.ASGITransport(app=bench.client.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway", headers=bearer("stack")) as client:
            call = asyncio.ensure_future(client.post("/v1/projects/fashion/predict", content=png()))
            await asyncio.sleep(0.1)
            during = (await client.get("/internal/inflight", params={"deployment": "d1"})).json()
            await call
            return during, (await client.get("/internal/inflight", params={"deployment": "d1"})).json()

    during, after = asyncio.run(look())
    assert during == {"deployment": "d1", "in_flight": 1}
    assert after["in_flight"] == 0


def test_users_stay_on_their_deployment_and_shares_hold(bench):
    import dataclasses

    known = snapshot()
    fashion = known.routes["fashion"]
    halves = tuple(dataclasses.replace(entry, weight=50) for entry in fashion.entries)
    split = dataclasses.replace(fashion, entries=halves)
    bench.follow(snapshot_of([split], list(known.keys.values())))
    versions = {
        user: {bench.predict(**{"X-User-Key": f"user-{user}"}).json()["model_version"] for _ in range(3)}
        for user in range(40)
    }
    assert all(len(seen) == 1 for seen in versions.values())
    share = sum(seen == {"A"} for seen in versions.values()) / 40
    assert 0.25 < share < 0.75


def test_text_goes_to_the_model_in_the_form_that_training_saw(bench):
    raw = "\ufeffline one\r\nline\u200b two".encode()
    response = bench.predict(raw, project="texts", name="texts", **{"Content-Type": "text/plain; charset=utf-8"})
    assert response.status_code == 200
    assert bench.models.asked == [("d1", b"line one\nline two", "text/plain")]
    (record,) = bench.records()
    assert record.payload == raw


def test_metrics_are_for_an_admin(bench):
    assert bench.client.get("/metrics").status_code == 401
    text = bench.client.get("/metrics", headers=bearer("stack")).text
    assert 'dethrone_route_generation{project="fashion"} 3.0' in text


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/", (404, "NOT_FOUND", None)),
        ("GET", "/v1", (404, "NOT_FOUND", None)),
        ("POST", "/v1/projects/fashion/predict/", (404, "NOT_FOUND", None)),
        ("GET", "/v1/projects/fashion/predict", (405, "METHOD_NOT_ALLOWED", None)),
        ("DELETE", "/v1/projects/fashion", (405, "METHOD_NOT_ALLOWED", None)),
        ("POST", "/v1/projects/..%2ftexts/predict", (404, "NOT_FOUND", None)),
        ("POST", "/v1/projects/%00/predict", (404, "PROJECT_UNKNOWN", "project")),
        ("POST", "//v1/projects/fashion/predict", (404, "NOT_FOUND", None)),
        ("POST", "/v1/projects/a%0ab/predict", (404, "PROJECT_UNKNOWN", "project")),
        ("GET", "/a%0ab", (404, "NOT_FOUND", None)),
        ("BREW", "/coffee", (404, "NOT_FOUND", None)),
        ("BREW", "/v1/projects/fashion", (405, "METHOD_NOT_ALLOWED", None)),
    ],
)
def test_other_paths_and_methods_have_the_same_error_shape(bench, method, path, expected):
    assert error_of(bench.client.request(method, f"http://testserver{path}", headers=bearer())) == expected


@pytest.mark.parametrize("name", ["fashion", "newsgroups"])
def test_what_the_release_stage_commits_is_what_the_gateway_reads(name):
    settings = route_config(load_project(ROOT / "projects" / name))
    del settings["approval"]  # for those who look back, not for the gateway
    row = {"project": name, "generation": 1, "commit_id": "c", "champion_version": "A"}
    parsed = parse_route(row | {"body": {"entries": [], "serving": settings}}).settings
    assert {"thresholds", "abstain_below", "business_labels", "top_k"} <= set(settings)
    assert {field: getattr(parsed, field) for field in settings} == settings | {"classes": tuple(settings["classes"])}
    assert set(settings["preprocess"]) == {"max_pixels", "max_text_characters"}


@pytest.mark.parametrize(
    ("modality", "limits", "payload", "code"),
    [
        ("image", {"max_pixels": 100}, png(), "IMAGE_TOO_LARGE"),
        ("text", {"max_text_characters": 3}, b"long", "TEXT_TOO_LONG"),
        ("tabular", {"max_text_characters": 3}, b'{"a":"long"}', "VALUE_TOO_LONG"),
    ],
)
def test_the_limits_of_the_route_hold(modality, limits, payload, code):
    with pytest.raises(ApiError, match="at most") as caught:
        asyncio.run(canonical_item(payload, ServingSettings(modality=modality, preprocess=limits)))
    assert (caught.value.status, caught.value.code) == (422, code)


def test_ids_are_fetched_many_at_a_time_and_none_is_given_twice():
    asked = []

    def read(size):
        asked.append(size)
        return b"".join(number.to_bytes(ID_BYTES) for number in range(sum(asked[:-1]), sum(asked), ID_BYTES))

    new_id = random_ids(read=read)
    ids = [new_id() for _ in range(2 * IDS_AT_ONCE + 1)]
    assert (len(set(ids)), {len(request_id) for request_id in ids}) == (len(ids), {2 * ID_BYTES})
    assert asked == [ID_BYTES * IDS_AT_ONCE] * 3
    assert len({*(random_ids()() for _ in range(3))}) == 3
