"""Mutations of the evidence, and of the modules around it with the module's name first; see gate_mutations."""

from tests.unit.evaluation import evidence_checks as check

EVIDENCE_MUTATIONS = [
    (
        "models swapped",
        "compare(self.truth, self.contender_n, champion_n, alpha)",
        "compare(self.truth, champion_n, self.contender_n, alpha)",
        check.evidence_knows_who_is_better,
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

STAGE_MUTATIONS = [
    (
        "gate_metrics",
        "right answers swapped",
        "right = (contender_n == truth.truth_n, champion_n == truth.truth_n)",
        "right = (champion_n == truth.truth_n, contender_n == truth.truth_n)",
        check.metrics_know_who_is_better,
    ),
    (
        "gate_metrics",
        "models swapped for F1",
        "answers = (truth.truth_n, contender_n, champion_n, truth.group_n)",
        "answers = (truth.truth_n, champion_n, contender_n, truth.group_n)",
        check.metrics_know_who_is_better,
    ),
    ("scores", "NaN rows are scored", "health.num_non_finite == 0 and ", "", check.scores_are_none_of_nan),
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
        "leaks=_leaks_of(contender, refs, find_leaks=context.find_leaks, left_out=left_out)",
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
]
