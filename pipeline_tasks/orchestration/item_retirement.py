"""Taking an item out of use: new snapshots and exams leave it out, and no model is judged on it any more."""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import Any

from pipeline_tasks.catalog.database import Database
from pipeline_tasks.catalog.lineage import LineageRepository
from pipeline_tasks.catalog.set_aside import Retirement, SetAsideRepository
from pipeline_tasks.errors import ConfigError, printable
from pipeline_tasks.guards.reason import stated

MAX_REASON = 1000
MIN_CHARACTERS = 4


@dataclasses.dataclass(frozen=True, slots=True)
class Retired:
    """An item's retirement as it stands, and the epochs of the exams that hold the item."""

    record: Retirement
    epochs: tuple[int, ...]
    is_new: bool


def retire(database: Database, project: str, beginning: str, *, reason: str, by: str, now: dt.datetime) -> Retired:
    """Record that an item is out of use; who did it first, and why, stays.

    Raises:
        ConfigError: the reason is empty, or the id is (the beginning of) no item of the project, or of several.
    """
    said = printable(stated(reason), limit=MAX_REASON)
    repository = SetAsideRepository(database)
    item_id = _item_of(LineageRepository(database), project, beginning.strip())
    wanted = Retirement(project, item_id, said, by, now)
    record = repository.retire(wanted)
    return Retired(record, tuple(repository.exams_with(project, item_id)), is_new=record == wanted)


def _item_of(lineage: LineageRepository, project: str, beginning: str) -> str:
    projects = lineage.projects()
    if project not in projects:
        raise ConfigError(
            f"project must be one that the catalog knows (got {printable(project)}). "
            f"Known: {', '.join(projects) or 'none'}."
        )
    beginning = printable(beginning)
    if len(beginning) < MIN_CHARACTERS:
        raise ConfigError(f"id must have {MIN_CHARACTERS} characters or more (got {beginning!r}). Give more of it.")
    item_ids = [subject.id for subject in lineage.find(beginning, kind="item", project=project, limit=2)]
    if not item_ids:
        raise ConfigError(
            f"id must be (the beginning of) an item's id of {project} (got {printable(beginning)}). "
            "`dethrone quarantine`, a verdict's report and the error messages show them."
        )
    if len(item_ids) > 1 and beginning not in item_ids:
        raise ConfigError(f"id must name one item (got {beginning}, which begins several). Give more of it.")
    return beginning if beginning in item_ids else item_ids[0]


def as_json(retired: Retired) -> dict[str, Any]:
    """Return a retirement as JSON values."""
    return {**dataclasses.asdict(retired.record), "at": retired.record.at.isoformat(), "epochs": list(retired.epochs)}


def as_text(retired: Retired) -> str:
    """Return a retirement for people."""
    record = retired.record
    head = f"Item {record.item_id[:12]} of {record.project} is retired."
    if not retired.is_new:
        head = f"Item {record.item_id[:12]} of {record.project} was retired by {record.by} before: {record.reason}."
    epochs = ", ".join(str(epoch) for epoch in retired.epochs)
    exams = f" Exam epochs that hold it: {epochs}; the next verdicts on them leave it out and say so." if epochs else ""
    return f"{head} New snapshots and exams leave it out.{exams}"
