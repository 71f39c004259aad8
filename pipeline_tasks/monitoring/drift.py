"""Drift of production from the exam: effect sizes, not p-values. Pure.

With enough traffic every difference is significant, so only its size counts, and only when it stays: two blocks of
predictions in a row. What two samples of one law differ by is subtracted. Confidence does not follow accuracy, so drift
is shown and never replaces audits.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from pipeline_tasks.validation.check_tables import excess_js_distance

RULE_VERSION = 2  # 1: without subtracting what no drift gives, at any size
NUM_BINS = 10
BLOCK = 200
PERSISTENCE = 2
MAX_PSI = 0.25
MAX_JS = 0.25
ROWS_PER_CELL = 5  # of a class or of a tenth of the confidence, on both sides
DriftState = Literal["OK", "WATCH", "DRIFT", "INSUFFICIENT_DATA"]


@dataclasses.dataclass(frozen=True, slots=True)
class AnswerHistogram:
    """Counts of confidences by tenth and of labels."""

    confidence: tuple[int, ...]
    labels: Mapping[str, int]

    @property
    def num_rows(self) -> int:
        return sum(self.confidence)

    def as_json(self) -> dict[str, Any]:
        return {"confidence": list(self.confidence), "labels": dict(sorted(self.labels.items()))}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> AnswerHistogram:
        return AnswerHistogram(tuple(value["confidence"]), dict(value["labels"]))


@dataclasses.dataclass(frozen=True, slots=True)
class Drift:
    """The newest block of predictions beside the reference, with the counts of both.

    `confidence_psi` and `label_js` are beyond what no drift gives; `num_needed` rows either side must have.
    """

    state: DriftState
    reference: str
    num_rows: int
    confidence_psi: float | None
    label_js: float | None
    expected: AnswerHistogram | None = None
    actual: AnswerHistogram | None = None
    num_needed: int = 0
    rule_version: int = RULE_VERSION

    def as_json(self) -> dict[str, Any]:
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value.as_json() if isinstance(value, AnswerHistogram) else value for name, value in plain.items()}


def histogram(answers: Iterable[tuple[str, float]]) -> AnswerHistogram:
    """Return the histogram of (label, confidence) pairs."""
    bins = [0] * NUM_BINS
    labels: Counter[str] = Counter()
    for label, confidence in answers:
        bins[min(NUM_BINS - 1, max(0, int(confidence * NUM_BINS)))] += 1
        labels[label] += 1
    return AnswerHistogram(tuple(bins), dict(labels))


def add(histograms: Sequence[AnswerHistogram]) -> AnswerHistogram:
    """Return the sum of histograms."""
    labels: Counter[str] = Counter()
    for part in histograms:
        labels.update(part.labels)
    bins = tuple(sum(part.confidence[index] for part in histograms) for index in range(NUM_BINS))
    return AnswerHistogram(bins, dict(labels))


def psi(expected: Sequence[int], actual: Sequence[int]) -> float:
    """Return the population stability index: 0 = same, above 0.25 = a large shift. Half a row is added to each bin."""
    total, total_actual = sum(expected) + len(expected) / 2, sum(actual) + len(actual) / 2
    pairs = [((e + 0.5) / total, (a + 0.5) / total_actual) for e, a in zip(expected, actual, strict=True)]
    return sum((q - p) * math.log(q / p) for p, q in pairs)


def excess_psi(expected: AnswerHistogram, actual: AnswerHistogram) -> float:
    """Return the stability index of the confidences less what two samples of one law have: (b - 1)(1/n + 1/m)."""
    noise = (NUM_BINS - 1) * (1 / expected.num_rows + 1 / actual.num_rows)
    return max(0.0, psi(expected.confidence, actual.confidence) - noise)


def excess_js(expected: AnswerHistogram, actual: AnswerHistogram) -> float:
    """Return the distance of the labels less what two samples of one law have."""
    return excess_js_distance(expected.labels, actual.labels) or 0.0


def least_rows(num_classes: int) -> int:
    """Return how many rows either side must have to be compared."""
    return ROWS_PER_CELL * max(num_classes, NUM_BINS)


def blocks(windows: Sequence[AnswerHistogram], *, size: int = BLOCK) -> list[AnswerHistogram]:
    """Return consecutive windows gathered into blocks of at least `size` predictions, without an unfull last one."""
    filled: list[AnswerHistogram] = []
    gathered: list[AnswerHistogram] = []
    for window in windows:
        gathered.append(window)
        if sum(part.num_rows for part in gathered) >= size:
            filled.append(add(gathered))
            gathered = []
    return filled


def measure(windows: Sequence[AnswerHistogram], *, exam: AnswerHistogram | None, num_classes: int) -> Drift:
    """Compare the newest blocks with the exam, or with the version's own first block where there is no exam."""
    needed = least_rows(num_classes)
    full = blocks(windows, size=max(BLOCK, needed))
    reference = exam if exam is not None and exam.num_rows else (full[0] if full else None)
    name = "exam" if reference is exam and exam is not None else "first predictions"
    compared = full if name == "exam" else full[1:]
    if reference is None or not compared or reference.num_rows < needed:
        num_rows = sum(window.num_rows for window in windows)
        return Drift("INSUFFICIENT_DATA", name, num_rows, None, None, expected=reference, num_needed=needed)
    far = [_is_far(reference, block) for block in compared[-PERSISTENCE:]]
    stays = len(far) == PERSISTENCE and all(far)
    newest = compared[-1]
    return Drift(
        state="DRIFT" if stays else "WATCH" if far[-1] else "OK",
        reference=name,
        num_rows=newest.num_rows,
        confidence_psi=excess_psi(reference, newest),
        label_js=excess_js(reference, newest),
        expected=reference,
        actual=newest,
        num_needed=needed,
    )


def _is_far(reference: AnswerHistogram, block: AnswerHistogram) -> bool:
    return excess_psi(reference, block) > MAX_PSI or excess_js(reference, block) > MAX_JS
