"""The promises of the gate's rule, as functions of its modules: the original passes each, a mutant fails its own."""

import dataclasses
import importlib
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from pipeline_tasks.catalog.exam_window import ExamLabels
from pipeline_tasks.contracts import Leak
from pipeline_tasks.evaluation import evidence as ev
from pipeline_tasks.evaluation import metrics as m
from pipeline_tasks.evaluation.slices import score_slices
from pipeline_tasks.project.gate_schema import Slice
from tests.unit.evaluation import support as s

GATE = "pipeline_tasks.evaluation"


def with_checks(behaviour: Callable[[ModuleType], None]) -> Callable[[ModuleType], None]:
    """Return a check of the whole rule as a check of its module `gate_rule_checks`."""

    def check(checks: ModuleType) -> None:
        original = importlib.import_module(f"{GATE}.gate_rule")
        rule = ModuleType("rule_with_checks")
        sys.modules[rule.__name__] = rule
        exec(compile(Path(str(original.__file__)).read_text(), "gate_rule.py", "exec"), rule.__dict__)  # our own source
        for name in ("check_validity", "conclude", "check_champion_leaks", "check_classes", "note_left_out"):
            setattr(rule, name, getattr(checks, name))
        behaviour(rule)

    return check


def decided(rule: ModuleType, evidence=None, **policy) -> tuple[str, str]:
    decision = rule.decide(s.policy(**policy), evidence or s.evidence())
    return decision.answer, decision.code


def rule_promotes_a_sure_gain(rule):
    assert decided(rule) == ("promote", "GAIN_SHOWN")
    assert rule.shows_gain(s.gain(0.05, low=0.03, p=0.0001), min_gain=0)


def rule_keeps_the_better_champion(rule):
    assert decided(rule, s.evidence(current=s.exam(gained=s.gain(-0.05, p=0.0001)))) == ("keep", "NO_GAIN")


def rule_leaves_chance_open(rule):
    unsure = s.exam(gained=s.gain(0.02, p=0.2, low=-0.01))
    assert decided(rule, s.evidence(current=unsure)) == ("inconclusive", "GAIN_UNCERTAIN")


def rule_asks_for_the_minimum_gain(rule):
    unsure = s.exam(gained=s.gain(0.05, low=0.0199, high=0.08))
    assert decided(rule, s.evidence(current=unsure), min_gain=0.02) == ("inconclusive", "GAIN_UNCERTAIN")
    assert decided(rule, s.evidence(current=s.exam(gained=s.gain(0.05, low=0.03))), min_gain=0.02)[0] == "promote"


def rule_refuses_another_level(rule):
    with pytest.raises(ValueError, match="must be computed at the level"):
        rule.decide(s.policy(), s.evidence(exam_use=2))


def rule_holds_latency(rule):
    slow = s.evidence(contender=s.facts(latency_p99_ms=10.1))
    assert decided(rule, slow, limits={"latency_p99_ms": 10.0}) == ("keep", "LATENCY_LIMIT")
    half = s.evidence(contender=s.facts(latency_p50_ms=5.1))
    assert decided(rule, half, limits={"latency_p50_ms": 5.0}) == ("keep", "LATENCY_LIMIT")


def rule_holds_size(rule):
    big = s.evidence(contender=s.facts(size_bytes=10_000_001))
    assert decided(rule, big, limits={"size_mb": 10.0}) == ("keep", "SIZE_LIMIT")


def rule_holds_calibration(rule):
    boastful = s.evidence(current=s.exam(contender=s.scores(ece=0.101)))
    assert decided(rule, boastful, limits={"max_calibration_error": 0.1}) == ("keep", "CALIBRATION_LIMIT")


def rule_holds_recall(rule):
    blind = s.evidence(current=dataclasses.replace(s.exam(), recalls=s.recalls(shares=(0.99, 0.5))))
    assert decided(rule, blind, limits={"recall_per_class": 0.6}) == ("keep", "RECALL_FLOOR")
    doubtful = s.evidence(current=dataclasses.replace(s.exam(), recalls=s.recalls(shares=(0.99, 0.59))))
    assert decided(rule, doubtful, limits={"recall_per_class": 0.6}) == ("inconclusive", "RECALL_UNCERTAIN")
    assert decided(rule, limits={"recall_per_class": 0.6})[0] == "promote"


