"""Worth of ties: an exam that drops them, one that asks a further person, and live audits beside both.

    python benchmarks/exam_ties.py [--exams 30]     about a minute on one core

What decides is the production code: `annotation.consensus.decide` and `asks_further` on the people's answers, and
`monitoring.quality.looks_low` on the newest 60 audits. An item is hard for people and for models alike, by a latent
difficulty whose correlation with each one's error is stated; a wrong answer is the item's look-alike class in 8 of 10
cases, for people and for models. Two people answer each of 1,000 exam items. The contender is truly right on 90 %, the
champion on 87 %; in the second table the whole gain lies on items that are hard for people. Nothing changes in
production. Prints Markdown tables. Exits 1 where exam and audits, scored alike, are no nearer to each other than they
were.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime as dt
import math
import sys
from statistics import NormalDist
from typing import Any

import numpy as np

from pipeline_tasks.annotation.consensus import ConsensusRule, asks_further, decide
from pipeline_tasks.catalog.labels import AnnotationRow
from pipeline_tasks.core.proportions import wilson_interval
from pipeline_tasks.evaluation.open_items import share_bounds
from pipeline_tasks.monitoring import quality
from pipeline_tasks.project.schema import Labels, Monitor

Array = np.ndarray[Any, np.dtype[Any]]

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
NUM_CLASSES, LOOK_ALIKE = 10, 0.8
ITEMS, AUDITS, WINDOW = 1_000, 600, 60
CONTENDER, CHAMPION = 0.90, 0.87
HARD, HARD_GAIN = 0.10, 0.021  # the share of items that are hard, and a gain that lies on them alone
POLICY = Monitor(window_audits=WINDOW, min_audited=WINDOW)
LABELS = Labels(classes=[str(number) for number in range(NUM_CLASSES)])
ALONE = ConsensusRule(1, LABELS.min_agreement)
DROPPED = ConsensusRule(LABELS.exam_annotators, LABELS.min_agreement)
FURTHER = dataclasses.replace(DROPPED, further_people=LABELS.further_people)
SETTINGS = [(rate, shared) for rate in (0.02, 0.05, 0.10) for shared in (0.3, 0.7)]


@dataclasses.dataclass(frozen=True, slots=True)
class ExamWorld:
    """Items: the truth is class 0 of each; answers of three people and two models, as classes beside it."""

    people_np: Array
    contender_n: Array
    champion_n: Array


def answers(rng: np.random.Generator, difficulty_n: Array, *, error: float, shared: float, noise_n: Array) -> Array:
    """Return class 0 where right; with this error rate the look-alike class, or any other."""
    score_n = math.sqrt(shared) * difficulty_n + math.sqrt(1 - shared) * noise_n
    wrong_n = score_n > NormalDist().inv_cdf(1 - error)
    other_n = np.where(rng.random(len(wrong_n)) < LOOK_ALIKE, 1, rng.integers(2, NUM_CLASSES, len(wrong_n)))
    return np.where(wrong_n, other_n, 0)


def draw(rng: np.random.Generator, *, num_items: int, error: float, shared: float, hard: bool) -> ExamWorld:
    """Return so many items; `hard`: the contender is the champion, but on items that are hard for people."""
    difficulty_n, common_n = rng.standard_normal(num_items), rng.standard_normal(num_items)

    def model(accuracy: float) -> Array:
        noise_n = (common_n + rng.standard_normal(num_items)) / math.sqrt(2)
        return answers(rng, difficulty_n, error=1 - accuracy, shared=shared, noise_n=noise_n)

    people = [
        answers(rng, difficulty_n, error=error, shared=shared, noise_n=rng.standard_normal(num_items)) for _ in range(3)
    ]
    champion_n = model(CHAMPION)
    if not hard:
        return ExamWorld(np.stack(people, axis=1), model(CONTENDER), champion_n)
    wrong_n = (difficulty_n > NormalDist().inv_cdf(1 - HARD)) & (champion_n != 0)
    mended_n = wrong_n & (rng.random(num_items) < HARD_GAIN * num_items / max(wrong_n.sum(), 1))
    return ExamWorld(np.stack(people, axis=1), np.where(mended_n, 0, champion_n), champion_n)


def labels_of(world: ExamWorld, rule: ConsensusRule) -> Array:
    """Return each item's label as the product decides it, one person after the other; -1 where it stays open."""
    decided_n = np.full(len(world.people_np), -1)
    for item, given in enumerate(world.people_np):
        rows = [answer_row(person, str(label)) for person, label in enumerate(given)]
        asked = rows[: rule.annotators_needed]
        while asks_further(asked, rule) and len(asked) < len(rows):
            asked = rows[: len(asked) + 1]
        outcome = decide(asked, rule)
        if outcome is not None and outcome.label is not None:
            decided_n[item] = int(outcome.label)
    return decided_n


