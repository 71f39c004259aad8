"""Label Studio through its SDK."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import httpx

from pipeline_tasks.adapters.label_studio_client import LabelStudioAccount
from pipeline_tasks.adapters.label_studio_filters import all_of, annotated_since, column_filter, is_annotated, named
from pipeline_tasks.contracts import sha256_hex
from pipeline_tasks.core.clock import utc_now
from pipeline_tasks.core.object_keys import ITEMS
from pipeline_tasks.core.ports import AnnotatedTask, AnnotationCount, LabelingAnnotation, LabelingProject, LabelingTask

if TYPE_CHECKING:
    from label_studio_sdk.base_client import LabelStudioBase

PAGE_SIZE = 500
ITEMS_PER_QUERY = 24  # an address may have 4,094 bytes (gunicorn's limit)
MAX_QUERIED_ITEMS = 480  # above, one listing of the whole project is quicker
TASKS_PER_QUERY = 200
CHANGED = "tasks:updated_at"
# Asked for without, the server counts rows of eight kinds for each project: 3 s at 200,000 tasks.
PROJECT_FIELDS = "id,title,description,label_config,maximum_annotations,sampling,show_collab_predictions"
WEBHOOK_ACTIONS = ("ANNOTATION_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_DELETED")
SECRET_HEADER = "X-Dethrone-Secret"  # noqa: S105 - the header's name, not the secret
STORAGE_TITLE = "dethrone"
SUGGESTION_VERSION = "suggestion"  # one name for all: a project shows the predictions of one version only
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


@dataclasses.dataclass(frozen=True, slots=True)
class Webhook:
    """The receiver of Label Studio's reports of annotations; `url` has a `{title}` for the name of our project."""

    url: str
    secret: str = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class ObjectStorage:
    """The bucket that Label Studio may read, so that tasks can show large objects."""

    bucket: str
    endpoint: str
    region: str
    access_key: str = dataclasses.field(repr=False)
    secret_key: str = dataclasses.field(repr=False)


