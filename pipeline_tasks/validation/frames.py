"""The tables that the suites look at, built from labels and manifests. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa


def labels_frame(columns: Mapping[str, Sequence[Any]]) -> pd.DataFrame:
    """Return decided labels as the labels suite reads them.

    A label that came with the data or from an outcome was given by its source, which counts as one annotator.
    """
    pairs = zip(columns["annotators"], columns["method"], strict=True)
    num_annotators = [max(len(names or ()), int(method in {"imported", "outcome"})) for names, method in pairs]
    return pd.DataFrame(
        {
            "item_id": columns["item_id"],
            "label": columns["label"],
            "method": columns["method"],
            "num_annotators": num_annotators,
            "agreement": pd.Series(columns["agreement"], dtype="float64"),
        }
    )


def dataset_frame(manifest: pa.Table) -> pd.DataFrame:
    """Return the columns of a manifest that the dataset suite reads."""
    return pd.DataFrame(manifest.select(["item_id", "label", "group_key", "weight", "split"]).to_pandas())


def count_classes(labels: Sequence[str], classes: Sequence[str]) -> dict[str, int]:
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


def js_distance(one: Mapping[str, float], other: Mapping[str, float]) -> float | None:
    """Return the Jensen-Shannon distance of two distributions given as counts: 0 = same, 1 = nothing in common.

    The square root of the mean Kullback-Leibler divergence (base 2) of each to their midpoint; unlike that divergence
    it is symmetric and finite when a class is missing on one side. None if either side is empty.
    Source: Endres and Schindelin 2003.
    """
    total, total_other = sum(one.values()), sum(other.values())
    if not total or not total_other:
        return None
    divergence = 0.0
    for name in set(one) | set(other):
        p, q = one.get(name, 0) / total, other.get(name, 0) / total_other
        middle = (p + q) / 2
        divergence += sum(part * math.log2(part / middle) / 2 for part in (p, q) if part)
    return math.sqrt(min(1.0, max(0.0, divergence)))
