"""Publishes a check: page to the object store and to the folder that Airflow shows, row to the catalog."""

from __future__ import annotations

import dataclasses
import datetime as dt
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from data_checks.report import IndexEntry, render_check, render_index, render_root
from data_checks.result import CheckResult
from pipeline_tasks.catalog.datasets import CheckRecord, DatasetRepository
from pipeline_tasks.catalog.set_aside import BadRow
from pipeline_tasks.contracts import Fence, sha256_hex
from pipeline_tasks.core.crash_points import crash_point
from pipeline_tasks.core.ports import ObjectStore
from pipeline_tasks.guards.personal import DenyList

HTML = "text/html; charset=utf-8"


@dataclasses.dataclass(frozen=True, slots=True)
class CheckContext:
    """The place that checks are written to, and the run that they belong to."""

    project: str
    store: ObjectStore
    datasets: DatasetRepository
    docs_dir: Path
    run_id: str
    now: dt.datetime
    deny: DenyList = dataclasses.field(default_factory=DenyList)


def publish_check(
    result: CheckResult, context: CheckContext, *, quarantine: Iterable[BadRow] = (), fence: Fence | None = None
) -> str:
    """Write the report, then the catalog row, then the browsable pages; return the report's object key."""
    page = render_check(context.project, result, created_at=context.now, run_id=context.run_id).encode()
    key = report_key(context.project, result, page)
    crash_point("check.report.before")
    context.store.put(key, page, content_type=HTML)
    crash_point("check.report.after")
    record = CheckRecord(
        project=context.project,
        stage=result.stage,
        subject=result.subject,
        suite=result.suite,
        success=result.success,
        statistics={**result.statistics, "severity": result.severity, "code": result.code},
        failures=result.failures_json(),
        report_key=key,
        run_id=context.run_id,
        created_at=context.now,
    )
    context.datasets.record_check(record, quarantine=quarantine, fence=fence)
    crash_point("check.report.recorded")
    write_docs(context)
    return key


def report_key(project: str, result: CheckResult, page: bytes) -> str:
    """Return the report's key: its name holds its digest, so another report never takes its place."""
    subject = sha256_hex(f"{result.subject}\n{result.suite}".encode())[:16]
    return f"reports/{project}/checks/{result.stage}/{subject}-{sha256_hex(page)}.html"


def write_docs(context: CheckContext) -> Path:
    """Bring the browsable folder up to date with the catalog and return the project's index page."""
    folder = context.docs_dir / context.project
    records = context.datasets.checks(context.project)
    for record in records:
        page = folder / _local_path(record)
        if record.report_key is not None and not page.exists():
            _write(page, _reader(context.store, record.report_key))
    index = folder / "index.html"
    entries = [_entry(record, deny=context.deny) for record in records]
    _write(index, lambda: render_index(context.project, entries).encode())
    _write(context.docs_dir / "index.html", lambda: render_root(context.datasets.check_counts()).encode())
    return index


def _entry(record: CheckRecord, *, deny: DenyList) -> IndexEntry:
    """Return a check's line, as it may be shown: the check may be from before the deny-list."""
    statistics = record.statistics
    first = record.failures[0] if record.failures else None
    rows = f"{statistics.get('num_rows', 0):,} rows"
    summary = f"{rows}: {first['rule']}, {first['observed']}" if first else f"{rows}, every rule holds"
    return IndexEntry(
        href=_local_path(record),
        title=deny.hide(record.subject if len(record.subject) <= 40 else f"{record.subject[:16]}…"),
        stage=record.stage,
        severity=str(statistics.get("severity", "ok")),
        summary=deny.hide(summary)[:160],
        created_at=record.created_at,
    )


def _local_path(record: CheckRecord) -> str:
    name = (record.report_key or "missing.html").rsplit("/", 1)[-1]
    return f"{record.stage}/{name}"


def _reader(store: ObjectStore, key: str) -> Callable[[], bytes]:
    return lambda: store.get(key)


def _write(path: Path, content: Callable[[], bytes]) -> None:
    """Write a file whole: a reader sees the old page or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
