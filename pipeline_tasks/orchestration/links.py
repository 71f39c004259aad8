"""The addresses that a task shows as buttons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline_tasks.core.settings import Settings


def links_of(
    settings: Settings,
    *,
    report: str | None = None,
    label_studio: int | None = None,
    tracker: Mapping[str, Any] | None = None,
    service: bool = False,
) -> dict[str, str]:
    """Return button -> address for what a stage produced; what it did not produce has no button.

    `report` is an object key below `verdicts/` or `reports/`; it opens through Airflow, behind its login. `service` is
    the gateway's page with examples to copy: an inference server has none.
    """
    links: dict[str, str] = {}
    if report:
        links["Report"] = f"{settings.airflow_url}/dethrone/reports/{report}"
    if report and report.startswith("reports/") and "/checks/" in report:
        links["Data Docs"] = f"{settings.airflow_url}/dethrone/data-docs/index.html"
    if label_studio is not None:
        links["Label Studio"] = f"{settings.label_studio_url}/projects/{label_studio}/data"
    if tracker and tracker.get("url"):
        links["W&B run"] = str(tracker["url"])
    if service:
        links["Service"] = f"{settings.gateway_url}/docs"
    return links
