"""Post-processing: thresholds, abstaining, business labels, top k."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bento_services.gateway.postprocess import finish
from bento_services.gateway.routing.inference_client import Scores
from bento_services.gateway.routing.routes import ServingSettings

CLASSES = ("bag", "boot", "coat")
SCORES = Scores(CLASSES, (0.7, 0.2, 0.1))
PLAIN = ServingSettings()


def test_an_answer_is_the_best_class_the_top_k_and_whether_a_person_looks():
    assert finish(SCORES, ServingSettings(review_below=0.7, top_k=2)).answer("p1", "v1") == {
        "prediction_id": "p1",
        "model_version": "v1",
        "label": "bag",
        "confidence": 0.7,
        "business_label": "bag",
        "abstained": False,
        "top": [{"label": "bag", "confidence": 0.7}, {"label": "boot", "confidence": 0.2}],
        "needs_review": False,
    }
    assert finish(SCORES, ServingSettings(review_below=0.71)).needs_review is True


def test_equal_scores_are_ordered_by_name():
    tie = Scores(("b", "a"), (0.5, 0.5))
    assert [name for name, _ in finish(tie, PLAIN).top] == ["a", "b"]


@pytest.mark.parametrize(
    ("thresholds", "label", "confidence"),
    [
        ({"bag": 0.7}, "bag", 0.7),
        ({"bag": 0.71}, "boot", 0.2),
        ({"bag": 0.71, "boot": 0.21}, "coat", 0.1),
        ({"bag": 1.0, "boot": 1.0, "coat": 1.0}, None, 0.7),
        ({"hat": 1.0}, "bag", 0.7),
    ],
)
def test_the_answer_is_the_best_class_that_reaches_its_threshold(thresholds, label, confidence):
    answer = finish(SCORES, ServingSettings(thresholds=thresholds))
    assert (answer.label, answer.confidence, answer.answer("p", "v")["abstained"]) == (label, confidence, label is None)
    assert (answer.model_label, answer.model_confidence) == ("bag", 0.7)


@pytest.mark.parametrize(("below", "label"), [(0.7, "bag"), (0.700001, None)])
def test_below_the_floor_nothing_is_answered_and_a_person_looks(below, label):
    answer = finish(SCORES, ServingSettings(abstain_below=below, review_below=0.0))
    assert (answer.label, answer.business_label, answer.needs_review) == (label, label, label is None)
    assert answer.top[0] == ("bag", 0.7)


def test_a_business_label_is_told_beside_the_class():
    names = ServingSettings(business_labels={"bag": "Accessory"})
    assert (finish(SCORES, names).label, finish(SCORES, names).business_label) == ("bag", "Accessory")
    boots = dataclasses.replace(names, thresholds={"bag": 0.9})
    assert finish(SCORES, boots).business_label == "boot"


SHARES = st.lists(st.floats(0.0, 1.0), min_size=3, max_size=3)


@given(SHARES, SHARES, st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_whatever_the_settings_an_answer_reaches_its_threshold_and_silence_asks_a_person(p, limits, floor, review):
    settings = ServingSettings(
        thresholds=dict(zip(CLASSES, limits, strict=True)), abstain_below=floor, review_below=review
    )
    answer = finish(Scores(CLASSES, tuple(p)), settings)
    if answer.label is None:
        assert answer.needs_review
        assert all(value < max(limit, floor) for value, limit in zip(p, limits, strict=True))
    else:
        index = CLASSES.index(answer.label)
        assert p[index] >= max(limits[index], floor)
        better = [i for i in range(3) if p[i] > p[index]]
        assert all(p[i] < max(limits[i], floor) for i in better)
        assert answer.needs_review == (p[index] < review)
