"""Interfaces that the stages need of the outside world; adapters and fakes implement them."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from pipeline_tasks.contracts import Location


@dataclasses.dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object of a listing."""

    key: str
    size_bytes: int
    etag: str
    modified_at: dt.datetime


class ObjectStore(Protocol):
    """Immutable objects in one bucket (S3). Keys are relative; no leading slash.

    All methods raise ServiceUnavailable after the retry budget (90 s) and DataCorrupt when bytes
    do not match their checksum. A failed `put` does not mean "not written".
    """

    def put(self, key: str, data: bytes, *, content_type: str = "application/octet-stream") -> None:
        """Write an object whole, idempotently: the same key always gets the same bytes."""

    def put_file(self, key: str, path: Path, *, content_type: str = "application/octet-stream") -> None:
        """Like `put`, streamed from a file."""

    def create(self, key: str, data: bytes, *, content_type: str = "application/octet-stream") -> bool:
        """Write only if the key is free (If-None-Match: *); True when these bytes are what lies there now."""

    def get(self, key: str) -> bytes:
        """Return the whole object; KeyError if it does not exist."""

    def get_range(self, location: Location) -> bytes:
        """Return one item's bytes out of an object or a pack."""

    def get_file(self, key: str, path: Path) -> None:
        """Stream an object into a file."""

    def exists(self, key: str) -> bool: ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the objects under a prefix, in key order."""

    def delete(self, keys: Iterable[str]) -> None: ...


@dataclasses.dataclass(frozen=True, slots=True)
class LabelingAnnotation:
    """One annotation as the labeling tool has it; its id is unique even when the tool was set up anew."""

    annotation_id: str
    task_id: int
    item_id: str
    annotator: str
    result: tuple[Mapping[str, Any], ...]
    cancelled: bool
    lead_time_seconds: float | None
    created_at: dt.datetime
    updated_at: dt.datetime
    written_by: str | None = None  # who sent its last version, where the tool says so


@dataclasses.dataclass(frozen=True, slots=True)
class LabelingProject:
    """A project as the labeling tool has it now, whoever wrote its parts."""

    project_id: int
    title: str
    description: str
    label_config: str


@dataclasses.dataclass(frozen=True, slots=True)
class LabelingTask:
    """A task to push: our item id and what the labeling config shows."""

    item_id: str
    data: Mapping[str, Any]
    predictions: tuple[Mapping[str, Any], ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class AnnotatedTask:
    """A task with at least one annotation; skips count as annotations here. It is shown until `num_people` answered."""

    task_id: int
    item_id: str
    num_annotations: int
    num_people: int


@dataclasses.dataclass(frozen=True, slots=True)
class AnnotationCount:
    """The number of annotations of a project, skips too, and the labeling tool's clock as they were counted."""

    num_annotations: int
    at: dt.datetime
    ahead_seconds: float  # of our own clock


class LabelingTool(Protocol):
    """Label Studio, as far as the stages know it.

    All methods raise ServiceUnavailable when it is away or answers with a 5xx, and PermanentError (LS_AUTH) when it
    refuses the token. An unknown project is a KeyError.
    """

    def project(self, project_id: int) -> LabelingProject:
        """Return the project of this id."""

    def find_project(self, mark: str) -> LabelingProject | None:
        """Return the oldest project whose description holds the mark."""

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
        """Create a project whose description holds the mark; where another attempt was first, return that one's id."""

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
        """Bring a project up to date, but for its title, and have it report changes to `hook`, a name of ours."""

    def accounts(self) -> list[str]:
        """Return the addresses of the people who have an account."""

    def connect_objects(self, project_id: int) -> None:
        """Let the project show objects by the addresses that `object_url` gives, with our key of now.

        The bucket must hold an item's object; does nothing where the project can already.
        """

    def object_url(self, object_key: str) -> str | None:
        """Return what a task says to show an object of our bucket, or None when the bucket is not connected."""

    def import_tasks(self, project_id: int, tasks: Sequence[LabelingTask]) -> list[int]:
        """Create tasks and return their ids; NOT idempotent, and an error does not mean that nothing was created."""

    def task_count(self, project_id: int) -> int:
        """Return how many tasks the project has."""

    def annotation_count(self, project_id: int) -> AnnotationCount:
        """Return how many annotations are stored now: what finds deletions, and one that no change of a task shows."""

    def task_ids(self, project_id: int, item_ids: Iterable[str] | None = None) -> dict[str, list[int]]:
        """Return the ids of the tasks of each item (more than one = duplicates), for all items or the named."""

    def task_data(self, project_id: int, task_id: int) -> Mapping[str, Any]:
        """Return the data of a task as it was imported or changed since, empty when it is gone."""

    def set_task_data(self, task_id: int, data: Mapping[str, Any]) -> None:
        """Replace the data of a task."""

    def delete_tasks(self, project_id: int, task_ids: Sequence[int]) -> None:
        """Remove tasks with their annotations; no error for tasks that are gone."""

    def annotations(
        self, project_id: int, *, updated_since: dt.datetime | None = None, task_ids: Sequence[int] | None = None
    ) -> Iterator[LabelingAnnotation]:
        """Yield all annotations of each task changed at or after the time, oldest change first, or of the named tasks.

        The annotations of one task follow each other; a task may come again when it changes meanwhile.
        """

    def delete_annotation(self, annotation_id: str) -> None:
        """Remove the annotation of this id, and no other of its number; no error when it is gone."""

    def annotated_tasks(self, project_id: int, task_ids: Sequence[int] | None = None) -> list[AnnotatedTask]:
        """Return the tasks that have an annotation now, all of them or those of the named."""

    def ask_people(self, task_id: int, num_people: int) -> None:
        """Show one task until so many different people have answered it; nobody sees it who has."""

    def url(self, project_id: int) -> str:
        """Return the address a person opens."""


class TrackerRun(Protocol):
    """One experiment run; never raises and never blocks for more than 2 s because the tracker is away."""

    def log(self, values: Mapping[str, float], *, step: int) -> None: ...
    def summary(self, values: Mapping[str, Any]) -> None: ...
    def reference(self) -> Mapping[str, str]:
        """Return where to find the run: mode, run id, and url or directory."""

    def finish(self, *, exit_code: int = 0) -> None: ...


class Tracker(Protocol):
    """Weights & Biases: online, self-hosted or offline."""

    def start(
        self, *, project: str, run_id: str, group: str, job_type: str, config: Mapping[str, Any]
    ) -> TrackerRun: ...


@dataclasses.dataclass(frozen=True, slots=True)
class ServerHandle:
    """A started inference server."""

    deployment_id: str
    address: str


class DeploymentTarget(Protocol):
    """The place where releases run: `process` (under the stack's supervisor), `docker`, `kubernetes`."""

    def start(self, *, deployment_id: str, bento_tag: str, environment: Mapping[str, str]) -> ServerHandle:
        """Start (or adopt, by deployment id) a server; returns before it is ready."""

    def wait_ready(self, deployment_id: str, *, timeout_seconds: float) -> None:
        """Raise ServiceUnavailable, with the last log lines, unless it becomes ready in time."""

    def stop(self, deployment_id: str) -> None:
        """SIGTERM, wait for in-flight requests, remove; no error if it is gone."""

    def list(self) -> Mapping[str, str]:
        """Return deployment id -> state of everything this target runs."""

    def describe(self, deployment_id: str) -> str:
        """Return what a person needs to know of a server that failed: its state and its last log lines."""
