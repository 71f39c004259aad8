"""From a snapshot's rows to what is trained on: bytes read and decoded, classes, weights, the inner split."""

from __future__ import annotations

import dataclasses
import datetime as dt
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline_tasks.contracts import Item, content_id
from pipeline_tasks.ingest.reading import read_items
from pipeline_tasks.models.registry import FoundRecipe
from pipeline_tasks.ports import ObjectStore
from pipeline_tasks.training.dataset import (
    InnerSplit,
    TrainingRow,
    TrainingRows,
    class_indices,
    inner_split,
    loss_weights,
)
from pipeline_tasks.training.inputs import DecodedInputs, decode_inputs
from pipeline_tasks.training.loop import TrainingData

logger = logging.getLogger(__name__)

READ_AT_ONCE = 20_000


@dataclasses.dataclass(frozen=True, slots=True)
class LoadPlan:
    """Which data of which project, and how it is decoded; decoded inputs are kept in `folder`."""

    project: str
    snapshot_id: str
    found: FoundRecipe
    params: Mapping[str, Any]
    classes: tuple[str, ...]
    folder: Path


def load_data(plan: LoadPlan, rows: TrainingRows, *, store: ObjectStore) -> TrainingData:
    """Return the rows as training data.

    Raises:
        DataCorrupt: an item's bytes are gone, or do not hash to its id.
        GateClosed: UNDECODABLE, UNKNOWN_LABEL or TOO_FEW_GROUPS.
    """
    targets_n = class_indices(rows, plan.classes)
    recipe = plan.found.recipe
    preprocessing = recipe.preprocessing(plan.params)
    inputs = decode_inputs(
        lambda: _read(plan.project, rows, store=store),
        num_rows=len(rows),
        decode=lambda data: recipe.decode(data, preprocessing=preprocessing),
        folder=plan.folder,
        key=content_id([plan.snapshot_id, plan.found.code_digest, preprocessing]),
    )
    weights_n = loss_weights(
        targets_n,
        rows.weights(),
        num_classes=len(plan.classes),
        balanced=plan.params["class_weights"] == "balanced",
    )
    split = _split(rows, inputs, share=plan.params["validation_share"])
    return TrainingData(inputs, targets_n, weights_n, split, plan.classes)


def _read(project: str, rows: TrainingRows, *, store: ObjectStore) -> Iterator[tuple[int, bytes]]:
    """Yield (row, bytes), object after object; the rows of READ_AT_ONCE items are made at a time, no more."""
    waiting: list[npt.NDArray[np.int64]] = []
    for positions_n in rows.by_object():
        waiting.append(positions_n)
        if sum(map(len, waiting)) >= READ_AT_ONCE:
            yield from _read_some(project, rows, np.concatenate(waiting), store=store)
            waiting = []
    if waiting:
        yield from _read_some(project, rows, np.concatenate(waiting), store=store)


def _read_some(
    project: str, rows: TrainingRows, positions_n: npt.NDArray[np.int64], *, store: ObjectStore
) -> Iterator[tuple[int, bytes]]:
    some = rows.take(positions_n)
    position = {row.item_id: int(index) for row, index in zip(some, positions_n, strict=True)}
    for item, data in read_items(store, (_item(project, row) for row in some)):
        yield position[item.item_id], data


def _item(project: str, row: TrainingRow) -> Item:
    return Item(
        project=project,
        item_id=row.item_id,
        source="snapshot",
        key=row.item_id,
        group_key=row.group_key,
        media_type="application/octet-stream",
        location=row.location,
        arrived_at=dt.datetime.min.replace(tzinfo=dt.UTC),
        split="train",
    )


def _split(rows: TrainingRows, inputs: DecodedInputs, *, share: float) -> InnerSplit:
    if inputs.skipped:
        some = sorted(inputs.skipped.items())[:10]
        logger.warning("%d items do not decode and are left out: %s", len(inputs.skipped), some)
    kept_n = np.setdiff1d(np.arange(len(rows)), np.fromiter(inputs.skipped, dtype=np.int64))
    split = inner_split(rows.group_keys(kept_n), share=share)
    return InnerSplit(train=kept_n[split.train], validation=kept_n[split.validation])
