"""Small drawings for the reports: SVG with attributes only, since the pages allow no inline style."""

from __future__ import annotations

from collections.abc import Mapping

from markupsafe import Markup

from pipeline_tasks.core.html_page import drawing, short, text

_ROW, _LABEL, _WIDTH = 26, 150, 720


def bar_chart(counts: Mapping[str, int], *, reference: Mapping[str, int] | None = None) -> Markup:
    """Return horizontal bars of each name's share; `reference` adds a mark where the last snapshot stood."""
    total = sum(counts.values()) or 1
    before = sum((reference or {}).values())
    shares = {name: count / total for name, count in counts.items()}
    marks = {name: (reference or {}).get(name, 0) / before for name in counts} if before else {}
    scale = (_WIDTH - _LABEL - 120) / max([*shares.values(), *marks.values(), 1e-9])
    rows = "".join(
        _bar(index, name=name, count=counts[name], share=share, scale=scale, mark=marks.get(name))
        for index, (name, share) in enumerate(shares.items())
    )
    height = _ROW * len(counts)
    note = '<p class="quiet">The dark line marks the share in the previous snapshot.</p>' if marks else ""
    return drawing(f'<svg class="bars" viewBox="0 0 {_WIDTH} {height}" role="img">{rows}</svg>{note}')


def share_bar(part: int, whole: int) -> Markup:
    """Return a small bar with the count and share of bad rows."""
    share = part / whole if whole else 0.0
    width = max(2.0, 60 * share) if part else 0.0
    bar = '<svg class="share" viewBox="0 0 60 8"><rect class="track" width="60" height="8" rx="4"/>'
    bar += f'<rect class="bad" width="{width:.1f}" height="8" rx="4"/></svg>'
    words = f"{part:,} ({share:.1%})" if part else "0"
    return drawing(f"{bar} {words}")


def _bar(index: int, *, name: str, count: int, share: float, scale: float, mark: float | None) -> str:
    top = index * _ROW
    width = max(1.0, share * scale)
    label = text(short(name, 22))
    line = ""
    if mark is not None:
        x = _LABEL + mark * scale
        line = f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{top + 3}" y2="{top + 23}"/>'
    return (
        f'<text class="name" x="{_LABEL - 10}" y="{top + 17}" text-anchor="end">{label}</text>'
        f'<rect class="bar" x="{_LABEL}" y="{top + 5}" width="{width:.1f}" height="16" rx="3"/>{line}'
        f'<text class="count" x="{_LABEL + max(width, (mark or 0) * scale) + 8:.1f}" y="{top + 17}">'
        f"{count:,} ({share:.1%})</text>"
    )
