"""What the gate promises, as functions of its modules: the original passes each, a mutant fails the one it breaks."""

import dataclasses
import math
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from pipeline_tasks.contracts import Leak, Location
from pipeline_tasks.errors import DataCorrupt
from pipeline_tasks.evaluation import evidence as ev
from pipeline_tasks.evaluation import metrics as m
from pipeline_tasks.evaluation import verdict as vd
from pipeline_tasks.evaluation.scoring import Measured
from pipeline_tasks.evaluation.slices import score_slices
from pipeline_tasks.project import Slice
from tests.fakes import FakeObjectStore
from tests.unit.evaluation import support as s

NUM_ITEMS = 300
TRUTH = np.arange(NUM_ITEMS) % 2
BETTER = np.where(np.arange(NUM_ITEMS) < 20, 1 - TRUTH, TRUTH)
WORSE = np.where(np.arange(NUM_ITEMS) < 80, 1 - TRUTH, TRUTH)


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
    blind = s.evidence(current=s.exam(contender=s.scores(recalls=(0.99, 0.599))))
    assert decided(rule, blind, limits={"recall_per_class": 0.6}) == ("keep", "RECALL_FLOOR")
    assert decided(rule, limits={"recall_per_class": 0.6})[0] == "promote"


def rule_keeps_what_forgets(rule):
    forgets = s.exam(1, gained=s.gain(-0.05, low=-0.07, alpha=0.05))
    assert decided(rule, s.evidence(previous=forgets)) == ("keep", "PREVIOUS_WORSE")


def rule_leaves_a_doubtful_past_open(rule):
    unsure = s.exam(1, gained=s.gain(-0.01, low=-0.04, alpha=0.05))
    assert decided(rule, s.evidence(previous=unsure)) == ("inconclusive", "PREVIOUS_UNCERTAIN")


def rule_refuses_a_leak(rule):
    leaks = [Leak("a" * 64, "a" * 64, "exact", 1.0), Leak("a" * 64, "b" * 64, "near", 0.99)]
    for leak in leaks:
        assert decided(rule, s.evidence(leaks=(leak,))) == ("keep", "EXAM_LEAK")


def rule_tells_of_a_leak_to_the_champion(rule):
    decision = rule.decide(s.policy(), s.evidence(champion_leaks=(Leak("a" * 64, "b" * 64, "near", 0.99),)))
    assert (decision.answer, decision.code) == ("promote", "GAIN_SHOWN")
    assert [one.stand for one in decision.reasons if one.code == "CHAMPION_EXAM_LEAK"] == ["note"]


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
    assert decided(rule, s.evidence(previous=s.exam(1, gained=s.gain(math.nan, low=0.0)))) == ("keep", "METRIC_INVALID")


def rule_refuses_nan_latency(rule):
    assert decided(rule, s.evidence(contender=s.facts(latency_p99_ms=math.nan))) == ("keep", "METRIC_INVALID")


def rule_needs_an_exam_of_size(rule):
    assert decided(rule, s.evidence(current=s.exam(num_items=99))) == ("inconclusive", "EXAM_TOO_SMALL")


def rule_needs_known_classes(rule):
    assert decided(rule, s.evidence(contender=s.facts(classes=("shirt",)))) == ("keep", "CONTENDER_CLASSES")


def rule_needs_a_champion_that_knows_the_exam(rule):
    evidence = s.evidence(champion=s.facts(version="old", classes=("shirt",)))
    assert decided(rule, evidence) == ("keep", "CHAMPION_CLASSES")


def rule_holds_the_first_models_floor(rule):
    assert decided(rule, s.first_evidence(contender=s.scores(accuracy=0.79)), floors={"accuracy": 0.8}) == (
        "keep",
        "ACCURACY_FLOOR",
    )


LIGHT = Slice.model_validate({"name": "light", "by": "source", "floors": {"accuracy": 0.8}, "max_loss": 0.03})


def sliced(*, contender_wrong: int, champion_wrong: int) -> ev.ExamEvidence:
    """Return an exam with 200 items in the dark; who is wrong more often is wrong wherever the other one is."""
    contender_n, champion_n = (np.arange(200) >= wrong for wrong in (contender_wrong, champion_wrong))
    right = {"contender_right_n": contender_n, "champion_right_n": champion_n}
    return s.exam(slices=score_slices([LIGHT], {"light": ["dark"] * 200}, **right, alpha=0.05))


