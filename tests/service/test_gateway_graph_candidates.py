"""Candidates beside the champion of a graph's node: their share, and classes in another order than the graph reads."""

from __future__ import annotations

import dataclasses

import pytest

from bento_services.gateway.routing.routes import snapshot_of
from pipeline_tasks.contracts import RouteEntry
from tests.service.test_gateway_graph import CASCADE, CHAIN, Models, by_project, with_graph
from tests.service.test_gateway_http import error_of


class OtherOrder(Models):
    """The models of some versions number their classes the other way round."""

    def __init__(self, *versions: str) -> None:
        super().__init__()
        self.versions = versions

    async def ask(self, entry, payload, *, media_type, classes):
        reply = await super().ask(entry, payload, media_type=media_type, classes=classes)
        turned = entry.model_version in self.versions
        return dataclasses.replace(reply, labels=reply.labels[::-1]) if turned else reply


@pytest.fixture
def rolling(bench):
    """The chain with all of the router's traffic on a candidate."""
    known = with_graph(CHAIN)
    entries = (RouteEntry("coarse-1", "C", "http://c", 0), RouteEntry("coarse-2", "C2", "http://c", 100))
    coarse = dataclasses.replace(known.routes["coarse"], entries=entries)
    bench.follow(snapshot_of([*(known.routes | {"coarse": coarse}).values()], list(known.keys.values())))
    return coarse


def accounts(bench, route):
    deployments = bench.gateway.dispatcher.accounts.read(route)["deployments"]
    return {deployment["model_version"]: (deployment["asked"], deployment["errors"]) for deployment in deployments}


def test_a_candidate_of_a_node_has_its_share_and_users_stay_on_it(bench):
    bench.answer_by(Models())
    known = with_graph(CASCADE)
    halves = tuple(RouteEntry(f"shoes-{number}", f"S{number}", "http://s", 50) for number in (1, 2))
    split = dataclasses.replace(known.routes["shoes"], entries=halves, champion_version="S1")
    bench.follow(snapshot_of([*(known.routes | {"shoes": split}).values()], list(known.keys.values())))

    def version_for(user):
        answer = bench.predict(project="triage", name="stack", **{"X-User-Key": user}).json()
        return answer["nodes"][1]["model_version"]

    seen = [{version_for(f"user-{user}") for _ in range(2)} for user in range(20)]
    assert all(len(versions) == 1 for versions in seen)
    assert set.union(*seen) == {"S1", "S2"}


def test_a_candidate_with_another_order_of_classes_is_answered_for_by_the_champion_and_has_an_error(bench, rolling):
    bench.answer_by(OtherOrder("C2"))
    answer = bench.predict(project="triage", name="stack")
    assert answer.status_code == 200
    assert [node["model_version"] for node in answer.json()["nodes"]] == ["C", "T"]
    assert accounts(bench, rolling) == {"C2": (1, {"class_order": 1})}
    assert by_project(bench)["coarse"].assigned == "coarse-2"


def test_the_candidate_is_still_asked_by_those_who_read_labels_and_not_numbers(bench, rolling):
    bench.answer_by(OtherOrder("C2"))
    for _ in range(4):
        bench.predict(project="triage", name="stack")
    answer = bench.predict(project="coarse", name="stack")
    assert (answer.status_code, answer.json()["model_version"]) == (200, "C2")


def test_where_the_champion_numbers_them_otherwise_too_the_graph_is_outdated_and_both_have_the_error(bench, rolling):
    bench.answer_by(OtherOrder("C", "C2"))
    assert error_of(bench.predict(project="triage", name="stack"))[:2] == (503, "GRAPH_OUTDATED")
    assert accounts(bench, rolling) == {"C2": (1, {"class_order": 1})}
    alone = dataclasses.replace(rolling, entries=(dataclasses.replace(rolling.entries[0], weight=100),), generation=2)
    known = with_graph(CHAIN)
    bench.follow(snapshot_of([*(known.routes | {"coarse": alone}).values()], list(known.keys.values())))
    assert error_of(bench.predict(project="triage", name="stack"))[:2] == (503, "GRAPH_OUTDATED")
    assert accounts(bench, alone) == {"C": (1, {"class_order": 1})}
