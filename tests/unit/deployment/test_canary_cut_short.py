"""Rollouts whose run is killed and tried again, or whose approval or verdict is changed meanwhile."""

import dataclasses
import functools

import pytest

from pipeline_tasks.contracts import Attempt
from pipeline_tasks.deployment import canary, task
from pipeline_tasks.deployment.canary import return_abandoned
from pipeline_tasks.errors import DataCorrupt, GateClosed
from tests.unit.deployment.canary_case import CANARY, PROMOTED, Killed, Rolling, faults
from tests.unit.deployment.test_task import NOW, closed
from tests.unit.evaluation import support as s


@pytest.fixture
def yard(database):
    return Rolling(database)


def test_a_server_that_is_gone_at_a_retry_ends_the_canary(yard):
    attempt = yard.attempt()

    def stop():
        raise Killed

    yard.during = [stop]
    with pytest.raises(Killed):
        yard.roll(attempt=attempt)
    yard.target.broken.add("fashion-rb")
    with pytest.raises(GateClosed, match="the server of b did not come back: fashion-rb must become ready") as error:
        yard.roll(attempt=Attempt(attempt.run_id, attempt.task, 2))
    assert error.value.code == "CANARY_FAILED"
    assert yard.moves[-1] == ("canary_failed", {"a": 100})


def _kill_at(monkeypatch, number):
    passed = []

    def point(name):
        passed.append(name)
        if len(passed) == number:
            raise Killed(name)

    monkeypatch.setattr(canary, "crash_point", point)
    monkeypatch.setattr(task, "crash_point", point)
    return passed


@pytest.mark.parametrize("bad", [False, True])
@pytest.mark.parametrize("number", range(1, 8))
def test_a_kill_at_any_point_and_a_retry_end_with_one_champion_and_no_orphan(yard, monkeypatch, number, bad):
    if bad:
        yard.gateway.said["fashion-rb"] = {"asked": 20, "errors": 20}
    attempt = yard.attempt()
    passed = _kill_at(monkeypatch, number)
    ended = []
    for try_number in (1, 2, 3):
        try:
            ended.append(yard.roll(attempt=Attempt(attempt.run_id, attempt.task, try_number)).champion_version)
        except (GateClosed, Killed) as error:
            ended.append(getattr(error, "code", "killed"))
    assert ended.count("killed") <= 1
    assert len(passed) >= number or (bad and "killed" not in ended), f"only {passed} were passed"
    assert ended[-1] == ("CANARY_FAILED" if bad else "b")
    assert yard.moves == (PROMOTED if not bad else [*PROMOTED[:2], ("canary_failed", {"a": 100})])
    assert set(yard.target.running) == ({"fashion-ra"} if bad else {"fashion-ra", "fashion-rb"})
    assert faults(yard) == []


def test_the_deadline_counts_from_the_first_attempt(yard):
    yard.gateway.said["fashion-rb"] = {"asked": 7}
    attempt = yard.attempt()

    def stop():
        raise Killed

    yard.during = [lambda: None] * 59 + [stop]
    with pytest.raises(Killed):
        yard.roll(attempt=attempt)
    with pytest.raises(GateClosed, match="stayed undecided"):
        yard.roll(attempt=Attempt(attempt.run_id, attempt.task, 2))
    assert yard.seconds == 100


def test_a_rollout_whose_task_died_for_good_is_returned_from_by_its_run_only(yard, monkeypatch):
    def stop():
        raise Killed

    yard.during = [stop]
    with pytest.raises(Killed):
        yard.roll(attempt=Attempt("run-9", "ship"))

    def finish(run_id):
        attempt = Attempt(run_id, "finish")
        context = dataclasses.replace(yard.context(attempt), clock=lambda: NOW)
        return return_abandoned(context, fence=functools.partial(yard.fence, attempt))

    assert finish("run-8") is None
    with monkeypatch.context() as patch:  # given back, and killed before the candidate was stopped
        patch.setattr(canary, "settle", lambda *_a, **_k: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            finish("run-9")
    assert finish("run-9").champion_version == "a"
    assert yard.moves[1:] == [PROMOTED[1], ("canary_inconclusive", {"a": 100})]
    assert yard.serving.head_record("fashion").reason.startswith(
        "the rollout's task ended without a decision after: 10 %"
    )
    assert set(yard.target.running) == {"fashion-ra"}
    assert finish("run-9") == yard.serving.head_route("fashion")
    assert len(yard.moves) == 3


def test_a_failed_canary_is_not_shipped_all_at_once_by_its_retry(yard):
    yard.gateway.said["fashion-rb"] = {"asked": 20, "errors": 20}
    attempt = yard.attempt()
    with pytest.raises(GateClosed):
        yard.roll(attempt=attempt)
    yard.project = s.project(serving={"rollout": {"strategy": "all_at_once"}})
    with pytest.raises(GateClosed, match="10 % to b failed") as error:
        yard.roll(attempt=Attempt(attempt.run_id, attempt.task, 2))
    assert error.value.code == "CANARY_FAILED"
    assert yard.moves[-1] == ("canary_failed", {"a": 100})


def test_an_approval_that_is_taken_back_ends_the_canary(yard):
    answers = iter([lambda: None, closed])

    def gate():
        next(answers)()

    with pytest.raises(GateClosed, match=r"10 % to b passed, but the gate has closed: no\.") as error:
        yard.roll(gate=gate)
    assert error.value.code == "CANARY_FAILED"
    assert yard.moves[1:] == [PROMOTED[1], ("canary_failed", {"a": 100})]
    assert set(yard.target.running) == {"fashion-ra"}


def changed(*_):
    raise DataCorrupt("the stored verdict is another one")


def test_a_verdict_that_was_changed_during_a_canary_ends_it_at_once(yard):
    answers = iter([lambda: None, changed])

    def gate():
        next(answers)()

    with pytest.raises(GateClosed, match="the gate has closed: the stored verdict is another one") as error:
        yard.roll(gate=gate)
    assert error.value.code == "CANARY_FAILED"
    assert yard.moves[-1] == ("canary_failed", {"a": 100})
    assert set(yard.target.running) == {"fashion-ra"}


def test_a_verdict_that_was_changed_starts_no_canary_and_leaves_no_server(yard):
    with pytest.raises(DataCorrupt, match="another one"):
        yard.roll(gate=changed)
    assert (len(yard.moves), set(yard.target.running)) == (1, {"fashion-ra"})


def test_a_step_says_which_approval_the_candidate_needed_and_a_rollback_takes_nothing_of_it_along(yard):
    yard.project = s.project(approval={"when": "never"}, serving={"rollout": CANARY})
    yard.during = [yard.rollback]
    with pytest.raises(GateClosed):
        yard.roll()
    settings = [record.serving for record in yard.serving.records("fashion")]
    assert settings[1]["beside_approval"] == "never"
    assert settings[2] == settings[0]
