"""The rule's truth table, its edges, and what a mutation of it would change."""

import dataclasses
import math

import numpy as np
import pytest

from pipeline_tasks.contracts import Leak
from pipeline_tasks.evaluation import gate_rule, power, reasons, statistics
from pipeline_tasks.evaluation import metrics as m
from pipeline_tasks.evaluation.evidence import alpha_for_use
from tests.unit.evaluation import support as s

EXACT = Leak("a" * 64, "a" * 64, "exact", 1.0)
NEAR = Leak("b" * 64, "c" * 64, "near", 0.9971)

NAN = math.nan
UNSURE = {"p": 0.2, "low": -0.01}
LARGE = {"alpha": 0.05, "num_items": 2000}  # an epoch of such a size shows a margin of 3 points
HELD_PREVIOUS = s.gain(0.0, low=-0.02, **LARGE)
BAD_PREVIOUS = s.gain(-0.05, low=-0.07, high=-0.031, **LARGE)
UNSURE_PREVIOUS = s.gain(-0.01, low=-0.04, **LARGE)


def epochs(*gains, num_items=2000):
    """Return the window's epochs, newest first, with these gains."""
    return tuple(s.epoch(len(gains) - place, gained=gain, num_items=num_items) for place, gain in enumerate(gains))


def answer(evidence, **changes):
    decision = gate_rule.decide(s.policy(**changes), evidence)
    return decision.answer, decision.code


def test_a_sure_gain_with_every_limit_held_is_promoted():
    decision = gate_rule.decide(s.policy(), s.evidence())
    assert (decision.answer, decision.code) == ("promote", "GAIN_SHOWN")
    assert decision.headline == (
        "Promote the contender: accuracy on the 1,000 items of epochs 1 to 2 is 90.0 % for the contender and 85.0 % "
        "for the champion: 5.0 points more, at least 3.0 points with 97.0 % confidence (use 1 of this exam)."
    )
    assert [reason.code for reason in decision.reasons] == ["GAIN_SHOWN", "PREVIOUS_NOTED", "LIMITS"]


@pytest.mark.parametrize(
    ("current", "previous", "limit_broken", "expected"),
    [
        # Eight rows: does it win now, is the old held, does it keep within the limits?
        ("win", "held", False, ("promote", "GAIN_SHOWN")),
        ("win", "held", True, ("keep", "LATENCY_LIMIT")),
        ("win", "worse", False, ("keep", "EPOCH_WORSE")),
        ("win", "worse", True, ("keep", "EPOCH_WORSE")),
        ("tie", "held", False, ("keep", "NO_GAIN")),
        ("tie", "held", True, ("keep", "NO_GAIN")),
        ("tie", "worse", False, ("keep", "NO_GAIN")),
        ("tie", "worse", True, ("keep", "NO_GAIN")),
        # And what is not sure.
        ("unsure", "held", False, ("inconclusive", "GAIN_UNCERTAIN")),
        ("unsure", "held", True, ("keep", "LATENCY_LIMIT")),
        ("unsure", "worse", False, ("keep", "EPOCH_WORSE")),
        ("win", "unsure", False, ("inconclusive", "PREVIOUS_UNCERTAIN")),
        ("unsure", "unsure", False, ("inconclusive", "GAIN_UNCERTAIN")),
        ("loss", "held", False, ("keep", "NO_GAIN")),
        ("win", "none", False, ("promote", "GAIN_SHOWN")),
    ],
)
def test_truth_table(current, previous, limit_broken, expected):
    gains = {"win": s.gain(), "tie": s.gain(0.0, p=0.6), "unsure": s.gain(0.02, **UNSURE), "loss": s.gain(-0.1, p=1.0)}
    olds = {"held": HELD_PREVIOUS, "worse": BAD_PREVIOUS, "unsure": UNSURE_PREVIOUS}
    newest = s.gain(0.0, **LARGE)
    evidence = s.evidence(
        current=s.exam(gained=gains[current]),
        epochs=epochs(newest, olds[previous]) if previous != "none" else epochs(newest),
        contender=s.facts(latency_p99_ms=251.0 if limit_broken else 250.0),
    )
    assert answer(evidence) == expected


def test_a_swapped_champion_and_contender_is_kept():
    swapped = s.exam(contender=s.scores(accuracy=0.85), champion=s.scores(accuracy=0.9), gained=s.gain(-0.05, p=0.9999))
    assert answer(s.evidence(current=swapped)) == ("keep", "NO_GAIN")


