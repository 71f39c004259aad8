import dataclasses
import datetime as dt

import pytest

from pipeline_tasks.catalog import tables as t
from pipeline_tasks.contracts import Attempt, as_json
from pipeline_tasks.errors import StaleAttempt
from pipeline_tasks.ingest.exam_split import split_of
from pipeline_tasks.monitoring import log_import, quality
from tests.unit.monitoring.builders import NOW, SPLIT_KEY, feedback, record
from tests.unit.validation.builders import png


def split_of_group(group: str) -> str:
    return split_of(group, project="pets", split_key=SPLIT_KEY, exam_share=0.3)


def group_of(side: str) -> str:
    return next(f"user-{n}" for n in range(100) if split_of_group(f"user-{n}") == side)


def test_an_empty_log_says_so_and_raises_no_alarm(new_production):
    report = new_production().run()
    assert (report.num_parts, report.num_predictions, report.state) == (0, 0, "INSUFFICIENT_DATA")
    assert (report.alarms, report.wake_training, report.quality) == ((), False, "nothing audited yet")
    as_json(report)


def test_audits_become_items_and_labeling_tasks(new_production):
    production = new_production(audit_share=1.0)
    production.log(*[record(number, user_key=f"user-{number}") for number in range(30)])
    report = production.run()
    assert (report.num_parts, report.num_predictions, report.num_audits, report.num_uncertain) == (1, 30, 30, 0)
    items = {row["item_id"]: row for row in production.rows(t.items)}
    assert {row["origin"] for row in items.values()} == {"production"}
    assert {row["source"] for row in items.values()} == {"production"}
    tasks = production.rows(t.labeling_tasks)
    assert len(tasks) == 30
    for task in tasks:
        item = items[task["item_id"]]
        assert item["split"] == split_of_group(item["group_key"])
        assert task["queue"] == "exam"  # asked of as many people as the exam, whatever side the item is on
        assert (task["reason"], task["prediction"]) == ("audit", None)
    assert {row["split"] for row in items.values()} == {"train", "exam"}
    audits = production.rows(t.audits)
    assert {row["prediction_id"] for row in audits} == {f"p{number:05}" for number in range(30)}
    assert {(row["kind"], row["model_version"], row["predicted_label"]) for row in audits} == {("audit", "m1", "cat")}


def test_unsure_answers_go_to_people_with_what_the_model_said(new_production):
    production = new_production(max_uncertain=2)
    train = group_of("train")
    production.log(
        record(1, confidence=0.4, user_key=train),
        record(2, confidence=0.3, user_key=train, label="dog"),
        record(3, confidence=0.2, user_key=train),
    )
    report = production.run()
    assert (report.num_audits, report.num_uncertain) == (0, 2)
    tasks = sorted(production.rows(t.labeling_tasks), key=lambda row: -row["priority"])
    assert [task["prediction"] for task in tasks] == [{"label": "cat", "score": 0.2}, {"label": "dog", "score": 0.3}]
    assert [task["priority"] for task in tasks] == [0.8, 0.7]
    assert {task["reason"] for task in tasks} == {"uncertain"}


def test_unsure_answers_of_the_exam_side_are_left_alone(new_production):
    production = new_production(max_uncertain=10)
    production.log(record(1, confidence=0.1, user_key=group_of("exam")))
    assert production.run().num_uncertain == 0
    assert production.rows(t.items) == []


def test_a_prediction_that_is_both_is_an_audit(new_production):
    production = new_production(audit_share=1.0, max_uncertain=10)
    production.log(*[record(number, confidence=0.1) for number in range(5)])
    report = production.run()
    assert (report.num_audits, report.num_uncertain) == (5, 0)


def test_what_people_were_asked_before_is_not_asked_again(new_production):
    production = new_production(max_uncertain=5)
    train = group_of("train")
    production.log(record(1, confidence=0.1, user_key=train))
    assert production.run("run-1").num_uncertain == 1
    production.log(record(2, confidence=0.1, user_key=train, payload=png(1)), record(3, confidence=0.2, user_key=train))
    report = production.run("run-2")
    assert report.num_uncertain == 1
    assert {row["prediction_id"] for row in production.rows(t.audits)} == {"p00001", "p00003"}


def test_a_part_is_read_once_and_the_same_prediction_counts_once(new_production):
    production = new_production(audit_share=1.0)
    production.log(*[record(number) for number in range(4)])
    production.log(*[record(number) for number in range(2, 6)])  # shipped twice, in other company
    assert production.run("run-1").num_predictions == 6
    assert len(production.rows(t.audits)) == 6
    again = production.run("run-2")
    assert (again.num_parts, again.num_audits) == (0, 0)


