"""Runs of the loop: each is opened with a deadline and closed once, with one outcome and a reason."""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
from collections.abc import Mapping
from typing import Any, Literal, get_args

import sqlalchemy as sa

from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.database import Repository, insert_ignore
from pipeline_tasks.contracts import RunOutcome
from pipeline_tasks.errors import PermanentError

_CODE = re.compile(r"^[A-Z][A-Z0-9_]*$")
DEADLINE_CODE = "DEADLINE"


@dataclasses.dataclass(frozen=True, slots=True)
class RunRecord:
    """The catalog's row of one run; `info["endings"]` holds the endings after which it was opened again."""

    project: str
    run_id: str
    kind: str
    state: Literal["open", "closed"]
    outcome: RunOutcome | None
    reason_code: str | None
    reason: str | None
    info: Mapping[str, Any]
    opened_at: dt.datetime
    deadline_at: dt.datetime
    closed_at: dt.datetime | None


class RunRepository(Repository):
    """Opens, closes, lists and sweeps runs."""

    def open(
        self,
        project: str,
        *,
        run_id: str,
        kind: str,
        deadline_at: dt.datetime,
        at: dt.datetime,
        info: Mapping[str, Any] | None = None,
        reopen: bool = False,
    ) -> RunRecord:
        """Open a run, once; one that failed (and was cleared to run again) is opened anew with its deadline.

        `reopen` opens one anew that was closed in any way; its endings so far are kept.

        Raises:
            ValueError: the deadline is not after the opening.
        """
        if deadline_at <= at:
            raise ValueError(f"deadline_at must be after {at.isoformat()} (got {deadline_at.isoformat()}).")
        row = {"project": project, "run_id": run_id, "kind": kind, "state": "open", "info": dict(info or {})}
        with self.database.write() as connection:
            insert_ignore(connection, t.runs, [row | {"opened_at": at, "deadline_at": deadline_at}])
            run = _locked(connection, project, run_id)
            if run is not None and (run.outcome == "failed" or (reopen and run.state == "closed")):
                _update(connection, run, _reopened(run, deadline_at=deadline_at))
            return _required(_locked(connection, project, run_id), project, run_id)

    def close(
        self,
        project: str,
        *,
        run_id: str,
        outcome: RunOutcome,
        reason_code: str,
        reason: str,
        at: dt.datetime,
    ) -> RunRecord:
        """Close a run; the same outcome and code again change nothing.

        Raises:
            ValueError: an unknown outcome, a code that is not in capitals, or an empty reason.
            KeyError: there is no such run.
            PermanentError: it was closed with another outcome.
        """
        _check_ending(outcome, reason_code, reason)
        with self.database.write() as connection:
            run = _required(_locked(connection, project, run_id), project, run_id)
            if run.state == "open":
                ending = {"outcome": outcome, "reason_code": reason_code, "reason": reason}
                _update(connection, run, ending | {"state": "closed", "closed_at": at})
            elif (run.outcome, run.reason_code) != (outcome, reason_code):
                raise PermanentError(
                    f"run {run_id} must be closed once (got {outcome}({reason_code}) after "
                    f"{run.outcome}({run.reason_code})). The first ending stays; start a new run.",
                    code="RUN_CLOSED",
                )
            return _required(_locked(connection, project, run_id), project, run_id)

    def get(self, project: str, run_id: str) -> RunRecord | None:
        return self.database.record(RunRecord, _query(project, run_id))

    def list(
        self,
        project: str | None = None,
        *,
        kind: str | None = None,
        state: Literal["open", "closed"] | None = None,
        limit: int = 100,
    ) -> list[RunRecord]:
        """Return runs, newest first."""
        query = sa.select(t.runs).order_by(t.runs.c.opened_at.desc(), t.runs.c.run_id.desc()).limit(limit)
        for column, value in ((t.runs.c.project, project), (t.runs.c.kind, kind), (t.runs.c.state, state)):
            if value is not None:
                query = query.where(column == value)
        return self.database.records(RunRecord, query)

    def sweep(self, project: str | None = None, *, at: dt.datetime) -> tuple[RunRecord, ...]:
        """Close the open runs whose deadline has passed: as promoted if they moved the route, else as failed."""
        query = sa.select(t.runs.c.project, t.runs.c.run_id).where(t.runs.c.state == "open", t.runs.c.deadline_at < at)
        if project is not None:
            query = query.where(t.runs.c.project == project)
        overdue = self.database.rows(query.order_by(t.runs.c.project, t.runs.c.run_id))
        swept = (self._sweep_one(row.project, row.run_id, at=at) for row in overdue)
        return tuple(record for record in swept if record is not None)

    def _sweep_one(self, project: str, run_id: str, *, at: dt.datetime) -> RunRecord | None:
        with self.database.write() as connection:
            run = _locked(connection, project, run_id)
            if run is None or run.state != "open" or run.deadline_at >= at:
                return None
            generation = _promoted_generation(connection, project, run_id)
            _update(connection, run, _overdue_ending(run, generation) | {"state": "closed", "closed_at": at})
            return _locked(connection, project, run_id)


