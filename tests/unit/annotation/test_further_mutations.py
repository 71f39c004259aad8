"""Break the rule on ties on purpose: each mutation must fail a check that the rule itself passes."""

from __future__ import annotations

import inspect

import pytest

from pipeline_tasks.annotation import consensus
from tests.unit.annotation.test_consensus import row
from tests.unit.evaluation.test_gate_mutations import load_source, mutated_source

TIE = [row(1, "cat", by="a"), row(2, "dog", by="b")]


def asks_a_third(module):
    rule = module.AgreementRule(2, 0.5, 1)
    assert module.asks_further(TIE, rule)
    assert module.decide(TIE, rule).status == "disputed"
    third = [*TIE, row(3, "dog", by="c")]
    assert module.decide(third, rule).label == "dog"
    assert not module.asks_further(third, rule)


def counts_a_person_once(module):
    rule = module.AgreementRule(2, 0.5, 1)
    again = [*TIE, row(3, "dog", by="b", revision="r2")]
    assert module.decide(again, rule).status == "disputed"
    assert module.asks_further(again, rule)
    assert module.people_wanted(again) == 3


def ends_somewhere(module):
    third = [*TIE, row(3, "owl", by="c")]
    assert not module.asks_further(third, module.AgreementRule(2, 0.5, 1))
    assert not module.asks_further(third, module.AgreementRule(2, 0.5, 2))  # 2 of 4 are no majority
    assert module.asks_further(third, module.AgreementRule(2, 0.5, 3))
    assert not module.asks_further(TIE, module.AgreementRule(2, 0.5, 0))
    assert not module.asks_further(TIE, module.AgreementRule(2, 0.3, 0))  # a tie is none, however few must agree


@pytest.mark.parametrize(
    ("original", "mutated", "behaviour"),
    [
        ("return num_left > 0 and", "return False and", asks_a_third),
        ('outcome.status != "disputed"', 'outcome.status == "disputed"', asks_a_third),
        ("newest[row.annotator] = row", "newest[row.annotation_id] = row", counts_a_person_once),
        ("len({row.annotator for row", "len({row.annotation_id for row", counts_a_person_once),
        ("num_left > 0 and", "", ends_somewhere),
        ("+ rule.further_people - num_answers", "+ 5 - num_answers", ends_somewhere),
        ("(num_answers + num_left) > rule.min_agreement", "num_answers > rule.min_agreement", ends_somewhere),
    ],
)
def test_a_broken_rule_on_ties_is_noticed(original, mutated, behaviour):
    behaviour(consensus)
    source = mutated_source(inspect.getsource(consensus), original=original, mutated=mutated, where="consensus.py")
    with pytest.raises(AssertionError):
        behaviour(load_source(source, file=str(consensus.__file__)))
