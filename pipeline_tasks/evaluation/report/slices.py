"""The report's table of slices: both models on every value with enough items, the contender's worst first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline_tasks.core.html_page import percent
from pipeline_tasks.evaluation.report import charts
from pipeline_tasks.evaluation.report.tables import Cell

Document = Mapping[str, Any]
MAX_SLICE_ROWS = 60
NOTE = (
    "Accuracy on parts of the exam, with 95 % Wilson intervals; the dashed line is the floor. "
    "A value that is shown to be below its floor or beyond its margin keeps the champion, however good the whole is."
)
Row = tuple[Mapping[str, Any], Mapping[str, Any]]


def slice_rows(document: Document) -> list[Row]:
    """Return (declared slice, score of one value), the contender's lowest accuracy first."""
    # Verdicts of rule version 1, which may still wait for an approval, have no slices.
    declared = {entry["name"]: entry for entry in document["question"]["policy"].get("slices", [])}
    slices = document["evidence"]["current"].get("slices", [])
    rows = [(declared[entry["name"]], score) for entry in slices for score in entry["scores"]]
    return sorted(rows, key=lambda row: (row[1]["contender"]["estimate"], row[0]["name"], row[1]["value"]))


def interval(accuracy: Mapping[str, Any], *, role: str, floor: float) -> Cell:
    """Return one model's accuracy on a value."""
    ends = f"{100 * accuracy['low']:.1f} to {100 * accuracy['high']:.1f}"
    return Cell(percent(accuracy["estimate"]), ends, charts.interval_bar(accuracy, role=role, floor=floor))


def asked(declared: Mapping[str, Any]) -> str:
    """Return what is asked of every value of a slice."""
    floor, loss = declared["floors"]["accuracy"], declared["max_loss"]
    parts = [f"at least {percent(floor)}"] if floor else []
    parts += [f"at most {100 * loss:.1f} points worse"] if loss is not None else []
    return ", ".join(parts) or "nothing"


def left_out(document: Document) -> list[str]:
    """Return which values were left out, a line per slice."""
    lines = []
    for scored in document["evidence"]["current"]["slices"]:
        parts = []
        if scored["num_small"]:
            named = ", ".join(f"{value} ({count})" for value, count in scored["small"])
            beyond = scored["num_small"] - len(scored["small"])
            parts.append(f"too few items in {named}{f' and {beyond:,} more' if beyond else ''}")
        if scored["num_without_value"]:
            parts.append(f"{scored['num_without_value']:,} items have no value")
        if parts:
            lines.append(f"{scored['name']}: {'; '.join(parts)}.")
    return lines


def weakest_slices(document: Document, *, limit: int) -> Sequence[Row]:
    """Return the contender's weakest values."""
    return slice_rows(document)[:limit]
