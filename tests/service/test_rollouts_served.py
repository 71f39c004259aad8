"""Rollouts under load: the real gateway and real inference services; candidates that break in every way are caught.

Whatever a candidate does, no caller sees a failed request, and the champion ends with all of the traffic.
"""

from __future__ import annotations

import dataclasses
import random
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from bento_services.gateway.config import GatewayConfig
from bento_services.gateway.prediction_log.records import read_records, to_parts
from pipeline_tasks.adapters.gateway_admin import GatewayClient
from pipeline_tasks.catalog import tables as t
from pipeline_tasks.contracts import Attempt, ReleaseRef
from pipeline_tasks.core.clock import utc_now
from pipeline_tasks.core.ports import ServerHandle
from pipeline_tasks.deployment import experiment as experiment_task
from pipeline_tasks.deployment import task
from pipeline_tasks.deployment.bento_builder import build_bento
from pipeline_tasks.deployment.canary import CanaryRollout, roll_out
from pipeline_tasks.deployment.experiment_analysis import compare_arms
from pipeline_tasks.errors import GateClosed
from pipeline_tasks.monitoring.experiment_log import read_log
from tests.fakes import FakeObjectStore
from tests.service.conftest import png
from tests.service.servers import CLASSES, GATEWAY, ROOT, StubInference, gateway_environment, serving, write_model
from tests.service.test_gateway_served import HEADERS, NOW, SERVING, TOKEN, Load, Stack
from tests.services import wait_until
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
        database = self.serving.database
        project = s.project(classes=CLASSES, serving={"rollout": ROLLOUT | rollout, "drain_seconds": 5})
        context = task.RouteContext(project, self.serving, self.target, self.gateway, attempt, utc_now)
        shared = {"require_promotable": lambda: None, "fence": database.acquire("fashion/ship", attempt, now=NOW)}
        note = roll_out(CanaryRollout(**vars(context), release=release, check=lambda *_: None, **shared))
        return task.ship(context, release, route_config=SERVING, note=note, **shared)

    def experiment(self, action: str, version: str = ""):
        """Start an experiment on half of the users, or stop it."""
        self.num_runs += 1
        attempt = Attempt(f"run-{self.num_runs}", "experiment")
        outside = experiment_task.ExperimentResources(
            project=s.project(classes=CLASSES),
            serving=self.serving,
            target=self.target,
            gateway=self.gateway,
            release_of=lambda name: ReleaseRef(
                "fashion", f"r{name}", name, f"verdict-{name}", f"dethrone_fashion:{name}"
            ),
            check=lambda *_: None,
            classes_of=lambda _: CLASSES,
            attempt=attempt,
            fence=lambda: self.serving.database.acquire("fashion/ship", attempt, now=NOW),
            clock=utc_now,
        )
        if action == "stop":
            return experiment_task.stop(outside, actor="ann", reason="seen enough")
        facts = {"share": 50, "metric": "correct", "confidence": 0.95, "actor": "ann"}
        facts["matures_after_seconds"] = 60.0
        return experiment_task.start(outside, version=version, **facts)

    def _judged(self, version: str) -> None:
        facts = {"project": "fashion", "verdict_id": f"verdict-{version}", "contender_version": version}
        facts |= {"answer": "promote", "champion_version": None, "exam_ids": [], "reasons": {}, "policy_id": "p"}
        facts |= {"object_key": "k", "digest": "d", "run_id": "r", "created_at": NOW}
        with self.serving.database.write() as connection:
            connection.execute(t.verdicts.insert(), facts)

    @property
    def moves(self):
        return [(record.action, record.route.champion_version) for record in self.serving.records("fashion")]


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
        serving(GATEWAY, home=home, environment=patience, cwd=ROOT, wait=False) as gateway,
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
    return {deployment["model_version"]: deployment["weight"] for deployment in body["deployments"]}


class Users:
    """Callers with a key of their own, who tell what really was: the answer, at a rate that the model decides."""

    def __init__(self, url: str, rates: dict[str, float], *, seed: int) -> None:
        self._url, self._rates, self._random = url, rates, random.Random(seed)
        self._client = httpx.Client(headers=HEADERS, trust_env=False, timeout=30)

    def ask(self, name: str) -> None:
        """Ask twice, as people do, and tell what the last answer should have been."""
        for _ in range(2):
            response = self._client.post(
                f"{self._url}/v1/projects/fashion/predict", content=png(), headers={"X-User-Key": name}
            )
            answer = response.raise_for_status().json()
        right = self._random.random() < self._rates[answer["model_version"]]
        label = answer["label"] if right else next(other for other in CLASSES if other != answer["label"])
        told = {"prediction_id": answer["prediction_id"], "label": label}
        headers = {"Content-Type": "application/json"}
        self._client.post(
            f"{self._url}/feedback", json=told | {"project": "fashion"}, headers=headers
        ).raise_for_status()


def logged(home) -> FakeObjectStore:
    """Return a store with the parts that the gateway's spool would be shipped as."""
    store, spool = FakeObjectStore(), GatewayConfig(home=home, catalog_url="").spool_dir
    # The store is away, so that everything lies in sealed segments as soon as the open one is sealed.
    wait_until(lambda: not list(spool.glob("*.open")), timeout_seconds=20, what="the last seal")
    records = [record for path in sorted(spool.glob("*.sealed")) for record, _ in read_records(path.read_bytes())]
    for key, data in to_parts(records).items():
        store.put(key, data)
    return store


