import datetime as dt

import pytest

from pipeline_tasks.catalog.monitoring import AuditedPrediction
from pipeline_tasks.monitoring import drift
from pipeline_tasks.monitoring.drift import Histogram
from pipeline_tasks.monitoring.quality import measure
from pipeline_tasks.project import Monitor
from tests.unit.monitoring.builders import NOW

POLICY = Monitor(min_audited=10, window_audits=20, max_quality_drop=0.05)


def audited(*right: int) -> list[AuditedPrediction]:
    """Return audits of which one in each place is right (1) or wrong (0)."""
    return [
        AuditedPrediction(f"p{i}", "m1", "cat", "cat" if one else "dog", NOW + dt.timedelta(seconds=i))
        for i, one in enumerate(right)
    ]


@pytest.mark.parametrize(
    ("right", "exam", "state"),
    [
        ([1] * 9, 0.9, "INSUFFICIENT_DATA"),
        ([], 0.9, "INSUFFICIENT_DATA"),
        ([1] * 10, 0.9, "OK"),
        ([1] * 20, None, "NO_REFERENCE"),
        ([1, 0] * 10, 0.9, "ALARM"),
        # 16 of 20 against 0.9 is a drop of 0.1, but chance explains it: the interval reaches 0.919.
        ([1] * 16 + [0] * 4, 0.9, "OK"),
        ([1] * 14 + [0] * 6, 0.9, "ALARM"),
    ],
)
def test_an_alarm_needs_enough_audits_and_a_clear_drop(right, exam, state):
    assert measure("m1", audited(*right), exam_accuracy=exam, policy=POLICY).state == state


def test_a_small_drop_is_allowed_however_sure_it_is():
    policy = Monitor(min_audited=10, window_audits=10_000, max_quality_drop=0.05)
    right = ([1] * 86 + [0] * 14) * 100
    found = measure("m1", audited(*right), exam_accuracy=0.9, policy=policy)
    assert found.accuracy.high < 0.9
    assert found.state == "OK"


def test_only_the_newest_audits_count():
    found = measure("m1", audited(*([1] * 100 + [0] * 20)), exam_accuracy=0.9, policy=POLICY)
    assert (found.num_audited, found.accuracy.estimate, found.state) == (20, 0.0, "ALARM")


def test_the_interval_is_wilsons():
    # 15 of 20: Wilson 95 % is 0.5313 to 0.8881 (Brown, Cai, DasGupta 2001, by hand).
    found = measure("m1", audited(*([1] * 15 + [0] * 5)), exam_accuracy=0.9, policy=POLICY)
    assert found.accuracy.low == pytest.approx(0.5313, abs=1e-4)
    assert found.accuracy.high == pytest.approx(0.8881, abs=1e-4)
    assert found.text == "m1: 0.750 (0.531 to 0.888) on 20 audited, constant answer 0.750, exam 0.900, ALARM"


def test_quality_by_window_of_audits():
    found = measure("m1", audited(*([1] * 10 + [0] * 10 + [1] * 5)), exam_accuracy=0.9, policy=POLICY)
    assert [(one["num_audited"], one["estimate"]) for one in found.windows] == [(10, 1.0), (10, 0.0), (5, 1.0)]
    assert found.windows[0]["from"] == NOW.isoformat()


def test_without_audits_there_is_text_and_json_without_nan():
    found = measure("m1", [], exam_accuracy=None, policy=POLICY)
    assert found.text == "m1: nothing audited yet"
    assert found.as_json()["accuracy"] == {"estimate": None, "low": None, "high": None}


def flat(count: int, *, confidence: float, label="cat") -> Histogram:
    return drift.histogram([(label, confidence)] * count)


def test_a_histogram_counts_tenths_and_labels():
    found = drift.histogram([("cat", 0.0), ("cat", 0.05), ("dog", 0.95), ("dog", 1.0)])
    assert found.confidence == (2, 0, 0, 0, 0, 0, 0, 0, 0, 2)
    assert found.labels == {"cat": 2, "dog": 2}
    assert Histogram.from_json(found.as_json()) == found


def test_psi_is_zero_for_the_same_and_large_for_another():
    assert drift.psi([100, 200, 300], [100, 200, 300]) == 0
    assert drift.psi([300, 0], [0, 300]) == pytest.approx(12.7547, abs=1e-3)


def test_blocks_gather_small_windows_and_leave_out_the_unfull_rest():
    found = drift.blocks([flat(80, confidence=0.9)] * 6)
    assert [one.num_rows for one in found] == [240, 240]


@pytest.mark.parametrize(
    ("windows", "state"),
    [
        ([], "INSUFFICIENT_DATA"),
        ([flat(199, confidence=0.95)], "INSUFFICIENT_DATA"),
        ([flat(200, confidence=0.95)], "OK"),
        ([flat(200, confidence=0.35)], "WATCH"),
        ([flat(200, confidence=0.35), flat(200, confidence=0.35)], "DRIFT"),
        ([flat(200, confidence=0.35), flat(200, confidence=0.95)], "OK"),
        ([flat(200, confidence=0.95, label="dog"), flat(200, confidence=0.95, label="dog")], "DRIFT"),
    ],
)
def test_drift_is_a_large_difference_that_stays(windows, state):
    assert drift.measure(windows, exam=flat(500, confidence=0.95)).state == state


def test_without_an_exam_the_first_block_is_the_reference():
    found = drift.measure([flat(200, confidence=0.95), flat(200, confidence=0.35)], exam=None)
    assert (found.reference, found.state) == ("first predictions", "WATCH")
    assert drift.measure([flat(200, confidence=0.95)], exam=None).state == "INSUFFICIENT_DATA"


def test_much_traffic_alone_is_no_drift():
    exam = drift.histogram([("cat", 0.95)] * 500 + [("dog", 0.85)] * 500)
    traffic = drift.histogram([("cat", 0.95)] * 55_000 + [("dog", 0.85)] * 45_000)
    assert drift.measure([traffic, traffic], exam=exam).state == "OK"
