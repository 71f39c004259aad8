"""What people ask of the catalog: reports, quarantine, invariants, the overview. Only reads."""

from __future__ import annotations

import dataclasses
import datetime as dt
import getpass
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from pipeline_tasks.assembly import Parts, build_parts, utc_now
from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.after_alarm import after_alarm, awaited
from pipeline_tasks.catalog.database import Database
from pipeline_tasks.catalog.disputes import DisputeRepository
from pipeline_tasks.catalog.items import ItemRepository
from pipeline_tasks.catalog.ledger_repository import record_look
from pipeline_tasks.catalog.monitoring import MonitoringRepository
from pipeline_tasks.catalog.runs import RunRepository
from pipeline_tasks.catalog.serving import RouteRecord, ServingRepository
from pipeline_tasks.catalog.verdicts import ApprovalRepository, VerdictRepository
from pipeline_tasks.contracts import RouteEntry
from pipeline_tasks.deployment.plan import is_mixed
from pipeline_tasks.deployment.rolling import ENDED
from pipeline_tasks.deployment.rollout import share_of
from pipeline_tasks.errors import ConfigError
from pipeline_tasks.evaluation.approval import read_report
from pipeline_tasks.evaluation.open_epoch import held_back, told_reasons
from pipeline_tasks.project import LoadedProject
from pipeline_tasks.project_loader import load_projects
from pipeline_tasks.runs.outcome import RunFacts
from pipeline_tasks.wiring.overview_page import BesideLine, ProjectLine, RunLine

_KINDS = {"experiment_start": "experiment"}  # a shadow and a canary are called so


@dataclasses.dataclass(frozen=True, slots=True)
class LabelingState:
    """The state of labeling: what has a label, and what is open.

    Of the items on which people differ, `num_asked` are asked of a further person, `num_disputed` stay out.
    """

    num_items: int
    num_labels: int
    num_outstanding: int
    num_disputed: int
    num_asked: int


def labeling_state(database: Database, project: str) -> LabelingState:
    """Return the counts of a project's items, decided labels and open labeling tasks."""
    decisions, tasks = t.label_decisions.c, t.labeling_tasks.c
    newest = (
        sa.select(decisions.item_id, sa.func.max(decisions.version).label("version"))
        .where(decisions.project == project)
        .group_by(decisions.item_id)
        .subquery()
    )
    by_status = (
        sa.select(decisions.status, sa.func.count())
        .join(newest, sa.and_(decisions.item_id == newest.c.item_id, decisions.version == newest.c.version))
        .where(decisions.project == project)
        .group_by(decisions.status)
    )
    num_asked = sum(DisputeRepository(database).num_asked(project).values())
    with database.read() as connection:
        statuses = {str(status): int(count) for status, count in connection.execute(by_status).all()}
        return LabelingState(
            num_items=_count(connection, t.items, project),
            num_labels=statuses.get("decided", 0),
            num_disputed=statuses.get("disputed", 0) - num_asked,
            num_asked=num_asked,
            num_outstanding=_count(connection, t.labeling_tasks, project, tasks.state != "done"),
        )


def _count(connection: sa.Connection, table: sa.Table, project: str, *conditions: Any) -> int:
    query = sa.select(sa.func.count()).select_from(table).where(table.c.project == project, *conditions)
    return int(connection.execute(query).scalar_one())


def run_facts(parts: Parts, project: str, *, run_id: str, verdict_id: str | None, opened_at: dt.datetime) -> RunFacts:
    """Return what the catalog knows of one training run.

    `verdict_id` is what the run's judging came to, which may be the verdict of an earlier run on the same question;
    a person's answers count from the run's opening on. Its reasons are what is told of it now.
    """
    database = parts.database
    verdict = VerdictRepository(database).find(project, verdict_id) if verdict_id else None
    verdict_ref = verdict.ref if verdict else None
    answers = ApprovalRepository(database).history(project, verdict_ref.verdict_id) if verdict_ref else []
    answer = next((one for one in reversed(answers) if one.at >= opened_at), None)
    mine = [one for one in ServingRepository(database).records(project) if one.attempt.startswith(f"{run_id}/")]
    promoted = [one for one in mine if one.action == "promote"]
    ended = [one for one in mine if one.action in ENDED]
    model = t.model_versions.c
    with database.read() as connection:
        trained = connection.execute(
            sa.select(model.version).where(model.project == project, model.run_id == run_id)
        ).scalars().first()  # fmt: skip
    return RunFacts(
        contender_version=verdict_ref.contender_version if verdict_ref else trained,
        verdict_answer=verdict_ref.answer if verdict_ref else None,
        verdict_reasons=told_reasons(parts.database, parts.store, verdict) if verdict else (),
        approval=answer.decision if answer else None,
        promoted_generation=promoted[-1].route.generation if promoted else None,
        rollout_ended=(ENDED[ended[-1].action], ended[-1].reason) if ended else None,
    )


