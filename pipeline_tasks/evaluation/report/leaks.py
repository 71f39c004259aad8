"""The report's leak check: which exam items a model was trained on, and pairs of items side by side."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from pipeline_tasks.contracts import Item
from pipeline_tasks.core.html_page import text
from pipeline_tasks.evaluation.report.examples import preview
from pipeline_tasks.evaluation.scoring import ReadItems

MAX_LISTED, MAX_PAIRS = 20, 12
FindItems = Callable[[Collection[str]], Sequence[Item]]
Document = Mapping[str, Any]


def leak_check(document: Document) -> str:
    """Return how many exam items each model's training snapshot holds, and which."""
    question = document["question"]
    total = sum(exam["num_items"] for exam in question["exams"])
    lines = [_count(question["leaks"], total=total, whose="contender")]
    if question["champion"] is not None:
        lines.append(_count(question["champion_leaks"], total=total, whose="champion"))
    if question["policy"]["exam"]["near_duplicates"]["policy"] == "off":
        lines.append("<p>Only identical items were looked for (gate.exam.near_duplicates.policy: off).</p>")
    return "".join(lines)


def _count(leaks: Sequence[Mapping[str, Any]], *, total: int, whose: str) -> str:
    exact = sum(leak["kind"] == "exact" for leak in leaks)
    line = (
        f"<p>Leak check: {len(leaks)} of {total:,} exam items are in the {whose}'s training snapshot"
        f"{f', {exact} exactly and {len(leaks) - exact} as near duplicates' if leaks else ''}.</p>"
    )
    listed = "".join(_line(leak) for leak in leaks[:MAX_LISTED])
    more = f"<li>and {len(leaks) - MAX_LISTED} more, in verdict.json</li>" if len(leaks) > MAX_LISTED else ""
    return f"{line}{f'<ul>{listed}{more}</ul>' if leaks else ''}"


def _line(leak: Mapping[str, Any]) -> str:
    item = f"<code>{text(leak['item_id'])}</code>"
    if leak["kind"] == "exact":
        return f"<li>{item}</li>"
    return f"<li>{item} is like <code>{text(leak['trained_item_id'])}</code>, similarity {leak['similarity']:.4f}</li>"


def leak_cards(document: Document, *, read: ReadItems, find_items: FindItems) -> str:
    """Return the contender's leaks as cards: the exam item beside the training item that is like it."""
    leaks = document["question"]["leaks"][:MAX_PAIRS]
    if not leaks:
        return ""
    ids = list(dict.fromkeys(leak[name] for leak in leaks for name in ("item_id", "trained_item_id")))
    items = find_items(ids)
    payloads = read([item.location for item in items])
    shown = {
        item.item_id: preview(data, media_type=item.media_type) for item, data in zip(items, payloads, strict=True)
    }
    images = items[0].media_type.startswith("image/")
    cards = "".join(_card(leak, shown) for leak in leaks)
    return f'<div class="examples{"" if images else " texts"}">{cards}</div>'


def _card(leak: Mapping[str, Any], shown: Mapping[str, str]) -> str:
    pair = shown[leak["item_id"]]
    words = "the same bytes"
    if leak["kind"] == "near":
        pair += shown[leak["trained_item_id"]]
        words = f"similarity {leak['similarity']:.4f}"
    return (
        f'<div class="example">{pair}<h3>{text(words)}</h3>'
        f'<div class="small">exam <code>{text(leak["item_id"][:12])}</code>, '
        f"training <code>{text(leak['trained_item_id'][:12])}</code></div></div>"
    )
