"""What could be broken in the gate: the fragment, what takes its place, and the promise that no longer holds."""

import dataclasses
from collections.abc import Callable
from types import ModuleType

from tests.unit.evaluation import approval_checks
from tests.unit.evaluation import gate_checks as check


@dataclasses.dataclass(frozen=True)
class Mutation:
    """What is broken, where, and the check that has to notice."""

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

GAIN_MUTATIONS = [
    ("p-value inverted", "gain.p_value <= gain.alpha", "gain.p_value >= gain.alpha"),
    ("p-value dropped", " and gain.p_value <= gain.alpha", ""),
    ("gain inverted", "real = gain.difference > 0 and", "real = gain.difference < 0 and"),
    ("direction ignored", "real = gain.difference > 0 and", "real ="),
    ("minimum gain inverted", "gain.low >= min_gain", "gain.low <= min_gain"),
    ("other bound", "gain.low >= min_gain", "gain.high >= min_gain"),
]

GROUPS_MUTATIONS = [
    (
        "items counted one by one",
        "p_value=sign_flip_p_value(",
        "p_value=single.p_value or (",
        check.groups_count_as_one,
    ),
    (
        "total of the other sign",
        "kept = (int(sums_g.sum()) + int(sizes_g.sum())) // 2",
        "kept = (int(sizes_g.sum()) - int(sums_g.sum())) // 2",
        check.groups_count_as_one,
    ),
    ("one pattern too few", "chances[kept:].sum()", "chances[kept + 1 :].sum()", check.groups_count_as_one),
    ("no design effect", "return max(1.0, clustered / independent)", "return 1.0", check.groups_widen_the_bounds),
    (
        "large group bounded",
        "are_single(group_n) or largest_share(group_n) <= MAX_GROUP_SHARE\n    low",
        "True\n    low",
        check.groups_leave_bounds_on_one_group_open,
    ),
    (
        "noise believed",
        "whole + between / (between + variance_k) * (estimate_k - whole)",
        "estimate_k",
        check.groups_draw_noise_to_the_whole,
    ),
    ("parts ignored", "max(0.0, excess / scale) if scale > 0 else 0.0", "0.0", check.groups_draw_noise_to_the_whole),
    (
        "items drawn for F1",
        "gain_r = contender_r - champion_r",
        "gain_r = champion_r - champion_r + single.difference",
        check.groups_draw_whole_groups_for_f1,
    ),
]

BUDGET_MUTATIONS = [
    ("budget not spent", "balance, before = balance - level, at", "before = at", check.budget_is_spent_once),
    (
        "saved up for ever",
        "min(a_year, balance + a_year * passed)",
        "balance + a_year * passed",
        check.budget_is_spent_once,
    ),
    ("never refilled", "balance + a_year * passed)", "balance)", check.budget_is_spent_once),
    (
        "confidence ignored",
        "min(1 - confidence, SHARE_AN_EPOCH * balance)",
        "SHARE_AN_EPOCH * balance",
        check.budget_is_spent_once,
    ),
]

POWER_MUTATIONS = [
    (
        "one win too few",
        "stats.binom.isf(alpha, num_discordant, 0.5) + 1",
        "stats.binom.isf(alpha, num_discordant, 0.5)",
        check.power_is_that_of_the_exact_test,
    ),
    (
        "normal approximation",
        "(share + gain) / (2 * share)",
        "(share + gain / 2) / (2 * share)",
        check.power_is_that_of_the_exact_test,
    ),
    (
        "prior ignored",
        "variance = 1 / (1 / seen + 1 / prior**2)",
        "variance = seen",
        check.power_knows_that_luck_is_likelier_than_large_gains,
    ),
    (
        "items not counted",
        "more = round(more_items / effect * share)",
        "more = 10",
        check.power_knows_that_luck_is_likelier_than_large_gains,
    ),
]

