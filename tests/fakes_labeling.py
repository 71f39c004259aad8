"""A Label Studio in memory, or in a file that outlives a killed process."""

from __future__ import annotations

import datetime as dt
import json
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pipeline_tasks.core.ports import AnnotatedTask, AnnotationCount, LabelingAnnotation, LabelingProject, LabelingTask

EPOCH = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
BUCKET = "bucket"


class FakeLabelStudio:
    """A LabelingTool; `fail` plans errors before a call's effect, or after it (the answer is lost).

    With a path each effect is in the file before the call returns.
    """

    def __init__(self, path: Path | None = None, *, connected: bool = True) -> None:
        self._path = path
        self._connected = connected
        self.people = ["ann@x", "ben@x", "cleo@x"]
        self.calls: dict[str, int] = defaultdict(int)
        self._planned: dict[str, deque[tuple[Exception, bool]]] = defaultdict(deque)
        self.clock_error = dt.timedelta(0)  # what the server's clock is off by, against ours
        self.state = {"projects": {}, "tasks": {}, "annotations": {}, "next_id": 1, "tick": 0}
        if path is not None and path.exists():
            self.state = json.loads(path.read_text())

    # What a test does

    def fail(self, method: str, error: Exception, *, times: int = 1, after: bool = False) -> None:
        self._planned[method].extend([(error, after)] * times)

    def tasks_of(self, project_id: int) -> list[dict]:
        return [task for task in self.state["tasks"].values() if task["project"] == project_id]

    def answer(self, project_id: int, item_id: str, label: str | None, *, by: str = "ann@x", **changes) -> str:
        """Annotate the item's first task as a person would (None = skip) and return the annotation's id."""
        task_id = min(task["id"] for task in self.tasks_of(project_id) if task["data"].get("item_id", "") == item_id)
        result = changes.pop("result", None)
        if result is None:
            value = {"choices": [label]}
            region = {"from_name": "label", "to_name": "image", "type": "choices", "value": value}
            result = [] if label is None else [region]
        annotation_id = str(self._new_id())
        now = self._tick(task_id)
        self.state["annotations"][annotation_id] = {
            "id": annotation_id,
            "task": task_id,
            "by": by,
            "result": result,
            "cancelled": changes.pop("cancelled", label is None and not result),
            "created_at": now,
            "updated_at": now,
        }
        self._save()
        return annotation_id

    def edit(self, annotation_id: str, label: str) -> None:
        annotation = self.state["annotations"][annotation_id]
        annotation["result"][0]["value"]["choices"] = [label]
        annotation["updated_at"] = self._tick(annotation["task"])
        self._save()

    def delete_annotation(self, annotation_id: str) -> None:
        """Delete by the number, as a person does, or by the whole id, as the port does."""
        self._before("delete_annotation")
        number, _, created = str(annotation_id).partition("@")
        annotation = self.state["annotations"].get(number)
        if annotation is not None and created in ("", _stamp(annotation)):
            del self.state["annotations"][number]
            self._tick(annotation["task"])
        self._save()

    def shown_to(self, project_id: int, person: str) -> list[str]:
        """Return the items that a person gets to label: not answered by them, nor by as many as are asked."""
        shown = []
        for task in self.tasks_of(project_id):
            given = self._of_task(task["id"])
            num_people = len({answer["by"] for answer in given if not answer["cancelled"]})
            if num_people < task["people"] and person not in {answer["by"] for answer in given}:
                shown.append(task["data"]["item_id"])
        return shown

    def rename(self, project_id: int, title: str) -> None:
        self.state["projects"][str(project_id)]["title"] = title
        self._save()

    def describe(self, project_id: int, description: str) -> None:
        self.state["projects"][str(project_id)]["description"] = description
        self._save()

    def edit_data(self, task_id: int, **data) -> None:
        """Change a task's data; None removes a key."""
        task = self.state["tasks"][str(task_id)]
        changed = {**task["data"], **data}
        task["data"] = {key: value for key, value in changed.items() if value is not None}
        self._save()

    def drop_project(self, project_id: int) -> None:
        for task in self.tasks_of(project_id):
            self.delete_tasks(project_id, [task["id"]])
        del self.state["projects"][str(project_id)]
        self._save()

    def set_config(self, project_id: int, label_config: str) -> None:
        self.state["projects"][str(project_id)]["label_config"] = label_config
        self._save()

    def wipe(self) -> None:
        """Lose everything, as a deleted database does."""
        tick = self.state["tick"]
        self.state = {"projects": {}, "tasks": {}, "annotations": {}, "next_id": 1, "tick": tick}
        self._save()

    # The port

    def project(self, project_id: int) -> LabelingProject:
        self._before("project")
        stored = self._project(project_id)
        return LabelingProject(project_id, stored["title"], stored["description"], stored["label_config"])

    def find_project(self, mark: str) -> LabelingProject | None:
        self._before("find_project")
        ids = [row["id"] for row in self.state["projects"].values() if mark in row["description"]]
        return self.project(min(ids)) if ids else None

    def create_project(self, *, mark: str, title: str, **settings) -> int:
        self._before("create_project")
        same = [row["id"] for row in self.state["projects"].values() if mark in row["description"]]
        project_id = min(same) if same else self._new_id()
        self.state["projects"].setdefault(str(project_id), {"id": project_id, "title": title, **settings})
        self._after("create_project")
        return project_id

    def update_project(self, project_id: int, *, hook: str, **settings) -> None:
        self._before("update_project")
        project = self._project(project_id)
        if settings["annotators_per_item"] != project["annotators_per_item"]:  # as Label Studio does it
            for task in self.tasks_of(project_id):
                task["people"] = settings["annotators_per_item"]
        project.update(settings, hook=hook)
        self._after("update_project")

    def accounts(self) -> list[str]:
        self._before("accounts")
        return list(self.people)

    def connect_objects(self, project_id: int) -> None:
        self._before("connect_objects")
        self._project(project_id)

    def object_url(self, object_key: str) -> str | None:
        return f"s3://{BUCKET}/{object_key}" if self._connected else None

    def import_tasks(self, project_id: int, tasks: Sequence[LabelingTask]) -> list[int]:
        self._before("import_tasks")
        self._project(project_id)
        ids = []
        for task in tasks:
            task_id = self._new_id()
            ids.append(task_id)
            self.state["tasks"][str(task_id)] = {
                "id": task_id,
                "project": project_id,
                "data": {**task.data, "item_id": task.item_id},
                "predictions": [dict(prediction) for prediction in task.predictions],
                "people": self._project(project_id)["annotators_per_item"],
                "changed_at": None,
            }
        self._after("import_tasks")
        return ids

    def task_count(self, project_id: int) -> int:
        self._before("task_count")
        self._project(project_id)
        return len(self.tasks_of(project_id))

    def annotation_count(self, project_id: int) -> AnnotationCount:
        self._before("annotation_count")
        self._project(project_id)
        mine = {task["id"] for task in self.tasks_of(project_id)}
        num_annotations = sum(annotation["task"] in mine for annotation in self.state["annotations"].values())
        return AnnotationCount(num_annotations, self._now(), self.clock_error.total_seconds())

    def task_ids(self, project_id: int, item_ids: Iterable[str] | None = None) -> dict[str, list[int]]:
        self._before("task_ids")
        self._project(project_id)
        wanted = None if item_ids is None else set(item_ids)
        ids_by_item: dict[str, list[int]] = {}
        for task in self.tasks_of(project_id):
            item_id = str(task["data"].get("item_id", ""))
            if wanted is None or item_id in wanted:
                ids_by_item.setdefault(item_id, []).append(task["id"])
        return {item_id: sorted(ids) for item_id, ids in ids_by_item.items()}

    def task_data(self, project_id: int, task_id: int) -> dict:
        self._before("task_data")
        return next((task["data"] for task in self.tasks_of(project_id) if task["id"] == task_id), {})

    def set_task_data(self, task_id: int, data) -> None:
        self._before("set_task_data")
        self.state["tasks"][str(task_id)]["data"] = dict(data)
        self._after("set_task_data")

    def delete_tasks(self, project_id: int, task_ids: Sequence[int]) -> None:
        self._before("delete_tasks")
        gone = set(task_ids)
        mine = {task["id"] for task in self.tasks_of(project_id)} & gone
        self.state["tasks"] = {key: task for key, task in self.state["tasks"].items() if task["id"] not in mine}
        kept = {key: answer for key, answer in self.state["annotations"].items() if answer["task"] not in mine}
        self.state["annotations"] = kept
        self._after("delete_tasks")

    def annotations(
        self, project_id: int, *, updated_since: dt.datetime | None = None, task_ids: Sequence[int] | None = None
    ) -> Iterator[LabelingAnnotation]:
        self._before("annotations")
        self._project(project_id)
        tasks = [task for task in self.tasks_of(project_id) if task["changed_at"] is not None]
        if task_ids is not None:
            tasks = [task for task in tasks if task["id"] in set(task_ids)]
        elif updated_since is not None:
            tasks = [task for task in tasks if dt.datetime.fromisoformat(task["changed_at"]) >= updated_since]
        for task in sorted(tasks, key=lambda row: row["changed_at"]):
            yield from (self._annotation(task, answer) for answer in self._of_task(task["id"]))

    def annotated_tasks(self, project_id: int, task_ids: Sequence[int] | None = None) -> list[AnnotatedTask]:
        self._before("annotated_tasks")
        self._project(project_id)
        counted = [
            AnnotatedTask(
                task["id"],
                str(task["data"].get("item_id", "")),
                len(self._of_task(task["id"])),
                task["people"],
            )
            for task in self.tasks_of(project_id)
        ]
        wanted = {task.task_id for task in counted} if task_ids is None else set(task_ids)
        return [task for task in counted if task.num_annotations and task.task_id in wanted]

    def ask_people(self, task_id: int, num_people: int) -> None:
        self._before("ask_people")
        self.state["tasks"][str(task_id)]["people"] = num_people
        self._tick(task_id)
        self._after("ask_people")

    def url(self, project_id: int) -> str:
        return f"http://label-studio.test/projects/{project_id}/data"

    # Inside

    def _project(self, project_id: int) -> dict:
        return self.state["projects"][str(project_id)]

    def _of_task(self, task_id: int) -> list[dict]:
        return [answer for answer in self.state["annotations"].values() if answer["task"] == task_id]

    def _annotation(self, task: dict, answer: dict) -> LabelingAnnotation:
        created_at = dt.datetime.fromisoformat(answer["created_at"])
        return LabelingAnnotation(
            annotation_id=f"{answer['id']}@{_stamp(answer)}",
            task_id=task["id"],
            item_id=str(task["data"].get("item_id", "")),
            annotator=answer["by"],
            result=tuple(answer["result"]),
            cancelled=answer["cancelled"],
            lead_time_seconds=1.0,
            created_at=created_at,
            updated_at=dt.datetime.fromisoformat(answer["updated_at"]),
        )

    def _new_id(self) -> int:
        self.state["next_id"] += 1
        return self.state["next_id"] - 1

    def _tick(self, task_id: int) -> str:
        self.state["tick"] += 1
        now = self._now().isoformat()
        self.state["tasks"][str(task_id)]["changed_at"] = now
        return now

    def _now(self) -> dt.datetime:
        return EPOCH + dt.timedelta(seconds=self.state["tick"]) + self.clock_error

    def _before(self, method: str) -> None:
        self.calls[method] += 1
        if self._planned[method] and not self._planned[method][0][1]:
            raise self._planned[method].popleft()[0]

    def _after(self, method: str) -> None:
        self._save()
        if self._planned[method]:
            raise self._planned[method].popleft()[0]

    def _save(self) -> None:
        if self._path is not None:
            fresh = self._path.with_suffix(".new")
            fresh.write_text(json.dumps(self.state))
            fresh.replace(self._path)


def _stamp(annotation: dict) -> str:
    return f"{dt.datetime.fromisoformat(annotation['created_at']):%Y%m%dT%H%M%S%f}"
