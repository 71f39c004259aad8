"""Annotate: items without a label go to people. Collect: their answers come back as decisions."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline_tasks.annotation.collect import Collection
from pipeline_tasks.annotation.label_studio_projects import QUEUES, ensure, labeling_config
from pipeline_tasks.annotation.people import missing_people
from pipeline_tasks.annotation.push import CHUNK_ITEMS, PushCounts, QueuePush
from pipeline_tasks.annotation.task_rendering import is_suggestion
from pipeline_tasks.catalog.database import Database
from pipeline_tasks.catalog.items import ItemRepository
from pipeline_tasks.catalog.labels import LabelRepository
from pipeline_tasks.catalog.schema_versions import SchemaRepository
from pipeline_tasks.contracts import AnnotateReport, Attempt, CollectReport, Fence, Item
from pipeline_tasks.core.crash_points import crash_point
from pipeline_tasks.core.object_keys import ITEMS
from pipeline_tasks.core.ports import LabelingTool, ObjectStore
from pipeline_tasks.project.labeling_config import LabelingConfig
from pipeline_tasks.project.schema import LoadedProject

SUGGEST_ITEMS = 200

# Item id -> {"label": class, "score": confidence from 0 to 1}; items that it leaves out get no suggestion.
Suggest = Callable[[Sequence[Item]], Mapping[str, Mapping[str, Any]]]

__all__ = ["Suggest", "annotate", "collect", "ensure"]


def annotate(
    project: LoadedProject,
    *,
    labels: LabelRepository,
    store: ObjectStore,
    labeling: LabelingTool,
    installation: str,
    attempt: Attempt,
    database: Database,
    now: dt.datetime,
    suggestions: Suggest | None = None,
    chunk_items: int = CHUNK_ITEMS,
) -> AnnotateReport:
    """Accept labels that came with the source, and put every other item without a label into Label Studio, once.

    A project without an item is left alone: its classes are still those of the template.

    Raises:
        StaleAttempt: a newer attempt goes on; this one stopped before its next effect.
        GateClosed: SCHEMA_DRIFT.
    """
    fence = database.acquire(f"{project.name}/annotate", attempt, now=now)
    if labels.registration(project.name) is None and not labels.has_items(project.name):
        return AnnotateReport(project.name, 0, 0, 0, 0, ls_project_ids={})
    shows_objects = project.config.modality == "image" and next(iter(store.list(ITEMS)), None) is not None
    ids = ensure(
        project,
        labels=labels,
        labeling=labeling,
        installation=installation,
        now=now,
        shows_objects=shows_objects,
        fence=fence,
    )
    config = _config_of(project, database)
    crash_point("annotate.request.before")
    num_imported = _accept_imported(project, labels=labels, now=now, fence=fence)
    in_exam = project.config.labels.imported_in_exam
    num_requested = labels.request_unlabeled(project.name, imported_in_exam=in_exam, now=now, fence=fence)
    crash_point("annotate.request.recorded")
    if suggestions is not None and project.config.labels.suggestions:
        _suggest(project.name, config, labels=labels, suggestions=suggestions, fence=fence)
    counts = PushCounts()
    for queue in QUEUES:
        push = QueuePush(
            project=project.name,
            queue=queue,
            ls_project_id=ids[queue],
            modality=project.config.modality,
            config=config,
            show_suggestions=project.config.labels.suggestions,
            labels=labels,
            store=store,
            labeling=labeling,
            database=database,
            fence=fence,
            now=now,
            chunk_items=chunk_items,
            deny=project.config.deny_list,
        )
        counts = counts.plus(push.run())
    return AnnotateReport(
        project=project.name,
        num_requested=num_requested,
        num_pushed=counts.num_pushed,
        num_adopted=counts.num_adopted,
        num_duplicates_removed=counts.num_duplicates_removed,
        ls_project_ids={str(queue): project_id for queue, project_id in ids.items()},
        num_imported_labels=num_imported,
        note=missing_people(project, labels=labels, labeling=labeling),
    )


def collect(
    project: LoadedProject,
    *,
    labels: LabelRepository,
    items: ItemRepository,
    labeling: LabelingTool,
    installation: str,
    attempt: Attempt,
    database: Database,
    now: dt.datetime,
) -> CollectReport:
    """Bring back what changed in Label Studio since the last run and decide the labels anew where they changed.

    Raises:
        StaleAttempt: a newer attempt goes on; this one recorded nothing more.
        GateClosed: SCHEMA_DRIFT.
    """
    fence = database.acquire(f"{project.name}/collect", attempt, now=now)
    if labels.registration(project.name) is None:
        return CollectReport(project.name, 0, 0, 0, 0, 0)
    ids = ensure(project, labels=labels, labeling=labeling, installation=installation, now=now, fence=fence)
    run = Collection(
        project=project,
        config=_config_of(project, database),
        labels=labels,
        items=items,
        labeling=labeling,
        fence=fence,
        now=now,
    )
    for queue in QUEUES:
        run.collect_queue(queue, ls_project_id=ids[queue])
    note = missing_people(project, labels=labels, labeling=labeling)
    return dataclasses.replace(run.report(), note=note)


def _config_of(project: LoadedProject, database: Database) -> LabelingConfig:
    return dataclasses.replace(labeling_config(project), former=SchemaRepository(database).names_now(project.name))


def _accept_imported(project: LoadedProject, *, labels: LabelRepository, now: dt.datetime, fence: Fence) -> int:
    wanted = project.config.labels
    registered = labels.registration(project.name)
    if wanted.imported == "ignore" or registered is None:
        return 0
    in_exam = wanted.imported_in_exam
    num_imported = labels.accept_imported(
        project.name, classes=wanted.classes, schema_version=registered[1], in_exam=in_exam, now=now, fence=fence
    )
    labels.close_imported(project.name, in_exam=in_exam, fence=fence)
    return num_imported


def _suggest(
    project: str, config: LabelingConfig, *, labels: LabelRepository, suggestions: Suggest, fence: Fence
) -> None:
    after = ""
    while waiting := labels.without_prediction(project, limit=SUGGEST_ITEMS, after=after):
        suggested = suggestions(waiting)
        good = {item_id: suggestion for item_id, suggestion in suggested.items() if is_suggestion(config, suggestion)}
        labels.suggest(project, good, fence=fence)
        after = waiting[-1].item_id
