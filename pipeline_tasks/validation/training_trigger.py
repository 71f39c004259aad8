"""The decision whether there is enough new to train on. Pure."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

ALARM_SHARE = 0.25  # an alarm lowers the bar, but does not let each single new label start a training


@dataclasses.dataclass(frozen=True, slots=True)
class TrainDecision:
    """The answer with its reason in words; `code` is a machine-readable short form."""

    train: bool
    code: str
    reason: str
    num_new_labels: int


def enough_new_labels(
    *,
    project: str,
    num_new: int,
    minimum: int,
    force: bool = False,
    alarm: bool = False,
    changed: Sequence[str] = (),
    num_waiting: int = 0,
    exam_has_come: bool = False,
) -> TrainDecision:
    """Decide whether to train: enough new labels, a quality alarm with a quarter of them, another recipe, a person.

    `exam_has_come`: the last run ended since the exam lacked items from after an alarm, and nothing is lacking now.
    `changed` are the keys of the recipe that are others than at the last training, `num_waiting` the labels that came
    with the sources and that nobody has taken over yet.
    """
    if force:
        return TrainDecision(train=True, code="FORCED", reason="A person asked for it.", num_new_labels=num_new)
    if num_new >= minimum:
        reason = f"{num_new:,} new labels are at least train.min_new_labels ({minimum:,})."
        return TrainDecision(train=True, code="ENOUGH_NEW_LABELS", reason=reason, num_new_labels=num_new)
    enough = max(1, math.ceil(ALARM_SHARE * minimum))
    if alarm and num_new >= enough:
        reason = f"The live quality raised an alarm, and {num_new:,} new labels are at least {enough:,}."
        return TrainDecision(train=True, code="QUALITY_ALARM", reason=reason, num_new_labels=num_new)
    if exam_has_come or changed:
        code, reason = "RECIPE_CHANGED", f"The recipe is another one than at the last training: {', '.join(changed)}."
        if exam_has_come:
            code = "EXAM_HAS_COME"
            reason = "The last run waited for exam items from after an alarm: they have come, or the alarm is over."
        return TrainDecision(train=True, code=code, reason=reason, num_new_labels=num_new)
    if num_waiting:
        reason = (
            f"{num_waiting:,} labels came with the sources and wait to be taken over: `dethrone annotate {project}`, "
            f"then `dethrone train {project}`."
        )
        return TrainDecision(train=False, code="LABELS_WAITING", reason=reason, num_new_labels=num_new)
    reason = (
        f"train.min_new_labels must be reached (got {num_new:,} new labels of {minimum:,}). Label more items, or let "
        f"`dethrone train {project} --force` train and judge with what there is."
    )
    return TrainDecision(train=False, code="TOO_FEW_NEW_LABELS", reason=reason, num_new_labels=num_new)


def changed_keys(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> list[str]:
    """Return the keys of a recipe whose values differ from the last training's; none where that is not known."""
    if before is None:
        return []
    return sorted(key for key in now if before.get(key) != now[key])


def count_new(decided: Iterable[tuple[str, str]], *, known: Iterable[Iterable[tuple[str, str]]]) -> int:
    """Return how many (item id, label) pairs stand in none of the known snapshots: new items and corrected labels.

    Eight bytes of each pair are kept: that two of a million are the same by chance happens once in 40 million times.
    """
    known_n = np.fromiter((_digest(pair) for pairs in known for pair in pairs), dtype=np.uint64)
    decided_n = np.fromiter(map(_digest, decided), dtype=np.uint64)
    return int(np.isin(decided_n, known_n, invert=True).sum())


def _digest(pair: tuple[str, str]) -> int:
    return int.from_bytes(hashlib.blake2b("\0".join(pair).encode(), digest_size=8).digest())
