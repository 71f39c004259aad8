"""Hand-made evidence, models and exams for the gate's tests."""

from __future__ import annotations

import dataclasses
import datetime as dt
import itertools
import math
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline_tasks.contracts import Attempt, ExamRef, Item, Location, ModelRef, sha256_hex
from pipeline_tasks.core.proportions import NOT_A_NUMBER, Interval
from pipeline_tasks.errors import PermanentError
from pipeline_tasks.evaluation import evidence as ev
from pipeline_tasks.evaluation import gate_rule
from pipeline_tasks.evaluation import metrics as m
from pipeline_tasks.evaluation.exam_parts import PartShare
from pipeline_tasks.evaluation.statistics import PairedGain
from pipeline_tasks.evaluation.task import GateContext
from pipeline_tasks.project.gate_schema import Gate
from pipeline_tasks.project.schema import LoadedProject, Project
from pipeline_tasks.validation import manifest
from pipeline_tasks.validation.near_duplicates import exact_leaks

NOW = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
CLASSES = ("shirt", "shoe")
LABELS = [CLASSES[index % 2] for index in range(120)]


def policy(**changes) -> Gate:
    defaults = {"min_gain": 0.0, "confidence": 0.95, "previous_margin": 0.03, "exam": {"min_items": 100}}
    defaults["floors"] = {"accuracy": 0.5}
    return Gate.model_validate({**defaults, **changes})


def facts(**changes) -> ev.ModelFacts:
    defaults = ev.ModelFacts(CLASSES, 2_000_000, 1.0, 2.0)
    return dataclasses.replace(defaults, **changes)


def scores(*, accuracy=0.9, f1=None, recalls=(0.9, 0.9), items=(500, 500), ece=0.05, health=None) -> ev.ModelScores:
    def interval(value):
        return Interval(value, value - 0.01, value + 0.01)

    return ev.ModelScores(
        figures={"accuracy": interval(accuracy), "macro_f1": interval(accuracy if f1 is None else f1)},
        calibration_error=ece,
        classes=tuple(
            m.ClassScore(label, count, interval(recall) if count else NOT_A_NUMBER, 0.9)
            for label, recall, count in zip(CLASSES, recalls, items, strict=True)
        ),
        bins=(),
        confusion=(),
        health=health or m.OutputHealth(0, 0, constant=False),
    )


def gain(
    difference=0.05, *, low=None, high=None, p=0.0001, alpha=None, num_items=1000, spread=0.3, use=1
) -> PairedGain:
    return PairedGain(
        metric="accuracy",
        difference=difference,
        low=difference - 0.02 if low is None else low,
        high=difference + 0.02 if high is None else high,
        p_value=p,
        alpha=ev.alpha_for_use(policy(), use) if alpha is None else alpha,
        num_items=num_items,
        num_wins=80,
        num_losses=30,
        spread=spread,
    )


def exam(
    epoch=2, *, num_items=1000, groups=None, contender=None, champion=None, gained=None, shared=None, slices=()
) -> ev.ExamEvidence:
    return ev.ExamEvidence(
        exam_id=f"exam{epoch}",
        epoch=epoch,
        num_items=num_items,
        classes=CLASSES,
        contender=contender or scores(),
        champion=champion or scores(accuracy=0.85),
        gain=gained or gain(),
        shared_gain=shared,
        slices=slices,
        num_groups=num_items if groups is None else groups,
        recalls=recalls(),
    )


def recalls(*, shares=(0.9, 0.9), items=(500, 500), half=0.03, shrunk=None) -> tuple[PartShare, ...]:
    return tuple(
        PartShare(label, count, share, share if shrunk is None else shrunk, share - half, share + half)
        for label, share, count in zip(CLASSES, shares, items, strict=True)
        if count
    )


