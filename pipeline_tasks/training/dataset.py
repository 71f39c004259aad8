"""Rows of a snapshot, and which of them validate inside training. Pure."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pipeline_tasks.contracts import Location
from pipeline_tasks.errors import DataCorrupt, GateClosed

REQUIRED_COLUMNS = ("item_id", "label", "split", "group_key", "object_key", "offset", "size_bytes")


class ManifestTable(Protocol):
    """A snapshot's manifest: a pyarrow Table."""

    @property
    def column_names(self) -> list[str]: ...
    def to_pylist(self) -> list[dict[str, Any]]: ...


@dataclasses.dataclass(frozen=True, slots=True)
class TrainingRow:
    """One labeled item; `weight` multiplies its loss."""

    item_id: str
    label: str
    group_key: str
    location: Location
    weight: float = 1.0
    content_id: str = ""  # empty: the item's id


@dataclasses.dataclass(frozen=True, slots=True)
class InnerSplit:
    """Positions of the rows that fit the weights and of those that validate."""

    train: npt.NDArray[np.int64]
    validation: npt.NDArray[np.int64]


def rows_of(manifest: ManifestTable) -> list[TrainingRow]:
    """Return the rows with split `train`, ordered by item id; exam rows never get past this point.

    Raises:
        DataCorrupt: a column is missing.
    """
    missing = sorted(set(REQUIRED_COLUMNS) - set(manifest.column_names))
    if missing:
        raise DataCorrupt(
            f"a snapshot's manifest must have the columns {', '.join(REQUIRED_COLUMNS)} "
            f"(got none named {', '.join(missing)}). Build the snapshot again."
        )
    rows = [_row(fields) for fields in manifest.to_pylist() if fields["split"] == "train"]
    return sorted(rows, key=lambda row: row.item_id)


def _row(fields: Mapping[str, Any]) -> TrainingRow:
    weight = fields.get("weight")
    return TrainingRow(
        item_id=fields["item_id"],
        label=fields["label"],
        group_key=fields["group_key"],
        location=Location(fields["object_key"], int(fields["offset"]), int(fields["size_bytes"])),
        weight=1.0 if weight is None else float(weight),
        content_id=fields.get("content_id", ""),
    )


def class_indices(rows: Sequence[TrainingRow], classes: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return each row's class as its position in `classes`.

    Raises:
        GateClosed: UNKNOWN_LABEL, a row has a label that the project does not.
    """
    position = {name: index for index, name in enumerate(classes)}
    unknown = sorted({row.label for row in rows} - set(position))
    if unknown:
        raise GateClosed(
            f"labels.classes must hold every label of the snapshot (got also {', '.join(unknown[:10])}). "
            "A project's classes stay as they were at its first labeling: restore them in project.yaml, or withdraw "
            "these labels in Label Studio.",
            code="UNKNOWN_LABEL",
        )
    return np.array([position[row.label] for row in rows], dtype=np.int64)


def inner_split(group_keys: Sequence[str], *, share: float) -> InnerSplit:
    """Divide rows by the hash of their group, so that a group is never on both sides and none ever changes sides.

    With few groups the one with the lowest hash validates.

    Raises:
        GateClosed: TOO_FEW_GROUPS, there are fewer than two groups.
    """
    if len(set(group_keys)) < 2:
        raise GateClosed(
            f"a snapshot must have training rows of at least 2 groups (got {len(set(group_keys))}). "
            "Label more items; if they all share a group, see group_pattern or group_column in project.yaml.",
            code="TOO_FEW_GROUPS",
        )
    draws = np.array([_draw(group) for group in group_keys])
    validates = draws < share
    if not validates.any():
        validates = draws == draws.min()
    elif validates.all():
        validates = draws != draws.max()
    return InnerSplit(train=np.flatnonzero(~validates), validation=np.flatnonzero(validates))


def _draw(group_key: str) -> float:
    digest = hashlib.sha256(b"dethrone inner validation\0" + group_key.encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def loss_weights(
    targets_n: npt.NDArray[np.int64], row_weights_n: npt.NDArray[np.float32], *, num_classes: int, balanced: bool
) -> npt.NDArray[np.float32]:
    """Return each row's factor in the loss; `balanced` multiplies by rows / (classes * rows of the class)."""
    if not balanced:
        return row_weights_n
    counts = np.bincount(targets_n, minlength=num_classes)
    present = int((counts > 0).sum())
    factors = len(targets_n) / (present * np.maximum(counts, 1))
    return (row_weights_n * factors[targets_n]).astype(np.float32)