def _overdue_ending(run: RunRecord, generation: int | None) -> dict[str, str]:
    if generation is not None:
        reason = f"generation {generation} serves, though the run ended without saying so"
        return {"outcome": "promoted", "reason_code": "PROMOTED", "reason": reason}
    reason = f"the run was still open at its deadline {run.deadline_at.isoformat()}; the champion stays"
    return {"outcome": "failed", "reason_code": DEADLINE_CODE, "reason": reason}


def _reopened(run: RunRecord, *, deadline_at: dt.datetime) -> dict[str, Any]:
    closed_at = run.closed_at.isoformat() if run.closed_at is not None else None
    ending = {"outcome": run.outcome, "reason_code": run.reason_code, "reason": run.reason, "closed_at": closed_at}
    info = {**run.info, "endings": [*run.info.get("endings", []), ending]}
    nothing = {"outcome": None, "reason_code": None, "reason": None, "closed_at": None}
    return nothing | {"state": "open", "deadline_at": deadline_at, "info": info}


def _check_ending(outcome: str, reason_code: str, reason: str) -> None:
    if outcome not in get_args(RunOutcome):
        raise ValueError(f"outcome must be one of {', '.join(get_args(RunOutcome))} (got {outcome!r}).")
    if not _CODE.match(reason_code):
        raise ValueError(f"reason_code must be in capitals, as NOT_BETTER (got {reason_code!r}).")
    if not reason.strip():
        raise ValueError(f"reason must be a sentence for people (got {reason!r}).")


def _query(project: str, run_id: str) -> sa.Select[Any]:
    return sa.select(t.runs).where(t.runs.c.project == project, t.runs.c.run_id == run_id)


def _locked(connection: sa.Connection, project: str, run_id: str) -> RunRecord | None:
    locking = _query(project, run_id).with_for_update()  # SQLite's compiler leaves the lock out
    row = connection.execute(locking).mappings().one_or_none()
    return RunRecord(**row) if row is not None else None


def _required(run: RunRecord | None, project: str, run_id: str) -> RunRecord:
    if run is None:
        raise KeyError(f"{project}/{run_id}")
    return run


def _update(connection: sa.Connection, run: RunRecord, values: Mapping[str, Any]) -> None:
    where = sa.and_(t.runs.c.project == run.project, t.runs.c.run_id == run.run_id)
    connection.execute(t.runs.update().where(where).values(**values))


def _promoted_generation(connection: sa.Connection, project: str, run_id: str) -> int | None:
    query = (
        sa.select(sa.func.max(t.routes.c.generation))
        .where(t.routes.c.project == project, t.routes.c.action == "promote")
        .where(t.routes.c.attempt.startswith(f"{run_id}/", autoescape=True))
    )
    generation: int | None = connection.execute(query).scalar_one()
    return generation
