"""Slices in the rule: floors, margins, and values with too few items."""

import dataclasses

import numpy as np
import pytest

from pipeline_tasks.core.proportions import NOT_A_NUMBER
from pipeline_tasks.evaluation import gate_rule
from pipeline_tasks.evaluation import slices as sl
from tests.unit.evaluation import support as s
from tests.unit.evaluation.slices_case import BY_CAMERA, declared, score


def found_with(*scores, num_small=0, small=(), without=0):
    return sl.SliceEvidence("camera", tuple(scores), num_small, tuple(small), without)


def decide(*scores, first=False, evidence=None, **changes):
    scored = evidence or found_with(*scores)
    policy = s.policy(slices=[{**BY_CAMERA, **changes}])
    made = s.first_evidence(slices=(scored,)) if first else s.evidence(current=s.exam(slices=(scored,)))
    return gate_rule.decide(policy, made)


def codes(decision):
    return [reason.code for reason in decision.reasons]


FLOOR = {"floors": {"accuracy": 0.8}}


def test_a_slice_below_its_floor_keeps_the_champion_though_the_whole_is_better():
    decision = decide(score(share=0.61, champion=0.85), score("web"), **FLOOR)
    assert (decision.answer, decision.code) == ("keep", "SLICE_FLOOR")
    assert decision.headline == (
        "Keep the champion: accuracy on slice camera = phone must be at least 80.0 % (gate.slices.floors; "
        "got 61.0 % of 100 items, at most 67.0 % at the gate's confidence, where the champion has 85.0 %)."
    )
    assert "GAIN_SHOWN" in codes(decision)


@pytest.mark.parametrize(("share", "expected"), [(0.80, "promote"), (0.79, "inconclusive"), (0.73, "keep")])
def test_a_floor_is_inclusive_and_missed_where_that_is_shown(share, expected):
    assert decide(score(share=share), **FLOOR).answer == expected


def test_a_value_that_is_low_by_chance_is_no_finding():
    assert decide(score(share=0.79, shrunk=0.82), **FLOOR).answer == "promote"


def test_eight_small_slices_of_equal_models_do_not_keep_a_gain_out():
    """Eight values of 50 items; both models are right on 85 %: point estimates kept 63 % of true gains out."""
    random, promoted = np.random.default_rng(0), 0
    chosen = declared(min_items=20, floors={"accuracy": 0.8}, max_loss=0.05)
    values = [f"v{index % 8}" for index in range(400)]
    for _ in range(40):
        right = [random.random(400) < 0.85 for _ in range(2)]
        evidence = sl.score_slices(
            [chosen],
            {"camera": values},
            contender_right_n=right[0],
            champion_right_n=right[1],
            group_n=np.arange(400),
            alpha=0.05,
        )
        policy = s.policy(slices=[chosen.model_dump()])
        promoted += gate_rule.decide(policy, s.evidence(current=s.exam(slices=evidence))).answer == "promote"
    assert promoted >= 25


def test_the_champions_score_does_not_count_for_the_floor():
    assert decide(score(share=0.9, champion=0.1), **FLOOR).answer == "promote"


def test_floors_apply_to_the_first_model():
    assert decide(score(share=0.9, champion=None), first=True, **FLOOR).answer == "promote"
    decision = decide(score(share=0.7, champion=None), first=True, **FLOOR)
    assert (decision.answer, decision.code) == ("keep", "SLICE_FLOOR")
    assert "champion has" not in decision.headline


def test_a_margin_does_not_apply_to_the_first_model():
    assert decide(score(champion=None), first=True, max_loss=0.0).answer == "promote"


def test_no_floor_is_no_demand():
    assert decide(score(share=0.0)).answer == "promote"


def test_a_share_that_is_not_a_number_keeps_the_champion():
    broken = dataclasses.replace(score(), contender=NOT_A_NUMBER)
    assert decide(dataclasses.replace(broken, share_high=float("nan")), **FLOOR).code == "METRIC_INVALID"
    assert decide(dataclasses.replace(broken, shrunk=None), **FLOOR).code == "METRIC_INVALID"


