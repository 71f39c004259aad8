"""The values that travel between stages; standard library only.

A contract is frozen, holds ids and small facts, never bytes, and turns into JSON and back
(`as_json`) so that it can go through XCom.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

Split = Literal["train", "exam"]
Queue = Literal["label", "exam"]
Answer = Literal["promote", "keep", "inconclusive"]
# What moves a champion: promote and rollback; graph, of a composed project. The others put a gated model beside it, or
# take it away again.
RouteAction = Literal[
    "promote",
    "rollback",
    "graph",
    "shadow",
    "canary",
    "canary_failed",
    "canary_inconclusive",
    "experiment_start",
    "experiment_stop",
]
BESIDE_ACTIONS: tuple[RouteAction, ...] = ("shadow", "canary", "experiment_start")
ALONE_ACTIONS: tuple[RouteAction, ...] = ("canary_failed", "canary_inconclusive", "experiment_stop")
SHELL_RUN = "shell__"  # how the id of a run begins that a command started and not Airflow
RunOutcome = Literal["promoted", "rejected", "failed", "superseded", "done"]
# What computes a model version's answers: torch in float32 or in bfloat16 autocast, or ONNX Runtime.
Runtime = Literal["eager", "amp", "onnx", "onnx-int8"]
# The code of an item that a recipe cannot decode: in quarantine, in a verdict, of a run.
UNDECODABLE = "UNDECODABLE"
ALARM_STANDS = "an alarm stands since"  # the beginning of what is told of one


def sha256_hex(data: bytes) -> str:
    """Return the SHA-256 of the bytes as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits, without holding it in memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical_json(value: Any) -> bytes:
    """Return the one JSON text of a value: sorted keys, no spaces, UTF-8, no NaN (Source: RFC 8785, in spirit).

    Raises:
        ValueError: the value holds a NaN or an infinity.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def content_id(value: Any) -> str:
    """Return the SHA-256 of a value's canonical JSON."""
    return sha256_hex(canonical_json(value))


def keyed_item_id(key: str, content: str) -> str:
    """Return the id of a table's row: of its key and the SHA-256 of its bytes, so that equal rows are items each."""
    return content_id([key, content])


def as_json(contract: Any) -> dict[str, Any]:
    """Return a contract as a JSON-ready dictionary: what a task gives to XCom."""
    return json.loads(json.dumps(dataclasses.asdict(contract), default=_encode))  # type: ignore[no-any-return]


def _encode(value: Any) -> Any:
    if isinstance(value, dt.datetime):
        return value.isoformat()
    raise TypeError(f"a contract must hold JSON values (got {type(value).__name__}).")


@dataclasses.dataclass(frozen=True, slots=True)
class Location:
    """The place of an item's bytes: a whole object, or a range of a pack of small items."""

    object_key: str
    offset: int
    size_bytes: int


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    """One piece of data to label or predict on; `content_id` is the SHA-256 of its canonical bytes.

    `item_id` is the same, but for rows of a table that were read by declared columns: `keyed_item_id`.
    """

    project: str
    item_id: str
    source: str
    key: str
    group_key: str
    media_type: str
    location: Location
    arrived_at: dt.datetime
    split: Split
    origin: Literal["source", "production"] = "source"
    source_label: str | None = None
    content_id: str = ""  # empty: the item's id

    def __post_init__(self) -> None:
        if not self.content_id:
            object.__setattr__(self, "content_id", self.item_id)


@dataclasses.dataclass(frozen=True, slots=True)
class Attempt:
    """The holder of a piece of work: the run, the task and the try number; names the lease holder."""

    run_id: str
    task: str
    number: int = 1

    @property
    def holder(self) -> str:
        return f"{self.run_id}/{self.task}/{self.number}"

    @property
    def is_of_a_shell(self) -> bool:
        return self.run_id.startswith(SHELL_RUN)


@dataclasses.dataclass(frozen=True, slots=True)
class Fence:
    """A held lease: publishing checks that `token` is still the newest for `name`."""

    name: str
    token: int
    holder: str


