"""The rows of the report's tables: the two models side by side, the classes, the data, the exams, the settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline_tasks.core.html_page import number, percent
from pipeline_tasks.evaluation.gate_metrics import METRICS, metrics_among
from pipeline_tasks.evaluation.report import charts
from pipeline_tasks.evaluation.verdict import EAGER, verdict_id_of
from pipeline_tasks.project.gate_schema import ABOVE_CONSTANT

Document = Mapping[str, Any]
MAX_CLASS_ROWS = 60
MAX_LEFT_OUT = 20


@dataclasses.dataclass(frozen=True, slots=True)
class Cell:
    """One model's figure, with what stands small beside it and a bar below."""

    text: str
    small: str = ""
    bar: str = ""
    is_code: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class FigureRow:
    """A figure of each model, of the constant answer, and the contender's limit."""

    name: str
    cells: Sequence[Cell]
    limit: str = ""
    constant: str = ""


def roles_of(document: Document) -> list[str]:
    """Return the models that were judged: there is no champion before the first release."""
    return [role for role in ("champion", "contender") if document["question"][role] is not None]


def side_by_side(document: Document) -> Iterator[FigureRow]:
    """Yield both models' figures on the exam, with the limits of the contender."""
    question, current = document["question"], document["evidence"]["current"]
    previous = document["evidence"].get("previous")
    roles, limits = roles_of(document), question["policy"]["limits"]
    yield FigureRow("Model version", [Cell(question[role]["version"], is_code=True) for role in roles])
    exams = [(metric.title, metric.name, current) for metric in metrics_among(current["contender"])]
    if previous is not None:
        metric = question["policy"]["metric"]
        exams.append((f"{METRICS[metric].title}, previous exam", metric, previous))
    for name, metric, exam in exams:
        cells = [_interval(exam[role], metric, role=role) for role in roles]
        asked = _floor(document) if (metric, exam) == (_floor_metric(document), current) else ""
        yield FigureRow(name, cells, asked, _constant_cell(exam, metric))
    errors = [_calibration(current[role]) for role in roles]
    above = " above what is expected" if "calibration_expected" in current["contender"] else ""
    yield FigureRow("Calibration error", errors, f"at most {limits['max_calibration_error']:g}{above}")
    yield from measured(document, limits=limits)
    yield FigureRow("Runtime, here and in serving", [Cell(question[role].get("runtime", EAGER)) for role in roles])


def measured(document: Document, *, limits: Mapping[str, Any]) -> Iterator[FigureRow]:
    """Yield what both models need: time and bytes."""
    roles = roles_of(document)
    for name, key in (("Latency, median", "latency_p50_ms"), ("Latency, p99", "latency_p99_ms")):
        cells = [Cell(number(document["measured"][role][key], "{:.2f} ms")) for role in roles]
        yield FigureRow(name, cells, f"at most {limits[key]:g} ms" if limits.get(key) is not None else "")
    sizes = [Cell(f"{document['question'][role]['size_bytes'] / 1e6:.2f} MB") for role in roles]
    yield FigureRow("Size", sizes, f"at most {limits['size_mb']:g} MB" if "size_mb" in limits else "")


def _calibration(scores: Mapping[str, Any]) -> Cell:
    """Return the calibration error, with what a model of such confidences has on so many items by chance."""
    expected = scores.get("calibration_expected")
    chance = "" if expected is None else f"{expected:.3f} is expected"
    return Cell(number(scores["calibration_error"], "{:.3f}"), chance)


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
        rows = [{**first, "name": f"Current exam (epoch {evidence['current']['epoch']})"}]
        if evidence["previous"] is not None:
            name = f"Previous exam (epoch {evidence['previous']['epoch']})"
            line = {"limit": margin, "limit_name": "must not be crossed"}
            rows.append({"name": name, "exam": evidence["previous"], **line})
        return rows
    rows = [{**first, "name": "The exam (all epochs)" if len(evidence["epochs"]) > 1 else "The exam"}]
    codes = {reason["code"] for reason in document["decision"]["reasons"]}
    for place, exam in enumerate(evidence["epochs"] if len(evidence["epochs"]) > 1 else []):
        limit, limit_name = (0.0, "must not lie left") if place == 0 else (None, "")
        if place == 1 and codes & {"PREVIOUS_HELD", "PREVIOUS_WORSE", "PREVIOUS_UNCERTAIN"}:
            limit, limit_name = margin, "must not be crossed"
        rows.append({"name": f"Epoch {exam['epoch']}", "exam": exam, "limit": limit, "limit_name": limit_name})
    return rows


def constant_of(exam: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return what the constant answer is worth on an exam; None in verdicts from before rule version 4."""
    constant: Mapping[str, Any] | None = exam.get("constant")
    return constant


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


def _interval(scores: Mapping[str, Any] | None, metric: str, *, role: str) -> Cell:
    score = None if scores is None else scores[metric]
    if score is None or score["estimate"] is None:
        return Cell("not computable")
    ends = f"{100 * score['low']:.1f} to {100 * score['high']:.1f}"
    return Cell(percent(score["estimate"]), ends, charts.interval_bar(score, role=role))


def class_rows(document: Document) -> list[tuple[Mapping[str, Any], Mapping[str, Any] | None]]:
    """Return (contender's, champion's) scores of each class, the contender's lowest recall first."""
    current = document["evidence"]["current"]
    champion = {scores["label"]: scores for scores in (current["champion"] or {}).get("classes", [])}
    rows = [(scores, champion.get(scores["label"])) for scores in current["contender"]["classes"]]

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


def data_rows(counts: Mapping[str, Mapping[str, int]]) -> list[tuple[str, int, int]]:
    """Return (label, the champion's rows, the contender's) of the training data, their sum first."""
    new, old = counts["contender"], counts.get("champion", {})
    labels = sorted({*new, *old}, key=lambda label: (-new.get(label, 0), label))
    rows = [("All classes", sum(old.values()), sum(new.values()))]
    return rows + [(label, old.get(label, 0), new.get(label, 0)) for label in labels[:MAX_CLASS_ROWS]]


def open_labels(open_items: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return the exam's open items with the bounds of its figures; None in verdicts from before they were told."""
    if open_items is None:
        return None
    figures = [(f"accuracy of the {role}", open_items[role], "%") for role in ("contender", "champion")]
    figures.append(("difference", open_items["difference"], "points"))
    bounds = ", ".join(
        f"{name} {100 * interval['low']:.1f} to {100 * interval['high']:.1f} {unit}"
        for name, interval, unit in figures
        if interval is not None and interval["low"] is not None
    )
    return {**open_items, "bounds": bounds}


def settings(document: Document) -> list[tuple[str, Any]]:
    """Return the settings that this verdict rests on."""
    return sorted(_flat(document["question"]["policy"]).items())


def digests(document: Document) -> list[tuple[str, str]]:
    """Return the hashes that this verdict rests on."""
    question = document["question"]
    rows = [("verdict", verdict_id_of(document)), ("evidence.parquet", document["evidence"]["digest"])]
    return rows + [(f"{role} weights", question[role]["digest"]) for role in roles_of(document)]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            flat |= _flat({str(index): element for index, element in enumerate(value)}, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
