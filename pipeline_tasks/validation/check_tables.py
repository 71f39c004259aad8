"""The tables that the suites look at, built from labels and manifests. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from scipy.spatial.distance import jensenshannon

ROWS_AT_ONCE = 50_000


def labels_frames(decided: pa.Table) -> Iterator[pd.DataFrame]:
    """Yield decided labels as the labels suite reads them, so many rows at a time."""
    return map(labels_frame, _slices(decided))


def labels_frame(decided: pa.Table) -> pd.DataFrame:
    """Return decided labels as the labels suite reads them.

    A label that came with the data or from an outcome was given by its source, which counts as one annotator.
    """
    given = pc.is_in(decided["method"].cast(pa.string()), pa.array(["imported", "outcome"]))
    named = pc.fill_null(pc.list_value_length(decided["annotators"]), 0)
    names = {name: decided[name].cast(pa.string()).to_pandas() for name in ("item_id", "label", "method")}
    return pd.DataFrame(
        names
        | {
            "num_annotators": np.maximum(named.to_numpy(), given.to_numpy()).astype(np.int64),
            "agreement": decided["agreement"].cast(pa.float64()).to_pandas(),
        }
    )


def dataset_frames(manifest: pa.Table) -> Iterator[pd.DataFrame]:
    """Yield the columns of a manifest that the dataset suite reads, so many rows at a time."""
    columns = {"item_id": pa.string(), "label": pa.string(), "group_key": pa.string(), "weight": pa.float64()}
    schema = pa.schema(columns | {"split": pa.string()})
    for some in _slices(manifest.select(schema.names)):
        yield some.cast(schema).to_pandas()


def _slices(table: pa.Table) -> Iterator[pa.Table]:
    """Yield the rows ROWS_AT_ONCE at a time: at least one table, which may be empty."""
    return (table.slice(start, ROWS_AT_ONCE) for start in range(0, max(1, table.num_rows), ROWS_AT_ONCE))


def count_labels(labels: pa.ChunkedArray) -> dict[str, int]:
    """Return rows per label; a row without one counts nowhere."""
    counted = pc.value_counts(labels.cast(pa.string())).to_pylist()
    return {str(count["values"]): int(count["counts"]) for count in counted if count["values"] is not None}


def count_classes(labels: Iterable[str] | Mapping[str, int], classes: Sequence[str]) -> dict[str, int]:
    """Return rows per class: the project's classes in their order, zero included, then any other, sorted."""
    counts = Counter(labels)
    return {name: counts[name] for name in (*classes, *sorted(set(counts) - set(classes)))}


def classes_frame(counts: Mapping[str, int]) -> pd.DataFrame:
    """Return one row per class with its rows and its share of all."""
    total = sum(counts.values())
    rows = [(name, count, count / total if total else 0.0) for name, count in counts.items()]
    return pd.DataFrame(rows, columns=["label", "num_rows", "share"])


def facts_frame(
    *, leaked_items: int, leaked_groups: int, label_drift: float | None, near_duplicates: int
) -> pd.DataFrame:
    """Return the one row of facts about a dataset as a whole; no drift without an earlier dataset."""
    return pd.DataFrame(
        [
            {
                "leaked_items": leaked_items,
                "leaked_groups": leaked_groups,
                "label_drift": label_drift or 0.0,
                "near_duplicates": near_duplicates,
            }
        ]
    )


def js_distance(first: Mapping[str, float], other: Mapping[str, float]) -> float | None:
    """Return the Jensen-Shannon distance of two distributions given as counts: 0 = same, 1 = nothing in common.

    The square root of the mean Kullback-Leibler divergence (base 2) of each to their midpoint; unlike that divergence
    it is symmetric and finite when a class is missing on one side. None if either side is empty.
    Source: Endres and Schindelin 2003.
    """
    if not sum(first.values()) or not sum(other.values()):
        return None
    names = sorted({*first, *other})
    shares, other_shares = ([counts.get(name, 0) for name in names] for counts in (first, other))
    return float(jensenshannon(shares, other_shares, base=2))


def excess_js_distance(first: Mapping[str, float], other: Mapping[str, float]) -> float | None:
    """Return the distance less what two samples of one law have: squared, (k - 1)/(8 ln 2)(1/n + 1/m) of k classes."""
    distance = js_distance(first, other)
    if distance is None:
        return None
    num_labels = len({name for counts in (first, other) for name, count in counts.items() if count})
    noise = (num_labels - 1) / (8 * math.log(2)) * (1 / sum(first.values()) + 1 / sum(other.values()))
    return math.sqrt(max(0.0, distance**2 - noise))
