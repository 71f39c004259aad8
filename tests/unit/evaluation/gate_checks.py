"""What the gate promises, as functions of its modules: the original passes each, a mutant fails the one it breaks."""

import dataclasses
import datetime as dt
import importlib
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from pipeline_tasks.catalog.exam_window import ExamLabels
from pipeline_tasks.contracts import Leak, Location
from pipeline_tasks.errors import DataCorrupt
from pipeline_tasks.evaluation import evidence as ev
from pipeline_tasks.evaluation import metrics as m
from pipeline_tasks.evaluation import verdict as vd
from pipeline_tasks.evaluation.scoring import Measured
from pipeline_tasks.evaluation.slices import score_slices
from pipeline_tasks.guards.personal import DenyList
from pipeline_tasks.project.gate_schema import Slice
from tests.fakes import FakeObjectStore
from tests.unit.evaluation import support as s

GATE = "pipeline_tasks.evaluation"
NUM_ITEMS = 300
TRUTH = np.arange(NUM_ITEMS) % 2
BETTER = np.where(np.arange(NUM_ITEMS) < 20, 1 - TRUTH, TRUTH)
WORSE = np.where(np.arange(NUM_ITEMS) < 80, 1 - TRUTH, TRUTH)


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
    both = s.evidence(contender=s.facts(**slow), champion=s.facts(version="old", **slow))
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
    evidence = s.evidence(champion=s.facts(version="old", classes=("shirt",)))
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
    groups = tuple(range(NUM_ITEMS))
    return ev.ExamAnswers(f"exam{epoch}", epoch, "digest", ids, labels, contender_nc, champion_nc, groups=groups)


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
        broken = scores.score(broken_nc, BETTER, TRUTH, classes=s.CLASSES, group_n=np.arange(NUM_ITEMS))
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


def rule_tells_what_is_open_and_decides_as_without(rule):
    told = rule.decide(s.policy(), s.evidence(labels=ExamLabels(num_asked=900, num_imported=900)))
    assert {"ITEMS_OPEN", "LABELS_IMPORTED"} <= {reason.code for reason in told.reasons}
    assert told.answer == rule.decide(s.policy(), s.evidence()).answer


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
    return task._score(
        [exam],
        *refs,
        policy=s.policy(),
        deny=DenyList(),
        find_items=lambda _: [],
        find_groups=lambda _: {},
        find_labels=lambda _: ExamLabels(),
        retired={},
        former={},
        load=lambda ref: s.TableModel(tables[ref.version]),
        read=lambda locations: [store.get_range(location) for location in locations],
        find_leaks=lambda snapshot_id, exams: dict(leaks).get((snapshot_id, exams[0].epoch), ()),
        store=store,
        timer=iter(range(10**6)).__next__,
    )


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


def statistics_show_a_gain(statistics):
    assert statistics.shows_gain(s.gain(0.05, low=0.03, p=0.0001), min_gain=0)
    assert not statistics.shows_gain(s.gain(0.05, low=0.03, p=0.2), min_gain=0)
    assert not statistics.shows_gain(s.gain(-0.05, p=0.0001), min_gain=0)
    assert not statistics.shows_gain(s.gain(0.05, low=0.0199, high=0.08), min_gain=0.02)
    assert statistics.shows_gain(s.gain(0.05, low=0.03), min_gain=0.02)


def compared_in_groups(groups, *, size=10):
    """Return champion and contender that differ by whole groups of items: 12 groups won, 4 lost, of 30."""
    winners = np.repeat(np.arange(30) % 15 < 6, size)
    losers = np.repeat(np.arange(30) % 15 >= 13, size)
    both = np.zeros(30 * size, dtype=bool)
    group_n = np.repeat(np.arange(30), size)
    return groups.compare_accuracy(both | winners, both | losers, group_n, alpha=0.05)


def groups_count_as_one(groups):
    """12 won and 4 lost groups say as much as 12 won and 4 lost items: P(Bin(16, 1/2) >= 12)."""
    gain = compared_in_groups(groups)
    assert gain.p_value == pytest.approx(0.03840637, abs=1e-8)
    assert gain.p_value == pytest.approx(compared_in_groups(groups, size=1).p_value, abs=1e-12)
    assert (gain.num_wins, gain.num_losses, gain.num_groups) == (120, 40, 30)


