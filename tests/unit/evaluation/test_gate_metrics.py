"""The table of the gate's metrics: each entry agrees with itself, and a new one is an entry."""

import json
import typing

import numpy as np
import pytest

from pipeline_tasks.core.proportions import Interval
from pipeline_tasks.evaluation import gate_metrics
from pipeline_tasks.evaluation import verdict as vd
from pipeline_tasks.evaluation.gate_metrics import METRICS, GateMetric, Truth
from pipeline_tasks.evaluation.report import tables
from pipeline_tasks.evaluation.report.markdown import markdown_summary
from pipeline_tasks.evaluation.scoring import Measured
from pipeline_tasks.project.gate_schema import Gate
from pipeline_tasks.training.metrics import validation_metrics
from tests.unit.evaluation import evidence_checks
from tests.unit.evaluation import support as s

GROUPS = [None, np.arange(evidence_checks.NUM_ITEMS), np.arange(evidence_checks.NUM_ITEMS) // 3]
MEASURED = {"contender": Measured(1.0, 2.0), "champion": Measured(3.0, 4.0)}


def test_the_schema_offers_what_the_table_has():
    assert typing.get_args(Gate.model_fields["metric"].annotation) == tuple(METRICS)


def test_a_search_can_go_by_every_metric():
    probabilities_nc = evidence_checks.probabilities(evidence_checks.BETTER)
    assert METRICS.keys() <= validation_metrics(probabilities_nc, evidence_checks.TRUTH, s.CLASSES).keys()


@pytest.mark.parametrize("group_n", GROUPS, ids=["no groups", "single", "of three"])
@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_figure_interval_and_difference_are_of_one_thing(metric, group_n):
    truth = Truth(s.CLASSES, evidence_checks.TRUTH, group_n)
    better, worse = (metric.figure(truth, answer_n) for answer_n in (evidence_checks.BETTER, evidence_checks.WORSE))
    interval = metric.interval(truth, evidence_checks.BETTER)
    gain = metric.compare(truth, evidence_checks.BETTER, evidence_checks.WORSE, 0.03)
    assert interval.estimate == pytest.approx(better)
    assert interval.low < better < interval.high
    assert (gain.metric, gain.alpha) == (metric.name, 0.03)
    assert gain.difference == pytest.approx(better - worse)
    assert gain.low < gain.difference < gain.high


def worst_recall(truth: Truth, answer_n) -> float:
    return min(float((answer_n == truth.truth_n)[truth.truth_n == index].mean()) for index in range(len(truth.classes)))


def as_accuracy(truth, contender_n, champion_n, alpha):
    gain = METRICS["accuracy"].compare(truth, contender_n, champion_n, alpha)
    return type(gain)(**{**{name: getattr(gain, name) for name in gain.__slots__}, "metric": "worst_recall"})


WORST_RECALL = GateMetric(
    "worst_recall",
    title="Worst recall",
    noun="worst recall",
    interval_by="nothing",
    figure=worst_recall,
    interval=lambda truth, answer_n: Interval(worst_recall(truth, answer_n), 0.0, 1.0),
    compare=as_accuracy,
)


def verdict_by(metric: str) -> dict:
    policy = vd.spelled_out(s.policy()).model_copy(update={"metric": metric})
    better, worse = (
        evidence_checks.probabilities(answer_n) for answer_n in (evidence_checks.BETTER, evidence_checks.WORSE)
    )
    answers = [evidence_checks.raw_answers(better, worse)]
    question = evidence_checks.question(policy=policy, exams=(vd.ExamName("exam2", 2, 300, "exams/2", "d"),))
    return json.loads(vd.document_bytes(vd.build_document(question, answers, measured=MEASURED, evidence_digest="d")))


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # the schema has no such metric
def test_a_new_metric_is_one_entry(monkeypatch):
    """It decides, and stands in figures, constant answer, epochs, reasons, page and summary; others stay."""
    before = verdict_by("macro_f1")
    monkeypatch.setitem(METRICS, WORST_RECALL.name, WORST_RECALL)
    document = verdict_by("worst_recall")
    current = document["evidence"]["current"]
    assert {role: current[role]["worst_recall"]["estimate"] for role in ("contender", "champion")} == {
        "contender": pytest.approx(140 / 150),
        "champion": pytest.approx(110 / 150),
    }
    assert (current["constant"]["worst_recall"], current["gain"]["metric"]) == (0.0, "worst_recall")
    assert document["evidence"]["epochs"][0]["contender"] == pytest.approx(140 / 150)
    assert document["decision"]["headline"].startswith("Promote the contender: worst recall on the 300 items")
    assert "Worst recall" in {row.name for row in tables.side_by_side(document)}
    assert "| Worst recall | 73.3 % | 93.3 % | 0.0 % |" in markdown_summary(document)
    assert verdict_by("macro_f1") == before
    assert [metric.name for metric in gate_metrics.metrics_among(before["evidence"]["current"]["contender"])] == [
        "accuracy",
        "macro_f1",
    ]
