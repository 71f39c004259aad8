"""Runs the suites on items, labels and datasets and publishes what they say."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from data_checks.overrides import project_rules
from data_checks.result import CheckResult, RuleResult
from data_checks.rules import Suite, extend
from data_checks.runner import run_suite
from data_checks.suites import EQUAL_TO_EXAM, NEAR_DUPLICATE_OF_EXAM, dataset_suite, labels_suite
from pipeline_tasks.catalog.datasets import BadRow, Columns, DatasetRepository
from pipeline_tasks.contracts import CheckReport, Fence, Leak, content_id
from pipeline_tasks.project import LoadedProject
from pipeline_tasks.validation import frames
from pipeline_tasks.validation.items import bad_rows, items_check
from pipeline_tasks.validation.leakage import Comparison
from pipeline_tasks.validation.reports import CheckContext, publish_check

MAX_NAMED, MAX_STORED = 10, 100


def checked_items(project: LoadedProject, batch_id: str, *, context: CheckContext) -> CheckReport:
    """Run the items suite on a batch, publish it and put failing items in quarantine.

    Raises:
        ConfigError: the recipe, its parameters or checks.py are wrong.
        GateClosed: a rule stops the run.
    """
    result, key = items_check(project).run(batch_id, context=context)
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
    expected = {rule.name: rule.expected for rule in result.rules}
    bad = bad_rows(result.quarantined, columns, reason=lambda _, name: f"{expected[name]} (suite {result.suite})")
    key = publish_check(result, context, quarantine=bad, fence=fence)
    result.require(report=key)
    return without(columns, set(result.quarantined))


def check_dataset(
    project: LoadedProject,
    table: pa.Table,
    *,
    snapshot_id: str,
    columns: Columns,
    comparison: Comparison,
    context: CheckContext,
    fence: Fence,
) -> None:
    """Run the dataset suite on a candidate snapshot and publish it, with what was left out of `columns` and why.

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
    leaks = comparison.leaks
    facts = frames.facts_frame(
        leaked_items=len(leaked_items),
        leaked_groups=len(leaked_groups),
        label_drift=drift,
        near_duplicates=len(leaks),
    )
    subjects: dict[str, Any] = {
        "reference": reference,
        "exams": [exam.exam_id for exam in datasets.exams(project.name)],
    }
    if leaks:
        subjects["near_duplicates"] = content_id([dataclasses.asdict(leak) for leak in leaks])
    result = run_suite(
        frames.dataset_frame(table),
        _with_own_rules(dataset_suite(project.config), project),
        subject=snapshot_id,
        extra={"classes": frames.classes_frame(counts), "facts": facts},
        context=subjects,
        statistics={
            "class_counts": counts,
            "reference_class_counts": before,
            "label_drift": drift,
            "leaked_items": sorted(leaked_items)[:10],
            "leaked_groups": sorted(leaked_groups)[:10],
            "num_near_duplicates": len(leaks),
            "num_not_compared": comparison.num_not_compared,
            "near_duplicates": [dataclasses.asdict(leak) for leak in leaks[:MAX_STORED]],
        },
    )
    result = _naming_pairs(result, leaks, num_checked=len(columns["item_id"]))
    excluded = leaks if project.config.gate.exam.near_duplicates.policy != "stop" else ()
    key = publish_check(result, context, quarantine=_left_out(excluded, columns), fence=fence)
    result.require(report=key)


def _naming_pairs(result: CheckResult, leaks: Sequence[Leak], *, num_checked: int) -> CheckResult:
    """Return the result with the near duplicates named, item by item, where it only had their number."""
    pairs = ", ".join(f"{one.trained_item_id[:12]} is like {likeness(one)}" for one in leaks[:MAX_NAMED])
    more = f" and {len(leaks) - MAX_NAMED} more" if len(leaks) > MAX_NAMED else ""

    def named(rule: RuleResult) -> RuleResult:
        if rule.name != NEAR_DUPLICATE_OF_EXAM or rule.success or rule.error is not None:
            return rule
        return dataclasses.replace(
            rule,
            observed=f"{len(leaks)} of {num_checked}: {pairs}{more}",
            num_checked=num_checked,
            num_failed=len(leaks),
            failing_ids=tuple(one.trained_item_id for one in leaks),
        )

    return dataclasses.replace(result, rules=tuple(named(rule) for rule in result.rules))


def likeness(leak: Leak) -> str:
    """Return which exam item a training item is like, and how much."""
    return f"exam item {leak.item_id[:12]} (similarity {leak.similarity:.4f})"


def _left_out(leaks: Sequence[Leak], columns: Columns) -> list[BadRow]:
    position = {item_id: index for index, item_id in enumerate(columns["item_id"])}
    return [
        BadRow(
            source=columns["source"][position[leak.trained_item_id]],
            key=columns["key"][position[leak.trained_item_id]],
            item_id=leak.trained_item_id,
            code=EQUAL_TO_EXAM if leak.kind == "exact" else NEAR_DUPLICATE_OF_EXAM,
            reason=f"{'equal to' if leak.kind == 'exact' else 'near duplicate of'} {likeness(leak)}; "
            "left out of the training set",
            object_key=columns["object_key"][position[leak.trained_item_id]],
        )
        for leak in leaks
    ]


def without(columns: Columns, item_ids: set[str]) -> Columns:
    """Return the columns without the rows of these items."""
    keep = [index for index, item_id in enumerate(columns["item_id"]) if item_id not in item_ids]
    return {name: [values[index] for index in keep] for name, values in columns.items()}


def _reference(datasets: DatasetRepository, project: str, *, snapshot_id: str) -> str | None:
    head = datasets.head_snapshot(project)
    return None if head is None or head.snapshot_id == snapshot_id else head.snapshot_id


def _with_own_rules(suite: Suite, project: LoadedProject) -> Suite:
    return extend(suite, project_rules(project.folder, suite.stage))


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
