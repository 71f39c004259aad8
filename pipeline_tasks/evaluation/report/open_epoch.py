"""The page and the words of a verdict whose epoch is open, for whoever may not read the exam. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline_tasks.core import html_page
from pipeline_tasks.evaluation import ladder
from pipeline_tasks.evaluation.report import tables
from pipeline_tasks.evaluation.report.markdown import MARKS, markdown

Document = Mapping[str, Any]
WHY = (
    "This exam epoch is open: contenders will be judged on it again, and whoever tunes by what is told would fit them "
    f"to its chance. {ladder.LATER}; whoever may answer the request for approval sees them now."
)


def told_page(document: Document, *, rung: ladder.Rung | None) -> str:
    """Return the page of a verdict without the figures of the exam, its items and what they show."""
    said = ladder.told(document, rung=rung)
    word, _, sentence = said["decision"]["headline"].partition(": ")
    return html_page.render(
        "pipeline_tasks/evaluation/report/open_epoch.html",
        document=document,
        said=said,
        word=word,
        sentence=sentence,
        why=WHY,
        labels=tables.open_labels(ladder.told_labels(document)),
        tables=tables,
    )


def told_summary(document: Document, *, rung: ladder.Rung | None) -> str:
    """Return the body of the request for approval, in Markdown: whoever sees the request may be anybody."""
    said = ladder.told(document, rung=rung)
    lines = [f"**{markdown(said['decision']['headline'])}**", ""]
    lines += [f"- {MARKS[reason['stand']]}: {markdown(reason['text'])}" for reason in said["decision"]["reasons"]]
    version, exam = said["question"]["contender"]["version"], said["question"]["exams"][0]["epoch"]
    lines += ["", f"The exam's figures and the items are in the report, for whoever may answer. {ladder.LATER}."]
    lines += ["", f"Contender `{version}`, exam {exam}. Without an answer in time the champion stays."]
    return "\n".join(lines)