STATISTICS_MUTATIONS = [
    (
        "wins and losses swapped",
        "binom.sf(num_wins - 1,",
        "binom.sf(num_losses - 1,",
        check.statistics_know_who_is_better,
    ),
    ("other tail", "stats.binom.sf(num_wins", "stats.binom.cdf(num_wins", check.statistics_know_who_is_better),
    (
        "no difference is a gain",
        "return 1.0\n    return float(stats.binom",
        "return 0.0\n    return float(stats.binom",
        check.statistics_count_a_tie_as_no_gain,
    ),
    (
        "difference swapped",
        "    num_losses = int((champion_right_n & ~contender_right_n).sum())\n    difference = (num_wins - num_losses)",
        "    num_losses = int((champion_right_n & ~contender_right_n).sum())\n    difference = (num_losses - num_wins)",
        check.statistics_know_who_is_better,
    ),
    (
        "wins counted for the champion",
        "num_wins = int((contender_right_n & ~champion_right_n)",
        "num_wins = int((champion_right_n & ~contender_right_n)",
        check.statistics_know_who_is_better,
    ),
    (
        "resamples swapped",
        "gain_r = contender_r - champion_r",
        "gain_r = champion_r - contender_r",
        check.statistics_know_who_is_better_by_f1,
    ),
    (
        "F1 swapped",
        "difference = float(f1_contender - f1_champion)",
        "difference = float(f1_champion - f1_contender)",
        check.statistics_know_who_is_better_by_f1,
    ),
    ("bootstrap inverted", "(gain_r <= 0)", "(gain_r >= 0)", check.statistics_know_who_is_better_by_f1),
    (
        "equal F1 is a gain",
        "return 0.0 if difference > 0 else 1.0",
        "return 0.0",
        check.statistics_count_a_tie_as_no_gain,
    ),
]

EVIDENCE_MUTATIONS = [
    (
        "right answers swapped",
        "right = (contender_n == truth_n, champion_n == truth_n)",
        "right = (champion_n == truth_n, contender_n == truth_n)",
        check.evidence_knows_who_is_better,
    ),
    (
        "models swapped",
        "truth_n, contender_n, champion_n = coded.truth_n[chosen], coded.contender_n[chosen], champion_n[chosen]",
        "truth_n, champion_n, contender_n = coded.truth_n[chosen], coded.contender_n[chosen], champion_n[chosen]",
        check.evidence_knows_who_is_better,
    ),
    (
        "models swapped for F1",
        "answers = (truth_n, contender_n, champion_n)",
        "answers = (truth_n, champion_n, contender_n)",
        check.evidence_knows_who_is_better_by_f1,
    ),
    (
        "one scored for the other",
        "score(answers.contender_nc, contender_n,",
        "score(answers.champion_nc, champion_n,",
        check.evidence_gives_each_its_own_scores,
    ),
    (
        "NaN is the first class",
        "np.where(finite_n, index_c[filled_nc.argmax(axis=1)], NO_ANSWER)",
        "index_c[filled_nc.argmax(axis=1)]",
        check.evidence_counts_nan_as_no_answer,
    ),
    ("uses are free", "(math.pi * exam_use) ** 2", "math.pi ** 2", check.evidence_spends_its_level),
    (
        "later uses are cheaper",
        "6 / (math.pi * exam_use) ** 2",
        "6 * exam_use ** 2 / math.pi ** 2",
        check.evidence_spends_its_level,
    ),
]