def test_failed_requests_are_counted_and_never_picked(new_production):
    production = new_production(audit_share=1.0, max_uncertain=10)
    failed = record(
        2, status=503, prediction_id=None, label=None, confidence=None, model_version=None, error_code="MODEL_FAILED"
    )
    production.log(record(1), failed)
    report = production.run()
    assert (report.num_predictions, report.num_errors, report.num_audits) == (1, 1, 1)


def test_an_input_that_no_guard_takes_is_counted(new_production):
    production = new_production(audit_share=1.0)
    production.log(record(1, payload=b"no image at all"), record(2))
    report = production.run()
    assert (report.num_audits, report.num_refused) == (1, 1)


def test_feedback_becomes_outcomes_and_no_label(new_production):
    production = new_production()
    production.log(
        record(1),
        feedback(1, "dog"),
        feedback(1, "dog"),
        feedback(2, "cat", prediction_id=None, business_key="order-7"),
    )
    assert production.run().num_feedback == 3
    outcomes = {(row["prediction_id"], row["business_key"], row["label"]) for row in production.rows(t.outcomes)}
    assert outcomes == {("p00001", None, "dog"), (None, "order-7", "cat")}
    assert len(production.rows(t.outcomes)) == 2
    assert production.rows(t.label_decisions) == []


def test_the_budget_of_a_run_holds_under_a_flood(new_production):
    production = new_production(audit_share=1.0, max_audits=7, max_uncertain=5, max_share_per_client=1.0)
    train = group_of("train")
    production.log(*[record(number, confidence=0.1, needs_review=True, user_key=train) for number in range(60)])
    report = production.run()
    assert (report.num_audits, report.num_uncertain) == (7, 5)
    assert len(production.rows(t.labeling_tasks)) == 12


def test_a_long_log_is_read_over_several_runs(new_production, monkeypatch):
    monkeypatch.setattr(log_import, "MAX_PARTS", 2)
    production = new_production()
    for number in range(5):
        production.log(record(number))
    assert [production.run(f"run-{n}").num_parts for n in range(4)] == [2, 2, 1, 0]


def test_a_damaged_part_is_named(new_production):
    production = new_production()
    production.store.objects["predictions/pets/2026-03-01/x.parquet"] = b"no parquet"
    assert (production.run().num_parts, production.run("run-2").num_refused) == (0, 1)
    (row,) = production.rows(t.quarantine)
    assert (row["key"], row["code"]) == ("predictions/pets/2026-03-01/x.parquet", "PART_CORRUPT")


def test_a_stale_attempt_records_nothing(new_production, monkeypatch):
    production = new_production(audit_share=1.0)
    production.log(record(1))
    read = log_import.read_part

    def overtaken(*args, **kwargs):
        production.database.acquire("monitor/pets", Attempt("run-1", "monitor", 2), now=NOW)
        return read(*args, **kwargs)

    monkeypatch.setattr(log_import, "read_part", overtaken)
    with pytest.raises(StaleAttempt, match="must hold the lease"):
        production.run()
    assert [production.rows(table) for table in (t.audits, t.items, t.labeling_tasks, t.prediction_parts)] == [[]] * 4


def with_audits(production, *, right: int, wrong: int, start=0, version="m1") -> None:
    numbers = range(start, start + right + wrong)
    production.log(*[record(number, model_version=version) for number in numbers])
    production.run(f"import-{start}")
    audits = {row["prediction_id"]: row["item_id"] for row in production.rows(t.audits)}
    for number in numbers:
        production.decide(audits[f"p{number:05}"], "cat" if number < start + right else "dog")


def test_quality_of_the_champion_is_compared_with_its_exam(new_production):
    production = new_production(audit_share=1.0)
    production.crown("m1", accuracy=0.9)
    with_audits(production, right=18, wrong=2)
    report = production.run("run-2")
    assert (report.state, report.alarms) == ("OK", ())
    assert report.quality == (
        "m1: 0.900 (0.699 to 0.972) on 20 audited, constant answer 0.900, exam 0.900 (at least 0.887), "
        "OK at 0.2 false alarms a year"
    )


