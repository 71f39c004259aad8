"""Limits of latency, size, calibration and recall, and the floors of a first model."""

import dataclasses

import pytest

from pipeline_tasks.evaluation import gate_rule
from tests.unit.evaluation import support as s
from tests.unit.evaluation.support import answer


def recalled(shares, **options):
    """Return an exam with these recalls, each with bounds 3 points away."""
    return dataclasses.replace(s.exam(), recalls=s.recalls(shares=shares, **options))


def test_a_recall_below_the_floor_that_is_not_shown_leaves_the_answer_open():
    policy = {"limits": {"recall_per_class": 0.6}}
    assert answer(s.evidence(current=recalled((0.99, 0.58))), **policy) == ("inconclusive", "RECALL_UNCERTAIN")
    noisy = recalled((0.99, 0.58), shrunk=0.61)
    assert answer(s.evidence(current=noisy), **policy)[0] == "promote"


@pytest.mark.parametrize(("expected_error", "answered"), [(0.05, "promote"), (0.049, "keep")])
def test_the_calibration_error_that_chance_gives_is_taken_off(expected_error, answered):
    scores = dataclasses.replace(s.scores(ece=0.15), calibration_expected=expected_error)
    evidence = s.evidence(current=s.exam(contender=scores))
    assert answer(evidence, limits={"max_calibration_error": 0.1})[0] == answered


@pytest.mark.parametrize(("champion_ms", "expected"), [(10.0, "LATENCY_LIMIT"), (10.1, "LATENCY_UNCERTAIN")])
def test_a_machine_that_is_too_slow_for_the_champion_too_shows_nothing(champion_ms, expected):
    contender = s.facts(latency_p99_ms=12.0, repeats=3, load=2.5)
    champion = s.facts(latency_p99_ms=champion_ms)
    decision = gate_rule.decide(
        s.policy(limits={"latency_p99_ms": 10.0}), s.evidence(contender=contender, champion=champion)
    )
    assert decision.code == expected
    assert f"got 12.0 ms at the best of 3 measurements, the champion {champion_ms} ms" in decision.headline
    assert "2.5 tasks waiting a core" in decision.headline


@pytest.mark.parametrize(
    ("changes", "limits", "code"),
    [
        ({"contender": s.facts(latency_p99_ms=10.1)}, {"latency_p99_ms": 10.0}, "LATENCY_LIMIT"),
        ({"contender": s.facts(latency_p50_ms=5.1)}, {"latency_p50_ms": 5.0}, "LATENCY_LIMIT"),
        ({"contender": s.facts(size_bytes=10_000_001)}, {"size_mb": 10.0}, "SIZE_LIMIT"),
        ({"current": s.exam(contender=s.scores(ece=0.101))}, {"max_calibration_error": 0.1}, "CALIBRATION_LIMIT"),
        ({"current": recalled((0.99, 0.569))}, {"recall_per_class": 0.6}, "RECALL_FLOOR"),
    ],
)
def test_each_limit_alone_keeps_the_champion(changes, limits, code):
    assert answer(s.evidence(**changes), limits=limits) == ("keep", code)


@pytest.mark.parametrize(
    ("changes", "limits"),
    [
        ({"contender": s.facts(latency_p99_ms=10.0)}, {"latency_p99_ms": 10.0}),
        ({"contender": s.facts(latency_p50_ms=5.0)}, {"latency_p50_ms": 5.0}),
        ({"contender": s.facts(size_bytes=10_000_000)}, {"size_mb": 10.0}),
        ({"current": s.exam(contender=s.scores(ece=0.1))}, {"max_calibration_error": 0.1}),
        ({"current": recalled((0.99, 0.6))}, {"recall_per_class": 0.6}),
    ],
)
def test_each_limit_is_inclusive(changes, limits):
    assert answer(s.evidence(**changes), limits=limits)[0] == "promote"


