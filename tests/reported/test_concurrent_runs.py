"""Work of a shell and of Airflow at the same time (source: a walk through every command)."""

import datetime as dt
import types

import pytest

from pipeline_tasks.catalog.runs import RunRepository
from pipeline_tasks.contracts import Attempt
from pipeline_tasks.errors import GateClosed, StaleAttempt
from pipeline_tasks.orchestration import concurrent_runs, entrypoints, local_pipeline
from tests.reported.commands_case import NAME, NOW


@pytest.mark.parametrize("name", sorted(entrypoints.REPEATABLE))
def test_e8_work_that_another_run_does_is_none_here(installation, monkeypatch, name):
    """`collect` in a shell and in Airflow at once ended with STALE_ATTEMPT, or with a red DAG run."""
    database = installation.parts.database
    mine = Attempt("shell__1", name)

    def slow(*_arguments, **_more):
        fence = database.acquire(f"{NAME}/{name}", mine, now=NOW)
        database.acquire(f"{NAME}/{name}", Attempt("manual__2026", name), now=NOW)
        database.check(fence)

    monkeypatch.setattr(installation.parts, "project", slow, raising=False)
    answer = getattr(entrypoints, name)(NAME, attempt=mine, parts=installation.parts)
    assert answer == {
        "idle": f"the DAG run manual__2026 is at `{name}` of {NAME} just now, and not done yet; "
        "the same again afterwards takes what came since"
    }


def test_e8_a_later_try_of_the_same_run_still_ends_the_earlier_one():
    error = StaleAttempt("lost", holder="scheduled__1/collect/2")
    attempt = Attempt("scheduled__1", "collect", 1)
    assert concurrent_runs.idle_beside(error, project=NAME, stage="collect", attempt=attempt) is None


def open_run(installation, run_id):
    runs = RunRepository(installation.parts.database)
    runs.open(NAME, run_id=run_id, kind="train", deadline_at=NOW + dt.timedelta(days=7), at=NOW)
    return runs


@pytest.mark.parametrize(("state", "waits"), [("running", True), ("queued", True), ("failed", False), (None, False)])
def test_e8_a_shell_does_not_train_beside_airflow(installation, state, waits):
    open_run(installation, "manual__1")
    states = {"manual__1": {"state": state}} if state else {}
    installation.parts.airflow = types.SimpleNamespace(run=lambda _dag, run_id: states[run_id])
    elsewhere = concurrent_runs.training_elsewhere(installation.parts, NAME, Attempt("shell__1", "plan_training"))
    assert (elsewhere is not None) is waits
    assert not waits or "the DAG run manual__1 of pet_photos__train is at work" in elsewhere


def test_e8_airflow_does_not_train_beside_a_shell(installation):
    plan = Attempt("manual__1", "plan")
    with concurrent_runs.train_alone(installation.parts, NAME) as alone:
        assert alone
        planned = entrypoints.plan_training(NAME, attempt=plan, parts=installation.parts)
        assert planned == {"idle": f"`dethrone train {NAME}` is at work in a shell"}
        beside = local_pipeline.train_to_serve(NAME, parts=installation.parts)
        assert beside == {"idle": f"`dethrone train {NAME}` is at work in another shell"}
    assert "at work" not in entrypoints.plan_training(NAME, attempt=plan, parts=installation.parts)["idle"]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (GateClosed("asks a person", code="APPROVAL_MISSING"), ("rejected", "APPROVAL_MISSING")),
        (StaleAttempt("a newer one"), ("superseded", "STALE_ATTEMPT")),
        (KeyboardInterrupt(), ("failed", "STOPPED")),
        (ValueError("x"), ("failed", "STOPPED")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_e8_a_run_of_a_shell_is_closed_with_what_stopped_it(installation, monkeypatch, error, outcome):
    """A shell's training stayed open for a week, then counted as failed."""

    def plan(_project, *, attempt, **_more):
        open_run(installation, attempt.run_id)
        return {}

    def stop(*_arguments, **_more):
        raise error

    monkeypatch.setattr(entrypoints, "plan_training", plan)
    monkeypatch.setattr(entrypoints, "snapshot", stop)
    with pytest.raises(type(error)):
        local_pipeline.train_to_serve(NAME, parts=installation.parts)
    (run,) = RunRepository(installation.parts.database).list(NAME)
    assert (run.outcome, run.reason_code) == outcome
