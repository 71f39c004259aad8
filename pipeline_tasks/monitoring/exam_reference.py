"""The exam's promise of the champion: accuracy and the look of its answers, from the verdict that it stands on."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline_tasks.core.ports import ObjectStore
from pipeline_tasks.monitoring.detector import ExamCount
from pipeline_tasks.monitoring.drift import AnswerHistogram, histogram

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class ExamReference:
    """A model version on its exam."""

    count: ExamCount
    answers: AnswerHistogram | None


def load_reference(store: ObjectStore, verdict_key: str | None, *, version: str) -> ExamReference | None:
    """Return what the verdict says of this version; None when there is none, which is no reason to fail."""
    if verdict_key is None:
        return None
    try:
        document = json.loads(store.get(f"{verdict_key}/verdict.json"))
        role = _role(document, version)
        count = _count(document["evidence"]["current"], role) if role else None
    except (KeyError, ValueError, TypeError) as error:
        _log.warning("the verdict under %s cannot be read: %s: %s", verdict_key, type(error).__name__, error)
        return None
    if role is None or count is None:
        return None
    return ExamReference(count, _exam_answers(store, verdict_key, document=document, role=role))


def _count(exam: dict[str, Any], role: str) -> ExamCount | None:
    """Return the right answers of the current exam, or None where the verdict has no accuracy."""
    accuracy, num_items = exam[role]["accuracy"]["estimate"], int(exam["num_items"])
    return None if accuracy is None or num_items < 1 else ExamCount(round(float(accuracy) * num_items), num_items)


def _role(document: dict[str, Any], version: str) -> str | None:
    question = document["question"]
    roles = [role for role in ("contender", "champion") if (question.get(role) or {}).get("version") == version]
    return roles[0] if roles else None


def _exam_answers(store: ObjectStore, key: str, *, document: dict[str, Any], role: str) -> AnswerHistogram | None:
    try:
        table = pq.read_table(io.BytesIO(store.get(f"{key}/evidence.parquet")))
        judged = document["question"]["exams"][: None if "epochs" in document["evidence"] else 1]
        exams = [exam["exam_id"] for exam in judged]
        current = table.filter(pc.is_in(table["exam_id"], pa.array(exams, pa.string())))
        probabilities_nc = np.array(current[f"{role}_probabilities"].to_pylist(), dtype=float)
    except (KeyError, ValueError, TypeError, pa.ArrowException) as error:
        _log.warning("the evidence under %s cannot be read: %s: %s", key, type(error).__name__, error)
        return None
    classes = document["question"][role]["classes"]
    if probabilities_nc.ndim != 2 or probabilities_nc.shape[1] != len(classes):
        return None
    best_n = probabilities_nc.argmax(axis=1)
    return histogram((classes[best], float(row[best])) for best, row in zip(best_n, probabilities_nc, strict=True))
