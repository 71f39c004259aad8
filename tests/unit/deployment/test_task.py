"""Ship and rollback on a real catalog, with a target and a gateway that remember what they were asked."""

import datetime as dt

import pytest

from pipeline_tasks.catalog.routes import ServingRepository
from pipeline_tasks.contracts import Attempt, ReleaseRef
from pipeline_tasks.core.ports import ServerHandle
from pipeline_tasks.deployment import task
from pipeline_tasks.errors import ConfigError, GateClosed, ServiceUnavailable
from tests.unit.evaluation import support as s

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


class Target:
    def __init__(self):
        self.running, self.started, self.broken = {}, [], set()

    def start(self, *, deployment_id, bento_tag, environment):
        assert environment == {"DETHRONE_DEPLOYMENT": deployment_id}
        self.started.append(bento_tag)
        self.running[deployment_id] = "RUNNING"
        return ServerHandle(deployment_id, f"http://127.0.0.1/{deployment_id}")

    def wait_ready(self, deployment_id, *, timeout_seconds):
        if deployment_id in self.broken:
            raise ServiceUnavailable(
                f"{deployment_id} must become ready in {timeout_seconds:.0f} s (got: it does not)."
            )

    def stop(self, deployment_id):
        self.running.pop(deployment_id, None)

    def list(self):
        return dict(self.running)


class Follower:
    """A gateway that follows at once."""

    def __init__(self, serving):
        self._serving = serving

    def followed_generation(self, project):
        return self._serving.head_route(project).generation

    def in_flight(self, deployment_id):
        return 0

    def accounts(self, project):
        return None


class Yard:
    """One project, its releases by model version, and the runs that ship them and roll them back."""

    def __init__(self, database):
        self.database, self.serving, self.target = database, ServingRepository(database), Target()
        self.project, self.num_runs, self.checked = s.project(), 0, []

    def context(self, attempt=None):
        attempt = attempt or self.attempt()
        return task.RouteContext(self.project, self.serving, self.target, Follower(self.serving), attempt, lambda: NOW)

    def fence(self, attempt):
        return self.database.acquire("ship/fashion", attempt, now=NOW)

    def release(self, version):
        return ReleaseRef("fashion", f"r{version}", version, f"verdict-{version}", f"dethrone_fashion:r{version}")

    def attempt(self):
        self.num_runs += 1
        return Attempt(f"run-{self.num_runs}", "ship")

    def ship(self, version, *, gate=lambda: None, attempt=None):
        context = self.context(attempt)
        facts = {"route_config": {}, "fence": self.fence(context.attempt)}
        return task.ship(context, self.release(version), require_promotable=gate, **facts)

    def rollback(self, *, to_version=None, check=None, release_of=None, attempt=None):
        context = self.context(attempt)
        return task.rollback(
            context,
            release_of=release_of or (lambda entry: self.release(entry.model_version)),
            check=check or (lambda release, deployment: self.checked.append((release, deployment))),
            to_version=to_version,
            actor="ann",
            reason="complaints",
            fence=self.fence(context.attempt),
        )

    @property
    def champions(self):
        return [route.champion_version for route in self.serving.history("fashion")]


@pytest.fixture
def yard(database):
    return Yard(database)


def closed(*_):
    raise GateClosed("no", code="NO")


def test_a_release_gets_all_the_traffic_and_the_champion_before_is_kept(yard):
    for version in ("a", "b"):
        route = yard.ship(version)
        assert [(entry.model_version, entry.weight) for entry in route.entries] == [(version, 100)]
    assert set(yard.target.running) == {"fashion-ra", "fashion-rb"}


def test_only_the_champion_and_the_one_before_keep_running(yard):
    for version in ("a", "b", "c"):
        yard.ship(version)
    assert set(yard.target.running) == {"fashion-rb", "fashion-rc"}


def test_a_closed_gate_moves_nothing(yard):
    yard.ship("a")
    with pytest.raises(GateClosed):
        yard.ship("b", gate=closed)
    assert yard.champions == ["a"]


def test_a_server_that_never_becomes_ready_moves_nothing(yard):
    yard.ship("a")
    yard.target.broken.add("fashion-rb")
    with pytest.raises(ServiceUnavailable, match="must become ready"):
        yard.ship("b")
    assert yard.champions == ["a"]