OTHER_MUTATIONS = [
    ("scores", "NaN rows are scored", "health.num_non_finite == 0 and ", "", check.scores_are_none_of_nan),
    (
        "gate_rule_slices",
        "floor dropped",
        "if shrunk >= floor and high >= floor:",
        "if True:",
        check.slices_hold_their_floor,
    ),
    (
        "gate_rule_slices",
        "floor inverted",
        "if shrunk >= floor and high",
        "if shrunk < floor and high",
        check.slices_hold,
    ),
    ("gate_rule_slices", "likely miss against", "if high < floor:", "if True:", check.slices_leave_a_likely_miss_open),
    (
        "gate_rule_slices",
        "likely miss ignored",
        "if shrunk >= floor and high",
        "if high",
        check.slices_leave_a_likely_miss_open,
    ),
    ("gate_rule_slices", "margin ignored", "if gain.low >= -margin:", "if True:", check.slices_hold_their_margin),
    (
        "gate_rule_slices",
        "margin on the estimate",
        "gain.low >= -margin",
        "gain.difference >= -margin",
        check.slices_note_a_loss_that_is_not_ruled_out,
    ),
    (
        "gate_rule_slices",
        "loss inverted",
        "gain.high < -margin",
        "gain.high > -margin",
        check.slices_hold_their_margin,
    ),
    (
        "gate_rule_slices",
        "likely loss ignored",
        "if shrunk < -margin:",
        "if False:",
        check.slices_leave_a_likely_loss_open,
    ),
    (
        "verdict",
        "leak not passed on",
        "leaks=question.leaks,",
        "leaks=(),",
        check.verdict_passes_the_leak_on,
    ),
    (
        "verdict",
        "newest epoch alone judged",
        "[ev.pool(answers)] if with_window else answers",
        "answers[:1]",
        check.verdict_judges_the_epochs_together,
    ),
    (
        "verdict",
        "one epoch not shown",
        "judged = answers if with_window",
        "judged = answers[:1] if with_window",
        check.verdict_looks_at_each_epoch,
    ),
    (
        "verdict",
        "use not counted",
        "ev.alpha_for_use(policy, question.exam_use,",
        "ev.alpha_for_use(policy, 1,",
        check.verdict_counts_the_use,
    ),
    (
        "verdict",
        "level of the epoch dropped",
        "epoch_level=question.epoch_level)\n",
        "epoch_level=None)\n",
        check.verdict_spends_the_epochs_level,
    ),
    (
        "verdict",
        "champion's latency",
        '_facts(question.contender, measured["contender"])',
        '_facts(question.contender, measured["champion"])',
        check.verdict_gives_each_its_own_latency,
    ),
    (
        "task",
        "leak ignored",
        "leaks=_leaks_of(contender, refs, find_leaks=find_leaks, left_out=left_out)",
        "leaks=()",
        check.task_finds_the_leak,
    ),
    (
        "task",
        "wrong snapshot searched",
        "for leak in find_leaks(ref.snapshot_id, refs)",
        'for leak in find_leaks("", refs)',
        check.task_finds_the_leak,
    ),
    (
        "task",
        "leaks of the two swapped",
        "        leaks=_leaks_of(contender, refs,",
        "        leaks=_leaks_of(champion, refs,",
        check.task_finds_the_leak,
    ),
    (
        "task",
        "answers swapped",
        'contender_nc=kept_answers["contender"]',
        'contender_nc=kept_answers["champion"]',
        check.task_gives_each_its_own_answers,
    ),
    (
        "scoring",
        "bytes unchecked",
        "if sha256_hex(data) != item.content_id:",
        "if False:",
        check.scoring_checks_the_bytes,
    ),
    (
        "approval",
        "rejection is a yes",
        'if answer.decision != "approve":',
        "if False:",
        approval_checks.approval_stops_a_no,
    ),
    (
        "approval",
        "yes and no swapped",
        'answer is None or answer.decision != "approve":',
        'answer is None or answer.decision == "approve":',
        approval_checks.approval_lets_a_yes_pass,
    ),
    (
        "approval",
        "silence is a yes",
        "if answer is None:\n",
        "if answer is None:\n        return\n    if False:\n",
        approval_checks.approval_stops_silence,
    ),
    (
        "approval",
        "expiry is a yes",
        'if answer.decision == "expired":\n',
        'if answer.decision == "expired":\n        return\n    if False:\n',
        approval_checks.approval_stops_what_expired,
    ),
    (
        "approval",
        "nobody is asked",
        "if approval_needed(project.config.approval, record.ref):",
        "if False:",
        approval_checks.approval_stops_a_no,
    ),
    ("approval", "always is never", 'approval.when == "always" or ', "", approval_checks.approval_stops_a_no),
    (
        "approval",
        "any answer ships",
        'if document["decision"]["answer"] != "promote":',
        "if False:",
        approval_checks.approval_stops_another_answer,
    ),
    (
        "approval",
        "stale baseline ships",
        "if head_version not in {record.ref.champion_version, record.ref.contender_version}:",
        "if False:",
        approval_checks.approval_stops_a_stale_baseline,
    ),
    (
        "approval",
        "row and document differ",
        "faults = list(contradictions(record, document))",
        "faults = []",
        approval_checks.approval_stops_a_row_that_contradicts_its_document,
    ),
    (
        "approval",
        "past the ledger",
        "if entry is None or entry.evidence_digest != record.digest:",
        "if False:",
        approval_checks.approval_stops_what_the_ledger_does_not_know,
    ),
    (
        "approval",
        "two eyes are enough",
        "policy.four_eyes and _same_person(answer.by",
        "False and _same_person(answer.by",
        approval_checks.approval_needs_four_eyes,
    ),
]

MUTATIONS = [
    *[Mutation(name, "gate_rule", *rest) for name, *rest in RULE_MUTATIONS],
    *[
        Mutation(name, "gate_rule_checks", original, mutated, check.with_checks(behaviour))
        for name, original, mutated, behaviour in CHECKS_MUTATIONS
    ],
    *[Mutation(name, "statistics", *rest, check.statistics_show_a_gain) for name, *rest in GAIN_MUTATIONS],
    *[Mutation(name, "groups", *rest) for name, *rest in GROUPS_MUTATIONS],
    *[Mutation(name, "error_budget", *rest) for name, *rest in BUDGET_MUTATIONS],
    *[Mutation(name, "power", *rest) for name, *rest in POWER_MUTATIONS],
    *[Mutation(name, "statistics", *rest) for name, *rest in STATISTICS_MUTATIONS],
    *[Mutation(name, "evidence", *rest) for name, *rest in EVIDENCE_MUTATIONS],
    *[Mutation(name, module, *rest) for module, name, *rest in OTHER_MUTATIONS],
]
