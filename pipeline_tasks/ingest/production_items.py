"""Items out of production: predictions that the monitor picks for people to look at."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from pipeline_tasks.catalog.items import ItemRepository
from pipeline_tasks.contracts import Fence, Item, canonical_json, sha256_hex
from pipeline_tasks.core.ports import ObjectStore
from pipeline_tasks.errors import InputError
from pipeline_tasks.guards.cells import json_fraction, row_content
from pipeline_tasks.guards.row import check_names, guard_row
from pipeline_tasks.ingest.exam_split import split_of
from pipeline_tasks.ingest.item_checks import (
    ROW_MEDIA_TYPE,
    Candidate,
    RejectedRow,
    canonical_file,
    check_key,
    printable_key,
)
from pipeline_tasks.ingest.item_writer import ItemWriter, Target
from pipeline_tasks.project.schema import Project

SOURCE = "production"


@dataclasses.dataclass(frozen=True, slots=True)
class ProductionRecord:
    """One logged prediction's input; the group key is the caller's user key, or nothing.

    `item_id` is what the input was found to be when it was picked; nothing: it is looked up.
    """

    prediction_id: str
    data: bytes
    group_key: str | None = None
    item_id: str | None = None


def add_production_items(
    project: Project,
    *,
    records: Iterable[ProductionRecord],
    items: ItemRepository,
    store: ObjectStore,
    fence: Fence,
    split_key: str,
    batch_id: str,
    now: dt.datetime,
    exam_share: float | None = None,
) -> dict[str, Item]:
    """Store inputs of predictions as items and return the item of each prediction id; repeating it changes nothing.

    Content that is an item already stays that item, one of the exam before all others. `exam_share` is that of groups
    without a side (None: split.exam_share); a group that has one keeps it.
    What a guard refuses goes to quarantine and has no answer here.
    """
    share = project.split.exam_share if exam_share is None else exam_share
    split = partial(split_of, project=project.name, split_key=split_key, exam_share=share)
    target = Target(project.name, SOURCE, batch_id, now, split, origin="production", hide=project.deny_list.hide)
    item_ids: dict[str, str] = {}
    with ItemWriter(target, items=items, store=store, fence=fence) as writer:
        examined = [(record, examine_record(record, project=project)) for record in records]
        looked_up = [
            checked.content_id for record, checked in examined if isinstance(checked, Candidate) and not record.item_id
        ]
        known = items.by_content(project.name, looked_up)
        for record, checked in examined:
            outcome = checked if record.item_id else as_known(checked, known)
            if isinstance(outcome, Candidate):
                item_ids[record.prediction_id] = outcome.item_id
                writer.add(outcome)
            else:
                writer.refuse(outcome)
        writer.close()
    by_id = items.get(project.name, item_ids.values())
    return {prediction_id: by_id[item_id] for prediction_id, item_id in item_ids.items()}


def examine_record(record: ProductionRecord, *, project: Project) -> Candidate | RejectedRow:
    """Return the candidate in a prediction's input, or why there is none."""
    deny = project.deny_list
    try:
        deny.require_none(check_key(record.prediction_id), name="prediction_id")
        content, media_type = _canonical(record.data, project=project)
        item_id = sha256_hex(content)
        group_key = deny.require_none(check_key(record.group_key or item_id), name="user_key")
    except InputError as error:
        key = printable_key(record.prediction_id)
        kept = None if deny and project.modality != "image" else record.data
        return RejectedRow(key, sha256_hex(record.data), error.code, str(error), kept)
    return Candidate(record.prediction_id, group_key, None, content, media_type, record.item_id or item_id, item_id)


def as_known(outcome: Candidate | RejectedRow, known: Mapping[str, str]) -> Candidate | RejectedRow:
    """Return a candidate as the item that has its content (`known`: content id -> item id), or as it is."""
    if isinstance(outcome, RejectedRow) or outcome.content_id not in known:
        return outcome
    return dataclasses.replace(outcome, item_id=known[outcome.content_id])


def _canonical(data: bytes, *, project: Project) -> tuple[bytes, str]:
    if project.modality != "tabular":
        return canonical_file(data, project=project)
    try:
        row = json.loads(data, parse_float=json_fraction)
    except (ValueError, RecursionError):
        raise InputError("a row must be a JSON object (got other bytes).", code="ROW_NOT_JSON") from None
    if not isinstance(row, dict):
        raise InputError(f"a row must be a JSON object (got {type(row).__name__}).", code="ROW_NOT_JSON")
    row = project.deny_list.clean_row(row)
    check_names(row)
    limit = project.checks.max_text_characters
    if project.row_columns:
        return row_content(row, columns=project.row_columns, max_characters=limit), ROW_MEDIA_TYPE
    columns = content_names(row, project=project)
    return canonical_json(guard_row(row, columns=columns, max_characters=limit)), ROW_MEDIA_TYPE


def content_names(row: Mapping[str, Any], *, project: Project) -> list[str]:
    """Return the fields of a request that make its item: those of the sources' rows, where it has them all."""
    names = {name for source in project.sources for name in source.item_columns or ()}
    return sorted(names if names <= row.keys() else row)