def save_report(project: str, *, verdict: str | None, output: Path | None, exact: bool = False) -> str:
    """Write a verdict's report into a file and return where it is.

    Of a verdict whose epoch is open that is what is told of it; all of it (`exact`) stands in the ledger then.
    """
    parts = build_parts()
    verdicts = VerdictRepository(parts.database).history(project)
    chosen = [one for one in verdicts if verdict is None or one.ref.verdict_id.startswith(verdict)]
    if not chosen or (verdict is not None and len(chosen) > 1):
        known = ", ".join(one.ref.verdict_id[:12] for one in verdicts[-10:]) or "none yet"
        raise ConfigError(f"verdict must name one verdict of {project} (got {verdict}). The newest: {known}.")
    ref = chosen[-1].ref
    path = output or Path(f"report-{project}-{ref.verdict_id[:12]}.html")
    page, held = read_report(parts.store, chosen[-1]), held_back(parts.database, parts.store, chosen[-1])
    if held is None:
        path.write_bytes(page)
        return f"{ref.answer}: {'; '.join(ref.reasons)}\nThe report is in {path}"
    if exact:
        digest, by = chosen[-1].digest, getpass.getuser()
        record_look(parts.database, project, ref.verdict_id, digest=digest, by=by, now=utc_now())
    path.write_bytes(page if exact else held.page.encode())
    reasons = ref.reasons if exact else told_reasons(parts.database, parts.store, chosen[-1])
    more = "" if exact else " Its exam is open: `--exact` writes the figures and items too, and the ledger says so."
    return f"{ref.answer}: {'; '.join(reasons)}\nThe report is in {path}.{more}"


def quarantine(project: str, *, limit: int, page: int, as_json: bool) -> Any:
    """Return one page of what was not accepted, with reasons, and how much it is in all."""
    items = ItemRepository(build_parts().database)
    total, start = items.count_quarantined(project), (page - 1) * limit
    rows = [dataclasses.asdict(one) for one in items.quarantined(project, limit=limit, offset=start)]
    if as_json:
        return {"total": total, "limit": limit, "page": page, "rows": rows}
    if not total:
        return f"Nothing of {project} is in quarantine."
    if not rows:
        return f"Page {page} is empty: {project} has {total:,} in quarantine."
    lines = [f"{row['code']:<20}  {row['source']}:{row['key']}  {row['reason']}" for row in rows]
    if len(rows) < total:
        more = f"; the next ones: --page {page + 1}" if start + len(rows) < total else ""
        lines.append(f"{start + 1:,} to {start + len(rows):,} of {total:,}{more}")
    return "\n".join(lines)


def overview_lines(parts: Parts) -> list[ProjectLine]:
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


def _line(parts: Parts, loaded: LoadedProject) -> ProjectLine:
    from pipeline_tasks.catalog.datasets import DatasetRepository
    from pipeline_tasks.wiring.labelers import disagreeing_line

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
    others = [one for one in (*head.route.entries, *head.route.shadows) if not _is_champions(head, one)]
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
    held = itertools.takewhile(lambda one: share_of(one.route, deployment_id) is not None, reversed(records))
    return min(one.created_at for one in held)


def _champion_since(records: Sequence[RouteRecord]) -> dt.datetime | None:
    """Return when the champion became it: steps of a rollout and experiments move the route, and leave it champion."""
    mine = itertools.takewhile(
        lambda one: one.route.champion_version == records[-1].route.champion_version, reversed(records)
    )
    return min((one.created_at for one in mine), default=None)


def _links(parts: Parts, project: str) -> tuple[tuple[str, str], ...]:
    settings = parts.settings
    query = sa.select(t.projects.c.ls_project_ids).where(t.projects.c.project == project)
    with parts.database.read() as connection:
        ids = connection.execute(query).scalar_one_or_none() or {}
    verdicts = VerdictRepository(parts.database).history(project)
    found = [("DAGs", f"{settings.airflow_url}/dags?tags={project}")]
    found += [
        (f"Label Studio ({queue})", f"{settings.label_studio_url}/projects/{number}/data")
        for queue, number in ids.items()
    ]
    found += [("Data checks", "/dethrone/data-docs/index.html")]
    if page := MonitoringRepository(parts.database).newest_page(project):
        found.append(("Newest monitor report", f"/dethrone/reports/{page}"))
    if verdicts:
        found.append(("Newest verdict", f"/dethrone/reports/{verdicts[-1].ref.object_key}/report.html"))
    return tuple(found)
