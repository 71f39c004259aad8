"""The figure of gate_calibration.py: three panels on one scale of promoted shares, as one SVG file."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Mapping, Sequence

WIDTH, HEIGHT = 1180, 520
LEFT, TOP, SIDE, TALL, STEP = 78, 100, 312, 290, 372
BLUES = ("#9ecae1", "#5fa2d0", "#2f7fc1", "#0b559f", "#042a5c")
RULE, NAIVE, NOMINAL, INK, DIM, GRID = "#0b559f", "#d95f02", "#b2182b", "#1a1a1a", "#595959", "#dddddd"
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)

Line = tuple[Sequence[float], Sequence[float]]


@dataclasses.dataclass(frozen=True, slots=True)
class Panel:
    """One plot; `index` counts from the left, x runs from `least` to `most`."""

    index: int
    title: str
    x_name: str
    ticks: tuple[int, ...]

    @property
    def left(self) -> float:
        return LEFT + STEP * self.index

    def x(self, value: float) -> float:
        least, most = self.ticks[0], self.ticks[-1]
        return self.left + (value - least) / (most - least) * SIDE

    def frame(self, *, nominal: float) -> str:
        """Return title, grid, axis names and the nominal line."""
        parts = [text(self.left, TOP - 14, self.title, size=15, weight="bold")]
        for share in SHARES:
            parts.append(stroke((self.left, y(share)), (self.left + SIDE, y(share)), color=GRID))
            parts.append(text(self.left - 8, y(share) + 4, f"{100 * share:.0f} %", color=DIM, anchor="end"))
        for tick in self.ticks:
            parts.append(stroke((self.x(tick), y(0)), (self.x(tick), y(0) + 5), color=DIM))
            parts.append(text(self.x(tick), y(0) + 20, str(tick), color=DIM, anchor="middle"))
        parts.append(text(self.left + SIDE / 2, y(0) + 42, self.x_name, anchor="middle"))
        parts.append(stroke((self.left, y(nominal)), (self.left + SIDE, y(nominal)), color=NOMINAL, dash="5 4"))
        return "".join(parts)

    def curve(self, line: Line, *, color: str, dots: bool) -> str:
        """Return a line through all points."""
        points = [(self.x(at), y(share)) for at, share in zip(*line, strict=True)]
        joined = " ".join(f"{point:.1f},{share:.1f}" for point, share in points)
        marks = [f'<circle cx="{point:.1f}" cy="{share:.1f}" r="3" fill="{color}"/>' for point, share in points]
        path = f'<polyline points="{joined}" fill="none" stroke="{color}" stroke-width="2.2"/>'
        return path + "".join(marks if dots else [])


def y(share: float) -> float:
    return TOP + (1 - share) * TALL


def text(left: float, top: float, value: str, *, size: int = 13, color: str = INK, **attributes: str) -> str:
    names = {"anchor": "text-anchor", "weight": "font-weight"}
    more = "".join(f' {names[key]}="{attribute}"' for key, attribute in attributes.items())
    clean = html.escape(value)
    return f'<text x="{left:.1f}" y="{top:.1f}" font-size="{size}" fill="{color}"{more}>{clean}</text>'


def stroke(
    start: tuple[float, float], end: tuple[float, float], *, color: str, width: float = 1, dash: str = ""
) -> str:
    ends = f'x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}"'
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<line {ends} stroke="{color}" stroke-width="{width}"{dashed}/>'


def legend(entries: Sequence[tuple[str, str, str]], *, left: float) -> str:
    """Return one row of (name, color, dash) under a panel."""
    parts, at, top = [], left, TOP + TALL + 76
    for name, color, dash in entries:
        parts.append(stroke((at, top - 4), (at + 24, top - 4), color=color, width=3, dash=dash))
        parts.append(text(at + 30, top, name))
        at += 48 + 7 * len(name)
    return "".join(parts)


def render(
    *, nights: Mapping[str, Line], rule: Mapping[str, Line], naive: Mapping[str, Line], nominal: float, note: str
) -> str:
    """Return the figure; lines are (x, shares), `nights` has `rule` and `naive`, the other two one line per exam."""
    last = int(max(nights["rule"][0]))
    gain = "true gain of the contender, points"
    panels = [
        Panel(0, "Equal contenders, one every night", "nights on one exam", (1, *range(10, last, 10), last)),
        Panel(1, "The gate", gain, (0, 1, 2, 3, 4, 5)),
        Panel(2, "“The higher score wins”", gain, (0, 1, 2, 3, 4, 5)),
    ]
    parts = [panel.frame(nominal=nominal) for panel in panels]
    for name, color in (("naive", NAIVE), ("rule", RULE)):
        parts.append(panels[0].curve(nights[name], color=color, dots=False))
    for panel, lines in ((panels[1], rule), (panels[2], naive)):
        parts += [panel.curve(line, color=color, dots=True) for line, color in zip(lines.values(), BLUES, strict=True)]
    exams = [(name, color, "") for name, color in zip(rule, BLUES, strict=True)]
    parts.append(legend([("gate", RULE, ""), ("higher score wins", NAIVE, "")], left=panels[0].left))
    parts.append(legend([(f"{100 * nominal:g} % nominal", NOMINAL, "5 4"), *exams], left=panels[1].left))
    parts.append(text(LEFT, HEIGHT - 14, note, color=DIM))
    middle = f'transform="translate(18 {TOP + TALL / 2:.0f}) rotate(-90)" text-anchor="middle" font-size="13"'
    parts.append(f'<text x="0" y="0" {middle} fill="{INK}">promoted, % of contenders</text>')
    parts.append(text(LEFT, 36, "How often a contender is promoted", size=20, weight="bold"))
    parts.append(text(LEFT, 58, "left: has any of them been promoted so far; middle and right: first use", color=DIM))
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" font-family="Helvetica, Arial, sans-serif">'
        "<title>False promotions and power of the gate, beside “the higher score wins”</title>"
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>{"".join(parts)}</svg>\n'
    )
