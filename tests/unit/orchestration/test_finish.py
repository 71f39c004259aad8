"""The end of a training run: what its judging gave, what people said during it, what went on after a clear."""

import datetime as dt
from types import SimpleNamespace

import pytest

from pipeline_tasks.catalog.runs import RunRepository
from pipeline_tasks.contracts import Attempt
from pipeline_tasks.errors import PermanentError
from pipeline_tasks.orchestration import entrypoints
from tests.ledger_case import NOW, Case, minutes

RUN = "run-1"


class World:
    def __init__(self, database, store):
        self.case, self.runs = Case(database, store), RunRepository(database)
        self.parts = SimpleNamespace(database=database, store=store)

    def open(self, run_id=RUN, *, at=0.0):
        self.runs.open("fashion", run_id=run_id, kind="train", deadline_at=NOW + dt.timedelta(days=7), at=minutes(at))

    def finish(self, run_id=RUN, *, verdict_id=None):
        attempt = Attempt(run_id, "finish")
        return entrypoints.finish("fashion", attempt=attempt, parts=self.parts, verdict_id=verdict_id)

    def endings(self, run_id=RUN):
        return [ending["outcome"] for ending in self.runs.get("fashion", run_id).info.get("endings", [])]


@pytest.fixture
def world(database, object_store):
    world = World(database, object_store)
    world.open()
    return world


def test_a_run_that_adopts_an_earlier_verdict_ends_as_that_verdict_says(world):
    verdict_id = world.case.judge("v1", answer="keep", champion="v0")
    world.open("run-9", at=5)
    ending = world.finish("run-9", verdict_id=verdict_id)
    assert (ending["outcome"], ending["reason_code"]) == ("rejected", "NOT_BETTER")


def test_a_run_without_a_verdict_has_failed(world):
    with pytest.raises(PermanentError, match="stopped before `train` was done"):
        world.finish()


def test_a_no_of_an_earlier_run_is_not_this_runs_ending(world):
    verdict_id = world.case.judge("v1")
    world.case.answer(verdict_id, "reject", at=1)
    world.open("run-9", at=5)
    with pytest.raises(PermanentError, match="stopped before `ship` was done"):
        world.finish("run-9", verdict_id=verdict_id)


def test_a_no_during_the_run_is(world):
    verdict_id = world.case.judge("v1")
    world.case.answer(verdict_id, "reject", at=1)
    assert world.finish(verdict_id=verdict_id)["reason_code"] == "REJECTED_BY_REVIEWER"


@pytest.mark.parametrize("first", ["reject", "expired"])
def test_a_run_that_was_cleared_and_then_approved_ends_as_promoted(world, first):
    verdict_id = world.case.judge("v1")
    world.case.answer(verdict_id, first, at=1)
    assert world.finish(verdict_id=verdict_id)["outcome"] == "rejected"
    world.case.answer(verdict_id, "approve", by="carol", at=2)
    world.case.move("v1", at=3)  # committed by run-1/ship/1
    assert world.finish(verdict_id=verdict_id)["outcome"] == "promoted"
    assert world.endings() == ["rejected"]
    assert world.finish(verdict_id=verdict_id)["outcome"] == "promoted"


def test_a_promoted_run_stays_so_after_a_rollback(world):
    verdict_id = world.case.judge("v1")
    world.case.move("v1", at=1)
    world.finish(verdict_id=verdict_id)
    assert world.finish(verdict_id=verdict_id)["outcome"] == "promoted"
    assert world.endings() == []


@pytest.mark.parametrize("action", ["canary_failed", "canary_inconclusive"])
def test_a_run_whose_rollout_went_back_to_the_champion_was_not_promoted(world, action):
    world.case.move("v0", at=1)
    verdict_id = world.case.judge("v1", champion="v0", at=2)
    for step in ("canary", action):
        world.case.move("v0", action=step, verdict_id="verdict-v0", at=3)
    world.open("run-3", at=2)  # which committed the third generation
    ending = world.finish("run-3", verdict_id=verdict_id)
    assert (ending["outcome"], ending["reason_code"]) == ("rejected", action.upper())
    assert ending["reason"] == "complaints; the champion stays"


def test_a_run_that_plan_never_opened_is_refused(world):
    with pytest.raises(PermanentError, match="must have been opened by `plan`"):
        world.finish("stranger")
