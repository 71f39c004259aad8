"""Bringing queued items into Label Studio exactly once, whatever was interrupted before."""

from __future__ import annotations

import dataclasses
import datetime as dt
import logging
from collections.abc import Iterator, Mapping, Sequence

from pipeline_tasks.annotation.annotation_parser import storable
from pipeline_tasks.annotation.reconcile import changed_tasks, plan_reconciliation
from pipeline_tasks.annotation.task_rendering import is_inline, render_address, render_inline, suggestion
from pipeline_tasks.catalog.database import Database
from pipeline_tasks.catalog.labeling_tasks import QueuedItem
from pipeline_tasks.catalog.labels import LabelRepository
from pipeline_tasks.catalog.set_aside import BadRow
from pipeline_tasks.contracts import Fence, Queue
from pipeline_tasks.core.crash_points import crash_point
from pipeline_tasks.core.ports import LabelingTask, LabelingTool, ObjectStore
from pipeline_tasks.errors import DataCorrupt, InputError, PermanentError
from pipeline_tasks.guards.personal import DenyList
from pipeline_tasks.project.labeling_config import LabelingConfig
from pipeline_tasks.project.schema import Modality

logger = logging.getLogger(__name__)

CHUNK_ITEMS = 200
TASK_REFUSED = "LS_REFUSED"
CHUNK_BYTES = 16 * 1024 * 1024  # Label Studio takes 250 MB a request, in the memory of one process


@dataclasses.dataclass(frozen=True, slots=True)
class PushCounts:
    """The counts of one queue's push."""

    num_pushed: int = 0
    num_adopted: int = 0
    num_duplicates_removed: int = 0

    def plus(self, other: PushCounts) -> PushCounts:
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return PushCounts(*(mine + theirs for mine, theirs in pairs))


