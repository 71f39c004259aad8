"""One collect run: new revisions, deletions, decisions, and the cursor last."""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import itertools
import logging
from collections import Counter
from collections.abc import Collection as Ids
from collections.abc import Iterable, Mapping, Sequence

from pipeline_tasks.annotation.annotation_cursor import OVERLAP, AnnotationCursor
from pipeline_tasks.annotation.annotation_parser import (
    ITEM_CHANGED,
    Reading,
    annotation_row,
    changed_item,
    kept_result,
    read_answer,
    received,
    refusal,
    revision_of,
    storable,
    tombstone,
    unknown_item,
)
from pipeline_tasks.annotation.consensus import ConsensusRule, asks_further, next_decision, people_wanted, read_through
from pipeline_tasks.catalog.database import slices
from pipeline_tasks.catalog.disputes import DisputeRepository
from pipeline_tasks.catalog.items import ItemRepository
from pipeline_tasks.catalog.labels import AnnotationRow, DecisionRow, LabelRepository
from pipeline_tasks.catalog.set_aside import BadRow
from pipeline_tasks.contracts import CollectReport, Fence, Queue
from pipeline_tasks.core.crash_points import crash_point
from pipeline_tasks.core.ports import AnnotatedTask, LabelingAnnotation, LabelingTool
from pipeline_tasks.errors import PermanentError
from pipeline_tasks.project.labeling_config import LabelingConfig
from pipeline_tasks.project.schema import LoadedProject

logger = logging.getLogger(__name__)

BATCH_ANNOTATIONS = 500
MAX_DELETIONS = 20
MAX_DELETED_SHARE = 0.5
MAX_READINGS = 3

Owned = tuple[LabelingAnnotation, str]  # an annotation, and the item that its task was pushed for


