"""The answer that an annotation gives: a class, nothing, or something that the project does not know; pure.

The class comes from one control of labeling.xml. What other controls took (notes, ratings, further questions) stays in
the annotation's result and never decides whether the class counts.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline_tasks.catalog.labels import DELETED, AnnotationRow
from pipeline_tasks.catalog.set_aside import BadRow
from pipeline_tasks.contracts import Queue
from pipeline_tasks.core.ports import LabelingAnnotation
from pipeline_tasks.errors import printable
from pipeline_tasks.project.labeling_config import LabelingConfig

RESTORED = "~restored"
SOURCE = "label-studio"
ITEM_CHANGED = "ITEM_CHANGED"
MAX_TEXT = 300
MAX_RESULT_BYTES = 1024 * 1024  # a drawn mask is larger than any note


@dataclasses.dataclass(frozen=True, slots=True)
class Reading:
    """The label of an annotation; none means a skip, or with a code, a refused one. A label may have a code too."""

    label: str | None = None
    code: str | None = None
    reason: str = ""


def storable(text: Any) -> str:
    """Return text from outside as every database and terminal takes it."""
    return printable(text, limit=MAX_TEXT)


def received(annotation: LabelingAnnotation) -> LabelingAnnotation:
    """Return an annotation with the texts and numbers that the catalog can hold."""
    lead_time = annotation.lead_time_seconds
    return dataclasses.replace(
        annotation,
        item_id=storable(annotation.item_id),
        annotator=storable(annotation.annotator),
        written_by=None if annotation.written_by is None else storable(annotation.written_by),
        lead_time_seconds=lead_time if isinstance(lead_time, int | float) and math.isfinite(lead_time) else None,
    )


def read_answer(annotation: LabelingAnnotation, config: LabelingConfig) -> Reading:
    """Return the class that an annotation names; names are compared exactly, nothing is stripped or folded."""
    if annotation.written_by not in {None, annotation.annotator}:
        return _refused(
            annotation, "OTHER_AUTHOR", "the last writer", annotation.annotator, annotation.written_by,
            todo="Its author has to submit it again in Label Studio; the next collect reads it again.",
        )  # fmt: skip
    if annotation.cancelled:
        return Reading()
    if not annotation.result:
        return _refused(
            annotation, "NO_ANSWER", "the answer", "one class", "an empty submit", todo="It is asked again."
        )
    answers = [region for region in annotation.result if _control(region) == config.choices_name]
    if not answers:
        controls = sorted({storable(_control(region)) for region in annotation.result})
        return _refused(annotation, "NO_CLASS", "the answer", f"given to {config.choices_name!r}", controls)
    reading = _read_class(annotation, answers, config)
    if reading.code is None and kept_result(annotation, config) != list(annotation.result):
        limit, todo = f"at most {MAX_RESULT_BYTES:,} bytes of JSON", "The class counts; they stay in Label Studio only."
        left_out = _refused(annotation, "NOTE_LEFT_OUT", "the notes", limit, "others", todo=todo)
        return dataclasses.replace(left_out, label=reading.label)
    return reading


def _read_class(annotation: LabelingAnnotation, answers: Sequence[Any], config: LabelingConfig) -> Reading:
    expected = (config.choices_name, config.object_name, "choices")
    for region in answers:
        place = (region.get("from_name"), region.get("to_name"), region.get("type"))
        if place != expected:
            return _refused(annotation, "SCHEMA_MISMATCH", "from_name, to_name, type", expected, place)
    values = [_choices(region) for region in answers]
    if len(values) != 1 or not isinstance(values[0], list) or len(values[0]) != 1:
        return _refused(annotation, "SCHEMA_MISMATCH", "choices", "one class", values)
    label = values[0][0]
    is_former = isinstance(label, str) and label in config.former
    if is_former and config.former[label] is not None:
        return Reading(label=label)
    if label not in config.choices:
        refused = _refused(annotation, "UNKNOWN_CLASS", "label", f"one of {', '.join(config.choices)}", label)
        return dataclasses.replace(refused, label=label if is_former else None)
    return Reading(label=label)


def kept_result(annotation: LabelingAnnotation, config: LabelingConfig) -> list[Any]:
    """Return the regions that the catalog keeps: all of them, or the class alone where the rest is too much for it."""
    for kept in (
        list(annotation.result),
        [region for region in annotation.result if _control(region) == config.choices_name],
    ):
        try:
            if len(json.dumps(kept, allow_nan=False)) <= MAX_RESULT_BYTES:
                return kept
        except (ValueError, TypeError, RecursionError):
            continue
    return [{"type": "left out"}]  # an empty one is an empty submit


def revision_of(
    annotation: LabelingAnnotation, known: AnnotationRow | None, *, is_recorded: Callable[[str], bool]
) -> str | None:
    """Return the name of the revision to record, or None when it is recorded already.

    It sorts after the newest known one, also where the server's clock went back between them. What `is_recorded` knows
    is an earlier state: of a server that was set back to a backup.
    """
    moment = annotation.updated_at.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    if known is None or known.revision < moment:
        return moment
    if moment in known.revision.split("~") or is_recorded(moment):
        return known.revision + RESTORED if known.deleted else None
    return f"{known.revision}~{moment}"


def annotation_row(
    annotation: LabelingAnnotation, *, revision: str, queue: Queue, label: str | None, result: Sequence[Any]
) -> AnnotationRow:
    """Return the catalog's row of one revision of an annotation."""
    return AnnotationRow(
        annotation_id=annotation.annotation_id,
        revision=revision,
        item_id=annotation.item_id,
        queue=queue,
        annotator=annotation.annotator,
        label=label,
        result=result,
        cancelled=annotation.cancelled,
        deleted=False,
        lead_time_seconds=annotation.lead_time_seconds,
        created_at=annotation.created_at,
    )