LEVEL = alpha_for_use(s.policy(), 1)


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
    champion = s.facts(version="old", latency_p99_ms=champion_ms)
    decision = gate_rule.decide(
        s.policy(limits={"latency_p99_ms": 10.0}), s.evidence(contender=contender, champion=champion)
    )
    assert decision.code == expected
    assert f"got 12.0 ms at the best of 3 measurements, the champion {champion_ms} ms" in decision.headline
    assert "2.5 tasks waiting a core" in decision.headline


@pytest.mark.parametrize(
    ("p", "expected"), [(LEVEL * 0.999, "promote"), (LEVEL, "promote"), (LEVEL * 1.001, "inconclusive")]
)
def test_the_gain_must_be_sure_at_exactly_the_level(p, expected):
    assert answer(s.evidence(current=s.exam(gained=s.gain(p=p))))[0] == expected


@pytest.mark.parametrize(("low", "expected"), [(0.021, "promote"), (0.02, "promote"), (0.0199, "inconclusive")])
def test_a_minimum_gain_must_lie_below_the_lower_bound(low, expected):
    evidence = s.evidence(current=s.exam(gained=s.gain(0.05, low=low)))
    assert answer(evidence, min_gain=0.02)[0] == expected


@pytest.mark.parametrize(("difference", "expected"), [(0.0201, "inconclusive"), (0.02, "keep"), (0.01, "keep")])
def test_a_gain_up_to_the_minimum_is_kept(difference, expected):
    evidence = s.evidence(current=s.exam(gained=s.gain(difference, low=0.001)))
    assert answer(evidence, min_gain=0.02)[0] == expected


def test_the_lower_bound_does_not_decide_where_no_minimum_is_asked():
    assert answer(s.evidence(current=s.exam(gained=s.gain(0.01, low=-0.001, p=LEVEL / 2))))[0] == "promote"


@pytest.mark.parametrize(
    ("low", "difference", "high", "expected"),
    [
        (-0.03, 0.0, 0.02, "PREVIOUS_HELD"),
        (-0.0301, 0.0, 0.02, "PREVIOUS_UNCERTAIN"),
        (-0.06, -0.04, -0.03, "PREVIOUS_UNCERTAIN"),
        (-0.06, -0.04, -0.0301, "PREVIOUS_WORSE"),
    ],
)
def test_the_margin_on_an_epoch_that_can_show_it(low, difference, high, expected):
    gained = s.gain(difference, low=low, high=high, **LARGE)
    decision = gate_rule.decide(s.policy(), s.evidence(epochs=epochs(s.gain(0.0, **LARGE), gained)))
    assert expected in {reason.code for reason in decision.reasons}


@pytest.mark.parametrize(("spare", "asked"), [(-1, False), (0, True)])
def test_the_margin_is_asked_of_an_epoch_that_can_show_it(spare, asked):
    """6.2 times the share of items on which the models differ, over 0.03 squared."""
    least = power.items_that_show(0.03, disagreement=0.1)
    assert least == 689
    wins_and_losses = 0.1 * (least + spare + 1) - 0.5
    gained = dataclasses.replace(
        s.gain(-0.01, low=-0.04, alpha=0.05), num_items=least + spare, num_wins=20, num_losses=wins_and_losses - 20
    )
    codes = {
        reason.code for reason in gate_rule.decide(s.policy(), s.evidence(epochs=epochs(s.gain(0.0), gained))).reasons
    }
    assert ("PREVIOUS_UNCERTAIN" in codes, "PREVIOUS_NOTED" in codes) == (asked, not asked)


@pytest.mark.parametrize(("least_class", "asked"), [(4, False), (5, True)])
def test_macro_f1_asks_the_margin_only_where_no_class_is_rare(least_class, asked):
    gained = dataclasses.replace(UNSURE_PREVIOUS, metric="macro_f1")
    chosen = (s.epoch(2), s.epoch(1, gained=gained, least_class=least_class))
    codes = {reason.code for reason in gate_rule.decide(s.policy(metric="macro_f1"), s.evidence(epochs=chosen)).reasons}
    assert ("PREVIOUS_UNCERTAIN" in codes) == asked


