"""The report's leak check: which exam items a model was trained on, and pairs of items side by side. Values only."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from pipeline_tasks.contracts import Item
from pipeline_tasks.evaluation.report.examples import Preview, preview
from pipeline_tasks.evaluation.scoring import ReadItems

MAX_LISTED, MAX_PAIRS = 20, 12
FindItems = Callable[[Collection[str]], Sequence[Item]]
Document = Mapping[str, Any]


def by_role(document: Document) -> list[tuple[str, Sequence[Mapping[str, Any]]]]:
    """Return the exam items that each model's training snapshot holds."""
    question = document["question"]
    rows = [("contender", question["leaks"])]
    return rows + ([("champion", question["champion_leaks"])] if question["champion"] is not None else [])


def num_items(document: Document) -> int:
    """Return how many exam items were looked for."""
    return sum(exam["num_items"] for exam in document["question"]["exams"])


def leak_cards(
    document: Document, *, read: ReadItems, find_items: FindItems
) -> list[tuple[Mapping[str, Any], Preview, Preview]]:
    """Return the contender's leaks: the exam item beside the training item that is like it."""
    leaks = document["question"]["leaks"][:MAX_PAIRS]
    if not leaks:
        return []
    ids = list(dict.fromkeys(leak[name] for leak in leaks for name in ("item_id", "trained_item_id")))
    items = find_items(ids)
    payloads = read([item.location for item in items])
    shown = {
        item.item_id: preview(data, media_type=item.media_type) for item, data in zip(items, payloads, strict=True)
    }
    return [(leak, shown[leak["item_id"]], shown[leak["trained_item_id"]]) for leak in leaks]
