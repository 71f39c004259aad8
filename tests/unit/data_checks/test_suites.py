import pandas as pd
import pytest

from data_checks.chunks import run_suite
from data_checks.suites import dataset_suite, items_suite, labels_suite
from pipeline_tasks.project.schema import Project


def project(modality="image", **sections) -> Project:
    source = (
        {"type": "folder", "path": "x"}
        if modality != "tabular"
        else {"type": "table", "path": "x", "key_column": "id", "content_columns": ["a", "b", "c"]}
    )
    document = {"name": "pets", "modality": modality, "sources": [source], "recipe": {"name": "r"}}
    return Project.model_validate(document | {"labels": {"classes": ["cat", "dog"]}} | sections)


def test_limits_come_from_the_project():
    checks = {"min_rows": 7, "min_per_class": 3, "max_class_share": 0.6, "max_drift": 0.1, "drift_policy": "stop"}
    rules = {rule.name: rule for rule in dataset_suite(project(checks=checks)).rules}
    assert rules["ROW_COUNT"].arguments == {"min_value": 7}
    assert rules["ROWS_PER_CLASS"].arguments == {"column": "num_rows", "min_value": 3}
    assert rules["CLASS_SHARE"].arguments == {"column": "share", "max_value": 0.6}
    assert (rules["LABEL_DRIFT"].arguments, rules["LABEL_DRIFT"].policy) == (
        {"column": "label_drift", "max_value": 0.1},
        "stop",
    )
    assert rules["GROUP_LEAKAGE"].arguments == {"column": "leaked_groups", "max_value": 0}


@pytest.mark.parametrize(
    ("modality", "own"),
    [
        ("image", ["WIDTH", "HEIGHT", "PIXELS", "PIXEL_RANGE", "NOT_BLANK"]),
        ("text", ["CHARACTERS"]),
        ("tabular", ["HAS_FIELDS", "FIELD_COUNT"]),
    ],
)
def test_items_have_the_rules_of_their_modality(modality, own):
    names = [rule.name for rule in items_suite(project(modality)).rules]
    common = [
        "ITEM_SCHEMA",
        "ITEM_UNIQUE",
        "ITEM_ID",
        "BYTES_MATCH_ID",
        "READABLE",
        "UNDECODABLE",
        "MEDIA_TYPE",
        "SIZE_BYTES",
        "GROUP_KEY",
        "SOURCE",
    ]
    assert names == common + own


def test_the_width_of_a_row_comes_from_the_source():
    rules = {rule.name: rule for rule in items_suite(project("tabular")).rules}
    assert rules["FIELD_COUNT"].arguments == {"column": "num_fields", "value_set": [3]}


GOOD = {
    "item_id": ["a", "b", "c"],
    "label": ["cat", "dog", "cat"],
    "method": ["single"] * 3,
    "num_annotators": [1, 1, 2],
    "agreement": [1.0, None, 0.5],
}


@pytest.mark.parametrize(
    ("change", "quarantined", "code"),
    [
        ({}, {}, None),
        ({"label": ["cat", "dog", "Dog"]}, {"c": ("LABEL_IN_SET",)}, None),
        ({"label": ["cat", "dog", None]}, {"c": ("LABEL_NOT_NULL",)}, None),
        ({"num_annotators": [1, 0, 1]}, {"b": ("LABEL_HAS_ANNOTATOR",)}, None),
        ({"agreement": [1.0, 1.2, None]}, {}, "LABEL_AGREEMENT"),
        ({"item_id": ["a", "a", "b"]}, {}, "LABEL_ITEM_UNIQUE"),
        ({"label": ["cat", "cat", "cat"]}, {}, "SINGLE_CLASS"),
    ],
)
def test_each_rule_on_labels_can_fail(change, quarantined, code):
    result = run_suite(pd.DataFrame(GOOD | change), labels_suite(project()), subject="s")
    assert (result.quarantined, result.code) == (quarantined, code)


ROWS = {
    "item_id": ["a", "b", "c"],
    "label": ["cat", "dog", "cat"],
    "group_key": ["a", "b", "c"],
    "weight": [1.0] * 3,
    "split": ["train"] * 3,
}
COUNTS = [("cat", 2, 0.67), ("dog", 1, 0.33)]


@pytest.mark.parametrize(
    ("rows", "counts", "facts", "code"),
    [
        ({}, COUNTS, {}, None),
        ({"split": ["train", "exam", "train"]}, COUNTS, {}, "SPLIT_IS_TRAIN"),
        ({"weight": [1.0, -1.0, 1.0]}, COUNTS, {}, "WEIGHT_RANGE"),
        ({"item_id": ["a", "a", "c"]}, COUNTS, {}, "ITEM_UNIQUE"),
        ({"label": ["cat", "dog", "fox"]}, COUNTS, {}, "LABEL_IN_SET"),
        ({}, [("cat", 3, 1.0), ("dog", 0, 0.0)], {}, "ROWS_PER_CLASS"),
        ({}, [("cat", 2, 0.95), ("dog", 1, 0.05)], {}, "CLASS_SHARE"),
        ({}, COUNTS, {"leaked_items": 1}, "ITEM_LEAKAGE"),
        ({}, COUNTS, {"leaked_groups": 1}, "GROUP_LEAKAGE"),
        ({}, COUNTS, {"near_duplicates": 1}, "NEAR_DUPLICATE_OF_EXAM"),
        ({}, COUNTS, {"label_drift": 0.51}, "LABEL_DRIFT"),
    ],
)
def test_each_rule_on_a_dataset_can_fail(rows, counts, facts, code):
    checks = {"min_rows": 3, "min_per_class": 1, "drift_policy": "stop"}
    extra = {
        "classes": pd.DataFrame(counts, columns=["label", "num_rows", "share"]),
        "facts": pd.DataFrame(
            [{"leaked_items": 0, "leaked_groups": 0, "label_drift": 0.0, "near_duplicates": 0} | facts]
        ),
    }
    gate = {"exam": {"near_duplicates": {"policy": "stop"}}}
    suite = dataset_suite(project(checks=checks, gate=gate))
    result = run_suite(pd.DataFrame(ROWS | rows), suite, subject="s", extra=extra)
    assert result.code == code


@pytest.mark.parametrize(("policy", "expected"), [("exclude", "warn"), ("stop", "stop"), ("off", None)])
def test_the_rule_on_near_duplicates_follows_the_gate(policy, expected):
    suite = dataset_suite(project(gate={"exam": {"near_duplicates": {"policy": policy}}}))
    rules = {rule.name: rule.policy for rule in suite.rules}
    assert rules.get("NEAR_DUPLICATE_OF_EXAM") == expected
