"""From a snapshot's rows to what is trained on: bytes read and decoded, classes, weights, the inner split."""

from __future__ import annotations

import dataclasses
import datetime as dt
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline_tasks.contracts import Item, content_id
from pipeline_tasks.core.ports import ObjectStore
from pipeline_tasks.ingest.item_reader import read_items
from pipeline_tasks.models.base import DescribesInputs
from pipeline_tasks.models.decoding import decode_item
from pipeline_tasks.models.registry import FoundRecipe
from pipeline_tasks.training.dataset import (
    InnerSplit,
    TrainingRow,
    TrainingRows,
    class_indices,
    inner_split,
    loss_weights,
)
from pipeline_tasks.training.decoded_inputs import DecodedInputs, decode_inputs
from pipeline_tasks.training.loop import TrainingData
from pipeline_tasks.training.proof import Proof, spread

logger = logging.getLogger(__name__)

FACT_ROWS = 1_000
READ_AT_ONCE = 20_000


@dataclasses.dataclass(frozen=True, slots=True)
class LoadPlan:
    """The data of a project and its decoding; decoded inputs are kept in `folder`."""

    project: str
    snapshot_id: str
    recipe_code: FoundRecipe
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
    recipe = plan.recipe_code.recipe
    preprocessing = recipe.preprocessing(plan.params)
    signature = recipe.signature(plan.params, len(plan.classes))
    inputs = decode_inputs(
        lambda: read_rows(plan.project, rows, store=store),
        num_rows=len(rows),
        decode=lambda data: decode_item(recipe, data, preprocessing=preprocessing, signature=signature),
        folder=plan.folder,
        key=content_id([plan.snapshot_id, plan.recipe_code.code_digest, preprocessing]),
    )
    weights_n = loss_weights(
        targets_n,
        rows.weights(),
        num_classes=len(plan.classes),
        balanced=plan.params["class_weights"] == "balanced",
    )
    split = _split(rows, inputs, share=plan.params["validation_share"])
    return TrainingData(inputs, targets_n, weights_n, split, plan.classes)


def proof_of(
    plan: LoadPlan, rows: TrainingRows, *, positions: npt.NDArray[np.int64] | None = None, store: ObjectStore
) -> Proof:
    """Return some of the rows (of all, or of those at the positions) with their bytes, and how training decodes them.

    Raises:
        DataCorrupt: an item's bytes are gone, or do not hash to its id.
    """
    chosen = rows.take(np.asarray(spread(np.arange(len(rows)) if positions is None else positions)))
    items = [(chosen[position].item_id, data) for position, data in read_some(plan.project, chosen, store=store)]
    return Proof(plan.recipe_code.recipe, plan.recipe_code.recipe.preprocessing(plan.params), items)


def input_facts(
    plan: LoadPlan, rows: TrainingRows, *, store: ObjectStore, shown: Callable[[bytes], bytes]
) -> dict[str, Any]:
    """Return what the recipe says of the first `FACT_ROWS` rows, `shown` as logs and trackers may have them.

    Nothing where it has nothing to say.
    """
    recipe = plan.recipe_code.recipe
    if not isinstance(recipe, DescribesInputs):
        return {}
    items = (shown(data) for _, data in read_some(plan.project, rows[:FACT_ROWS], store=store))
    facts = recipe.input_facts(items, preprocessing=recipe.preprocessing(plan.params))
    logger.info("inputs of %s: %s", plan.project, facts)
    return {"inputs": facts}


def read_rows(project: str, rows: TrainingRows, *, store: ObjectStore) -> Iterator[tuple[int, bytes]]:
    """Yield (position, bytes), object after object; the rows of READ_AT_ONCE items are made at a time, no more."""
    waiting: list[npt.NDArray[np.int64]] = []
    for positions_n in rows.by_object():
        waiting.append(positions_n)
        if sum(map(len, waiting)) >= READ_AT_ONCE:
            yield from _read_at(project, rows, np.concatenate(waiting), store=store)
            waiting = []
    if waiting:
        yield from _read_at(project, rows, np.concatenate(waiting), store=store)


def _read_at(
    project: str, rows: TrainingRows, positions_n: npt.NDArray[np.int64], *, store: ObjectStore
) -> Iterator[tuple[int, bytes]]:
    for index, data in read_some(project, rows.take(positions_n), store=store):
        yield int(positions_n[index]), data


def read_some(project: str, rows: Sequence[TrainingRow], *, store: ObjectStore) -> Iterator[tuple[int, bytes]]:
    """Yield (index, bytes) of each of a few rows, pack after pack."""
    position = {row.item_id: index for index, row in enumerate(rows)}
    for item, data in read_items(store, (_item(project, row) for row in rows)):
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


def _split(rows: TrainingRows, inputs: DecodedInputs, *, share: float) -> InnerSplit:
    if inputs.skipped:
        some = [(rows[position].item_id[:16], code) for position, code in sorted(inputs.skipped.items())[:10]]
        logger.warning("%d items do not decode and are left out: %s", len(inputs.skipped), some)
    kept_n = np.setdiff1d(np.arange(len(rows)), np.fromiter(inputs.skipped, dtype=np.int64))
    split = inner_split(rows.group_keys(kept_n), share=share)
    return InnerSplit(train=kept_n[split.train], validation=kept_n[split.validation])