@pytest.mark.parametrize(("difference", "expected"), [(0.0, "promote"), (-0.001, "inconclusive")])
def test_the_newest_epoch_must_not_be_below_by_its_estimate(difference, expected):
    evidence = s.evidence(epochs=epochs(s.gain(difference, alpha=0.05, num_items=100), s.gain(0.1, alpha=0.05)))
    assert answer(evidence)[0] == expected


def test_one_epoch_needs_no_estimate_of_its_own():
    assert answer(s.evidence(epochs=epochs(s.gain(-0.001, alpha=0.05))))[0] == "promote"


@pytest.mark.parametrize(("high", "expected"), [(0.0, "promote"), (-0.0001, "keep")])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_no_epoch_may_be_shown_worse(high, expected, place):
    gains = [s.gain(0.0, low=-0.02, alpha=0.05, num_items=100) for _ in range(3)]
    gains[place] = dataclasses.replace(gains[place], high=high)
    assert answer(s.evidence(epochs=epochs(*gains)))[0] == expected


@pytest.mark.parametrize(("num_losses", "expected"), [(4, "promote"), (9, "keep")])
def test_a_loss_on_one_epoch_is_shown_at_5_percent_whatever_the_confidence(num_losses, expected):
    """Solar cells: 6.4 points more were shown, and 1 item won and 4 lost of 101 were a veto at 80 %."""
    champion, contender = np.arange(101) != 100, np.arange(101) >= num_losses
    losses = [statistics.compare_accuracy(contender, champion, alpha=alpha) for alpha in (0.2, 0.05)]
    assert losses[0].high < 0
    old = dataclasses.replace(s.epoch(1, gained=losses[0], num_items=101), gain_at_most=losses[1].high)
    policy = {"previous_margin": 0.2}
    assert answer(s.evidence(epochs=(s.epoch(2), old)), **policy)[0] == expected
    former = dataclasses.replace(old, gain_at_most=None)  # a verdict of rule 5
    assert answer(s.evidence(epochs=(s.epoch(2), former)), **policy)[0] == "keep"


@pytest.mark.parametrize(
    ("groups", "expected"), [(30, ("promote", "GAIN_SHOWN")), (29, ("inconclusive", "EXAM_FEW_GROUPS"))]
)
def test_an_exam_of_few_groups_is_inconclusive(groups, expected):
    assert answer(s.evidence(current=s.exam(groups=groups))) == expected


def test_a_small_minimum_asks_for_as_many_groups():
    assert answer(s.evidence(current=s.exam(groups=10, num_items=100)), exam={"min_items": 10})[0] == "promote"


@pytest.mark.parametrize(("share", "told"), [(0.2, False), (0.21, True)])
def test_a_large_group_is_told(share, told):
    gained = dataclasses.replace(s.gain(), largest_group=share, num_groups=200, design_effect=2.0)
    decision = gate_rule.decide(s.policy(), s.evidence(current=s.exam(groups=200, gained=gained)))
    assert decision.answer == "promote"
    assert ("GROUP_LARGE" in {reason.code for reason in decision.reasons}) == told
    assert "on the 1,000 items in 200 groups of epochs 1 to 2" in decision.headline


@pytest.mark.parametrize(
    ("difference", "expected"), [(0.03, "GAIN_LIKELY"), (0.005, "GAIN_UNCERTAIN"), (0.0, "NO_GAIN")]
)
def test_the_eager_mode_asks_for_a_posterior_probability(difference, expected):
    gained = s.gain(difference, p=0.04, low=-0.01)
    decision = gate_rule.decide(s.policy(mode="eager"), s.evidence(current=s.exam(gained=gained)))
    assert decision.code == expected
    assert "posterior probability" in decision.headline
    assert "no bound on false promotions" in decision.headline


