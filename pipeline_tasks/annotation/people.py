"""The people with an account in Label Studio, against the number that the waiting items need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline_tasks.catalog.labels import LabelRepository
from pipeline_tasks.contracts import Queue
from pipeline_tasks.ports import LabelingTool
from pipeline_tasks.project import Labels, LoadedProject

SHOWN_ACCOUNTS = 5


def missing_people(project: LoadedProject, *, labels: LabelRepository, labeling: LabelingTool) -> str:
    """Return one line on who is missing and what to do, or nothing."""
    waiting = {queue: counts.outstanding for queue, counts in labels.counts(project.name).items()}
    wanted = project.config.labels
    if max(wanted.annotators, wanted.exam_annotators) == 1 or not any(waiting.values()):
        return ""
    return missing_line(project.name, wanted, waiting=waiting, accounts=labeling.accounts())


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
