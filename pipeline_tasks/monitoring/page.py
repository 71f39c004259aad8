"""A monitor window as a page: state, alarms, live quality with its intervals, drift of the answers. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline_tasks.contracts import sha256_hex
from pipeline_tasks.core.html_page import page, percent, section, text

WORDS = {
    "ALARM": ("keep", "Alarm"),
    "OK": ("promote", "No alarm"),
    "WATCH": ("promote", "No alarm; the newest audits alone look low"),
    "INSUFFICIENT_DATA": ("inconclusive", "Too little data: neither an alarm nor an all-clear"),
    "NO_REFERENCE": ("inconclusive", "Nothing to compare with: no exam speaks of this model version"),
}


def page_key(project: str, window_id: str, page: bytes) -> str:
    """Return where a window's page lies: its name holds its digest, so another page never takes its place."""
    return f"reports/{project}/monitor/{window_id}-{sha256_hex(page)}.html"


def render_window(
    project: str, window_id: str, statistics: Mapping[str, Any], *, alarms: Sequence[str], at: dt.datetime
) -> str:
    """Return the page of one window of live quality."""
    kind, word = WORDS[statistics["state"]]
    lines = "".join(f"<li>{text(line)}</li>" for line in alarms)
    champion = statistics["champion"] or "none"
    body = (
        f'<div class="answer {kind}"><h1>{text(project)} · monitor <code>{text(window_id)}</code></h1>'
        f'<p class="word">{text(word)}</p>'
        f'<p class="sentence">Champion <code>{text(champion)}</code>, {at:%Y-%m-%d %H:%M} UTC</p>'
        f"<ul>{lines}</ul></div>"
    )
    body += section(
        "Live quality",
        "".join(_version(version) for version in statistics["versions"].values()),
        "Share of audited answers that people agree with, each input once, with 95 % Wilson intervals at one look; an "
        "answer picked from many weighs more. An alarm: the evidence of a drop below the exam's lower bound reaches "
        "the level that gives monitor.false_alarms_a_year. WATCH: the newest audits lie below the exam by more than "
        "monitor.max_quality_drop and than chance explains at one look; it wakes nobody.",
    )
    body += section(
        "Drift of the answers",
        _drift(statistics["drift"]),
        "The newest block of predictions beside its reference. Drift asks people; it says nothing of who is right.",
    )
    return page(f"{project}: {word}", body)


def _version(quality: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{text(_time(window['from']))}</td><td>{text(_time(window['to']))}</td>"
        f'<td class="number">{window["num_audited"]:,}</td><td>{_interval(window)}</td></tr>'
        for window in reversed(quality["windows"])
    )
    head = '<tr><th>From (UTC)</th><th>To</th><th class="number">Audited</th><th>Right</th></tr>'
    table = f"<table>{head}{rows}</table>" if rows else ""
    return f'<div class="card"><h3>{text(quality["text"])}</h3>{_evidence(quality)}{table}</div>'


def _evidence(quality: Mapping[str, Any]) -> str:
    per_request = quality["per_request"]
    lines = []
    if quality["if_wrong"] is not None:
        lines.append(
            f"Open audits, on which people differ: {quality['num_open']:,} ({percent(quality['open_share'])} of all), "
            f"{quality['num_asked']:,} of them asked of a further person. With all of them wrong or right: "
            f"{percent(quality['if_wrong'])} to {percent(quality['if_right'])}."
        )
    if per_request["estimate"] is not None:
        lines.append(f"Per request {_interval(per_request)} of {quality['num_requests']:,} audited requests.")
    if quality["evidence"] is not None:
        lines.append(
            f"Evidence of a drop {quality['evidence']:,.1f}; an alarm at {quality['alarm_level']:,.0f}, which is a "
            f"budget of {quality['false_alarms_a_year']:g} false alarms a year."
        )
    return "".join(f"<p>{line}</p>" for line in lines)


def _time(iso: str) -> str:
    return iso[:16].replace("T", " ")


def _interval(bounds: Mapping[str, Any]) -> str:
    ends = f'<span class="small">{percent(bounds["low"])} to {percent(bounds["high"])}</span>'
    return f"{percent(bounds['estimate'])} {ends}"


def _drift(drift: Mapping[str, Any]) -> str:
    if drift["confidence_psi"] is None:
        reference = drift["expected"]
        size = f"; the {drift['reference']}: {sum(reference['confidence']):,}" if reference else ""
        return (
            f'<div class="card"><p>Not measured yet: {drift["num_rows"]:,} predictions so far{size}. Either side needs '
            f"{drift['num_needed']:,}.</p></div>"
        )
    said = (
        f"{drift['state']}: {drift['num_rows']:,} predictions beside the {drift['reference']}. Population stability "
        f"index of the confidences {drift['confidence_psi']:.3f}, Jensen-Shannon distance of the labels "
        f"{drift['label_js']:.3f}, both beyond what samples of these sizes differ by."
    )
    expected, actual = drift["expected"], drift["actual"]
    labels = sorted({*expected["labels"], *actual["labels"]}, key=lambda name: (-actual["labels"].get(name, 0), name))
    tenths = [f"{10 * index} to {10 * index + 10} %" for index in range(len(actual["confidence"]))]
    by_tenth = [dict(zip(tenths, histogram["confidence"], strict=True)) for histogram in (expected, actual)]
    return (
        f'<div class="card"><p>{text(said)}</p></div><div class="pair">'
        f'<div class="card">{_shares("Label", labels, expected["labels"], actual["labels"])}</div>'
        f'<div class="card">{_shares("Confidence", tenths, *by_tenth)}</div></div>'
    )


def _shares(name: str, keys: Sequence[str], expected: Mapping[str, int], actual: Mapping[str, int]) -> str:
    totals = [max(1, sum(labels.values())) for labels in (expected, actual)]
    rows = "".join(
        f'<tr><td>{text(key)}</td><td class="number">{percent(expected.get(key, 0) / totals[0])}</td>'
        f'<td class="number">{percent(actual.get(key, 0) / totals[1])}</td></tr>'
        for key in keys
    )
    head = f'<tr><th>{name}</th><th class="number">Reference</th><th class="number">Newest block</th></tr>'
    return f"<table>{head}{rows}</table>"
