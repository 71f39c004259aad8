import datetime as dt

import pytest

from pipeline_tasks.runs.outcome import RunFacts, ending_of, labelers_busy

NOW = dt.datetime(2026, 11, 21, 12, tzinfo=dt.UTC)
PATIENCE = dt.timedelta(minutes=10)


@pytest.mark.parametrize(
    ("facts", "outcome", "code"),
    [
        (RunFacts("v1", "promote", (), "approve", 3), "promoted", "PROMOTED"),
        (RunFacts("v1", "promote", (), "reject"), "rejected", "REJECTED_BY_REVIEWER"),
        (RunFacts("v1", "promote", (), "expired"), "rejected", "APPROVAL_EXPIRED"),
        (RunFacts("v1", "keep", ("no gain",)), "rejected", "NOT_BETTER"),
        (RunFacts("v1", "inconclusive", ("too few",)), "rejected", "INCONCLUSIVE"),
        (RunFacts("v1", "promote"), "failed", "TASK_FAILED"),
        (RunFacts("v1"), "failed", "TASK_FAILED"),
        (RunFacts(), "failed", "TASK_FAILED"),
    ],
)
def test_a_run_has_exactly_one_ending(facts, outcome, code):
    ending = ending_of(facts)
    assert (ending.outcome, ending.reason_code) == (outcome, code)
    assert ending.retryable == (outcome == "failed")


def test_the_reason_of_a_refusal_is_the_verdicts_own():
    facts = RunFacts("v1", "keep", ("it gains nothing.", "the limits hold."))
    assert ending_of(facts).reason == "It gains nothing. The limits hold."


@pytest.mark.parametrize(
    ("facts", "step"), [(RunFacts("v1", "promote"), "ship"), (RunFacts("v1"), "judge"), (RunFacts(), "train")]
)
def test_a_failed_run_names_the_step(facts, step):
    assert f"before `{step}` was done" in ending_of(facts).reason


@pytest.mark.parametrize(
    ("num_outstanding", "last_activity_at", "busy"),
    [
        (0, NOW, False),
        (5, NOW, True),
        (5, NOW - dt.timedelta(minutes=9, seconds=59), True),
        (5, NOW - dt.timedelta(minutes=10), False),
        (5, None, False),
    ],
)
def test_training_waits_for_busy_labelers(num_outstanding, last_activity_at, busy):
    state = {"num_outstanding": num_outstanding, "last_activity_at": last_activity_at}
    reason = labelers_busy(**state, patience=PATIENCE, now=NOW)
    assert (reason is not None) == busy


def test_the_wait_says_for_what():
    reason = labelers_busy(num_outstanding=5, last_activity_at=NOW, patience=PATIENCE, now=NOW)
    assert reason == "5 labeling tasks are open and labelers are at work; waiting for them or for 10 quiet minutes"