def epoch(number, *, gained=None, num_items=500, least_class=200) -> ev.EpochEvidence:
    paired = gained or gain(0.0, low=-0.02, alpha=0.05, num_items=num_items)
    return ev.EpochEvidence(f"exam{number}", number, num_items, num_items, 0.9, 0.9, paired, least_class)


def evidence(**changes) -> ev.Evidence:
    defaults = ev.Evidence(
        project_classes=CLASSES,
        contender=facts(),
        champion=facts(),
        current=exam(),
        previous=None,
        exam_use=1,
        epochs=(epoch(2), epoch(1)),
    )
    return dataclasses.replace(defaults, **changes)


def first_evidence(**changes) -> ev.Evidence:
    current = dataclasses.replace(exam(1), champion=None, gain=None, **changes)
    return evidence(champion=None, current=current, epochs=(dataclasses.replace(epoch(1), champion=None, gain=None),))


def answer(judged: ev.Evidence, **changes) -> tuple[str, str]:
    """Return the rule's answer and its code under a policy with these changes."""
    decision = gate_rule.decide(policy(**changes), judged)
    return decision.answer, decision.code


class TableModel:
    """A model that answers from a table: payload -> class index, with a fixed confidence."""

    def __init__(self, answers, *, classes=CLASSES, confidence=0.8, broken=None, jitter=True):
        self.answers, self.classes, self.confidence = dict(answers), tuple(classes), confidence
        self.broken, self.jitter = broken, jitter
        self.decoding = f"table {id(self)}"
        self.runtime = "eager"
        self.batches = []

    def decode(self, data):
        return data

    def predict(self, inputs):
        self.batches.append(len(inputs))
        if self.broken == "raises":
            raise PermanentError("NaN in row 1", code="NON_FINITE_OUTPUT")
        rows = [self._row(data) for data in inputs]
        if self.broken == "shape":
            return np.zeros((len(rows), len(self.classes) + 1), dtype=np.float32)
        return np.array(rows, dtype=np.float32)

    def _row(self, data):
        if self.broken == "constant":
            return [1 / len(self.classes)] * len(self.classes)
        if self.broken == "nan":
            return [math.nan] * len(self.classes)
        confidence = self.confidence + (data[-1] % 10) / 100 if self.jitter else self.confidence
        rest = (1 - confidence) / (len(self.classes) - 1)
        return [confidence if index == self.answers[data] else rest for index in range(len(self.classes))]


@dataclasses.dataclass
class World:
    """A store with exams in it, and the loaders that `judge` takes."""

    store: object
    models: dict
    exams: list
    trained: dict = dataclasses.field(default_factory=dict)
    near: dict = dataclasses.field(default_factory=dict)
    loads: list = dataclasses.field(default_factory=list)
    lookups: int = 0

    @property
    def items(self):
        """Every item in the store, by id."""
        keys = [key for key in self.store.objects if key.startswith("items/")]
        return {key.rsplit("/", 1)[-1]: item_at(key, self.store.objects[key]) for key in keys}

    def load(self, ref):
        self.loads.append(ref.version)
        model = self.models[ref.version]
        if isinstance(model, Exception):
            raise model
        return model

    def read(self, locations):
        return [self.store.get_range(location) for location in locations]

    def find_leaks(self, snapshot_id, exams):
        tables = [manifest.from_parquet(self.store.get(ref.object_key), object_key=ref.object_key) for ref in exams]
        held = {item_id for table in tables for item_id in table["item_id"].to_pylist()}
        trained = self.trained.get(snapshot_id, frozenset())
        exact = exact_leaks(*({item_id: item_id for item_id in ids} for ids in (held, trained)))
        return [*exact, *(leak for leak in self.near.get(snapshot_id, ()) if leak.item_id in held)]

    def find_items(self, item_ids):
        self.lookups += 1
        items = self.items
        return [items[item_id] for item_id in item_ids]

    def context(self, database, **changes) -> GateContext:
        """Return what `judge` takes; a millisecond passes at each look at the clock."""
        ticks = itertools.count()
        defaults = {"load": self.load, "read": self.read, "find_leaks": self.find_leaks, "find_items": self.find_items}
        defaults |= {"find_groups": lambda _ref: {}, "store": self.store, "database": database, "attempt": attempt()}
        defaults |= {"now": NOW, "timer": lambda: next(ticks) / 1000}
        return GateContext(**(defaults | changes))


