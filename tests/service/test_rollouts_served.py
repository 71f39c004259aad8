"""Rollouts under load: the real gateway and real inference services; candidates that break in every way are caught.

Whatever a candidate does, no caller sees a failed request, and the champion ends with all of the traffic.
"""

from __future__ import annotations

import dataclasses
import statistics
import time

import httpx
import pytest

from bento_services.inference.packaging import build_bento
from pipeline_tasks.adapters.gateway import GatewayClient
from pipeline_tasks.assembly import utc_now
from pipeline_tasks.catalog import tables as t
from pipeline_tasks.contracts import Attempt, ReleaseRef
from pipeline_tasks.deployment import task
from pipeline_tasks.deployment.rolling import Rollout, roll_out
from pipeline_tasks.errors import GateClosed
from pipeline_tasks.ports import ServerHandle
from tests.service.servers import CLASSES, ROOT, StubInference, gateway_environment, serving, write_model
from tests.service.test_gateway_served import HEADERS, NOW, SERVICE, SERVING, TOKEN, Load, Stack
from tests.unit.evaluation import support as s

pytestmark = [pytest.mark.integration, pytest.mark.slow]
ROLLOUT = {
    "strategy": "canary",
    "steps": [20, 50],
    "bake_seconds": 1,
    "min_requests": 50,
    "deadline_seconds": 45,
    "limits": {"max_error_rate_increase": 0.1, "max_latency_ratio": 4.0},
}


class Target:
    """Servers that a test has started, by deployment id; remembers which were told to stop."""

    def __init__(self) -> None:
        self.addresses: dict[str, str] = {}
        self.running: dict[str, str] = {}

    def start(self, *, deployment_id, bento_tag, environment):
        self.running[deployment_id] = "RUNNING"
        return ServerHandle(deployment_id, self.addresses[deployment_id])

    def wait_ready(self, deployment_id, *, timeout_seconds): ...

    def stop(self, deployment_id):
        self.running.pop(deployment_id)

    def list(self):
        return dict(self.running)


