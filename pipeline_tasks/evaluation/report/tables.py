"""The report's tables: the two models side by side, the classes, the data, the exams, the settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline_tasks.core.html_page import percent, short, text
from pipeline_tasks.evaluation.report import charts
from pipeline_tasks.evaluation.verdict import EAGER, verdict_id_of
from pipeline_tasks.project.gate_schema import ABOVE_CONSTANT

Document = Mapping[str, Any]
METRICS = {"accuracy": "Accuracy", "macro_f1": "Macro F1"}
MAX_CLASS_ROWS = 60
MAX_LEFT_OUT = 20


def side_by_side(document: Document) -> str:
    """Return both models' figures on the exam, with the limits of the contender."""
    question, current, previous = (
        document["question"],
        document["evidence"]["current"],
        document["evidence"].get("previous"),
    )
    roles = [role for role in ("champion", "contender") if question[role] is not None]
    limits = question["policy"]["limits"]
    head = "".join(f'<th><span class="{role}-name">{role.capitalize()}</span></th>' for role in roles)
    head += "<th>Constant answer</th>"
    rows = [_row("Model version", [f"<code>{text(question[role]['version'])}</code>" for role in roles], "")]
    exams = [("Accuracy", "accuracy", current), ("Macro F1", "macro_f1", current)]
    if previous is not None:
        exams.append(
            (f"{METRICS[question['policy']['metric']]}, previous exam", question["policy"]["metric"], previous)
        )
    for name, metric, exam in exams:
        cells = [_interval(exam[role], metric, role=role) for role in roles]
        asked = _floor(document) if (metric, exam) == (_floor_metric(document), current) else ""
        rows.append(_row(name, cells, asked, constant=_constant_cell(exam, metric)))
    errors = [_calibration(current[role]) for role in roles]
    above = " above what is expected" if "calibration_expected" in current["contender"] else ""
    rows.append(_row("Calibration error", errors, f"at most {limits['max_calibration_error']:g}{above}"))
    for name, key in (("Latency, median", "latency_p50_ms"), ("Latency, p99", "latency_p99_ms")):
        cells = [number(document["measured"][role][key], "{:.2f} ms") for role in roles]
        limit = f"at most {limits[key]:g} ms" if limits.get(key) is not None else ""
        rows.append(_row(name, cells, limit))
    sizes = [f"{question[role]['size_bytes'] / 1e6:.2f} MB" for role in roles]
    rows.append(_row("Size", sizes, f"at most {limits['size_mb']:g} MB"))
    rows.append(
        _row("Runtime, here and in serving", [text(question[role].get("runtime", EAGER)) for role in roles], "")
    )
    return f"<table><tr><th></th>{head}<th>Limit for the contender</th></tr>{''.join(rows)}</table>"


def _calibration(scores: Mapping[str, Any]) -> str:
    """Return the calibration error, with what a model of such confidences has on so many items by chance."""
    expected = scores.get("calibration_expected")
    chance = "" if expected is None else f' <span class="small">{expected:.3f} is expected</span>'
    return number(_score(scores, "calibration_error"), "{:.3f}") + chance


def judged_together(document: Document) -> Sequence[Mapping[str, Any]]:
    """Return the epochs whose items were judged together: the newest alone before rule 5, the window from then on."""
    exams: Sequence[Mapping[str, Any]] = document["question"]["exams"]
    return exams if "epochs" in document["evidence"] else exams[:1]