@dataclasses.dataclass(frozen=True, slots=True)
class IngestReport:
    """The counts of one ingest run."""

    project: str
    batch_id: str
    num_seen: int
    num_new: int
    num_known: int
    num_quarantined: int
    num_labeled_at_source: int
    seconds: float
    num_labels_corrected: int = 0
    num_blank: int = 0  # lines of tables without values, which are skipped
    warnings: tuple[str, ...] = ()
    reading: str | None = None  # what there is to say where rows are read another way than at the last run


@dataclasses.dataclass(frozen=True, slots=True)
class AnnotateReport:
    """The counts of one annotate run: labeling tasks asked for, pushed, adopted after a crash, removed as doubles."""

    project: str
    num_requested: int
    num_pushed: int
    num_adopted: int
    num_duplicates_removed: int
    ls_project_ids: Mapping[str, int]
    num_imported_labels: int = 0
    note: str = ""  # who is missing among the labelers, and what to do


@dataclasses.dataclass(frozen=True, slots=True)
class CollectReport:
    """The counts of one collect run."""

    project: str
    num_annotations: int
    num_deleted: int
    num_decided: int
    num_disputed: int
    num_refused: int
    num_skipped: int = 0
    num_deletions_held: int = 0  # so many gone at once that they were not believed
    num_empty: int = 0  # submits without an answer; they are asked again
    num_asked: int = 0  # disputed items that are asked of a further person now
    note: str = ""  # who is missing among the labelers, and what to do


@dataclasses.dataclass(frozen=True, slots=True)
class CheckReport:
    """The result of a data check; `subject` is the batch, snapshot or exam that was looked at."""

    project: str
    stage: str
    subject: str
    suite: str
    severity: str
    num_rows: int
    num_quarantined: int
    report_key: str


@dataclasses.dataclass(frozen=True, slots=True)
class MonitorReport:
    """Result of one monitor run; `alarms` are sentences.

    `state` is ALARM where there is any of them, else what live quality says: OK, WATCH, INSUFFICIENT_DATA or
    NO_REFERENCE.

    `num_refused`: parts, records and inputs in quarantine; `num_unmatched`: feedback on no known prediction.
    """

    project: str
    window_id: str
    num_parts: int
    num_predictions: int
    num_errors: int
    num_feedback: int
    num_audits: int
    num_uncertain: int
    num_refused: int
    state: str
    quality: str
    alarms: tuple[str, ...]
    wake_training: bool
    num_unmatched: int = 0
    report_key: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class SnapshotRef:
    """One dataset version; `snapshot_id` is the SHA-256 of its Parquet manifest's rows."""

    project: str
    snapshot_id: str
    object_key: str
    num_rows: int
    generation: int


@dataclasses.dataclass(frozen=True, slots=True)
class Leak:
    """An exam item and the item of a training snapshot that it is (`exact`), or all but is (`near`).

    `similarity` is 0 to 1: correlation of the pixels, Jaccard index of the shingles, 1 for equal rounded rows.
    """

    item_id: str
    trained_item_id: str
    kind: Literal["exact", "near"]
    similarity: float


@dataclasses.dataclass(frozen=True, slots=True)
class ExamRef:
    """One frozen exam: the items and labels of one epoch."""

    project: str
    epoch: int
    exam_id: str
    object_key: str
    num_items: int


@dataclasses.dataclass(frozen=True, slots=True)
class ModelRef:
    """One model version in the object store; `digest` is the SHA-256 of its weights file."""

    project: str
    version: str
    object_key: str
    digest: str
    snapshot_id: str


@dataclasses.dataclass(frozen=True, slots=True)
class VerdictRef:
    """The gate's answer on one contender; the evidence lies under `object_key`, `code` is the deciding reason's."""

    project: str
    verdict_id: str
    answer: Answer
    champion_version: str | None
    contender_version: str
    reasons: tuple[str, ...]
    object_key: str
    code: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class ReleaseRef:
    """A model version built into a bento after a `promote` verdict."""

    project: str
    release_id: str
    model_version: str
    verdict_id: str
    bento_tag: str


