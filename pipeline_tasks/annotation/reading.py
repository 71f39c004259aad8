"""What an annotation says: a class, nothing, or something that the project does not know; pure."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping
from typing import Any

from pipeline_tasks.catalog.labels import DELETED, AnnotationRow, Refusal
from pipeline_tasks.contracts import Queue
from pipeline_tasks.ports import LabelingAnnotation
from pipeline_tasks.project_labeling import LabelingConfig

RESTORED = "~restored"
SOURCE = "label-studio"


@dataclasses.dataclass(frozen=True, slots=True)
class Reading:
    """The label of an annotation; none means a skip or an empty answer, or with a code, a refused one."""

    label: str | None = None
    code: str | None = None
    reason: str = ""


def read_answer(annotation: LabelingAnnotation, config: LabelingConfig) -> Reading:
    """Return the class that an annotation names; names are compared exactly, nothing is stripped or folded."""
    if annotation.cancelled or not annotation.result:
        return Reading()
    for region in annotation.result:
        place = (region.get("from_name"), region.get("to_name"), region.get("type"))
        expected = (config.choices_name, config.object_name, "choices")
        if place != expected:
            return _refused(annotation, "SCHEMA_MISMATCH", "from_name, to_name, type", expected, place)
    values = [_choices(region) for region in annotation.result]
    if len(values) != 1 or not isinstance(values[0], list) or len(values[0]) != 1:
        return _refused(annotation, "SCHEMA_MISMATCH", "choices", "one class", values)
    label = values[0][0]
    if label not in config.choices:
        return _refused(annotation, "UNKNOWN_CLASS", "label", f"one of {', '.join(config.choices)}", label)
    return Reading(label=label)


def revision_of(annotation: LabelingAnnotation, known: AnnotationRow | None) -> str | None:
    """Return the name of the revision to record, or None when it is recorded already."""
    moment = annotation.updated_at.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    if known is None or known.revision < moment:
        return moment
    return known.revision + RESTORED if known.deleted else None


def annotation_row(annotation: LabelingAnnotation, *, revision: str, queue: Queue, label: str | None) -> AnnotationRow:
    """Return the catalog's row of one revision of an annotation."""
    return AnnotationRow(
        annotation_id=annotation.annotation_id,
        revision=revision,
        item_id=annotation.item_id,
        queue=queue,
        annotator=annotation.annotator,
        label=label,
        result=[dict(region) for region in annotation.result],
        cancelled=annotation.cancelled,
        deleted=False,
        lead_time_seconds=annotation.lead_time_seconds,
        created_at=annotation.created_at,
    )


def tombstone(row: AnnotationRow) -> AnnotationRow:
    """Return the revision that says that an annotation is gone."""
    return dataclasses.replace(row, revision=row.revision + DELETED, deleted=True)


def refusal(annotation: LabelingAnnotation, reading: Reading) -> Refusal | None:
    """Return what goes to the quarantine for a refused annotation."""
    if reading.code is None:
        return None
    key = f"annotation {annotation.annotation_id}"
    return Refusal(SOURCE, key, annotation.item_id, reading.code, reading.reason)


def unknown_item(annotation: LabelingAnnotation) -> Reading:
    """Return the refusal of an annotation of a task that is none of ours."""
    return _refused(annotation, "ITEM_UNKNOWN", "data.item_id", "an item of the project", annotation.item_id)


def _choices(region: Mapping[str, Any]) -> Any:
    value = region.get("value")
    return value.get("choices") if isinstance(value, Mapping) else value


def _refused(annotation: LabelingAnnotation, code: str, field: str, expected: Any, got: Any) -> Reading:
    reason = (
        f"{field} of annotation {annotation.annotation_id} of task {annotation.task_id} must be {expected} "
        f"(got {str(got)[:200]!r}). Correct it in Label Studio; the next collect reads it again."
    )
    return Reading(code=code, reason=reason)
