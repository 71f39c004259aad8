"""Whether there is enough new to train on. Pure."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from collections.abc import Set as AbstractSet

ALARM_SHARE = 0.25  # an alarm lowers the bar, but does not let each single new label start a training


@dataclasses.dataclass(frozen=True, slots=True)
class TrainDecision:
    """The answer with its reason in words; `code` is a machine-readable short form."""

    train: bool
    code: str
    reason: str
    num_new_labels: int


def enough_new_labels(*, num_new: int, minimum: int, force: bool = False, alarm: bool = False) -> TrainDecision:
    """Decide whether to train: enough new labels, a quality alarm with a quarter of them, or a person who insists."""
    if force:
        return TrainDecision(train=True, code="FORCED", reason="A person asked for it.", num_new_labels=num_new)
    if num_new >= minimum:
        reason = f"{num_new} new labels are at least train.min_new_labels ({minimum})."
        return TrainDecision(train=True, code="ENOUGH_NEW_LABELS", reason=reason, num_new_labels=num_new)
    enough = max(1, math.ceil(ALARM_SHARE * minimum))
    if alarm and num_new >= enough:
        reason = f"The live quality raised an alarm, and {num_new} new labels are at least {enough}."
        return TrainDecision(train=True, code="QUALITY_ALARM", reason=reason, num_new_labels=num_new)
    reason = f"train.min_new_labels must be reached (got {num_new} new labels of {minimum}). Labeling goes on."
    return TrainDecision(train=False, code="TOO_FEW_NEW_LABELS", reason=reason, num_new_labels=num_new)


def count_new(decided: Iterable[tuple[str, str]], *, known: Iterable[AbstractSet[tuple[str, str]]]) -> int:
    """Return how many (item id, label) pairs stand in none of the known snapshots: new items and corrected labels."""
    seen = set().union(*known)
    return sum(pair not in seen for pair in decided)
