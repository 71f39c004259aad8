"""The report's table of slices: both models on every value with enough items, the contender's worst first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline_tasks.core.html_page import percent, short, text
from pipeline_tasks.evaluation.report import charts
from pipeline_tasks.evaluation.report.tables import change

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
    declared = {one["name"]: one for one in document["question"]["policy"].get("slices", [])}
    found = document["evidence"]["current"].get("slices", [])
    rows = [(declared[one["name"]], score) for one in found for score in one["scores"]]
    return sorted(rows, key=lambda row: (row[1]["contender"]["estimate"], row[0]["name"], row[1]["value"]))


def slice_table(document: Document) -> str:
    """Return accuracy per slice value, and which values were left out."""
    compared = document["evidence"]["current"]["champion"] is not None
    rows = slice_rows(document)
    cells = "".join(_row(*row, compared=compared) for row in rows[:MAX_SLICE_ROWS])
    hidden = len(rows) - MAX_SLICE_ROWS
    more = f'<p class="small">and {hidden:,} values with a higher accuracy</p>' if hidden > 0 else ""
    head = ['<th class="number">Items</th>']
    head += ['<th><span class="champion-name">Champion</span></th>'] if compared else []
    head += ['<th><span class="contender-name">Contender</span></th>']
    head += ['<th class="number">Change</th>'] if compared else []
    table = f"<table><tr><th>Slice</th>{''.join(head)}<th>Asked for</th></tr>{cells}</table>" if rows else ""
    return table + more + "".join(_left_out(one) for one in document["evidence"]["current"]["slices"])


def _row(declared: Mapping[str, Any], score: Mapping[str, Any], *, compared: bool) -> str:
    floor, new, old = declared["floors"]["accuracy"], score["contender"], score["champion"]
    cells = [f"<td>{text(declared['name'])} = <b>{text(short(score['value'], 60))}</b></td>"]
    cells.append(f'<td class="number">{score["num_items"]:,}</td>')
    if compared:
        cells.append(f"<td>{_interval(old, role='champion', floor=floor)}</td>")
    cells.append(f"<td>{_interval(new, role='contender', floor=floor)}</td>")
    if compared:
        cells.append(f'<td class="number">{change(old["estimate"], new["estimate"])}</td>')
    cells.append(f'<td class="small">{text(_asked(declared))}</td>')
    return f"<tr>{''.join(cells)}</tr>"


def _interval(found: Mapping[str, Any], *, role: str, floor: float) -> str:
    ends = f"{100 * found['low']:.1f} to {100 * found['high']:.1f}"
    bar = charts.interval_bar(found, role=role, floor=floor)
    return f'{percent(found["estimate"])} <span class="small">{ends}</span>{bar}'


def _asked(declared: Mapping[str, Any]) -> str:
    floor, loss = declared["floors"]["accuracy"], declared["max_loss"]
    parts = [f"at least {percent(floor)}"] if floor else []
    parts += [f"at most {100 * loss:.1f} points worse"] if loss is not None else []
    return ", ".join(parts) or "nothing"


def _left_out(found: Mapping[str, Any]) -> str:
    parts = []
    if found["num_small"]:
        named = ", ".join(f"{value} ({count})" for value, count in found["small"])
        beyond = found["num_small"] - len(found["small"])
        parts.append(f"too few items in {named}{f' and {beyond:,} more' if beyond else ''}")
    if found["num_without_value"]:
        parts.append(f"{found['num_without_value']:,} items have no value")
    return f'<p class="small">{text(found["name"])}: {text("; ".join(parts))}.</p>' if parts else ""


def weakest_slices(document: Document, *, limit: int) -> Sequence[Row]:
    """Return the contender's weakest values."""
    return slice_rows(document)[:limit]