class World:
    """One project behind a real gateway, whose releases are shipped as the train DAG does."""

    def __init__(self, stack: Stack, url: str) -> None:
        self.stack, self.url, self.target, self.num_runs = stack, url, Target(), 0
        self.gateway = GatewayClient(url, api_key=TOKEN)

    @property
    def serving(self):
        return self.stack.serving

    def ship(self, version: str, address: str, **rollout: object):
        """Record a promote verdict on a model, then ship its release."""
        self.num_runs += 1
        release = ReleaseRef("fashion", f"r{version}", version, f"verdict-{version}", f"dethrone_fashion:{version}")
        self.target.addresses[f"fashion-r{version}"] = address
        self._judged(version)
        attempt = Attempt(f"run-{self.num_runs}", "ship")
        database = self.serving._database
        shared = {
            "serving": self.serving,
            "target": self.target,
            "gateway": self.gateway,
            "require_promotable": lambda: None,
            "attempt": attempt,
            "fence": database.acquire("fashion/ship", attempt, now=NOW),
            "clock": utc_now,
        }
        project = s.project(classes=CLASSES, serving={"rollout": ROLLOUT | rollout, "drain_seconds": 5})
        note = roll_out(Rollout(project=project, release=release, check=lambda *_: None, **shared))
        return task.ship(project, release, route_config=SERVING, note=note, **shared)

    def _judged(self, version: str) -> None:
        facts = {"project": "fashion", "verdict_id": f"verdict-{version}", "contender_version": version}
        facts |= {"answer": "promote", "champion_version": None, "exam_ids": [], "reasons": {}, "policy_id": "p"}
        facts |= {"object_key": "k", "digest": "d", "run_id": "r", "created_at": NOW}
        with self.serving._database.write() as connection:
            connection.execute(t.verdicts.insert(), facts)

    @property
    def moves(self):
        return [(one.action, one.route.champion_version) for one in self.serving.records("fashion")]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The gateway, and two releases in their real servers; the first is the champion."""
    home = tmp_path_factory.mktemp("rollouts")
    for number, version in enumerate("ab"):
        write_model(home / version, version=version, seed=number)
        tag = f"dethrone_fashion:{version}"
        build_bento(home / version, tag=tag, labels={}, bentoml_home=home / "bentoml")
    stack = Stack(home)
    environment = {"BENTOML_HOME": str(home / "bentoml")}
    patience = gateway_environment(home, DETHRONE_INFERENCE_TIMEOUT_SECONDS="1.5")
    with (
        serving("dethrone_fashion:a", home=home, environment=environment, cwd=home, wait=False) as first,
        serving("dethrone_fashion:b", home=home, environment=environment, cwd=home, wait=False) as second,
        serving(SERVICE, home=home, environment=patience, cwd=ROOT, wait=False) as gateway,
    ):
        world = World(stack, gateway.url)
        world.first, world.second = first, second
        for server in (first, second):
            server.wait_ready()
        world.ship("a", first.url, strategy="all_at_once")
        gateway.wait_ready()
        yield world


def describe(world) -> dict[str, int]:
    body = httpx.get(f"{world.url}/v1/projects/fashion", headers=HEADERS, trust_env=False).json()
    return {one["model_version"]: one["weight"] for one in body["deployments"]}


BROKEN = {
    "errors": {"status": 500, "body": b"boom"},
    "nan": {"body": b'{"model_version":"nan","labels":["bag","boot","coat"],"probabilities":[NaN,NaN,NaN]}'},
    "rejects": {"status": 422, "body": b'{"error":{"code":"NOT_AN_IMAGE","message":"no"}}'},
    "slow": {"delay_seconds": 0.7},
    "hangs": {"delay_seconds": 5.0},
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_candidate_is_returned_from_by_itself_and_no_request_fails(world, kind):
    candidate = StubInference(version=kind)
    for name, value in BROKEN[kind].items():
        setattr(candidate, name, value)
    champion = world.moves[-1][1]
    with Load(world.url) as load:
        load.wait_for_more(50)
        began = time.monotonic()
        with pytest.raises(GateClosed, match=f"20 % to {kind} failed: .* of .*the champion's .* allowed") as error:
            world.ship(kind, candidate.url)
        seconds = time.monotonic() - began
        load.wait_for_more(50)
    candidate.stop()
    assert error.value.code == "CANARY_FAILED"
    assert set(load.codes) == {200}
    assert world.moves[-2:] == [("canary", champion), ("canary_failed", champion)]
    assert describe(world) == {champion: 100}
    assert f"fashion-r{kind}" not in world.target.running
    assert seconds < 30


def test_a_shadow_is_off_the_critical_path_and_a_slow_one_gets_no_traffic(world):
    candidate = StubInference(version="tardy", delay_seconds=1.0)
    champion = world.moves[-1][1]
    with Load(world.url, num_clients=2) as load:
        load.wait_for_more(30)
        with pytest.raises(GateClosed, match=r"mirrors to tardy failed: 100\.0% of .* slower than"):
            world.ship("tardy", candidate.url, shadow_seconds=1.0)
        load.wait_for_more(30)
    candidate.stop()
    assert set(load.codes) == {200}
    assert set(load.versions) == {champion}
    assert candidate.num_requests > 5
    assert statistics.median(load.seconds) < 0.3
    assert world.moves[-2:] == [("shadow", champion), ("canary_failed", champion)]


def test_a_good_candidate_becomes_champion_step_by_step(world):
    with Load(world.url) as load:
        load.wait_for_more(50)
        route = world.ship("b", world.second.url, shadow_requests=30, limits=dataclasses.asdict(Generous()))
        load.wait_for_more(50)
    assert set(load.codes) == {200}
    assert min(load.versions["a"], load.versions["b"]) > 50
    assert [action for action, _ in world.moves[-4:]] == ["shadow", "canary", "canary", "promote"]
    assert (route.champion_version, describe(world)) == ("b", {"b": 100})
    assert set(world.target.running) == {"fashion-ra", "fashion-rb"}
    assert "50 % passed: 0.0% of " in world.serving.records("fashion")[-1].reason


@dataclasses.dataclass(frozen=True)
class Generous:
    """Limits for two untrained models on a busy machine: what they say is unlike, and how fast they are is noise."""

    max_error_rate_increase: float = 0.1
    max_latency_ratio: float = 8.0
    max_disagreement: float = 1.0
