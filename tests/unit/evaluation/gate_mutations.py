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
    ("p-value inverted", "gain.p_value <= gain.alpha", "gain.p_value >= gain.alpha", check.rule_promotes_a_sure_gain),
    ("p-value dropped", " and gain.p_value <= gain.alpha", "", check.rule_leaves_chance_open),
    (
        "difference inverted",
        "real = gain.difference > 0 and",
        "real = gain.difference < 0 and",
        check.rule_promotes_a_sure_gain,
    ),
    ("direction ignored", "real = gain.difference > 0 and", "real =", check.rule_keeps_the_better_champion),
    ("minimum gain inverted", "gain.low >= min_gain", "gain.low <= min_gain", check.rule_asks_for_the_minimum_gain),
    ("other bound", "gain.low >= min_gain", "gain.high >= min_gain", check.rule_asks_for_the_minimum_gain),
    ("level unchecked", "if not math.isclose(gain.alpha, level):", "if False:", check.rule_refuses_another_level),
    ("latency dropped", "limit_ms is not None and latency_ms > limit_ms", "False", check.rule_holds_latency),
    ("latency inverted", "latency_ms > limit_ms", "latency_ms < limit_ms", check.rule_holds_latency),
    ("size dropped", "if size_mb > limits.size_mb:", "if False:", check.rule_holds_size),
    ("size inverted", "size_mb > limits.size_mb", "size_mb < limits.size_mb", check.rule_holds_size),
    (
        "calibration dropped",
        "if scores.calibration_error > limits.max_calibration_error:",
        "if False:",
        check.rule_holds_calibration,
    ),
    (
        "calibration inverted",
        "scores.calibration_error > limits",
        "scores.calibration_error < limits",
        check.rule_holds_calibration,
    ),
    ("recall dropped", "_recall_floor(limits.recall_per_class,", "_recall_floor(0.0,", check.rule_holds_recall),
    ("recall inverted", "score.recall.estimate < floor", "score.recall.estimate > floor", check.rule_holds_recall),
    ("limits dropped", ", *_check_limits(policy, evidence)]", "]", check.rule_holds_latency),
    ("previous exam dropped", ", *_check_previous(policy, evidence)]", "]", check.rule_keeps_what_forgets),
    ("margin ignored", "if gain.low >= -margin:", "if True:", check.rule_keeps_what_forgets),
    (
        "margin on the estimate",
        "gain.low >= -margin",
        "gain.difference >= -margin",
        check.rule_leaves_a_doubtful_past_open,
    ),
    ("forgetting inverted", "gain.difference < -margin", "gain.difference > -margin", check.rule_keeps_what_forgets),
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
    ("validity ignored", "    if invalid:", "    if False:", check.rule_refuses_a_leak),
    ("NaN outputs pass", "if health.num_non_finite:", "if False:", check.rule_refuses_nan_outputs),
    (
        "non-probabilities pass",
        "if health.num_not_probabilities:",
        "if False:",
        check.rule_refuses_wrong_probabilities,
    ),
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
    ("small exam passes", "if exam.num_items < policy.exam.min_items:", "if False:", check.rule_needs_an_exam_of_size),
    (
        "contender's classes ignored",
        "asked - set(evidence.contender.classes)",
        "asked - asked",
        check.rule_needs_known_classes,
    ),
    (
        "champion's classes ignored",
        "asked - set(evidence.champion.classes)",
        "asked - asked",
        check.rule_needs_a_champion_that_knows_the_exam,
    ),
    (
        "first model's floor dropped",
        "if accuracy.estimate < policy.floors.accuracy:",
        "if False:",
        check.rule_holds_the_first_models_floor,
    ),
    ("slices dropped", "    reasons += check_slices(policy, evidence.current)\n", "", check.rule_holds_slices),
    ("an objection promotes", '"against": "keep"', '"against": "promote"', check.rule_holds_latency),
    ("a doubt promotes", '"open": "inconclusive"', '"open": "promote"', check.rule_leaves_chance_open),
    ("a gain outweighs objections", '"against": 0', '"against": 3', check.rule_holds_latency),
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
        "compare_accuracy(contender_n == truth_n, champion_n == truth_n,",
        "compare_accuracy(champion_n == truth_n, contender_n == truth_n,",
        check.evidence_knows_who_is_better,
    ),
    (
        "models swapped",
        "gain = _compare(truth_n, contender_n, champion_n,",
        "gain = _compare(truth_n, champion_n, contender_n,",
        check.evidence_knows_who_is_better,
    ),
    (
        "models swapped for F1",
        "        truth_n, contender_n, champion_n, num_classes=num_classes, alpha=alpha, seed",
        "        truth_n, champion_n, contender_n, num_classes=num_classes, alpha=alpha, seed",
        check.evidence_knows_who_is_better_by_f1,
    ),
    (
        "one scored for the other",
        "_score(answers.contender_nc, contender_n,",
        "_score(answers.champion_nc, champion_n,",
        check.evidence_gives_each_its_own_scores,
    ),
    (
        "NaN is the first class",
        "np.where(finite_n, index_c[filled_nc.argmax(axis=1)], NO_ANSWER)",
        "index_c[filled_nc.argmax(axis=1)]",
        check.evidence_counts_nan_as_no_answer,
    ),
    ("NaN rows are scored", "health.num_non_finite == 0 and ", "", check.evidence_scores_no_nan),
    ("uses are free", "(math.pi * exam_use) ** 2", "math.pi ** 2", check.evidence_spends_its_level),
    (
        "later uses are cheaper",
        "6 / (math.pi * exam_use) ** 2",
        "6 * exam_use ** 2 / math.pi ** 2",
        check.evidence_spends_its_level,
    ),
]

OTHER_MUTATIONS = [
    ("slice_rule", "floor dropped", "if not share >= floor:", "if False:", check.slices_hold_their_floor),
    ("slice_rule", "floor inverted", "if not share >= floor:", "if share >= floor:", check.slices_hold),
    ("slice_rule", "margin ignored", "if gain.low >= -margin:", "if True:", check.slices_hold_their_margin),
    (
        "slice_rule",
        "margin on the estimate",
        "gain.low >= -margin",
        "gain.difference >= -margin",
        check.slices_leave_a_doubtful_loss_open,
    ),
    (
        "slice_rule",
        "loss inverted",
        "gain.difference < -margin",
        "gain.difference > -margin",
        check.slices_hold_their_margin,
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
        "old exam judged as the current one",
        "current=exams[0]",
        "current=exams[-1]",
        check.verdict_judges_the_current_exam,
    ),
    (
        "verdict",
        "previous exam not shown",
        "previous=exams[1] if len(exams) > 1 else None",
        "previous=None",
        check.verdict_looks_at_the_previous_exam,
    ),
    (
        "verdict",
        "use not counted",
        "ev.alpha_for_use(policy, question.exam_use)",
        "ev.alpha_for_use(policy, 1)",
        check.verdict_counts_the_use,
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
        'contender_nc=found["contender"]',
        'contender_nc=found["champion"]',
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
    *[Mutation(name, "rule", *rest) for name, *rest in RULE_MUTATIONS],
    *[Mutation(name, "statistics", *rest) for name, *rest in STATISTICS_MUTATIONS],
    *[Mutation(name, "evidence", *rest) for name, *rest in EVIDENCE_MUTATIONS],
    *[Mutation(name, module, *rest) for module, name, *rest in OTHER_MUTATIONS],
]