class Collection:
    """The state of one run over the two Label Studio projects of a project."""

    def __init__(
        self,
        *,
        project: LoadedProject,
        config: LabelingConfig,
        labels: LabelRepository,
        items: ItemRepository,
        labeling: LabelingTool,
        fence: Fence,
        now: dt.datetime,
    ) -> None:
        self._project = project
        self._config = config
        self._labels = labels
        self._items = items
        self._labeling = labeling
        self._fence = fence
        self._now = now
        registered = labels.registration(project.name)
        self._schema_version = 1 if registered is None else registered[1]
        self._counts: Counter[str] = Counter()
        self._waiting: set[str] = set()  # annotations of tasks that somebody has changed
        self._ls_project_id = 0  # of the queue at hand, as the next one
        self._began_at: dt.datetime | None = None  # where that project replaced another

    def report(self) -> CollectReport:
        count = self._counts
        return CollectReport(
            project=self._project.name,
            num_annotations=count["annotations"],
            num_deleted=count["deleted"],
            num_decided=count["decided"],
            num_disputed=count["disputed"],
            num_refused=count["refused"] + len(self._waiting),
            num_skipped=count["skipped"],
            num_empty=count["empty"],
            num_deletions_held=count["held"],
            num_asked=count["asked"],
        )

    def collect_queue(self, queue: Queue, *, ls_project_id: int) -> None:
        """Bring one queue up to date; the order makes each step repeatable.

        New revisions first, then deletions together with the decisions that they change, then the other decisions,
        and the cursor last: a run that stops anywhere is made good by the next one.
        """
        name = f"annotations/{queue}"
        cursor = self._items.cursor(self._project.name, name)
        known = AnnotationCursor.of(cursor.value if cursor else {})
        before = self._labeling.annotation_count(ls_project_id)
        start = known.start(ls_project_id, before, now=self._now)
        self._ls_project_id, self._began_at = ls_project_id, start.began_at
        touched, newest, is_equal = self._record_changes(queue, since=start.changed_at)
        compared_at, corrected = start.compared_at, set[str]()
        if not is_equal or (start.changed_at is not None and start.is_comparison_due(now=self._now)):
            corrected, compared_at = self._settle_differences(queue), self._now
        elif start.changed_at is None:  # all that is there was read, and no more is recorded
            compared_at = self._now
        crash_point("collect.decisions.before")
        for some in slices(sorted(touched - corrected)):
            self._commit(queue, some, rows=[], refusals=[])
        crash_point("collect.decisions.recorded")
        self._ask_further(queue)
        self._ask_again(queue)
        end = start if newest is None else start.end(newest, before, compared_at=compared_at)
        if newest is not None and end != known:
            self._items.move_cursor(
                self._fence, project=self._project.name, name=name, value=end.value(), after=cursor, now=self._now
            )
        crash_point("collect.cursor.recorded")

    def _record_changes(self, queue: Queue, *, since: dt.datetime | None) -> tuple[set[str], dt.datetime | None, bool]:
        """Record the revisions since a time, until as many annotations are recorded as Label Studio has.

        People go on while it is read, so what changed is read again before the counts are believed to differ. Returns
        the items that were touched, the time of the newest change, and whether the counts are equal.
        """
        touched: set[str] = set()
        newest = since
        for _ in range(MAX_READINGS):
            start = None if newest is None else newest - OVERLAP
            changes = map(received, self._labeling.annotations(self._ls_project_id, updated_since=start))
            while batch := list(itertools.islice(changes, BATCH_ANNOTATIONS)):
                touched |= self._record(queue, batch)
                last = max(annotation.updated_at for annotation in batch)
                newest = last if newest is None else max(newest, last)
            recorded = self._labels.num_live(self._project.name, queue, collected_since=self._began_at)
            present = self._labeling.annotation_count(self._ls_project_id).num_annotations
            if present == recorded and not self._waiting:  # what waits is there and is not recorded
                return touched, newest, True
        return touched, newest, False

    def _record(self, queue: Queue, batch: Sequence[LabelingAnnotation]) -> set[str]:
        owned = self._owned(queue, batch)
        rows, refusals = self._new_revisions(queue, owned)
        crash_point("collect.annotations.before")
        self._labels.commit(self._project.name, annotations=rows, refusals=refusals, now=self._now, fence=self._fence)
        crash_point("collect.annotations.recorded")
        return {item_id for _, item_id in owned}

    def _owned(self, queue: Queue, batch: Sequence[LabelingAnnotation]) -> list[Owned]:
        """Return each annotation with the item that its task was pushed for.

        That is what the task says itself where the catalog does not know it.
        """
        owners = self._owners(queue, sorted({annotation.task_id for annotation in batch}))
        return [(annotation, owners.get(annotation.task_id, annotation.item_id)) for annotation in batch]

    def _owners(self, queue: Queue, task_ids: Sequence[int] | None = None) -> dict[int, str]:
        """Return the item of each recorded task, or of each of the named, that is recorded for one item alone."""
        recorded = self._labels.recorded_tasks(
            self._project.name, queue, ls_project_id=self._ls_project_id, task_ids=task_ids
        )
        num_items = Counter(recorded.values())
        return {task_id: item_id for item_id, task_id in recorded.items() if num_items[task_id] == 1}

    def _new_revisions(self, queue: Queue, owned: Sequence[Owned]) -> tuple[list[AnnotationRow], list[BadRow]]:
        item_ids = {item_id for _, item_id in owned}
        ours = self._labels.known_items(self._project.name, item_ids, queue=queue)
        known = self._known_revisions(item_ids)
        rows: list[AnnotationRow] = []
        refusals: list[BadRow] = []
        newest = {annotation.annotation_id: (self._cleaned(annotation), item_id) for annotation, item_id in owned}
        for annotation, item_id in newest.values():
            is_recorded = functools.partial(self._labels.has_revision, self._project.name, annotation.annotation_id)
            revision = revision_of(annotation, known.get(annotation.annotation_id), is_recorded=is_recorded)
            if revision is None:
                continue
            reading = self._read(annotation, item_id, ours)
            mine = dataclasses.replace(annotation, item_id=item_id)
            refused = refusal(mine, reading)
            refusals += [] if refused is None else [refused]
            if reading.code == ITEM_CHANGED:  # it is read again, until the task is right
                self._waiting.add(annotation.annotation_id)
                continue
            self._counts[_kind(reading)] += 1
            kept = kept_result(annotation, self._config)
            rows.append(annotation_row(mine, revision=revision, queue=queue, label=reading.label, result=kept))
        self._counts["annotations"] += len(rows)
        return rows, refusals

    def _cleaned(self, annotation: LabelingAnnotation) -> LabelingAnnotation:
        """Return an annotation without the personal data in its notes that the project names."""
        deny = self._project.config.deny_list
        return dataclasses.replace(annotation, result=deny.clean_texts(annotation.result)) if deny else annotation

    def _read(self, annotation: LabelingAnnotation, owner: str, ours: Ids[str]) -> Reading:
        if owner != annotation.item_id:
            return changed_item(annotation, owner)
        return read_answer(annotation, self._config) if owner in ours else unknown_item(annotation)

    def _known_revisions(
        self, item_ids: Iterable[str], *, collected_since: dt.datetime | None = None
    ) -> dict[str, AnnotationRow]:
        by_item = self._labels.annotations(self._project.name, item_ids, collected_since=collected_since)
        return {row.annotation_id: row for rows in by_item.values() for row in rows}

    def _annotated(self, queue: Queue) -> list[AnnotatedTask]:
        owners = self._owners(queue)
        return [
            dataclasses.replace(task, item_id=owners.get(task.task_id, storable(task.item_id)))
            for task in self._labeling.annotated_tasks(self._ls_project_id)
        ]

    def _settle_differences(self, queue: Queue) -> set[str]:
        """Bury annotations that are gone, take up those that the changes missed, and decide anew in one transaction.

        A request that was killed halfway leaves an annotation without touching its task: only the count shows it.
        """
        there = self._annotated(queue)
        counts: Counter[str] = Counter()
        for task in there:
            counts[task.item_id] += task.num_annotations
        recorded = self._labels.live_counts(self._project.name, queue, collected_since=self._began_at)
        everyone = counts.keys() | recorded.keys()
        differing = sorted(item_id for item_id in everyone if recorded.get(item_id, 0) != counts[item_id])
        num_gone = sum(max(recorded.get(item_id, 0) - counts[item_id], 0) for item_id in differing)
        if is_doubtful(num_gone, num_recorded=sum(recorded.values())):
            logger.error(
                "Label Studio project %d lacks %d of %d collected annotations: taken for a loss there, labels stay",
                self._ls_project_id,
                num_gone,
                sum(recorded.values()),
            )
            self._counts["held"] += num_gone
            return set()
        for some in slices(differing):
            present = self._present(there, some)
            rows, refusals = self._new_revisions(queue, self._owned(queue, present))
            alive = {annotation.annotation_id for annotation in present}
            gone = [
                tombstone(row)
                for row in self._known_revisions(some, collected_since=self._began_at).values()
                if row.annotation_id not in alive and not row.deleted and row.queue == queue
            ]
            self._counts["deleted"] += len(gone)
            crash_point("collect.differences.before")
            self._commit(queue, some, rows=[*rows, *gone], refusals=refusals)
            crash_point("collect.differences.recorded")
        return set(differing)

    def _present(self, there: Iterable[AnnotatedTask], item_ids: Sequence[str]) -> list[LabelingAnnotation]:
        task_ids = [task.task_id for task in there if task.item_id in set(item_ids)]
        return list(map(received, self._labeling.annotations(self._ls_project_id, task_ids=task_ids)))

    def _ask_further(self, queue: Queue) -> None:
        """Open the tasks of disputed items for one more person each, those that earlier releases closed too.

        What Label Studio says of a task is compared each time: a change of the project's settings sets all tasks back.
        """
        name, rule = self._project.name, self._rule(queue)
        disputes = DisputeRepository(self._labels.database)
        disputed = disputes.disputed(name, queue)
        answers = self._labels.annotations(name, [row.item_id for row in disputed])
        asked = {
            row.item_id: row for row in disputed if asks_further(self._read_through(answers.get(row.item_id, [])), rule)
        }
        opened = [row.item_id for row in asked.values() if not row.is_open]
        settled = [row.item_id for row in disputed if row.is_open and row.item_id not in asked]
        crash_point("collect.further.before")
        if opened or settled:
            disputes.set_open(name, asked=opened, settled=settled, fence=self._fence)
        self._counts["asked"] += len(asked)
        here = self._labels.annotations(name, asked, collected_since=self._began_at)
        wanted = {
            dispute.ls_task_id: people_wanted(here.get(dispute.item_id, []))
            for dispute in asked.values()
            if dispute.ls_project_id == self._ls_project_id and dispute.ls_task_id is not None
        }
        for task in self._labeling.annotated_tasks(self._ls_project_id, sorted(wanted)):
            if task.num_people < wanted[task.task_id]:
                self._labeling.ask_people(task.task_id, wanted[task.task_id])
        crash_point("collect.further.after")

    def _ask_again(self, queue: Queue) -> None:
        """Remove empty submits from Label Studio, which takes their tasks for done; they are in the quarantine."""
        for annotation_id in self._labels.empty_answers(self._project.name, queue, collected_since=self._began_at):
            try:
                self._labeling.delete_annotation(annotation_id)
            except PermanentError as error:  # the rest of the run is of more worth
                logger.warning("the empty submit %s stays in Label Studio: %s", annotation_id, error)

    def _commit(
        self,
        queue: Queue,
        item_ids: Sequence[str],
        *,
        rows: Sequence[AnnotationRow],
        refusals: Sequence[BadRow],
    ) -> None:
        """Record rows together with the decisions of the items that follow from them."""
        decisions = self._decisions(queue, item_ids, rows)
        reopened = [change.item_id for change in decisions if change.status == "withdrawn"]
        kept_open = [
            change.item_id for change in decisions if change.status == "disputed"
        ]  # until _ask_further has looked
        if rows or decisions or refusals:
            self._labels.commit(
                self._project.name,
                annotations=rows,
                decisions=decisions,
                refusals=refusals,
                reopened=reopened,
                kept_open=kept_open,
                now=self._now,
                fence=self._fence,
            )
        for decision in decisions:
            self._counts[decision.status] += 1

    def _rule(self, queue: Queue) -> ConsensusRule:
        return ConsensusRule.of(self._project.config.labels, queue)

    def _read_through(
        self, stored: Iterable[AnnotationRow], coming: Iterable[AnnotationRow] = ()
    ) -> list[AnnotationRow]:
        return read_through(_newest_of(stored, coming), self._config.former, self._config.choices)

    def _decisions(self, queue: Queue, item_ids: Sequence[str], rows: Sequence[AnnotationRow]) -> list[DecisionRow]:
        name, rule = self._project.name, self._rule(queue)
        ours = self._labels.known_items(name, item_ids, queue=queue)
        stored = self._labels.annotations(name, ours)
        previous = self._labels.decisions(name, ours)
        decisions = [
            next_decision(
                item_id,
                self._read_through(stored.get(item_id, []), [row for row in rows if row.item_id == item_id]),
                rule=rule,
                previous=previous.get(item_id),
                schema_version=self._schema_version,
                now=self._now,
            )
            for item_id in sorted(ours)
        ]
        return [decision for decision in decisions if decision is not None]


def is_doubtful(num_gone: int, *, num_recorded: int) -> bool:
    """Tell whether so much is gone at once that Label Studio lost its data rather than people deleted answers."""
    return num_gone > MAX_DELETIONS and num_gone > MAX_DELETED_SHARE * num_recorded


def _newest_of(stored: Iterable[AnnotationRow], coming: Iterable[AnnotationRow]) -> list[AnnotationRow]:
    by_id: Mapping[str, AnnotationRow] = {row.annotation_id: row for row in [*stored, *coming]}
    return list(by_id.values())


def _kind(reading: Reading) -> str:
    if reading.label is not None and reading.code != "UNKNOWN_CLASS":  # one of a class that was removed keeps its name
        return "labeled"
    return {None: "skipped", "NO_ANSWER": "empty"}.get(reading.code, "refused")
