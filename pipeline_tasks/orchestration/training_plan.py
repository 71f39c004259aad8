"""The decision to train, from the catalog: new labels, the recipe, an alarm, and people who are labeling now."""

from __future__ import annotations

import datetime as dt
from typing import Any

import sqlalchemy as sa

from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.database import Database
from pipeline_tasks.catalog.datasets import DatasetRepository
from pipeline_tasks.catalog.labeling_tasks import has_decision
from pipeline_tasks.catalog.monitoring import MonitoringRepository
from pipeline_tasks.catalog.runs import RunRepository
from pipeline_tasks.catalog.schema_versions import SchemaRepository
from pipeline_tasks.catalog.set_aside import is_usable
from pipeline_tasks.contracts import Attempt, Queue
from pipeline_tasks.core.clock import utc_now
from pipeline_tasks.core.crash_points import crash_point
from pipeline_tasks.errors import GateClosed
from pipeline_tasks.models.registry import code_digest_of
from pipeline_tasks.orchestration.resources import Resources
from pipeline_tasks.orchestration.run_outcome import LONGEST_WAIT, OpenTasks, labelers_busy
from pipeline_tasks.project.schema import LoadedProject
from pipeline_tasks.validation import task as validation_task
from pipeline_tasks.validation.after_alarm import EXAM_AWAITED, AfterAlarm, after_alarm, awaited, awaited_text
from pipeline_tasks.validation.training_trigger import changed_keys

RUN_DEADLINE = dt.timedelta(days=7)


def plan(parts: Resources, project: str, *, attempt: Attempt, force: bool) -> dict[str, Any]:
    """Open a training run where there is something to train on and nothing to wait for; else say why not (`idle`)."""
    now = utc_now()
    runs = RunRepository(parts.database)
    runs.sweep(project, at=now)
    loaded = parts.project(project)
    recipe = recipe_facts(loaded)
    gate = loaded.config.gate
    after = after_alarm(parts.database, project, gate)
    waits = awaited(after, gate)
    last = next(iter(runs.list(project, kind="train", limit=1)), None)
    decision = validation_task.plan_training(
        loaded,
        datasets=DatasetRepository(parts.database),
        store=parts.store,
        force=force,
        alarm=MonitoringRepository(parts.database).has_open_alarm(project),
        # However it ended: what was tried is not tried again.
        changed=changed_keys(last.info.get("recipe") if last else None, recipe),
        num_waiting=num_waiting_labels(parts.database, loaded),
        exam_has_come=last is not None and last.reason_code == EXAM_AWAITED and waits is None,
    )
    idle = None if decision.train else decision.reason
    if decision.train and not force and waits is not None and not waits.can_open:
        idle = awaited_text(waits, project=project)
    elif decision.train and not force:
        idle = labelers_busy(
            open_tasks(parts.database, loaded, now=now),
            last_answer_at=_last_answer_at(parts.database, project),
            now=now,
            project=project,
        )
    if idle:
        return {"idle": idle, "num_new_labels": decision.num_new_labels}
    deadline = now + RUN_DEADLINE
    crash_point("plan.open.before")
    info = {"recipe": recipe, "forced": force}
    runs.open(project, run_id=attempt.run_id, kind="train", deadline_at=deadline, at=now, info=info)
    crash_point("plan.open.recorded")
    plan = {"reason": decision.reason, "code": decision.code, "num_new_labels": decision.num_new_labels}
    return plan | ({"alarm": after.text} if after is not None else {})


def exam_after_alarm(parts: Resources, project: str, *, run_id: str) -> tuple[AfterAlarm | None, AfterAlarm | None]:
    """Return how far the exam is after the alarm that stands, and the same where this run has to wait for it."""
    gate = parts.project(project).config.gate
    after = after_alarm(parts.database, project, gate)
    run = RunRepository(parts.database).get(project, run_id)
    return after, None if run is not None and run.info.get("forced") else awaited(after, gate)


def refuse_awaited(waits: AfterAlarm | None, *, project: str) -> None:
    """Raise GateClosed where the exam is waited for: nothing is trained or judged, and what was trained is kept."""
    if waits is not None:
        raise GateClosed(awaited_text(waits, project=project), code=EXAM_AWAITED)


def recipe_facts(project: LoadedProject) -> dict[str, Any]:
    """Return what makes a recipe another one, by the key of project.yaml that it stands in; no code of it is run."""
    config = project.config
    return {
        "recipe.name": config.recipe.name,
        "the code of the recipe": code_digest_of(config.recipe.name, folder=project.folder),
        "recipe.params": config.recipe.params,
        "recipe.tune": config.recipe.tune.model_dump(),
        "serving.runtime": config.serving.runtime,
    }


def num_waiting_labels(database: Database, project: LoadedProject) -> int:
    """Return how many good items came with a label that `annotate` would take over and has not yet."""
    labels, item = project.config.labels, t.items.c
    if labels.imported == "ignore":
        return 0
    waiting = (
        item.project == project.name,
        item.source_label.in_(SchemaRepository(database).names_told(project.name, labels.classes)),
        is_usable(project.name),
        ~has_decision(),
        *(() if labels.imported_in_exam else (item.split != "exam",)),
    )
    with database.read() as connection:
        return int(connection.execute(sa.select(sa.func.count()).select_from(t.items).where(*waiting)).scalar_one())


def open_tasks(database: Database, project: LoadedProject, *, now: dt.datetime) -> list[OpenTasks]:
    """Return what people may be working on, by queue; labels that are frozen in an exam are none to wait beside."""
    task = t.labeling_tasks.c
    asked = sa.func.coalesce(task.pushed_at, task.requested_at)
    since = sa.literal(now - LONGEST_WAIT, t.UtcDateTime())
    query = (
        sa.select(task.queue, sa.func.count())
        .where(task.project == project.name, task.state != "done", asked >= since)
        .group_by(task.queue)
    )
    with database.read() as connection:
        num_open = {str(queue): int(count) for queue, count in connection.execute(query)}
    if not num_open:
        return []
    needed: dict[Queue, int] = {
        "label": project.config.train.min_new_labels,
        "exam": project.config.gate.exam.min_items,
    }
    labels = project.config.labels
    decided = DatasetRepository(database).num_decided(project.name, imported_in_exam=labels.imported_in_exam)
    return [OpenTasks(queue, num_open.get(queue, 0), decided[queue], needed[queue]) for queue in needed]


def _last_answer_at(database: Database, project: str) -> dt.datetime | None:
    answers = t.annotations.c
    query = sa.select(sa.func.max(answers.collected_at)).where(answers.project == project)
    with database.read() as connection:
        newest: dt.datetime | None = connection.execute(query).scalar_one()
    return newest
