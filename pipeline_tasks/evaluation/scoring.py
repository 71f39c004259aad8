"""Answers of the champion and the contender to the same exam, in one process, from their stored model versions."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from pipeline_tasks.contracts import ExamRef, Location, ModelRef, sha256_hex
from pipeline_tasks.core.ports import ObjectStore
from pipeline_tasks.errors import DataCorrupt, InputError, PermanentError, TransientError, printable
from pipeline_tasks.evaluation.metrics import Array
from pipeline_tasks.validation import manifest

logger = logging.getLogger(__name__)

BATCH_SIZE = 256
NUM_WARM_UP = 10
NUM_TIMED = 200
MAX_MEASUREMENTS = 3
ReadItems = Callable[[Sequence[Location]], Sequence[bytes]]
OUTPUT_CODES = ("NON_FINITE_OUTPUT", "SHAPE_OUTPUT")


class ScoringModel(Protocol):
    """A loaded model version with its own pre- and post-processing (models.artifact.LoadedModel)."""

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def runtime(self) -> str:
        """Return what computes the answers: eager (torch), onnx or onnx-int8."""

    @property
    def decoding(self) -> str:
        """Return what names the way of decoding: models with the same name decode any bytes to the same input."""

    def decode(self, data: bytes) -> Any:
        """Turn one item's bytes into the model's input."""

    def predict(self, inputs: list[Any]) -> Array:
        """Return probabilities (n, c), columns in the order of `classes`."""


@dataclasses.dataclass(frozen=True, slots=True)
class ExamItem:
    """One question of the exam and its right answer."""

    item_id: str
    label: str
    media_type: str
    source: str
    origin: str
    location: Location
    content_id: str
    group_key: str


@dataclasses.dataclass(frozen=True, slots=True)
class Exam:
    """A frozen exam as it lies in the object store; `digest` is the SHA-256 of those bytes."""

    ref: ExamRef
    digest: str
    items: tuple[ExamItem, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """Latency of one item at a time in this process, after a warm-up, in milliseconds.

    `repeats` counts the measurements of which this is the best, `load` is the machine's load average per core then (1
    is busy); None in verdicts of rules that measured once.
    """

    latency_p50_ms: float
    latency_p99_ms: float
    repeats: int | None = None
    load: float | None = None


def read_exam(store: ObjectStore, ref: ExamRef) -> Exam:
    """Read an exam's items and labels.

    Raises:
        DataCorrupt: it is missing, or its items and labels do not hash to the exam's id.
    """
    try:
        data = store.get(ref.object_key)
    except KeyError:
        raise DataCorrupt(
            f"{ref.object_key} must hold the exam of epoch {ref.epoch} (got nothing). "
            "Restore it from a backup; the champion stays until then."
        ) from None
    table = manifest.from_parquet(data, object_key=ref.object_key)
    actual = manifest.exam_id(table)
    if actual != ref.exam_id or table.num_rows != ref.num_items:
        raise DataCorrupt(
            f"{ref.object_key} must hold the {ref.num_items} items and labels of exam {ref.exam_id[:12]} "
            f"(got {table.num_rows} of exam {actual[:12]}). It was changed after it was frozen; restore it."
        )
    columns = (table[name].to_pylist() for name in ("item_id", "label", "media_type", "source", "origin"))
    group_keys = table["group_key"].to_pylist()
    rows = zip(*columns, manifest.locations(table), manifest.content_ids(table), group_keys, strict=True)
    return Exam(ref=ref, digest=sha256_hex(data), items=tuple(ExamItem(*row) for row in rows))


def group_numbers(exams: Sequence[Exam], group_keys: Sequence[Mapping[str, str]]) -> list[tuple[int, ...]]:
    """Return each item's group as a number, the same in every exam: what a group is called stays where it is.

    `group_keys` has each exam's groups by item id; what one key or one group joins, in any
    epoch, is one group.
    """
    root: dict[str, str] = {}

    def find(key: str) -> str:
        while root.setdefault(key, key) != key:
            root[key] = root.setdefault(root[key], root[key])
            key = root[key]
        return key

    for exam, groups in zip(exams, group_keys, strict=True):
        for item in exam.items:
            first, second = sorted((find(item.group_key), find(groups.get(item.item_id, item.group_key))))
            root[second] = first
    numbers = {key: number for number, key in enumerate(sorted({find(key) for key in list(root)}))}
    return [tuple(numbers[find(item.group_key)] for item in exam.items) for exam in exams]


def load_model(ref: ModelRef, *, role: str, load: Callable[[ModelRef], ScoringModel]) -> ScoringModel:
    """Load a stored model version; what cannot be read is an error, never a win for the other.

    Raises:
        PermanentError: CHAMPION_UNREADABLE or CONTENDER_UNREADABLE.
        TransientError: the store does not answer now.
    """
    try:
        return load(ref)
    except TransientError:
        raise
    except (KeyError, OSError, ValueError, PermanentError) as error:
        raise PermanentError(
            f"the {role} {ref.version} must be readable from {ref.object_key} (got {type(error).__name__}: {error}). "
            "No verdict is given and the champion keeps serving; restore the model version from a backup.",
            code=f"{role.upper()}_UNREADABLE",
        ) from error


def load_stored(store: ObjectStore) -> Callable[[ModelRef], ScoringModel]:
    """Return a loader of model versions from the object store, each with the runtime that it serves with.

    As in serving, torch gets one thread: on a busy machine several wait for one another, and the latency is not that of
    the server.
    """

    def load(ref: ModelRef) -> ScoringModel:
        import torch

        from pipeline_tasks.models import artifact

        torch.set_num_threads(1)
        prefix = ref.object_key.rstrip("/")
        return artifact.load_stored(lambda name: store.get(f"{prefix}/{name}"), expected_digest=ref.digest)

    return load


@dataclasses.dataclass(frozen=True, slots=True)
class Answered:
    """Each model's probabilities (n, c) on an exam; rows of NaN where it cannot decode the item.

    `problems` has, by row, what each model says of an item that not all of them can decode; None of one that can.
    """

    answers: list[Array]
    problems: dict[int, tuple[str | None, ...]]


def answer_items(
    items: Sequence[ExamItem],
    *,
    read: ReadItems,
    models: Sequence[ScoringModel],
    batch_size: int = BATCH_SIZE,
) -> Answered:
    """Return each model's answers on the same bytes, read once, a batch at a time, in the order of places.

    The order keeps neighbours in a pack together; items that lie anywhere would fetch every pack for every batch.

    Raises:
        DataCorrupt: an item's bytes are not what its id says.
    """
    undecodable: list[dict[int, str]] = [{} for _ in models]
    answers = [np.full((len(items), len(model.classes)), np.nan, dtype=np.float32) for model in models]
    order = sorted(range(len(items)), key=lambda row: (items[row].location.object_key, items[row].location.offset))
    for start in range(0, len(items), batch_size):
        rows = order[start : start + batch_size]
        batch = [items[row] for row in rows]
        payloads = read_checked(batch, read=read)
        inputs: dict[str, tuple[list[Any], dict[int, str]]] = {}
        for model, answer_nc, problems in zip(models, answers, undecodable, strict=True):
            if model.decoding not in inputs:
                inputs[model.decoding] = _decode(model, rows, payloads)
            arrays, bad = inputs[model.decoding]
            problems.update(bad)
            good = [row for row in rows if row not in bad]
            if good:
                answer_nc[good] = predict(model, arrays)
    bad_rows = sorted({row for problems in undecodable for row in problems})
    return Answered(answers, {row: tuple(problems.get(row) for problems in undecodable) for row in bad_rows})


def read_checked(items: Sequence[ExamItem], *, read: ReadItems) -> list[bytes]:
    """Return the items' bytes, each checked against the SHA-256 of its content.

    Raises:
        DataCorrupt: the stored bytes of an item are not the ones that people have labeled.
    """
    payloads = list(read([item.location for item in items]))
    for item, data in zip(items, payloads, strict=True):
        if sha256_hex(data) != item.content_id:
            raise DataCorrupt(
                f"{item.location.object_key} must hold exam item {item.item_id} at offset {item.location.offset} "
                f"(got bytes that hash to {sha256_hex(data)}). Restore the object from a backup."
            )
    return payloads


def _decode(model: ScoringModel, rows: Sequence[int], payloads: Sequence[bytes]) -> tuple[list[Any], dict[int, str]]:
    arrays, problems = [], {}
    for row, data in zip(rows, payloads, strict=True):
        try:
            arrays.append(model.decode(data))
        except InputError as error:
            problems[row] = printable(f"{error.code}: {error}")
    return arrays, problems


def predict(model: ScoringModel, inputs: list[Any]) -> Array:
    """Return probabilities (n, c); rows of NaN when the model's output is unusable, so that the rule sees it."""
    unusable_nc = np.full((len(inputs), len(model.classes)), np.nan, dtype=np.float32)
    try:
        probabilities_nc = np.asarray(model.predict(inputs), dtype=np.float32)
    except PermanentError as error:
        if error.code not in OUTPUT_CODES:
            raise
        logger.warning("unusable output: %s", error)
        return unusable_nc
    return probabilities_nc if probabilities_nc.shape == unusable_nc.shape else unusable_nc