def groups_widen_the_bounds(groups):
    gain = compared_in_groups(groups)
    assert gain.design_effect == pytest.approx(10 * 30 / 29, rel=0.01)
    assert gain.low < 0.06
    assert gain.difference > 0.25


def groups_leave_bounds_on_one_group_open(groups):
    right = np.arange(100) < 60
    group_n = np.where(np.arange(100) < 30, 0, np.arange(100))
    gain = groups.compare_accuracy(right, ~right, group_n, alpha=0.05)
    assert (gain.low, gain.high) == (-1.0, 1.0)


def groups_draw_noise_to_the_whole(groups):
    drawn = groups.shrunk(np.array([0.5, 0.9, 0.88, 0.92]), np.array([0.05, 0.0001, 0.0001, 0.0001]), whole=0.9)
    assert drawn[0] > 0.88
    assert groups.shrunk(np.array([0.5, 0.9]), np.array([1e-6, 1e-6]), whole=0.7)[0] < 0.51


def groups_draw_whole_groups_for_f1(groups):
    group_n = np.repeat(np.arange(30), 10)
    gain = groups.compare_macro_f1(TRUTH, BETTER, WORSE, group_n, num_classes=2, alpha=0.03, seed=1, num_resamples=500)
    single = groups.compare_macro_f1(
        TRUTH, BETTER, WORSE, np.arange(NUM_ITEMS), num_classes=2, alpha=0.03, seed=1, num_resamples=500
    )
    assert gain.difference == single.difference
    assert gain.low < single.low - 0.05
    assert gain.p_value > single.p_value


def budget_is_spent_once(budget):
    start = s.NOW
    weekly = [start + dt.timedelta(days=7 * week) for week in range(520)]
    levels = budget.epoch_levels(weekly, a_year=0.5, confidence=0.95)
    assert levels[0] == pytest.approx(0.05)
    assert sum(levels[:53]) <= 1.0
    assert sum(levels[260:312]) <= 0.5 * 52 * 7 / 365 + 1e-6
    hurried = budget.epoch_levels(
        [start + dt.timedelta(minutes=minute) for minute in range(1000)], a_year=0.5, confidence=0.95
    )
    assert sum(hurried) <= 0.501
    assert budget.epoch_levels([start], a_year=5, confidence=0.9) == [pytest.approx(0.1)]
    rested = budget.epoch_levels([start, start + dt.timedelta(days=3650)], a_year=0.2, confidence=0.95)
    assert rested == [pytest.approx(0.02), pytest.approx(0.02)]


def power_is_that_of_the_exact_test(power):
    """Figures of the exact test: 100 items, models that differ on 5 %, at the first and the 20th use of 5 %."""
    first, later = (0.05 * 6 / (math.pi * use) ** 2 for use in (1, 20))
    assert power.detectable_gain(num_items=100, disagreement=0.05, alpha=first) == pytest.approx(0.077, abs=0.002)
    assert power.detectable_gain(num_items=100, disagreement=0.10, alpha=later) == pytest.approx(0.166, abs=0.002)
    assert power.power(0.05, num_items=1000, disagreement=0.1, alpha=first) > 0.99
    assert power.power(0.0, num_items=1000, disagreement=0.1, alpha=first) <= first


def power_knows_that_luck_is_likelier_than_large_gains(power):
    seen = dataclasses.replace(s.gain(0.05, num_items=100), num_wins=8, num_losses=3)
    assert power.chance_better(seen) == pytest.approx(0.775, abs=0.001)
    assert power.posterior_gain(seen)[0] == pytest.approx(0.013, abs=0.0001)
    surer = dataclasses.replace(seen, num_items=10_000, num_wins=800, num_losses=300)
    assert power.chance_better(surer) > 0.999
    assert power.chance_with_more(seen, more_items=1000, alpha=0.03) > power.chance_with_more(
        seen, more_items=100, alpha=0.03
    )
