"""Brings the prediction log in: picks what people look at, asks them, and records the parts last.

What is picked is written down before anything is done about it, and a part counts as read only when all that follows
from it is recorded: a monitor that dies goes on with the same picks.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from pipeline_tasks.catalog.database import Database
from pipeline_tasks.catalog.datasets import DatasetRepository
from pipeline_tasks.catalog.items import ItemRepository
from pipeline_tasks.catalog.labels import LabelRepository
from pipeline_tasks.catalog.monitoring import (
    IMPORT,
    AuditRow,
    MonitoringRepository,
    OutcomeRow,
    PartRow,
    PickKind,
    WindowRow,
)
from pipeline_tasks.catalog.set_aside import SetAsideRepository
from pipeline_tasks.contracts import Fence, Item, content_id
from pipeline_tasks.core.crash_points import crash_point
from pipeline_tasks.core.ports import ObjectStore
from pipeline_tasks.errors import DataCorrupt
from pipeline_tasks.ingest.exam_split import split_of
from pipeline_tasks.ingest.item_checks import Candidate, RejectedRow
from pipeline_tasks.ingest.production_items import ProductionRecord, add_production_items, as_known
from pipeline_tasks.monitoring import drift
from pipeline_tasks.monitoring.log_parts import Part, Prediction, merge_predictions, read_part, read_payloads
from pipeline_tasks.monitoring.log_refusals import examine_input, quarantine, refuse_part
from pipeline_tasks.monitoring.log_scan import unknown_outcomes
from pipeline_tasks.monitoring.prediction_log import PredictionLog
from pipeline_tasks.monitoring.sampling import inclusion_chances, pick_audits, pick_uncertain
from pipeline_tasks.project.schema import LoadedProject, Project
from pipeline_tasks.validation.after_alarm import AfterAlarm, after_alarm

MAX_PARTS = 500
MAX_BYTES = 512 * 2**20
AUDIT_PRIORITY = 1.0

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class MonitoringResources:
    """The inputs of the monitor; `check` runs the items check on a batch, and puts aside what fails it."""

    database: Database
    store: ObjectStore
    items: ItemRepository
    labels: LabelRepository
    datasets: DatasetRepository
    monitoring: MonitoringRepository
    split_key: str
    check: Callable[[str], None] = lambda _batch_id: None


@dataclasses.dataclass(frozen=True, slots=True)
class ImportCounts:
    """The counts of one import."""

    num_parts: int = 0
    num_predictions: int = 0
    num_errors: int = 0
    num_feedback: int = 0
    num_audits: int = 0
    num_uncertain: int = 0
    num_refused: int = 0
    num_unmatched: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class _Examined:
    record: ProductionRecord
    candidate: Candidate


@dataclasses.dataclass(frozen=True, slots=True)
class _Pick:
    prediction: Prediction
    examined: _Examined
    kind: PickKind
    inclusion: float | None


def import_parts(
    project: LoadedProject, *, outside: MonitoringResources, fence: Fence, run_id: str, now: dt.datetime
) -> ImportCounts:
    """Read new parts of the log, ask people about the picks, and record the parts last.

    What cannot be read, a part, a record or an input, is named in quarantine and holds up no other.
    """
    parts, refused = _new_parts(project.name, outside=outside, now=now)
    keep = partial(
        quarantine,
        project=project.name,
        items=outside.items,
        store=outside.store,
        fence=fence,
        run_id=run_id,
        now=now,
        hide=project.config.deny_list.hide,
    )
    keep(refused)
    if not parts:
        return ImportCounts(num_refused=len(refused))
    predictions = merge_predictions(parts)
    exam_share = share_of_exam(project.config, after_alarm(outside.database, project.name, project.config.gate))
    crash_point("monitor.pick.before")
    picks, unreadable = _pick(project, predictions, exam_share=exam_share, outside=outside)
    refused += unreadable
    keep(unreadable)
    outside.monitoring.record_picks(project.name, [_audit_row(pick) for pick in picks], now=now, fence=fence)
    crash_point("monitor.picks.recorded")
    items = _store_items(project, picks, exam_share=exam_share, outside=outside, fence=fence, run_id=run_id, now=now)
    _request_labels(picks, items, outside=outside, fence=fence, now=now)
    crash_point("monitor.pick.after")
    outcomes = [outcome for part in parts for outcome in part.outcomes]
    num_unmatched = _count_unmatched(project.name, outcomes, parts, store=outside.store)
    outside.monitoring.finish_import(
        project.name,
        parts=[PartRow(part.object_key, len(part.predictions), len(part.outcomes)) for part in parts],
        outcomes=outcomes,
        window=_import_window(parts, predictions, num_unmatched=num_unmatched, now=now),
        run_id=run_id,
        fence=fence,
    )
    crash_point("monitor.pick.recorded")
    return ImportCounts(
        num_parts=len(parts),
        num_predictions=len(predictions),
        num_errors=sum(part.num_errors for part in parts),
        num_feedback=sum(len(part.outcomes) for part in parts),
        num_audits=sum(pick.kind == "audit" for pick in picks),
        num_uncertain=sum(pick.kind == "uncertain" for pick in picks),
        num_refused=len(refused),
        num_unmatched=num_unmatched,
    )


def share_of_exam(project: Project, after: AfterAlarm | None) -> float:
    """Return the share of groups without a side that go to the exam: after an alarm more, until it has what it needs.

    It holds for audits and unsure answers alike: those that are hard must not leave a group to training that an audit
    would have given to the exam.
    """
    if after is None or not after.num_unpicked:
        return project.split.exam_share
    return max(project.monitor.alarm_exam_share, project.split.exam_share)


def _new_parts(project: str, *, outside: MonitoringResources, now: dt.datetime) -> tuple[list[Part], list[RejectedRow]]:
    """Return parts that were not imported yet, and what of them, or whole, is not taken."""
    done = outside.monitoring.imported_parts(project)
    new: list[Part] = []
    refused: list[RejectedRow] = []
    size = 0
    log = PredictionLog(outside.store, project)
    for info in log.parts():
        if info.key in done:
            continue
        if new and (len(new) >= MAX_PARTS or size + info.size_bytes > MAX_BYTES):
            break  # the next run goes on here
        stored = log.get(info.key)
        try:
            part = read_part(stored, project=project, now=now)
        except DataCorrupt as error:
            refused.append(refuse_part(info.key, stored.data, code="PART_CORRUPT", reason=str(error)))
            continue
        if part.is_ahead:
            refused.append(refuse_part(info.key, stored.data, code="PART_AHEAD", reason=part.refused[0].reason))
            continue
        new.append(part)
        refused += part.refused
        size += info.size_bytes
    return new, refused


def _count_unmatched(project: str, outcomes: Sequence[OutcomeRow], parts: Sequence[Part], *, store: ObjectStore) -> int:
    """Return how many outcomes are about no prediction of these parts, nor of the newest ones of the log."""
    ids = {prediction.prediction_id for part in parts for prediction in part.predictions}
    keys = {key for part in parts for key in part.business_keys}
    missing = {
        outcome.outcome_id: outcome
        for outcome in outcomes
        if outcome.prediction_id not in ids and outcome.business_key not in keys
    }
    unknown = unknown_outcomes(PredictionLog(store, project), list(missing.values()), num_parts=MAX_PARTS)
    if unknown:
        _log.warning("monitor of %s: %d outcomes are about no prediction of the log", project, len(unknown))
    return len(unknown)


def _pick(
    project: LoadedProject, predictions: Sequence[Prediction], *, exam_share: float, outside: MonitoringResources
) -> tuple[list[_Pick], list[RejectedRow]]:
    """Return what people look at, and the inputs that were looked at and are not taken."""
    policy, name = project.config.monitor, project.name
    before = outside.monitoring.picked(name, [prediction.prediction_id for prediction in predictions])
    examine = _Examiner(project, outside, {prediction_id: row.item_id for prediction_id, row in before.items()})
    audits = pick_audits(
        predictions,
        key=outside.split_key,
        share=policy.audit_share,
        limit=policy.max_audits,
        max_share_per_client=policy.max_share_per_client,
        already={prediction_id for prediction_id, row in before.items() if row.kind == "audit"},
    )
    audited = {prediction.prediction_id for prediction in audits}
    chances = inclusion_chances(
        predictions,
        audits,
        key=outside.split_key,
        share=policy.audit_share,
        limit=policy.max_audits,
        max_share_per_client=policy.max_share_per_client,
    )

    def wanted(prediction: Prediction) -> bool:
        examined = examine(prediction)
        if examined is None or outside.monitoring.asked(name, [examined.candidate.item_id]):
            return False
        known = outside.items.get(name, [examined.candidate.item_id]).get(examined.candidate.item_id)
        if known is not None:
            return known.split == "train"
        group_key = examined.candidate.group_key
        side = split_of(group_key, project=name, split_key=outside.split_key, exam_share=exam_share)
        return outside.items.sides(name, [group_key]).get(group_key, side) == "train"

    uncertain = pick_uncertain(
        [prediction for prediction in predictions if prediction.prediction_id not in audited],
        limit=policy.max_uncertain,
        max_share_per_client=policy.max_share_per_client,
        wanted=wanted,
        already={prediction_id for prediction_id, row in before.items() if row.kind == "uncertain"},
    )
    chosen: list[tuple[Prediction, PickKind]] = [(prediction, "audit") for prediction in audits]
    chosen += [(prediction, "uncertain") for prediction in uncertain]
    examined = [(prediction, examine(prediction), kind) for prediction, kind in chosen]
    picks = [
        _Pick(prediction, item_id, kind, chances.get(prediction.prediction_id))
        for prediction, item_id, kind in examined
        if item_id is not None
    ]
    return picks, examine.refused


class _Examiner:
    """Turns predictions into item candidates, reading each part's payloads once and only when asked.

    `item_ids` are those of earlier picks, by prediction id: they stay what they were found to be.
    """

    def __init__(self, project: LoadedProject, outside: MonitoringResources, item_ids: Mapping[str, str]) -> None:
        self._project = project
        self._log = PredictionLog(outside.store, project.name)
        self._items = outside.items
        self._item_ids = item_ids
        self._payloads: dict[str, dict[str, bytes]] = {}
        self._found: dict[str, _Examined | None] = {}
        self.refused: list[RejectedRow] = []

    def __call__(self, prediction: Prediction) -> _Examined | None:
        if prediction.prediction_id not in self._found:
            self._found[prediction.prediction_id] = self._examine(prediction)
        return self._found[prediction.prediction_id]

    def _examine(self, prediction: Prediction) -> _Examined | None:
        key = prediction.object_key
        if key not in self._payloads:
            self._payloads[key] = read_payloads(self._log.get(key))
        data = self._payloads[key].get(prediction.prediction_id)
        if data is None:
            return None
        picked = self._item_ids.get(prediction.prediction_id)
        record = ProductionRecord(prediction.prediction_id, data, prediction.user_key, picked)
        outcome = examine_input(record, payload_sha256=prediction.payload_sha256, project=self._project.config)
        if picked is None and isinstance(outcome, Candidate):
            outcome = as_known(outcome, self._items.by_content(self._project.name, [outcome.content_id]))
        if isinstance(outcome, RejectedRow):
            self.refused.append(outcome)
            return None
        return _Examined(dataclasses.replace(record, item_id=outcome.item_id), outcome)


def _audit_row(pick: _Pick) -> AuditRow:
    prediction = pick.prediction
    return AuditRow(
        prediction_id=prediction.prediction_id,
        item_id=pick.examined.candidate.item_id,
        model_version=prediction.model_version,
        predicted_label=prediction.label,
        confidence=prediction.confidence,
        kind=pick.kind,
        predicted_at=prediction.at,
        inclusion=pick.inclusion,
    )


def _store_items(
    project: LoadedProject,
    picks: Sequence[_Pick],
    *,
    exam_share: float,
    outside: MonitoringResources,
    fence: Fence,
    run_id: str,
    now: dt.datetime,
) -> dict[str, Item]:
    if not picks:
        return {}
    items = add_production_items(
        project.config,
        records=[pick.examined.record for pick in picks],
        items=outside.items,
        store=outside.store,
        fence=fence,
        split_key=outside.split_key,
        batch_id=run_id,
        now=now,
        exam_share=exam_share,
    )
    if next(outside.datasets.batch(project.name, run_id, size=1), None) is not None:
        outside.check(run_id)
    unusable = SetAsideRepository(outside.database).unusable(project.name, {item.item_id for item in items.values()})
    return {prediction_id: item for prediction_id, item in items.items() if item.item_id not in unusable}


def _request_labels(
    picks: Sequence[_Pick], items: Mapping[str, Item], *, outside: MonitoringResources, fence: Fence, now: dt.datetime
) -> None:
    """Ask people about the picks that are usable; audits go first, so that one that is both counts as an audit.

    An audit carries no suggestion: people who see the model's answer tend to agree with it.
    """
    usable = [pick for pick in picks if pick.prediction.prediction_id in items]
    audits = {
        items[p.prediction.prediction_id].item_id: items[p.prediction.prediction_id]
        for p in usable
        if p.kind == "audit"
    }
    outside.labels.request(audits.values(), reason="audit", priority=AUDIT_PRIORITY, now=now, fence=fence)
    for pick in usable:
        item = items[pick.prediction.prediction_id]
        if pick.kind == "uncertain" and item.split == "train":  # another writer may have given its group to the exam
            said = {"label": pick.prediction.label, "score": pick.prediction.confidence}
            outside.labels.request(
                [item],
                reason="uncertain",
                priority=1.0 - pick.prediction.confidence,
                predictions={item.item_id: said},
                now=now,
                fence=fence,
            )


def _import_window(
    parts: Sequence[Part], predictions: Sequence[Prediction], *, num_unmatched: int, now: dt.datetime
) -> WindowRow:
    by_version: dict[str, list[tuple[str, float]]] = {}
    for prediction in predictions:
        by_version.setdefault(prediction.model_version, []).append((prediction.label, prediction.confidence))
    keys = [part.object_key for part in parts]
    statistics: dict[str, Any] = {
        "kind": IMPORT,
        "num_parts": len(parts),
        "num_predictions": len(predictions),
        "num_errors": sum(part.num_errors for part in parts),
        "num_unmatched": num_unmatched,
        "histograms": {version: drift.histogram(pairs).as_json() for version, pairs in sorted(by_version.items())},
        "first_at": min((prediction.at for prediction in predictions), default=now).isoformat(),
        "last_at": max((prediction.at for prediction in predictions), default=now).isoformat(),
    }
    return WindowRow(f"{IMPORT}-{content_id(keys)[:16]}", statistics, (), now)
