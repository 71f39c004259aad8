"""One function per stage: settings and adapters in, ids out. What Airflow's tasks and the shell call.

Every function takes the project's name and the attempt, and returns JSON: ids, counts, and `links` for people. `idle`
in a result says that there was nothing to do. A gate that says no closes the run as rejected, here, once.
"""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Callable
from typing import Any, Literal

from pipeline_tasks.contracts import Attempt, as_json
from pipeline_tasks.core.clock import utc_now
from pipeline_tasks.core.crash_points import crash_point
from pipeline_tasks.errors import GateClosed, StaleAttempt
from pipeline_tasks.orchestration.concurrent_runs import close_run, idle_beside, training_elsewhere
from pipeline_tasks.orchestration.links import links_of
from pipeline_tasks.orchestration.resources import Resources, build_resources, code_revision, lock_hash

REPEATABLE = frozenset({"ingest", "annotate", "collect", "monitor"})  # whoever comes last does all that there is
Result = dict[str, Any]
Stage = Callable[..., Result]


def stage(function: Callable[..., Result]) -> Stage:
    """Give a stage its parts; a gate's no closes the attempt's run, and work that another run does is none here."""

    @functools.wraps(function)
    def run(project: str, *, attempt: Attempt, parts: Resources | None = None, **arguments: Any) -> Result:
        parts = parts or build_resources()
        try:
            return function(parts, project, attempt=attempt, **arguments)
        except GateClosed as error:
            close_run(parts, project, run_id=attempt.run_id, error=error)
            raise
        except StaleAttempt as error:
            beside = idle_beside(error, project=project, stage=function.__name__, attempt=attempt)
            if beside and function.__name__ in REPEATABLE:
                return {"idle": beside}
            raise StaleAttempt(beside or str(error), holder=error.holder) from error

    return run


@stage
def ingest(parts: Resources, project: str, *, attempt: Attempt) -> Result:
    """Read what is new at the sources, then check the batch."""
    from pipeline_tasks.catalog.datasets import DatasetRepository
    from pipeline_tasks.catalog.items import ItemRepository
    from pipeline_tasks.catalog.set_aside import SetAsideRepository
    from pipeline_tasks.ingest import task as ingest_task
    from pipeline_tasks.orchestration.project_notes import groups_line
    from pipeline_tasks.validation import task as validation_task

    loaded = parts.project(project)
    report = ingest_task.run(
        loaded,
        items=ItemRepository(parts.database),
        store=parts.store,
        attempt=attempt,
        split_key=parts.settings.split_key,
        environment=parts.settings.environment,
        batch_id=attempt.run_id,
        now=utc_now(),
        own_s3=parts.own_s3,
    )
    result = as_json(report)
    set_aside = SetAsideRepository(parts.database)
    num_released = validation_task.release_decodable(loaded, set_aside=set_aside, store=parts.store)
    if num_released:
        result["num_released"] = num_released
    if report.num_new:
        check = validation_task.check_items(
            loaded,
            report.batch_id,
            datasets=DatasetRepository(parts.database),
            store=parts.store,
            docs_dir=parts.settings.docs_dir,
            run_id=attempt.run_id,
            now=utc_now(),
        )
        result["check"] = as_json(check)
        result["links"] = links_of(parts.settings, report=check.report_key)
        result["note"] = groups_line(loaded, ItemRepository(parts.database))
    elif not (report.num_quarantined or report.num_labeled_at_source or report.num_labels_corrected or num_released):
        result["idle"] = f"nothing new at the sources of {project} ({report.num_seen} items looked at)"
    return result


@stage
def annotate(parts: Resources, project: str, *, attempt: Attempt) -> Result:
    """Take over labels that came with the source, and push the rest to Label Studio once."""
    from pipeline_tasks.annotation import task as annotation_task

    loaded = parts.project(project)
    report = annotation_task.annotate(
        loaded,
        **_annotation_parts(parts),
        store=parts.store,
        suggestions=functools.partial(_suggest, parts, project) if loaded.config.labels.suggestions else None,
        attempt=attempt,
        now=utc_now(),
    )
    result = as_json(report)
    result["links"] = links_of(parts.settings, label_studio=report.ls_project_ids.get("label"))
    if not (report.num_requested or report.num_pushed or report.num_adopted or report.num_imported_labels):
        result["idle"] = report.note or f"no item of {project} waits for a label that is not in Label Studio already"
    return result


@stage
def collect(parts: Resources, project: str, *, attempt: Attempt) -> Result:
    """Bring what changed in Label Studio back, and decide labels."""
    from pipeline_tasks.annotation import task as annotation_task
    from pipeline_tasks.catalog.items import ItemRepository

    report = annotation_task.collect(
        parts.project(project),
        **_annotation_parts(parts),
        items=ItemRepository(parts.database),
        attempt=attempt,
        now=utc_now(),
    )
    result = as_json(report)
    result["links"] = links_of(parts.settings, label_studio=_label_studio_project(parts, project))
    if not (report.num_annotations or report.num_deleted or report.num_decided):
        result["idle"] = report.note or f"nothing changed in Label Studio for {project}"
    return result


