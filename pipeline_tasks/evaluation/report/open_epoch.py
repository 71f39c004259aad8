"""The page and the words of a verdict whose epoch is open, for whoever may not read the exam. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline_tasks.core import html_page
from pipeline_tasks.core.html_page import text
from pipeline_tasks.evaluation import ladder
from pipeline_tasks.evaluation.report import page, tables
from pipeline_tasks.evaluation.report.markdown import MARKS, markdown

Document = Mapping[str, Any]
WHY = (
    "This exam epoch is open: contenders will be judged on it again, and whoever tunes by what is told would fit them "
    f"to its chance. {ladder.LATER}; whoever may answer the request for approval sees them now."
)


def told_page(document: Document, *, rung: ladder.Rung | None) -> str:
    """Return the page of a verdict without the figures of the exam, its items and what they show."""
    said = ladder.told(document, rung=rung)
    question, decision = said["question"], said["decision"]
    word, _, sentence = decision["headline"].partition(": ")
    exams = tables.exams(document, labels=ladder.told_labels(document))
    body = (
        f'<div class="answer {decision["answer"]}"><h1>{text(question["project"])}</h1><p class="word">{text(word)}</p>'
        f'<p class="sentence">{text(sentence[:1].upper() + sentence[1:])}</p></div>'
        f"{html_page.section('Why', page.reasons(said), WHY)}"
        f"{html_page.section('Latency and size', _measured(said))}"
        f"{html_page.section('Exams', f'<div class=card>{exams}</div>')}"
    )
    return html_page.page(f"{question['project']}: {word}", body)


def told_summary(document: Document, *, rung: ladder.Rung | None) -> str:
    """Return the body of the request for approval, in Markdown: whoever sees the request may be anybody."""
    said = ladder.told(document, rung=rung)
    lines = [f"**{markdown(said['decision']['headline'])}**", ""]
    lines += [f"- {MARKS[one['stand']]}: {markdown(one['text'])}" for one in said["decision"]["reasons"]]
    version, exam = said["question"]["contender"]["version"], said["question"]["exams"][0]["epoch"]
    lines += ["", f"The exam's figures and the items are in the report, for whoever may answer. {ladder.LATER}."]
    lines += ["", f"Contender `{version}`, exam {exam}. Without an answer in time the champion stays."]
    return "\n".join(lines)


def _measured(said: Document) -> str:
    roles = [role for role in ("champion", "contender") if said["question"][role] is not None]
    head = "".join(f"<th>{role.capitalize()}</th>" for role in roles)
    rows = ""
    for name, key in (("Latency, median", "latency_p50_ms"), ("Latency, p99", "latency_p99_ms")):
        cells = "".join(f"<td>{tables.number(said['measured'][role][key], '{:.2f} ms')}</td>" for role in roles)
        rows += f"<tr><td>{name}</td>{cells}</tr>"
    sizes = "".join(f"<td>{said['question'][role]['size_bytes'] / 1e6:.2f} MB</td>" for role in roles)
    return f'<div class="card"><table><tr><th></th>{head}</tr>{rows}<tr><td>Size</td>{sizes}</tr></table></div>'