def comparisons(document: Document) -> list[dict[str, Any]]:
    """Return what the two models were compared on, with the line that the rule draws there, if it draws one."""
    policy, evidence = document["question"]["policy"], document["evidence"]
    margin = -policy["previous_margin"]
    first = {"exam": evidence["current"], "limit": policy["min_gain"], "limit_name": "must be passed"}
    if "epochs" not in evidence:
        found = [{**first, "name": f"Current exam (epoch {evidence['current']['epoch']})"}]
        if evidence["previous"] is not None:
            name = f"Previous exam (epoch {evidence['previous']['epoch']})"
            line = {"limit": margin, "limit_name": "must not be crossed"}
            found.append({"name": name, "exam": evidence["previous"], **line})
        return found
    found = [{**first, "name": "The exam (all epochs)" if len(evidence["epochs"]) > 1 else "The exam"}]
    codes = {reason["code"] for reason in document["decision"]["reasons"]}
    for place, one in enumerate(evidence["epochs"] if len(evidence["epochs"]) > 1 else []):
        limit, limit_name = (0.0, "must not lie left") if place == 0 else (None, "")
        if place == 1 and codes & {"PREVIOUS_HELD", "PREVIOUS_WORSE", "PREVIOUS_UNCERTAIN"}:
            limit, limit_name = margin, "must not be crossed"
        found.append({"name": f"Epoch {one['epoch']}", "exam": one, "limit": limit, "limit_name": limit_name})
    return found


