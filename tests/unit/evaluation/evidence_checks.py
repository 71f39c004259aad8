"""The promises of the stage before the rule, as functions of its modules: evidence, verdict, scoring, task."""

import dataclasses
import math
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from pipeline_tasks.contracts import Leak, Location
from pipeline_tasks.errors import DataCorrupt
from pipeline_tasks.evaluation import evidence as ev
from pipeline_tasks.evaluation import verdict as vd
from pipeline_tasks.evaluation.gate_metrics import Truth
from pipeline_tasks.evaluation.scoring import Measured
from tests.fakes import FakeObjectStore
from tests.unit.evaluation import support as s
from tests.unit.evaluation.statistics_checks import BETTER, NUM_ITEMS, TRUTH, WORSE


def probabilities(answer_n) -> np.ndarray:
    sure_n = 0.8 + np.arange(len(answer_n)) % 10 / 100
    return np.where(answer_n[:, None] == np.arange(2), sure_n[:, None], 1 - sure_n[:, None]).astype(np.float32)


def raw_answers(contender_nc, champion_nc, *, epoch=2) -> ev.ExamAnswers:
    ids = tuple(f"{index:064d}" for index in range(NUM_ITEMS))
    labels = tuple(s.CLASSES[label] for label in TRUTH)
    groups = tuple(range(NUM_ITEMS))
    return ev.ExamAnswers(f"exam{epoch}", epoch, ids, labels, contender_nc, champion_nc, groups=groups)


def built(evidence: ModuleType, contender_nc, champion_nc, *, metric="accuracy"):
    answers, learned = raw_answers(contender_nc, champion_nc), evidence.ClassLists(s.CLASSES, s.CLASSES, s.CLASSES)
    return evidence.build_exam_evidence(answers, learned, policy=s.policy(metric=metric), alpha=0.03)


def evidence_knows_who_is_better(evidence):
    exam = built(evidence, probabilities(BETTER), probabilities(WORSE))
    assert (exam.gain.num_wins, exam.gain.num_losses) == (60, 0)


def metrics_know_who_is_better(metrics):
    truth = metrics.Truth(s.CLASSES, TRUTH, np.arange(NUM_ITEMS))
    gains = [metric.compare(truth, BETTER, WORSE, 0.03) for metric in metrics.METRICS.values()]
    assert [(gain.num_wins, gain.num_losses) for gain in gains] == [(60, 0)] * len(gains)
    assert [gain.difference for gain in gains] == pytest.approx([0.2] * len(gains), abs=1e-3)


def evidence_gives_each_its_own_scores(evidence):
    exam = built(evidence, probabilities(BETTER), probabilities(WORSE))
    estimates = exam.contender.accuracy.estimate, exam.champion.accuracy.estimate
    assert estimates == pytest.approx((280 / 300, 220 / 300))


def evidence_counts_nan_as_no_answer(evidence):
    answers = evidence.answered_classes(
        np.array([[np.nan, np.nan], [0.1, 0.9]]), classes=s.CLASSES, position={"shirt": 0, "shoe": 1}
    )
    assert answers.tolist() == [evidence.NO_ANSWER, 1]


def scores_are_none_of_nan(scores):
    broken_nc = probabilities(BETTER)
    broken_nc[7] = np.nan
    with np.errstate(invalid="ignore"):  # the mutant computes with it
        broken = scores.score(broken_nc, BETTER, Truth(s.CLASSES, TRUTH, np.arange(NUM_ITEMS)), metric="accuracy")
    assert math.isnan(broken.calibration_error)
    assert broken.classes == ()


def evidence_spends_its_level(evidence):
    levels = [evidence.alpha_for_use(s.policy(), use) for use in range(1, 51)]
    assert sum(levels) <= 0.05
    assert levels == sorted(levels, reverse=True)


