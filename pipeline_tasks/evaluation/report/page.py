"""One self-contained page per verdict: no network, no script, for screen and paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline_tasks.core import html_page
from pipeline_tasks.core.html_page import page, section, text
from pipeline_tasks.evaluation.report import charts, slices, tables
from pipeline_tasks.evaluation.report.advice import what_would_change
from pipeline_tasks.evaluation.report.examples import choose, example_cards, read_examples
from pipeline_tasks.evaluation.report.leaks import FindItems, leak_cards, leak_check
from pipeline_tasks.evaluation.report.markdown import markdown_summary
from pipeline_tasks.evaluation.scoring import ReadItems
from pipeline_tasks.evaluation.verdict import verdict_id_of

__all__ = ["markdown_summary", "page", "render", "section"]

Document = Mapping[str, Any]
STANDS = {"for": "speaks for", "against": "against", "open": "open", "note": "note"}


def render(
    document: Document,
    evidence: bytes,
    *,
    counts: Mapping[str, Mapping[str, int]],
    read: ReadItems,
    find_items: FindItems,
) -> str:
    """Return the page of a verdict. `counts` has the rows per class of the snapshots, by role, where known."""
    parts = [
        _answer(document),
        section("Why", reasons(document)),
        _differences(document),
        section("Side by side", f'<div class="card">{tables.side_by_side(document)}</div>', _interval_note(document)),
        section(
            "Classes, worst first",
            f'<div class="card">{tables.class_table(document)}</div>',
            tables.class_note(document),
        ),
        _slices(document),
        section(
            "What is taken for what",
            _matrices(document),
            "Rows are true classes, columns are answers. "
            "Right answers lie on the diagonal, errors are red; shading is the share of the row.",
        ),
        section(
            "Does confidence mean anything?",
            _reliability(document),
            "A dot per range of confidence, larger "
            "with more answers. On the dashed line, 80 % sure means right 8 times in 10; below it, too sure.",
        ),
        _examples(document, evidence, read=read),
        section("Training data", f'<div class="card">{tables.data(document, counts)}</div>'),
        section(
            "Exams and leak check",
            f'<div class="card">{tables.exams(document)}{leak_check(document)}</div>'
            f"{leak_cards(document, read=read, find_items=find_items)}",
        ),
        section("What would change this answer", f'<div class="card">{_list(what_would_change(document))}</div>'),
        section("How this was decided", f'<div class="card">{tables.method(document)}</div>'),
    ]
    return page(f"{document['question']['project']}: {_word(document)}", "".join(parts))


def _word(document: Document) -> str:
    return str(document["decision"]["headline"]).partition(": ")[0]


def _answer(document: Document) -> str:
    question, decision = document["question"], document["decision"]
    sentence = decision["headline"].partition(": ")[2]
    return (
        f'<div class="answer {decision["answer"]}"><h1>{text(question["project"])} · verdict '
        f"<code>{verdict_id_of(document)[:12]}</code></h1>"
        f'<p class="word">{text(_word(document))}</p>'
        f'<p class="sentence">{text(sentence[:1].upper() + sentence[1:])}</p>{_tiles(document)}</div>'
    )


def _tiles(document: Document) -> str:
    question, current = document["question"], document["evidence"]["current"]
    metric = question["policy"]["metric"]
    name = tables.METRICS[metric]
    contender = _metric(current["contender"], metric)
    tiles = []
    if current["champion"] is not None:
        champion = _metric(current["champion"], metric)
        tiles.append((f'{name}, <span class="champion-name">champion</span>', html_page.percent(champion["estimate"])))
    tiles.append((f'{name}, <span class="contender-name">contender</span>', html_page.percent(contender["estimate"])))
    constant = tables.constant_of(current)
    if constant is not None:
        always = f"{name}, always {text(html_page.short(constant['label'], 30))}"
        tiles.append((always, html_page.percent(constant[metric])))
    gain = current["gain"]
    if gain is not None:
        tiles.append(("Difference on the exam", f"{100 * gain['difference']:+.1f} points"))
    tiles.append(("Items in the exam", f"{current['num_items']:,}"))
    cells = "".join(f'<div class="tile"><div class="small">{label}</div><b>{value}</b></div>' for label, value in tiles)
    return f'<div class="tiles">{cells}</div>'


def _metric(scores: Mapping[str, Any], metric: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = scores[metric]
    return found


def reasons(document: Document) -> str:
    """Return a verdict's reasons as a list, each with what it speaks for."""
    rows = "".join(
        f'<li><span class="badge {one["stand"]}">{STANDS[one["stand"]]}</span>'
        f"<div>{text(one['text'][:1].upper() + one['text'][1:])} "
        f'<span class="small"><code>{text(one["code"])}</code></span></div></li>'
        for one in document["decision"]["reasons"]
    )
    return f'<div class="card"><ul class="reasons">{rows}</ul></div>'