@pytest.mark.parametrize(("num_items", "expected"), [(20, "keep"), (19, "promote")])
def test_the_recall_floor_judges_classes_with_enough_items(num_items, expected):
    evidence = s.evidence(current=recalled((0.9, 0.1), items=(900, num_items)))
    assert answer(evidence, limits={"recall_per_class": 0.6, "min_class_items": 20})[0] == expected


def test_a_class_too_small_for_the_recall_floor_is_named_and_not_said_to_hold():
    evidence = s.evidence(current=recalled((0.9, 0.1), items=(900, 19)))
    limits = {"recall_per_class": 0.6, "min_class_items": 20}
    texts = {reason.code: reason.text for reason in gate_rule.decide(s.policy(limits=limits), evidence).reasons}
    assert texts["CLASS_SMALL"] == (
        "gate.limits.recall_per_class is not judged for classes of fewer than 20 items: shoe (19)."
    )
    assert "CLASS_SMALL" not in {reason.code for reason in gate_rule.decide(s.policy(), evidence).reasons}


def test_limits_that_were_not_asked_for_are_not_said_to_hold():
    def held(**limits):
        (reason,) = [
            candidate
            for candidate in gate_rule.decide(s.policy(limits=limits), s.evidence()).reasons
            if candidate.code == "LIMITS"
        ]
        return reason.text

    assert held() == "every limit holds: latency, size, calibration."
    assert held(recall_per_class=0.5) == "every limit holds: latency, size, calibration, recall per class."


def test_the_recall_floor_names_the_class_and_its_items():
    decision = gate_rule.decide(s.policy(limits={"recall_per_class": 0.6}), s.evidence(current=recalled((0.9, 0.1))))
    assert decision.headline == (
        "Keep the champion: recall of shoe must be at least 60.0 % (gate.limits.recall_per_class; "
        "got 10.0 % of 500 items, at most 13.0 % at the gate's confidence)."
    )


@pytest.mark.parametrize(
    ("accuracy", "expected"),
    [
        (0.8, ("promote", "FLOORS_MET")),
        (0.799, ("inconclusive", "ACCURACY_FLOOR")),  # its interval reaches the floor
        (0.789, ("keep", "ACCURACY_FLOOR")),
    ],
)
def test_the_first_model_meets_floors(accuracy, expected):
    evidence = s.first_evidence(contender=s.scores(accuracy=accuracy))
    assert answer(evidence, floors={"accuracy": 0.8}) == expected


@pytest.mark.parametrize(("recall", "expected"), [(0.5, "promote"), (0.49, "inconclusive"), (0.469, "keep")])
def test_the_first_model_meets_floors_per_class(recall, expected):
    evidence = s.first_evidence(recalls=s.recalls(shares=(0.9, recall)))
    assert answer(evidence, floors={"accuracy": 0.8, "recall_per_class": 0.5})[0] == expected


def test_the_first_model_is_named_as_such():
    assert gate_rule.decide(s.policy(), s.first_evidence()).headline == (
        "Promote the first model: it is the first model, and it meets the floors: it is right on 90.0 % of 1000 items, "
        "89.0 % to 91.0 %, at least 50.0 % were asked for (of the estimate)."
    )
    refused = gate_rule.decide(s.policy(floors={"accuracy": 0.95}), s.first_evidence())
    assert refused.headline == (
        "No champion yet: a first model's accuracy must be at least 95.0 % (got 90.0 % of 1000 items, "
        "89.0 % to 91.0 %)."
    )


def test_the_first_model_meets_the_limits_too():
    evidence = dataclasses.replace(s.first_evidence(), contender=s.facts(latency_p99_ms=251.0))
    assert answer(evidence) == ("keep", "LATENCY_LIMIT")


def test_the_first_model_needs_every_class_where_floors_ask_for_it():
    evidence = s.first_evidence(contender=s.scores(items=(1000, 0)))
    assert answer(evidence, floors={"accuracy": 0.5, "recall_per_class": 0.1}) == ("inconclusive", "EXAM_CLASS_MISSING")
