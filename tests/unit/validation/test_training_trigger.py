import pyarrow as pa
import pytest

from pipeline_tasks.validation.check_tables import (
    classes_frame,
    count_classes,
    excess_js_distance,
    js_distance,
    labels_frame,
)
from pipeline_tasks.validation.training_trigger import count_new, enough_new_labels


@pytest.mark.parametrize(
    ("num_new", "force", "alarm", "train", "code"),
    [
        (0, False, False, False, "TOO_FEW_NEW_LABELS"),
        (199, False, False, False, "TOO_FEW_NEW_LABELS"),
        (200, False, False, True, "ENOUGH_NEW_LABELS"),
        (0, True, False, True, "FORCED"),
        (0, False, True, False, "TOO_FEW_NEW_LABELS"),
        (49, False, True, False, "TOO_FEW_NEW_LABELS"),
        (50, False, True, True, "QUALITY_ALARM"),
    ],
)
def test_when_to_train(num_new, force, alarm, train, code):
    decision = enough_new_labels(project="pets", num_new=num_new, minimum=200, force=force, alarm=alarm)
    assert (decision.train, decision.code, decision.num_new_labels) == (train, code, num_new)


def test_the_reason_says_how_many_are_missing():
    assert enough_new_labels(project="pets", num_new=7, minimum=200).reason == (
        "train.min_new_labels must be reached (got 7 new labels of 200). Label more items, or let "
        "`dethrone train pets --force` train and judge with what there is."
    )


def test_an_alarm_with_a_minimum_of_one_needs_one_label():
    assert enough_new_labels(project="pets", num_new=0, minimum=1, alarm=True).train is False
    assert enough_new_labels(project="pets", num_new=1, minimum=1, alarm=True).train is True


def test_new_are_new_items_and_corrected_labels():
    known = [{("a", "cat")}, {("b", "dog")}]
    assert count_new([("a", "cat"), ("b", "cat"), ("c", "dog")], known=known) == 2
    assert count_new([("a", "cat")], known=[]) == 1


@pytest.mark.parametrize(
    ("first", "other", "distance"),
    [
        ({"a": 1, "b": 1}, {"a": 5, "b": 5}, 0.0),
        ({"a": 1}, {"b": 1}, 1.0),
        ({"a": 1, "b": 1}, {"a": 1}, 0.5579),  # sqrt((0.75 log 0.75 ... ) by hand: sqrt(0.311278)
        ({}, {"a": 1}, None),
        ({"a": 0}, {"a": 1}, None),
    ],
)
def test_jensen_shannon_distance(first, other, distance):
    measured = js_distance(first, other)
    assert measured == (None if distance is None else pytest.approx(distance, abs=1e-4))
    assert js_distance(other, first) == measured


@pytest.mark.parametrize(
    ("first", "other", "distance"),
    [
        ({"a": 10, "b": 10}, {"a": 12, "b": 8}, 0.0),  # 20 and 20 rows of one law differ by as much
        ({"a": 10000, "b": 10000}, {"a": 12000, "b": 8000}, 0.0853),
        ({"a": 1}, {"b": 1}, 0.7996),  # sqrt(1 - 2 / (8 ln 2))
        ({}, {"a": 1}, None),
    ],
)
def test_what_two_samples_of_one_law_differ_by_is_no_drift(first, other, distance):
    measured = excess_js_distance(first, other)
    assert measured == (None if distance is None else pytest.approx(distance, abs=1e-4))


def test_classes_are_counted_in_the_projects_order_with_zeros_and_strangers():
    counts = count_classes(["dog", "fox", "dog"], ["cat", "dog"])
    assert list(counts.items()) == [("cat", 0), ("dog", 2), ("fox", 1)]
    assert classes_frame(counts)["share"].tolist() == [0.0, 2 / 3, 1 / 3]


def test_a_label_that_came_with_the_data_has_its_source_as_annotator():
    columns = {
        "item_id": ["a", "b", "c"],
        "label": ["x", "y", "z"],
        "method": ["imported", "single", "consensus"],
        "annotators": [[], [], ["ann", "bob"]],
        "agreement": [None, None, 1.0],
    }
    assert labels_frame(pa.table(columns))["num_annotators"].tolist() == [1, 0, 2]
