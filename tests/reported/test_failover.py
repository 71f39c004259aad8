"""Answers while the champion's server is away: the kept predecessor's, named, or a short wait."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from bento_services.gateway.errors import ApiError
from bento_services.gateway.routing.circuit_breaker import Breakers
from bento_services.gateway.routing.dispatcher import BACK_SECONDS, Dispatcher, InferenceRequest, Patience
from bento_services.gateway.routing.inference_client import Failed, Rejected, Scores
from bento_services.gateway.routing.routes import (
    ProjectRoute,
    ServingSettings,
    parse_route,
    parse_snapshot,
    snapshot_of,
)
from pipeline_tasks.contracts import Route, RouteEntry
from pipeline_tasks.deployment.route_plan import rollback_settings, standby_settings
from pipeline_tasks.errors import GateClosed
from pipeline_tasks.invariants.champions import served_violations
from tests.unit.deployment.test_task import NOW, Yard

CLASSES = ("bag", "boot")
CHAMPION, STANDBY = RouteEntry("b1", "B", "http://b1", 100), RouteEntry("a1", "A", "http://a1", 0)
AWAY = Failed("unreachable")
SETTINGS = ServingSettings(classes=CLASSES, standby=STANDBY)
ROUTE = ProjectRoute("fashion", 7, "c7", "B", (CHAMPION,), (), SETTINGS)
H6 = pytest.mark.parametrize("row", ["H6"])


class Servers:
    """Inference services by deployment id: what each answers, in order; the last answer stays."""

    def __init__(self, **replies):
        self.replies = {name: list(given) if isinstance(given, list) else [given] for name, given in replies.items()}
        self.asked, self.now = [], 0.0

    async def ask(self, entry, payload, *, media_type, classes):
        assert classes == CLASSES
        self.asked.append(entry.deployment_id)
        self.now += 0.01
        left = self.replies[entry.deployment_id]
        return left.pop(0) if len(left) > 1 else left[0]


def scores(first=0.9):
    return Scores(CLASSES, (first, 1 - first))


def ask(servers, route=ROUTE, *, version=None, dispatcher=None, drawn=None):
    dispatcher = dispatcher or Dispatcher(servers, monotonic=lambda: servers.now)
    question = InferenceRequest(b"x", "image/png", "someone", version)
    return asyncio.run(dispatcher.predict(question, current_route=lambda: route, drawn=drawn))


@H6
def test_the_kept_predecessor_answers_for_a_dead_champion_and_is_named(row):
    """0 to 12 of 100 requests a second failed although a ready server ran beside the dead one."""
    servers, assigned = Servers(b1=AWAY, a1=scores()), []
    dispatcher = Dispatcher(servers, monotonic=lambda: servers.now)
    for _ in range(3):
        answer = ask(servers, dispatcher=dispatcher, drawn=lambda _, entry: assigned.append(entry.deployment_id))
        assert answer.entry == STANDBY, row
    assert servers.asked == ["b1", "a1", "a1", "a1"], "while the champion is known to be away, nobody waits for it"
    assert assigned == ["b1"] * 3, "who was drawn does not depend on who is there"
    assert dispatcher.num_by_standby == 3
    servers.now, servers.replies["b1"] = 5.0, [scores(0.8)]
    assert ask(servers, dispatcher=dispatcher).entry == CHAMPION


@H6
@pytest.mark.parametrize("reply", [Failed("timeout"), Failed("nonsense"), Failed("failed"), Failed("overloaded")])
def test_the_predecessor_does_not_take_over_from_a_champion_that_is_there(reply, row):
    """A slow or wrong champion is asked once more, as before: what another model thinks is no remedy for it."""
    servers = Servers(b1=reply, a1=scores())
    with pytest.raises(ApiError) as caught:
        ask(servers)
    assert (caught.value.status, servers.asked) == (503, ["b1", "b1"]), row


@H6
def test_a_named_version_and_a_bad_item_are_not_the_predecessors(row):
    """A named version answers or there is an error; an item that the champion rejects stays rejected."""
    servers = Servers(b1=AWAY, a1=scores())
    with pytest.raises(ApiError, match="must answer with sense and in time"):
        ask(servers, version="B")
    assert "a1" not in servers.asked, row
    with pytest.raises(ApiError, match="no image"):
        ask(Servers(b1=Rejected(422, "NOT_AN_IMAGE", "no image"), a1=scores()))


@H6
def test_a_share_beside_the_champion_comes_before_the_predecessor(row):
    """A candidate with a share stands nearer to the callers than a model of the past."""
    candidate = RouteEntry("c1", "C", "http://c1", 50)
    route = dataclasses.replace(ROUTE, entries=(dataclasses.replace(CHAMPION, weight=50), candidate))
    assert ask(Servers(b1=AWAY, c1=scores(), a1=scores()), route).entry == candidate, row
    assert ask(Servers(b1=AWAY, c1=AWAY, a1=scores()), route).entry == STANDBY


def waiting(servers, **patience):
    return Dispatcher(servers, patience=Patience(**patience), monotonic=lambda: servers.now)


@H6
def test_without_a_predecessor_a_request_waits_until_the_server_is_back(row, monkeypatch):
    """A first champion has none; its supervisor starts it again within seconds."""
    monkeypatch.setattr("bento_services.gateway.routing.dispatcher.LOOK_AGAIN_SECONDS", 0)
    route = dataclasses.replace(ROUTE, settings=dataclasses.replace(SETTINGS, standby=None))
    servers = Servers(b1=[AWAY] * 20 + [scores()])
    assert ask(servers, route, dispatcher=waiting(servers, seconds=5, max_waiting=1)).entry == CHAMPION, row
    assert len(servers.asked) == 21


@H6
@pytest.mark.parametrize(
    ("patience", "num_asked"), [({"seconds": 1, "max_waiting": 1}, 101), ({"seconds": 9, "max_waiting": 0}, 2)]
)
def test_waiting_ends_and_does_not_take_every_slot(patience, num_asked, row, monkeypatch):
    """The requests of a server that stays away must not stop those of others."""
    monkeypatch.setattr("bento_services.gateway.routing.dispatcher.LOOK_AGAIN_SECONDS", 0)
    route = dataclasses.replace(ROUTE, settings=dataclasses.replace(SETTINGS, standby=None))
    servers = Servers(b1=AWAY)
    dispatcher = waiting(servers, **patience)
    with pytest.raises(ApiError, match="must answer with sense and in time"):
        ask(servers, route, dispatcher=dispatcher)
    assert len(servers.asked) == pytest.approx(num_asked, abs=2), row
    servers.now += BACK_SECONDS
    servers.asked.clear()
    with pytest.raises(ApiError, match="must answer"):
        ask(servers, route, dispatcher=dispatcher)
    assert len(servers.asked) == 2, "who has been away for long is not waited for"


@H6
def test_a_breaker_knows_since_when(row):
    """Since the first failure in a row, and no longer than to the next answer."""
    now = [3.0]
    breakers = Breakers(monotonic=lambda: now[0])
    breakers.heard("b1", AWAY)
    now[0] = 9.0
    breakers.heard("b1", AWAY)
    assert (breakers.failing_since("b1"), breakers.failing_since("a1")) == (3.0, 9.0), row
    breakers.heard("b1", scores())
    assert breakers.failing_since("b1") == 9.0


@pytest.fixture
def yard(database):
    return Yard(database)


def standbys(yard):
    return [(record.serving.get("standby") or {}).get("model_version") for record in yard.serving.records("fashion")]


@H6
def test_a_promotion_names_its_predecessor_and_a_rollback_nobody(yard, row):
    """A version that a person has just left answers nobody, and one that was stopped long ago is not asked."""
    for version in ("a", "b", "c"):
        yard.ship(version)
    yard.rollback()
    yard.ship("d")
    assert yard.champions == ["a", "b", "c", "b", "d"]
    assert standbys(yard) == [None, "a", "b", None, "b"], row
    kept = yard.serving.records("fashion")[-1].serving["standby"]
    assert kept["deployment_id"] in yard.target.running


@H6
def test_a_predecessor_with_other_classes_or_that_is_not_kept_is_no_standby(row):
    """Its answers would be about other classes; without keep_previous its server is stopped."""
    head = Route("fashion", 1, "c1", None, "A", (dataclasses.replace(STANDBY, weight=100),))
    new, same = {"classes": ["bag", "boot"]}, {"classes": ["boot", "bag"]}
    named = {"standby": dataclasses.asdict(STANDBY)}
    assert standby_settings(head, new, before=same, keep_previous=True) == new | named, row
    assert standby_settings(head, new, before={"classes": ["bag"]}, keep_previous=True) == new
    assert standby_settings(head, new, before=same, keep_previous=False) == new
    assert standby_settings(None, new, before={}, keep_previous=True) == new
    assert rollback_settings(new | named, head=head, goal=head) == new | named, (
        "the end of a rollout: the same champion"
    )


@H6
def test_a_standby_passed_the_gate(yard, row):
    """It may answer anybody, so it needs what an entry of a route needs."""
    yard.ship("a")
    head = yard.serving.head_route("fashion")
    entry = dataclasses.asdict(RouteEntry("x", "ghost", "http://x", 0))
    facts = {"action": "promote", "attempt": "r/ship/1", "verdict_id": "v", "actor": "gate", "reason": "won"}
    route = dataclasses.replace(head, generation=2, commit_id="c2", parent_commit_id=head.commit_id)
    with pytest.raises(GateClosed, match=r"\(got ghost\)"):
        yard.serving.commit_route(route, **facts, serving={"standby": entry}, at=NOW)
    assert yard.champions == ["a"], row


@H6
def test_the_gateway_reads_it_from_the_catalog_and_from_its_own_copy(row):
    """Also a gateway that started without the catalog knows the standby."""
    body = {"entries": [dataclasses.asdict(CHAMPION)], "serving": {"standby": dataclasses.asdict(STANDBY)}}
    fields = {"project": "fashion", "generation": 7, "commit_id": "c7", "champion_version": "B", "body": body}
    read = parse_route(fields)
    assert read.settings.standby == STANDBY, row
    assert parse_snapshot(snapshot_of([read], []).to_json()).routes["fashion"] == read
    assert parse_route(fields | {"body": {**body, "serving": {}}}).named == (CHAMPION,)


@H6
def test_verify_takes_the_standbys_answers_and_no_others(row):
    """The log names who answered; `verify` holds it against the route."""
    body = {"entries": [dataclasses.asdict(CHAMPION)], "serving": {"standby": dataclasses.asdict(STANDBY)}}
    routes = [{"generation": 1, "created_at": NOW, "champion_version": "B", "body": body}]
    rows = [{"model_version": version, "at_ms": int(NOW.timestamp() * 1000) + 5} for version in ("B", "A", "Z")]
    messages = [violation.message for violation in served_violations("fashion", routes, rows, slack=NOW - NOW)]
    assert messages == ["1 predictions came from Z while the route did not name it"], row
