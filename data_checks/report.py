"""Data Docs that need no network: one self-contained page per check, one index per project, no script at all."""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import hashlib
import html
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

from data_checks.charts import bar_chart, share_bar
from data_checks.result import CheckResult, RuleResult

MAX_IDS_SHOWN = 100
VERDICTS = {
    "ok": ("Passed", "Every rule holds."),
    "warn": ("Passed with warnings", "A rule that only warns does not hold; the run goes on."),
    "quarantine": ("Passed, rows put aside", "Failing rows are in quarantine; the run goes on with the rest."),
    "stop": ("Stopped", "The run ends here and the champion stays."),
}
_POLICIES = {"stop": "stops the run", "quarantine": "quarantines rows", "warn": "warns"}


@dataclasses.dataclass(frozen=True, slots=True)
class IndexEntry:
    """One line of an index page."""

    href: str
    title: str
    stage: str
    severity: str
    summary: str
    created_at: dt.datetime


def render_check(project: str, result: CheckResult, *, created_at: dt.datetime, run_id: str) -> str:
    """Return one check's page."""
    title, meaning = VERDICTS[result.severity]
    failures = sorted(result.failures, key=lambda rule: (not rule.stops, rule.name))
    parts = [
        f'<p class="crumb"><a href="../index.html">{_text(project)}</a> / {_text(result.stage)}</p>',
        f'<header class="{result.severity}"><h1>{_text(title)}</h1><p>{_text(meaning)}</p>{_code(result)}</header>',
        _facts(result, created_at=created_at, run_id=run_id),
        _charts(result.statistics),
        _section("What failed", "".join(_failure(rule) for rule in failures)) if failures else "",
        _section("All rules", _rule_table(result.rules)),
    ]
    return page(f"{project} {result.stage}: {title}", "".join(parts))


def render_index(project: str, entries: Sequence[IndexEntry]) -> str:
    """Return a project's index page: newest check first."""
    ordered = sorted(entries, key=lambda entry: (entry.created_at, entry.href), reverse=True)
    rows = "".join(
        f'<tr><td><span class="badge {entry.severity}">{_text(VERDICTS[entry.severity][0])}</span></td>'
        f'<td>{_text(entry.stage)}</td><td><a href="{_text(entry.href)}">{_text(entry.title)}</a></td>'
        f"<td>{_text(entry.summary)}</td><td>{_time(entry.created_at)}</td></tr>"
        for entry in ordered
    )
    head = "<tr><th>Result</th><th>Stage</th><th>Subject</th><th>Summary</th><th>When (UTC)</th></tr>"
    body = f"<table>{head}{rows}</table>" if ordered else "<p>No check has run yet.</p>"
    crumb = '<p class="crumb"><a href="../index.html">All projects</a></p>'
    return page(f"{project}: data checks", f"{crumb}<h1>Data checks of {_text(project)}</h1>{_counts(ordered)}{body}")


def render_root(projects: Mapping[str, int]) -> str:
    """Return the page above the projects: name -> number of checks."""
    rows = "".join(
        f'<tr><td><a href="{_text(name)}/index.html">{_text(name)}</a></td><td>{count}</td></tr>'
        for name, count in sorted(projects.items())
    )
    body = f"<table><tr><th>Project</th><th>Checks</th></tr>{rows}</table>" if rows else "<p>No check has run yet.</p>"
    return page("Data checks", f"<h1>Data checks</h1>{body}")


def page(title: str, body: str) -> str:
    """Return a whole page; its policy allows this one style sheet and nothing else, so no script can run."""
    style = _style()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}</title><style>{style}</style></head><body><main>{body}</main></body></html>\n"
    )


@cache
def _style() -> str:
    return resources.files("data_checks").joinpath("report.css").read_text(encoding="utf-8")