def rule_keeps_what_forgets(rule):
    forgets = s.epoch(1, gained=s.gain(-0.05, low=-0.07, high=-0.031, alpha=0.05, num_items=2000))
    codes = {
        reason.code: reason.stand
        for reason in rule.decide(s.policy(), s.evidence(epochs=(s.epoch(2), forgets))).reasons
    }
    assert (codes.get("EPOCH_WORSE"), codes.get("PREVIOUS_WORSE")) == ("against", "against")


def rule_doubts_a_small_loss(rule):
    small = dataclasses.replace(s.epoch(1, gained=s.gain(-0.03, low=-0.05, high=-0.012, alpha=0.2)), gain_at_most=0.001)
    codes = {reason.code for reason in rule.decide(s.policy(), s.evidence(epochs=(s.epoch(2), small))).reasons}
    assert "EPOCH_WORSE" not in codes


def rule_asks_the_newest_epoch(rule):
    below = s.epoch(2, gained=s.gain(-0.01, low=-0.04, alpha=0.05))
    assert decided(rule, s.evidence(epochs=(below, s.epoch(1)))) == ("inconclusive", "NEWEST_BELOW")


def rule_needs_groups(rule):
    assert decided(rule, s.evidence(current=s.exam(groups=29))) == ("inconclusive", "EXAM_FEW_GROUPS")


def rule_spends_the_epochs_level(rule):
    gained = s.gain(p=0.0001, alpha=0.01 * 6 / math.pi**2)
    try:
        decision = decided(rule, s.evidence(current=s.exam(gained=gained), epoch_level=0.01))
    except ValueError as error:
        pytest.fail(str(error))
    assert decision[0] == "promote"


def rule_notes_a_margin_that_cannot_be_shown(rule):
    small = s.epoch(1, gained=s.gain(-0.01, low=-0.2, alpha=0.05, num_items=100), num_items=100)
    assert decided(rule, s.evidence(epochs=(s.epoch(2), small))) == ("promote", "GAIN_SHOWN")
    rare = s.epoch(1, gained=s.gain(-0.01, low=-0.2, alpha=0.05, num_items=5000), least_class=4)
    assert decided(rule, s.evidence(epochs=(s.epoch(2), rare)), metric="macro_f1") == ("promote", "GAIN_SHOWN")


def rule_is_eager_only_where_it_is_asked(rule):
    likely = s.evidence(current=s.exam(gained=s.gain(0.03, p=0.04, low=-0.01)))
    assert decided(rule, likely) == ("inconclusive", "GAIN_UNCERTAIN")
    assert decided(rule, likely, mode="eager") == ("promote", "GAIN_LIKELY")


def rule_knows_a_slow_machine(rule):
    slow = {"latency_p99_ms": 12.0}
    both = s.evidence(contender=s.facts(**slow), champion=s.facts(**slow))
    assert decided(rule, both, limits={"latency_p99_ms": 10.0}) == ("inconclusive", "LATENCY_UNCERTAIN")


def rule_takes_chance_off_the_calibration_error(rule):
    scores = dataclasses.replace(s.scores(ece=0.15), calibration_expected=0.06)
    assert decided(rule, s.evidence(current=s.exam(contender=scores)), limits={"max_calibration_error": 0.1})[0] == (
        "promote"
    )


def rule_leaves_a_doubtful_past_open(rule):
    unsure = s.epoch(1, gained=s.gain(-0.01, low=-0.04, alpha=0.05, num_items=2000))
    assert decided(rule, s.evidence(epochs=(s.epoch(2), unsure))) == ("inconclusive", "PREVIOUS_UNCERTAIN")


def rule_refuses_a_leak(rule):
    leaks = [Leak("a" * 64, "a" * 64, "exact", 1.0), Leak("a" * 64, "b" * 64, "near", 0.99)]
    for leak in leaks:
        assert decided(rule, s.evidence(leaks=(leak,))) == ("keep", "EXAM_LEAK")


def rule_tells_of_a_leak_to_the_champion(rule):
    decision = rule.decide(s.policy(), s.evidence(champion_leaks=(Leak("a" * 64, "b" * 64, "near", 0.99),)))
    assert (decision.answer, decision.code) == ("promote", "GAIN_SHOWN")
    assert [reason.stand for reason in decision.reasons if reason.code == "CHAMPION_EXAM_LEAK"] == ["note"]


def judged_with(rule: ModuleType, **contender_scores) -> tuple[str, str]:
    return decided(rule, s.evidence(current=s.exam(contender=s.scores(**contender_scores))))


def rule_refuses_nan_outputs(rule):
    assert judged_with(rule, health=m.OutputHealth(3, 0, constant=False)) == ("keep", "METRIC_INVALID")


