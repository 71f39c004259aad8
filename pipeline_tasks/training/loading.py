"""From a snapshot's rows to what is trained on: bytes read and decoded, classes, weights, the inner split."""

from __future__ import annotations

import dataclasses
import datetime as dt
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline_tasks.contracts import Item, content_id
from pipeline_tasks.ingest.reading import read_items
from pipeline_tasks.models.base import Array
from pipeline_tasks.models.registry import FoundRecipe
from pipeline_tasks.models.tabular_mlp.preprocess import unmatched_categories
from pipeline_tasks.models.tabular_mlp.recipe import RECIPE as ROW_RECIPE
from pipeline_tasks.ports import ObjectStore
from pipeline_tasks.training.dataset import InnerSplit, TrainingRow, class_indices, inner_split, loss_weights
from pipeline_tasks.training.inputs import DecodedInputs, decode_inputs
from pipeline_tasks.training.loop import TrainingData

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class LoadPlan:
    """Which data of which project, and how it is decoded; decoded inputs are kept in `folder`."""

    project: str
    snapshot_id: str
    found: FoundRecipe
    params: Mapping[str, Any]
    classes: tuple[str, ...]
    folder: Path


def load_data(plan: LoadPlan, rows: Sequence[TrainingRow], *, store: ObjectStore) -> TrainingData:
    """Return the rows as training data.

    Raises:
        DataCorrupt: an item's bytes are gone, or do not hash to its id.
        GateClosed: UNDECODABLE, UNKNOWN_LABEL or TOO_FEW_GROUPS.
    """
    targets_n = class_indices(rows, plan.classes)
    recipe = plan.found.recipe
    preprocessing = recipe.preprocessing(plan.params)
    unmatched: dict[str, Counter[str]] = {}

    def decode(data: bytes) -> Array:
        if recipe.name == ROW_RECIPE.name:
            for name, counts in unmatched_categories([data], preprocessing=preprocessing).items():
                unmatched.setdefault(name, Counter()).update(counts)
        return recipe.decode(data, preprocessing=preprocessing)

    inputs = decode_inputs(
        lambda: _read(plan.project, rows, store=store),
        num_rows=len(rows),
        decode=decode,
        folder=plan.folder,
        key=content_id([plan.snapshot_id, plan.found.code_digest, preprocessing]),
    )
    for name, counts in sorted(unmatched.items()):
        some = ", ".join(f"{value} ({n})" for value, n in counts.most_common(10))
        logger.warning("%s: %d rows have a value that the recipe does not know: %s", name, counts.total(), some)
    weights_n = loss_weights(
        targets_n,
        np.array([row.weight for row in rows], dtype=np.float32),
        num_classes=len(plan.classes),
        balanced=plan.params["class_weights"] == "balanced",
    )
    split = _split(rows, inputs, share=plan.params["validation_share"])
    return TrainingData(inputs, targets_n, weights_n, split, plan.classes)


def _read(project: str, rows: Sequence[TrainingRow], *, store: ObjectStore) -> Iterator[tuple[int, bytes]]:
    position = {row.item_id: index for index, row in enumerate(rows)}
    items = (_item(project, row) for row in rows)
    for item, data in read_items(store, items):
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
        content_id=row.content_id,
    )


def _split(rows: Sequence[TrainingRow], inputs: DecodedInputs, *, share: float) -> InnerSplit:
    if inputs.skipped:
        some = sorted(inputs.skipped.items())[:10]
        logger.warning("%d items do not decode and are left out: %s", len(inputs.skipped), some)
    kept = np.array([position for position in range(len(rows)) if position not in inputs.skipped], dtype=np.int64)
    split = inner_split([rows[position].group_key for position in kept], share=share)
    return InnerSplit(train=kept[split.train], validation=kept[split.validation])