@dataclasses.dataclass(frozen=True, slots=True)
class DeploymentRef:
    """A release running somewhere; `address` is the base URL of its inference service."""

    project: str
    deployment_id: str
    release_id: str
    model_version: str
    address: str


@dataclasses.dataclass(frozen=True, slots=True)
class RouteEntry:
    """One deployment's share of a project's traffic; weights of a route add up to 100."""

    deployment_id: str
    model_version: str
    address: str
    weight: int


@dataclasses.dataclass(frozen=True, slots=True)
class ServingSettings:
    """The settings that a route carries to the gateway: how requests are checked, and answers finished.

    Those up to `requests_per_second` are keys of `serving` in project.yaml, with their defaults.
    """

    review_below: float = 0.5
    top_k: int = 3
    thresholds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    abstain_below: float = 0.0
    business_labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    max_request_bytes: int = 10_000_000
    requests_per_second: float = 500.0
    classes: tuple[str, ...] = ()
    modality: str = ""
    recipe: str = ""
    preprocess: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    beside_classes: tuple[str, ...] = ()  # of a model beside the champion, where it learned others
    experiment: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # what runs now; empty: none
    standby: RouteEntry | None = None  # the champion before, kept ready: answers while nobody else can be reached

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Self:
        """Return the settings in a route's JSON, of any version: keys that are not known are passed over."""
        known = {field.name for field in dataclasses.fields(cls)}
        values = {name: value for name, value in document.items() if name in known}
        for name in ("classes", "beside_classes"):
            values[name] = tuple(values.get(name, ()))
        values["standby"] = RouteEntry(**values["standby"]) if values.get("standby") else None
        return cls(**values)

    def as_promoted(self) -> dict[str, Any]:
        """Return the JSON of a promotion's route: what only runs beside a champion, or stands by, has no key."""
        later = ("beside_classes", "experiment", "standby")
        return {name: value for name, value in as_json(self).items() if name not in later or value}

    @property
    def deny(self) -> Mapping[str, Any]:
        """The personal data that must not be kept, as `guards.personal` reads it; empty: nothing is denied."""
        return {key: names for key, names in self.preprocess.get("privacy", {}).items() if names}


REQUEST = "request"
GRAPH_VERSION = "graph-"  # how the version of a composed project begins: what follows is of its graph's digest


@dataclasses.dataclass(frozen=True, slots=True)
class GraphNode:
    """One step of a composed task: the champion of `project`, asked about the request or another node's probabilities.

    It runs where `when` has run, its label is one of `label_in` (if there are any) and its confidence is below
    `confidence_below` (if there is one). `labels` are the classes of a tensor, in their order.
    """

    name: str
    project: str
    source: str  # REQUEST: the caller's item; else the node whose probabilities it is given
    labels: tuple[str, ...] = ()
    when: str | None = None
    label_in: tuple[str, ...] = ()
    confidence_below: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Graph:
    """A composed task: its nodes, each behind those that it needs; the first of `output` that has run answers."""

    nodes: tuple[GraphNode, ...]
    output: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Route:
    """One generation of a project's route: an append-only, linear chain."""

    project: str
    generation: int
    commit_id: str
    parent_commit_id: str | None
    champion_version: str
    entries: tuple[RouteEntry, ...]
    shadows: tuple[RouteEntry, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class DeploymentAccount:
    """One deployment's requests under one generation; `errors` are among `asked`.

    `latency_counts[i]` is the number of requests that took `edges_ms[i]` or less, and more than the edge before; the
    last one counts the rest. `compared` are mirrored requests that the champion answered too; `paired` those that it
    was asked, however that ended. By edge, `slower` of them took longer than it here only, `faster` there only.
    """

    asked: int
    errors: int
    latency_counts: tuple[int, ...]
    compared: int = 0
    disagreed: int = 0
    paired: int = 0
    only_it_failed: int = 0
    only_champion_failed: int = 0
    slower: tuple[int, ...] = ()
    faster: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class RouteAccounts:
    """A gateway's accounts of one generation of a route, by deployment id."""

    generation: int
    edges_ms: tuple[float, ...]
    deployments: Mapping[str, DeploymentAccount]