def _facts(result: CheckResult, *, created_at: dt.datetime, run_id: str) -> str:
    numbers = result.statistics
    pairs: list[tuple[str, str]] = [
        ("Rows", f"{numbers.get('num_rows', 0):,}"),
        ("Rules", f"{len(result.rules) - len(result.failures)} of {len(result.rules)} hold"),
        ("Rows put aside", f"{numbers.get('num_quarantined', 0):,}"),
        ("When", f"{_time(created_at)} UTC"),
    ]
    names = [("Subject", result.subject), ("Suite", result.suite), ("Run", run_id)]
    if numbers.get("label_drift") is not None:
        pairs.insert(3, ("Label drift", f"{numbers['label_drift']:.3f}"))
    cells = "".join(f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>" for name, value in pairs)
    lines = "".join(f"<p>{name} <code>{_text(value)}</code></p>" for name, value in names)
    return f'<dl class="facts">{cells}</dl><div class="names">{lines}</div>'


def _charts(statistics: Mapping[str, Any]) -> str:
    counts = statistics.get("class_counts")
    if not counts:
        return ""
    return _section("Rows per class", bar_chart(counts, reference=statistics.get("reference_class_counts")))


def _failure(rule: RuleResult) -> str:
    ids = rule.failing_ids[:MAX_IDS_SHOWN]
    hidden = max(rule.num_failed, len(rule.failing_ids)) - len(ids)
    more = f"<li>and {hidden:,} more</li>" if hidden else ""
    listed = "".join(f"<li><code>{_text(row_id)}</code></li>" for row_id in ids)
    count = "1 row" if rule.num_failed == 1 else f"{rule.num_failed:,} rows"
    details = f"<details><summary>{count}</summary><ul>{listed}{more}</ul></details>" if ids else ""
    cause = rule.error or rule.observed
    kind = "stop" if rule.stops else rule.policy
    effect = "could not be checked, so it stops the run" if rule.error else _POLICIES[rule.policy]
    return (
        f'<article class="{kind}"><h3>{_text(rule.name)}</h3><p>Expected: {_text(rule.expected)}.</p>'
        f'<p>Found: {_text(cause)}</p><p class="quiet">A failure {effect}.</p>{details}</article>'
    )


def _rule_table(rules: Sequence[RuleResult]) -> str:
    head = "<tr><th>Result</th><th>Rule</th><th>Expected</th><th>Found</th><th>On failure</th><th>Bad rows</th></tr>"
    rows = "".join(_rule_row(rule) for rule in rules)
    return f'<table class="rules">{head}{rows}</table>'


def _rule_row(rule: RuleResult) -> str:
    kind = "ok" if rule.success else "stop" if rule.stops else rule.policy
    word = "holds" if rule.success else "error" if rule.error else "fails"
    share = share_bar(rule.num_failed, rule.num_checked) if rule.num_checked else ""
    return (
        f'<tr><td><span class="badge {kind}">{word}</span></td><td><code>{_text(rule.name)}</code></td>'
        f"<td>{_text(rule.expected)}</td><td>{_text(_short(rule.error or rule.observed))}</td>"
        f"<td>{_POLICIES[rule.policy]}</td><td>{share}</td></tr>"
    )


def _counts(entries: Sequence[IndexEntry]) -> str:
    totals = {kind: sum(entry.severity == kind for entry in entries) for kind in VERDICTS}
    cells = "".join(
        f'<div><dt>{_text(VERDICTS[kind][0])}</dt><dd class="{kind}">{count}</dd></div>'
        for kind, count in totals.items()
    )
    return f'<dl class="facts">{cells}</dl>' if entries else ""


def _code(result: CheckResult) -> str:
    return f"<p><code>{_text(result.code)}</code></p>" if result.code else ""


def _section(title: str, body: str) -> str:
    return f"<section><h2>{_text(title)}</h2>{body}</section>"


def _short(value: str, limit: int = 120) -> str:
    return value if len(value) <= limit else f"{value[: limit - 1]}…"


def _time(value: dt.datetime) -> str:
    return value.astimezone(dt.UTC).strftime("%Y-%m-%d %H:%M:%S")


def _text(value: object) -> str:
    return html.escape(str(value), quote=True)
