"""People's answers about a prediction, read from the catalog: the production item's newest label decision."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping
from typing import Any, Literal, Protocol

import sqlalchemy as sa

from bento_services.gateway.routing.route_follower import read_only_engine

ReviewState = Literal["none", "not_asked", "asked", "answered", "disputed", "catalog_away"]
# Monitoring asks people about a content once: another prediction of the same content has their answer too.
AUDIT_SQL = sa.text(
    "SELECT project, item_id FROM audits WHERE prediction_id = :prediction_id "
    "OR (project = :project AND item_id = :item_id) ORDER BY picked_at LIMIT 1"
)
DECISION_SQL = sa.text(
    "SELECT status, label, decided_at, EXISTS (SELECT 1 FROM labeling_tasks WHERE project = :project "
    "AND item_id = :item_id AND state <> 'done') AS is_open FROM label_decisions WHERE project = :project "
    "AND item_id = :item_id AND method IN ('single', 'consensus') ORDER BY version DESC LIMIT 1"
)


@dataclasses.dataclass(frozen=True, slots=True)
class Review:
    """People's answer about a prediction, if they were asked; `answered_at` is ISO 8601, UTC."""

    state: ReviewState
    label: str | None = None
    answered_at: str | None = None

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


NOT_NEEDED = Review("none")
AWAY = Review("catalog_away")


@dataclasses.dataclass(frozen=True, slots=True)
class Audited:
    """A prediction that people were asked about."""

    project: str
    review: Review


class Reviews(Protocol):
    """The source of people's answers."""

    def find(self, prediction_id: str, *, project: str = "", item_id: str = "") -> Audited | None:
        """Return what is known of a prediction, None if people were not asked; raises while it cannot be reached."""


class SqlReviews:
    """The catalog's database, read only; one query a question, from a worker thread."""

    def __init__(self, url: str) -> None:
        self._engine = read_only_engine(url)

    def find(self, prediction_id: str, *, project: str = "", item_id: str = "") -> Audited | None:
        asked = {"prediction_id": prediction_id, "project": project, "item_id": item_id}
        with self._engine.connect() as connection:
            audit = connection.execute(AUDIT_SQL, asked).mappings().first()
            if audit is None or (project and audit["project"] != project):
                return None
            decision = connection.execute(DECISION_SQL, dict(audit)).mappings().first()
        return Audited(str(audit["project"]), review_of(decision))


def review_of(decision: Mapping[str, Any] | sa.RowMapping | None) -> Review:
    """Return what a label decision says to the caller; a withdrawn one says that people are to look again.

    So does a disputed one whose task is open: it is asked of a further person.
    """
    if decision is None or decision["status"] == "withdrawn":
        return Review("asked")
    if decision["status"] == "disputed":
        return Review("asked" if decision["is_open"] else "disputed")
    return Review("answered", str(decision["label"]), _iso(decision["decided_at"]))


def _iso(value: dt.datetime | str) -> str:
    time = dt.datetime.fromisoformat(value) if isinstance(value, str) else value
    return (time if time.tzinfo else time.replace(tzinfo=dt.UTC)).astimezone(dt.UTC).isoformat()