class LabelStudio:
    """A LabelingTool on a Label Studio server (1.23); tokens of both kinds."""

    def __init__(
        self,
        url: str,
        token: str,
        timeout_seconds: float = 120.0,
        *,
        webhook: Webhook | None = None,
        storage: ObjectStorage | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._account = LabelStudioAccount(url, token, timeout_seconds=timeout_seconds, transport=transport)
        self._webhook = webhook
        self._storage = storage
        self._emails: dict[int, str] = {}

    @property
    def _sdk(self) -> LabelStudioBase:
        return self._account.sdk

    def url(self, project_id: int) -> str:
        return f"{self._account.url}/projects/{project_id}/data"

    def project(self, project_id: int) -> LabelingProject:
        return _project(self._project(project_id, PROJECT_FIELDS).data)

    def find_project(self, mark: str) -> LabelingProject | None:
        ours = [project for project in self._projects() if mark in (project.description or "")]
        return _project(min(ours, key=lambda project: int(project.id))) if ours else None

    def _project(self, project_id: int, fields: str) -> Any:
        """Return the raw answer about a project, with these of its fields."""
        only: Any = {"additional_query_parameters": {"include": fields}}
        return self._sdk.projects.with_raw_response.get(project_id, request_options=only)

    def _projects(self) -> Iterator[Any]:
        page: Any = self._sdk.projects.list(page_size=PAGE_SIZE, include=PROJECT_FIELDS)
        while True:
            yield from page.items
            if not page.response.next:
                return
            page = page.next_page()

    def create_project(
        self,
        *,
        mark: str,
        title: str,
        description: str,
        label_config: str,
        annotators_per_item: int,
        show_predictions: bool,
    ) -> int:
        wanted = _settings(description, label_config, annotators_per_item, show_predictions=show_predictions)
        created = int(self._sdk.projects.create(title=title, **wanted).id)
        oldest = self.find_project(mark)
        if oldest is None or oldest.project_id == created:
            return created
        self._sdk.projects.delete(created)  # another attempt was first, and ours is empty
        return oldest.project_id

    def update_project(
        self,
        project_id: int,
        *,
        hook: str,
        description: str,
        label_config: str,
        annotators_per_item: int,
        show_predictions: bool,
    ) -> None:
        project = self._project(project_id, PROJECT_FIELDS).data
        wanted = _settings(description, label_config, annotators_per_item, show_predictions=show_predictions)
        changed = {name: value for name, value in wanted.items() if getattr(project, name) != value}
        if changed:
            self._sdk.projects.update(project_id, **changed)
        if self._webhook is not None:
            self._ensure_webhook(project_id, name=hook, webhook=self._webhook)

    def _ensure_webhook(self, project_id: int, *, name: str, webhook: Webhook) -> None:
        wanted: dict[str, Any] = {
            "url": webhook.url.format(title=name),
            "send_payload": True,
            "send_for_all_actions": False,
            "headers": {SECRET_HEADER: webhook.secret},
            "actions": WEBHOOK_ACTIONS,
            "is_active": True,
        }
        known = self._sdk.webhooks.list(project=str(project_id))
        ours = [hook for hook in known if SECRET_HEADER in (hook.headers or {})]
        if not ours:
            self._sdk.webhooks.create(project=project_id, **wanted)
        elif any(getattr(ours[0], name) != value for name, value in wanted.items() if name != "actions"):
            self._sdk.webhooks.update(ours[0].id, **wanted)

    def accounts(self) -> list[str]:
        return [str(user.email) for user in self._sdk.users.list()]

    def connect_objects(self, project_id: int) -> None:
        if self._storage is None:
            return
        wanted: dict[str, Any] = {
            "project": project_id,
            "title": STORAGE_TITLE,
            # Label Studio tells no key: by this, one that is not ours any more is found and replaced.
            "description": f"key {sha256_hex(self._storage.access_key.encode())[:16]}",
            "bucket": self._storage.bucket,
            "prefix": ITEMS,  # where it looks for one object when it is connected
            "s3endpoint": self._storage.endpoint,
            "region_name": self._storage.region,
            "use_blob_urls": True,
            "presign": False,  # the server hands the bytes through: a browser needs no way to the S3
        }
        keys = {"aws_access_key_id": self._storage.access_key, "aws_secret_access_key": self._storage.secret_key}
        storages = self._sdk.import_storage.s3
        known = storages.list(project=project_id)
        ours = [entry for entry in known if entry.bucket == self._storage.bucket and entry.title == STORAGE_TITLE]
        if not ours:
            storages.create(**wanted, **keys)
        for storage in ours:
            if any(getattr(storage, name) != value for name, value in wanted.items()):
                storages.update(storage.id, **wanted, **keys)

    def object_url(self, object_key: str) -> str | None:
        return None if self._storage is None else f"s3://{self._storage.bucket}/{object_key}"

    def import_tasks(self, project_id: int, tasks: Sequence[LabelingTask]) -> list[int]:
        bodies: Any = [_task_body(task) for task in tasks]
        answer = self._sdk.projects.import_tasks(project_id, request=bodies, return_task_ids=True)
        return [int(task_id) for task_id in answer.task_ids or ()]

    def task_count(self, project_id: int) -> int:
        return int(self._project(project_id, "task_number").data.task_number or 0)

    def annotation_count(self, project_id: int) -> AnnotationCount:
        # Both count rows of the table of annotations; a task's own counters miss one whose request was killed halfway.
        answer = self._project(project_id, "total_annotations_number,skipped_annotations_number")
        counted, now = answer.data, utc_now()
        num_annotations = int(counted.total_annotations_number or 0) + int(counted.skipped_annotations_number or 0)
        try:
            at = parsedate_to_datetime(answer.headers["date"]).astimezone(dt.UTC)
        except (LookupError, ValueError, TypeError):
            at = now
        return AnnotationCount(num_annotations, at, (at - now).total_seconds())

    def task_ids(self, project_id: int, item_ids: Iterable[str] | None = None) -> dict[str, list[int]]:
        wanted = None if item_ids is None else frozenset(item_ids)
        by_item: dict[str, list[int]] = {}
        for task in self._tasks_of_items(project_id, None if wanted is None else sorted(wanted)):
            item_id = _item_id(task)
            if wanted is None or item_id in wanted:
                by_item.setdefault(item_id, []).append(int(task.id))
        return {item_id: sorted(ids) for item_id, ids in by_item.items()}

    def _tasks_of_items(self, project_id: int, item_ids: Sequence[str] | None) -> Iterator[Any]:
        if item_ids is None or len(item_ids) > MAX_QUERIED_ITEMS:
            yield from self._pages(project_id, filters=None, fields="task_only")
            return
        for some in batched_list(item_ids, ITEMS_PER_QUERY):
            filters = all_of(column_filter("data.item_id", "in_list", "String", some))
            yield from self._pages(project_id, filters=filters, fields="task_only")

    def task_data(self, project_id: int, task_id: int) -> Mapping[str, Any]:
        tasks = self._pages(project_id, filters=all_of(named([task_id])), fields="task_only")
        return next((task.data for task in tasks), {})

    def set_task_data(self, task_id: int, data: Mapping[str, Any]) -> None:
        self._sdk.tasks.update(str(task_id), data=dict(data))

    def delete_tasks(self, project_id: int, task_ids: Sequence[int]) -> None:
        if task_ids:
            selected: Any = {"all": False, "included": list(task_ids)}
            self._sdk.actions.create(id="delete_tasks", project=project_id, selected_items=selected)

    def annotations(
        self, project_id: int, *, updated_since: dt.datetime | None = None, task_ids: Sequence[int] | None = None
    ) -> Iterator[LabelingAnnotation]:
        tasks = (
            self._changed_tasks(project_id, updated_since or EPOCH)
            if task_ids is None
            else self._named_tasks(project_id, task_ids)
        )
        for task in tasks:
            for annotation in sorted(task.annotations, key=lambda body: int(body["id"])):
                yield self._annotation(task, annotation)

    def _named_tasks(self, project_id: int, task_ids: Sequence[int]) -> Iterator[Any]:
        for some in batched_list(list(task_ids), TASKS_PER_QUERY):
            yield from self._pages(project_id, filters=all_of(named(some)), fields="all")

    def _changed_tasks(self, project_id: int, since: dt.datetime) -> Iterator[Any]:
        """Walk by the time of change instead of page numbers: a task that changes meanwhile shifts every page."""
        seen: set[tuple[int, dt.datetime]] = set()
        while True:
            page = self._page(project_id, filters=annotated_since(since), fields="all", ordering=CHANGED)
            fresh = [task for task in page if (task.id, _time(task.updated_at)) not in seen]
            if len(page) == PAGE_SIZE and not fresh:
                yield from self._same_moment(project_id, since, seen)
                return
            for task in fresh:
                seen.add((task.id, _time(task.updated_at)))
                yield task
            if len(page) < PAGE_SIZE:
                return
            since = _time(page[-1].updated_at)
            seen = {(task_id, changed) for task_id, changed in seen if changed >= since}

    def _same_moment(self, project_id: int, since: dt.datetime, seen: set[tuple[int, dt.datetime]]) -> Iterator[Any]:
        """Read on by page number where more tasks than a page holds changed in one microsecond."""
        for task in self._pages(project_id, filters=annotated_since(since), fields="all", ordering=CHANGED):
            if (task.id, _time(task.updated_at)) not in seen:
                seen.add((task.id, _time(task.updated_at)))
                yield task

    def delete_annotation(self, annotation_id: str) -> None:
        number = int(annotation_id.partition("@")[0])
        with contextlib.suppress(KeyError):
            created_at = self._sdk.annotations.get(number).created_at
            if _annotation_id(number, created_at) == annotation_id:  # numbers start again in a new database
                self._sdk.annotations.delete(number)

    def annotated_tasks(self, project_id: int, task_ids: Sequence[int] | None = None) -> list[AnnotatedTask]:
        chosen = [()] if task_ids is None else [(named(some),) for some in batched_list(task_ids, TASKS_PER_QUERY)]
        tasks = (
            task
            for filters in chosen
            for task in self._pages(project_id, filters=all_of(is_annotated(), *filters), fields="task_only")
        )
        return [AnnotatedTask(int(task.id), _item_id(task), _num_annotations(task), task.overlap) for task in tasks]

    def ask_people(self, task_id: int, num_people: int) -> None:
        # The server computes `is_labeled` anew with the next answer, and not when `overlap` changes.
        self._sdk.tasks.update(str(task_id), overlap=num_people, is_labeled=False)

    def _pages(
        self, project_id: int, *, filters: Mapping[str, Any] | None, fields: str, ordering: str = "tasks:id"
    ) -> Iterator[Any]:
        for number in itertools.count(1):
            try:
                page = self._page(project_id, filters=filters, fields=fields, number=number, ordering=ordering)
            except KeyError:
                if number == 1:
                    raise  # the project is unknown; a later page is past the end
                return
            yield from page
            if len(page) < PAGE_SIZE:
                return

    def _page(
        self, project_id: int, *, filters: Mapping[str, Any] | None, fields: str, number: int = 1, ordering: str
    ) -> list[Any]:
        query = {"ordering": [ordering], **({} if filters is None else {"filters": filters})}
        page = self._sdk.tasks.list(
            project=project_id,
            page=number,
            page_size=PAGE_SIZE,
            fields=fields,
            resolve_uri=False,
            query=json.dumps(query, separators=(",", ":")),
        )
        return list(page.items or ())

    def _annotation(self, task: Any, annotation: Mapping[str, Any]) -> LabelingAnnotation:
        writer = annotation.get("updated_by")  # the server sets it; `completed_by` is what a request said
        return LabelingAnnotation(
            annotation_id=_annotation_id(annotation["id"], annotation["created_at"]),
            task_id=int(task.id),
            item_id=_item_id(task),
            annotator=self._email(annotation["completed_by"]),
            result=_regions(annotation["result"]),
            cancelled=bool(annotation["was_cancelled"]),
            lead_time_seconds=annotation["lead_time"],
            created_at=_time(annotation["created_at"]),
            updated_at=_time(annotation["updated_at"]),
            written_by=None if writer is None else self._email(writer),
        )

    def _email(self, user_id: int | None) -> str:
        """Return the address of an account; `user <id>` for one that is gone."""
        if user_id is None:
            return "nobody"
        if user_id not in self._emails:
            self._emails = {int(user.id): str(user.email) for user in self._sdk.users.list()}
            self._emails.setdefault(user_id, f"user {user_id}")
        return self._emails[user_id]


def _project(project: Any) -> LabelingProject:
    return LabelingProject(
        int(project.id), str(project.title), str(project.description or ""), str(project.label_config or "")
    )


def _settings(
    description: str, label_config: str, annotators_per_item: int, *, show_predictions: bool
) -> dict[str, Any]:
    return {
        "description": description,
        "label_config": label_config,
        "maximum_annotations": annotators_per_item,
        "sampling": "Sequential sampling",  # tasks are pushed in the order in which they should be labeled
        "show_collab_predictions": show_predictions,
    }


def batched_list(values: Sequence[Any], size: int) -> Iterator[list[Any]]:
    """Yield slices of at most `size` values."""
    for start in range(0, len(values), size):
        yield list(values[start : start + size])


def _task_body(task: LabelingTask) -> dict[str, Any]:
    body: dict[str, Any] = {"data": {**task.data, "item_id": task.item_id}}
    if task.predictions:
        body["predictions"] = [{"model_version": SUGGESTION_VERSION, **prediction} for prediction in task.predictions]
    return body


def _num_annotations(task: Any) -> int:
    return len(str(task.annotations_ids).split(","))


def _annotation_id(number: int, created_at: Any) -> str:
    """Return an id that no other server's annotation has: numbers start again when a database is made anew."""
    return f"{number}@{_time(created_at).astimezone(dt.UTC):%Y%m%dT%H%M%S%f}"


def _item_id(task: Any) -> str:
    """Return the item id of a task's data; anything can stand there once a person has edited it."""
    data = task.data
    return str(data.get("item_id", "")) if isinstance(data, Mapping) else ""


def _regions(result: Any) -> tuple[Any, ...]:
    return tuple(result) if isinstance(result, list) else () if not result else (result,)


def _time(value: Any) -> dt.datetime:
    """Return a time; the SDK leaves it as text where none of its three classes of a task fits."""
    return value if isinstance(value, dt.datetime) else dt.datetime.fromisoformat(str(value))