def answer_row(person: int, label: str) -> AnnotationRow:
    """Return one person's answer as the catalog has it."""
    given: dict[str, Any] = {"label": label, "result": [], "cancelled": False, "deleted": False}
    return AnnotationRow(str(person), "r", "i", "exam", f"p{person}", lead_time_seconds=None, created_at=NOW, **given)


def accuracy(model_n: Array, label_n: Array) -> float:
    """Return the share of a model's answers that are the labels, of the items that have one."""
    known_n = label_n >= 0
    return float((model_n == label_n)[known_n].mean())


def share_low(right_n: Array, *, exam: float) -> float:
    """Return the share of looks, one after each audit, at which the newest audits look too low."""
    looks = [
        quality.looks_low(wilson_interval(right_n[end - WINDOW : end].sum(), WINDOW), exam_accuracy=exam, policy=POLICY)
        for end in range(WINDOW, len(right_n) + 1)
    ]
    return sum(looks) / len(looks)


def measure(rng: np.random.Generator, *, error: float, shared: float, hard: bool) -> dict[str, float]:
    """Return every figure of one exam and its audits."""
    exam = draw(rng, num_items=ITEMS, error=error, shared=shared, hard=hard)
    audits = draw(rng, num_items=AUDITS, error=error, shared=shared, hard=hard)
    figures = {"truth": float((exam.contender_n == 0).mean())}
    figures["true gain"] = figures["truth"] - float((exam.champion_n == 0).mean())
    by_rule = {name: labels_of(exam, rule) for name, rule in (("dropped", DROPPED), ("further", FURTHER))}
    for name, label_n in by_rule.items():
        figures[f"{name} open"] = float((label_n < 0).mean())
        figures[f"{name} says"] = accuracy(exam.contender_n, label_n)
        figures[f"{name} gain"] = figures[f"{name} says"] - accuracy(exam.champion_n, label_n)
        bounds = share_bounds(figures[f"{name} says"], num_items=(label_n >= 0).sum(), num_open=(label_n < 0).sum())
        figures[f"{name} low"], figures[f"{name} high"] = bounds.low, bounds.high
    for name, rule in (("alone", ALONE), ("further", FURTHER)):
        label_n = labels_of(audits, rule)
        figures[f"live {name}"] = accuracy(audits.contender_n, label_n)
        promised = figures["dropped says" if name == "alone" else "further says"]
        right_n = (audits.contender_n == label_n)[label_n >= 0]
        figures[f"looks low {name}"] = share_low(right_n, exam=promised)
    return figures


def table(exams: int, *, hard: bool) -> tuple[list[str], bool]:
    """Return the lines of one table, and whether a further person brought exam and audits nearer to each other."""
    head = (
        "people err, shared difficulty",
        "ties",
        "exam without them: says (bounds)",
        "exam with a further person: open, says (bounds)",
        "gain: true / without / with",
        "live: one person / as the exam",
        "looks too low: before / now",
    )
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    nearer = True
    for number, (error, shared) in enumerate(SETTINGS):
        rng = np.random.default_rng([2026, number, hard])
        runs = [measure(rng, error=error, shared=shared, hard=hard) for _ in range(exams)]
        mean = {name: 100 * float(np.mean([run[name] for run in runs])) for name in runs[0]}
        within = 100 * 1.96 * float(np.std([run["further says"] - run["truth"] for run in runs])) / math.sqrt(exams)
        gaps = [abs(mean["dropped says"] - mean["live alone"]), abs(mean["further says"] - mean["live further"])]
        nearer &= gaps[1] < gaps[0] and mean["further open"] < mean["dropped open"]
        bounds = f"({mean['further low']:.1f} to {mean['further high']:.1f})"
        cells = (
            f"{100 * error:.0f} %, {shared}",
            f"{mean['dropped open']:.1f} %",
            f"{mean['dropped says']:.1f} ({mean['dropped low']:.1f} to {mean['dropped high']:.1f})",
            f"{mean['further open']:.1f} %, {mean['further says']:.1f} ±{within:.1f} {bounds}",
            f"{mean['true gain']:.1f} / {mean['dropped gain']:.1f} / {mean['further gain']:.1f}",
            f"{mean['live alone']:.1f} / {mean['live further']:.1f}",
            f"{mean['looks low alone']:.0f} / {mean['looks low further']:.0f} %",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines, nearer


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exams", type=int, default=30)
    exams = parser.parse_args().exams
    whole = True
    for hard, name in ((False, "A gain everywhere"), (True, "A gain on what is hard for people")):
        lines, nearer = table(exams, hard=hard)
        whole &= nearer
        print("\n".join([f"{name}, {exams} exams of {ITEMS:,} items; true accuracy about 90 %", "", *lines, ""]))
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
