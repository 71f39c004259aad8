"""Results of an experiment by its log, under the rule of those that began before there was another."""

import dataclasses
import random

import pytest

from pipeline_tasks.deployment.experiment_analysis import (
    Experiment,
    Exposure,
    Outcome,
    as_text,
    check_metric,
    compare_arms,
)
from pipeline_tasks.errors import ConfigError

AB = Experiment("e1", "p", 7, "va", "vb", {"da": "a", "db": "b"}, 50, "correct", 0.95)


def exposure(number, arm="a", **changes):
    facts = {"request_id": f"r{number}", "prediction_id": f"p{number}", "user_key": None, "business_key": None}
    return Exposure(**facts | {"assigned": f"d{arm}", "label": "x", "at_ms": number} | changes)


def outcome(number, label="x", **changes):
    facts = {"request_id": f"f{number}", "prediction_id": f"p{number}", "business_key": None}
    return Outcome(**facts | {"label": label, "at_ms": 10_000_000 + number} | changes)


def draw(rates, *, number=4000, seed=1):
    """Return the log of so many users, who alternate between the arms and are answered rightly at these rates."""
    rng = random.Random(seed)
    arms = ["ab"[n % 2] for n in range(number)]
    exposures = [exposure(n, arm, user_key=f"u{n}") for n, arm in enumerate(arms)]
    return exposures, [outcome(n, "x" if rng.random() < rates[arm] else "y") for n, arm in enumerate(arms)]


def compared(exposures, outcomes, experiment=AB):
    return compare_arms(experiment, exposures, outcomes, as_of_ms=0)


def counts(report, arm):
    counted = report["arms"][arm]
    return counted["num_requests"], counted["num_exposed"], counted["num_outcomes"], counted["num_successes"]


@pytest.mark.parametrize(("rates", "answer"), [({"a": 0.5, "b": 0.6}, "b"), ({"a": 0.6, "b": 0.5}, "a")])
def test_a_true_difference_is_found(rates, answer):
    report = compared(*draw(rates))
    assert report["answer"] == answer
    low, high = report["difference"]["bounds"]
    assert low < report["difference"]["b_minus_a"] < high


def test_no_difference_is_never_found_however_often_one_looks():
    for seed in range(20):
        exposures, outcomes = draw({"a": 0.4, "b": 0.4}, number=400, seed=seed)
        for cut in range(10, 400, 30):
            assert compared(exposures, outcomes[:cut])["answer"] == "undecided"


def test_the_order_and_doubles_of_the_log_do_not_matter():
    exposures, outcomes = draw({"a": 0.5, "b": 0.6}, number=300)
    shuffled = [*exposures, *exposures[:50]], [*outcomes, *outcomes[:50]]
    for records in shuffled:
        random.Random(3).shuffle(records)
    assert compared(*shuffled) == compared(exposures, outcomes)


def test_a_user_counts_once_with_the_first_outcome():
    exposures = [exposure(n, "b", user_key="ann") for n in range(5)]
    outcomes = [outcome(3, "y"), outcome(1, "x"), outcome(2, "y", at_ms=5)]
    assert counts(compared(exposures, outcomes), "b") == (5, 1, 1, 0)


def test_without_a_user_key_each_prediction_counts():
    assert counts(compared([exposure(n) for n in range(5)], [outcome(0), outcome(1, "y")]), "a") == (5, 5, 2, 1)


def test_an_exposure_without_an_answer_counts_as_exposed():
    assert counts(compared([exposure(1, prediction_id=None, label=None)], []), "a") == (1, 1, 0, 0)


def test_a_business_key_speaks_of_its_newest_request_before_the_outcome():
    exposures = [exposure(n, label=label, business_key="order") for n, label in ((1, "y"), (2, "x"), (9, "y"))]
    told = outcome(1, "x", prediction_id=None, business_key="order", at_ms=5)
    assert counts(compared(exposures, [told]), "a") == (3, 3, 1, 1)
    early = dataclasses.replace(told, at_ms=0)
    assert counts(compared(exposures, [early]), "a") == (3, 3, 0, 0)


def test_outcomes_of_others_say_nothing():
    assert counts(compared([exposure(1)], [outcome(2), outcome(3, prediction_id=None)]), "a") == (1, 1, 0, 0)


def test_a_metric_of_what_happened_asks_nothing_of_the_answer():
    bought = dataclasses.replace(AB, metric="outcome:y")
    assert counts(compared([exposure(1), exposure(2)], [outcome(1, "y"), outcome(2)], bought), "a") == (2, 2, 2, 1)


def test_a_draw_that_does_not_fit_its_share_is_warned_of():
    uneven = [exposure(n, "ab"[n % 4 == 0], user_key=f"u{n}") for n in range(1000)]
    assert compared(*draw({"a": 0.5, "b": 0.5}))["warning"] is None
    report = compared(uneven, [])
    assert report["warning"].startswith("b must be about 50 % of the exposed (got 25.0% of 1,000)")
    assert compared(uneven, [], dataclasses.replace(AB, share=25))["warning"] is None


def test_the_report_in_words():
    exposures, outcomes = draw({"a": 0.2, "b": 0.6}, number=600)
    text = as_text(compared(exposures, outcomes) | {"state": "running"})
    assert text.splitlines()[0] == "experiment e1 of p on correct, confidence 95%, running"
    assert "  b  vb: 6" in text
    assert "of 300 outcomes of 300 exposed (300 requests)" in text
    assert text.endswith("answer: b")
    empty = as_text(compared([], []) | {"state": "running"})
    assert "no outcome yet (0.00% to 100.00%)" in empty
    assert "b minus a: unknown, between -100.00 and +100.00 points" in empty


@pytest.mark.parametrize("metric", ["correct", "outcome:x"])
def test_metrics(metric):
    assert check_metric(metric, classes=["x", "y"]) == metric


@pytest.mark.parametrize("metric", ["", "outcome:z", "revenue"])
def test_a_metric_that_feedback_does_not_give_is_refused(metric):
    with pytest.raises(ConfigError, match=r"--metric must be correct .* one of x, y \(got"):
        check_metric(metric, classes=["x", "y"])
