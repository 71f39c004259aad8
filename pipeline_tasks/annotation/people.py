"""The people with an account in Label Studio, against the number that the waiting items need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline_tasks.catalog.disputes import DisputeRepository
from pipeline_tasks.catalog.labels import LabelRepository
from pipeline_tasks.catalog.newest_annotations import num_labelers
from pipeline_tasks.contracts import Queue
from pipeline_tasks.core.ports import LabelingTool
from pipeline_tasks.project.schema import Labels, LoadedProject

SHOWN_ACCOUNTS = 5


def missing_people(project: LoadedProject, *, labels: LabelRepository, labeling: LabelingTool) -> str:
    """Return one line on who is missing and what to do, or nothing."""
    waiting = {queue: counts.outstanding for queue, counts in labels.counts(project.name).items()}
    wanted = project.config.labels
    if max(wanted.annotators, wanted.exam_annotators) == 1 or not any(waiting.values()):
        return ""
    line = missing_line(project.name, wanted, waiting=waiting, accounts=labeling.accounts())
    return line or further_line(project, labels=labels, only_missing=True)


def further_line(project: LoadedProject, *, labels: LabelRepository, only_missing: bool = False) -> str:
    """Return one line on the items that are asked of a further person; `only_missing`: where nobody can be one."""
    asked = DisputeRepository(labels.database).num_asked(project.name)
    known = num_labelers(labels.database, project.name) if any(asked.values()) else 0
    return tie_line(project.name, project.config.labels, asked=asked, num_labelers=known, only_missing=only_missing)


def tie_line(
    name: str, wanted: Labels, *, asked: Mapping[Queue, int], num_labelers: int, only_missing: bool = False
) -> str:
    """Return the line for these numbers of disputed items, and of people who have ever answered; pure."""
    if not any(asked.values()):
        return ""
    counts = " and ".join(f"{count} (queue {queue})" for queue, count in sorted(asked.items()) if count)
    said = f"Items of {name} on which people differ are asked of a further person: {counts}"
    needed = 1 + (wanted.exam_annotators if asked["exam"] else wanted.annotators)
    if num_labelers >= needed:
        return "" if only_missing else f"{said}."
    return (
        f"{said}. A tie needs {needed} people, and {num_labelers} have ever answered. Invite {needed - num_labelers} "
        "more in Label Studio (Organization, Add People), or set labels.further_people to 0: then they are left out."
    )


def labels_text(wanted: Labels) -> str:
    """Return who labels the exam and the audits, in words; pure."""
    people = f"{wanted.exam_annotators} {'person' if wanted.exam_annotators == 1 else 'people'}"
    text = f"Exam items and audits are answered by {people} each"
    if wanted.exam_annotators > 1 and wanted.further_people:
        text += f", and a tie by one more: {wanted.exam_annotators + 1} people are needed"
    if wanted.imported_in_exam:
        text += "; nobody looks at exam items whose label came with the source (labels.imported_in_exam)"
    return f"{text}."


def missing_line(name: str, wanted: Labels, *, waiting: Mapping[Queue, int], accounts: Sequence[str]) -> str:
    """Return the line for these numbers of waiting items and these accounts; pure."""
    for queue, key, needed in (
        ("exam", "exam_annotators", wanted.exam_annotators),
        ("label", "annotators", wanted.annotators),
    ):
        num_waiting = waiting["exam" if queue == "exam" else "label"]
        if num_waiting and len(accounts) < needed:
            some = ", ".join(sorted(accounts)[:SHOWN_ACCOUNTS]) or "nobody"
            return (
                f"{num_waiting} items of {name} (queue {queue}) wait for {needed} people each (labels.{key}) and "
                f"{len(accounts)} has an account in Label Studio ({some}). Invite {needed - len(accounts)} more there "
                f"(Organization, Add People), or set labels.{key} to {max(len(accounts), 1)}."
            )
    return ""
