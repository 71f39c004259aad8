"""Runs the suites on items, labels and datasets and publishes what they say."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Collection, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from data_checks.chunks import run_suite
from data_checks.overrides import project_rules
from data_checks.result import CheckResult, RuleResult
from data_checks.rules import Suite, extend
from data_checks.runner import judge
from data_checks.suites import EQUAL_TO_EXAM, NEAR_DUPLICATE_OF_EXAM, dataset_suite, labels_suite
from pipeline_tasks.catalog.datasets import ROWS_AT_ONCE, Columns, DatasetRepository
from pipeline_tasks.catalog.set_aside import BadRow
from pipeline_tasks.contracts import CheckReport, Fence, Leak, canonical_json, content_id
from pipeline_tasks.project.schema import LoadedProject
from pipeline_tasks.validation import check_tables
from pipeline_tasks.validation.check_reports import CheckContext, publish_check
from pipeline_tasks.validation.items import bad_rows, items_check
from pipeline_tasks.validation.labeler_check import HELD_CODES, held_labelers
from pipeline_tasks.validation.leakage import ExamComparison
from pipeline_tasks.validation.manifest import filtered

MAX_NAMED, MAX_STORED = 10, 100
LABEL_STAGE = "labels"


def checked_items(project: LoadedProject, batch_id: str, *, context: CheckContext) -> CheckReport:
    """Run the items suite on a batch, publish it and put failing items in quarantine.

    Raises:
        ConfigError: the recipe, its parameters or checks.py are wrong.
        GateClosed: a rule stops the run.
    """
    result, key = items_check(project).run(batch_id, context=context)
    result.require(report=key)
    return _report(project.name, result, key)


def checked_labels(project: LoadedProject, decided: pa.Table, *, context: CheckContext, fence: Fence) -> pa.Table:
    """Run the labels suite, compare the labelers, publish both, and return the rows that they let through.

    Raises:
        GateClosed: a rule stops the run.
    """
    suite = _with_own_rules(labels_suite(project.config), project)
    counts = check_tables.count_classes(check_tables.count_labels(decided["label"]), project.config.labels.classes)
    statistics = {"class_counts": counts}
    held = held_labelers(project, context=context)
    result = run_suite(
        check_tables.labels_frames(decided),
        suite,
        subject=_subject(decided),
        context=held.context,
        statistics=statistics | dict(held.statistics),
    )
    if result.success:  # or there is nothing to compare
        rules = [*result.rules, *held.rules]
        num_quarantined = int(result.statistics["num_quarantined"])
        result = judge(
            suite,
            rules,
            subject=result.subject,
            suite_id=result.suite,
            statistics=result.statistics,
            num_quarantined=num_quarantined,
        )
    expected = {rule.name: rule.expected for rule in result.rules}
    failed = result.quarantined
    bad = bad_rows(failed, rows_of(decided, failed), reason=lambda _, name: f"{expected[name]} (suite {result.suite})")
    left_out = held.rows(decided.filter(held.mask(decided)).to_pydict())
    key = publish_check(result, context, quarantine=[*bad, *left_out], fence=fence)
    _put_back(decided, left_out, project=project.name, context=context, fence=fence)
    result.require(report=key)
    return without(decided, {*failed, *(row.item_id for row in left_out)})


def _put_back(
    decided: pa.Table, left_out: Sequence[BadRow], *, project: str, context: CheckContext, fence: Fence
) -> None:
    """Take out of the quarantine what is left out no longer: an operator trusts its labeler, or the labels changed."""
    for code in HELD_CODES:
        before = context.datasets.set_aside(project, code, stage=LABEL_STAGE)
        free = _shared(decided["item_id"], before) - {row.item_id for row in left_out if row.code == code}
        if free:
            context.datasets.put_back(project, code, free, stage=LABEL_STAGE, fence=fence)


def _subject(decided: pa.Table) -> str:
    """Return the content id of all (item id, version) pairs, which are not held as Python objects at a time."""
    digest, between = hashlib.sha256(b"["), b""
    for batch in decided.select(["item_id", "version"]).to_batches(max_chunksize=ROWS_AT_ONCE):
        pairs = zip(batch["item_id"].to_pylist(), batch["version"].to_pylist(), strict=True)
        digest.update(between + canonical_json(list(pairs))[1:-1])
        between = b","
    digest.update(b"]")
    return digest.hexdigest()


def check_dataset(
    project: LoadedProject,
    table: pa.Table,
    *,
    snapshot_id: str,
    num_checked: int,
    leaked: Columns,
    comparison: ExamComparison,
    context: CheckContext,
    fence: Fence,
) -> None:
    """Run the dataset suite on a candidate snapshot and publish it, with what was left out and why.

    `num_checked` items were compared with the exams; `leaked` are the rows of those that an exam has.

    Raises:
        GateClosed: a rule stops the run.
    """
    datasets = context.datasets
    reference = _reference(datasets, project.name, snapshot_id=snapshot_id)
    counts = check_tables.count_classes(check_tables.count_labels(table["label"]), project.config.labels.classes)
    before = datasets.class_counts(project.name, reference) if reference else None
    drift = check_tables.excess_js_distance(counts, before) if before else None
    exam_ids, exam_groups = datasets.exam_members(project.name)
    leaked_items = _shared(table["item_id"], exam_ids)
    leaked_groups = _shared(table["group_key"], exam_groups)
    leaks = comparison.leaks
    facts = check_tables.facts_frame(
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
        check_tables.dataset_frames(table),
        _with_own_rules(dataset_suite(project.config), project),
        subject=snapshot_id,
        extra={"classes": check_tables.classes_frame(counts), "facts": facts},
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
    result = _naming_pairs(result, leaks, num_checked=num_checked)
    excluded = leaks if project.config.gate.exam.near_duplicates.policy != "stop" else ()
    key = publish_check(result, context, quarantine=_left_out(excluded, leaked), fence=fence)
    result.require(report=key)


def _naming_pairs(result: CheckResult, leaks: Sequence[Leak], *, num_checked: int) -> CheckResult:
    """Return the result with the near duplicates named, item by item, where it only had their number."""
    pairs = ", ".join(f"{leak.trained_item_id[:12]} is like {likeness(leak)}" for leak in leaks[:MAX_NAMED])
    more = f" and {len(leaks) - MAX_NAMED} more" if len(leaks) > MAX_NAMED else ""

    def named(rule: RuleResult) -> RuleResult:
        if rule.name != NEAR_DUPLICATE_OF_EXAM or rule.success or rule.error is not None:
            return rule
        return dataclasses.replace(
            rule,
            observed=f"{len(leaks)} of {num_checked}: {pairs}{more}",
            num_checked=num_checked,
            num_failed=len(leaks),
            failing_ids=tuple(leak.trained_item_id for leak in leaks),
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


def without(decided: pa.Table, item_ids: Collection[str]) -> pa.Table:
    """Return the rows but those of these items."""
    return filtered(decided, pc.invert(_is_one_of(decided["item_id"], item_ids))) if item_ids else decided


def rows_of(decided: pa.Table, item_ids: Collection[str]) -> Columns:
    """Return the rows of a few items, by column."""
    columns: Columns = decided.filter(_is_one_of(decided["item_id"], item_ids)).to_pydict()
    return columns


def _shared(column: pa.ChunkedArray, values: Collection[str]) -> set[str]:
    return set(column.filter(_is_one_of(column, values)).to_pylist())


def _is_one_of(column: pa.ChunkedArray, values: Collection[str]) -> pa.ChunkedArray:
    return pc.is_in(column, pa.array(list(values), pa.string()))


def _reference(datasets: DatasetRepository, project: str, *, snapshot_id: str) -> str | None:
    """Return the snapshot before this one, which an attempt that was killed since may have recorded."""
    head = datasets.head_snapshot(project)
    if head is not None and head.snapshot_id == snapshot_id:
        return datasets.parent_snapshot(project, snapshot_id)
    return None if head is None else head.snapshot_id


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
