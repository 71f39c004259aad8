"""A verdict in a few lines of Markdown: the body of the request for approval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline_tasks.core.html_page import percent
from pipeline_tasks.evaluation.gate_metrics import metrics_among
from pipeline_tasks.evaluation.report.slices import weakest_slices

MAX_CLASSES = 3
_SPECIAL = str.maketrans({char: f"\\{char}" for char in "\\`*_{}[]()#+!|~-"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;"})


def markdown(value: object) -> str:
    """Escape a value so that Markdown shows it as it is, on one line."""
    return " ".join(str(value).split()).translate(_SPECIAL)


def markdown_summary(document: Mapping[str, Any], *, report_url: str | None = None) -> str:
    """Return the answer, the figures of both models, each reason, and the weakest classes."""
    question, current = document["question"], document["evidence"]["current"]
    lines = [f"**{markdown(document['decision']['headline'])}**", "", *_figures(document), ""]
    lines += [f"- {MARKS[reason['stand']]}: {markdown(reason['text'])}" for reason in document["decision"]["reasons"]]
    weakest = sorted(
        (scores for scores in current["contender"]["classes"] if scores["recall"]["estimate"] is not None),
        key=lambda scores: (scores["recall"]["estimate"], scores["label"]),
    )[:MAX_CLASSES]
    if weakest:
        named = ", ".join(f"{markdown(scores['label'])} {percent(scores['recall']['estimate'])}" for scores in weakest)
        lines += ["", f"Weakest classes of the contender (recall): {named}."]
    rows = weakest_slices(document, limit=MAX_CLASSES)
    if rows:
        named = ", ".join(
            f"{markdown(declared['name'])} {markdown(score['value'])} {percent(score['contender']['estimate'])}"
            for declared, score in rows
        )
        lines += ["", f"Weakest slices of the contender (accuracy): {named}."]
    if report_url is not None:
        lines += ["", f"[The whole report]({report_url})"]
    version = question["contender"]["version"]
    lines += ["", f"Contender `{version}`, exam {current['epoch']}. Without an answer in time the champion stays."]
    return "\n".join(lines)


MARKS = {"for": "For", "against": "Against", "open": "Open", "note": "Note"}


def _figures(document: Mapping[str, Any]) -> list[str]:
    current, measured = document["evidence"]["current"], document["measured"]
    roles = [role for role in ("champion", "contender") if current[role] is not None]
    told = metrics_among(current["contender"])
    rows = {metric.title: [percent(current[role][metric.name]["estimate"]) for role in roles] for metric in told}
    rows["p99 latency"] = [_milliseconds(measured[role]["latency_p99_ms"]) for role in roles]
    constant = current.get("constant")
    if constant is not None:
        roles = [*roles, f"always {markdown(constant['label'])}"]
        for metric in told:
            rows[metric.title].append(percent(constant[metric.name]))
        rows["p99 latency"].append("")
    head = [f"| | {' | '.join(roles)} |", f"|---|{'---|' * len(roles)}"]
    return head + [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()]


def _milliseconds(value: float | None) -> str:
    return "not computable" if value is None else f"{value:.1f} ms"
