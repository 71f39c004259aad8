"""Counts of each deployment's requests, and the deployment with the last word on an item."""

import asyncio
import dataclasses

import pytest

from bento_services.gateway.errors import ApiError
from bento_services.gateway.routing.deployment_counters import EDGES_MS, Accounts
from bento_services.gateway.routing.dispatcher import Dispatcher, InferenceRequest
from bento_services.gateway.routing.inference_client import Failed, Rejected, Scores
from bento_services.gateway.routing.routes import ProjectRoute, ServingSettings, choose
from pipeline_tasks.contracts import RouteEntry

A = RouteEntry("a", "A", "http://a", 0)
B = RouteEntry("b", "B", "http://b", 100)
B2 = RouteEntry("b2", "B", "http://b2", 0)
SCORES = Scores(("x", "y"), (0.9, 0.1))
REJECTED = Rejected(422, "NOT_AN_IMAGE", "m")


def route(*entries, generation=1, **settings):
    return ProjectRoute("p", generation, f"c{generation}", "A", entries, (), ServingSettings(**settings))


class Stub:
    """Answers by deployment; each answer takes as long as the clock is moved by it."""

    def __init__(self, **replies):
        self.replies, self.asked, self.now, self.seconds = replies, [], 0.0, 0.002

    async def ask(self, entry, payload, *, media_type, classes):
        self.asked.append(entry.deployment_id)
        self.now += self.seconds
        return self.replies[entry.deployment_id]


def predict(stub, *, on, dispatcher=None, version=None, drawn=None, times=1):
    dispatcher = dispatcher or Dispatcher(stub, monotonic=lambda: stub.now)
    question = InferenceRequest(b"x", "image/png", "s", version)
    for _ in range(times):
        answered = asyncio.run(dispatcher.predict(question, current_route=lambda: on, drawn=drawn))
    return answered, {account["deployment_id"]: account for account in dispatcher.accounts.read(on)["deployments"]}


def test_each_request_counts_once_with_its_time_at_the_deployment_that_the_share_gave():
    answered, accounts = predict(Stub(b=SCORES), on=route(A, B), times=3)
    account = accounts["b"]
    assert (answered.entry, accounts.keys()) == (B, {"b"})
    assert (account["asked"], account["errors"], account["model_version"]) == (3, {}, "B")
    (bucket,) = [number for number, count in enumerate(account["latency_counts"]) if count]
    assert EDGES_MS[bucket - 1] < 2 <= EDGES_MS[bucket]
    assert account["latency_counts"][bucket] == 3


def test_a_replay_on_the_champion_is_the_candidates_error_and_not_the_champions_request():
    answered, accounts = predict(Stub(a=SCORES, b=Failed("nonsense")), on=route(A, B))
    assert (answered.entry, answered.replayed) == (A, True)
    assert {name: (account["asked"], account["errors"]) for name, account in accounts.items()} == {
        "b": (1, {"nonsense": 1})
    }


def test_a_broken_candidate_with_two_replicas_is_answered_for_by_the_champion():
    stub = Stub(a=SCORES, b=Failed("failed"), b2=Failed("failed"))
    assert predict(stub, on=route(A, B, B2))[0].entry == A


def test_an_item_that_only_the_candidate_rejects_is_answered_by_the_champion_and_counts_as_its_error():
    stub = Stub(a=SCORES, b=REJECTED)
    answered, accounts = predict(stub, on=route(A, B))
    assert (answered.entry, answered.replayed, stub.asked) == (A, True, ["b", "a"])
    assert accounts["b"]["errors"] == {"rejected": 1}


@pytest.mark.parametrize("second", [REJECTED, Failed("timeout")])
def test_an_item_that_the_champion_does_not_take_either_is_rejected_and_nobodys_error(second):
    stub = Stub(a=second, b=REJECTED)
    dispatcher = Dispatcher(stub, monotonic=lambda: stub.now)
    with pytest.raises(ApiError, match="m") as caught:
        predict(stub, on=route(A, B), dispatcher=dispatcher)
    assert (caught.value.status, caught.value.code) == (422, "NOT_AN_IMAGE")
    (account,) = dispatcher.accounts.read(route(A, B))["deployments"]
    assert (account["deployment_id"], account["asked"], account["errors"]) == ("b", 1, {})


def test_what_the_champion_rejects_is_asked_nobody_else():
    stub = Stub(a=REJECTED, b=SCORES)
    with pytest.raises(ApiError, match="m"):
        predict(stub, on=route(dataclasses.replace(A, weight=100), dataclasses.replace(B, weight=0)))
    assert stub.asked == ["a"]


def test_a_version_that_the_caller_names_is_not_counted():
    heard = []
    _, accounts = predict(Stub(b=SCORES), on=route(A, B), version="B", drawn=lambda *draw: heard.append(draw))
    assert (accounts, heard) == ({}, [])


def test_what_the_share_gave_is_told_also_when_it_is_passed_over():
    heard = []
    stub = Stub(a=SCORES, b=Failed("unreachable"))
    dispatcher, on = Dispatcher(stub, monotonic=lambda: stub.now), route(A, B)
    half = route(dataclasses.replace(A, weight=50), dataclasses.replace(B, weight=50))
    predict(stub, on=on, dispatcher=dispatcher)
    sticky = next(str(n) for n in range(99) if choose(half, sticky_key=str(n), version=None).deployment_id == "b")
    question = InferenceRequest(b"x", "image/png", sticky, None)
    asyncio.run(dispatcher.predict(question, current_route=lambda: half, drawn=lambda *draw: heard.append(draw)))
    assert stub.asked == ["b", "a", "a"], "the breaker is open: the champion is asked at once"
    assert [(drawn.generation, entry.deployment_id) for drawn, entry in heard] == [(1, "b")]


def test_a_new_generation_starts_at_zero_and_late_answers_of_the_old_are_dropped():
    accounts, old, new = Accounts(), route(A), route(A, B, generation=2)
    accounts.answered(old, A, seconds=0.1, error=None)
    accounts.answered(new, B, seconds=0.1, error=None)
    accounts.answered(old, A, seconds=0.1, error=None)
    assert [(account["deployment_id"], account["asked"]) for account in accounts.read(new)["deployments"]] == [("b", 1)]
    assert accounts.read(route(A, generation=3))["deployments"] == []


def test_the_slowest_answers_have_a_place_too():
    accounts = Accounts()
    accounts.answered(route(A), A, seconds=1e6, error="timeout")
    (account,) = accounts.read(route(A))["deployments"]
    assert account["latency_counts"][-1] == account["asked"] == 1


def test_an_experiment_deals_users_anew():
    shares = [dataclasses.replace(A, weight=50), dataclasses.replace(B, weight=50)]
    plain, experiment = route(*shares), route(*shares, experiment={"experiment_id": "e1"})
    other = route(*shares, experiment={"experiment_id": "e2"})
    for left, right in ((plain, experiment), (experiment, other)):
        same = sum(
            choose(left, sticky_key=str(n), version=None) == choose(right, sticky_key=str(n), version=None)
            for n in range(2000)
        )
        assert 900 < same < 1100