def item_at(key: str, data: bytes, *, media_type="text/plain") -> Item:
    """Return an item; number n of an exam came in as `camera<n mod 3>/<n>`."""
    item_id, number = sha256_hex(data), data[-5:].decode()
    place = Location(key, 0, len(data))
    source_key = f"camera{int(number) % 3}/{number}" if number.isdigit() else key
    return Item("fashion", item_id, "folder", source_key, item_id, media_type, place, NOW, "train")


def put_item(store, data: bytes) -> str:
    """Put an item beside the exams' and return its id."""
    item_id = sha256_hex(data)
    store.put(f"items/fashion/{item_id[:2]}/{item_id}", data)
    return item_id


def payload(epoch: int, index: int) -> bytes:
    return f"item {epoch} {index:05d}".encode()


def put_exam(store, *, epoch, labels, project="fashion", media_type="text/plain", payloads=None) -> ExamRef:
    rows = []
    for index, label in enumerate(labels):
        data = payload(epoch, index) if payloads is None else payloads[index]
        item_id = sha256_hex(data)
        key = f"items/{project}/{item_id[:2]}/{item_id}"
        store.put(key, data)
        rows.append((item_id, label, Location(key, 0, len(data))))
    columns = {
        "item_id": [row[0] for row in rows],
        "label": [row[1] for row in rows],
        "split": ["exam"] * len(rows),
        "group_key": [row[0] for row in rows],
        "object_key": [row[2].object_key for row in rows],
        "offset": [row[2].offset for row in rows],
        "size_bytes": [row[2].size_bytes for row in rows],
        "media_type": [media_type] * len(rows),
        "version": [1] * len(rows),
        "method": ["consensus"] * len(rows),
        "annotators": [["a", "b"]] * len(rows),
        "source": ["folder"] * len(rows),
        "origin": ["source"] * len(rows),
        "arrived_at": [NOW] * len(rows),
    }
    table = manifest.build_manifest(pa.table(columns))
    exam_id = manifest.exam_id(table)
    key = f"exams/{project}/{exam_id}.parquet"
    store.put(key, manifest.to_parquet(table))
    return ExamRef(project, epoch, exam_id, key, len(rows))


def put_model(store, version, *, project="fashion", size=1000) -> ModelRef:
    key = f"models/{project}/{version}"
    store.put(f"{key}/model.safetensors", version.encode().ljust(size, b"."))
    store.put(f"{key}/model.json", b"{}")
    return ModelRef(project, version, key, sha256_hex(version.encode()), f"snapshot-{version}")


def answers(epoch: int, labels, *, wrong=()):
    """Return a table of answers: right, but for the item numbers in `wrong`."""
    right = {payload(epoch, index): CLASSES.index(label) for index, label in enumerate(labels)}
    return {data: 1 - answer if index in wrong else answer for index, (data, answer) in enumerate(right.items())}


def project(*, gate=None, approval=None, serving=None, classes=CLASSES) -> LoadedProject:
    config = Project.model_validate(
        {
            "name": "fashion",
            "modality": "text",
            "sources": [{"type": "folder", "path": "."}],
            "labels": {"classes": list(classes)},
            "recipe": {"name": "text_bow"},
            "gate": gate or {"exam": {"min_items": 10}},
            "approval": approval or {},
            "serving": serving or {},
        }
    )
    return LoadedProject(config=config, folder=Path("/nowhere"), labeling_xml="<View/>")


def attempt(number=1) -> Attempt:
    return Attempt("run-1", "judge", number)
