"""Live quality on audited predictions, with its interval, beside what the exam promised. Pure.

Per content (each distinct input once, as the exam has it) and per request (as the traffic has it) are told apart.
Audits that a run picked from many predictions stand for more of them: each weighs 1 / the chance of its pick.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pipeline_tasks.catalog.monitoring import AuditedPrediction, OpenAudit
from pipeline_tasks.core.proportions import NOT_A_NUMBER, Interval, wilson_interval
from pipeline_tasks.monitoring import detector
from pipeline_tasks.monitoring.detector import ExamCount
from pipeline_tasks.project.schema import Monitor

State = Literal["OK", "WATCH", "ALARM", "INSUFFICIENT_DATA", "NO_REFERENCE"]
MAX_WINDOWS = 20


@dataclasses.dataclass(frozen=True, slots=True)
class VersionQuality:
    """One model version in production: accuracy on its newest audited contents, and window by window.

    `evidence` of a drop below `exam_bound` raises the alarm at `alarm_level`; docs/checks.md, "In production".
    `num_open` contents beside the audited ones are open, people differ on them (`num_asked` of them wait for a further
    person): accuracy with all of them wrong, or right, is `if_wrong` and `if_right`.
    """

    model_version: str
    num_audited: int
    accuracy: Interval
    exam_accuracy: float | None
    state: State
    windows: tuple[Mapping[str, Any], ...]
    constant_accuracy: float | None = None  # always answering the commonest class of the same audited items
    per_request: Interval = NOT_A_NUMBER
    num_requests: int = 0
    exam_bound: float | None = None
    evidence: float | None = None
    alarm_level: float | None = None
    false_alarms_a_year: float | None = None
    rule_version: int = detector.RULE_VERSION
    num_open: int = 0
    num_asked: int = 0
    open_share: float = 0.0
    if_wrong: float | None = None
    if_right: float | None = None

    @property
    def text(self) -> str:
        """The figure in words."""
        promised = f", exam {self.exam_accuracy:.3f}" if self.exam_accuracy is not None else ""
        if self.exam_bound is not None:
            promised += f" (at least {self.exam_bound:.3f})"
        if math.isnan(self.accuracy.estimate):
            return f"{self.model_version}: nothing audited yet{promised}"
        constant = f", constant answer {self.constant_accuracy:.3f}" if self.constant_accuracy is not None else ""
        return f"{self.model_version}: {self._shares()}{self._open()}{constant}{promised}{self._judged()}"

    def _open(self) -> str:
        if not self.num_open or self.if_wrong is None or self.if_right is None:
            return ""
        share, bounds = f"{100 * self.open_share:.1f} %", f"{self.if_wrong:.3f} to {self.if_right:.3f}"
        return f", {self.num_open} more open ({share}; {bounds} with all of them wrong or right)"

    def _shares(self) -> str:
        shown = f"{_in_words(self.accuracy)} on {self.num_audited} audited"
        if self.num_requests == self.num_audited:
            return shown
        return f"{shown} contents, {_in_words(self.per_request)} of their {self.num_requests} requests"

    def _judged(self) -> str:
        if self.state in ("ALARM", "WATCH", "OK"):
            return f", {self.state} at {self.false_alarms_a_year:g} false alarms a year"
        return ", too few to judge" if self.state == "INSUFFICIENT_DATA" else ""

    def as_json(self) -> dict[str, Any]:
        """Return JSON values; no NaN."""
        plain = dataclasses.asdict(self)
        for name in ("accuracy", "per_request"):
            plain[name] = {key: _finite(value) for key, value in plain[name].items()}
        return {**plain, "windows": list(self.windows), "text": self.text}


def measure(
    version: str,
    audited: Sequence[AuditedPrediction],
    *,
    exam: ExamCount | None,
    policy: Monitor,
    audits_a_year: float,
    still_open: Sequence[OpenAudit] = (),
) -> VersionQuality:
    """Return a version's live quality; `audited` are its labeled audits, oldest first, `still_open` disputed ones."""
    contents = once_per_item(audited)
    recent = contents[-max(policy.window_audits, policy.min_audited) :]
    since = [answer for answer in audited if recent and answer.predicted_at >= recent[0].predicted_at]
    accuracy, share = _accuracy(recent, policy=policy), policy.audit_share
    level = detector.alarm_level(audits_a_year, false_alarms_a_year=policy.false_alarms_a_year)
    bound = exam.lower_bound if exam else 0.0
    evidence = _evidence(contents, bound=bound, level=level, share=share) if bound > 0 else None
    left = {item.item_id: item for item in still_open if recent and item.predicted_at >= recent[0].predicted_at}
    low, high = _open_bounds(recent, list(left.values()), share=share)
    return VersionQuality(
        model_version=version,
        num_audited=len(recent),
        accuracy=accuracy,
        exam_accuracy=exam.accuracy if exam else None,
        state=_judge(recent, accuracy=accuracy, exam=exam, evidence=evidence, level=level, policy=policy),
        windows=tuple(_windows(contents, policy=policy)),
        constant_accuracy=_commonest_share(recent),
        per_request=_accuracy(since, policy=policy),
        num_requests=len(since),
        exam_bound=bound if exam else None,
        evidence=evidence,
        alarm_level=level,
        false_alarms_a_year=policy.false_alarms_a_year,
        num_open=len(left),
        num_asked=sum(item.is_asked for item in left.values()),
        open_share=len(left) / (len(left) + len(recent)) if recent else 0.0,
        if_wrong=low,
        if_right=high,
    )