def test_the_level_is_that_of_the_epoch():
    gained = s.gain(p=0.005, alpha=0.01 * 6 / math.pi**2)
    evidence = s.evidence(current=s.exam(gained=gained), epoch_level=0.01)
    assert answer(evidence) == ("promote", "GAIN_SHOWN")
    gained = dataclasses.replace(gained, p_value=0.0061)
    assert answer(dataclasses.replace(evidence, current=s.exam(gained=gained))) == ("inconclusive", "GAIN_UNCERTAIN")


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
    ("changes", "code"),
    [
        ({"contender": s.scores(health=m.OutputHealth(3, 0, constant=False))}, "METRIC_INVALID"),
        ({"contender": s.scores(health=m.OutputHealth(0, 2, constant=False))}, "METRIC_INVALID"),
        ({"contender": s.scores(health=m.OutputHealth(0, 0, constant=True))}, "METRIC_INVALID"),
        ({"contender": s.scores(accuracy=NAN)}, "METRIC_INVALID"),
        ({"contender": s.scores(f1=math.inf)}, "METRIC_INVALID"),
        ({"contender": s.scores(ece=NAN)}, "METRIC_INVALID"),
        ({"champion": s.scores(accuracy=NAN)}, "CHAMPION_INVALID"),
        ({"champion": s.scores(health=m.OutputHealth(1, 0, constant=False))}, "CHAMPION_INVALID"),
        ({"gain": None}, "METRIC_INVALID"),
        ({"gain": s.gain(NAN)}, "METRIC_INVALID"),
        ({"gain": s.gain(p=NAN)}, "METRIC_INVALID"),
        ({"champion": None}, "METRIC_INVALID"),
        ({"num_items": 0}, "METRIC_INVALID"),
    ],
)
def test_what_cannot_be_computed_keeps_the_champion(changes, code):
    evidence = s.evidence()
    broken = dataclasses.replace(evidence.current, **changes)
    assert answer(dataclasses.replace(evidence, current=broken)) == ("keep", code)


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("gained", [None, s.gain(NAN, alpha=0.05), s.gain(low=NAN, alpha=0.05)])
def test_an_epoch_that_cannot_be_computed_keeps_the_champion(place, gained):
    chosen = list(s.evidence().epochs)
    chosen[place] = dataclasses.replace(chosen[place], gain=gained)
    assert answer(s.evidence(epochs=tuple(chosen))) == ("keep", "METRIC_INVALID")


@pytest.mark.parametrize("changes", [{"latency_p99_ms": NAN}, {"latency_p50_ms": math.inf}, {"size_bytes": 0}])
def test_unmeasured_facts_keep_the_champion(changes):
    assert answer(s.evidence(contender=s.facts(**changes))) == ("keep", "METRIC_INVALID")


def test_a_constant_champion_can_be_beaten():
    current = s.exam(champion=s.scores(accuracy=0.1, health=m.OutputHealth(0, 0, constant=True)))
    assert answer(s.evidence(current=current))[0] == "promote"


def test_a_leak_keeps_the_champion_and_names_items():
    leaks = (EXACT, NEAR)
    decision = gate_rule.decide(s.policy(), s.evidence(leaks=leaks))
    assert (decision.answer, decision.code) == ("keep", "EXAM_LEAK")
    assert (
        "2 exam items are in the contender's training snapshot, 1 exactly and 1 as near duplicates "
        "(aaaaaaaaaaaa, bbbbbbbbbbbb). Its score on them is worth nothing" in decision.headline
    )


@pytest.mark.parametrize(("leak", "words"), [(EXACT, "1 exactly ("), (NEAR, "1 as near duplicates (")])
def test_one_kind_of_leak_is_enough(leak, words):
    decision = gate_rule.decide(s.policy(), s.evidence(leaks=(leak,)))
    assert (decision.answer, decision.code) == ("keep", "EXAM_LEAK")
    assert words in decision.headline


def test_a_champion_that_knows_exam_items_is_told_of_and_blocks_nothing():
    decision = gate_rule.decide(s.policy(), s.evidence(champion_leaks=(NEAR,)))
    assert decision.answer == "promote"
    (note,) = [reason for reason in decision.reasons if reason.code == "CHAMPION_EXAM_LEAK"]
    assert note.stand == "note"
    assert note.text == (
        "1 exam items are in the champion's training snapshot, 1 as near duplicates (bbbbbbbbbbbb): "
        "it answers them with an unfair advantage."
    )
    assert "CHAMPION_EXAM_LEAK" not in {reason.code for reason in gate_rule.decide(s.policy(), s.evidence()).reasons}


@pytest.mark.parametrize(
    ("num_items", "expected"), [(99, ("inconclusive", "EXAM_TOO_SMALL")), (100, ("promote", "GAIN_SHOWN"))]
)
def test_a_small_exam_is_inconclusive(num_items, expected):
    assert answer(s.evidence(current=s.exam(num_items=num_items))) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "promote"),
        ({"metric": "macro_f1"}, "inconclusive"),
        ({"limits": {"recall_per_class": 0.1}}, "inconclusive"),
        ({"floors": {"recall_per_class": 0.1}}, "promote"),
    ],
)
def test_a_class_missing_from_the_exam_matters_where_the_rule_speaks_of_it(changes, expected):
    contender = s.scores(recalls=(0.9, 0.9), items=(1000, 0))
    decision = gate_rule.decide(s.policy(**changes), s.evidence(current=s.exam(contender=contender)))
    assert decision.answer == expected
    assert any(reason.code == "EXAM_CLASS_MISSING" and "shoe" in reason.text for reason in decision.reasons)