def _annotation_parts(parts: Resources) -> dict[str, Any]:
    from pipeline_tasks.catalog.labels import LabelRepository

    return {
        "labels": LabelRepository(parts.database),
        "labeling": parts.labeling,
        "installation": parts.settings.split_key,
        "database": parts.database,
    }


def _suggest(parts: Resources, project: str, items: Any) -> Any:
    from pipeline_tasks.orchestration.offline_predictions import champion_suggestions

    return champion_suggestions(parts, project, items)


def _label_studio_project(parts: Resources, project: str) -> int | None:
    from pipeline_tasks.catalog.labels import LabelRepository

    registered = LabelRepository(parts.database).registration(project)
    return registered[2].get("label") if registered else None


@stage
def plan_training(parts: Resources, project: str, *, attempt: Attempt, force: bool = False) -> Result:
    """Decide whether there is something to train on, and open the run."""
    from pipeline_tasks.orchestration.training_plan import plan

    if elsewhere := training_elsewhere(parts, project, attempt):
        return {"idle": elsewhere}
    return plan(parts, project, attempt=attempt, force=force)


@stage
def snapshot(parts: Resources, project: str, *, attempt: Attempt, window: Literal["all", "newest"] = "all") -> Result:
    """Open an exam epoch when it is time, then freeze and check the training labels."""
    from pipeline_tasks.catalog.datasets import DatasetRepository
    from pipeline_tasks.orchestration.training_plan import exam_after_alarm, refuse_awaited
    from pipeline_tasks.validation import task as validation_task

    loaded = parts.project(project)
    shared: dict[str, Any] = {
        "datasets": DatasetRepository(parts.database),
        "store": parts.store,
        "attempt": attempt,
        "database": parts.database,
        "docs_dir": parts.settings.docs_dir,
        "run_id": attempt.run_id,
        "now": utc_now(),
    }
    exams = validation_task.open_exam(
        loaded, **shared, after=exam_after_alarm(parts, project, run_id=attempt.run_id)[1]
    )
    refuse_awaited(exam_after_alarm(parts, project, run_id=attempt.run_id)[1], project=project)
    ref = validation_task.build_snapshot(loaded, **shared, window=window)
    check = shared["datasets"].check_of(project, stage="dataset", subject=ref.snapshot_id)
    return {
        **as_json(ref),
        "epochs": [exam.epoch for exam in exams],
        "num_near_duplicates_of_exam": check.statistics.get("num_near_duplicates", 0) if check else 0,
        "links": links_of(parts.settings, report=check.report_key if check else None),
    }


@stage
def train(parts: Resources, project: str, *, attempt: Attempt, snapshot_id: str, seed: int | None = None) -> Result:
    """Tune and train on a snapshot; the same training is adopted, not repeated."""
    from pipeline_tasks.catalog.datasets import DatasetRepository
    from pipeline_tasks.catalog.model_versions import ModelRepository
    from pipeline_tasks.training import task as training_task
    from pipeline_tasks.validation import task as validation_task

    ref = DatasetRepository(parts.database).snapshot(project, snapshot_id)
    model = training_task.train(
        parts.project(project),
        ref,
        manifest=validation_task.read_manifest(parts.store, ref),
        store=parts.store,
        tracker=parts.tracker,
        attempt=attempt,
        database=parts.database,
        now=utc_now(),
        scratch=parts.settings.scratch_dir,
        lock_hash=lock_hash(),
        code_revision=code_revision(),
        threads=parts.settings.train_threads,
        device=parts.settings.train_device,
        seed=seed,
    )
    record = ModelRepository(parts.database).get(project, model.version)
    tracker = record.tracker if record else {}
    return {**as_json(model), "tracker": dict(tracker), "links": links_of(parts.settings, tracker=tracker)}


@stage
def judge(parts: Resources, project: str, *, attempt: Attempt, version: str, epochs: list[int]) -> Result:
    """Score contender and champion on the frozen exams and give the verdict."""
    from pipeline_tasks.evaluation.open_epoch import told_reasons
    from pipeline_tasks.orchestration.evaluate import judge_contender, verdict_record

    verdict = judge_contender(parts, project, attempt=attempt, version=version, epochs=epochs)
    reasons = list(told_reasons(parts.database, parts.store, verdict_record(parts, project, verdict.verdict_id)))
    return {
        **as_json(verdict),
        "reasons": reasons,
        "links": links_of(parts.settings, report=f"{verdict.object_key}/report.html"),
    }


@stage
def approval_request(parts: Resources, project: str, *, attempt: Attempt, verdict_id: str) -> Result:  # noqa: ARG001
    """Tell whether a person has to be asked, and with which words."""
    from pipeline_tasks.orchestration.evaluate import approval_request_of

    return approval_request_of(parts, project, verdict_id=verdict_id)