def test_a_clear_drop_raises_an_alarm_that_wakes_training_once(new_production):
    production = new_production(audit_share=1.0)
    production.crown("m1", accuracy=0.9)
    with_audits(production, right=8, wrong=12)
    report = production.run("run-2")
    # A retry of the run says the same again: the first attempt may have died before it could wake anybody.
    assert production.run("run-2", number=2) == report
    assert report.state == "ALARM"
    (message,) = report.alarms
    assert message == (
        "Live quality has dropped: m1: 0.400 (0.219 to 0.613) on 20 audited, constant answer 0.600, exam 0.900 "
        "(at least 0.887), ALARM at 0.2 false alarms a year."
    )
    assert report.wake_training is True
    assert production.monitoring.has_open_alarm("pets") is True
    (alarm,) = production.monitoring.alarms_of("pets", report.window_id)
    assert alarm["cause"] == "QUALITY_DROP"
    # The same alarm again: still open, but it wakes nobody a second time, however often it is raised.
    repeated = [production.run(f"run-{number}") for number in range(3, 6)]
    assert [(status.state, status.wake_training) for status in repeated] == [("ALARM", False)] * 3
    assert production.monitoring.alarms_of("pets", repeated[-1].window_id) == []
    assert production.monitoring.has_open_alarm("pets") is True


def test_a_window_that_looks_low_by_itself_wakes_nobody(new_production):
    """WATCH: half of the newest 20 are wrong, which one look of a year's thousands is allowed to show."""
    production = new_production(audit_share=1.0)
    production.crown("m1", accuracy=0.9)
    production.log(*[record(number) for number in range(20)])
    production.run("import")
    for number, row in enumerate(sorted(production.rows(t.audits), key=lambda row: row["prediction_id"])):
        production.decide(row["item_id"], "cat" if number % 2 else "dog")
    report = production.run("run-2")
    assert (report.state, report.alarms, report.wake_training) == ("WATCH", (), False)
    assert production.monitoring.has_open_alarm("pets") is False
    assert production.monitoring.alarms_of("pets", report.window_id) == []
    assert report.quality.endswith("WATCH at 0.2 false alarms a year")
    page = production.store.get(report.report_key).decode()
    assert "No alarm; the newest audits alone look low" in page
    assert "which is a budget of 0.2 false alarms a year" in page


def test_a_larger_budget_raises_the_alarm_earlier(new_production):
    production = new_production(audit_share=1.0, false_alarms_a_year=12)
    production.crown("m1", accuracy=0.9)
    production.log(*[record(number) for number in range(20)])
    production.run("import")
    for number, row in enumerate(sorted(production.rows(t.audits), key=lambda row: row["prediction_id"])):
        production.decide(row["item_id"], "cat" if number % 2 else "dog")
    assert production.run("run-2").state == "ALARM"


def test_a_pick_of_many_weighs_more(new_production):
    """All 20 predictions of a quiet night are audited, 20 of a busy day's 200: the day is ten of eleven requests."""
    production = new_production(audit_share=1.0, max_audits=20)
    production.crown("m1", accuracy=0.9)
    production.log(*[record(number) for number in range(20)])
    production.run("night")
    production.log(*[record(number) for number in range(100, 300)])
    production.run("day")
    audits = production.rows(t.audits)
    assert {row["inclusion"] for row in audits if row["prediction_id"] < "p00100"} == {1.0}
    day = {row["inclusion"] for row in audits if row["prediction_id"] >= "p00100"}
    assert len(day) == 1
    assert 0.02 < day.pop() < 0.3
    for row in audits:
        production.decide(row["item_id"], "dog" if row["prediction_id"] < "p00100" else "cat")
    (quality,) = production.monitoring.windows("pets", "quality", limit=1)
    report = production.run("look")
    (window,) = production.monitoring.windows("pets", "quality", limit=1)
    assert quality.window_id != window.window_id
    assert report.quality.startswith("m1: 1.000")  # the newest 20 are the day's
    wide = measure_all(production)
    assert 0.8 < wide.accuracy.estimate < 0.99  # and not 0.5


def measure_all(production):
    policy = production.project.config.monitor.model_copy(update={"window_audits": 1000})
    audited = production.monitoring.audited("pets")
    return quality.measure("m1", audited, exam=None, policy=policy, audits_a_year=1.0)


def test_requests_of_one_content_are_told_apart(new_production):
    production = new_production(audit_share=1.0)
    production.crown("m1", accuracy=0.9)
    again = record(0).payload
    production.log(*[record(number) for number in range(10)], *[record(100 + n, payload=again) for n in range(30)])
    production.run("run-1")
    first = next(row["item_id"] for row in production.rows(t.audits) if row["prediction_id"] == "p00000")
    for item_id in {row["item_id"] for row in production.rows(t.audits)}:
        production.decide(item_id, "dog" if item_id == first else "cat")
    text = production.run("run-2").quality
    assert text.startswith("m1: 0.900 (0.596 to 0.982) on 10 audited contents, 0.225 (")
    assert ") of their 40 requests, " in text


