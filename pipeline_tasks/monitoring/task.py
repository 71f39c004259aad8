"""Reads the prediction log, asks people about some of it, and says whether the champion is as good as promised."""

from __future__ import annotations

import dataclasses
import datetime as dt
import logging
from collections.abc import Mapping
from typing import Any

from pipeline_tasks.catalog.monitoring import (
    IMPORT,
    QUALITY,
    QUALITY_DROP,
    AuditedPrediction,
    MonitoringRepository,
    WindowRow,
    alarm_began,
)
from pipeline_tasks.contracts import Attempt, Fence, MonitorReport, content_id
from pipeline_tasks.core.crash_points import crash_point
from pipeline_tasks.monitoring import detector, drift, quality
from pipeline_tasks.monitoring.drift import AnswerHistogram
from pipeline_tasks.monitoring.exam_reference import ExamReference, load_reference
from pipeline_tasks.monitoring.log_import import MonitoringResources, import_parts
from pipeline_tasks.monitoring.page import page_key, render_window
from pipeline_tasks.project.schema import LoadedProject

_log = logging.getLogger(__name__)


def run(
    project: LoadedProject, *, outside: MonitoringResources, attempt: Attempt, run_id: str, now: dt.datetime
) -> MonitorReport:
    """Import what is new in the prediction log, then measure live quality and drift.

    Raises:
        StaleAttempt: a newer attempt is at work.
    """
    fence = outside.database.acquire(f"monitor/{project.name}", attempt, now=now)
    counts = import_parts(project, outside=outside, fence=fence, run_id=run_id, now=now)
    window = measure(project, outside=outside, fence=fence, run_id=run_id, now=now)
    statistics = window.statistics
    alarms = tuple(str(alarm["message"]) for alarm in window.alarms)
    _log.info(
        "monitor of %s: %d predictions, %d refused, %d feedbacks on no known prediction, %s",
        project.name,
        counts.num_predictions,
        counts.num_refused,
        counts.num_unmatched,
        statistics["state"],
    )
    return MonitorReport(
        project=project.name,
        window_id=window.window_id,
        **dataclasses.asdict(counts),
        state=statistics["state"],
        quality=outside.monitoring.quality_text(project.name),
        alarms=alarms,
        report_key=statistics["page"],
        wake_training=any(alarm["wake"] for alarm in window.alarms),
    )


def measure(
    project: LoadedProject, *, outside: MonitoringResources, fence: Fence, run_id: str, now: dt.datetime
) -> WindowRow:
    """Compute live quality by model version and the champion's drift, and record them as a window, with its page.

    All of it follows from the log, the labels and the verdict: computed again, it is the same.
    """
    monitoring, name = outside.monitoring, project.name
    champion = monitoring.champion(name)
    reference = None
    if champion is not None:
        key = monitoring.verdict_key(name, champion[1])
        reference = load_reference(outside.store, key, version=champion[0])
    versions = _quality_of_versions(project, outside=outside, champion=champion, reference=reference, now=now)
    version = champion[0] if champion else None
    moved = _drift(project, monitoring, version=version, reference=reference)
    window_id = f"{QUALITY}-{content_id([name, run_id])[:16]}"
    current = versions.get(version) if version else None
    alarms = _alarms(current, moved, version=version)
    quality_state = current.state if current else "INSUFFICIENT_DATA"
    statistics = {
        "kind": QUALITY,
        "champion": version,
        "state": "ALARM" if alarms else quality_state,
        "versions": {measured.model_version: measured.as_json() for measured in versions.values()},
        "drift": moved.as_json(),
    }
    before = [
        earlier_window for earlier_window in monitoring.windows(name, QUALITY) if earlier_window.window_id != window_id
    ]
    earlier = {alarm["key"] for earlier_window in before for alarm in earlier_window.alarms}
    head = outside.datasets.head_snapshot(name)
    began = _began(before[-1] if before else None, version=version, now=now)
    known = [
        _with_wake(alarm, snapshot=head.snapshot_id if head else "", earlier=earlier) | {"since": began.isoformat()}
        for alarm in alarms
    ]
    told = [str(alarm["message"]) for alarm in known]
    page = render_window(name, window_id, statistics, alarms=told, at=now).encode()
    key = page_key(name, window_id, page)
    crash_point("monitor.page.before")
    outside.store.put(key, page, content_type="text/html; charset=utf-8")
    crash_point("monitor.page.after")
    window = WindowRow(window_id, statistics | {"page": key}, known, now)
    monitoring.save_window(name, window, run_id=run_id, fence=fence)
    crash_point("monitor.page.recorded")
    return window


