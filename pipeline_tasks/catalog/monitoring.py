"""Production's records: imported parts of the prediction log, picks for people, outcomes, and the monitor's windows."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import sqlalchemy as sa

from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.database import Repository, columns_of, insert_ignore, slices
from pipeline_tasks.catalog.labels import newest_decisions
from pipeline_tasks.catalog.schema_versions import SchemaRepository
from pipeline_tasks.contracts import Fence

PickKind = Literal["audit", "uncertain"]
IMPORT, QUALITY = "import", "quality"
QUALITY_DROP = "QUALITY_DROP"
MAX_SHOWN_VERSIONS = 3


@dataclasses.dataclass(frozen=True, slots=True)
class AuditRow:
    """One prediction that people are asked about, and what the model had said.

    `inclusion` is the chance with which an audit was picked; None for an unsure answer, and where it was not recorded.
    """

    prediction_id: str
    item_id: str
    model_version: str
    predicted_label: str
    confidence: float
    kind: PickKind
    predicted_at: dt.datetime
    inclusion: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class AuditedPrediction:
    """An audited prediction whose item has a label now; `known_at` is when both the pick and the label were there."""

    prediction_id: str
    model_version: str
    predicted_label: str
    label: str
    predicted_at: dt.datetime
    item_id: str
    known_at: dt.datetime
    inclusion: float | None = None

    @property
    def is_right(self) -> bool:
        return self.predicted_label == self.label


@dataclasses.dataclass(frozen=True, slots=True)
class OpenAudit:
    """An audited prediction on whose item people differ: `is_asked` of a further person, or disputed to the end."""

    prediction_id: str
    model_version: str
    item_id: str
    predicted_at: dt.datetime
    is_asked: bool
    inclusion: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class OutcomeRow:
    """The true outcome, by prediction id or business key, as a caller told us."""

    outcome_id: str
    prediction_id: str | None
    business_key: str | None
    label: str
    source: str
    at: dt.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class PartRow:
    """One imported part of the prediction log."""

    object_key: str
    num_predictions: int
    num_feedback: int


@dataclasses.dataclass(frozen=True, slots=True)
class WindowRow:
    """One window: of imported parts (`statistics.kind` import) or of live quality (quality)."""

    window_id: str
    statistics: Mapping[str, Any]
    alarms: Sequence[Mapping[str, Any]]
    created_at: dt.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class StandingAlarm:
    """The alarm on the champion of now, since its first window; `of_quality`: live quality has dropped."""

    since: dt.datetime
    of_quality: bool


@dataclasses.dataclass(frozen=True, slots=True)
class ImportedCounts:
    """The parts of the log that the monitor has read, and the number of answers of each model version in them."""

    object_keys: frozenset[str]
    by_version: Mapping[str, int]


class MonitoringRepository(Repository):
    """The monitor's parts, picks, outcomes and windows."""

    def imported_parts(self, project: str) -> set[str]:
        """Return the keys of the parts that are done."""
        query = sa.select(t.prediction_parts.c.object_key).where(t.prediction_parts.c.project == project)
        return set(self.database.scalars(query))

    def imported_counts(self, project: str) -> ImportedCounts:
        """Return what the monitor counted; what a crashed gateway shipped again in another part counts twice."""
        part, window = t.prediction_parts.c, t.monitor_windows.c
        parts = sa.select(part.object_key).where(part.project == project)
        imports = window.window_id.startswith(f"{IMPORT}-")
        windows = sa.select(window.statistics).where(window.project == project, imports)
        by_version: Counter[str] = Counter()
        with self.database.read() as connection:
            keys = frozenset(connection.scalars(parts))
            for statistics in connection.scalars(windows):
                for version, histogram in statistics["histograms"].items():
                    by_version[version] += sum(histogram["confidence"])
        return ImportedCounts(keys, dict(by_version))

    def picked(self, project: str, prediction_ids: Iterable[str]) -> dict[str, AuditRow]:
        """Return the picks among these predictions, by prediction id."""
        query = sa.select(*columns_of(t.audits, AuditRow)).where(t.audits.c.project == project)
        rows = self.database.rows_among(query, t.audits.c.prediction_id, prediction_ids)
        return {row.prediction_id: AuditRow(*row) for row in rows}

    def asked(self, project: str, item_ids: Iterable[str]) -> set[str]:
        """Return which of the items people were asked about already, or that have a decision."""
        wanted = set(item_ids)
        return {
            row.item_id
            for column in (t.labeling_tasks.c, t.label_decisions.c)
            for row in self.database.rows_among(
                sa.select(column.item_id).where(column.project == project), column.item_id, wanted
            )
        }

    def record_picks(self, project: str, picks: Sequence[AuditRow], *, now: dt.datetime, fence: Fence) -> None:
        """Write down what was picked, before anything is done about it: a second attempt finds the same picks."""
        rows = [{"project": project, "picked_at": now, **dataclasses.asdict(pick)} for pick in picks]
        with self.database.write(fence) as connection:
            for some in slices(rows):
                insert_ignore(connection, t.audits, some)

    def finish_import(
        self,
        project: str,
        *,
        parts: Sequence[PartRow],
        outcomes: Sequence[OutcomeRow],
        window: WindowRow,
        run_id: str,
        fence: Fence,
    ) -> None:
        """Record outcomes, the window of the imported parts, and last that the parts are done: all or nothing."""
        done = [{"project": project, "imported_at": window.created_at, **dataclasses.asdict(part)} for part in parts]
        told = [{"project": project, **dataclasses.asdict(outcome)} for outcome in outcomes]
        with self.database.write(fence) as connection:
            for some in slices(told):
                insert_ignore(connection, t.outcomes, some)
            row = _window_values(project, _after_all(connection, project, window), run_id)
            insert_ignore(connection, t.monitor_windows, [row])
            for some in slices(done):
                insert_ignore(connection, t.prediction_parts, some)

    def save_window(self, project: str, window: WindowRow, *, run_id: str, fence: Fence) -> None:
        """Write a window of live quality; a repeated attempt of one run replaces its own."""
        column = t.monitor_windows.c
        where = sa.and_(column.project == project, column.window_id == window.window_id)
        with self.database.write(fence) as connection:
            connection.execute(t.monitor_windows.delete().where(where))
            row = _window_values(project, _after_all(connection, project, window), run_id)
            connection.execute(t.monitor_windows.insert(), row)

    def audited(self, project: str, *, imported: bool = False) -> list[AuditedPrediction]:
        """Return the random audits whose items have a decided label now, oldest prediction first.

        A label that came with the source counts only where it decides exam items too (`imported`). What a model
        predicted is under the class names of now.
        """
        former = SchemaRepository(self.database).names_now(project)
        audit, decision = t.audits.c, t.label_decisions.c
        is_decided = decision.status == "decided"
        if not imported:
            is_decided = sa.and_(is_decided, decision.method != "imported")
        of_item = (
            sa.select(
                decision.item_id,
                sa.func.max(decision.version).label("version"),
                sa.func.min(sa.case((is_decided, decision.decided_at))).label("first_at"),
            )
            .where(decision.project == project)
            .group_by(decision.item_id)
            .subquery()
        )
        same = sa.and_(decision.item_id == of_item.c.item_id, decision.version == of_item.c.version)
        columns = (audit.prediction_id, audit.model_version, audit.predicted_label, audit.predicted_at, audit.item_id)
        query = (
            sa.select(*columns, audit.inclusion, audit.picked_at, decision.label, of_item.c.first_at)
            .join(of_item, of_item.c.item_id == audit.item_id)
            .join(t.label_decisions, sa.and_(decision.project == audit.project, same))
            .where(audit.project == project, audit.kind == "audit", is_decided)
            .order_by(audit.predicted_at, audit.prediction_id)
        )
        rows: list[dict[str, Any]] = self.database.records(dict, query)
        for row in rows:
            row["predicted_label"] = former.get(row["predicted_label"]) or row["predicted_label"]
        return [
            AuditedPrediction(known_at=max(row.pop("picked_at"), row.pop("first_at")), **row)  # the label may be older
            for row in rows
        ]

    def open_audits(self, project: str) -> list[OpenAudit]:
        """Return the random audits on whose items people differ now, oldest prediction first."""
        audit, task = t.audits.c, t.labeling_tasks.c
        newest = newest_decisions(project).where(t.label_decisions.c.status == "disputed").subquery()
        is_asked = sa.exists().where(task.project == project, task.item_id == audit.item_id, task.state != "done")
        columns = (audit.prediction_id, audit.model_version, audit.item_id, audit.predicted_at, audit.inclusion)
        query = (
            sa.select(*columns, is_asked.label("is_asked"))
            .join(newest, newest.c.item_id == audit.item_id)
            .where(audit.project == project, audit.kind == "audit")
            .order_by(audit.predicted_at, audit.prediction_id)
        )
        rows = self.database.mappings(query)
        return [OpenAudit(**{**row, "is_asked": bool(row["is_asked"])}) for row in rows]

    def windows(self, project: str, kind: str, *, limit: int = 500) -> list[WindowRow]:
        """Return the newest windows of a kind, oldest first."""
        column = t.monitor_windows.c
        query = (
            sa.select(*columns_of(t.monitor_windows, WindowRow))
            .where(column.project == project, column.window_id.startswith(f"{kind}-"))
            .order_by(column.created_at.desc(), column.window_id.desc())
            .limit(limit)
        )
        return self.database.records(WindowRow, query)[::-1]

    def alarms_of(self, project: str, window_id: str) -> list[dict[str, Any]]:
        """Return the alarms of a window that should wake training: each cause once per champion and snapshot."""
        column = t.monitor_windows.c
        query = sa.select(column.alarms).where(column.project == project, column.window_id == window_id)
        alarms = self.database.scalar(query) or []
        return [dict(alarm) for alarm in alarms if alarm["wake"]]

    def standing_alarm(self, project: str) -> StandingAlarm | None:
        """Return the alarm that the newest window raised on the champion of now, of whatever cause, or None."""
        alarms, window = self._newest_alarms(project)
        if window is None or not alarms:
            return None
        since = min(alarm_began(alarm, window) for alarm in alarms)
        return StandingAlarm(since, any(alarm["cause"] == QUALITY_DROP for alarm in alarms))

    def has_open_alarm(self, project: str) -> bool:
        """Return whether the newest look at live quality found the champion of now too weak."""
        standing = self.standing_alarm(project)
        return standing is not None and standing.of_quality

    def open_alarms(self, project: str) -> tuple[str, ...]:
        """Return what the newest window found of the champion of now, in words, of whatever cause."""
        return tuple(str(alarm["message"]) for alarm in self._newest_alarms(project)[0])

    def _newest_alarms(self, project: str) -> tuple[list[Mapping[str, Any]], WindowRow | None]:
        window, champion = next(iter(self.windows(project, QUALITY, limit=1)), None), self.champion(project)
        if window is None or champion is None:
            return [], None
        return [alarm for alarm in window.alarms if alarm["model_version"] == champion[0]], window

    def newest_page(self, project: str) -> str | None:
        """Return where the page of the newest window of live quality lies, or None before the first."""
        window = next(iter(self.windows(project, QUALITY, limit=1)), None)
        if window is None:
            return None
        return str(window.statistics.get("page", f"reports/{project}/monitor/{window.window_id}.html"))

    def quality_text(self, project: str) -> str:
        """Return live quality in words, the newest model version first."""
        windows = self.windows(project, QUALITY, limit=1)
        versions = list(windows[0].statistics["versions"].values()) if windows else []
        return "; ".join(str(version["text"]) for version in versions[:MAX_SHOWN_VERSIONS]) or "nothing audited yet"

    def champion(self, project: str) -> tuple[str, str] | None:
        """Return the serving model version and the verdict that it stands on, or None while nothing serves."""
        route = t.routes.c
        query = sa.select(route.champion_version, route.verdict_id).where(route.project == project)
        row = next(iter(self.database.rows(query.order_by(route.generation.desc()).limit(1))), None)
        return None if row is None else (str(row.champion_version), str(row.verdict_id))

    def verdict_key(self, project: str, verdict_id: str) -> str | None:
        """Return the folder of a verdict's documents, or None if there is no such verdict."""
        verdict = t.verdicts.c
        query = sa.select(verdict.object_key).where(verdict.project == project, verdict.verdict_id == verdict_id)
        key = self.database.scalar(query)
        return None if key is None else str(key)


def alarm_began(alarm: Mapping[str, Any], window: WindowRow) -> dt.datetime:
    """Return when an alarm of a window began; in windows of older releases it does not say."""
    return dt.datetime.fromisoformat(alarm["since"]) if "since" in alarm else window.created_at


def _after_all(connection: sa.Connection, project: str, window: WindowRow) -> WindowRow:
    """Return the window with a time after all others of its kind, also when this host's clock is behind."""
    column = t.monitor_windows.c
    kind = window.window_id.partition("-")[0]
    of_kind = sa.and_(column.project == project, column.window_id.startswith(f"{kind}-"))
    newest = connection.scalar(sa.select(column.created_at).where(of_kind).order_by(column.created_at.desc()).limit(1))
    if newest is None or newest < window.created_at:
        return window
    return dataclasses.replace(window, created_at=newest + dt.timedelta(microseconds=1))


def _window_values(project: str, window: WindowRow, run_id: str) -> dict[str, Any]:
    return {"project": project, "run_id": run_id, **dataclasses.asdict(window)}