def test_a_new_champion_has_no_alarm_until_it_was_audited_itself(new_production):
    production = new_production(audit_share=1.0)
    production.crown("m1", accuracy=0.9)
    with_audits(production, right=8, wrong=12)
    assert production.run("run-2").state == "ALARM"
    production.crown("m2", generation=2, accuracy=0.95)
    assert production.monitoring.has_open_alarm("pets") is False
    report = production.run("run-3")
    assert (report.state, report.alarms) == ("INSUFFICIENT_DATA", ())
    assert report.quality == (
        "m1: 0.400 (0.219 to 0.613) on 20 audited, constant answer 0.600; "
        "m2: nothing audited yet, exam 0.950 (at least 0.941)"
    )


def test_a_client_that_asks_the_same_again_and_again_counts_once(new_production):
    production = new_production(audit_share=1.0)
    production.crown("m1", accuracy=0.9)
    same = record(0).payload
    production.log(*[record(number, payload=same) for number in range(30)], record(40))
    production.run("run-1")
    for item_id in {row["item_id"] for row in production.rows(t.audits)}:
        production.decide(item_id, "cat")
    assert production.run("run-2").quality.startswith("m1: 1.000 (0.342 to 1.000) on 2 audited")


def test_unsure_picks_do_not_count_as_audits(new_production):
    production = new_production(max_uncertain=20)
    production.crown("m1", accuracy=0.9)
    train = group_of("train")
    production.log(*[record(number, confidence=0.1, user_key=train) for number in range(15)])
    production.run("run-1")
    for row in production.rows(t.audits):
        production.decide(row["item_id"], "dog")
    assert production.run("run-2").state == "INSUFFICIENT_DATA"


def test_without_a_readable_verdict_there_is_no_reference_and_no_alarm(new_production):
    production = new_production(audit_share=1.0)
    production.crown("m1")
    production.store.objects["verdicts/pets/v-m1/verdict.json"] = b"{"
    with_audits(production, right=0, wrong=20)
    report = production.run("run-2")
    assert (report.state, report.alarms) == ("NO_REFERENCE", ())


def test_drift_from_the_exam_is_told_and_wakes_nobody(new_production):
    production = new_production()
    production.crown("m1", accuracy=0.9, answers=[[0.95, 0.05]] * 300)
    production.log(*[record(number, confidence=0.35, payload=png(0)) for number in range(200)])
    first = production.run("run-1")
    assert first.alarms == ()
    production.log(*[record(number, confidence=0.35, payload=png(0)) for number in range(200, 400)])
    second = production.run("run-2")
    assert second.alarms == (
        "Answers of m1 have moved from its exam: confidence PSI 12.07, label distance 0.00 beyond chance.",
    )
    assert second.wake_training is False


def test_windows_are_in_order_also_when_the_clock_goes_back(new_production):
    production = new_production()
    for number in range(4):
        production.run(f"run-{number}", at=NOW - dt.timedelta(minutes=10 * number))
    times = [window.created_at for window in production.monitoring.windows("pets", "quality")]
    assert times == [NOW + dt.timedelta(microseconds=number) for number in range(4)]


def test_the_same_window_is_computed_again_from_the_log(new_production):
    production = new_production(audit_share=1.0)
    production.crown("m1", accuracy=0.9)
    with_audits(production, right=13, wrong=7)
    first = production.run("run-2")
    window = production.monitoring.windows("pets", "quality")[-1]
    again = production.run("run-2", number=2)
    assert dataclasses.asdict(again) == dataclasses.asdict(first)
    assert production.monitoring.windows("pets", "quality")[-1] == window


def test_an_audit_is_never_shown_with_the_models_answer(new_production):
    production = new_production(audit_share=1.0, max_audits=3, max_uncertain=3)
    train = group_of("train")
    production.log(*[record(number, confidence=0.1, user_key=train) for number in range(6)])
    production.run()
    # Neither by the monitor, nor later by `annotate`, which adds suggestions to what has none.
    audits = [row for row in production.rows(t.labeling_tasks) if row["reason"] == "audit"]
    assert [row["prediction"] for row in audits] == [None] * 3
    assert production.outside.labels.without_prediction("pets", limit=10) == []