def measure_latency(
    models: Mapping[str, ScoringModel],
    payloads: Sequence[bytes],
    *,
    is_enough: Callable[[Mapping[str, Measured]], bool],
    timer: Callable[[], float],
    load: Callable[[], float] | None = None,
    num_timed: int = NUM_TIMED,
) -> dict[str, Measured]:
    """Time single items, decoding included, the models in turn on each; `timer` returns seconds.

    A machine is slow at times: measured again, MAX_MEASUREMENTS times at most, until it `is_enough`; the quickest of
    them by the contender's p99 counts.
    """
    rounds = []
    for _ in range(MAX_MEASUREMENTS):
        rounds.append(_measure_once(models, payloads, timer=timer, num_timed=num_timed))
        if is_enough(rounds[-1]):
            break
    best = min(rounds, key=lambda measured: measured["contender"].latency_p99_ms)
    waiting = round((load or _load_per_core)(), 2)
    return {role: dataclasses.replace(measured, repeats=len(rounds), load=waiting) for role, measured in best.items()}


def _measure_once(
    models: Mapping[str, ScoringModel], payloads: Sequence[bytes], *, timer: Callable[[], float], num_timed: int
) -> dict[str, Measured]:
    seconds: dict[str, list[float]] = {role: [] for role in models}
    for index, payload in enumerate(_repeat(payloads, NUM_WARM_UP + num_timed)):
        for role, model in models.items():
            start = timer()
            predict(model, [model.decode(payload)])
            if index >= NUM_WARM_UP:
                seconds[role].append(timer() - start)
    measured = {}
    for role, times in seconds.items():
        p50, p99 = np.percentile(np.array(times) * 1000, [50, 99]) if times else (np.nan, np.nan)
        measured[role] = Measured(latency_p50_ms=round(float(p50), 3), latency_p99_ms=round(float(p99), 3))
    return measured


def _load_per_core() -> float:
    return os.getloadavg()[0] / (os.cpu_count() or 1)


def _repeat(payloads: Sequence[bytes], count: int) -> Iterator[bytes]:
    return (payloads[index % len(payloads)] for index in range(count if payloads else 0))


def model_size_bytes(store: ObjectStore, ref: ModelRef) -> int:
    """Return the size of all objects of a model version."""
    return sum(info.size_bytes for info in store.list(f"{ref.object_key.rstrip('/')}/"))
