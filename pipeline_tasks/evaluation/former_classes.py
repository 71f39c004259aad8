"""Exams and champions from before a migration of classes, under the class names of now. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline_tasks.evaluation.evidence import LeftOut
from pipeline_tasks.evaluation.gate_rule_checks import CLASS_REMOVED
from pipeline_tasks.evaluation.metrics import Array
from pipeline_tasks.evaluation.scoring import Exam, ExamItem, ScoringModel

Names = Mapping[str, str | None]  # former class -> class now, None: removed


class _Renamed:
    """A model whose answers stand under other names; the probabilities of merged classes are added up."""

    def __init__(self, model: ScoringModel, former: Names) -> None:
        self._model = model
        names = [former.get(name) or name for name in model.classes]
        self.classes = tuple(dict.fromkeys(names))
        self._sums_cc = np.array([[name == now for now in self.classes] for name in names], dtype=np.float32)
        self.runtime, self.decoding = model.runtime, model.decoding

    def decode(self, data: bytes) -> Any:
        return self._model.decode(data)

    def predict(self, inputs: list[Any]) -> Array:
        answers_nc = np.asarray(self._model.predict(inputs), dtype=np.float32)
        fits = answers_nc.ndim == 2 and answers_nc.shape[1] == len(self._sums_cc)
        return answers_nc @ self._sums_cc if fits else np.empty((0, 0), dtype=np.float32)


def model_of_now(model: ScoringModel, former: Names) -> ScoringModel:
    """Return a model under the names of now; a class that was removed keeps its name, and is never right."""
    return _Renamed(model, former) if any(former.get(name) for name in model.classes) else model


def exams_of_now(exams: Sequence[Exam], former: Names) -> tuple[list[Exam], list[LeftOut]]:
    """Return exams under the names of now without the items of removed classes, and those."""
    left_out = [
        LeftOut(exam.ref.exam_id, item.item_id, CLASS_REMOVED, f"its class {item.label} was removed from the project")
        for exam in exams
        for item in exam.items
        if former.get(item.label, item.label) is None
    ]
    return [dataclasses.replace(exam, items=tuple(_items_of_now(exam, former))) for exam in exams], left_out


def _items_of_now(exam: Exam, former: Names) -> Iterator[ExamItem]:
    for item in exam.items:
        label = former.get(item.label, item.label)
        if label is not None:
            yield dataclasses.replace(item, label=label)


def names_used(former: Names, exams: Sequence[Exam], champion: ScoringModel | None) -> dict[str, str | None] | None:
    """Return the former names that the exams or the champion have; None where they have none."""
    known = {item.label for exam in exams for item in exam.items} | set(champion.classes if champion else ())
    return {name: former[name] for name in sorted(known & former.keys())} or None
