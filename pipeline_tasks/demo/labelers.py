"""Annotators of the demo's labeling tasks: scripted accounts, or the person in the browser."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from pipeline_tasks.annotation.label_studio_projects import QUEUES, labeling_config
from pipeline_tasks.catalog.labels import LabelRepository
from pipeline_tasks.core.atomic_files import replace_file
from pipeline_tasks.demo.scripted_annotators import Annotator, answer_all
from pipeline_tasks.errors import ConfigError
from pipeline_tasks.orchestration.resources import Resources

TEAM = (
    Annotator("ada@demo.dethrone.local", 0.02),
    Annotator("ben@demo.dethrone.local", 0.04),
    Annotator("cleo@demo.dethrone.local", 0.06),
)
SIMILAR = {
    "shirt": ("t-shirt", "coat", "pullover"),
    "t-shirt": ("shirt",),
    "pullover": ("coat", "shirt"),
    "coat": ("pullover", "shirt"),
    "dress": ("coat", "t-shirt"),
    "sandal": ("sneaker",),
    "sneaker": ("boot", "sandal"),
    "boot": ("sneaker",),
}
REPORT_EVERY_SECONDS = 5.0
_EXAM_ANNOTATORS = re.compile(r"^(  exam_annotators:) (?:[2-9]|10)$", re.MULTILINE)


def let_one_person_finish(project_file: Path, *, say: Callable[[str], None]) -> None:
    """Write `exam_annotators: 1` into the demo's project: two people would have to look, and there is one."""
    text = project_file.read_text(encoding="utf-8")
    alone = _EXAM_ANNOTATORS.sub(r"\1 1", text)
    if alone != text:
        replace_file(project_file, alone.encode())
        say(f"{project_file}: labels.exam_annotators is 1 from now on, since you label alone (it was more)")


def label_open_tasks(
    parts: Resources, project: str, *, truth: Mapping[str, str], by_hand: bool, say: Callable[[str], None]
) -> None:
    """Have every open task answered, or tell the person where the tasks are and leave the rest to them.

    Raises:
        ConfigError: the project has no Label Studio projects yet.
    """
    registered = LabelRepository(parts.database).registration(project)
    if registered is None:
        raise ConfigError(f"{project} must be in Label Studio before anybody can label (got nothing). Run annotate.")
    ids = registered[2]
    if by_hand:
        for queue in QUEUES:
            say(
                f"label in the browser: {parts.labeling.url(ids[queue])} (queue `{queue}`), as admin@dethrone.local or "
                "any account; the demo waits until every task has an answer, so skip none"
            )
        return
    names = ", ".join(
        f"{annotator.email.split('@')[0]} ({annotator.error_rate:.0%} wrong on purpose)" for annotator in TEAM
    )
    say(f"scripted annotators, not people: {names}; they answer over Label Studio's own API")
    for queue in QUEUES:
        _answer(parts, project, queue=queue, project_id=ids[queue], truth=truth, say=say)


def _answer(
    parts: Resources, project: str, *, queue: str, project_id: int, truth: Mapping[str, str], say: Callable[[str], None]
) -> None:
    loaded = parts.project(project)
    labels = loaded.config.labels
    people = labels.exam_annotators if queue == "exam" else labels.annotators
    last = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= REPORT_EVERY_SECONDS:
            last = time.monotonic()
            say(f"labeling (queue `{queue}`): {done} of {total} answers")

    report = answer_all(
        parts.labeling,
        url=parts.settings.label_studio_url,
        admin_token=parts.settings.label_studio_token,
        password_secret=parts.settings.webhook_secret,
        project_id=project_id,
        annotators=TEAM,
        people_per_item=people,
        config=labeling_config(loaded),
        truth=truth,
        similar=SIMILAR,
        progress=progress,
    )
    if report.num_answers:
        say(
            f"queue `{queue}`: {report.num_answers} answers, {people} per item, {report.num_wrong} of them wrong, "
            f"{report.seconds:.0f} s"
        )
