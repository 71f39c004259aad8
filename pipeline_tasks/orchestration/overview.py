"""Answers from the catalog for people: reports, quarantine, invariants, the overview. Only reads."""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import itertools
import re
import threading
import time
from collections.abc import Iterable, Sequence

import sqlalchemy as sa

from pipeline_tasks.annotation.labeling_report import LabelingReport, as_page, labeling_report
from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.database import Database
from pipeline_tasks.catalog.items import ItemRepository
from pipeline_tasks.catalog.labeling_state import labeling_state
from pipeline_tasks.catalog.labels import LabelRepository
from pipeline_tasks.catalog.monitoring import MonitoringRepository
from pipeline_tasks.catalog.routes import RouteRecord, ServingRepository
from pipeline_tasks.catalog.runs import RunRepository
from pipeline_tasks.catalog.verdicts import VerdictRepository
from pipeline_tasks.contracts import RouteEntry
from pipeline_tasks.core.clock import utc_now
from pipeline_tasks.core.object_keys import names_digest
from pipeline_tasks.deployment.canary_analysis import share_of
from pipeline_tasks.deployment.route_plan import is_mixed
from pipeline_tasks.evaluation import approval
from pipeline_tasks.evaluation.open_epoch import held_back
from pipeline_tasks.orchestration.overview_page import BesideLine, ProjectLine, RunLine, render_overview
from pipeline_tasks.orchestration.resources import Resources, build_resources
from pipeline_tasks.project.loader import load_projects
from pipeline_tasks.project.schema import LoadedProject
from pipeline_tasks.validation.after_alarm import after_alarm, awaited

_KINDS = {"experiment_start": "experiment"}  # a shadow and a canary are called so


def overview_lines(parts: Resources) -> list[ProjectLine]:
    """Return what the overview page shows, one entry per valid project."""
    projects, _errors = load_projects(parts.settings.projects_dir)
    return [_line(parts, loaded) for loaded in projects]


def _exam_of_alarm(database: Database, loaded: LoadedProject) -> list[str]:
    """Return how far the exam is after the alarm that stands, and what waits for it."""
    gate = loaded.config.gate
    after = after_alarm(database, loaded.name, gate)
    if after is None:
        return []
    waits = " Training waits for the exam (gate.after_alarm)." if awaited(after, gate) else ""
    return [f"{after.text[:1].upper()}{after.text[1:]}.{waits}"]


def _line(parts: Resources, loaded: LoadedProject) -> ProjectLine:
    from pipeline_tasks.catalog.datasets import DatasetRepository
    from pipeline_tasks.orchestration.labeler_status import disagreeing_line

    project, description = loaded.name, loaded.config.description
    monitoring = MonitoringRepository(parts.database)
    records = ServingRepository(parts.database).records(project)
    state = labeling_state(parts.database, project)
    datasets = DatasetRepository(parts.database)
    exams, labels = datasets.exams(project), disagreeing_line(project, datasets.check_of(project, stage="labels"))
    runs = RunRepository(parts.database).list(project, kind="train", state="closed", limit=8)
    return ProjectLine(
        name=project,
        description=description,
        champion=records[-1].route.champion_version if records else None,
        generation=records[-1].route.generation if records else 0,
        champion_since=_champion_since(records),
        num_items=state.num_items,
        num_labels=state.num_labels,
        num_outstanding=state.num_outstanding,
        num_quarantined=ItemRepository(parts.database).count_quarantined(project),
        exam_epoch=exams[0].epoch if exams else None,
        exam_items=exams[0].num_items if exams else 0,
        live_quality=monitoring.quality_text(project),
        alarms=(
            *monitoring.open_alarms(project),
            *_exam_of_alarm(parts.database, loaded),
            *([labels] if labels else ()),
        ),
        links=_links(parts, project),
        beside=_beside(records),
        runs=tuple(
            RunLine(run.closed_at or run.opened_at, str(run.outcome), f"{run.reason_code}: {run.reason}")
            for run in runs
        ),
    )


def _beside(records: Sequence[RouteRecord]) -> tuple[BesideLine, ...]:
    """Return what runs beside the champion now, and since when; a rollout's steps are one rollout."""
    if not records or not is_mixed(records[-1].route):
        return ()
    head = records[-1]
    kind = _KINDS.get(head.action, head.action)
    others = [entry for entry in (*head.route.entries, *head.route.shadows) if not _is_champions(head, entry)]
    return tuple(
        BesideLine(
            kind=kind,
            version=entry.model_version,
            deployment_id=entry.deployment_id,
            share=entry.weight,
            since=_beside_since(records, entry.deployment_id),
            step_since=head.created_at,
            said=head.reason,
        )
        for entry in others
    )


