"""From the answers of several people to one decision per item."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Self

from pipeline_tasks.catalog.labels import AnnotationRow, DecisionRow, Method, Status
from pipeline_tasks.contracts import Queue
from pipeline_tasks.project.schema import Labels

HUMAN_METHODS = ("single", "consensus")
PAIR = 2  # the fewest who can differ
REMOVED = "\0"  # begins the label of an answer under a class that was removed; no name has it


@dataclasses.dataclass(frozen=True, slots=True)
class ConsensusRule:
    """Number of people that an item needs, the share of them that must agree, and how many more a tie asks."""

    annotators_needed: int
    min_agreement: float
    further_people: int = 0

    @classmethod
    def of(cls, wanted: Labels, queue: Queue) -> Self:
        """Return the rule of a project's queue."""
        needed = wanted.exam_annotators if queue == "exam" else wanted.annotators
        return cls(needed, min_agreement=wanted.min_agreement, further_people=wanted.further_people)


@dataclasses.dataclass(frozen=True, slots=True)
class Consensus:
    """The label that answers come to together; `agreement` is the share of people behind the most frequent label."""

    status: Status
    label: str | None
    method: Method
    annotation_ids: tuple[str, ...]
    annotators: tuple[str, ...]
    agreement: float


def read_through(
    annotations: Iterable[AnnotationRow], former: Mapping[str, str | None], classes: Iterable[str]
) -> list[AnnotationRow]:
    """Return annotations under the class names of now; a name that never was one is no answer.

    Under a class that was removed somebody has answered, but no label can come of it.
    """
    names = {name: REMOVED + name if to is None else to for name, to in former.items()}
    names |= {name: name for name in classes}
    return [row if row.label is None else dataclasses.replace(row, label=names.get(row.label)) for row in annotations]


def counted_answers(annotations: Iterable[AnnotationRow]) -> list[AnnotationRow]:
    """Return the one answer of each person that counts: the last that is neither deleted nor skipped nor refused."""
    newest: dict[str, AnnotationRow] = {}
    for row in sorted(annotations, key=lambda answer: (answer.revision, answer.annotation_id)):
        if not row.deleted and not row.cancelled and row.label is not None:
            newest[row.annotator] = row
    return sorted(newest.values(), key=lambda row: row.annotator)


def decide(annotations: Iterable[AnnotationRow], rule: ConsensusRule) -> Consensus | None:
    """Return the decision of an item's people, or None while too few have answered.

    The label of the most people wins when their share is above `min_agreement` (or all agree); otherwise, and when
    two labels share the lead, the item is disputed: `asks_further` says whether one more person is asked of it.

    Whoever answered a class that was removed counts among them: a decision does not fall with an answer that was not
    for it. Where they decide nothing, enough others decide alone; an item of a removed class has no decision.
    """
    people = counted_answers(annotations)
    answers = _under_classes(people)
    if len(people) < rule.annotators_needed or not answers:
        return None
    outcome = _vote(people, rule)
    if _is_removed(outcome.label):
        return None
    return _vote(answers, rule) if outcome.label is None and len(answers) >= rule.annotators_needed else outcome


def _vote(answers: Sequence[AnnotationRow], rule: ConsensusRule) -> Consensus:
    ranking = Counter(answer.label for answer in answers).most_common()
    label, num_votes = ranking[0]
    agreement = num_votes / len(answers)
    tied = len(ranking) > 1 and ranking[1][1] == num_votes
    agreed = not tied and (agreement > rule.min_agreement or num_votes == len(answers))
    return Consensus(
        status="decided" if agreed else "disputed",
        label=label if agreed else None,
        method="single" if len(answers) == 1 else "consensus",
        annotation_ids=tuple(answer.annotation_id for answer in answers),
        annotators=tuple(answer.annotator for answer in answers),
        agreement=agreement,
    )


def _under_classes(answers: Iterable[AnnotationRow]) -> list[AnnotationRow]:
    return [answer for answer in answers if not _is_removed(answer.label)]


def _is_removed(label: str | None) -> bool:
    return label is not None and label.startswith(REMOVED)


def asks_further(annotations: Iterable[AnnotationRow], rule: ConsensusRule) -> bool:
    """Return whether a disputed item is asked of one more person: one is left, and those left could decide it.

    Whoever has answered counts once, however often, and for a class that was removed not at all; two who differ where
    one was asked are a tie like any other.
    """
    outcome = decide(annotations := list(annotations), rule)
    if outcome is None or outcome.status != "disputed":
        return False
    answers = _under_classes(counted_answers(annotations))
    num_answers = len(answers)
    num_left = max(rule.annotators_needed, PAIR) + rule.further_people - num_answers
    most = max(Counter(answer.label for answer in answers).values())
    return num_left > 0 and (most + num_left) / (num_answers + num_left) > rule.min_agreement


def people_wanted(annotations: Iterable[AnnotationRow]) -> int:
    """Return how many different people a task must ask so that one more answers: all whom Label Studio counts, and one.

    It counts everybody who has submitted anything, also what is refused here; a skip is none.
    """
    return 1 + len({row.annotator for row in annotations if not row.deleted and not row.cancelled})


def next_decision(
    item_id: str,
    annotations: Sequence[AnnotationRow],
    *,
    rule: ConsensusRule,
    previous: DecisionRow | None,
    schema_version: int,
    now: dt.datetime,
) -> DecisionRow | None:
    """Return the next version of an item's decision, or None when nothing changed.

    Too few answers withdraw a decision that people had made; a label from the source stays until people decide.
    """
    outcome = decide(annotations, rule)
    if outcome is None:
        if previous is None or previous.method not in HUMAN_METHODS or previous.status == "withdrawn":
            return None
        outcome = Consensus("withdrawn", None, previous.method, (), (), 0.0)
    if previous is not None and _same(previous, outcome):
        return None
    version = 1 if previous is None else previous.version + 1
    return DecisionRow(item_id, version, schema_version=schema_version, decided_at=now, **dataclasses.asdict(outcome))


def _same(previous: DecisionRow, outcome: Consensus) -> bool:
    return (previous.status, previous.label, previous.method, previous.annotation_ids) == (
        outcome.status,
        outcome.label,
        outcome.method,
        outcome.annotation_ids,
    )