def said_on_slices(slice_rule: ModuleType, **wrong: int) -> list[tuple[str, str]]:
    return [(one.stand, one.code) for one in slice_rule.check_slices(s.policy(slices=[LIGHT]), sliced(**wrong))]


def slices_hold(slice_rule):
    assert said_on_slices(slice_rule, contender_wrong=10, champion_wrong=10) == [("note", "SLICES")]


def slices_hold_their_floor(slice_rule):
    assert said_on_slices(slice_rule, contender_wrong=50, champion_wrong=50) == [("against", "SLICE_FLOOR")]


def slices_hold_their_margin(slice_rule):
    assert said_on_slices(slice_rule, contender_wrong=30, champion_wrong=10) == [("against", "SLICE_WORSE")]


def slices_leave_a_doubtful_loss_open(slice_rule):
    assert said_on_slices(slice_rule, contender_wrong=14, champion_wrong=10) == [("open", "SLICE_UNCERTAIN")]


def rule_holds_slices(rule):
    evidence = s.evidence(current=sliced(contender_wrong=50, champion_wrong=50))
    assert decided(rule, evidence, slices=[LIGHT]) == ("keep", "SLICE_FLOOR")


def statistics_know_who_is_better(statistics):
    right, wrong = BETTER == TRUTH, WORSE == TRUTH
    won, lost = (statistics.compare_accuracy(*pair, alpha=0.03) for pair in ((right, wrong), (wrong, right)))
    assert (won.difference, won.num_wins, won.num_losses) == (0.2, 60, 0)
    assert won.p_value < 1e-9
    assert lost.p_value == 1.0
    assert 0 < won.low < won.difference
    assert lost.low < lost.difference < 0


def statistics_know_who_is_better_by_f1(statistics):
    won, lost = (
        statistics.compare_macro_f1(TRUTH, *pair, num_classes=2, alpha=0.03, seed=1, num_resamples=500)
        for pair in ((BETTER, WORSE), (WORSE, BETTER))
    )
    assert won.difference == pytest.approx(0.2, abs=1e-3)
    assert won.p_value < 1e-3
    assert lost.p_value > 0.999
    assert 0 < won.low < won.difference
    assert lost.low < lost.difference < 0


def statistics_count_a_tie_as_no_gain(statistics):
    tied = np.ones(NUM_ITEMS, dtype=bool)
    assert statistics.compare_accuracy(tied, tied, alpha=0.03).p_value == 1.0
    same = statistics.compare_macro_f1(TRUTH, WORSE, WORSE, num_classes=2, alpha=0.03, seed=1, num_resamples=50)
    assert same.p_value == 1.0


def probabilities(answer_n) -> np.ndarray:
    sure_n = 0.8 + np.arange(len(answer_n)) % 10 / 100
    return np.where(answer_n[:, None] == np.arange(2), sure_n[:, None], 1 - sure_n[:, None]).astype(np.float32)


def raw_answers(contender_nc, champion_nc, *, epoch=2) -> ev.ExamAnswers:
    ids = tuple(f"{index:064d}" for index in range(NUM_ITEMS))
    labels = tuple(s.CLASSES[label] for label in TRUTH)
    return ev.ExamAnswers(f"exam{epoch}", epoch, "digest", ids, labels, contender_nc, champion_nc)


def built(evidence: ModuleType, contender_nc, champion_nc, *, metric="accuracy"):
    return evidence.build_exam_evidence(
        raw_answers(contender_nc, champion_nc),
        policy=s.policy(metric=metric),
        alpha=0.03,
        project_classes=s.CLASSES,
        contender_classes=s.CLASSES,
        champion_classes=s.CLASSES,
    )


def evidence_knows_who_is_better(evidence):
    exam = built(evidence, probabilities(BETTER), probabilities(WORSE))
    assert (exam.gain.num_wins, exam.gain.num_losses) == (60, 0)


def evidence_knows_who_is_better_by_f1(evidence):
    exam = built(evidence, probabilities(BETTER), probabilities(WORSE), metric="macro_f1")
    assert exam.gain.difference == pytest.approx(0.2, abs=1e-3)


def evidence_gives_each_its_own_scores(evidence):
    exam = built(evidence, probabilities(BETTER), probabilities(WORSE))
    found = exam.contender.accuracy.estimate, exam.champion.accuracy.estimate
    assert found == pytest.approx((280 / 300, 220 / 300))