def question(**changes) -> vd.VerdictInputs:
    party = vd.Party("new", "d1", "s1", s.CLASSES, 1000)
    champion = dataclasses.replace(party, version="old")
    return dataclasses.replace(
        vd.VerdictInputs(
            "fashion", s.policy(), s.CLASSES, party, champion, (), exam_use=3, leaks=(), champion_leaks=()
        ),
        **changes,
    )


def evidence_of(verdict: ModuleType, **changes) -> ev.Evidence:
    current = raw_answers(probabilities(BETTER), probabilities(WORSE))
    previous = raw_answers(probabilities(WORSE), probabilities(BETTER), epoch=1)
    measured = {"contender": Measured(1.0, 2.0), "champion": Measured(3.0, 4.0)}
    return verdict.build_evidence(question(**changes), [current, previous], measured=measured)


def verdict_passes_the_leak_on(verdict):
    mine, other = Leak("a", "b", "near", 0.99), Leak("c", "c", "exact", 1.0)
    evidence = evidence_of(verdict, leaks=(mine,), champion_leaks=(other,))
    assert (evidence.leaks, evidence.champion_leaks) == ((mine,), (other,))


def verdict_judges_the_epochs_together(verdict):
    evidence = evidence_of(verdict)
    assert (evidence.current.epoch, evidence.current.num_items) == (2, 2 * NUM_ITEMS)
    assert (evidence.current.gain.num_wins, evidence.current.gain.num_losses) == (60, 60)


def verdict_looks_at_each_epoch(verdict):
    epochs = evidence_of(verdict).epochs
    assert [(epoch.epoch, epoch.gain.num_wins, epoch.gain.num_losses) for epoch in epochs] == [(2, 60, 0), (1, 0, 60)]


def verdict_counts_the_use(verdict):
    assert evidence_of(verdict).current.gain.alpha == ev.alpha_for_use(s.policy(), 3)


def verdict_spends_the_epochs_level(verdict):
    assert evidence_of(verdict, epoch_level=0.01).current.gain.alpha == pytest.approx(0.01 * 6 / (math.pi * 3) ** 2)


def verdict_gives_each_its_own_latency(verdict):
    evidence = evidence_of(verdict)
    assert (evidence.contender.latency_p99_ms, evidence.champion.latency_p99_ms) == (2.0, 4.0)


def scored(task: ModuleType, *, leaks=()):
    store, labels = FakeObjectStore(), ["shirt", "shoe"] * 3
    exam = s.put_exam(store, epoch=1, labels=labels)
    refs = [s.put_model(store, version) for version in ("new", "old")]
    tables = {"new": s.answers(1, labels), "old": s.answers(1, labels, wrong=(0, 1, 2))}
    world = s.World(store, {version: s.TableModel(table) for version, table in tables.items()}, [exam])
    context = world.context(
        None, find_leaks=lambda snapshot_id, exams: dict(leaks).get((snapshot_id, exams[0].epoch), ())
    )
    return task._score([exam], *refs, project=s.project(), context=context)


def task_finds_the_leak(task):
    mine, other = Leak("a", "b", "near", 0.99), Leak("c", "c", "exact", 1.0)
    evidence = scored(task, leaks={("snapshot-new", 1): [mine], ("snapshot-old", 1): [other]})
    assert (evidence.leaks, evidence.champion_leaks) == ((mine,), (other,))


def task_gives_each_its_own_answers(task):
    answers = scored(task).answers[0]
    truth_n = np.array([s.CLASSES.index(label) for label in answers.labels])
    right = [
        int((answer_nc.argmax(axis=1) == truth_n).sum()) for answer_nc in (answers.contender_nc, answers.champion_nc)
    ]
    assert right == [6, 3]


def scoring_checks_the_bytes(scoring):
    item = SimpleNamespace(item_id="0" * 64, content_id="0" * 64, location=Location("items/a", 0, 1))
    with pytest.raises(DataCorrupt, match="bytes that hash to"):
        scoring.read_checked([item], read=lambda _: [b"x"])
