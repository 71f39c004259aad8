import pandas as pd
import pytest

from data_checks import runner
from data_checks.chunks import run_suite
from data_checks.result import CheckResult, RuleResult
from data_checks.rules import Rule, Suite, extend
from data_checks.runner import judge
from pipeline_tasks.errors import ConfigError, GateClosed


def suite(*rules: Rule, **changes) -> Suite:
    return Suite(**{"name": "test", "stage": "labels", "rules": rules, "required": ("item_id", "label")} | changes)


def frame(**columns) -> pd.DataFrame:
    return pd.DataFrame({"item_id": ["a", "b", "c", "d"], "label": ["x", "y", "x", "z"]} | columns)


KNOWN = Rule("KNOWN", "ExpectColumnValuesToBeInSet", {"column": "label", "value_set": ["x", "y"]}, expected="x or y")
UNIQUE = Rule("UNIQUE", "ExpectColumnValuesToBeUnique", {"column": "item_id"}, expected="each once")


def with_policy(rule: Rule, policy: str) -> Rule:
    return Rule(rule.name, rule.expectation, rule.arguments, policy, rule.table, rule.expected)


def test_all_rules_hold():
    result = run_suite(frame(label=["x", "y", "x", "y"]), suite(KNOWN, UNIQUE), subject="s")
    assert (result.success, result.severity, result.code, result.failures) == (True, "ok", None, ())
    assert result.statistics["num_rows"] == 4


@pytest.mark.parametrize(
    ("policy", "success", "severity", "code", "quarantined"),
    [
        ("stop", False, "stop", "KNOWN", {}),
        ("warn", True, "warn", None, {}),
        ("quarantine", True, "quarantine", None, {"d": ("KNOWN",)}),
    ],
)
def test_a_failure_follows_the_rules_policy(policy, success, severity, code, quarantined):
    result = run_suite(frame(), suite(with_policy(KNOWN, policy)), subject="s")
    assert (result.success, result.severity, result.code) == (success, severity, code)
    assert result.quarantined == quarantined
    (failure,) = result.failures
    assert (failure.num_failed, failure.num_checked, failure.failing_ids) == (1, 4, ("d",))
    assert failure.line == "KNOWN: x or y (got 1 of 4: z)."


def test_all_failing_rows_are_named_even_when_there_are_many():
    many = pd.DataFrame({"item_id": [f"{i:04}" for i in range(500)], "label": ["bad"] * 500})
    (failure,) = run_suite(many, suite(KNOWN), subject="s").failures
    assert failure.failing_ids == tuple(f"{i:04}" for i in range(500))


def test_row_ids_do_not_depend_on_the_index_of_the_table():
    shuffled = frame().set_axis([7, 7, 0, 3])
    assert run_suite(shuffled, suite(KNOWN), subject="s").failures[0].failing_ids == ("d",)


def test_both_rows_of_a_duplicate_fail_under_one_id():
    result = run_suite(frame(item_id=["a", "b", "c", "c"]), suite(UNIQUE), subject="s")
    assert result.failures[0].failing_ids == ("c",)
    assert result.failures[0].num_failed == 2


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame().iloc[:0], "EMPTY_BATCH"),
        (frame(label=["x"] * 4), "SINGLE_CLASS"),
        (frame(label=[None] * 4), "ALL_NULL"),
        (frame().drop(columns="label"), "MISSING_COLUMN"),
    ],
)
def test_guards_stop_what_the_suite_would_let_through(data, code, monkeypatch):
    monkeypatch.setattr(runner, "_validate", lambda *_: pytest.fail("the suite must not run"))
    result = run_suite(data, suite(KNOWN, min_classes=2), subject="s")
    assert (result.success, result.code, result.severity) == (False, code, "stop")


@pytest.mark.parametrize("data", [frame().iloc[:0], frame(label=[None] * 4)])
def test_great_expectations_itself_passes_those(data):
    # The reason for the guards: the day that this fails, they may go.
    answers = runner._validate(data, [KNOWN, UNIQUE])
    assert all(answer.success for answer in answers.values())


def test_a_rule_that_cannot_be_evaluated_stops_whatever_its_policy():
    broken = Rule("BROKEN", "ExpectColumnValuesToBeBetween", {"column": "nowhere", "min_value": 0}, "warn")
    result = run_suite(frame(label=["x"] * 4), suite(KNOWN, broken), subject="s")
    assert (result.success, result.code) == (False, "CHECK_ERROR")
    assert 'The column "nowhere" in BatchData does not exist' in result.failures[0].error


