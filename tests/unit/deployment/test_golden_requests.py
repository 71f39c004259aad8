import math

import pytest

from pipeline_tasks.deployment.golden_requests import (
    GoldenAnswer,
    compare_golden,
    golden_answers,
    golden_bytes,
    spread_over,
    tolerance_of,
)

GOLDEN = GoldenAnswer("item-1", {"a": 0.75, "b": 0.25})


def body(**changes):
    return {"model_version": "m1", "labels": ["a", "b"], "probabilities": [0.75, 0.25], **changes}


def test_equal_answers_pass():
    check = compare_golden([GOLDEN], {"item-1": body(probabilities=[0.75005, 0.24995])}, model_version="m1")
    assert check.passed
    assert check.max_difference == pytest.approx(5e-5)


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        (body(probabilities=[0.7502, 0.2498]), "must agree within"),
        (body(probabilities=[math.nan, 0.25]), "must be finite"),
        (body(labels=["a", "c"]), "labels must be"),
        (body(labels=["a"], probabilities=[0.75]), "labels must be"),
        (body(model_version="m2"), r"model_version must be m1 \(got m2\)"),
        ("HTTP 500", "HTTP 500"),
    ],
)
def test_each_difference_is_named(answer, failure):
    import re

    check = compare_golden([GOLDEN], {"item-1": answer}, model_version="m1")
    assert not check.passed
    assert re.search(failure, check.failures[0])


def test_an_item_without_an_answer_fails():
    assert compare_golden([GOLDEN], {}, model_version="m1").failures == ("item-1: no answer",)


def test_no_golden_request_at_all_is_not_a_pass():
    assert not compare_golden([], {}, model_version="m1").passed


@pytest.mark.parametrize(
    ("runtime", "passes"), [("eager", False), ("onnx", False), ("onnx-int8", False), ("amp", True)]
)
def test_bfloat16_may_differ_by_more_and_what_was_allowed_is_kept(runtime, passes):
    golden = GoldenAnswer("item-1", GOLDEN.probabilities, tolerance_of(runtime))
    (kept,) = golden_answers(golden_bytes([golden]))
    assert kept == golden
    check = compare_golden([kept], {"item-1": body(probabilities=[0.74, 0.26])}, model_version="m1")
    assert (check.passed, check.tolerance) == (passes, golden.tolerance)


def test_answers_that_were_kept_without_a_tolerance_have_the_usual_one():
    assert golden_answers(b'[{"item_id":"item-1","probabilities":{"a":0.75,"b":0.25}}]') == [GOLDEN]


@pytest.mark.parametrize(
    ("num_items", "chosen"), [(0, []), (3, [0, 1, 2]), (8, list(range(8))), (17, [0, 2, 4, 6, 8, 10, 12, 14])]
)
def test_the_items_that_are_asked_are_from_all_over_an_exam(num_items, chosen):
    assert spread_over([str(number) for number in range(num_items)]) == [str(number) for number in chosen]
