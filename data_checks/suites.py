"""The stock suites by stage and modality; project.checks sets their limits, checks.py adds to them."""

from __future__ import annotations

import dataclasses

from data_checks.rules import CLASSES, FACTS, Policy, Rule, Suite
from pipeline_tasks.contracts import UNDECODABLE
from pipeline_tasks.project.schema import Modality, Project

IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp")
TEXT_TYPES = ("text/plain; charset=utf-8", "text/plain")
ROW_TYPES = ("application/json",)
MEDIA_TYPES: dict[Modality, tuple[str, ...]] = {"image": IMAGE_TYPES, "text": TEXT_TYPES, "tabular": ROW_TYPES}

ITEM_COLUMNS = ("item_id", "media_type", "size_bytes", "group_key", "source", "readable")
MODALITY_COLUMNS: dict[Modality, tuple[str, ...]] = {
    "image": ("width", "height", "num_pixels", "pixel_spread"),
    "text": ("characters",),
    "tabular": ("num_fields", "num_empty_fields"),
}
LABEL_COLUMNS = ("item_id", "label", "num_annotators", "method")
DATASET_COLUMNS = ("item_id", "label", "group_key", "weight", "split")
KNOWN_CATEGORIES = "KNOWN_CATEGORIES"
NEAR_DUPLICATE_OF_EXAM, EQUAL_TO_EXAM = "NEAR_DUPLICATE_OF_EXAM", "EQUAL_TO_EXAM"


def items_suite(project: Project) -> Suite:
    """Return the suite for one ingested batch."""
    required = ITEM_COLUMNS + MODALITY_COLUMNS[project.modality]
    modality_rules = {"image": _image_rules, "text": _text_rules, "tabular": _tabular_rules}[project.modality]
    return Suite(
        name=f"{project.modality}/items",
        stage="items",
        rules=(_schema("ITEM_SCHEMA", required), *_item_rules(project), *modality_rules(project)),
        # A batch in which nothing is readable has no pixel facts at all: that is for the rules to say, row by row.
        required=ITEM_COLUMNS,
        max_quarantine_share=project.checks.max_quarantine_share,
    )


def labels_suite(project: Project, *, min_classes: int = 2) -> Suite:
    """Return the suite for a set of decided labels."""
    classes = list(project.labels.classes)
    return Suite(
        name=f"{project.modality}/labels",
        stage="labels",
        rules=(
            _schema("LABEL_SCHEMA", LABEL_COLUMNS),
            _unique("LABEL_ITEM_UNIQUE"),
            _not_null("LABEL_NOT_NULL", "label", "quarantine"),
            _in_set("LABEL_IN_SET", "label", classes, "quarantine"),
            _between("LABEL_HAS_ANNOTATOR", "num_annotators", low=1, policy="quarantine"),
            _between("LABEL_AGREEMENT", "agreement", low=0, high=1, policy="stop"),
        ),
        required=LABEL_COLUMNS,
        min_classes=min_classes,
        max_quarantine_share=project.checks.max_quarantine_share,
    )


def dataset_suite(project: Project) -> Suite:
    """Return the suite for a candidate snapshot."""
    checks = project.checks
    return Suite(
        name=f"{project.modality}/dataset",
        stage="dataset",
        rules=(
            _schema("DATASET_SCHEMA", DATASET_COLUMNS),
            Rule(
                "ROW_COUNT",
                "ExpectTableRowCountToBeBetween",
                {"min_value": checks.min_rows},
                expected=f"the snapshot must have at least {checks.min_rows} rows (checks.min_rows)",
            ),
            _unique("ITEM_UNIQUE"),
            _in_set("LABEL_IN_SET", "label", list(project.labels.classes), "stop"),
            _in_set("SPLIT_IS_TRAIN", "split", ["train"], "stop"),
            _between("WEIGHT_RANGE", "weight", low=0, high=1000, policy="stop"),
            _between("ROWS_PER_CLASS", "num_rows", low=checks.min_per_class, table=CLASSES, policy="stop"),
            _between("CLASS_SHARE", "share", high=checks.max_class_share, table=CLASSES, policy="stop"),
            _between("ITEM_LEAKAGE", "leaked_items", high=0, table=FACTS, policy="stop"),
            _between("GROUP_LEAKAGE", "leaked_groups", high=0, table=FACTS, policy="stop"),
            _between("LABEL_DRIFT", "label_drift", high=checks.max_drift, table=FACTS, policy=checks.drift_policy),
            *_near_duplicate_rules(project),
        ),
        required=DATASET_COLUMNS,
        min_classes=2,
    )


