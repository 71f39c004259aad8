"""The circuit breaker: opens after failures in a row, lets one probe through, closes on a good answer."""

import asyncio

import pytest

from bento_services.gateway.routing.circuit_breaker import PROBE_SECONDS, Breakers
from bento_services.gateway.routing.dispatcher import Dispatcher, InferenceRequest
from bento_services.gateway.routing.inference_client import Failed, Rejected, Scores
from bento_services.gateway.routing.routes import ProjectRoute, ServingSettings
from pipeline_tasks.contracts import RouteEntry

GOOD = Scores(("a", "b"), (0.5, 0.5))
TIMEOUT, UNREACHABLE = Failed("timeout"), Failed("unreachable")


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def breakers(clock):
    return Breakers(monotonic=clock)


def hear(breakers, *replies):
    for reply in replies:
        breakers.asked("d")
        breakers.heard("d", reply)


@pytest.mark.parametrize(
    ("replies", "state"),
    [
        ([UNREACHABLE], "open"),
        ([TIMEOUT, TIMEOUT], "closed"),
        ([TIMEOUT, TIMEOUT, TIMEOUT], "open"),
        ([Failed("failed"), Failed("nonsense"), TIMEOUT], "open"),
        ([TIMEOUT, TIMEOUT, GOOD, TIMEOUT, TIMEOUT], "closed"),
        ([TIMEOUT, TIMEOUT, Rejected(422, "X", "m"), TIMEOUT], "closed"),
        ([Failed("overloaded")] * 10, "closed"),
        ([TIMEOUT, TIMEOUT, Failed("overloaded"), TIMEOUT], "open"),
    ],
)
def test_it_opens_after_failures_in_a_row(breakers, replies, state):
    hear(breakers, *replies)
    assert breakers.state("d") == state
    assert breakers.avoided() == ({"d"} if state == "open" else set())


def test_one_probe_goes_through_and_a_good_answer_closes(breakers, clock):
    hear(breakers, UNREACHABLE)
    clock.now = 0.99
    assert breakers.avoided() == {"d"}
    clock.now = 1.0
    assert (breakers.state("d"), breakers.avoided()) == ("half_open", set())
    breakers.asked("d")
    assert breakers.avoided() == {"d"}, "the second request does not go there while the probe is under way"
    breakers.heard("d", GOOD)
    assert (breakers.state("d"), breakers.avoided()) == ("closed", set())
    assert breakers.gauges() == []


def test_a_failed_probe_opens_for_twice_as_long_up_to_a_bound(breakers, clock):
    waits = []
    hear(breakers, UNREACHABLE)
    for _ in range(6):
        began = clock.now
        while breakers.state("d") == "open":
            clock.now += 0.5
        waits.append(clock.now - began)
        hear(breakers, UNREACHABLE)
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 16.0]
    assert breakers.num_opened == 7


def test_a_probe_fails_by_any_failure(breakers, clock):
    hear(breakers, UNREACHABLE)
    clock.now = 1.0
    hear(breakers, TIMEOUT)
    assert breakers.state("d") == "open"


def test_stragglers_of_an_open_one_neither_prolong_nor_lengthen(breakers, clock):
    hear(breakers, *[UNREACHABLE] * 20)
    assert breakers.num_opened == 1
    clock.now = 1.0
    assert breakers.state("d") == "half_open"


def test_a_probe_that_never_ends_is_taken_for_lost(breakers, clock):
    hear(breakers, UNREACHABLE)
    clock.now = 1.0
    breakers.asked("d")
    clock.now = 1.0 + PROBE_SECONDS
    assert breakers.avoided() == set()


def test_gauges_tell_the_state_and_forget_who_is_gone(breakers, clock):
    hear(breakers, UNREACHABLE)
    assert breakers.gauges() == [("dethrone_breaker_open", 1.0, {"deployment": "d"})]
    clock.now = 1.0
    assert breakers.gauges() == [("dethrone_breaker_open", 0.5, {"deployment": "d"})]
    breakers.forget({"other"})
    assert breakers.gauges() == []


class Replicas:
    def __init__(self):
        self.replies = {"a": GOOD, "b": GOOD}
        self.asked = []

    async def ask(self, entry, payload, *, media_type, classes):
        self.asked.append(entry.deployment_id)
        return self.replies[entry.deployment_id]


def test_a_dispatcher_passes_over_the_dead_probes_it_and_takes_it_back(clock):
    replicas = Replicas()
    dispatcher = Dispatcher(replicas, monotonic=clock)
    entries = (RouteEntry("a", "A", "http://a", 100), RouteEntry("b", "A", "http://b", 0))
    route = ProjectRoute("fashion", 1, "c", "A", entries, (), ServingSettings())

    def ask(number=1):
        replicas.asked.clear()
        for _ in range(number):
            asyncio.run(dispatcher.predict(InferenceRequest(b"x", "text/plain", "s", "A"), current_route=lambda: route))
        return list(replicas.asked)

    first = ask()[0]
    replicas.replies[first] = UNREACHABLE
    other = "b" if first == "a" else "a"
    assert ask() == [first, other]
    assert ask(5) == [other] * 5
    clock.now = 1.0
    assert ask(3) == [first, other, other, other], "one probe, replayed; then passed over again"
    replicas.replies[first] = GOOD
    clock.now = 3.0
    assert ask(2) == [first, first]


def test_the_only_deployment_is_asked_although_its_breaker_is_open(clock):
    replicas = Replicas()
    dispatcher = Dispatcher(replicas, monotonic=clock)
    route = ProjectRoute("fashion", 1, "c", "A", (RouteEntry("a", "A", "http://a", 100),), (), ServingSettings())
    dispatcher.breakers.heard("a", UNREACHABLE)
    question = InferenceRequest(b"x", "text/plain", "s", None)
    assert asyncio.run(dispatcher.predict(question, current_route=lambda: route)).scores == GOOD
    assert dispatcher.breakers.state("a") == "closed"
