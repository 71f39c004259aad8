"""Mutations of the gate: the fragment, its replacement, and the promise that no longer holds."""

import dataclasses
from collections.abc import Callable
from types import ModuleType

from tests.unit.evaluation import approval_mutations, evidence_mutations, statistics_checks, statistics_mutations
from tests.unit.evaluation import gate_checks as check


@dataclasses.dataclass(frozen=True)
class Mutation:
    """A fragment of a file, its broken replacement, and the check that has to notice."""

    name: str
    module: str
    original: str
    mutated: str
    behaviour: Callable[[ModuleType], None]


RULE_MUTATIONS = [
    ("level unchecked", "if not math.isclose(gain.alpha, level):", "if False:", check.rule_refuses_another_level),
    (
        "level of the epoch ignored",
        "level = alpha_for_use(policy, evidence.exam_use, epoch_level=evidence.epoch_level)",
        "level = alpha_for_use(policy, evidence.exam_use)",
        check.rule_spends_the_epochs_level,
    ),
    ("eager always", "if policy.mode == EAGER_MODE:", "if True:", check.rule_is_eager_only_where_it_is_asked),
    ("eager never", "if policy.mode == EAGER_MODE:", "if False:", check.rule_is_eager_only_where_it_is_asked),
    (
        "open items not told",
        "*note_labels(evidence.labels, evidence.current), ",
        "",
        check.rule_tells_what_is_open_and_decides_as_without,
    ),
    ("latency dropped", "limit_ms is None or latency_ms <= limit_ms", "True", check.rule_holds_latency),
    ("latency inverted", "latency_ms <= limit_ms", "latency_ms >= limit_ms", check.rule_holds_latency),
    ("slow machine blamed", "rival_ms is not None and rival_ms > limit_ms", "False", check.rule_knows_a_slow_machine),
    ("size dropped", "if size_mb > limits.size_mb:", "if False:", check.rule_holds_size),
    ("size inverted", "size_mb > limits.size_mb", "size_mb < limits.size_mb", check.rule_holds_size),
    ("calibration dropped", "if excess <= limit:", "if True:", check.rule_holds_calibration),
    ("calibration inverted", "if excess <= limit:", "if excess >= limit:", check.rule_holds_calibration),
    (
        "chance counts as calibration error",
        "scores.calibration_error - expected",
        "scores.calibration_error",
        check.rule_takes_chance_off_the_calibration_error,
    ),
    (
        "recall dropped",
        "_recall_floor(policy, limits.recall_per_class,",
        "_recall_floor(policy, 0.0,",
        check.rule_holds_recall,
    ),
    ("recall inverted", "if recall.high < floor:", "if recall.high > floor:", check.rule_holds_recall),
    ("recall by the estimate", "if recall.high < floor:", "if recall.estimate < floor:", check.rule_holds_recall),
    ("likely miss ignored", "elif recall.shrunk < floor:", "elif False:", check.rule_holds_recall),
    ("limits dropped", "    reasons += _check_limits(policy, evidence)\n", "", check.rule_holds_latency),
    ("epochs dropped", ", *_check_epochs(policy, evidence)]", "]", check.rule_keeps_what_forgets),
    ("newest epoch ignored", "and newest.gain.difference < 0:", "and False:", check.rule_asks_the_newest_epoch),
    ("shown loss ignored", "if high >= 0:", "if True:", check.rule_keeps_what_forgets),
    ("loss at the level of the gain", "if at_most is None", "if True", check.rule_doubts_a_small_loss),
    ("margin ignored", "if gain.low >= -margin:", "if True:", check.rule_keeps_what_forgets),
    (
        "margin on the estimate",
        "gain.low >= -margin",
        "gain.difference >= -margin",
        check.rule_leaves_a_doubtful_past_open,
    ),
    ("forgetting inverted", "gain.high < -margin", "gain.high > -margin", check.rule_keeps_what_forgets),
    (
        "margin asked of any exam",
        "power.independent_items(gain) >= needed and not rare and not grouped",
        "True",
        check.rule_notes_a_margin_that_cannot_be_shown,
    ),
    ("margin asked with rare classes", " and not rare and", " and", check.rule_notes_a_margin_that_cannot_be_shown),
    (
        "margin asked of no exam",
        "power.independent_items(gain) >= needed and not rare and not grouped",
        "False",
        check.rule_leaves_a_doubtful_past_open,
    ),
    ("validity ignored", "    if invalid:", "    if False:", check.rule_refuses_a_leak),
    ("small exam passes", "if exam.num_items < policy.exam.min_items:", "if False:", check.rule_needs_an_exam_of_size),
    ("few groups pass", "if num_groups < needed:", "if False:", check.rule_needs_groups),
    (
        "first model's floor dropped",
        "and accuracy.estimate < floor:",
        "and False:",
        check.rule_holds_the_first_models_floor,
    ),
    ("slices dropped", "    reasons += check_slices(policy, evidence.current)\n", "", check.rule_holds_slices),
]

