import math

import pytest

from pipeline_tasks.release.golden import GoldenAnswer, compare_golden

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
