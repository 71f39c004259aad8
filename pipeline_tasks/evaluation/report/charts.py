"""The report's drawings: SVG with classes and attributes only, since the page allows no inline style."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from pipeline_tasks.core.html_page import drawing, short, text

MAX_MATRIX_CLASSES = 20
MAX_NUMBERED_CLASSES = 12
ERROR_GAIN = 2.5
MIN_BIN_ITEMS = 5
MIN_BIN_SHARE = 0.01


def gain_chart(rows: Sequence[Mapping[str, Any]]) -> Markup:
    """Return differences with their bounds beside the line that must be passed.

    A row has `name`, `difference`, `low`, `high`, `limit` (None for none) and `limit_name`; all figures are shares.
    """
    left, right, top, step, width = 270, 130, 34, 62, 1060
    values = [row[key] for row in rows for key in ("difference", "low", "high", "limit") if row[key] is not None]
    low, high = min([*values, 0.0]), max([*values, 0.0])
    pad = max((high - low) * 0.08, 0.005)
    scale = (width - left - right) / (high - low + 2 * pad)

    def x(value: float) -> float:
        return float(left + (value - low + pad) * scale)

    height = top + step * len(rows) + 26
    parts = [f'<line class="zero" x1="{x(0):.1f}" x2="{x(0):.1f}" y1="{top - 8}" y2="{height - 26}"/>']
    parts.append(f'<text class="dim" x="{x(0):.1f}" y="{height - 8}" text-anchor="middle">no difference</text>')
    parts.append(f'<text class="dim" x="{x(0) - 10:.1f}" y="14" text-anchor="end">← champion better</text>')
    parts.append(f'<text class="dim" x="{x(0) + 10:.1f}" y="14">contender better →</text>')
    for index, row in enumerate(rows):
        parts.append(_gain_row(row, x=x, y=top + step * index + step / 2 - 6, edge=width - right))
    return drawing(f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img">{"".join(parts)}</svg>')


def _gain_row(row: Mapping[str, Any], *, x: Any, y: float, edge: float) -> str:
    low, high, middle = (x(row[key]) for key in ("low", "high", "difference"))
    whiskers = "".join(
        f'<line class="contender-line" x1="{end:.1f}" x2="{end:.1f}" y1="{y - 6:.1f}" y2="{y + 6:.1f}"/>'
        for end in (low, high)
    )
    bar = ""
    if row["limit"] is not None:
        limit, name = x(row["limit"]), text(row["limit_name"])
        bar = (
            f'<line class="limit" x1="{limit:.1f}" x2="{limit:.1f}" y1="{y - 18:.1f}" y2="{y + 18:.1f}"/>'
            f'<text class="limit-text" x="{limit - 6:.1f}" y="{y + 30:.1f}" text-anchor="end">{name}</text>'
        )
    return (
        f'<text class="strong" x="0" y="{y - 1:.1f}">{text(row["name"])}</text>'
        f'<text class="dim" x="0" y="{y + 15:.1f}">{text(row["detail"])}</text>'
        f'{bar}<line class="contender-line" x1="{low:.1f}" x2="{high:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>{whiskers}'
        f'<circle class="contender-fill" cx="{middle:.1f}" cy="{y:.1f}" r="5.5"/>'
        f'<text class="strong" x="{edge + 14:.1f}" y="{y + 4:.1f}">{100 * row["difference"]:+.1f} points</text>'
    )


def interval_bar(
    interval: Mapping[str, Any], *, role: str, low: float = 0.0, high: float = 1.0, floor: float = 0.0
) -> Markup:
    """Return a small dot with whiskers on the scale low..high, and the floor where there is one."""
    width = 200
    if interval["estimate"] is None:
        return Markup()

    def x(value: float) -> float:
        return 6 + (min(max(value, low), high) - low) / (high - low) * (width - 12)

    line = f'<line class="limit" x1="{x(floor):.1f}" x2="{x(floor):.1f}" y1="0" y2="18"/>' if floor else ""
    return drawing(
        f'<svg viewBox="0 0 {width} 18" width="{width}" height="18">{line}'
        f'<line class="axis" x1="6" x2="{width - 6}" y1="9" y2="9"/>'
        f'<line class="{role}-line" x1="{x(interval["low"]):.1f}" x2="{x(interval["high"]):.1f}" y1="9" y2="9"/>'
        f'<circle class="{role}-fill" cx="{x(interval["estimate"]):.1f}" cy="9" r="4.5"/></svg>'
    )


def recall_bar(champion: float | None, contender: float | None, *, floor: float) -> Markup:
    """Return two thin bars of recall, one under the other, and the floor where there is one."""
    width = 230
    bars = []
    for index, (role, value) in enumerate((("champion", champion), ("contender", contender))):
        if value is not None:
            y = 3 + 9 * index
            bars.append(
                f'<rect class="{role}-fill" x="0" y="{y}" width="{max(1.0, value * width):.1f}" height="7" rx="2"/>'
            )
    line = f'<line class="limit" x1="{floor * width:.1f}" x2="{floor * width:.1f}" y1="0" y2="22"/>' if floor else ""
    return drawing(f'<svg viewBox="0 0 {width} 22" width="{width}" height="22">{"".join(bars)}{line}</svg>')


def confusion_part(
    counts: Sequence[Sequence[int]], classes: Sequence[str], chosen: Sequence[int], *, role: str
) -> Markup:
    """Return the heat map of the chosen classes."""
    part = [[counts[row][column] for column in chosen] for row in chosen]
    return confusion_chart(part, [classes[index] for index in chosen], role=role)


def confusion_chart(counts: Sequence[Sequence[int]], classes: Sequence[str], *, role: str) -> Markup:
    """Return a heat map: one row per true class, shaded by the share of it that got each answer; errors in red."""
    size = 460 / max(len(classes), 4)
    left, top = 118, 92
    width, height = left + size * len(classes) + 62, top + size * len(classes) + 8
    parts = []
    for index, label in enumerate(classes):
        middle = index * size + size / 2
        name = text(short(label, 15))
        parts.append(f'<text x="{left - 8}" y="{top + middle + 4:.1f}" text-anchor="end">{name}</text>')
        parts.append(
            f'<text x="0" y="0" transform="translate({left + middle + 3:.1f} {top - 8}) rotate(-42)">{name}</text>'
        )
    for row, line in enumerate(counts):
        total = sum(line)
        for column, count in enumerate(line):
            share = count / total if total else 0.0
            parts.append(
                _cell(
                    left + column * size,
                    top + row * size,
                    size=size,
                    share=share,
                    count=count if len(classes) <= MAX_NUMBERED_CLASSES else 0,
                    fill=role if row == column else "error",
                )
            )
    return drawing(f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img">{"".join(parts)}</svg>')


def _cell(x: float, y: float, *, size: float, share: float, count: int, fill: str) -> str:
    opacity = share if fill != "error" else min(1.0, share * ERROR_GAIN)
    box = f'x="{x:.1f}" y="{y:.1f}" width="{size:.1f}" height="{size:.1f}"'
    shade = f'<rect class="{fill}-fill" fill-opacity="{opacity:.2f}" {box}/>' if opacity else ""
    ink = ' class="on-dark"' if opacity > 0.55 else ""
    number = (
        f'<text{ink} x="{x + size / 2:.1f}" y="{y + size / 2 + 4:.1f}" text-anchor="middle">{count}</text>'
        if count
        else ""
    )
    return f'<rect class="cell" {box}/>{shade}{number}'


def worst_classes(counts: Sequence[Sequence[int]], classes: Sequence[str]) -> list[int]:
    """Return the positions of the classes to draw: all, or those with the most errors, in their own order."""
    if len(classes) <= MAX_MATRIX_CLASSES:
        return list(range(len(classes)))
    errors = [
        sum(counts[index]) + sum(row[index] for row in counts) - 2 * counts[index][index]
        for index in range(len(classes))
    ]
    worst = sorted(range(len(classes)), key=lambda index: (-errors[index], index))[:MAX_MATRIX_CLASSES]
    return sorted(worst)


def reliability_chart(bins: Sequence[Mapping[str, Any]], *, role: str) -> Markup:
    """Return confidence against the share right; dots grow with the number of answers, the diagonal is honest."""
    left, top, side = 46, 10, 330

    def x(value: float) -> float:
        return left + value * side

    def y(value: float) -> float:
        return top + (1 - value) * side

    grid = "".join(
        f'<line class="axis" x1="{left}" x2="{left + side}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
        f'<text class="dim" x="{left - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{100 * tick:.0f} %</text>'
        f'<text class="dim" x="{x(tick):.1f}" y="{top + side + 18}" text-anchor="middle">{100 * tick:.0f} %</text>'
        for tick in (0, 0.25, 0.5, 0.75, 1)
    )
    most = max((bucket["num_items"] for bucket in bins), default=1)
    total = sum(bucket["num_items"] for bucket in bins)
    solid = [bucket for bucket in bins if bucket["num_items"] >= max(MIN_BIN_ITEMS, MIN_BIN_SHARE * total)]
    points = " ".join(f"{x(bucket['confidence']):.1f},{y(bucket['accuracy']):.1f}" for bucket in solid)
    dots = "".join(
        f'<circle class="{role}-fill" cx="{x(bucket["confidence"]):.1f}" cy="{y(bucket["accuracy"]):.1f}" '
        f'r="{2.5 + 9 * math.sqrt(bucket["num_items"] / most):.1f}" fill-opacity="0.75"/>'
        for bucket in bins
    )
    height = top + side + 44
    return drawing(
        f'<svg viewBox="0 0 {left + side + 20} {height}" width="{left + side + 20}" role="img">{grid}'
        f'<line class="diagonal" x1="{left}" x2="{left + side}" y1="{top + side}" y2="{top}"/>'
        f'<polyline class="{role}-line" points="{points}"/>{dots}'
        f'<text class="dim" x="{left + side / 2}" y="{height - 6}" text-anchor="middle">confidence</text></svg>'
    )