CHECKS_MUTATIONS = [
    (
        "champion's classes ignored",
        "asked - set(evidence.champion.classes)",
        "asked - asked",
        check.rule_needs_a_champion_that_knows_the_exam,
    ),
    (
        "contender's classes ignored",
        "asked - set(evidence.contender.classes)",
        "asked - asked",
        check.rule_needs_known_classes,
    ),
    ("leak ignored", "if evidence.leaks:", "if False:", check.rule_refuses_a_leak),
    (
        "champion's leak hidden",
        "if not evidence.champion_leaks:",
        "if True:",
        check.rule_tells_of_a_leak_to_the_champion,
    ),
    (
        "champion's leak blocks",
        '"CHAMPION_EXAM_LEAK", "note"',
        '"CHAMPION_EXAM_LEAK", "against"',
        check.rule_tells_of_a_leak_to_the_champion,
    ),
    ("NaN outputs pass", "if health.num_non_finite:", "if False:", check.rule_refuses_nan_outputs),
    ("non-probabilities pass", "if health.num_not_probabilities:", "if False:", check.rule_refuses_wrong_probabilities),
    ("constant outputs pass", "if health.constant and", "if False and", check.rule_refuses_one_answer_to_all),
    (
        "NaN metrics pass",
        "not all(math.isfinite(figure) for figure in figures)",
        "False",
        check.rule_refuses_nan_metrics,
    ),
    ("NaN gain passes", "or not exam.gain.is_finite)", ")", check.rule_refuses_a_nan_gain),
    (
        "NaN latency passes",
        "if not math.isfinite(value) or value <= 0",
        "if value <= 0",
        check.rule_refuses_nan_latency,
    ),
    ("an objection promotes", '"against": "keep"', '"against": "promote"', check.rule_holds_latency),
    ("a doubt promotes", '"open": "inconclusive"', '"open": "promote"', check.rule_leaves_chance_open),
    ("a gain outweighs objections", '"against": 0', '"against": 3', check.rule_holds_latency),
]

SLICES_MUTATIONS = [
    (
        "floor dropped",
        "if shrunk >= floor and high >= floor:",
        "if True:",
        check.slices_hold_their_floor,
    ),
    (
        "floor inverted",
        "if shrunk >= floor and high",
        "if shrunk < floor and high",
        check.slices_hold,
    ),
    ("likely miss against", "if high < floor:", "if True:", check.slices_leave_a_likely_miss_open),
    (
        "likely miss ignored",
        "if shrunk >= floor and high",
        "if high",
        check.slices_leave_a_likely_miss_open,
    ),
    ("margin ignored", "if gain.low >= -margin:", "if True:", check.slices_hold_their_margin),
    (
        "margin on the estimate",
        "gain.low >= -margin",
        "gain.difference >= -margin",
        check.slices_note_a_loss_that_is_not_ruled_out,
    ),
    (
        "loss inverted",
        "gain.high < -margin",
        "gain.high > -margin",
        check.slices_hold_their_margin,
    ),
    (
        "likely loss ignored",
        "if shrunk < -margin:",
        "if False:",
        check.slices_leave_a_likely_loss_open,
    ),
]

MUTATIONS = [
    *[Mutation(name, "gate_rule", *rest) for name, *rest in RULE_MUTATIONS],
    *[
        Mutation(name, "gate_rule_checks", original, mutated, check.with_checks(behaviour))
        for name, original, mutated, behaviour in CHECKS_MUTATIONS
    ],
    *[Mutation(name, "gate_rule_slices", *rest) for name, *rest in SLICES_MUTATIONS],
    *[
        Mutation(name, "statistics", *rest, statistics_checks.statistics_show_a_gain)
        for name, *rest in statistics_mutations.GAIN_MUTATIONS
    ],
    *[Mutation(name, "groups", *rest) for name, *rest in statistics_mutations.GROUPS_MUTATIONS],
    *[Mutation(name, "error_budget", *rest) for name, *rest in statistics_mutations.BUDGET_MUTATIONS],
    *[Mutation(name, "power", *rest) for name, *rest in statistics_mutations.POWER_MUTATIONS],
    *[Mutation(name, "statistics", *rest) for name, *rest in statistics_mutations.STATISTICS_MUTATIONS],
    *[Mutation(name, "evidence", *rest) for name, *rest in evidence_mutations.EVIDENCE_MUTATIONS],
    *[Mutation(name, module, *rest) for module, name, *rest in evidence_mutations.STAGE_MUTATIONS],
    *[Mutation(name, "approval", *rest) for name, *rest in approval_mutations.APPROVAL_MUTATIONS],
]
