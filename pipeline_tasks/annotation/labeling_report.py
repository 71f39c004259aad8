"""Report of a project's labeling: what came in, how far people agree, whose answers are right how often, what waits."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline_tasks.annotation.people import further_line
from pipeline_tasks.annotation.reliability import Answer, MethodChoice, Votes, aggregate, choose
from pipeline_tasks.catalog.labeling_state import LabelingState, labeling_state
from pipeline_tasks.catalog.labels import LabelRepository
from pipeline_tasks.catalog.newest_annotations import Submit, answers_of, submits_of
from pipeline_tasks.contracts import Queue
from pipeline_tasks.core.html_page import render
from pipeline_tasks.core.proportions import NOT_A_NUMBER, Interval, wilson_interval
from pipeline_tasks.project.schema import LoadedProject

DAYS = 14
PAGE = "pipeline_tasks/annotation/labeling_report.html"
WHY: Mapping[str, str] = {
    "majority": "majority: too few shared answers to prefer another method, or none foretells them better",
    "one-coin": "one chance of being right a person: it foretells answers better than the majority does",
    "dawid-skene": "a chance for each pair of classes a person: people confuse certain classes",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Person:
    """One person's answers; `agreement` is the share of equal answers beside others, by pairs on shared items.

    `reliability` is the estimated share of right answers on shared items (annotation/reliability.py).
    """

    name: str
    num_answers: int
    num_skipped: int
    last_at: dt.datetime
    median_seconds: float | None
    agreement: Interval
    reliability: Interval


@dataclasses.dataclass(frozen=True, slots=True)
class LabelingReport:
    """A project's labeling until now.

    `alpha` is Krippendorff's, over the `num_shared` items of several people; `people` is None where their figures are
    not for the reader.
    """

    project: str
    state: LabelingState
    waiting: Mapping[Queue, int]
    days: tuple[tuple[dt.date, int], ...]
    median_seconds: float | None
    alpha: float | None
    num_shared: int
    choice: MethodChoice
    people: tuple[Person, ...] | None
    note: str


def labeling_report(project: LoadedProject, *, labels: LabelRepository, now: dt.datetime) -> LabelingReport:
    """Return the report of what the catalog holds."""
    name, database = project.name, labels.database
    submits, shared = submits_of(database, name), shared_answers(answers_of(database, name))
    votes = Votes.of(shared, classes=project.config.labels.classes)
    choice = choose(votes)
    return LabelingReport(
        project=name,
        state=labeling_state(database, name),
        waiting={queue: counts.outstanding for queue, counts in labels.counts(name).items()},
        days=per_day(submits, until=now.date()),
        median_seconds=_median(submits),
        alpha=krippendorff_alpha(shared),
        num_shared=len(votes.items),
        choice=choice,
        people=_people(submits, shared, reliability=aggregate(votes, choice.method).reliability()),
        note=further_line(project, labels=labels),
    )


def shared_answers(answers: Sequence[Answer]) -> list[Answer]:
    """Return the answers to items that several people have answered."""
    num_people = Counter(item_id for item_id, _, _ in answers)
    return [answer for answer in answers if num_people[answer[0]] > 1]


def per_day(submits: Sequence[Submit], *, until: dt.date) -> tuple[tuple[dt.date, int], ...]:
    """Return the number of answers of each of the last days, UTC, oldest first."""
    counts = Counter(submit.at.date() for submit in submits if not submit.skipped)
    days = [until - dt.timedelta(days=back) for back in reversed(range(DAYS))]
    return tuple((day, counts[day]) for day in days)


def krippendorff_alpha(answers: Sequence[Answer]) -> float | None:
    """Return Krippendorff's alpha for nominal labels: 1 is full agreement, 0 that of chance; None if it has no value.

    Source: Krippendorff 2004, chapter 11; computed by nltk.
    """
    if len({label for _, _, label in answers}) < 2:
        return None  # where everybody says the same, chance says it too
    from nltk.metrics.agreement import AnnotationTask

    return float(AnnotationTask(data=[(person, item_id, label) for item_id, person, label in answers]).alpha())


def agreement_of(answers: Sequence[Answer]) -> dict[str, Interval]:
    """Return each person's share of equal answers among all pairs with another's on the same item."""
    by_item: dict[str, Counter[str]] = defaultdict(Counter)
    for item_id, _, label in answers:
        by_item[item_id][label] += 1
    equal: Counter[str] = Counter()
    pairs: Counter[str] = Counter()
    for item_id, person, label in answers:
        equal[person] += by_item[item_id][label] - 1
        pairs[person] += by_item[item_id].total() - 1
    return {person: wilson_interval(equal[person], pairs[person]) for person in pairs}


def _people(
    submits: Sequence[Submit], shared: Sequence[Answer], *, reliability: Mapping[str, Interval]
) -> tuple[Person, ...]:
    agreement = agreement_of(shared)
    mine: dict[str, list[Submit]] = defaultdict(list)
    for submit in submits:
        mine[submit.annotator].append(submit)
    people = [
        Person(
            name=name,
            num_answers=sum(not submit.skipped for submit in own),
            num_skipped=sum(submit.skipped for submit in own),
            last_at=max(submit.at for submit in own),
            median_seconds=_median(own),
            agreement=agreement.get(name, NOT_A_NUMBER),
            reliability=reliability.get(name, NOT_A_NUMBER),
        )
        for name, own in mine.items()
    ]
    return tuple(sorted(people, key=lambda person: (-person.num_answers, person.name)))


def _median(submits: Sequence[Submit]) -> float | None:
    seconds = [submit.seconds for submit in submits if submit.seconds is not None and not submit.skipped]
    return statistics.median(seconds) if seconds else None


def as_text(report: LabelingReport) -> str:
    """Return the report for a terminal."""
    state = report.state
    lines = [
        f"{report.project}: {state.num_labels} of {state.num_items} items have a label. Waiting: "
        + (", ".join(f"{count} (queue {queue})" for queue, count in sorted(report.waiting.items())) or "none")
        + f"; {state.num_asked} ties are asked of a further person, {state.num_disputed} stay out.",
        "Answers a day: " + ", ".join(f"{day:%m-%d} {count}" for day, count in report.days if count)
        if any(count for _, count in report.days)
        else f"No answer in the last {DAYS} days.",
    ]
    lines += [f"A task takes {seconds_text(report.median_seconds)} (median)."] if report.median_seconds else []
    lines.append(agreement_text(report))
    lines += [
        f"  {person.name}: {person.num_answers} answers, {person.num_skipped} skipped, last {person.last_at:%Y-%m-%d}, "
        f"{seconds_text(person.median_seconds)} a task; as others {share_text(person.agreement)}, "
        f"right {share_text(person.reliability)}"
        for person in report.people or ()
    ]
    lines += [report.note] if report.note else []
    return "\n".join(lines)


def as_document(report: LabelingReport) -> dict[str, Any]:
    """Return the report as JSON values; what has no value is null."""
    return json.loads(json.dumps(_plain(dataclasses.asdict(report)), default=str))  # type: ignore[no-any-return]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def agreement_text(report: LabelingReport) -> str:
    """Return how far people agree, and by what it was told who is right."""
    if not report.num_shared:
        return "No item was answered by several people: nothing tells how far their answers can be trusted."
    alpha = "has no value, all answers are the same" if report.alpha is None else f"is {report.alpha:.2f}"
    return (
        f"Krippendorff's alpha {alpha}, on {report.num_shared} items of several people (1: full agreement, 0: chance). "
        f"Who is right is estimated by {WHY[report.choice.method]}."
    )


def share_text(share: Interval) -> str:
    """Return a share in percent with its 95 % interval; a dash where there is none."""
    if not share.is_finite:
        return "-"
    return f"{100 * share.estimate:.0f} % ({100 * share.low:.0f} to {100 * share.high:.0f})"


def seconds_text(seconds: float | None) -> str:
    """Return a time as seconds or minutes; a dash where there is none."""
    if seconds is None:
        return "-"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def as_page(report: LabelingReport) -> str:
    """Return the report as a page."""
    return render(
        PAGE,
        report=report,
        most=max((count for _, count in report.days), default=0),
        agreement=agreement_text(report),
        share=share_text,
        seconds=seconds_text,
    )
