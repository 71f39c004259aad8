import datetime as dt

import numpy as np
import pytest

from pipeline_tasks.catalog.monitoring import AuditedPrediction
from pipeline_tasks.core.proportions import wilson_interval
from pipeline_tasks.monitoring import drift
from pipeline_tasks.monitoring.detector import ExamCount
from pipeline_tasks.monitoring.drift import AnswerHistogram
from pipeline_tasks.monitoring.quality import VersionQuality
from pipeline_tasks.monitoring.quality import measure as measure_quality
from pipeline_tasks.project.schema import Monitor
from tests.unit.monitoring.builders import NOW

POLICY = Monitor(min_audited=10, window_audits=20, max_quality_drop=0.05)


A_YEAR = 7_300


def audited(*right: int, **changes) -> list[AuditedPrediction]:
    """Return audits of which one in each place is right (1) or wrong (0); `changes` are lists of as many values."""
    audits = []
    for i, is_right in enumerate(right):
        at = NOW + dt.timedelta(seconds=i)
        fields = {"item_id": f"i{i}", "predicted_at": at, "known_at": at}
        fields |= {name: values[i] for name, values in changes.items()}
        audits.append(AuditedPrediction(f"p{i:05}", "m1", "cat", "cat" if is_right else "dog", **fields))
    return audits


def measure(audits, *, exam_accuracy, policy=POLICY, exam_items=1000, a_year=A_YEAR) -> VersionQuality:
    exam = None if exam_accuracy is None else ExamCount(round(exam_accuracy * exam_items), exam_items)
    return measure_quality("m1", audits, exam=exam, policy=policy, audits_a_year=a_year)


@pytest.mark.parametrize(
    ("right", "exam", "state"),
    [
        ([1] * 9, 0.9, "INSUFFICIENT_DATA"),
        ([], 0.9, "INSUFFICIENT_DATA"),
        ([1] * 10, 0.9, "OK"),
        ([1] * 20, None, "NO_REFERENCE"),
        # A sure drop at one look is one of the many looks of a year: it is shown and wakes nobody.
        ([1, 0] * 10, 0.9, "WATCH"),
        ([0] * 20, 0.9, "ALARM"),
        # 16 of 20 against 0.9 is a drop of 0.1, but chance explains it: the interval reaches 0.919.
        ([1] * 16 + [0] * 4, 0.9, "OK"),
        ([1] * 14 + [0] * 6, 0.9, "WATCH"),
        ([1, 0] * 60, 0.9, "ALARM"),
        ([0] * 20, 0.0, "NO_REFERENCE"),  # there is nothing to drop below
    ],
)
def test_an_alarm_needs_enough_audits_and_a_clear_drop(right, exam, state):
    assert measure(audited(*right), exam_accuracy=exam, policy=POLICY).state == state


def test_what_the_exam_leaves_open_is_no_drop():
    policy = Monitor(min_audited=10, window_audits=10_000, max_quality_drop=0.05)
    right = ([1] * 86 + [0] * 14) * 100
    quality = measure(audited(*right), exam_accuracy=0.9, policy=policy)
    assert quality.accuracy.high < 0.9
    assert quality.state == "ALARM"  # 10,000 audits are at 0.86, the exam's bound at 0.888
    near = measure(audited(*([1] * 8 + [0]) * 1000), exam_accuracy=0.9, policy=policy, exam_items=200)
    assert near.accuracy.high < 0.9
    assert near.state == "OK"  # no lower than the exam of 200 may really be


def test_only_the_newest_audits_count():
    quality = measure(audited(*([1] * 100 + [0] * 20)), exam_accuracy=0.9, policy=POLICY)
    assert (quality.num_audited, quality.accuracy.estimate, quality.state) == (20, 0.0, "ALARM")


def test_the_interval_is_wilsons():
    # 15 of 20: Wilson 95 % is 0.5313 to 0.8881 (Brown, Cai, DasGupta 2001, by hand).
    quality = measure(audited(*([1] * 15 + [0] * 5)), exam_accuracy=0.9, policy=POLICY)
    assert quality.accuracy.low == pytest.approx(0.5313, abs=1e-4)
    assert quality.accuracy.high == pytest.approx(0.8881, abs=1e-4)
    assert quality.text == (
        "m1: 0.750 (0.531 to 0.888) on 20 audited, constant answer 0.750, exam 0.900 (at least 0.887), "
        "WATCH at 0.2 false alarms a year"
    )


def test_quality_by_window_of_audits():
    quality = measure(audited(*([1] * 10 + [0] * 10 + [1] * 5)), exam_accuracy=0.9, policy=POLICY)
    assert [(window["num_audited"], window["estimate"]) for window in quality.windows] == [
        (10, 1.0),
        (10, 0.0),
        (5, 1.0),
    ]
    assert quality.windows[0]["from"] == NOW.isoformat()


def test_without_audits_there_is_text_and_json_without_nan():
    quality = measure([], exam_accuracy=None, policy=POLICY)
    assert quality.text == "m1: nothing audited yet"
    assert quality.as_json()["accuracy"] == {"estimate": None, "low": None, "high": None}


def flat(count: int, *, confidence: float, label="cat") -> AnswerHistogram:
    return drift.histogram([(label, confidence)] * count)


