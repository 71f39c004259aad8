"""The overview page: every project at a glance. Values in, HTML out."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Sequence
from html import escape


@dataclasses.dataclass(frozen=True, slots=True)
class RunLine:
    """One training run's ending."""

    at: dt.datetime
    outcome: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class BesideLine:
    """A model that runs beside the champion: as a shadow, a canary, or an arm of an experiment."""

    kind: str
    version: str
    deployment_id: str
    share: int  # percent of the traffic; 0: it mirrors
    since: dt.datetime
    step_since: dt.datetime
    said: str  # the steps that it passed and with which numbers, or what the experiment is about


@dataclasses.dataclass(frozen=True, slots=True)
class ProjectLine:
    """The line of one project on the page."""

    name: str
    description: str
    champion: str | None
    generation: int
    champion_since: dt.datetime | None
    num_items: int
    num_labels: int
    num_outstanding: int
    num_quarantined: int
    exam_epoch: int | None
    exam_items: int
    live_quality: str
    links: tuple[tuple[str, str], ...]
    runs: tuple[RunLine, ...]
    beside: tuple[BesideLine, ...] = ()
    alarms: tuple[str, ...] = ()


_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#1c2430;background:#fff}
h1{font-size:1.5rem;margin:0 0 .2rem} h2{font-size:1.15rem;margin:0} p.lead{color:#566; margin:.2rem 0 1.5rem}
section{border:1px solid #d8dee6;border-radius:8px;padding:1rem 1.2rem;margin:0 0 1.2rem}
dl{display:grid;grid-template-columns:repeat(auto-fill,minmax(11rem,1fr));gap:.6rem 1.2rem;margin:.8rem 0}
td.when{white-space:nowrap;padding-right:1rem}
dt{font-size:.78rem;color:#667;text-transform:uppercase;letter-spacing:.03em} dd{margin:0;font-weight:600}
table{border-collapse:collapse;width:100%;font-size:.92rem}
td,th{text-align:left;padding:.25rem .6rem .25rem 0;vertical-align:top}
th{color:#667;font-weight:500;border-bottom:1px solid #d8dee6}
p.alarm{border-left:4px solid #b3261e;padding:.3rem .8rem;background:#fdf0ef;color:#b3261e}
.promoted{color:#0a7a3d} .failed{color:#b3261e} .rejected{color:#8a5a00}
a{color:#0b57d0} nav a{margin-right:1rem} code{font-size:.9em}
"""


def render_overview(projects: Sequence[ProjectLine]) -> str:
    """Return the page as one HTML document without any outside resource."""
    body = "".join(_project(line) for line in projects) or (
        "<p>No project yet. <code>dethrone init my_project --template image-classification</code> writes one.</p>"
    )
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>Dethrone</title>"
        f"<style>{_STYLE}</style><h1>Dethrone</h1>"
        f"<p class=lead>A contender ships only when it dethrones the champion.</p>{body}</html>"
    )


def _project(line: ProjectLine) -> str:
    champion = f"{line.champion} (generation {line.generation})" if line.champion else "none yet"
    exam = f"epoch {line.exam_epoch}, {line.exam_items} items" if line.exam_epoch else "not opened yet"
    facts = (
        ("Champion", champion),
        ("Serving since", f"{line.champion_since:%Y-%m-%d %H:%M} UTC" if line.champion_since else "-"),
        ("Exam", exam),
        ("Items", f"{line.num_items:,}"),
        ("Labels", f"{line.num_labels:,}"),
        ("Waiting for labelers", f"{line.num_outstanding:,}"),
        ("In quarantine", f"{line.num_quarantined:,}"),
    )
    entries = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts)
    links = "".join(
        f'<a href="{escape(address)}" target="_blank" rel="noopener">{escape(text)}</a>' for text, address in line.links
    )
    return (
        f"<section><h2>{escape(line.name)}</h2><p class=lead>{escape(line.description)}</p>"
        f"{''.join(f'<p class=alarm><b>Alarm.</b> {escape(alarm)}</p>' for alarm in line.alarms)}"
        f"<dl>{entries}</dl>{_beside(line.beside)}"
        f"<p><b>Live quality</b> on audited answers: {escape(line.live_quality)}</p>"
        f"<nav>{links}</nav>{_runs(line.runs)}</section>"
    )


def _beside(lines: Sequence[BesideLine]) -> str:
    if not lines:
        return ""
    rows = "".join(
        f"<tr><td>{escape(line.kind)}</td><td><code>{escape(line.version)}</code></td>"
        f"<td><code>{escape(line.deployment_id)}</code></td>"
        f"<td>{f'{line.share} % of the traffic' if line.share else 'mirrored requests'}</td>"
        f"<td class=when>{line.since:%Y-%m-%d %H:%M}</td><td class=when>{line.step_since:%Y-%m-%d %H:%M}</td>"
        f"<td>{escape(line.said)}</td></tr>"
        for line in lines
    )
    head = "<tr><th>Beside the champion<th>Version<th>Deployment<th>Gets<th>Since (UTC)<th>This step<th>So far</tr>"
    return f"<table class=beside>{head}{rows}</table>"


def _runs(runs: Sequence[RunLine]) -> str:
    if not runs:
        return "<p>No training run has ended yet.</p>"
    rows = "".join(
        f"<tr><td class=when>{run.at:%Y-%m-%d %H:%M}</td><td class={escape(run.outcome)}>{escape(run.outcome)}</td>"
        f"<td>{escape(run.reason)}</td></tr>"
        for run in runs
    )
    return f"<table><tr><th>Ended (UTC)<th>Run<th>Why</tr>{rows}</table>"
