"""The page of a verdict: its values; `verdict.html` lays them out, for screen and paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline_tasks.core.html_page import percent
from pipeline_tasks.core.html_page import render as render_page
from pipeline_tasks.evaluation.gate_metrics import METRICS, metrics_among
from pipeline_tasks.evaluation.report import charts, leaks, slices, tables
from pipeline_tasks.evaluation.report.advice import what_would_change
from pipeline_tasks.evaluation.report.examples import Example, Preview, choose, preview, read_examples
from pipeline_tasks.evaluation.report.leaks import FindItems
from pipeline_tasks.evaluation.report.markdown import markdown_summary
from pipeline_tasks.evaluation.scoring import ReadItems
from pipeline_tasks.evaluation.verdict import verdict_id_of

__all__ = ["markdown_summary", "render"]

Document = Mapping[str, Any]


def render(
    document: Document,
    evidence: bytes,
    *,
    counts: Mapping[str, Mapping[str, int]],
    read: ReadItems,
    find_items: FindItems,
) -> str:
    """Return the page of a verdict. `counts` has the rows per class of the snapshots, by role, where known."""
    word, _, sentence = str(document["decision"]["headline"]).partition(": ")
    gains = [row for compared in tables.comparisons(document) if (row := _gain_row(**compared)) is not None]
    return render_page(
        "pipeline_tasks/evaluation/report/verdict.html",
        document=document,
        verdict_id=verdict_id_of(document),
        word=word,
        sentence=sentence,
        gains=gains,
        gains_note=_gains_note(document, gains),
        interval_note=_interval_note(document),
        chosen=_chosen_classes(document),
        examples=_examples(document, evidence, read=read),
        counts=counts,
        leak_cards=leaks.leak_cards(document, read=read, find_items=find_items),
        advice=what_would_change(document),
        charts=charts,
        leaks=leaks,
        slices=slices,
        tables=tables,
    )


def _gains_note(document: Document, gains: Sequence[Mapping[str, Any]]) -> str:
    levels = sorted({percent(1 - row["alpha"]) for row in gains}, reverse=True)
    return (
        f"{METRICS[document['question']['policy']['metric']].title} of the contender minus the champion's, on the "
        f"same items. Each whisker is a one-sided bound with a confidence of {' or '.join(levels)} (the first line's "
        "is that of this use of the exam). A red line is what the rule asks for."
    )


def _gain_row(*, name: str, exam: Mapping[str, Any], limit: float | None, limit_name: str) -> dict[str, Any] | None:
    gain = exam["gain"]
    if gain is None or gain["difference"] is None:
        return None
    return {
        **gain,
        "name": name,
        "detail": f"{exam['num_items']:,} items: {gain['num_wins']} won, {gain['num_losses']} lost",
        "limit": limit,
        "limit_name": f"{100 * limit:+.1f} {limit_name}" if limit else limit_name,
    }


def _interval_note(document: Document) -> str:
    told = metrics_among(document["evidence"]["current"]["contender"])
    methods = ", ".join(f"{metric.interval_by} for {metric.noun}" for metric in told)
    note = f"On the exam, with two-sided 95 % intervals ({methods})."
    constant = tables.constant_of(document["evidence"]["current"])
    if constant is not None:
        note += f" The constant answer is {constant['label']}, the commonest class of these items, for each of them."
    if document["question"]["champion"] is None:
        return note
    return f"{note} Overlapping intervals prove nothing: both models answered the same items, see Difference."


def _chosen_classes(document: Document) -> list[int]:
    """Return the positions of the classes in the drawings of what is taken for what."""
    current = document["evidence"]["current"]
    errors = current["contender"]["confusion"] or (current["champion"] or {}).get("confusion")
    return charts.worst_classes(errors, current["classes"]) if errors else []


def _examples(document: Document, evidence: bytes, *, read: ReadItems) -> list[dict[str, Any]]:
    examples = read_examples(evidence, exam_ids=[exam["exam_id"] for exam in tables.judged_together(document)])
    titles = {"won": "Only the contender is right", "lost": "Only the champion is right"}
    if document["question"]["champion"] is None:
        titles = {"wrong": "Wrong, and sure of it"}
    return [_group(title, kind, examples, read=read) for kind, title in titles.items()]


def _group(title: str, kind: str, examples: Sequence[Example], *, read: ReadItems) -> dict[str, Any]:
    chosen = choose(examples, kind)
    total = sum(example.kind == kind for example in examples)
    note = (
        f"{len(chosen)} of {total:,} such items in the exam, class by class, the contender's surest answers "
        "first. The right answer is in bold; look for wrong labels too."
    )
    payloads = read([example.location for example in chosen]) if chosen else []
    cards: list[tuple[Example, Preview]] = [
        (example, preview(data, media_type=example.media_type)) for example, data in zip(chosen, payloads, strict=True)
    ]
    return {"title": title, "note": note if chosen else "", "cards": cards}
