"""The gate with its resources: which champion, which exams, which bytes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from pipeline_tasks.catalog.datasets import DatasetRepository
from pipeline_tasks.catalog.disputes import DisputeRepository
from pipeline_tasks.catalog.exam_window import ExamLabels
from pipeline_tasks.catalog.items import ItemRepository
from pipeline_tasks.catalog.model_versions import ModelRepository
from pipeline_tasks.catalog.routes import ServingRepository
from pipeline_tasks.catalog.schema_versions import SchemaRepository
from pipeline_tasks.catalog.set_aside import SetAsideRepository
from pipeline_tasks.catalog.verdicts import ApprovalRecord, ApprovalRepository, VerdictRecord, VerdictRepository
from pipeline_tasks.contracts import Attempt, ExamRef, Item, Leak, ModelRef, VerdictRef
from pipeline_tasks.core.clock import utc_now
from pipeline_tasks.errors import DataCorrupt, PermanentError
from pipeline_tasks.evaluation import approval, scoring
from pipeline_tasks.evaluation import task as evaluation_task
from pipeline_tasks.evaluation.open_epoch import held_back
from pipeline_tasks.ingest.item_reader import PlaceReader
from pipeline_tasks.orchestration.ledger_anchors import note_head
from pipeline_tasks.orchestration.ledger_seals import seal
from pipeline_tasks.orchestration.links import links_of
from pipeline_tasks.orchestration.resources import Resources
from pipeline_tasks.orchestration.training_plan import exam_after_alarm
from pipeline_tasks.validation import leakage
from pipeline_tasks.validation.after_alarm import awaited_text


def judge_contender(
    parts: Resources, project: str, *, attempt: Attempt, version: str, epochs: Collection[int]
) -> VerdictRef:
    """Score the contender and the champion that serves on the given exam epochs."""
    datasets = DatasetRepository(parts.database)
    exams = [exam for exam in datasets.exams(project) if exam.epoch in set(epochs)]
    newest = max(epochs, default=0)
    after, waits = exam_after_alarm(parts, project, run_id=attempt.run_id)
    context = evaluation_task.GateContext(
        load=scoring.load_stored(parts.store),
        read=PlaceReader(parts.store),
        find_leaks=lambda snapshot_id, refs: _leaks(parts, project, snapshot_id, refs),
        find_items=lambda item_ids: items_of(parts, project, item_ids),
        find_groups=lambda ref: leakage.exam_groups(parts.project(project), ref, store=parts.store),
        find_labels=lambda refs: _labels(parts, project, refs),
        retired=retired_items(parts, project),
        former=SchemaRepository(parts.database).names_now(project),
        store=parts.store,
        database=parts.database,
        attempt=attempt,
        now=utc_now(),
    )
    verdict = evaluation_task.judge(
        parts.project(project),
        model_of(parts, project, version),
        exams,
        champion=champion_of(parts, project),
        context=context,
        opened=[at for epoch, at in datasets.exam_openings(project).items() if epoch <= newest],
        alarm=after.text if after is not None else None,
        awaited=awaited_text(waits, project=project) if waits is not None else None,
    )
    seal(parts, project)
    note_head(parts, project)
    return verdict


def retired_items(parts: Resources, project: str) -> dict[str, str]:
    """Return who took which item out of use, when and why."""
    retirements = SetAsideRepository(parts.database).retirements(project)
    return {
        item_id: f"retired by {retirement.by} on {retirement.at:%Y-%m-%d}: {retirement.reason}"
        for item_id, retirement in retirements.items()
    }


def champion_of(parts: Resources, project: str) -> ModelRef | None:
    """Return the model version that serves, or None before the first promotion."""
    head = ServingRepository(parts.database).head_route(project)
    return None if head is None else model_of(parts, project, head.champion_version)


def model_of(parts: Resources, project: str, version: str) -> ModelRef:
    """Return a recorded model version.

    Raises:
        PermanentError: MODEL_UNKNOWN. A champion that is not in the catalog is an error, never a win.
    """
    record = ModelRepository(parts.database).get(project, version)
    if record is None:
        raise PermanentError(f"version must be a model of {project} (got {version}).", code="MODEL_UNKNOWN")
    return record.ref


def items_of(parts: Resources, project: str, item_ids: Collection[str]) -> list[Item]:
    """Return the items in the order of their ids.

    Raises:
        DataCorrupt: an id is in no table, although something refers to it.
    """
    items = ItemRepository(parts.database).get(project, item_ids)
    missing = sorted(set(item_ids) - set(items))
    if missing:
        raise DataCorrupt(f"{len(missing)} items of {project} must be in the catalog (got none for {missing[0][:16]}).")
    return [items[item_id] for item_id in item_ids]


def _leaks(parts: Resources, project: str, snapshot_id: str, exams: Sequence[ExamRef]) -> list[Leak]:
    snapshot = DatasetRepository(parts.database).snapshot(project, snapshot_id)
    return leakage.find_leaks(parts.project(project), snapshot, exams, store=parts.store)


def _labels(parts: Resources, project: str, exams: Sequence[ExamRef]) -> ExamLabels:
    """Return what the labels of these epochs are worth, from the opening of the one before them on."""
    opened = DatasetRepository(parts.database).exam_openings(project)
    epochs = [exam.epoch for exam in exams]
    before = opened.get(min(epochs) - 1)
    return DisputeRepository(parts.database).exam_labels(project, epochs, after=before, until=opened[max(epochs)])


def approval_request_of(parts: Resources, project: str, *, verdict_id: str) -> dict[str, Any]:
    """Return whether to ask a person (`needed`), the words to ask with (`body`), or `idle` where nothing may ship.

    A run that adopts a verdict passes where a yes stands, and asks again after a no or no answer.
    """
    record = verdict_record(parts, project, verdict_id)
    if record.ref.answer != "promote":
        return {"idle": f"the verdict is {record.ref.answer}: the champion stays"}
    policy = parts.project(project).config.approval
    latest = ApprovalRepository(parts.database).latest(project, verdict_id)
    needed = approval.approval_needed(policy, record.ref) and not approval.is_valid_yes(policy, latest)
    links = links_of(parts.settings, report=f"{record.ref.object_key}/report.html")
    body = _approval_body(parts, record, latest=latest) if needed else ""
    return {"needed": needed, "verdict_id": verdict_id, "body": body, "links": links}


def verdict_record(parts: Resources, project: str, verdict_id: str) -> VerdictRecord:
    """Return a recorded verdict; PermanentError if there is none."""
    record = VerdictRepository(parts.database).find(project, verdict_id)
    if record is None:
        raise PermanentError(f"verdict_id must be a verdict of {project} (got {verdict_id}).", code="VERDICT_UNKNOWN")
    return record


def _approval_body(parts: Resources, record: VerdictRecord, *, latest: ApprovalRecord | None) -> str:
    from pipeline_tasks.evaluation.report.page import markdown_summary

    document = approval.read_verdict(parts.store, record)
    report = links_of(parts.settings, report=f"{record.ref.object_key}/report.html")["Report"]
    held = held_back(parts.database, parts.store, record)
    summary = markdown_summary(document) if held is None else held.summary
    body = f"{summary}\n\n[Open the whole report]({report})"
    if latest is None:
        return body
    said = f'"{latest.reason}"' if latest.reason else "no reason given"
    return f"{body}\n\nAsked before: {latest.decision} by {latest.by} on {latest.at:%Y-%m-%d %H:%M} UTC, {said}."