@pytest.mark.parametrize(
    ("difference", "low", "high", "expected"),
    [
        (0.0, -0.02, 0.02, ("promote", "GAIN_SHOWN")),
        (0.0, -0.0201, 0.02, ("promote", "GAIN_SHOWN")),  # noted: SLICE_NOT_SHOWN
        (-0.0201, -0.05, -0.02, ("inconclusive", "SLICE_UNCERTAIN")),
        (-0.03, -0.05, -0.0201, ("keep", "SLICE_WORSE")),
        (0.05, 0.01, 0.09, ("promote", "GAIN_SHOWN")),
    ],
)
def test_the_margin_against_the_champion(difference, low, high, expected):
    decision = decide(score(gain=s.gain(difference, low=low, high=high, alpha=0.05)), max_loss=0.02)
    assert (decision.answer, decision.code) == expected
    assert ("SLICE_NOT_SHOWN" in codes(decision)) == (low == -0.0201)


def test_the_margins_words():
    decision = decide(score(gain=s.gain(-0.05, low=-0.08, high=-0.03, alpha=0.05)), max_loss=0.02)
    assert decision.headline == (
        "Keep the champion: on slice camera = phone of 100 items the contender is 5.0 points worse than the champion, "
        "at least 3.0 points worse with 95.0 % confidence; a loss of 2.0 points is allowed (gate.slices.max_loss)."
    )
    decision = decide(score(gain=s.gain(-0.03, low=-0.06, high=0.01, alpha=0.05)), max_loss=0.02)
    assert decision.headline == (
        "Inconclusive: on slice camera = phone of 100 items the contender is 3.0 points worse than the champion, but "
        "it may be 6.0 points worse with 95.0 % confidence; a loss of 2.0 points is allowed (gate.slices.max_loss). "
        "Drawn to the other values by as much as it is noise it is 3.0 points worse than the champion. More of its "
        "items decide."
    )


def test_a_margin_that_cannot_be_computed_keeps_the_champion():
    assert decide(score(gain=None), max_loss=0.02).code == "METRIC_INVALID"
    assert decide(score(gain=s.gain(float("nan"))), max_loss=0.02).code == "METRIC_INVALID"


def test_a_declared_slice_without_evidence_keeps_the_champion():
    policy = s.policy(slices=[BY_CAMERA])
    assert gate_rule.decide(policy, s.evidence()).code == "METRIC_INVALID"


def test_small_values_are_listed_and_not_judged():
    decision = decide(evidence=found_with(score(), num_small=12, small=[("web", 7), ("tv", 3)]), **FLOOR)
    assert decision.answer == "promote"
    assert decision.reasons[-1].text == (
        "slice camera is not judged where it has fewer than 20 items: web (7), tv (3) and 10 more."
    )
    assert decision.reasons[-1].code == "SLICE_SMALL"


def test_a_slice_that_no_item_has_leaves_the_matter_open_where_the_rule_speaks_of_it():
    decision = decide(evidence=found_with(without=1000), **FLOOR)
    assert (decision.answer, decision.code) == ("inconclusive", "SLICE_MISSING")
    assert decide(evidence=found_with(without=1000)).answer == "promote"


def test_the_worst_of_at_most_ten_comes_first():
    scores = [score(f"v{index:02d}", share=0.73 - index / 100) for index in range(12)]
    decision = decide(*scores, **FLOOR)
    against = [reason.text for reason in decision.reasons if reason.stand == "against"]
    assert len(against) == 10
    assert "v11" in against[0]
    assert "v10" in against[1]
    more = next(reason for reason in decision.reasons if reason.code == "SLICES_MORE")
    assert more.text == "2 more findings on slices are in the report's table."


def test_what_is_sure_comes_before_what_is_open():
    unsure = [score(f"v{index}", gain=s.gain(-0.03, low=-0.5, alpha=0.05)) for index in range(10)]
    low = score("low", share=0.73, gain=s.gain(0.0, low=0.0, alpha=0.05))
    assert decide(*unsure, low, max_loss=0.02, **FLOOR).code == "SLICE_FLOOR"


def test_slices_that_hold_are_said_to_hold():
    decision = decide(score(), score("web"), **FLOOR)
    assert "every slice that was judged holds: 2 of them." in [reason.text for reason in decision.reasons]
    assert "SLICES" not in codes(decide(score()))
