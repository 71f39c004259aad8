import datetime as dt

import pytest

from pipeline_tasks.orchestration.run_outcome import RunFacts, ending_of

NOW = dt.datetime(2026, 11, 21, 12, tzinfo=dt.UTC)


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


def test_the_reason_of_a_refusal_is_the_verdicts_own():
    facts = RunFacts("v1", "keep", ("it gains nothing.", "the limits hold."))
    assert ending_of(facts).reason == "It gains nothing. The limits hold."


@pytest.mark.parametrize(
    ("facts", "step"), [(RunFacts("v1", "promote"), "ship"), (RunFacts("v1"), "judge"), (RunFacts(), "train")]
)
def test_a_failed_run_names_the_step(facts, step):
    assert f"before `{step}` was done" in ending_of(facts).reason