def test_a_histogram_counts_tenths_and_labels():
    counts = drift.histogram([("cat", 0.0), ("cat", 0.05), ("dog", 0.95), ("dog", 1.0)])
    assert counts.confidence == (2, 0, 0, 0, 0, 0, 0, 0, 0, 2)
    assert counts.labels == {"cat": 2, "dog": 2}
    assert AnswerHistogram.from_json(counts.as_json()) == counts


def test_psi_is_zero_for_the_same_and_large_for_another():
    assert drift.psi([100, 200, 300], [100, 200, 300]) == 0
    assert drift.psi([300, 0], [0, 300]) == pytest.approx(12.7547, abs=1e-3)


def test_blocks_gather_small_windows_and_leave_out_the_unfull_rest():
    blocks = drift.blocks([flat(80, confidence=0.9)] * 6)
    assert [block.num_rows for block in blocks] == [240, 240]


def drift_of(windows, *, exam, num_classes=2):
    return drift.measure(windows, exam=exam, num_classes=num_classes)


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
    assert drift_of(windows, exam=flat(500, confidence=0.95)).state == state


def test_without_an_exam_the_first_block_is_the_reference():
    measured = drift_of([flat(200, confidence=0.95), flat(200, confidence=0.35)], exam=None)
    assert (measured.reference, measured.state) == ("first predictions", "WATCH")
    assert drift_of([flat(200, confidence=0.95)], exam=None).state == "INSUFFICIENT_DATA"


def test_much_traffic_alone_is_no_drift():
    exam = drift.histogram([("cat", 0.95)] * 500 + [("dog", 0.85)] * 500)
    traffic = drift.histogram([("cat", 0.95)] * 55_000 + [("dog", 0.85)] * 45_000)
    assert drift_of([traffic, traffic], exam=exam).state == "OK"


def sample(random, *, size: int, num_classes: int) -> AnswerHistogram:
    labels = random.integers(0, num_classes, size)
    return drift.histogram(zip((f"c{label}" for label in labels), random.beta(5, 2, size), strict=True))


@pytest.mark.parametrize(("num_classes", "exam"), [(2, 100), (20, 100), (50, 300), (100, 1000)])
def test_two_samples_of_one_law_are_no_drift(num_classes, exam):
    """Before: 20 classes beside an exam of 100 were DRIFT at once in 13 to 30 %, 50 and 100 classes always."""
    random = np.random.default_rng(num_classes)
    far = 0
    for _ in range(50):
        reference = sample(random, size=exam, num_classes=num_classes)
        blocks = [sample(random, size=drift.least_rows(num_classes) + 200, num_classes=num_classes) for _ in range(2)]
        measured = drift.measure(blocks, exam=reference, num_classes=num_classes)
        assert measured.state != "INSUFFICIENT_DATA"
        far += measured.state == "DRIFT"
    assert far <= 1


def test_half_of_the_classes_gone_is_drift():
    random = np.random.default_rng(1)
    reference = sample(random, size=300, num_classes=50)
    blocks = [sample(random, size=300, num_classes=25) for _ in range(2)]
    assert drift.measure(blocks, exam=reference, num_classes=50).state == "DRIFT"


@pytest.mark.parametrize(
    ("num_classes", "exam", "state"),
    [(2, 49, "INSUFFICIENT_DATA"), (2, 50, "OK"), (20, 99, "INSUFFICIENT_DATA"), (20, 100, "OK")],
)
def test_small_exams_are_no_reference(num_classes, exam, state):
    """Drift was said against an exam of 10 to 50 items though nothing moved."""
    measured = drift.measure([flat(200, confidence=0.95)], exam=flat(exam, confidence=0.95), num_classes=num_classes)
    assert (measured.state, measured.num_needed) == (state, 5 * max(10, num_classes))


def test_a_block_holds_five_predictions_a_class():
    measured = drift.measure([flat(200, confidence=0.95)] * 3, exam=flat(600, confidence=0.95), num_classes=100)
    assert (measured.state, measured.num_rows, measured.num_needed) == ("OK", 600, 500)


def test_the_chances_of_picks_weigh():
    """Half of the answers are right; those of the quiet run stand for themselves, the others for nine each."""
    audits = audited(*([1, 0] * 10), inclusion=[0.9, 0.1] * 10)
    quality = measure(audits, exam_accuracy=None)
    assert quality.accuracy.estimate == pytest.approx(0.1)
    # As sure as (10 * 1 + 10 * 9) ** 2 / (10 * 1 + 10 * 81) = 12.2 answers that weigh the same.
    assert quality.accuracy.high == pytest.approx(wilson_interval(1.2195122, 12.195122).high)


def test_evidence_follows_the_order_in_which_answers_became_known():
    """A label that comes late changes what comes after it, not what was said before."""
    late = [NOW + dt.timedelta(days=1)] + [NOW] * 19
    wrong_first = measure(audited(0, *[1] * 19), exam_accuracy=0.9).evidence
    wrong_last = measure(audited(0, *[1] * 19, known_at=late), exam_accuracy=0.9).evidence
    assert wrong_last == pytest.approx(measure(audited(*[1] * 19, 0), exam_accuracy=0.9).evidence)
    assert wrong_last > wrong_first