def rule_refuses_wrong_probabilities(rule):
    assert judged_with(rule, health=m.OutputHealth(0, 2, constant=False)) == ("keep", "METRIC_INVALID")


def rule_refuses_one_answer_to_all(rule):
    assert judged_with(rule, health=m.OutputHealth(0, 0, constant=True)) == ("keep", "METRIC_INVALID")


def rule_refuses_nan_metrics(rule):
    assert judged_with(rule, ece=math.nan) == ("keep", "METRIC_INVALID")


def rule_refuses_a_nan_gain(rule):
    assert decided(rule, s.evidence(current=s.exam(gained=s.gain(math.nan, low=0.0)))) == ("keep", "METRIC_INVALID")


def rule_refuses_nan_latency(rule):
    assert decided(rule, s.evidence(contender=s.facts(latency_p99_ms=math.nan))) == ("keep", "METRIC_INVALID")


def rule_needs_an_exam_of_size(rule):
    assert decided(rule, s.evidence(current=s.exam(num_items=99))) == ("inconclusive", "EXAM_TOO_SMALL")


def rule_needs_known_classes(rule):
    assert decided(rule, s.evidence(contender=s.facts(classes=("shirt",)))) == ("keep", "CONTENDER_CLASSES")


def rule_needs_a_champion_that_knows_the_exam(rule):
    evidence = s.evidence(champion=s.facts(classes=("shirt",)))
    assert decided(rule, evidence, new_classes="keep") == ("keep", "CHAMPION_CLASSES")


def rule_holds_the_first_models_floor(rule):
    assert decided(rule, s.first_evidence(contender=s.scores(accuracy=0.78)), floors={"accuracy": 0.8}) == (
        "keep",
        "ACCURACY_FLOOR",
    )


LIGHT = Slice.model_validate({"name": "light", "by": "source", "floors": {"accuracy": 0.8}, "max_loss": 0.03})


def sliced(*, contender_wrong: int, champion_wrong: int) -> ev.ExamEvidence:
    """Return an exam with 200 items in the dark; who is wrong more often is wrong wherever the other one is."""
    contender_n, champion_n = (np.arange(200) >= wrong for wrong in (contender_wrong, champion_wrong))
    right = {"contender_right_n": contender_n, "champion_right_n": champion_n, "group_n": np.arange(200)}
    return s.exam(slices=score_slices([LIGHT], {"light": ["dark"] * 200}, **right, alpha=0.05))


def said_on_slices(slice_rule: ModuleType, **wrong: int) -> list[tuple[str, str]]:
    return [
        (reason.stand, reason.code) for reason in slice_rule.check_slices(s.policy(slices=[LIGHT]), sliced(**wrong))
    ]


def slices_hold(slice_rule):
    assert said_on_slices(slice_rule, contender_wrong=10, champion_wrong=10) == [("note", "SLICES")]


def slices_hold_their_floor(slice_rule):
    assert said_on_slices(slice_rule, contender_wrong=50, champion_wrong=50) == [("against", "SLICE_FLOOR")]


def slices_hold_their_margin(slice_rule):
    assert said_on_slices(slice_rule, contender_wrong=30, champion_wrong=10) == [("against", "SLICE_WORSE")]


def slices_leave_a_likely_loss_open(slice_rule):
    assert said_on_slices(slice_rule, contender_wrong=18, champion_wrong=10) == [("open", "SLICE_UNCERTAIN")]


def slices_note_a_loss_that_is_not_ruled_out(slice_rule):
    assert said_on_slices(slice_rule, contender_wrong=14, champion_wrong=10) == [("note", "SLICE_NOT_SHOWN")]


def slices_leave_a_likely_miss_open(slice_rule):
    assert said_on_slices(slice_rule, contender_wrong=43, champion_wrong=43) == [("open", "SLICE_UNCERTAIN")]


def rule_holds_slices(rule):
    evidence = s.evidence(current=sliced(contender_wrong=50, champion_wrong=50))
    assert decided(rule, evidence, slices=[LIGHT]) == ("keep", "SLICE_FLOOR")


def rule_tells_what_is_open_and_decides_as_without(rule):
    told = rule.decide(s.policy(), s.evidence(labels=ExamLabels(num_asked=900, num_imported=900)))
    assert {"ITEMS_OPEN", "LABELS_IMPORTED"} <= {reason.code for reason in told.reasons}
    assert told.answer == rule.decide(s.policy(), s.evidence()).answer
