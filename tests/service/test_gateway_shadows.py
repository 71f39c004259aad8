"""Shadows: asked after the caller has the answer, logged beside it, and never a caller's trouble."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt

import httpx
import pytest

from bento_services.gateway import shadowing as module
from bento_services.gateway.routing.deployment_counters import EDGES_MS
from bento_services.gateway.routing.inference_client import Failed, Rejected, Scores
from bento_services.gateway.routing.routes import snapshot_of
from pipeline_tasks.contracts import RouteEntry
from tests.service.conftest import bearer, png, snapshot
from tests.service.servers import CLASSES

SHADOW = RouteEntry("s1", "C", "http://s1", 0)


@pytest.fixture
def mirrored(bench):
    known = snapshot()
    fashion = dataclasses.replace(known.routes["fashion"], shadows=(SHADOW,))
    bench.follow(snapshot_of([fashion], list(known.keys.values())))
    bench.models.replies = {"s1": Scores(CLASSES, (0.1, 0.8, 0.1))}
    return bench


def ask(bench, number: int = 1, **headers: str) -> list[httpx.Response]:
    async def send():
        transport = httpx.ASGITransport(app=bench.client.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            url = "/v1/projects/fashion/predict"
            calls = [client.post(url, content=png(n), headers=bearer() | headers) for n in range(number)]
            responses = await asyncio.gather(*calls)
            await bench.gateway.mirror.stop()
            return responses

    return asyncio.run(send())


def outcomes(bench) -> dict[str, int]:
    names = ("logged", "dropped", "failed", "skipped")
    return {name: bench.metrics.get("dethrone_shadows_total", outcome=name) for name in names}


def test_a_shadow_is_asked_the_same_and_logged_beside_the_answer_without_its_payload(mirrored):
    (response,) = ask(mirrored)
    assert response.json()["model_version"] == "A"
    assert [asked[:2] for asked in mirrored.models.asked] == [("d1", png(0)), ("s1", png(0))]
    answer, shadow = mirrored.records()
    assert (answer.kind, shadow.kind, shadow.prediction_id) == ("prediction", "shadow", answer.prediction_id)
    assert (shadow.model_version, shadow.deployment_id, shadow.label, shadow.confidence) == ("C", "s1", "boot", 0.8)
    assert (shadow.payload, shadow.payload_sha256, shadow.status) == (None, answer.payload_sha256, 200)
    assert mirrored.counts() == (1, 1, 0)
    assert outcomes(mirrored)["logged"] == 1


def answer_slowly(mirrored, deployment_id, *, seconds):
    """Make one deployment slow; returns the list of those who answered, in their order."""
    asked = mirrored.models.ask
    order = []

    async def slow(entry, *args, **kwargs):
        if entry.deployment_id == deployment_id:
            await asyncio.sleep(seconds)
        order.append(entry.deployment_id)
        return await asked(entry, *args, **kwargs)

    mirrored.models.ask = slow
    return order


def test_the_caller_does_not_wait_for_a_shadow(mirrored):
    order = answer_slowly(mirrored, "s1", seconds=0.2)
    (response,) = ask(mirrored)
    total = float(response.headers["server-timing"].rpartition("total;dur=")[2])
    assert total < 200
    assert order == ["d1", "s1"]


@pytest.mark.parametrize("kind", ["unreachable", "timeout", "nonsense", "failed", "overloaded"])
def test_a_shadow_that_fails_is_logged_and_no_callers_trouble(mirrored, kind):
    mirrored.models.replies = {"s1": Failed(kind)}
    assert ask(mirrored)[0].status_code == 200
    _, shadow = mirrored.records()
    assert (shadow.status, shadow.error_code, shadow.label) == (503, f"SHADOW_{kind.upper()}", None)
    assert mirrored.counts() == (1, 1, 0)


def test_a_dead_shadow_is_asked_all_the_same_or_it_would_fail_less_often_than_it_does(mirrored):
    mirrored.models.replies = {"s1": Failed("unreachable")}
    ask(mirrored)
    ask(mirrored, 3)
    assert outcomes(mirrored) == {"logged": 4, "dropped": 0, "failed": 0, "skipped": 0}
    assert pairs(mirrored) == (4, 4, 0)


def accounts(bench):
    headers = {"Authorization": bearer("stack")["Authorization"]}
    body = bench.client.get("/internal/accounts/fashion", headers=headers).json()
    return {deployment["deployment_id"]: deployment for deployment in body["deployments"]}


def pairs(bench) -> tuple[int, int, int]:
    shadow = accounts(bench)["s1"]
    return shadow["paired"], shadow["only_it_failed"], shadow["only_champion_failed"]


@pytest.mark.parametrize(
    ("champion", "shadow", "other", "expected"),
    [
        pytest.param(None, None, None, (1, 0, 0), id="both-answer"),
        pytest.param(None, Failed("nonsense"), None, (1, 1, 0), id="only-it-fails"),
        pytest.param(None, Rejected(422, "NOT_AN_IMAGE", "m"), None, (1, 1, 0), id="only-it-rejects"),
        pytest.param(Failed("failed"), None, Failed("failed"), (1, 0, 1), id="only-the-champion-fails"),
        pytest.param(Failed("failed"), None, None, (1, 0, 1), id="only-the-champion-fails-and-another-answers"),
        pytest.param(Failed("failed"), Failed("timeout"), Failed("failed"), (1, 0, 0), id="both-fail"),
    ],
)
def test_both_are_asked_the_same_and_counted_in_pairs(mirrored, champion, shadow, other, expected):
    """Row 5: sticky users of unequal kinds make no difference where both answer the same requests."""
    replies = {"d1": champion, "s1": shadow, "d2": other}
    mirrored.models.replies |= {name: reply for name, reply in replies.items() if reply is not None}
    (response,) = ask(mirrored)
    assert response.status_code == (200 if champion is None or other is None else 503)
    assert pairs(mirrored) == expected


def test_an_item_that_the_champion_rejects_is_no_pair(mirrored):
    mirrored.models.replies["d1"] = Rejected(422, "NOT_AN_IMAGE", "m")
    assert ask(mirrored)[0].status_code == 422
    assert "s1" not in accounts(mirrored)


def test_pairs_tell_by_edge_who_took_longer(mirrored):
    answer_slowly(mirrored, "s1", seconds=0.2)
    ask(mirrored, 3)
    shadow = accounts(mirrored)["s1"]
    by_edge = dict(zip(EDGES_MS, zip(shadow["slower"], shadow["faster"], strict=True), strict=True))
    assert next(counts for edge, counts in by_edge.items() if edge > 100) == (3, 0)
    assert next(counts for edge, counts in by_edge.items() if edge > 2000) == (0, 0)


def test_no_more_shadows_than_the_bound_are_asked_at_a_time(mirrored, monkeypatch):
    monkeypatch.setattr(module, "MAX_IN_FLIGHT", 2)
    answer_slowly(mirrored, "s1", seconds=0.3)
    assert {response.status_code for response in ask(mirrored, 8)} == {200}
    counts = outcomes(mirrored)
    assert (counts["logged"], counts["skipped"]) == (2, 6)
    assert mirrored.gateway.dispatcher.in_flight("s1") == 0


def test_a_caller_who_names_a_version_is_not_mirrored(mirrored):
    ask(mirrored, **{"X-Model-Version": "A"})
    assert [deployment for deployment, _, _ in mirrored.models.asked] == ["d1"]


def test_monitoring_takes_shadows_for_neither_predictions_nor_errors(mirrored):
    from bento_services.gateway.prediction_log.records import to_parts
    from pipeline_tasks.monitoring.log_parts import read_part
    from pipeline_tasks.monitoring.prediction_log import StoredPart

    mirrored.models.replies = {"s1": Failed("nonsense")}
    ask(mirrored, 2)
    ((key, data),) = to_parts(mirrored.records()).items()
    part = read_part(StoredPart(key, data), project="fashion", now=dt.datetime(2026, 6, 1, tzinfo=dt.UTC))
    assert ({row.model_version for row in part.predictions}, len(part.predictions), part.num_errors) == ({"A"}, 2, 0)


def test_mirrors_are_counted_and_compared_with_the_champions_answers(mirrored):
    ask(mirrored, 3)
    mirrored.models.replies = {"s1": Failed("nonsense")}
    ask(mirrored)
    by_deployment = accounts(mirrored)
    assert (by_deployment["d1"]["asked"], by_deployment["d1"]["errors"]) == (4, {})
    shadow = by_deployment["s1"]
    assert (shadow["asked"], shadow["errors"], shadow["compared"], shadow["disagreed"]) == (4, {"nonsense": 1}, 3, 3)


def test_a_record_tells_what_the_share_gave(mirrored):
    ask(mirrored)
    ask(mirrored, **{"X-Model-Version": "A"})
    drawn, _shadow, named = mirrored.records()
    assert (drawn.generation, drawn.assigned) == (3, "d1")
    assert (named.generation, named.assigned) == (None, None)