@dataclasses.dataclass(frozen=True)
class QueuePush:
    """One queue of one project on its way into its Label Studio project."""

    project: str
    queue: Queue
    ls_project_id: int
    modality: Modality
    config: LabelingConfig
    show_suggestions: bool
    labels: LabelRepository
    store: ObjectStore
    labeling: LabelingTool
    database: Database
    fence: Fence
    now: dt.datetime
    chunk_items: int = CHUNK_ITEMS
    deny: DenyList = dataclasses.field(default_factory=DenyList)

    def run(self) -> PushCounts:
        """Settle what earlier attempts left, push what is pending, and look once more for doubles."""
        adopted = self._settle_interrupted()
        before = self._reconcile()
        pushed = sum(self._push_chunk(chunk) for chunk in self._chunks())
        counts = PushCounts(num_pushed=pushed, num_adopted=adopted).plus(before)
        return counts.plus(self._reconcile()) if pushed else counts

    def _settle_interrupted(self) -> int:
        """Adopt the tasks that an interrupted attempt created without recording them; the rest is pending again."""
        moved = self.labels.pushed_elsewhere(self.project, self.queue, ls_project_id=self.ls_project_id)
        self.labels.give_back(self.project, moved, fence=self.fence)
        stuck = self.labels.in_state(self.project, self.queue, "pushing")
        created = self.labeling.task_ids(self.ls_project_id, stuck) if stuck else {}
        self._record({item_id: task_ids[0] for item_id, task_ids in created.items()})
        self.labels.give_back(self.project, [item_id for item_id in stuck if item_id not in created], fence=self.fence)
        return len(created)

    def _reconcile(self) -> PushCounts:
        """Remove doubles and put back items whose task is gone; costs two numbers when the counts agree."""
        num_recorded = self.labels.num_recorded_tasks(self.project, self.queue, ls_project_id=self.ls_project_id)
        refused = self.labels.with_changed_task(self.project, self.queue)
        if not refused and self.labeling.task_count(self.ls_project_id) == num_recorded:
            return PushCounts()
        recorded = self.labels.recorded_tasks(self.project, self.queue, ls_project_id=self.ls_project_id)
        present = self.labeling.task_ids(self.ls_project_id)
        if self._set_right(changed_tasks(present, recorded)):
            present = self.labeling.task_ids(self.ls_project_id)
        annotated = {task.task_id for task in self.labeling.annotated_tasks(self.ls_project_id)}
        plan = plan_reconciliation(present=present, recorded=recorded, annotated=annotated)
        waiting = set(self.labels.in_state(self.project, self.queue, "pushed"))
        self._record(plan.adopt)
        self.labels.give_back(self.project, [item_id for item_id in plan.lost if item_id in waiting], fence=self.fence)
        self._delete(plan.delete)
        return PushCounts(num_adopted=len(plan.adopt), num_duplicates_removed=len(plan.delete))

    def _set_right(self, changed: Mapping[int, Sequence[str]]) -> int:
        """Give tasks whose item id somebody has changed the right one again, where they still show the item."""
        num_right = 0
        for task_id, item_ids in changed.items():
            for queued in self.labels.queued(self.project, item_ids):
                task = self._rendered(queued)
                data = self.labeling.task_data(self.ls_project_id, task_id)
                if task is not None and all(data.get(key) == value for key, value in task.data.items()):
                    self.database.check(self.fence)
                    crash_point("annotate.repair.before")
                    self.labeling.set_task_data(task_id, {**data, "item_id": task.item_id})
                    crash_point("annotate.repair.after")
                    logger.warning("task %d of Label Studio shows item %s again", task_id, task.item_id)
                    num_right += 1
                    break
        return num_right

    def _delete(self, task_ids: Sequence[int]) -> None:
        if not task_ids:
            return
        self.database.check(self.fence)
        crash_point("annotate.dedupe.before")
        self.labeling.delete_tasks(self.ls_project_id, task_ids)
        crash_point("annotate.dedupe.after")
        logger.warning("removed %d doubles from Label Studio project %d", len(task_ids), self.ls_project_id)

    def _chunks(self) -> Iterator[list[tuple[QueuedItem, LabelingTask]]]:
        """Claim pending items and yield them as tasks, as many as one import takes."""
        while claimed := self.labels.claim(self.project, self.queue, limit=self.chunk_items, fence=self.fence):
            chunk: list[tuple[QueuedItem, LabelingTask]] = []
            num_bytes = 0
            for queued, task in self._render_all(claimed):
                size = queued.item.location.size_bytes
                if chunk and num_bytes + size > CHUNK_BYTES:
                    yield chunk
                    chunk, num_bytes = [], 0
                chunk.append((queued, task))
                num_bytes += size
            if chunk:
                yield chunk

    def _render_all(self, claimed: Sequence[QueuedItem]) -> Iterator[tuple[QueuedItem, LabelingTask]]:
        for queued in claimed:
            task = self._rendered(queued)
            if task is not None:
                yield queued, task

    def _rendered(self, queued: QueuedItem) -> LabelingTask | None:
        """Return the task of an item; one that cannot be shown goes to the quarantine.

        Bytes that are not in the store may come back: the item stays claimed, and the next run tries again.
        """
        try:
            return self._task(queued)
        except InputError as error:
            self._refuse(queued, error.code, str(error), closed=True)
        except (KeyError, DataCorrupt) as error:
            advice = "The next annotate tries again; restore the object from a backup."
            reason = f"the bytes of item {queued.item.item_id} must be in the store (got {storable(error)}). {advice}"
            self._refuse(queued, "DATA_LOST", reason, closed=False)
        return None

    def _task(self, queued: QueuedItem) -> LabelingTask:
        item = queued.item
        url = self.labeling.object_url(item.location.object_key)
        if is_inline(item, modality=self.modality, object_url=url) or url is None:
            content = self.deny.shown(self.store.get_range(item.location), media_type=item.media_type)
            data = render_inline(item, content, modality=self.modality)
        else:
            data = render_address(url)
        shown = self.queue == "label" and self.show_suggestions and queued.prediction
        suggested = suggestion(self.config, queued.prediction) if shown and queued.prediction else None
        return LabelingTask(item_id=item.item_id, data=data, predictions=(suggested,) if suggested else ())

    def _refuse(self, queued: QueuedItem, code: str, reason: str, *, closed: bool) -> None:
        """Put an item into the quarantine; closed, its labeling task is not tried again."""
        item = queued.item
        refusal = BadRow(item.source, item.key, item.item_id, code, reason)
        self.labels.refuse(self.project, refusal, closed=closed, now=self.now, fence=self.fence)

    def _push_chunk(self, chunk: Sequence[tuple[QueuedItem, LabelingTask]]) -> int:
        """Push a chunk; where Label Studio refuses it, push its halves, so that one task stops only itself."""
        tasks = [task for _, task in chunk]
        self.database.check(self.fence)
        crash_point("annotate.push.before")
        try:
            task_ids = self.labeling.import_tasks(self.ls_project_id, tasks)
        except PermanentError as error:
            if error.code != TASK_REFUSED:
                raise
            if len(chunk) > 1:
                half = len(chunk) // 2
                return self._push_chunk(chunk[:half]) + self._push_chunk(chunk[half:])
            self._refuse(chunk[0][0], TASK_REFUSED, storable(error), closed=False)
            return 0
        crash_point("annotate.push.after")
        self._record({task.item_id: task_id for task, task_id in zip(tasks, task_ids, strict=True)})
        crash_point("annotate.push.recorded")
        logger.info("pushed %d tasks into Label Studio project %d", len(tasks), self.ls_project_id)
        return len(tasks)

    def _record(self, task_ids: Mapping[str, int]) -> None:
        if task_ids:
            self.labels.mark_pushed(
                self.project, task_ids, ls_project_id=self.ls_project_id, now=self.now, fence=self.fence
            )
