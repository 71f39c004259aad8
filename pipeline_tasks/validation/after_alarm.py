"""The exam after an alarm: the exam items that arrived since it began, and how many are missing yet."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections import Counter
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.database import Database
from pipeline_tasks.catalog.labels import newest_decisions
from pipeline_tasks.catalog.monitoring import MonitoringRepository
from pipeline_tasks.catalog.set_aside import is_usable
from pipeline_tasks.contracts import ALARM_STANDS
from pipeline_tasks.project.gate_schema import MIN_GROUPS, Gate

IN_EXAM, LABELED, WAITING = "in_exam", "labeled", "waiting"
EXAM_AWAITED = "EXAM_AWAITED"  # the code of a run that ends so


@dataclasses.dataclass(frozen=True, slots=True)
class Counted:
    """Items and groups, of one state and of those before it."""

    items: int
    groups: int


@dataclasses.dataclass(frozen=True, slots=True)
class AfterAlarm:
    """The exam items from after an alarm began, against those that are needed to judge on them.

    `in_exam` are in an epoch, `labeled` too or in none yet, `asked` all of these and those that wait for people. An
    epoch takes a few items of one group only, and no others are counted. `of_quality`: people's answers have shown it.
    """

    since: dt.datetime
    of_quality: bool
    needed: Counted
    in_exam: Counted
    labeled: Counted
    asked: Counted

    @property
    def has_exam(self) -> bool:
        """True where the exam has what it needs."""
        return _reaches(self.in_exam, self.needed)

    @property
    def can_open(self) -> bool:
        """True where the next epoch gives the exam what it needs."""
        return not self.has_exam and _reaches(self.labeled, self.needed)

    @property
    def num_unpicked(self) -> int:
        """Items that are needed yet and that nobody has been asked about."""
        if self.has_exam:
            return 0
        return max(self.needed.items - self.asked.items, self.needed.groups - self.asked.groups, 0)

    @property
    def text(self) -> str:
        """The state in one sentence, without a capital and a full stop."""
        began = f"{ALARM_STANDS} {self.since:%Y-%m-%d %H:%M} UTC"
        if self.has_exam:
            groups = f" of {self.in_exam.groups} groups" if self.in_exam.groups < self.in_exam.items else ""
            return f"{began}, and the exam has {self.in_exam.items} items{groups} from after it"
        if not self.in_exam.items:
            began += ", and the exam predates it"
        parts = [f"{self.in_exam.items} are in the exam"]
        parts.append(f"{self.labeled.items - self.in_exam.items} are labeled and wait for the next epoch")
        parts.append(f"{self.asked.items - self.labeled.items} wait for people")
        if self.num_unpicked:
            parts.append(f"{self.num_unpicked} are not yet picked")
        groups = ""
        if self.asked.groups < min(self.asked.items, self.needed.groups):
            groups = f" of {self.needed.groups} groups ({self.asked.groups} so far)"
        said = ", ".join(parts[:-1])
        return f"{began}; of the {self.needed.items} exam items{groups} from after it, {said} and {parts[-1]}"


def after_alarm(database: Database, project: str, gate: Gate) -> AfterAlarm | None:
    """Return how far the exam is after the alarm that stands, or None while none does."""
    standing = MonitoringRepository(database).standing_alarm(project)
    if standing is None:
        return None
    rows = [(str(row[0]), str(row[1]), int(row[2])) for row in database.rows(_items_since(project, standing.since))]
    in_exam, labeled, asked = tally(rows, most=gate.exam.max_group_items)
    needed = Counted(gate.exam.min_items, min(MIN_GROUPS, gate.exam.min_items))
    return AfterAlarm(standing.since, standing.of_quality, needed, in_exam, labeled, asked)


def awaited(after: AfterAlarm | None, gate: Gate) -> AfterAlarm | None:
    """Return the exam that is waited for (gate.after_alarm), or None where nothing is.

    Only an alarm of live quality is waited for: people check answers then, so there is what feeds the exam.
    """
    if after is None or gate.after_alarm != "wait" or not after.of_quality or after.has_exam:
        return None
    return after


def awaited_text(after: AfterAlarm, *, project: str) -> str:
    """Return why nothing is trained or judged, and what does not wait."""
    missing = after.needed.items - min(after.needed.items, after.labeled.items)
    what = f"waiting for {missing} exam items from after the alarm" if missing else "waiting for the exam's next epoch"
    return (
        f"{what}: {after.text}. The champion stays until then; label what waits in the project `{project} exam`. "
        f"gate.after_alarm: judge and `dethrone train {project} --force` judge on what there is."
    )


def tally(rows: Iterable[tuple[str, str, int]], *, most: int) -> tuple[Counted, Counted, Counted]:
    """Count (state, group, items), at most so many of a group: in the exam; labeled with them; asked with those."""
    counts: dict[str, Counter[str]] = {IN_EXAM: Counter(), LABELED: Counter(), WAITING: Counter()}
    for state, group_key, number in rows:
        counts[state][group_key] += number
    total: Counter[str] = Counter()
    counted = []
    for state in (IN_EXAM, LABELED, WAITING):
        total += counts[state]
        counted.append(Counted(sum(min(number, most) for number in total.values()), len(total)))
    return counted[0], counted[1], counted[2]


def _reaches(counted: Counted, needed: Counted) -> bool:
    return counted.items >= needed.items and counted.groups >= needed.groups


def _items_since(project: str, since: dt.datetime) -> sa.Select[Any]:
    """Select (state, group, items) of the usable exam items since then; one that is disputed to the end is none."""
    item, member, newest = t.items.c, t.exam_items.c, newest_decisions(project).subquery()
    decision = newest.c
    frozen = sa.exists().where(member.project == project, member.item_id == item.item_id)
    task = t.labeling_tasks.c  # of a disputed item: a further person is asked
    is_asked = sa.exists().where(task.project == project, task.item_id == item.item_id, task.state != "done")
    state = sa.case((frozen, IN_EXAM), (decision.status == "decided", LABELED), else_=WAITING).label("state")
    return (
        sa.select(state, item.group_key, sa.func.count())
        .join_from(t.items, newest, decision.item_id == item.item_id, isouter=True)
        .where(item.project == project, item.split == "exam", item.arrived_at >= since, is_usable(project))
        .where(sa.or_(frozen, decision.status.is_(None), decision.status != "disputed", is_asked))
        .group_by("state", item.group_key)
    )
