"""The constant answer, which a first model has to beat."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from pipeline_tasks.evaluation import evidence as ev
from pipeline_tasks.evaluation import gate_rule
from pipeline_tasks.evaluation import verdict as vd
from pipeline_tasks.evaluation.report.markdown import markdown_summary
from pipeline_tasks.project.gate_schema import Gate
from pipeline_tasks.project.loader import load_project
from pipeline_tasks.project.scaffold import init_project
from pipeline_tasks.training.metrics import validation_metrics
from tests.unit.evaluation import support as s
from tests.unit.evaluation.conftest import run, verdicts, world  # noqa: F401 - fixtures

DATA = Path(__file__).parent / "data"
TEMPLATES = Path(__file__).resolve().parents[2] / "pipeline_tasks" / "project" / "templates"
CLASSES = ("no", "yes")


# The constant answer


def judged(*, num_items: int, num_yes: int, right_yes: int, right_no: int, **gate) -> gate_rule.Decision:
    """Decide on a first model that finds `right_yes` of the rarer class and `right_no` of the commoner one."""
    labels = ["yes"] * num_yes + ["no"] * (num_items - num_yes)
    says_yes = [index < right_yes or index >= num_yes + right_no for index in range(num_items)]
    probabilities_nc = np.array([[0.2 + index / 1e4, 0.8 - index / 1e4] for index in range(num_items)])
    probabilities_nc[~np.array(says_yes)] = probabilities_nc[~np.array(says_yes)][:, ::-1]
    policy = Gate.model_validate({"exam": {"min_items": 100}, **gate})
    answers = ev.ExamAnswers("e", 1, tuple(map(str, range(num_items))), tuple(labels), probabilities_nc, None)
    answers = dataclasses.replace(answers, groups=tuple(range(num_items)))
    exam = ev.build_exam_evidence(
        answers, ev.ClassLists(CLASSES, CLASSES, None), policy=policy, alpha=ev.alpha_for_use(policy, 1)
    )
    first = s.first_evidence()
    facts = s.facts(classes=CLASSES)
    return gate_rule.decide(policy, ev.Evidence(CLASSES, facts, None, exam, None, first.exam_use))


@pytest.mark.parametrize(
    ("right", "gate", "expected"),
    [
        pytest.param((20, 121), {}, ("keep", "CONSTANT_FLOOR"), id="D5-reported-71.5-below-72.5"),
        pytest.param((0, 145), {}, ("keep", "CONSTANT_FLOOR"), id="D5-the-constant-answer-itself"),
        pytest.param((12, 140), {}, ("inconclusive", "CONSTANT_UNCERTAIN"), id="D5-three-points-of-chance"),
        pytest.param((45, 135), {}, ("promote", "FLOORS_MET"), id="D5-better"),
        pytest.param((20, 121), {"floors": {"accuracy": 0.5}}, ("promote", "FLOORS_MET"), id="D5-a-floor-that-is-set"),
        pytest.param((45, 100), {"metric": "macro_f1"}, ("promote", "FLOORS_MET"), id="D5-by-macro-f1"),
        pytest.param((0, 145), {"metric": "macro_f1"}, ("keep", "CONSTANT_FLOOR"), id="D5-constant-by-macro-f1"),
    ],
)
def test_a_first_model_has_to_beat_the_constant_answer(right, gate, expected):
    """A promoted model had 71.4 % where always the commoner class has 72.5 %."""
    decision = judged(num_items=200, num_yes=55, right_yes=right[0], right_no=right[1], **gate)
    assert (decision.answer, decision.code) == expected
    assert "always answering no" in " ".join(reason.text for reason in decision.reasons)


def test_the_default_floor_says_both_figures():
    decision = judged(num_items=200, num_yes=55, right_yes=20, right_no=121)
    assert decision.headline == (
        "No champion yet: accuracy on the 200 items of epoch 1 is 70.5 %, and 72.5 % for always answering no: a "
        "first model has to be better (gate.floors.accuracy: above_constant)."
    )


def test_a_floor_below_the_constant_answer_stays_and_is_told():
    reasons = judged(num_items=200, num_yes=55, right_yes=20, right_no=121, floors={"accuracy": 0.5}).reasons
    (note,) = [reason for reason in reasons if reason.code == "CONSTANT_ANSWER"]
    assert note.stand == "note"
    assert note.text == (
        "on the 200 items of epoch 1 always answering no has 72.5 % accuracy, the contender 70.5 %: it is "
        "worth no more than one answer to everything."
    )


@pytest.mark.parametrize("name", ["first", "with_champion", "macro_f1"])
def test_a_verdict_from_before_the_constant_answer_has_none(name):
    """Verdicts of rule version 3 (9c02990)."""
    stored = (DATA / "verdict_rule_3" / f"{name}.json").read_bytes()
    again = vd.replay(json.loads(stored), (DATA / "verdict_rule_3" / f"{name}.parquet").read_bytes())
    assert "constant" not in again["evidence"]["current"]
    assert "always" not in markdown_summary(again)


def test_the_constant_answer_stands_in_verdict_report_and_summary(judge_pair):
    document, page = judge_pair(champion="old")
    assert document["question"]["rule_version"] == 6
    constant = document["evidence"]["current"]["constant"]
    assert constant == {"label": "shirt", "accuracy": 0.5, "macro_f1": 0.333333333, "gain": None}
    assert "Accuracy, always shirt" in page
    assert "<th>Constant answer</th>" in page
    assert "| Accuracy | 85.8 % | 95.8 % | 50.0 % |" in markdown_summary(document)
    assert "| 33.3 % |" in markdown_summary(document)


def test_a_first_models_gain_over_the_constant_answer_is_evidence(judge_pair):
    document, page = judge_pair(champion=None)
    gain = document["evidence"]["current"]["constant"]["gain"]
    assert (gain["difference"], gain["num_wins"], gain["num_losses"]) == (0.458333333, 115, 5)
    assert "above the constant answer (first model)" in page
    assert document["decision"]["code"] == "FLOORS_MET"


def test_training_metrics_hold_the_constant_answer():
    probabilities_nc = np.array([[0.9, 0.1]] * 10, dtype=np.float32)
    metrics = validation_metrics(probabilities_nc, np.array([0] * 7 + [1] * 3), CLASSES)
    assert metrics["constant"] == {"label": "no", "accuracy": 0.7, "macro_f1": 0.411765}
    assert (metrics["accuracy"], metrics["macro_f1"]) == (0.7, pytest.approx(0.411765, abs=2e-6))


@pytest.mark.parametrize("folder", sorted(path.name for path in TEMPLATES.iterdir() if path.is_dir()))
def test_templates_ask_for_more_than_the_constant_answer(folder, tmp_path):
    loaded = load_project(init_project(tmp_path, name="my_project", template=folder))
    assert loaded.config.gate.floors.accuracy == "above_constant"


@pytest.fixture
def judge_pair(run, object_store):  # noqa: F811
    def call(**parties):
        ref = run(**parties)
        document = json.loads(object_store.get(f"{ref.object_key}/verdict.json"))
        return document, object_store.get(f"{ref.object_key}/report.html").decode().replace("\N{NO-BREAK SPACE}", " ")

    return call