def evidence_counts_nan_as_no_answer(evidence):
    answers = evidence.answered_classes(
        np.array([[np.nan, np.nan], [0.1, 0.9]]), classes=s.CLASSES, position={"shirt": 0, "shoe": 1}
    )
    assert answers.tolist() == [evidence.NO_ANSWER, 1]


def evidence_scores_no_nan(evidence):
    broken_nc = probabilities(BETTER)
    broken_nc[7] = np.nan
    with np.errstate(invalid="ignore"):  # the mutant computes with it
        exam = built(evidence, broken_nc, probabilities(WORSE))
    assert exam.gain is None
    assert math.isnan(exam.contender.calibration_error)


def evidence_spends_its_level(evidence):
    levels = [evidence.alpha_for_use(s.policy(), use) for use in range(1, 51)]
    assert sum(levels) <= 0.05
    assert levels == sorted(levels, reverse=True)


def question(**changes) -> vd.Question:
    party = vd.Party("new", "d1", "s1", s.CLASSES, 1000)
    champion = dataclasses.replace(party, version="old")
    return dataclasses.replace(
        vd.Question("fashion", s.policy(), s.CLASSES, party, champion, (), exam_use=3, leaks=(), champion_leaks=()),
        **changes,
    )


def evidence_of(verdict: ModuleType, **changes) -> ev.Evidence:
    current = raw_answers(probabilities(BETTER), probabilities(WORSE))
    previous = raw_answers(probabilities(WORSE), probabilities(BETTER), epoch=1)
    measured = {"contender": Measured(1.0, 2.0), "champion": Measured(3.0, 4.0)}
    return verdict.build_evidence(question(**changes), [current, previous], measured=measured)


def verdict_passes_the_leak_on(verdict):
    mine, other = Leak("a", "b", "near", 0.99), Leak("c", "c", "exact", 1.0)
    found = evidence_of(verdict, leaks=(mine,), champion_leaks=(other,))
    assert (found.leaks, found.champion_leaks) == ((mine,), (other,))


def verdict_judges_the_current_exam(verdict):
    found = evidence_of(verdict)
    assert (found.current.epoch, found.current.gain.num_wins) == (2, 60)


def verdict_looks_at_the_previous_exam(verdict):
    previous = evidence_of(verdict).previous
    assert previous is not None
    assert previous.gain.num_losses == 60


def verdict_counts_the_use(verdict):
    assert evidence_of(verdict).current.gain.alpha == ev.alpha_for_use(s.policy(), 3)


def verdict_gives_each_its_own_latency(verdict):
    found = evidence_of(verdict)
    assert (found.contender.latency_p99_ms, found.champion.latency_p99_ms) == (2.0, 4.0)


def scored(task: ModuleType, *, leaks=()):
    store, labels = FakeObjectStore(), ["shirt", "shoe"] * 3
    exam = s.put_exam(store, epoch=1, labels=labels)
    refs = [s.put_model(store, version) for version in ("new", "old")]
    tables = {"new": s.answers(1, labels), "old": s.answers(1, labels, wrong=(0, 1, 2))}
    return task._score(
        [exam],
        *refs,
        slices=(),
        find_items=lambda _: [],
        retired={},
        load=lambda ref: s.TableModel(tables[ref.version]),
        read=lambda locations: [store.get_range(location) for location in locations],
        find_leaks=lambda snapshot_id, exams: dict(leaks).get((snapshot_id, exams[0].epoch), ()),
        store=store,
        timer=iter(range(10**6)).__next__,
    )


def task_finds_the_leak(task):
    mine, other = Leak("a", "b", "near", 0.99), Leak("c", "c", "exact", 1.0)
    found = scored(task, leaks={("snapshot-new", 1): [mine], ("snapshot-old", 1): [other]})
    assert (found.leaks, found.champion_leaks) == ((mine,), (other,))


def task_gives_each_its_own_answers(task):
    found = scored(task).answers[0]
    truth_n = np.array([s.CLASSES.index(label) for label in found.labels])
    right = [int((answer_nc.argmax(axis=1) == truth_n).sum()) for answer_nc in (found.contender_nc, found.champion_nc)]
    assert right == [6, 3]


def scoring_checks_the_bytes(scoring):
    item = SimpleNamespace(item_id="0" * 64, content_id="0" * 64, location=Location("items/a", 0, 1))
    with pytest.raises(DataCorrupt, match="bytes that hash to"):
        scoring.read_checked([item], read=lambda _: [b"x"])
