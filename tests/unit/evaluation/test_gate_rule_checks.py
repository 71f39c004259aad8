"""Checks before the rule: figures that cannot be computed, leaks, and classes that a model never learned."""

import dataclasses
import math

import pytest

from pipeline_tasks.contracts import Leak
from pipeline_tasks.evaluation import gate_rule
from pipeline_tasks.evaluation import metrics as m
from tests.unit.evaluation import support as s
from tests.unit.evaluation.support import answer

EXACT = Leak("a" * 64, "a" * 64, "exact", 1.0)
NEAR = Leak("b" * 64, "c" * 64, "near", 0.9971)

NAN = math.nan


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
    evidence = s.evidence(champion=s.facts(classes=("shirt",)), current=s.exam(shared=shared))
    assert answer(evidence, new_classes=new_classes) == expected


def test_a_class_that_only_the_champion_knows_is_no_matter():
    evidence = s.evidence(champion=s.facts(classes=(*s.CLASSES, "hat")))
    assert answer(evidence)[0] == "promote"