def _near_duplicate_rules(project: Project) -> tuple[Rule, ...]:
    policy = project.gate.exam.near_duplicates.policy
    if policy == "off":
        return ()
    done = "such items are left out of the snapshot" if policy == "exclude" else "the run stops"
    rule = Rule(
        NEAR_DUPLICATE_OF_EXAM,
        "ExpectColumnValuesToBeBetween",
        {"column": "near_duplicates", "max_value": 0},
        policy="warn" if policy == "exclude" else "stop",
        table=FACTS,
        expected=f"a training item must be no near duplicate of an exam item (gate.exam.near_duplicates); {done}",
    )
    return (rule,)


def _item_rules(project: Project) -> tuple[Rule, ...]:
    sources = sorted({source.name for source in project.sources} | {"production"})
    return (
        _unique("ITEM_UNIQUE"),
        Rule(
            "ITEM_ID",
            "ExpectColumnValuesToMatchRegex",
            {"column": "item_id", "regex": "^[0-9a-f]{64}$"},
            expected="item_id must be a SHA-256 in hexadecimal",
        ),
        _in_set("BYTES_MATCH_ID", "digest_matches", [True], "stop"),
        _in_set("READABLE", "readable", [True], "quarantine"),
        Rule(
            UNDECODABLE,
            "ExpectColumnValuesToBeInSet",
            {"column": "decoded", "value_set": [True]},
            policy="quarantine",
            expected="the project's recipe must decode the item",
        ),
        _in_set("MEDIA_TYPE", "media_type", list(MEDIA_TYPES[project.modality]), "quarantine"),
        _between("SIZE_BYTES", "size_bytes", low=1, high=project.checks.max_item_bytes, policy="quarantine"),
        _not_null("GROUP_KEY", "group_key", "stop"),
        _in_set("SOURCE", "source", sources, "warn"),
    )


def _image_rules(project: Project) -> tuple[Rule, ...]:
    checks = project.checks
    return (
        _between("WIDTH", "width", low=checks.min_side_pixels, policy="quarantine"),
        _between("HEIGHT", "height", low=checks.min_side_pixels, policy="quarantine"),
        _between("PIXELS", "num_pixels", high=checks.max_pixels, policy="quarantine"),
        _between("PIXEL_RANGE", "pixel_mean", low=0, high=255, policy="stop"),
        Rule(
            "NOT_BLANK",
            "ExpectColumnValuesToBeBetween",
            {"column": "pixel_spread", "min_value": 0, "strict_min": True},
            policy="warn",
            expected="an image must not be one flat colour",
        ),
    )


def _text_rules(project: Project) -> tuple[Rule, ...]:
    limit = project.checks.max_text_characters
    return (_between("CHARACTERS", "characters", low=1, high=limit, policy="quarantine"),)


def _tabular_rules(project: Project) -> tuple[Rule, ...]:
    widths = sorted({len(source.item_columns) for source in project.sources if source.item_columns is not None})
    rules = [_between("HAS_FIELDS", "num_fields", low=1, policy="quarantine")]
    if widths:
        rules.append(_in_set("FIELD_COUNT", "num_fields", widths, "quarantine"))
    if project.recipe.reads_columns:
        rule = _between(KNOWN_CATEGORIES, "num_unmatched", high=0, policy="warn")
        rules.append(
            dataclasses.replace(rule, expected="a category must have one of its known values; others are none")
        )
    return tuple(rules)


def _schema(name: str, columns: tuple[str, ...]) -> Rule:
    return Rule(
        name,
        "ExpectTableColumnsToMatchSet",
        {"column_set": list(columns), "exact_match": False},
        expected=f"the table must have the columns {', '.join(columns)}",
    )


def _unique(name: str) -> Rule:
    return Rule(
        name, "ExpectColumnValuesToBeUnique", {"column": "item_id"}, expected="an item must not stand in two rows"
    )


def _not_null(name: str, column: str, policy: Policy) -> Rule:
    return Rule(
        name, "ExpectColumnValuesToNotBeNull", {"column": column}, policy=policy, expected=f"{column} must be given"
    )


def _in_set(name: str, column: str, values: list[str] | list[int] | list[bool], policy: Policy) -> Rule:
    allowed = ", ".join(str(value) for value in values)
    return Rule(
        name,
        "ExpectColumnValuesToBeInSet",
        {"column": column, "value_set": values},
        policy=policy,
        expected=f"{column} must be {'one of ' if len(values) > 1 else ''}{allowed}",
    )


def _between(
    name: str,
    column: str,
    *,
    policy: Policy,
    low: float | None = None,
    high: float | None = None,
    table: str = "rows",
) -> Rule:
    limits = {key: value for key, value in (("min_value", low), ("max_value", high)) if value is not None}
    words = [f"at least {low:,}" if low is not None else "", f"at most {high:,}" if high is not None else ""]
    return Rule(
        name,
        "ExpectColumnValuesToBeBetween",
        {"column": column, **limits},
        policy=policy,
        table=table,
        expected=f"{column} must be {' and '.join(word for word in words if word)}",
    )