def constant_of(exam: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return what the constant answer is worth on an exam; None in verdicts from before rule version 4."""
    found: Mapping[str, Any] | None = exam.get("constant")
    return found


def _constant_cell(exam: Mapping[str, Any], metric: str) -> str:
    constant = constant_of(exam)
    return "" if constant is None else percent(constant[metric])


def _floor_metric(document: Document) -> str:
    policy = document["question"]["policy"]
    return str(policy["metric"]) if policy["floors"]["accuracy"] == ABOVE_CONSTANT else "accuracy"


def _floor(document: Document) -> str:
    if document["question"]["champion"] is not None:
        return ""
    floor = document["question"]["policy"]["floors"]["accuracy"]
    return f"{'above the constant answer' if floor == ABOVE_CONSTANT else f'at least {percent(floor)}'} (first model)"


def _row(name: str, cells: Sequence[str], limit: str, *, constant: str = "") -> str:
    values = "".join(f"<td>{cell}</td>" for cell in [*cells, constant])
    return f'<tr><td>{text(name)}</td>{values}<td class="small">{text(limit)}</td></tr>'


def _score(scores: Mapping[str, Any] | None, name: str) -> Any:
    return None if scores is None else scores[name]


def _interval(scores: Mapping[str, Any] | None, metric: str, *, role: str) -> str:
    found = _score(scores, metric)
    if found is None or found["estimate"] is None:
        return "not computable"
    ends = f"{100 * found['low']:.1f} to {100 * found['high']:.1f}"
    return f'{percent(found["estimate"])} <span class="small">{ends}</span>{charts.interval_bar(found, role=role)}'


def number(value: float | None, form: str) -> str:
    """Return a measured value, or that there is none."""
    return "not computable" if value is None else form.format(value)


def _class_rows(document: Document) -> list[tuple[Mapping[str, Any], Mapping[str, Any] | None]]:
    current = document["evidence"]["current"]
    champion = {one["label"]: one for one in (current["champion"] or {}).get("classes", [])}
    rows = [(one, champion.get(one["label"])) for one in current["contender"]["classes"]]

    def worst_first(row: tuple[Mapping[str, Any], Mapping[str, Any] | None]) -> tuple[float, str]:
        recall = row[0]["recall"]["estimate"]
        return (2.0 if recall is None else recall, row[0]["label"])

    return sorted(rows, key=worst_first)


def class_note(document: Document) -> str:
    """Return what the table of classes shows."""
    limits = document["question"]["policy"]["limits"]
    note = "Recall: of the items that are this class, the share that is found."
    if limits["recall_per_class"]:
        note += f" The dashed line is the floor, for classes of {limits['min_class_items']} items or more."
    return note


def class_table(document: Document) -> str:
    """Return recall and precision per class, the contender's lowest recall first."""
    floor = document["question"]["policy"]["limits"]["recall_per_class"]
    has_champion = document["evidence"]["current"]["champion"] is not None
    rows = _class_rows(document)
    cells = "".join(_class_row(*row, floor=floor, has_champion=has_champion) for row in rows[:MAX_CLASS_ROWS])
    hidden = len(rows) - MAX_CLASS_ROWS
    more = f'<p class="small">and {hidden} classes with a higher recall</p>' if hidden > 0 else ""
    champion = '<th class="number"><span class="champion-name">Champion</span></th>' if has_champion else ""
    difference = '<th class="number">Change</th>' if has_champion else ""
    return (
        f'<table><tr><th>Class</th><th class="number">Items</th>{champion}'
        f'<th class="number"><span class="contender-name">Contender</span></th>{difference}<th></th>'
        f'<th class="number">Precision</th></tr>{cells}</table>{more}'
    )


def _class_row(
    contender: Mapping[str, Any], champion: Mapping[str, Any] | None, *, floor: float, has_champion: bool
) -> str:
    new = contender["recall"]["estimate"]
    old = champion["recall"]["estimate"] if champion is not None else None
    ends = ""
    if new is not None:
        low, high = contender["recall"]["low"], contender["recall"]["high"]
        ends = f' <span class="small">{100 * low:.0f} to {100 * high:.0f}</span>'
    cells = [f"<td>{text(short(contender['label'], 60))}</td>", f'<td class="number">{contender["num_items"]:,}</td>']
    if has_champion:
        cells.append(f'<td class="number">{_share(old)}</td>')
    cells.append(f'<td class="number"><b>{_share(new)}</b>{ends}</td>')
    if has_champion:
        cells.append(f'<td class="number">{change(old, new)}</td>')
    cells.append(f"<td>{charts.recall_bar(old, new, floor=floor)}</td>")
    cells.append(f'<td class="number">{_share(contender["precision"])}</td>')
    return f"<tr>{''.join(cells)}</tr>"


def change(old: float | None, new: float | None) -> str:
    """Return the difference in points, coloured by its sign."""
    if old is None or new is None:
        return ""
    points = round(100 * (new - old), 1)
    kind = "up" if points > 0 else "down" if points < 0 else "note"
    return f'<span class="{kind}">{points:+.1f}</span>' if points else '<span class="note">0.0</span>'


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def data(document: Document, counts: Mapping[str, Mapping[str, int]]) -> str:
    """Return the rows per class that each model was trained on."""
    question = document["question"]
    new, old = counts.get("contender"), counts.get("champion")
    if new is None:
        return f"<p>Snapshot <code>{text(question['contender']['snapshot_id'])}</code>; its counts are not known.</p>"
    labels = sorted({*new, *(old or {})}, key=lambda label: (-new.get(label, 0), label))
    head = '<th class="number">Rows</th>'
    if old is not None:
        head = '<th class="number">Champion</th><th class="number">Contender</th><th class="number">Change</th>'
    rows = [("All classes", sum(new.values()), sum((old or {}).values()))]
    rows += [(label, new.get(label, 0), (old or {}).get(label, 0)) for label in labels[:MAX_CLASS_ROWS]]
    body = "".join(_data_row(*row, compared=old is not None) for row in rows)
    names = [f"contender <code>{text(question['contender']['snapshot_id'][:16])}</code>"]
    if question["champion"] is not None:
        names.insert(0, f"champion <code>{text(question['champion']['snapshot_id'][:16])}</code>")
    caption = f'<p class="small">Snapshots: {", ".join(names)}</p>'
    return f"<table><tr><th>Label</th>{head}</tr>{body}</table>{caption}"


def _data_row(label: str, new: int, old: int, *, compared: bool) -> str:
    numbers = [f"{old:,}", f"{new:,}", f"{new - old:+,}"] if compared else [f"{new:,}"]
    cells = "".join(f'<td class="number">{number}</td>' for number in numbers)
    return f"<tr><td>{text(short(label, 60))}</td>{cells}</tr>"


def exams(document: Document, *, labels: Mapping[str, Any] | None = None) -> str:
    """Return which exams were used; `labels` are told in place of what the document's evidence has of them."""
    question = document["question"]
    together = len(judged_together(document))
    rows = "".join(
        f"<tr><td>{'Newest' if index == 0 else 'Judged with it' if index < together else 'Previous'}</td>"
        f"<td>{exam['epoch']}</td>"
        f'<td class="number">{exam["num_items"]:,}</td><td><code>{text(exam["exam_id"])}</code></td></tr>'
        for index, exam in enumerate(question["exams"])
    )
    use = f"<p>Use {question['exam_use']} of the newest epoch.</p>" if question["champion"] is not None else ""
    if question.get("epoch_level") is not None and question["champion"] is not None:
        use += (
            f"<p>Chance of a false promotion in all uses of this epoch: at most {100 * question['epoch_level']:.2f} % "
            f"(the yearly budget is {question['policy']['false_promotions_a_year']:g} false promotions).</p>"
        )
    head = '<tr><th></th><th>Epoch</th><th class="number">Items</th><th>Hash of items and labels</th></tr>'
    return (
        f"<table>{head}{rows}</table>{use}{_labels(labels or document['evidence'].get('labels'))}{_left_out(question)}"
    )


def _labels(found: Mapping[str, Any] | None) -> str:
    """Return the exam's open items with the bounds of its figures; nothing in verdicts from before they were told."""
    if found is None:
        return ""
    said = f"<p>Open items, on which people differed: {found['num_open']:,} ({percent(found['share'])} of all)"
    if found["num_open"] and found["contender"] is not None:
        figures = [(f"accuracy of the {role}", found[role], "%") for role in ("contender", "champion")]
        figures.append(("difference", found["difference"], "points"))
        bounds = ", ".join(
            f"{name} {100 * one['low']:.1f} to {100 * one['high']:.1f} {unit}"
            for name, one, unit in figures
            if one is not None and one["low"] is not None
        )
        said += f". With all of them wrong or right: {bounds}"
    return f"{said}.</p><p>Labels that nobody looked at: {percent(found['imported_share'])}.</p>"


def _left_out(question: Mapping[str, Any]) -> str:
    found = question.get("left_out", ())
    if not found:
        return ""
    rows = "".join(
        f"<li><code>{text(one['item_id'])}</code>: {text(one['code'])}, {text(one['reason'])}</li>"
        for one in found[:MAX_LEFT_OUT]
    )
    more = f"<li>and {len(found) - MAX_LEFT_OUT} more, in verdict.json</li>" if len(found) > MAX_LEFT_OUT else ""
    return f"<p>Left out for every model: {len(found)} items.</p><ul>{rows}{more}</ul>"


def method(document: Document) -> str:
    """Return the settings and hashes that this verdict rests on."""
    question = document["question"]
    settings = "".join(
        f"<tr><td><code>gate.{text(name)}</code></td><td>{text(value)}</td></tr>"
        for name, value in sorted(_flat(question["policy"]).items())
        if name != "new_classes"  # deprecated: without effect
    )
    digests = [("verdict", verdict_id_of(document)), ("evidence.parquet", document["evidence"]["digest"])]
    digests += [(f"{role} weights", question[role]["digest"]) for role in ("champion", "contender") if question[role]]
    hashes = "".join(f"<tr><td>{text(name)}</td><td><code>{text(value)}</code></td></tr>" for name, value in digests)
    return (
        "<p>Both models were loaded from their stored versions and answered the same bytes in one process. Accuracy is "
        "compared by McNemar's exact test (sign flips of groups, where items come in groups) with Tango's score "
        "bounds, macro F1 by a paired bootstrap. The answers to every item are kept in evidence.parquet, from which "
        "this verdict can be computed again.</p>"
        f"<table><tr><th>Setting</th><th>Value</th></tr>{settings}</table>"
        f"<table><tr><th>What</th><th>SHA-256</th></tr>{hashes}</table>"
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            flat |= _flat({str(index): one for index, one in enumerate(value)}, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
