"""Views of the catalog for commands: a verdict's report in a file, the quarantine. Only reads."""

from __future__ import annotations

import dataclasses
import getpass
from pathlib import Path
from typing import Any

from pipeline_tasks.catalog.items import ItemRepository
from pipeline_tasks.catalog.ledger_repository import record_look
from pipeline_tasks.catalog.verdicts import VerdictRepository
from pipeline_tasks.core.clock import utc_now
from pipeline_tasks.errors import ConfigError
from pipeline_tasks.evaluation.approval import read_report
from pipeline_tasks.evaluation.open_epoch import held_back, told_reasons
from pipeline_tasks.orchestration.resources import build_resources


def save_report(project: str, *, verdict: str | None, output: Path | None, exact: bool = False) -> str:
    """Write a verdict's report into a file and return where it is.

    Of a verdict whose epoch is open that is what is told of it; all of it (`exact`) stands in the ledger then.
    """
    parts = build_resources()
    verdicts = VerdictRepository(parts.database).history(project)
    chosen = [record for record in verdicts if verdict is None or record.ref.verdict_id.startswith(verdict)]
    if not chosen or (verdict is not None and len(chosen) > 1):
        known = ", ".join(record.ref.verdict_id[:12] for record in verdicts[-10:]) or "none yet"
        raise ConfigError(f"verdict must name one verdict of {project} (got {verdict}). The newest: {known}.")
    ref = chosen[-1].ref
    path = output or Path(f"report-{project}-{ref.verdict_id[:12]}.html")
    page, held = read_report(parts.store, chosen[-1]), held_back(parts.database, parts.store, chosen[-1])
    if held is None:
        path.write_bytes(page)
        return f"{ref.answer}: {'; '.join(ref.reasons)}\nThe report is in {path}"
    if exact:
        digest, by = chosen[-1].digest, getpass.getuser()
        record_look(parts.database, project, ref.verdict_id, digest=digest, by=by, now=utc_now())
    path.write_bytes(page if exact else held.page.encode())
    reasons = ref.reasons if exact else told_reasons(parts.database, parts.store, chosen[-1])
    more = "" if exact else " Its exam is open: `--exact` writes the figures and items too, and the ledger says so."
    return f"{ref.answer}: {'; '.join(reasons)}\nThe report is in {path}.{more}"


def quarantine(project: str, *, limit: int, page: int, as_json: bool) -> Any:
    """Return one page of what was not accepted, with reasons, and how much it is in all."""
    items = ItemRepository(build_resources().database)
    total, start = items.count_quarantined(project), (page - 1) * limit
    rows = [dataclasses.asdict(item) for item in items.quarantined(project, limit=limit, offset=start)]
    if as_json:
        return {"total": total, "limit": limit, "page": page, "rows": rows}
    if not total:
        return f"Nothing of {project} is in quarantine."
    if not rows:
        return f"Page {page} is empty: {project} has {total:,} in quarantine."
    lines = [f"{row['code']:<20}  {row['source']}:{row['key']}  {row['reason']}" for row in rows]
    if len(rows) < total:
        more = f"; the next ones: --page {page + 1}" if start + len(rows) < total else ""
        lines.append(f"{start + 1:,} to {start + len(rows):,} of {total:,}{more}")
    return "\n".join(lines)