def test_a_class_that_the_contender_never_learned_keeps_the_champion():
    assert answer(s.evidence(contender=s.facts(classes=("shirt",)))) == ("keep", "CONTENDER_CLASSES")


@pytest.mark.parametrize(
    ("new_classes", "shared", "expected"),
    [
        ("keep", s.gain(0.0, low=-0.01, alpha=0.05), ("keep", "CHAMPION_CLASSES")),
        ("judge", s.gain(0.0, low=-0.01, alpha=0.05), ("promote", "GAIN_SHOWN")),
        ("judge", s.gain(-0.05, low=-0.07, high=-0.04, alpha=0.05), ("keep", "SHARED_CLASSES_WORSE")),
        ("judge", s.gain(-0.01, low=-0.04, alpha=0.05), ("inconclusive", "SHARED_CLASSES_UNCERTAIN")),
        ("judge", None, ("keep", "METRIC_INVALID")),
        ("leave_out", None, ("promote", "GAIN_SHOWN")),
    ],
)
def test_a_class_that_the_champion_never_learned(new_classes, shared, expected):
    evidence = s.evidence(champion=s.facts(version="old", classes=("shirt",)), current=s.exam(shared=shared))
    assert answer(evidence, new_classes=new_classes) == expected


def test_a_class_that_only_the_champion_knows_is_no_matter():
    evidence = s.evidence(champion=s.facts(version="old", classes=(*s.CLASSES, "hat")))
    assert answer(evidence)[0] == "promote"


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


def test_an_uncertain_gain_says_what_the_exam_shows_and_what_more_items_would():
    gained = dataclasses.replace(s.gain(0.05, num_items=200, **UNSURE), num_wins=20, num_losses=10)
    decision = gate_rule.decide(s.policy(), s.evidence(current=s.exam(num_items=200, gained=gained)))
    assert decision.headline == (
        "Inconclusive: accuracy on the 200 items of epochs 1 to 2 is 90.0 % for the contender and 85.0 % for the "
        "champion: 5.0 points more, which can be chance at 97.0 % confidence (use 1 of this exam). An exam of "
        "200 items shows true gains of 7.8 points in 8 of 10 cases. With 100 more exam items it would be shown with a "
        "chance of 29.5 %."
    )


def test_a_full_window_says_nothing_of_more_items():
    decision = gate_rule.decide(s.policy(), s.evidence(current=s.exam(gained=s.gain(0.02, **UNSURE))))
    assert "An exam of 1,000 items shows true gains of" in decision.headline
    assert "more exam items" not in decision.headline


def test_groups_are_worth_fewer_items():
    gained = dataclasses.replace(s.gain(0.02, **UNSURE), design_effect=4.0, num_groups=100)
    decision = gate_rule.decide(s.policy(), s.evidence(current=s.exam(gained=gained, groups=100)))
    assert "An exam of 1,000 items (worth 250 independent ones) shows true gains of" in decision.headline


def test_each_use_of_an_exam_asks_for_more():
    levels = [alpha_for_use(s.policy(), use) for use in (1, 2, 3, 50)]
    assert levels == sorted(levels, reverse=True)
    assert sum(alpha_for_use(s.policy(), use) for use in range(1, 100_000)) == pytest.approx(0.05, abs=1e-6)
    evidence = s.evidence(exam_use=3, current=s.exam(gained=s.gain(p=0.02, use=3)))
    assert answer(evidence) == ("inconclusive", "GAIN_UNCERTAIN")


def test_the_uses_start_at_one():
    with pytest.raises(ValueError, match=r"exam_use must count this comparison, so be 1 or more \(got 0\)"):
        alpha_for_use(s.policy(), 0)


def test_a_gain_computed_at_another_level_is_refused():
    with pytest.raises(ValueError, match="the gain must be computed at the level"):
        gate_rule.decide(s.policy(), s.evidence(exam_use=2))


def test_long_lists_are_cut_at_ten():
    assert reasons.names([str(number) for number in range(12)]) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more"