def _differences(document: Document) -> str:
    policy = document["question"]["policy"]
    rows = [row for compared in tables.comparisons(document) if (row := _gain_row(**compared)) is not None]
    if not rows:
        return ""
    levels = sorted({html_page.percent(1 - row["alpha"]) for row in rows}, reverse=True)
    note = (
        f"{tables.METRICS[policy['metric']]} of the contender minus the champion's, on the same items. Each whisker is "
        f"a one-sided bound with a confidence of {' or '.join(levels)} (the first line's is that of this use of the "
        "exam). A red line is what the rule asks for."
    )
    return section("Difference", f'<div class="card">{charts.gain_chart(rows)}</div>', note)


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
    note = "On the exam, with two-sided 95 % intervals (Wilson for accuracy, bootstrap for macro F1)."
    constant = tables.constant_of(document["evidence"]["current"])
    if constant is not None:
        note += f" The constant answer is {constant['label']}, the commonest class of these items, for each of them."
    if document["question"]["champion"] is None:
        return note
    return f"{note} Overlapping intervals prove nothing: both models answered the same items, see Difference."


def _slices(document: Document) -> str:
    if not document["question"]["policy"]["slices"]:
        return ""
    return section("Slices, worst first", f'<div class="card">{slices.slice_table(document)}</div>', slices.NOTE)


def _each_role(document: Document, draw: Any) -> str:
    current = document["evidence"]["current"]
    cards = "".join(
        f'<div class="card"><h3 class="{role}-name">{role.capitalize()}</h3>{draw(current[role], role)}</div>'
        for role in ("champion", "contender")
        if current[role] is not None
    )
    return f'<div class="pair">{cards}</div>'


def _matrices(document: Document) -> str:
    current = document["evidence"]["current"]
    classes = current["classes"]
    errors = current["contender"]["confusion"] or (current["champion"] or {}).get("confusion") or []
    chosen = charts.worst_classes(errors, classes) if errors else []

    def draw(scores: Mapping[str, Any], role: str) -> str:
        if not scores["confusion"]:
            return '<p class="quiet">Its outputs cannot be counted.</p>'
        part = [[scores["confusion"][row][column] for column in chosen] for row in chosen]
        return charts.confusion_chart(part, [classes[index] for index in chosen], role=role)

    left_out = len(classes) - len(chosen)
    note = f'<p class="quiet">{left_out} classes with fewer errors are left out.</p>' if left_out and errors else ""
    return _each_role(document, draw) + note


def _reliability(document: Document) -> str:
    def draw(scores: Mapping[str, Any], role: str) -> str:
        if not scores["bins"]:
            return '<p class="quiet">Its outputs are no probabilities.</p>'
        caption = f'<p class="small">Calibration error {scores["calibration_error"]:.3f}</p>'
        return charts.reliability_chart(scores["bins"], role=role) + caption

    return _each_role(document, draw)


def _examples(document: Document, evidence: bytes, *, read: ReadItems) -> str:
    examples = read_examples(evidence, exam_ids=[exam["exam_id"] for exam in tables.judged_together(document)])
    if document["question"]["champion"] is None:
        return _example_section("Wrong, and sure of it", "wrong", examples, read=read)
    won = _example_section("Only the contender is right", "won", examples, read=read)
    return won + _example_section("Only the champion is right", "lost", examples, read=read)


def _example_section(title: str, kind: str, examples: Any, *, read: ReadItems) -> str:
    chosen = choose(examples, kind)
    total = sum(example.kind == kind for example in examples)
    note = (
        f"{len(chosen)} of {total:,} such items in the exam, class by class, the contender's surest answers "
        "first. The right answer is in bold; look for wrong labels too."
    )
    return section(title, f'<div class="card">{example_cards(chosen, read=read)}</div>', note if chosen else "")


def _list(lines: Sequence[str]) -> str:
    if not lines:
        return "<p>A contender with valid outputs, judged anew.</p>"
    return f"<ul>{''.join(f'<li>{text(line)}</li>' for line in lines)}</ul>"
