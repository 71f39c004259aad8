"""How far production has moved from what the exam looked like: effect sizes, not p-values. Pure.

With enough traffic every difference is significant, so only its size counts, and only when it stays: two blocks of
predictions in a row. Confidence does not follow accuracy, so drift is shown and never replaces audits.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from pipeline_tasks.validation.frames import js_distance

NUM_BINS = 10
BLOCK = 200
PERSISTENCE = 2
MAX_PSI = 0.25
MAX_JS = 0.25
DriftState = Literal["OK", "WATCH", "DRIFT", "INSUFFICIENT_DATA"]


@dataclasses.dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of confidences by tenth and of labels."""

    confidence: tuple[int, ...]
    labels: Mapping[str, int]

    @property
    def num_rows(self) -> int:
        return sum(self.confidence)

    def as_json(self) -> dict[str, Any]:
        return {"confidence": list(self.confidence), "labels": dict(sorted(self.labels.items()))}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Histogram:
        return Histogram(tuple(value["confidence"]), dict(value["labels"]))


@dataclasses.dataclass(frozen=True, slots=True)
class Drift:
    """The newest block of predictions beside the reference, with the counts of both."""

    state: DriftState
    reference: str
    num_rows: int
    confidence_psi: float | None
    label_js: float | None
    expected: Histogram | None = None
    actual: Histogram | None = None

    def as_json(self) -> dict[str, Any]:
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: one.as_json() if isinstance(one, Histogram) else one for name, one in plain.items()}


def histogram(answers: Iterable[tuple[str, float]]) -> Histogram:
    """Return the histogram of (label, confidence) pairs."""
    bins = [0] * NUM_BINS
    labels: Counter[str] = Counter()
    for label, confidence in answers:
        bins[min(NUM_BINS - 1, max(0, int(confidence * NUM_BINS)))] += 1
        labels[label] += 1
    return Histogram(tuple(bins), dict(labels))


def add(histograms: Sequence[Histogram]) -> Histogram:
    """Return the sum of histograms."""
    labels: Counter[str] = Counter()
    for one in histograms:
        labels.update(one.labels)
    bins = tuple(sum(one.confidence[index] for one in histograms) for index in range(NUM_BINS))
    return Histogram(bins, dict(labels))


def psi(expected: Sequence[int], actual: Sequence[int]) -> float:
    """Return the population stability index: 0 = same, above 0.25 = a large shift. Half a row is added to each bin."""
    total, total_actual = sum(expected) + len(expected) / 2, sum(actual) + len(actual) / 2
    pairs = [((e + 0.5) / total, (a + 0.5) / total_actual) for e, a in zip(expected, actual, strict=True)]
    return sum((q - p) * math.log(q / p) for p, q in pairs)


def blocks(windows: Sequence[Histogram], *, size: int = BLOCK) -> list[Histogram]:
    """Return consecutive windows gathered into blocks of at least `size` predictions, without an unfull last one."""
    found: list[Histogram] = []
    gathered: list[Histogram] = []
    for window in windows:
        gathered.append(window)
        if sum(one.num_rows for one in gathered) >= size:
            found.append(add(gathered))
            gathered = []
    return found


def measure(windows: Sequence[Histogram], *, exam: Histogram | None) -> Drift:
    """Compare the newest blocks with the exam, or with the version's own first block where there is no exam."""
    found = blocks(windows)
    reference = exam if exam is not None and exam.num_rows else (found[0] if found else None)
    name = "exam" if reference is exam and exam is not None else "first predictions"
    compared = found if name == "exam" else found[1:]
    if reference is None or not compared:
        return Drift("INSUFFICIENT_DATA", name, sum(one.num_rows for one in windows), None, None)
    far = [_is_far(reference, block) for block in compared[-PERSISTENCE:]]
    stays = len(far) == PERSISTENCE and all(far)
    newest = compared[-1]
    return Drift(
        state="DRIFT" if stays else "WATCH" if far[-1] else "OK",
        reference=name,
        num_rows=newest.num_rows,
        confidence_psi=psi(reference.confidence, newest.confidence),
        label_js=js_distance(reference.labels, newest.labels),
        expected=reference,
        actual=newest,
    )


def _is_far(reference: Histogram, block: Histogram) -> bool:
    distance = js_distance(reference.labels, block.labels)
    return psi(reference.confidence, block.confidence) > MAX_PSI or (distance is not None and distance > MAX_JS)