@stage
def record_approval(
    parts: Resources,
    project: str,
    *,
    attempt: Attempt,  # noqa: ARG001
    verdict_id: str,
    decision: str,
    by: str,
    reason: str,
    at: dt.datetime,
    requested_by: str | None = None,
) -> Result:
    """Keep who said yes or no, when (`at`) and why."""
    from pipeline_tasks.catalog.verdicts import ApprovalRepository, VerdictRepository
    from pipeline_tasks.evaluation import approval
    from pipeline_tasks.orchestration.ledger_anchors import note_head

    crash_point("approve.record.before")
    record = approval.record_approval(
        parts.project(project),
        verdict_id,
        decision=decision,  # type: ignore[arg-type]
        by=by,
        reason=" ".join(reason.split()),
        requested_by=requested_by,
        verdicts=VerdictRepository(parts.database),
        approvals=ApprovalRepository(parts.database),
        now=at,
    )
    crash_point("approve.record.recorded")
    note_head(parts, project)
    return as_json(record)


@stage
def release(parts: Resources, project: str, *, attempt: Attempt, verdict_id: str) -> Result:
    """Build the bento of a promotable verdict and check it in its real server."""
    from pipeline_tasks.orchestration.deploy import build_release

    built = build_release(parts, project, attempt=attempt, verdict_id=verdict_id)
    return as_json(built)


@stage
def ship(parts: Resources, project: str, *, attempt: Attempt, release_id: str) -> Result:
    """Give a release the project's traffic."""
    from pipeline_tasks.orchestration.deploy import ship_release

    route = ship_release(parts, project, attempt=attempt, release_id=release_id)
    return {**as_json(route), "links": links_of(parts.settings, service=True)}


@stage
def rollback(
    parts: Resources, project: str, *, attempt: Attempt, to_version: str | None, reason: str, actor: str
) -> Result:
    """Return to an earlier champion."""
    from pipeline_tasks.orchestration.rollback import roll_back

    route = roll_back(parts, project, attempt=attempt, to_version=to_version, reason=reason, actor=actor)
    return {**as_json(route), "links": links_of(parts.settings, service=True)}


@stage
def finish(
    parts: Resources, project: str, *, attempt: Attempt, started: bool = True, verdict_id: str | None = None
) -> Result:
    """Close the training run with its one ending; `verdict_id` is what its judging gave, if it came that far."""
    from pipeline_tasks.catalog.runs import RunRepository
    from pipeline_tasks.errors import PermanentError
    from pipeline_tasks.orchestration.deploy import end_abandoned_rollout
    from pipeline_tasks.orchestration.run_facts import run_facts
    from pipeline_tasks.orchestration.run_outcome import ending_of, went_on
    from pipeline_tasks.orchestration.training_plan import RUN_DEADLINE

    if not started:
        return {"idle": "there was nothing to train on"}
    end_abandoned_rollout(parts, project, attempt=attempt)
    runs = RunRepository(parts.database)
    record = runs.get(project, attempt.run_id)
    if record is None:
        raise PermanentError(f"run {attempt.run_id} must have been opened by `plan` (got none).", code="RUN_UNKNOWN")
    facts = run_facts(parts, project, run_id=attempt.run_id, verdict_id=verdict_id, opened_at=record.opened_at)
    ending = ending_of(facts)
    if went_on(record.outcome, ending):
        # A task was cleared and the run went on: what it came to counts, its endings so far are kept.
        record = runs.open(
            project,
            run_id=attempt.run_id,
            kind="train",
            deadline_at=utc_now() + RUN_DEADLINE,
            at=record.opened_at,
            reopen=True,
        )
    if record.state == "open":
        crash_point("finish.close.before")
        record = runs.close(
            project,
            run_id=attempt.run_id,
            outcome=ending.outcome,
            reason_code=ending.reason_code,
            reason=ending.reason,
            at=utc_now(),
        )
        crash_point("finish.close.recorded")
    if record.outcome == "failed":
        raise PermanentError(str(record.reason), code=str(record.reason_code))
    return {"outcome": record.outcome, "reason_code": record.reason_code, "reason": record.reason}


@stage
def monitor(parts: Resources, project: str, *, attempt: Attempt) -> Result:
    """Read the prediction log, pick audits and unsure answers, measure live quality."""
    from pipeline_tasks.orchestration.monitor import watch

    return watch(parts, project, attempt=attempt)


@stage
def alarm(parts: Resources, project: str, *, attempt: Attempt, window_id: str | None) -> Result:  # noqa: ARG001
    """Pass on only when the window raised an alarm: what wakes training."""
    from pipeline_tasks.catalog.monitoring import MonitoringRepository

    alarms = MonitoringRepository(parts.database).alarms_of(project, window_id) if window_id else []
    if not alarms:
        return {"idle": f"no alarm for {project}"}
    return {"window_id": window_id, "alarms": alarms}


@stage
def batch_predict(parts: Resources, project: str, *, attempt: Attempt, batch_id: str | None = None) -> Result:
    """Answer many items with the champion, offline."""
    from pipeline_tasks.orchestration.offline_predictions import predict_batch

    return predict_batch(parts, project, attempt=attempt, batch_id=batch_id)