BROKEN = {
    "errors": {"status": 500, "body": b"boom"},
    "nan": {"body": b'{"model_version":"nan","labels":["bag","boot","coat"],"probabilities":[NaN,NaN,NaN]}'},
    "rejects": {"status": 422, "body": b'{"error":{"code":"NOT_AN_IMAGE","message":"no"}}'},
    "slow": {"delay_seconds": 0.7},
    "hangs": {"delay_seconds": 5.0},
}


ON_MIRRORS = ("mirrors", r"[1-9][\d,]* of [\d,]* .* here only, \d* at the champion only: .*", {})
# A machine that is busy answers late itself, and then the candidate's other answers are seen before its lateness.
ON_BUSY = ("mirrors", r"(?:.* here only, .*|\d+ of \d+ mirrored answers differ from the champion's: .*)", {})
AT_STEPS = ("20 %", ".* of .*the champion's .*", {"shadow_requests": 0})


@pytest.mark.parametrize(
    ("kind", "where", "numbers", "settings"),
    [
        *(pytest.param(kind, *(ON_BUSY if kind == "slow" else ON_MIRRORS), id=kind) for kind in BROKEN),
        pytest.param("errors", *AT_STEPS, id="errors-at-steps"),
    ],
)
def test_a_broken_candidate_is_returned_from_by_itself_and_no_request_fails(world, kind, where, numbers, settings):
    version = "at-steps" if settings else kind
    candidate = StubInference(version=version)
    for name, value in BROKEN[kind].items():
        setattr(candidate, name, value)
    champion = world.moves[-1][1]
    with Load(world.url) as load:
        load.wait_for_more(50)
        began = time.monotonic()
        with pytest.raises(GateClosed, match=f"{where} to {version} failed: {numbers} allowed") as error:
            world.ship(version, candidate.url, **settings)
        seconds = time.monotonic() - began
        load.wait_for_more(50)
    candidate.stop()
    assert error.value.code == "CANARY_FAILED"
    assert set(load.codes) == {200}
    assert world.moves[-2:] == [("canary" if settings else "shadow", champion), ("canary_failed", champion)]
    assert describe(world) == {champion: 100}
    assert f"fashion-r{version}" not in world.target.running
    assert seconds < 30


def test_a_shadow_is_off_the_critical_path_and_a_slow_one_gets_no_traffic(world):
    candidate = StubInference(version="tardy", delay_seconds=1.0)
    champion = world.moves[-1][1]
    with Load(world.url, num_clients=2) as load:
        load.wait_for_more(30)
        with pytest.raises(GateClosed, match=r"mirrors to tardy failed: (\d+) of \1 slower than .* here only"):
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
        route = world.ship("b", world.second.url, shadow_requests=200, limits=dataclasses.asdict(Generous()))
        load.wait_for_more(50)
    assert set(load.codes) == {200}
    assert min(load.versions["a"], load.versions["b"]) > 50
    assert [action for action, _ in world.moves[-4:]] == ["shadow", "canary", "canary", "promote"]
    assert (route.champion_version, describe(world)) == ("b", {"b": 100})
    assert set(world.target.running) == {"fashion-ra", "fashion-rb"}
    reasons = [record.reason for record in world.serving.records("fashion")[-4:]]
    assert "; mirrors passed: 0 of " in reasons[1]
    assert "; 50 % passed: 0 of " in reasons[3]


@pytest.mark.parametrize(("rates", "answer"), [((0.5, 0.85), "b"), ((0.6, 0.6), "undecided")])
def test_an_experiment_finds_a_true_difference_and_none_where_there_is_none(world, rates, answer):
    champion = world.moves[-1][1]
    other = {"a": "b", "b": "a"}[champion]
    started = world.experiment("start", other)
    assert describe(world) == {champion: 50, other: 50}
    people = Users(world.url, dict(zip((champion, other), rates, strict=True)), seed=5)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(people.ask, [f"user-{number}" for number in range(300)]))
    experiment = experiment_task.experiment_of(started)
    log = read_log(
        logged(world.stack.home),
        "fashion",
        generation=experiment.generation,
        deployments=experiment.deployments,
        since=started.created_at.date(),
    )
    as_of_ms = max(exposure.at_ms for exposure in log.exposures) + 60_000
    report = compare_arms(experiment, log.exposures, log.outcomes, as_of_ms=as_of_ms)
    assert (report["answer"], report["warning"]) == (answer, None)
    arms = report["arms"].values()
    assert sum(arm["num_requests"] for arm in arms) == 600
    assert sum(arm["num_exposed"] for arm in arms) == sum(arm["num_outcomes"] for arm in arms) == 300
    backwards = compare_arms(experiment, reversed(log.exposures), reversed(log.outcomes), as_of_ms=as_of_ms)
    assert backwards == report
    world.experiment("stop")
    assert describe(world) == {champion: 100}


@dataclasses.dataclass(frozen=True)
class Generous:
    """Limits for two untrained models on a busy machine: what they say is unlike, and how fast they are is noise."""

    max_error_rate_increase: float = 0.1
    max_latency_ratio: float = 8.0
    max_disagreement: float = 1.0