def test_shipping_what_serves_is_done_already_and_asks_no_gate(yard):
    attempt = yard.attempt()
    yard.ship("a", attempt=attempt)
    again = yard.ship("a", gate=closed, attempt=Attempt(attempt.run_id, attempt.task, 2))
    assert again.generation == 1


def test_a_retry_of_ship_does_not_undo_a_rollback(yard):
    yard.ship("a")
    attempt = yard.attempt()
    yard.ship("b", attempt=attempt)
    yard.rollback()
    started = list(yard.target.started)
    with pytest.raises(GateClosed, match=r"generation 2, and ann has moved the route since \(generation 3, rollback:"):
        yard.ship("b", attempt=Attempt(attempt.run_id, attempt.task, 2))
    assert yard.champions == ["a", "b", "a"]
    assert yard.target.started == started


def test_a_person_can_return_to_what_was_rolled_back(yard):
    yard.ship("a")
    yard.ship("b")
    yard.rollback()
    assert yard.rollback(to_version="b").champion_version == "b"
    assert yard.ship("b").generation == 4


def test_rollback_checks_the_started_server_and_returns_to_the_champion_before(yard):
    yard.ship("a")
    yard.ship("b")
    route = yard.rollback()
    assert route.champion_version == "a"
    ((release, deployment),) = yard.checked
    assert (release.model_version, deployment.address) == ("a", "http://127.0.0.1/fashion-ra")
    assert yard.champions == ["a", "b", "a"]


def test_a_former_champion_that_fails_its_check_is_not_returned_to(yard):
    yard.ship("a")
    yard.ship("b")
    with pytest.raises(GateClosed):
        yard.rollback(check=closed)
    assert yard.champions == ["a", "b"]


def test_a_former_champion_whose_artifacts_are_gone_is_not_even_started(yard):
    yard.ship("a")
    yard.ship("b")
    started = list(yard.target.started)
    with pytest.raises(GateClosed):
        yard.rollback(release_of=closed)
    assert yard.target.started == started
    assert yard.champions == ["a", "b"]


def test_a_retried_rollback_goes_back_once(yard):
    for version in ("a", "b", "c"):
        yard.ship(version)
    attempt = yard.attempt()
    yard.rollback(attempt=attempt)
    route = yard.rollback(attempt=Attempt(attempt.run_id, attempt.task, 2))
    assert route.champion_version == "b"
    assert yard.champions == ["a", "b", "c", "b"]


def test_a_rollback_command_that_was_cut_short_and_is_given_again_goes_back_once(yard):
    for version in ("a", "b", "c"):
        yard.ship(version)
    yard.rollback(attempt=Attempt("shell__1", "rollback"))
    assert yard.rollback(attempt=Attempt("shell__2", "rollback")).champion_version == "b"
    assert yard.rollback(attempt=Attempt("shell__3", "rollback"), to_version="a").champion_version == "a"
    assert yard.champions == ["a", "b", "c", "b", "a"]


def test_the_same_words_in_a_later_incident_are_another_rollback(yard):
    for version in ("a", "b"):
        yard.ship(version)
    yard.rollback(attempt=Attempt("shell__1", "rollback"))
    yard.ship("c")
    assert yard.rollback(attempt=Attempt("shell__2", "rollback")).champion_version == "a"


def test_the_same_words_an_hour_later_are_another_rollback(yard, monkeypatch):
    for version in ("a", "b", "c"):
        yard.ship(version)
    yard.rollback(attempt=Attempt("shell__1", "rollback"))
    monkeypatch.setattr(task, "AGAIN_WITHIN", dt.timedelta(0))
    assert yard.rollback(attempt=Attempt("shell__2", "rollback")).champion_version == "a"


def test_back_to_a_named_version_that_runs_no_more(yard):
    for version in ("a", "b", "c"):
        yard.ship(version)
    assert yard.rollback(to_version="a").champion_version == "a"
    assert "fashion-ra" in yard.target.running
    with pytest.raises(ConfigError, match="must be a former champion"):
        yard.rollback(to_version="z")


def test_a_champion_whose_server_is_lost_can_be_named_and_starts_again(yard):
    yard.ship("a")
    yard.ship("b")
    with pytest.raises(ConfigError, match="must differ from the champion"):
        yard.rollback(to_version="b")
    yard.target.running.clear()  # the engine was lost, or the catalog was restored elsewhere
    assert yard.rollback(to_version="b").champion_version == "b"
    assert list(yard.target.running) == ["fashion-rb"]
    assert yard.rollback().champion_version == "a"
