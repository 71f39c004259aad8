"""A lineage as a tree: one line a node for people, every fact for programs. Pure."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

IDS_CAP = 1000  # ids in one list of the JSON; its total stands beside it
SHOWN = 10  # children of one node, and names in one line, for people
ID_DIGITS = 12


@dataclasses.dataclass(frozen=True, slots=True)
class LineageNode:
    """One thing in a lineage; `facts` are JSON values, `kind` among them."""

    text: str
    facts: Mapping[str, Any]
    children: tuple[LineageNode, ...] = ()


def node(kind: str, text: str, *, children: Iterable[LineageNode] = (), **facts: Any) -> LineageNode:
    """Return a node of a kind."""
    return LineageNode(text, {"kind": kind, **facts}, tuple(children))


def as_json(tree: LineageNode) -> dict[str, Any]:
    """Return a tree as JSON values, complete."""
    return {**{name: plain(value) for name, value in tree.facts.items()}, "children": [*map(as_json, tree.children)]}


def as_text(tree: LineageNode) -> str:
    """Return a tree as indented lines; of many children the first ten are shown."""
    return "\n".join([tree.text, *_lines(tree.children, indent="")])


def _lines(children: Sequence[LineageNode], *, indent: str) -> Iterator[str]:
    shown = list(children[:SHOWN])
    if len(children) > SHOWN:
        shown.append(LineageNode(f"... and {count(len(children) - SHOWN, 'more')} (all with --json)", {}))
    for position, child in enumerate(shown):
        last = position == len(shown) - 1
        yield f"{indent}{'└─ ' if last else '├─ '}{child.text}"
        yield from _lines(child.children, indent=f"{indent}{'   ' if last else '│  '}")


def short(identifier: str) -> str:
    """Return the beginning of a long id, as people read it."""
    return identifier if len(identifier) <= 2 * ID_DIGITS else identifier[:ID_DIGITS]


def count(number: int, noun: str) -> str:
    """Return a number with its noun: `1 label`, `8,186 labels`; `more` has no plural."""
    plural = "" if number == 1 or noun == "more" else "es" if noun.endswith("x") else "s"
    return f"{number:,} {noun}{plural}"


def when(time: dt.datetime) -> str:
    """Return a time to the second, UTC."""
    return f"{time:%Y-%m-%d %H:%M:%S}"


def counted(counts: Mapping[str, int]) -> str:
    """Return `ada 100, ben 90`, the greatest first, the rest summed up after ten."""
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    words = [f"{name} {number:,}" for name, number in ordered[:SHOWN]]
    rest = ordered[SHOWN:]
    return ", ".join([*words, *([f"{len(rest):,} others {sum(n for _, n in rest):,}"] if rest else [])])


def plain(value: Any) -> Any:
    """Return a value as JSON has it: times in ISO 8601, tuples as lists."""
    if isinstance(value, dt.datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(name): plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return value
