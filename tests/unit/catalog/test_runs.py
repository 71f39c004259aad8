"""Opening, closing once, sweeping and listing of runs."""

import datetime as dt
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.runs import RunRepository
from pipeline_tasks.errors import PermanentError

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)


@pytest.fixture
def runs(database):
    return RunRepository(database)


def open_run(runs, run_id="r1", *, project="pets", kind="train", at=NOW, hours=1):
    return runs.open(project, run_id=run_id, kind=kind, deadline_at=at + hours * HOUR, at=at)


def close(runs, outcome="rejected", code="NOT_BETTER", *, run_id="r1", at=NOW + HOUR / 2):
    return runs.close("pets", run_id=run_id, outcome=outcome, reason_code=code, reason="as said", at=at)


def test_an_open_run_has_a_deadline_and_no_outcome(runs):
    run = runs.open("pets", run_id="r1", kind="train", deadline_at=NOW + HOUR, at=NOW, info={"cause": "drift"})
    assert (run.state, run.outcome, run.opened_at, run.deadline_at) == ("open", None, NOW, NOW + HOUR)
    assert run.info == {"cause": "drift"}
    assert runs.get("pets", "r1") == run


def test_opening_again_keeps_the_first_opening(runs):
    first = open_run(runs)
    assert open_run(runs, at=NOW + HOUR) == first


def test_a_deadline_before_the_opening_is_refused(runs):
    with pytest.raises(ValueError, match="deadline_at must be after 2026-01-01"):
        open_run(runs, hours=0)


def test_a_closed_run_has_one_outcome_with_a_reason(runs):
    open_run(runs)
    run = close(runs)
    assert (run.state, run.outcome, run.reason_code, run.reason) == ("closed", "rejected", "NOT_BETTER", "as said")
    assert run.closed_at == NOW + HOUR / 2


def test_closing_with_the_same_outcome_again_changes_nothing(runs):
    open_run(runs)
    first = close(runs)
    assert close(runs, at=NOW + HOUR) == first


@pytest.mark.parametrize(("outcome", "code"), [("promoted", "PROMOTED"), ("rejected", "INCONCLUSIVE")])
def test_closing_with_another_outcome_is_refused(runs, outcome, code):
    open_run(runs)
    first = close(runs)
    with pytest.raises(PermanentError, match=rf"closed once \(got {outcome}\({code}\) after rejected\(NOT_BETTER\)"):
        close(runs, outcome, code)
    assert runs.get("pets", "r1") == first


def test_of_racing_closers_one_decides(runs):
    open_run(runs)

    def race(number):
        try:
            return close(runs, "rejected", f"CODE_{number}").reason_code
        except PermanentError as error:
            return error.code

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(race, range(8)))
    assert sorted(answers)[1:] == ["RUN_CLOSED"] * 7
    assert runs.get("pets", "r1").reason_code == min(answers)


def test_closing_an_unknown_run_is_a_key_error(runs):
    with pytest.raises(KeyError, match="pets/r1"):
        close(runs)


@pytest.mark.parametrize(
    ("outcome", "code", "reason", "message"),
    [
        ("won", "X", "y", "outcome must be one of promoted, rejected"),
        ("failed", "not better", "y", "reason_code must be in capitals"),
        ("failed", "X", " ", "reason must be a sentence"),
    ],
)
def test_an_ending_without_meaning_is_refused(runs, outcome, code, reason, message):
    open_run(runs)
    with pytest.raises(ValueError, match=message):
        runs.close("pets", run_id="r1", outcome=outcome, reason_code=code, reason=reason, at=NOW)


def test_a_failed_run_that_is_cleared_opens_again_and_remembers(runs):
    open_run(runs)
    close(runs, "failed", "TASK_FAILED")
    again = open_run(runs, at=NOW + HOUR)
    assert (again.state, again.outcome, again.closed_at, again.deadline_at) == ("open", None, None, NOW + 2 * HOUR)
    assert [ending["reason_code"] for ending in again.info["endings"]] == ["TASK_FAILED"]
    assert close(runs, "promoted", "PROMOTED").outcome == "promoted"


def test_a_rejected_run_does_not_open_again(runs):
    open_run(runs)
    closed = close(runs)
    assert open_run(runs, at=NOW + HOUR) == closed


def test_the_sweep_fails_runs_past_their_deadline_and_only_those(runs):
    for run_id, hours in (("late", 1), ("in_time", 3), ("closed", 1)):
        open_run(runs, run_id, hours=hours)
    close(runs, run_id="closed")
    swept = runs.sweep("pets", at=NOW + 2 * HOUR)
    assert [(run.run_id, run.outcome, run.reason_code) for run in swept] == [("late", "failed", "DEADLINE")]
    assert "still open at its deadline 2026-01-01T01:00:00+00:00" in swept[0].reason
    assert [run.run_id for run in runs.list("pets", state="open")] == ["in_time"]
    assert runs.sweep("pets", at=NOW + 2 * HOUR) == ()


def test_the_sweep_of_all_projects(runs):
    open_run(runs, "a", project="pets")
    open_run(runs, "b", project="texts")
    assert [run.project for run in runs.sweep(at=NOW + 2 * HOUR)] == ["pets", "texts"]


def test_the_sweep_calls_promoted_what_moved_the_route(runs, database):
    open_run(runs, "r_1")
    open_run(runs, "rx1")
    route = {"project": "pets", "generation": 7, "commit_id": "c", "attempt": "r_1/ship/2", "action": "promote"}
    route |= {"champion_version": "v", "verdict_id": "w", "body": {}, "actor": "a", "reason": "b", "created_at": NOW}
    with database.write() as connection:
        connection.execute(t.routes.insert(), route)
    swept = runs.sweep(at=NOW + 2 * HOUR)
    assert [(run.run_id, run.outcome) for run in swept] == [("r_1", "promoted"), ("rx1", "failed")]
    assert "generation 7 serves" in swept[0].reason


def test_listing_is_newest_first_and_filtered(runs):
    open_run(runs, "a", kind="train")
    open_run(runs, "b", kind="ingest", at=NOW + HOUR)
    open_run(runs, "c", kind="train", at=NOW + 2 * HOUR)
    open_run(runs, "d", project="texts")
    assert [run.run_id for run in runs.list("pets")] == ["c", "b", "a"]
    assert [run.run_id for run in runs.list("pets", kind="train", limit=1)] == ["c"]
    assert len(runs.list()) == 4
