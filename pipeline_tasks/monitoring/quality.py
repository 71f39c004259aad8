"""Live quality on audited predictions, with its interval, beside what the exam promised. Pure."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pipeline_tasks.catalog.monitoring import AuditedPrediction
from pipeline_tasks.intervals import Interval, wilson_interval
from pipeline_tasks.project import Monitor

State = Literal["OK", "ALARM", "INSUFFICIENT_DATA", "NO_REFERENCE"]
MAX_WINDOWS = 20


@dataclasses.dataclass(frozen=True, slots=True)
class VersionQuality:
    """One model version in production: accuracy on its newest audited predictions, and window by window."""

    model_version: str
    num_audited: int
    accuracy: Interval
    exam_accuracy: float | None
    state: State
    windows: tuple[Mapping[str, Any], ...]
    constant_accuracy: float | None = None  # always answering the commonest class of the same audited items

    @property
    def text(self) -> str:
        """The figure in words."""
        promised = f", exam {self.exam_accuracy:.3f}" if self.exam_accuracy is not None else ""
        if math.isnan(self.accuracy.estimate):
            return f"{self.model_version}: nothing audited yet{promised}"
        low, high = self.accuracy.low, self.accuracy.high
        note = {"ALARM": ", ALARM", "INSUFFICIENT_DATA": ", too few to judge"}.get(self.state, "")
        constant = f", constant answer {self.constant_accuracy:.3f}" if self.constant_accuracy is not None else ""
        return (
            f"{self.model_version}: {self.accuracy.estimate:.3f} ({low:.3f} to {high:.3f}) "
            f"on {self.num_audited} audited{constant}{promised}{note}"
        )

    def as_json(self) -> dict[str, Any]:
        """Return JSON values; no NaN."""
        interval = {name: _finite(value) for name, value in dataclasses.asdict(self.accuracy).items()}
        return {**dataclasses.asdict(self), "accuracy": interval, "windows": list(self.windows), "text": self.text}


def measure(
    version: str, audited: Sequence[AuditedPrediction], *, exam_accuracy: float | None, policy: Monitor
) -> VersionQuality:
    """Return a version's live quality; `audited` are its labeled audits, oldest first."""
    recent = audited[-max(policy.window_audits, policy.min_audited) :]
    accuracy = _accuracy(recent)
    return VersionQuality(
        model_version=version,
        num_audited=len(recent),
        accuracy=accuracy,
        exam_accuracy=exam_accuracy,
        state=_judge(accuracy, num_audited=len(recent), exam_accuracy=exam_accuracy, policy=policy),
        windows=tuple(_windows(audited, size=policy.min_audited)),
        constant_accuracy=_commonest_share(recent),
    )


def _commonest_share(audited: Sequence[AuditedPrediction]) -> float | None:
    counts = Counter(one.label for one in audited)
    return max(counts.values()) / len(audited) if counts else None


def _judge(accuracy: Interval, *, num_audited: int, exam_accuracy: float | None, policy: Monitor) -> State:
    """Say whether quality has dropped: by more than is allowed, and by more than chance explains."""
    if num_audited < policy.min_audited:
        return "INSUFFICIENT_DATA"
    if exam_accuracy is None:
        return "NO_REFERENCE"
    too_low = exam_accuracy - accuracy.estimate > policy.max_quality_drop
    return "ALARM" if too_low and accuracy.high < exam_accuracy else "OK"


def _accuracy(audited: Sequence[AuditedPrediction]) -> Interval:
    return wilson_interval(sum(one.predicted_label == one.label for one in audited), len(audited))


def _windows(audited: Sequence[AuditedPrediction], *, size: int) -> list[dict[str, Any]]:
    """Return accuracy by consecutive windows of `size` audits; the newest may be smaller."""
    parts = [audited[start : start + size] for start in range(0, len(audited), size)][-MAX_WINDOWS:]
    return [
        {
            "from": part[0].predicted_at.isoformat(),
            "to": part[-1].predicted_at.isoformat(),
            "num_audited": len(part),
            **{name: _finite(value) for name, value in dataclasses.asdict(_accuracy(part)).items()},
        }
        for part in parts
    ]


def _finite(value: float) -> float | None:
    return round(value, 9) if math.isfinite(value) else None