def _is_champions(record: RouteRecord, entry: RouteEntry) -> bool:
    return entry.model_version == record.route.champion_version


def _beside_since(records: Sequence[RouteRecord], deployment_id: str) -> dt.datetime:
    held = itertools.takewhile(lambda record: share_of(record.route, deployment_id) is not None, reversed(records))
    return min(record.created_at for record in held)


def _champion_since(records: Sequence[RouteRecord]) -> dt.datetime | None:
    """Return when the champion became it: steps of a rollout and experiments move the route, and leave it champion."""
    mine = itertools.takewhile(
        lambda record: record.route.champion_version == records[-1].route.champion_version, reversed(records)
    )
    return min((record.created_at for record in mine), default=None)


def _links(parts: Resources, project: str) -> tuple[tuple[str, str], ...]:
    settings = parts.settings
    query = sa.select(t.projects.c.ls_project_ids).where(t.projects.c.project == project)
    with parts.database.read() as connection:
        ids = connection.execute(query).scalar_one_or_none() or {}
    verdicts = VerdictRepository(parts.database).history(project)
    links = [("DAGs", f"{settings.airflow_url}/dags?tags={project}")]
    links += [
        (f"Label Studio ({queue})", f"{settings.label_studio_url}/projects/{number}/data")
        for queue, number in ids.items()
    ]
    links += [("Labels", f"/dethrone/labels/{project}"), ("Data checks", "/dethrone/data-docs/index.html")]
    if page := MonitoringRepository(parts.database).newest_page(project):
        links.append(("Newest monitor report", f"/dethrone/reports/{page}"))
    if verdicts:
        links.append(("Newest verdict", f"/dethrone/reports/{verdicts[-1].ref.object_key}/report.html"))
    return tuple(links)


_MONITOR_PAGE = re.compile(r"reports/([^/]+)/monitor/[^/]+\.html")
_VERDICT_REPORT = re.compile(rf"verdicts/([^/]+)/([^/]+)/{re.escape(approval.REPORT_NAME)}")


def overview_html() -> str:
    """Return the overview page."""
    return render_overview(overview_lines(_shared_parts()))


def labeling_of(parts: Resources, project: str) -> LabelingReport:
    """Return the report of a project's labeling.

    Raises:
        ConfigError: there is no such project.
    """
    return labeling_report(parts.project(project), labels=LabelRepository(parts.database), now=utc_now())


def labels_html(project: str, *, people: bool) -> str:
    """Return the page of a project's labeling, with or without the figures of persons; of the last minute at most."""
    with _one_at_a_time:
        report = _labeling_of_minute(project, int(time.monotonic() // 60))
    return as_page(report if people else dataclasses.replace(report, people=None))


_one_at_a_time = threading.Lock()  # the estimate of who is right takes seconds on tens of thousands of answers


@functools.lru_cache(maxsize=16)
def _labeling_of_minute(project: str, minute: int) -> LabelingReport:  # noqa: ARG001 - the key of the cache
    return labeling_of(_shared_parts(), project)


def project_of(key: str) -> str | None:
    """Return the project of a verdict's report, or None of another page."""
    named = _VERDICT_REPORT.fullmatch(key)
    return named[1] if named else None


def read_report(key: str, *, exact: bool) -> bytes:
    """Return a stored report as it was when its digest was recorded.

    Not `exact`: of a verdict whose epoch is open, what is told of it.

    Raises:
        KeyError: there is no such report, or it is of no recorded verdict or look and its key names no digest.
        DataCorrupt: what is stored is another page.
    """
    parts = _shared_parts()
    if not (named := _VERDICT_REPORT.fullmatch(key)):
        if not (names_digest(key) or _is_newest_of_older_release(parts, key)):
            raise KeyError(key)
        return parts.store.get(key)
    record = VerdictRepository(parts.database).find(named[1], named[2])
    if record is None:
        raise KeyError(key)
    page = approval.read_report(parts.store, record)
    held = None if exact else held_back(parts.database, parts.store, record)
    return page if held is None else held.page.encode()


def _is_newest_of_older_release(parts: Resources, key: str) -> bool:
    """Return whether it is the page of the newest look of a monitor that wrote no digest into its key."""
    named = _MONITOR_PAGE.fullmatch(key)
    return named is not None and MonitoringRepository(parts.database).newest_page(named[1]) == key


def projects_with_labelers(names: Iterable[str]) -> list[str]:
    """Return those of the projects that are in Label Studio."""
    labels = LabelRepository(_shared_parts().database)
    return [name for name in sorted(names) if labels.registration(name) is not None]


@functools.cache
def _shared_parts() -> Resources:
    return build_resources()