def tombstone(row: AnnotationRow) -> AnnotationRow:
    """Return the revision that says that an annotation is gone."""
    return dataclasses.replace(row, revision=row.revision + DELETED, deleted=True)


def refusal(annotation: LabelingAnnotation, reading: Reading) -> BadRow | None:
    """Return what goes to the quarantine for a refused annotation."""
    if reading.code is None:
        return None
    key = f"annotation {annotation.annotation_id}"
    return BadRow(SOURCE, key, annotation.item_id, reading.code, reading.reason)


def unknown_item(annotation: LabelingAnnotation) -> Reading:
    """Return the refusal of an annotation of a task that is none of ours."""
    return _refused(
        annotation, "ITEM_UNKNOWN", "data.item_id", "an item of this queue", annotation.item_id,
        todo="Nothing of it is used; delete the task in Label Studio if nobody needs it there.",
    )  # fmt: skip


def changed_item(annotation: LabelingAnnotation, item_id: str) -> Reading:
    """Return the refusal of an annotation of a task of ours whose data somebody has changed."""
    return _refused(
        annotation, ITEM_CHANGED, "data.item_id", item_id, annotation.item_id,
        todo="The next annotate sets the task right, and its answers count then.",
    )  # fmt: skip


def _control(region: Any) -> Any:
    return region.get("from_name") if isinstance(region, Mapping) else None


def _choices(region: Mapping[str, Any]) -> Any:
    value = region.get("value")
    return value.get("choices") if isinstance(value, Mapping) else value


def _refused(
    annotation: LabelingAnnotation,
    code: str,
    field: str,
    expected: Any,
    got: Any,
    *,
    todo: str = "Correct it in Label Studio; the next collect reads it again.",
) -> Reading:
    reason = (
        f"{field} of annotation {annotation.annotation_id} of task {annotation.task_id} by {annotation.annotator} must "
        f"be {storable(expected)} (got {storable(got)!r}). {todo}"
    )
    return Reading(code=code, reason=reason)