def once_per_item(audited: Sequence[AuditedPrediction]) -> list[AuditedPrediction]:
    """Return one audit of each item, in their order: answers to the same input are one observation."""
    first: dict[str, AuditedPrediction] = {}
    for answer in sorted(audited, key=lambda answer: answer.prediction_id):
        first.setdefault(answer.item_id, answer)
    return [answer for answer in audited if first[answer.item_id] is answer]


def _commonest_share(audited: Sequence[AuditedPrediction]) -> float | None:
    counts = Counter(answer.label for answer in audited)
    return max(counts.values()) / len(audited) if counts else None


def _evidence(contents: Sequence[AuditedPrediction], *, bound: float, level: float, share: float) -> float:
    """Return the evidence of a drop after the answers, in the order in which they became known."""
    ordered = sorted(contents, key=lambda answer: (answer.known_at, answer.predicted_at, answer.prediction_id))
    answers = [
        (answer.is_right, weight) for answer, weight in zip(ordered, _weights(ordered, share=share), strict=True)
    ]
    last = 0.0
    for last in detector.evidence(answers, bound=bound, level=level):  # noqa: B007  the last counts
        pass
    return last


def _judge(
    recent: Sequence[AuditedPrediction],
    *,
    accuracy: Interval,
    exam: ExamCount | None,
    evidence: float | None,
    level: float,
    policy: Monitor,
) -> State:
    """Return ALARM within the budget of false alarms; WATCH where the newest audits alone look too low."""
    if len(recent) < policy.min_audited:
        return "INSUFFICIENT_DATA"
    if exam is None or evidence is None:
        return "NO_REFERENCE"
    if evidence >= level:
        return "ALARM"
    return "WATCH" if looks_low(accuracy, exam_accuracy=exam.accuracy, policy=policy) else "OK"


def looks_low(accuracy: Interval, *, exam_accuracy: float, policy: Monitor) -> bool:
    """Return whether the newest audits are lower by more than is allowed, and than chance explains at one look."""
    return exam_accuracy - accuracy.estimate > policy.max_quality_drop and accuracy.high < exam_accuracy


def _open_bounds(
    audited: Sequence[AuditedPrediction], still_open: Sequence[OpenAudit], *, share: float
) -> tuple[float | None, float | None]:
    """Return the weighted share of right answers with all open ones wrong, and with all of them right."""
    if not audited:
        return None, None
    weights = _weights([*audited, *still_open], share=share)
    right = math.fsum(weight for answer, weight in zip(audited, weights, strict=False) if answer.is_right)
    total, left = math.fsum(weights), math.fsum(weights[len(audited) :])
    return round(right / total, 9), round((right + left) / total, 9)


def _weights(audited: Sequence[AuditedPrediction | OpenAudit], *, share: float) -> list[float]:
    """Return weights as 1 / the chance of each pick, the least 1; `share` is that of picks that have none recorded."""
    chances = [answer.inclusion or share or 1.0 for answer in audited]
    most = max(chances, default=1.0)
    return [most / chance for chance in chances]


def _accuracy(audited: Sequence[AuditedPrediction], *, policy: Monitor) -> Interval:
    """Return the weighted share of right answers; its interval is that of the effective number of items (Kish 1965)."""
    if not audited:
        return NOT_A_NUMBER
    weights = _weights(audited, share=policy.audit_share)
    of_item: Counter[str] = Counter()
    for answer, weight in zip(audited, weights, strict=True):
        of_item[answer.item_id] += weight  # type: ignore[assignment]
    right = math.fsum(weight for answer, weight in zip(audited, weights, strict=True) if answer.is_right)
    total = math.fsum(weights)
    effective = total**2 / math.fsum(weight**2 for weight in of_item.values())
    return wilson_interval(effective * (right / total), effective)


def _windows(audited: Sequence[AuditedPrediction], *, policy: Monitor) -> list[dict[str, Any]]:
    """Return accuracy by consecutive windows of `min_audited` audits; the newest may be smaller."""
    size = policy.min_audited
    parts = [audited[start : start + size] for start in range(0, len(audited), size)][-MAX_WINDOWS:]
    return [
        {
            "from": part[0].predicted_at.isoformat(),
            "to": part[-1].predicted_at.isoformat(),
            "num_audited": len(part),
            **{name: _finite(value) for name, value in dataclasses.asdict(_accuracy(part, policy=policy)).items()},
        }
        for part in parts
    ]


def _in_words(share: Interval) -> str:
    return f"{share.estimate:.3f} ({share.low:.3f} to {share.high:.3f})"


def _finite(value: float) -> float | None:
    return round(value, 9) if math.isfinite(value) else None