@pytest.mark.parametrize("expectation", ["ExpectNothingThatExists", "ExpectColumnValuesToBeInSet"])
def test_an_expectation_that_cannot_be_built_stops(expectation):
    result = run_suite(frame(), suite(UNIQUE, Rule("BAD", expectation, {"colour": 1}, "warn")), subject="s")
    assert (result.success, result.code) == (False, "CHECK_ERROR")
    assert all(rule.error for rule in result.rules)


def test_a_validation_that_answers_less_than_it_was_asked_stops(monkeypatch):
    validate = runner._validate
    monkeypatch.setattr(runner, "_validate", lambda *args: {"KNOWN": validate(*args)["KNOWN"]})
    result = run_suite(frame(label=["x"] * 4), suite(KNOWN, UNIQUE), subject="s")
    assert (result.success, result.failures[0].error) == (False, "no answer from the validation")


def test_a_flaky_answer_is_not_a_pass(monkeypatch):
    validate = runner._validate

    def undecided(*args):
        answers = validate(*args)
        answers["KNOWN"].success = None
        return answers

    monkeypatch.setattr(runner, "_validate", undecided)
    assert run_suite(frame(label=["x"] * 4), suite(KNOWN), subject="s").success is False


def test_a_suite_without_rules_stops():
    assert run_suite(frame(), suite(), subject="s").code == "SUITE_EMPTY"


def test_a_missing_table_stops():
    result = run_suite(
        frame(), suite(Rule("FACT", "ExpectTableRowCountToBeBetween", {"min_value": 1}, table="facts")), subject="s"
    )
    assert result.failures[0].error == "the table 'facts' is missing or empty"
    assert result.success is False


@pytest.mark.parametrize(("share", "code"), [(0.25, None), (0.24, "TOO_MANY_BAD_ROWS")])
def test_too_great_a_share_of_bad_rows_stops(share, code):
    result = run_suite(frame(), suite(with_policy(KNOWN, "quarantine"), max_quarantine_share=share), subject="s")
    assert result.code == code
    assert result.quarantined == {"d": ("KNOWN",)}


def test_closing_the_gate_lists_ten_failures_the_stopping_ones_first():
    rules = [RuleResult(f"R{index:02}", "warn", success=False, expected="e", observed="o") for index in range(12)]
    rules.append(RuleResult("ZZZ", "stop", success=False, expected="e", observed="o"))
    result = judge(suite(), rules, subject="batch", suite_id="test@1", statistics={}, num_quarantined=0)
    with pytest.raises(
        GateClosed, match=r"labels of batch must pass the suite test@1: ZZZ: e \(got o\)\. R00"
    ) as caught:
        result.require(report="reports/x.html")
    message = str(caught.value)
    assert "R08" in message
    assert "R09" not in message
    assert "and 3 more The champion stays; the full report is reports/x.html." in message
    assert caught.value.code == "ZZZ"


def test_a_passed_check_does_not_close_the_gate():
    judge(suite(), [], subject="s", suite_id="x", statistics={}, num_quarantined=0).require(report="r")


def test_the_suite_id_follows_rules_and_context():
    base = suite(KNOWN).suite_id()
    assert base.startswith("test@")
    assert suite(KNOWN).suite_id() == base
    others = [
        suite(KNOWN, UNIQUE).suite_id(),
        suite(with_policy(KNOWN, "warn")).suite_id(),
        suite(KNOWN, min_classes=2).suite_id(),
        suite(KNOWN).suite_id({"exam": "e1"}),
        suite(KNOWN).suite_id({"exam": "e2"}),
    ]
    assert len({base, *others}) == 6


def test_a_users_rule_replaces_the_stock_rule_of_its_name():
    mine = with_policy(KNOWN, "warn")
    extended = extend(suite(KNOWN, UNIQUE), [mine, Rule("NEW", "X")])
    assert [rule.name for rule in extended.rules] == ["KNOWN", "UNIQUE", "NEW"]
    assert extended.rules[0] is mine


def test_two_rules_of_one_name_are_refused():
    with pytest.raises(ConfigError, match=r"rule names must be unique .got 'NEW' twice"):
        extend(suite(), [Rule("NEW", "X"), Rule("NEW", "Y")])


def test_failures_for_the_catalog_hold_ten_ids_at_most():
    many = pd.DataFrame({"item_id": [f"{i:02}" for i in range(50)], "label": ["bad"] * 50})
    result: CheckResult = run_suite(many, suite(KNOWN), subject="s")
    (failure,) = result.failures_json()
    assert (failure["num_failed"], len(failure["failing_ids"]), failure["rule"]) == (50, 10, "KNOWN")
