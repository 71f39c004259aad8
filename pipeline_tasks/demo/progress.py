"""State of a project in the catalog, which the demo asks for while it waits."""

from __future__ import annotations

import dataclasses

import sqlalchemy as sa

from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.database import Database
from pipeline_tasks.catalog.labeling_state import labeling_state
from pipeline_tasks.catalog.routes import ServingRepository
from pipeline_tasks.catalog.verdicts import VerdictRepository


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """One look at the catalog."""

    num_labels: int
    num_disputed: int
    num_asked: int
    num_outstanding: int
    num_pushed: int
    generation: int
    champion: str | None
    former_champion: str | None
    num_verdicts: int
    num_refused_contenders: int
    last_answer: str | None
    last_reasons: tuple[str, ...]


def read_progress(database: Database, project: str) -> Progress:
    """Return labels, open tasks, the route and the last verdict."""
    state = labeling_state(database, project)
    history = ServingRepository(database).history(project)
    verdicts = VerdictRepository(database).history(project)
    champion = history[-1].champion_version if history else None
    others = [route.champion_version for route in history if route.champion_version != champion]
    tasks = t.labeling_tasks.c
    query = sa.select(tasks.state, sa.func.count()).where(tasks.project == project).group_by(tasks.state)
    by_state = {str(state): int(count) for state, count in database.rows(query)}
    return Progress(
        num_labels=state.num_labels,
        num_disputed=state.num_disputed,
        num_asked=state.num_asked,
        num_outstanding=state.num_outstanding,
        # Nothing counts before the push is whole: who starts to label in the middle of it meets half of the tasks.
        num_pushed=0 if by_state.keys() & {"pending", "pushing"} else sum(by_state.values()),
        generation=history[-1].generation if history else 0,
        champion=champion,
        former_champion=others[-1] if others else None,
        num_verdicts=len(verdicts),
        last_answer=verdicts[-1].ref.answer if verdicts else None,
        num_refused_contenders=sum(verdict.ref.answer != "promote" for verdict in verdicts),
        last_reasons=verdicts[-1].ref.reasons if verdicts else (),
    )
