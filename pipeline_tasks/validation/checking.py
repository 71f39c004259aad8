"""Runs the suites on items, labels and datasets and publishes what they say."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pandas as pd
import pyarrow as pa

from data_checks.overrides import project_rules
from data_checks.result import CheckResult
from data_checks.rules import Suite, extend
from data_checks.runner import run_suite
from data_checks.suites import dataset_suite, items_suite, labels_suite
from pipeline_tasks.catalog.datasets import BadRow, Columns, DatasetRepository
from pipeline_tasks.contracts import CheckReport, Fence, Location, content_id
from pipeline_tasks.ports import ObjectStore
from pipeline_tasks.project import LoadedProject, Modality
from pipeline_tasks.validation import frames
from pipeline_tasks.validation.facts import item_facts
from pipeline_tasks.validation.reports import CheckContext, publish_check

READERS = 8
FACT_COLUMNS: dict[Modality, tuple[str, ...]] = {
    "image": ("width", "height", "num_pixels", "pixel_mean", "pixel_spread"),
    "text": ("characters",),
    "tabular": ("num_fields", "num_empty_fields"),
}


def checked_items(project: LoadedProject, batch_id: str, *, context: CheckContext) -> CheckReport:
    """Run the items suite on a batch, publish it and put failing items in quarantine.

    Raises:
        GateClosed: a rule stops the run.
    """
    batch = context.datasets.batch(project.name, batch_id)
    suite = _with_own_rules(items_suite(project.config), project)
    result = run_suite(_items_frame(project, batch, store=context.store), suite, subject=batch_id)
    key = publish_check(result, context, quarantine=_bad_rows(result, batch))
    result.require(report=key)
    return _report(project.name, result, key)


def checked_labels(project: LoadedProject, columns: Columns, *, context: CheckContext, fence: Fence) -> Columns:
    """Run the labels suite, publish it, and return the rows that it lets through.

    Raises:
        GateClosed: a rule stops the run.
    """
    suite = _with_own_rules(labels_suite(project.config), project)
    frame = frames.labels_frame(columns)
    counts = frames.count_classes(
        [label for label in columns["label"] if label is not None], project.config.labels.classes
    )
    subject = content_id(list(zip(columns["item_id"], columns["version"], strict=True)))
    result = run_suite(frame, suite, subject=subject, statistics={"class_counts": counts})
    key = publish_check(result, context, quarantine=_bad_rows(result, columns), fence=fence)
    result.require(report=key)
    return without(columns, set(result.quarantined))


def check_dataset(
    project: LoadedProject, table: pa.Table, *, snapshot_id: str, context: CheckContext, fence: Fence
) -> None:
    """Run the dataset suite on a candidate snapshot and publish it.

    Raises:
        GateClosed: a rule stops the run.
    """
    datasets = context.datasets
    reference = _reference(datasets, project.name, snapshot_id=snapshot_id)
    counts = frames.count_classes(table["label"].to_pylist(), project.config.labels.classes)
    before = datasets.class_counts(project.name, reference) if reference else None
    drift = frames.js_distance(counts, before) if before else None
    exam_ids, exam_groups = datasets.exam_members(project.name)
    leaked_items = exam_ids & set(table["item_id"].to_pylist())
    leaked_groups = exam_groups & set(table["group_key"].to_pylist())
    facts = frames.facts_frame(leaked_items=len(leaked_items), leaked_groups=len(leaked_groups), label_drift=drift)
    result = run_suite(
        frames.dataset_frame(table),
        _with_own_rules(dataset_suite(project.config), project),
        subject=snapshot_id,
        extra={"classes": frames.classes_frame(counts), "facts": facts},
        context={"reference": reference, "exams": [exam.exam_id for exam in datasets.exams(project.name)]},
        statistics={
            "class_counts": counts,
            "reference_class_counts": before,
            "label_drift": drift,
            "leaked_items": sorted(leaked_items)[:10],
            "leaked_groups": sorted(leaked_groups)[:10],
        },
    )
    key = publish_check(result, context, fence=fence)
    result.require(report=key)


def without(columns: Columns, item_ids: set[str]) -> Columns:
    """Return the columns without the rows of these items."""
    keep = [index for index, item_id in enumerate(columns["item_id"]) if item_id not in item_ids]
    return {name: [values[index] for index in keep] for name, values in columns.items()}


def _reference(datasets: DatasetRepository, project: str, *, snapshot_id: str) -> str | None:
    head = datasets.head_snapshot(project)
    return None if head is None or head.snapshot_id == snapshot_id else head.snapshot_id


def _with_own_rules(suite: Suite, project: LoadedProject) -> Suite:
    return extend(suite, project_rules(project.folder, suite.stage))


def _items_frame(project: LoadedProject, batch: Columns, *, store: ObjectStore) -> pd.DataFrame:
    """Return the batch with what its bytes say, one row per item."""
    config = project.config
    by_object: dict[str, list[tuple[str, Location]]] = {}
    for item_id, *where in zip(
        *(batch[name] for name in ("item_id", "object_key", "offset", "size_bytes")), strict=True
    ):
        by_object.setdefault(where[0], []).append((item_id, Location(*where)))

    def facts_of(group: tuple[str, list[tuple[str, Location]]]) -> list[dict[str, Any]]:
        key, members = group
        whole = store.get(key) if len(members) > 1 else None
        limit = config.checks.max_pixels
        found = []
        for item_id, place in members:
            data = store.get_range(place) if whole is None else whole[place.offset : place.offset + place.size_bytes]
            found.append(item_facts(data, item_id=item_id, modality=config.modality, max_pixels=limit))
        return found

    with ThreadPoolExecutor(READERS) as pool:
        facts = [row for rows in pool.map(facts_of, by_object.items()) for row in rows]
    known = pd.DataFrame(
        {name: batch[name] for name in ("item_id", "media_type", "size_bytes", "group_key", "source", "key")}
    )
    columns = ["item_id", "digest_matches", "readable", *FACT_COLUMNS[config.modality]]
    return known.merge(pd.DataFrame(facts).reindex(columns=columns), on="item_id", how="left")


def _bad_rows(result: CheckResult, columns: Columns) -> list[BadRow]:
    position = {item_id: index for index, item_id in enumerate(columns["item_id"])}
    expected = {rule.name: rule.expected for rule in result.rules}
    return [
        BadRow(
            source=columns["source"][position[item_id]],
            key=columns["key"][position[item_id]],
            item_id=item_id,
            code=name,
            reason=f"{expected[name]} (suite {result.suite})",
            object_key=columns["object_key"][position[item_id]],
        )
        for item_id, names in result.quarantined.items()
        for name in names
    ]


def _report(project: str, result: CheckResult, key: str) -> CheckReport:
    return CheckReport(
        project=project,
        stage=result.stage,
        subject=result.subject,
        suite=result.suite,
        severity=result.severity,
        num_rows=int(result.statistics["num_rows"]),
        num_quarantined=int(result.statistics["num_quarantined"]),
        report_key=key,
    )
