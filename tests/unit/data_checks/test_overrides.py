import textwrap
from pathlib import Path

import pandas as pd
import pytest

from data_checks.chunks import run_suite
from data_checks.overrides import project_rules
from data_checks.rules import Rule, Suite
from pipeline_tasks.errors import ConfigError


def write(folder, text: str):
    (folder / "checks.py").write_text(textwrap.dedent(text))
    return folder


OWN = """
    import great_expectations as gx
    from data_checks.rules import Rule

    def expectations(stage):
        if stage != "labels":
            return []
        return [
            gx.expectations.ExpectColumnValuesToNotMatchRegex(column="label", regex="x", severity="warning"),
            gx.expectations.ExpectColumnValueLengthsToBeBetween(
                column="label", max_value=1, meta={"policy": "quarantine", "name": "short"}, description="one letter"
            ),
            Rule("ROWS", "ExpectTableRowCountToBeBetween", {"min_value": 1}),
        ]
"""


def test_without_the_file_there_are_no_rules(tmp_path):
    assert project_rules(tmp_path, "items") == ()


def test_rules_and_expectation_objects_are_taken(tmp_path):
    rules = project_rules(write(tmp_path, OWN), "labels")
    assert [(rule.name, rule.policy) for rule in rules] == [
        ("EXPECT_COLUMN_VALUES_TO_NOT_MATCH_REGEX_LABEL", "warn"),
        ("SHORT", "quarantine"),
        ("ROWS", "stop"),
    ]
    assert rules[1].expected == "one letter"
    assert project_rules(tmp_path, "items") == ()


def test_they_run_and_count(tmp_path):
    rules = project_rules(write(tmp_path, OWN), "labels")
    frame = pd.DataFrame({"item_id": ["a", "b"], "label": ["x", "long"]})
    own = Suite(name="own", stage="labels", rules=rules, required=("item_id",))
    result = run_suite(frame, own, subject="s")
    assert result.quarantined == {"b": ("SHORT",)}
    assert [rule.name for rule in result.failures] == ["EXPECT_COLUMN_VALUES_TO_NOT_MATCH_REGEX_LABEL", "SHORT"]
    # The id of a suite with objects in it is the same in the next process.
    assert (
        own.suite_id()
        == Suite(name="own", stage="labels", rules=project_rules(tmp_path, "labels"), required=("item_id",)).suite_id()
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nowhere_at_all", "must import without error .got ModuleNotFoundError"),
        ("x = (", "must import without error .got SyntaxError"),
        ("x = 1", "must define `expectations.stage.`"),
        ("def expectations(stage): raise ValueError('boom')", "must return a list .got ValueError: boom"),
        ("def expectations(stage): return None", "must return a list .got TypeError"),
        ("def expectations(stage): return ['text']", "Rule values or Great Expectations objects .got str"),
    ],
)
def test_a_wrong_file_is_refused_with_its_name(tmp_path, text, message):
    with pytest.raises(ConfigError, match=rf"checks\.py: .*{message}"):
        project_rules(write(tmp_path, text), "labels")


def test_an_unknown_policy_is_refused(tmp_path):
    text = """
        import great_expectations as gx
        def expectations(stage):
            return [gx.expectations.ExpectColumnToExist(column="a", meta={"policy": "ignore"})]
    """
    with pytest.raises(ConfigError, match=r"must be quarantine, warn or stop .got 'ignore'"):
        project_rules(write(tmp_path, text), "items")


def test_a_rule_is_a_value():
    assert Rule("A", "X", {"column": "c"}) == Rule("A", "X", {"column": "c"})


def test_the_documented_file_works(tmp_path):
    text = (Path(__file__).resolve().parents[3] / "docs" / "checks.md").read_text()
    (tmp_path / "checks.py").write_text(text.split("```python\n")[1].split("```")[0])
    rules = project_rules(tmp_path, "items")
    frame = pd.DataFrame({"item_id": ["a", "b"], "width": [28, 30], "pixel_mean": [1.0, 90.0]})
    result = run_suite(frame, Suite(name="own", stage="items", rules=rules, required=("item_id",)), subject="s")
    assert result.quarantined == {"b": ("EXPECT_COLUMN_VALUES_TO_BE_BETWEEN_WIDTH",)}
    assert [(rule.name, rule.success) for rule in result.rules][1] == ("DARK", False)
    assert project_rules(tmp_path, "labels") == ()