def _quality_of_versions(
    project: LoadedProject,
    *,
    outside: MonitoringResources,
    champion: tuple[str, str] | None,
    reference: ExamReference | None,
    now: dt.datetime,
) -> dict[str, quality.VersionQuality]:
    """Return live quality by model version, the one audited last first; the champion is always there."""
    by_version: dict[str, list[AuditedPrediction]] = {}
    for answer in outside.monitoring.audited(project.name, imported=project.config.labels.imported_in_exam):
        by_version.setdefault(answer.model_version, []).append(answer)
    still_open = outside.monitoring.open_audits(project.name)
    contents = [answer for audited in by_version.values() for answer in quality.once_per_item(audited)]
    a_year = detector.audits_a_year([answer.known_at for answer in contents], now=now)
    newest_first = sorted(by_version, key=lambda version: by_version[version][-1].predicted_at, reverse=True)
    names = list(dict.fromkeys([*newest_first, *([champion[0]] if champion else [])]))
    return {
        name: quality.measure(
            name,
            by_version.get(name, []),
            exam=reference.count if reference and champion and name == champion[0] else None,
            policy=project.config.monitor,
            audits_a_year=a_year,
            still_open=[item for item in still_open if item.model_version == name],
        )
        for name in names
    }


def _drift(
    project: LoadedProject, monitoring: MonitoringRepository, *, version: str | None, reference: ExamReference | None
) -> drift.Drift:
    windows = [window.statistics["histograms"].get(version) for window in monitoring.windows(project.name, IMPORT)]
    histograms = [AnswerHistogram.from_json(histogram) for histogram in windows if histogram is not None]
    return drift.measure(
        histograms,
        exam=reference.answers if reference else None,
        num_classes=len(project.config.labels.classes),
    )


def _alarms(current: quality.VersionQuality | None, moved: drift.Drift, *, version: str | None) -> list[dict[str, Any]]:
    alarms: list[dict[str, Any]] = []
    if current is not None and current.state == "ALARM":
        message = f"Live quality has dropped: {current.text}."
        alarms.append({"cause": QUALITY_DROP, "model_version": version, "message": message})
    if moved.state == "DRIFT":
        message = (
            f"Answers of {version} have moved from its {moved.reference}: confidence PSI {moved.confidence_psi:.2f}, "
            f"label distance {moved.label_js:.2f} beyond chance."
        )
        alarms.append({"cause": "DRIFT", "model_version": version, "message": message})
    return alarms


def _began(before: WindowRow | None, *, version: str | None, now: dt.datetime) -> dt.datetime:
    """Return since when alarms of the champion stand, of one cause or another: now, or since the window before says."""
    alarms = before.alarms if before is not None else ()
    return min(
        [alarm_began(alarm, before) for alarm in alarms if before and alarm["model_version"] == version], default=now
    )


def _with_wake(alarm: Mapping[str, Any], *, snapshot: str, earlier: set[str]) -> dict[str, Any]:
    """Return the alarm with its key, and whether it wakes training: once per cause, champion and snapshot.

    Drift alone asks people, not training: without new labels there is nothing better to learn.
    """
    key = content_id([alarm["cause"], alarm["model_version"], snapshot])
    return {**alarm, "key": key, "wake": alarm["cause"] == QUALITY_DROP and key not in earlier}
