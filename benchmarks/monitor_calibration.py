"""False alarms and delays of the monitor, beside the rule before it, on the same draws; drift where there is none.

    python benchmarks/monitor_calibration.py [--projects 200]     about 10 minutes on one core

What decides is the production code: `monitoring.detector.evidence` at the level of the default budget and
`monitoring.quality.looks_low` (the rule before, which is WATCH now) on the newest 60 audits, at every audit; and
`monitoring.drift.measure`. A project has a model that is right on 90 % of the items, an exam, and 20 audits a day.
Prints Markdown tables. Exits 1 if more projects have a false alarm within a year than the budget allows, by more than
three standard errors.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
import sys
from typing import Any

import numpy as np

from pipeline_tasks.core.proportions import wilson_interval
from pipeline_tasks.evaluation.statistics import mcnemar_p_value
from pipeline_tasks.monitoring import detector, drift, quality
from pipeline_tasks.monitoring.detector import ExamCount
from pipeline_tasks.project.schema import Monitor
from pipeline_tasks.validation import check_tables

Array = np.ndarray[Any, np.dtype[Any]]

ACCURACY = 0.90
CHAMPION, DISAGREEMENT, ALPHA = 0.85, 0.15, 0.03
AUDITS = 7_300  # a year of 20 a day
BEFORE = 600  # audits before a drop
POLICY = Monitor()
EXAMS = (100, 300, 1_000)
DROPS = (0.05, 0.10, 0.20)
LEVEL = detector.alarm_level(AUDITS, false_alarms_a_year=POLICY.false_alarms_a_year)
CLASSES = (2, 10, 20, 50, 100)
DRIFT_EXAMS = (50, 100, 300, 1_000)
NUM_BLOCKS = 20


@dataclasses.dataclass(frozen=True, slots=True)
class Alarms:
    """When each rule raised its first alarm (audit number, None: never), its episodes, and its share of looks."""

    first: int | None
    episodes: int
    share: float


def exam_of(random: np.random.Generator, size: int, *, promoted: bool) -> ExamCount:
    """Return a model's exam; `promoted`: the one on which it was shown better than a champion (winner's curse)."""
    if not promoted:
        return ExamCount(int(random.binomial(size, ACCURACY)), size)
    gain = ACCURACY - CHAMPION
    wins, losses = (DISAGREEMENT + gain) / 2, (DISAGREEMENT - gain) / 2
    both = ACCURACY - wins
    while True:
        won, lost, right, _ = random.multinomial(size, (wins, losses, both, 1 - wins - losses - both))
        if mcnemar_p_value(int(won), int(lost)) <= ALPHA:
            return ExamCount(int(right + won), size)


def alarms(is_low: Array, *, since: int) -> Alarms:
    after = is_low[since:]
    starts = after & ~np.concatenate([[False], after[:-1]])
    places = np.flatnonzero(after)
    return Alarms(int(places[0]) + 1 if len(places) else None, int(starts.sum()), float(after.mean()))


def e_detector(rights: Array, exam: ExamCount) -> Array:
    weighted = ((bool(right), 1.0) for right in rights)
    return np.fromiter(detector.evidence(weighted, bound=exam.lower_bound, level=LEVEL), float) >= LEVEL


def rule_before(rights: Array, exam: ExamCount) -> Array:
    """Return whether the rule before was in alarm after each audit: the newest 60, or fewer at first, at least 30."""
    window = POLICY.window_audits
    sums = np.concatenate([[0], np.cumsum(rights)])
    number = np.arange(1, len(rights) + 1)
    count = np.minimum(number, window)
    right = sums[number] - sums[number - count]
    low = {
        (r, n): quality.looks_low(wilson_interval(r, n), exam_accuracy=exam.accuracy, policy=POLICY)
        for r, n in {*zip(right.tolist(), count.tolist(), strict=True)}
    }
    is_low = np.array([low[pair] for pair in zip(right.tolist(), count.tolist(), strict=True)])
    return is_low & (number >= POLICY.min_audited)


def share(values: list[bool]) -> str:
    mean = sum(values) / len(values)
    return f"{100 * mean:.0f} ±{196 * math.sqrt(mean * (1 - mean) / len(values)):.0f} %"


def delays(numbers: list[int | None]) -> str:
    """Return the median delay and the 90 % quantile, a drop that was never seen counted as one of infinite delay."""
    ordered = sorted(math.inf if delay is None else delay for delay in numbers)
    middle, late = (ordered[math.ceil(q * len(ordered)) - 1] for q in (0.5, 0.9))
    return f"{words(middle)} ({words(late)})"


def words(delay: float) -> str:
    return f"{delay:,.0f}" if math.isfinite(delay) else "unseen"


def false_alarms(random: np.random.Generator, *, projects: int) -> list[tuple[str, float]]:
    print(f"Nothing has changed: a year of {AUDITS:,} audits, {projects} projects.\n")
    heads = ("exam", "e-detector: any false alarm", "episodes", "before: any false alarm", "episodes", "looks in alarm")
    print(f"| {' | '.join(heads)} |\n|---|---|---|---|---|---|")
    rates = []
    for promoted in (False, True):
        for size in EXAMS:
            new, old = [], []
            for _ in range(projects):
                exam = exam_of(random, size, promoted=promoted)
                rights = random.random(AUDITS) < ACCURACY
                new.append(alarms(e_detector(rights, exam), since=0))
                old.append(alarms(rule_before(rights, exam), since=0))
            name = f"{size:,}{', after a promotion' if promoted else ''}"
            print(
                f"| {name} | {share([run.first is not None for run in new])} | "
                f"{np.mean([run.episodes for run in new]):.2f} | {share([run.first is not None for run in old])} | "
                f"{np.mean([run.episodes for run in old]):.0f} | {100 * np.mean([run.share for run in old]):.1f} % |",
                flush=True,
            )
            rates.append((name, float(np.mean([run.first is not None for run in new]))))
    return rates


def all_delays(random: np.random.Generator, *, projects: int) -> None:
    print(f"\nA drop after {BEFORE} audits: audits until the alarm, median (90 % quantile), e-detector / before.\n")
    print("| exam | " + " | ".join(f"{100 * drop:.0f} points" for drop in DROPS) + " |")
    print("|---|" + "---|" * len(DROPS))
    for size in EXAMS:
        cells = []
        for drop in DROPS:
            new, old = [], []
            for _ in range(projects):
                exam = exam_of(random, size, promoted=False)
                rights = (
                    random.random(BEFORE + AUDITS) < np.r_[np.full(BEFORE, ACCURACY), np.full(AUDITS, ACCURACY - drop)]
                )
                new.append(alarms(e_detector(rights, exam), since=BEFORE).first)
                old.append(alarms(rule_before(rights, exam), since=BEFORE).first)
            cells.append(f"{delays(new)} / {delays(old)}")
        print(f"| {size:,} | " + " | ".join(cells) + " |", flush=True)


def sample(random: np.random.Generator, *, size: int, num_classes: int) -> drift.AnswerHistogram:
    labels = random.integers(0, num_classes, size)
    return drift.histogram(zip(labels.astype(str), random.beta(5, 2, size), strict=True))


def drift_before(reference: drift.AnswerHistogram, blocks: list[drift.AnswerHistogram]) -> list[bool]:
    """Return whether the rule before said DRIFT after each block: of 200, at any size, with nothing subtracted."""
    far = []
    for block in blocks:
        distance = check_tables.js_distance(reference.labels, block.labels) or 0.0
        far.append(drift.psi(reference.confidence, block.confidence) > drift.MAX_PSI or distance > drift.MAX_JS)
    return [before and other for before, other in itertools.pairwise(far)]


def all_drift(random: np.random.Generator, *, projects: int) -> None:
    print(f"\nDrift where nothing has drifted, in {NUM_BLOCKS} blocks: ever said, now / before, {projects} projects.\n")
    print(
        "| classes | "
        + " | ".join(f"exam {size:,}" for size in DRIFT_EXAMS)
        + " | half of the classes gone, exam 1,000 |"
    )
    print("|---|" + "---|" * (len(DRIFT_EXAMS) + 1))
    for num_classes in CLASSES:
        cells = []
        block = max(drift.BLOCK, drift.least_rows(num_classes))
        for size in DRIFT_EXAMS:
            new, old = [], []
            for _ in range(projects):
                reference = sample(random, size=size, num_classes=num_classes)
                blocks = [sample(random, size=block, num_classes=num_classes) for _ in range(NUM_BLOCKS)]
                states = [
                    drift.measure(blocks[start : start + 2], exam=reference, num_classes=num_classes).state
                    for start in range(NUM_BLOCKS - 1)
                ]
                new.append("DRIFT" in states)
                small = blocks if block == drift.BLOCK else None
                small = small or [sample(random, size=drift.BLOCK, num_classes=num_classes) for _ in range(NUM_BLOCKS)]
                old.append(any(drift_before(reference, small)))
            is_measured = size >= drift.least_rows(num_classes)
            cells.append(f"{share(new) if is_measured else 'too few'} / {share(old)}")
        print(f"| {num_classes} | " + " | ".join(cells) + f" | {half_gone(random, num_classes, block)} |", flush=True)


def half_gone(random: np.random.Generator, num_classes: int, block: int, *, projects: int = 50) -> str:
    alarmed = []
    for _ in range(projects):
        reference = sample(random, size=1_000, num_classes=num_classes)
        blocks = [sample(random, size=block, num_classes=max(1, num_classes // 2)) for _ in range(2)]
        alarmed.append(drift.measure(blocks, exam=reference, num_classes=num_classes).state == "DRIFT")
    return share(alarmed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--projects", type=int, default=200)
    options = parser.parse_args()
    random = np.random.default_rng(14)
    rates = false_alarms(random, projects=options.projects)
    all_delays(random, projects=options.projects)
    all_drift(random, projects=options.projects)
    budget = POLICY.false_alarms_a_year
    allowed = budget + 3 * math.sqrt(budget * (1 - budget) / options.projects)
    broken = [f"exam {name}: {100 * rate:.1f} %" for name, rate in rates if rate > allowed]
    if broken:
        print(f"\nMore than {100 * allowed:.1f} % had a false alarm: {'; '.join(broken)}.")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
