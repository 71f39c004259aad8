"""Starting and stopping experiments on a real catalog."""

import dataclasses
import functools

import pytest

from pipeline_tasks.deployment import experiment as deployment_experiment
from pipeline_tasks.errors import ConfigError, GateClosed
from tests.unit.deployment.canary_case import Rolling
from tests.unit.deployment.test_task import NOW, closed

BEGUN = ("experiment_start", {"a": 70, "b": 30})


class Lab(Rolling):
    """A champion `a`, a gated `b`, and the experiments on them."""

    def outside(self, **changes):
        attempt = self.attempt()
        facts = {
            "project": self.project,
            "serving": self.serving,
            "target": self.target,
            "gateway": self.gateway,
            "release_of": self.release,
            "check": lambda *arguments: self.checked.append(arguments),
            "classes_of": lambda _: ("x", "y"),
            "attempt": attempt,
            "fence": functools.partial(self.database.acquire, "fashion/ship", attempt, now=NOW),
            "clock": self.now,
        }
        return deployment_experiment.ExperimentResources(**facts | changes)

    def start(self, version="b", *, share=30, metric="correct", confidence=0.95, **changes):
        facts = {"share": share, "metric": metric, "confidence": confidence, "actor": "ann"}
        facts["matures_after_seconds"] = 3600.0
        return deployment_experiment.start(self.outside(**changes), version=version, **facts)

    def stop(self):
        return deployment_experiment.stop(self.outside(), actor="bob", reason="enough")


@pytest.fixture
def lab(database):
    return Lab(database)


def test_an_experiment_is_a_route_beside_the_champion(lab):
    record = lab.start()
    assert lab.moves[-1] == BEGUN
    assert (record.route.champion_version, record.verdict_id, record.actor) == ("a", "verdict-a", "ann")
    facts = record.serving["experiment"]
    assert (facts["a"], facts["b"], facts["share"], facts["metric"], facts["confidence"]) == (
        "a",
        "b",
        30,
        "correct",
        0.95,
    )
    assert record.reason == f"experiment {facts['experiment_id']}: 30 % to b beside a, on correct"
    assert (facts["rule"], facts["matures_after_seconds"]) == ("pairs/1", 3600.0)
    assert record.serving["beside_classes"] == ["x", "y"]
    assert len(lab.checked) == 1
    experiment = deployment_experiment.experiment_of(record)
    assert (experiment.generation, experiment.deployments) == (2, {"fashion-ra": "a", "fashion-rb": "b"})


def test_the_same_experiment_again_is_the_one_that_runs(lab):
    assert lab.start() == lab.start()
    assert len(lab.moves) == 2
    with pytest.raises(GateClosed, match=r"nothing may run beside the champion of fashion \(got generation 2, exp"):
        lab.start(share=31)


def test_one_that_began_under_an_earlier_rule_goes_on_under_it(lab):
    route = lab.start().route
    lab.stop()
    head = lab.serving.head_route("fashion")
    facts = {"experiment_id": "e1", "a": "a", "b": "b", "share": 30, "metric": "correct", "confidence": 0.95}
    old = dataclasses.replace(route, generation=4, commit_id="c4", parent_commit_id=head.commit_id)
    said = {"actor": "ann", "reason": "r", "attempt": "x/experiment/1", "verdict_id": "verdict-a"}
    lab.serving.commit_route(old, action="experiment_start", serving={"experiment": facts}, at=NOW, **said)
    assert lab.start().route.generation == 4, "the same experiment is the one that runs"
    assert deployment_experiment.experiment_of(lab.serving.head_record("fashion")).rule == "intervals/1"


def test_stopping_gives_the_champion_everything_back_once(lab):
    lab.start()
    record = lab.stop()
    assert lab.moves[-1] == ("experiment_stop", {"a": 100})
    assert record.reason.endswith("ended: enough")
    assert record.serving == {}
    assert set(lab.target.running) == {"fashion-ra"}
    assert lab.stop().route.generation == 3


def test_there_must_be_one_to_stop(lab):
    with pytest.raises(ConfigError, match=r"an experiment must run on fashion to be stopped \(got: promote by gate"):
        lab.stop()


def test_a_rollback_ends_the_experiment_and_wins(lab):
    lab.start()
    lab.rollback()
    assert lab.moves[-1] == ("rollback", {"a": 100})
    assert "experiment" not in lab.serving.head_record("fashion").serving, "no experiment runs any more"
    with pytest.raises(ConfigError, match=r"got: rollback by ann"):
        lab.stop()
    assert deployment_experiment.newest(lab.serving.records("fashion"))[1].action == "rollback"


def test_an_ungated_version_is_refused_before_anything_starts(lab):
    with pytest.raises(GateClosed, match=r"models with a promote verdict \(got evil\)") as error:
        lab.start("evil")
    assert error.value.code == "UNGATED_ENTRY"
    assert set(lab.target.running) == {"fashion-ra"}


def test_a_version_that_fails_its_check_is_stopped(lab):
    with pytest.raises(GateClosed, match="no"):
        lab.start(check=closed)
    assert (len(lab.moves), set(lab.target.running)) == (1, {"fashion-ra"})


def test_no_experiment_during_a_rollout_and_the_rollout_goes_on(lab):
    refused = []

    def start():
        with pytest.raises(GateClosed, match="nothing may run beside the champion") as error:
            lab.start("c")
        refused.append(error.value.code)

    lab.during = [start]
    lab.roll()
    assert refused == ["ROUTE_BUSY"]
    assert lab.champions[-1] == "b"


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"version": "a"}, r"--version must differ from the champion \(got a"),
        ({"share": 0}, r"--share must be 1 to 99 percent \(got 0\)"),
        ({"share": 100}, r"--share must be 1 to 99 percent \(got 100\)"),
        ({"metric": "revenue"}, r"--metric must be correct"),
        ({"confidence": 1.0}, r"--confidence must lie between 0.5 and 1 \(got 1\)"),
    ],
)
def test_what_is_no_experiment_is_refused(lab, facts, message):
    with pytest.raises(ConfigError, match=message):
        lab.start(**facts)


def test_a_first_model_is_needed(database, lab):
    with pytest.raises(ConfigError, match="an experiment needs a champion"):
        lab.start(
            project=lab.project.model_copy(update={"config": lab.project.config.model_copy(update={"name": "z"})})
        )


class Killed(BaseException):
    pass


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_kill_at_any_point_and_the_same_command_again_end_alike(lab, monkeypatch, number):
    passed = []

    def point(name):
        passed.append(name)
        if len(passed) == number:
            raise Killed

    monkeypatch.setattr(deployment_experiment, "crash_point", point)
    for command in (lab.start, lab.stop):
        try:
            command()
        except Killed:
            command()
    assert len(passed) >= 4
    assert lab.moves[1:] == [BEGUN, ("experiment_stop", {"a": 100})]
    assert set(lab.target.running) == {"fashion-ra"}


def test_an_experiment_is_found_by_the_beginning_of_its_id(lab):
    first = lab.start().serving["experiment"]["experiment_id"]
    lab.stop()
    second = lab.start("c").serving["experiment"]["experiment_id"]
    records = lab.serving.records("fashion")
    assert deployment_experiment.newest(records)[0].experiment_id == second
    experiment, after = deployment_experiment.newest(records, experiment_id=first[:6])
    assert (experiment.experiment_id, experiment.b, after.action) == (first, "b", "experiment_stop")
    with pytest.raises(ConfigError, match=rf"\(got zz\)\. Known: {first}, {second}"):
        deployment_experiment.newest(records, experiment_id="zz")
