"""The monitor with its resources."""

from __future__ import annotations

import datetime as dt
import logging
from typing import Any

from pipeline_tasks.catalog.datasets import DatasetRepository
from pipeline_tasks.catalog.items import ItemRepository
from pipeline_tasks.catalog.labels import LabelRepository
from pipeline_tasks.catalog.monitoring import MonitoringRepository
from pipeline_tasks.contracts import Attempt, as_json
from pipeline_tasks.core.clock import utc_now
from pipeline_tasks.errors import PipelineError
from pipeline_tasks.monitoring import task as monitoring_task
from pipeline_tasks.monitoring.log_import import MonitoringResources
from pipeline_tasks.orchestration.ledger_anchors import note_head
from pipeline_tasks.orchestration.links import links_of
from pipeline_tasks.orchestration.resources import Resources
from pipeline_tasks.validation import task as validation_task

UPLOAD_TIME = dt.timedelta(days=1)  # a file that is still uploaded after so long has lost its writer

logger = logging.getLogger(__name__)


def watch(parts: Resources, project: str, *, attempt: Attempt) -> dict[str, Any]:
    """Import what is new in the prediction log and measure live quality and drift; clear killed writers' uploads."""
    loaded, now = parts.project(project), utc_now()
    datasets = DatasetRepository(parts.database)

    def check(batch_id: str) -> None:
        validation_task.check_items(
            loaded,
            batch_id,
            datasets=datasets,
            store=parts.store,
            docs_dir=parts.settings.docs_dir,
            run_id=attempt.run_id,
            now=now,
        )

    note_head(parts, project)
    report = monitoring_task.run(
        loaded,
        outside=MonitoringResources(
            database=parts.database,
            store=parts.store,
            items=ItemRepository(parts.database),
            labels=LabelRepository(parts.database),
            datasets=datasets,
            monitoring=MonitoringRepository(parts.database),
            split_key=parts.settings.split_key,
            check=check,
        ),
        attempt=attempt,
        run_id=attempt.run_id,
        now=now,
    )
    return {
        **as_json(report),
        "stale_uploads": clear_uploads(parts),
        "links": links_of(parts.settings, report=report.report_key, service=True),
    }


def clear_uploads(parts: Resources) -> str:
    """Abort the uploads that lost their writer; say what became of it, since no measurement depends on it."""
    try:
        return f"{parts.store.abort_stale_uploads(before=utc_now() - UPLOAD_TIME)} aborted"
    except PipelineError as error:
        logger.warning("uploads that lost their writer stay: %s", error)
        return f"not looked at: {error}"
