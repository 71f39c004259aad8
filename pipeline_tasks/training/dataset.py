"""Rows of a snapshot, and which of them validate inside training. Pure."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_tasks.contracts import Location
from pipeline_tasks.core.arrow_columns import is_ascending
from pipeline_tasks.errors import DataCorrupt, GateClosed

REQUIRED_COLUMNS = ("item_id", "label", "split", "group_key", "object_key", "offset", "size_bytes")
ROWS_AT_ONCE = 50_000


@dataclasses.dataclass(frozen=True, slots=True)
class TrainingRow:
    """One labeled item; `weight` multiplies its loss."""

    item_id: str
    label: str
    group_key: str
    location: Location
    weight: float = 1.0
    content_id: str = ""  # empty: the item's id


class TrainingRows(Sequence[TrainingRow]):
    """The training rows of a snapshot by column, about 250 bytes each; rows are made where they are asked for."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table.combine_chunks()

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @overload
    def __getitem__(self, row: int) -> TrainingRow: ...
    @overload
    def __getitem__(self, row: slice) -> list[TrainingRow]: ...
    def __getitem__(self, row: int | slice) -> TrainingRow | list[TrainingRow]:
        if isinstance(row, slice):
            return self.take(np.arange(len(self))[row])
        return self.take(np.array([range(len(self))[row]]))[0]

    def __iter__(self) -> Iterator[TrainingRow]:
        for start in range(0, len(self), ROWS_AT_ONCE):
            yield from self.take(np.arange(start, min(start + ROWS_AT_ONCE, len(self))))

    def take(self, rows: npt.NDArray[np.int64]) -> list[TrainingRow]:
        """Return some rows, in the order that is asked for."""
        some = self._table.take(pa.array(rows))
        columns = (some[name].to_pylist() for name in ("item_id", "label", "group_key"))
        places = (some[name].to_pylist() for name in ("object_key", "offset", "size_bytes"))
        locations = (Location(*place) for place in zip(*places, strict=True))
        facts = (some[name].to_pylist() for name in ("weight", "content_id"))
        return [TrainingRow(*row) for row in zip(*columns, locations, *facts, strict=True)]

    def labels(self) -> pa.ChunkedArray:
        """Return the labels."""
        return self._table["label"]

    def weights(self) -> npt.NDArray[np.float32]:
        """Return each row's factor in the loss."""
        return np.asarray(self._table["weight"].to_numpy(), dtype=np.float32)

    def group_keys(self, rows: npt.NDArray[np.int64]) -> Iterator[str]:
        """Yield the group of some rows."""
        for start in range(0, len(rows), ROWS_AT_ONCE):
            yield from self._table["group_key"].take(pa.array(rows[start : start + ROWS_AT_ONCE])).to_pylist()

    def by_object(self) -> Iterator[npt.NDArray[np.int64]]:
        """Yield the positions of the rows that lie in one object, object after object."""
        names = self._table["object_key"].combine_chunks()
        codes_n = pc.rank(names.dictionary, tiebreaker="dense").to_numpy()[names.indices.to_numpy()]
        order_n = np.argsort(codes_n, kind="stable")
        yield from np.split(order_n, np.flatnonzero(np.diff(codes_n[order_n])) + 1) if len(order_n) else []


@dataclasses.dataclass(frozen=True, slots=True)
class InnerSplit:
    """Positions of the rows that fit the weights and of those that validate."""

    train: npt.NDArray[np.int64]
    validation: npt.NDArray[np.int64]


def rows_of(manifest: pa.Table) -> TrainingRows:
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
    columns = manifest.select(list(REQUIRED_COLUMNS))
    weight = pa.nulls(manifest.num_rows, pa.float64())
    if "weight" in manifest.column_names:
        weight = manifest["weight"].cast(pa.float64())
    columns = columns.append_column("weight", pc.fill_null(weight, 1.0))
    contents = manifest["content_id"] if "content_id" in manifest.column_names else columns["item_id"]
    columns = columns.append_column("content_id", contents)
    if not pa.types.is_dictionary(columns["object_key"].type):
        at = columns.column_names.index("object_key")
        columns = columns.set_column(at, "object_key", columns["object_key"].dictionary_encode())
    is_train = pc.equal(columns["split"], "train")
    if not pc.all(pc.fill_null(is_train, False)).as_py():  # noqa: FBT003 - the value that fills
        columns = columns.filter(is_train)
    columns = columns.drop_columns(["split"])
    return TrainingRows(columns if is_ascending(columns["item_id"]) else columns.sort_by("item_id"))


def class_indices(rows: TrainingRows, classes: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return each row's class as its position in `classes`.

    Raises:
        GateClosed: UNKNOWN_LABEL, a row has a label that the project does not.
    """
    labels = rows.labels()
    position_n = pc.index_in(labels, value_set=pa.array(classes, pa.string()))
    unknown = sorted(map(str, labels.filter(pc.is_null(position_n)).unique().to_pylist()))
    if unknown:
        raise GateClosed(
            f"labels.classes must hold every label of the snapshot (got also {', '.join(unknown[:10])}). "
            "The classes were changed after it was taken: take a new one with `dethrone train`.",
            code="UNKNOWN_LABEL",
        )
    return np.asarray(position_n.to_numpy(), dtype=np.int64)


def inner_split(group_keys: Iterable[str], *, share: float) -> InnerSplit:
    """Divide rows by the hash of their group, so that a group is never on both sides and none ever changes sides.

    With few groups the one with the lowest hash validates.

    Raises:
        GateClosed: TOO_FEW_GROUPS, there are fewer than two groups.
    """
    draws = np.fromiter((_draw(group) for group in group_keys), dtype=np.float64)
    num_groups = len(np.unique(draws))
    if num_groups < 2:
        raise GateClosed(
            f"a snapshot must have training rows of at least 2 groups (got {num_groups}). "
            "Label more items; if they all share a group, see group_pattern or group_column in project.yaml.",
            code="TOO_FEW_GROUPS",
        )
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
