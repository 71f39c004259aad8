import datetime as dt

import pytest

from pipeline_tasks.runs.outcome import LabelState, RunFacts, ending_of, should_train

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
    assert ending_of(RunFacts("v1", "keep", ("gain 0.01 < 0.02", "recall"))).reason == "gain 0.01 < 0.02; recall"


@pytest.mark.parametrize(
    ("facts", "step"), [(RunFacts("v1", "promote"), "ship"), (RunFacts("v1"), "judge"), (RunFacts(), "train")]
)
def test_a_failed_run_names_the_step(facts, step):
    assert f"before `{step}` was done" in ending_of(facts).reason


@pytest.mark.parametrize(
    ("state", "forced", "train"),
    [
        (LabelState(199, 0, NOW), False, False),
        (LabelState(200, 0, NOW), False, True),
        (LabelState(200, 5, NOW - dt.timedelta(minutes=9, seconds=59)), False, False),
        (LabelState(200, 5, NOW - dt.timedelta(minutes=10)), False, True),
        (LabelState(200, 5, None), False, True),
        (LabelState(0, 5, NOW), True, True),
    ],
)
def test_training_waits_for_enough_labels_and_for_busy_labelers(state, forced, train):
    decision = should_train(state, min_new_labels=200, patience=PATIENCE, forced=forced, now=NOW)
    assert decision.train is train
    assert decision.reason
