"""Collect on the fake Label Studio."""

import datetime as dt

import pytest

from pipeline_tasks.annotation import collect
from pipeline_tasks.contracts import Attempt
from pipeline_tasks.errors import GateClosed, ServiceUnavailable, StaleAttempt
from tests.fakes_labeling import FakeLabelStudio
from tests.labeling_case import CLASSES, NAME, NOW, XML, Case, make_project


@pytest.fixture
def case(database):
    return Case(database, FakeLabelStudio())


@pytest.fixture
def pushed(case):
    """Four training items and two exam items in Label Studio."""
    case.train = case.add_numbers(range(4))
    case.exam = case.add_numbers(range(4, 6), split="exam")
    case.annotate()
    case.say = lambda item_id, label, **more: case.labeling.answer(case.ls_project(), item_id, label, **more)
    case.examine = lambda item_id, label, **more: case.labeling.answer(case.ls_project("exam"), item_id, label, **more)
    return case


def counts(report):
    return (report.num_annotations, report.num_deleted, report.num_decided, report.num_disputed, report.num_refused)


def test_nothing_to_collect(case):
    assert counts(case.collect()) == (0, 0, 0, 0, 0)


def test_answers_become_decisions_once(pushed):
    pushed.say(pushed.train[0], "cat")
    pushed.say(pushed.train[1], "dog")
    assert counts(pushed.collect()) == (2, 0, 2, 0, 0)
    assert pushed.label_of(pushed.train[0]) == (1, "decided", "cat")
    assert counts(pushed.collect()) == (0, 0, 0, 0, 0)
    label = pushed.labels.counts(NAME)["label"]
    assert (label.pushed, label.done, label.outstanding) == (2, 2, 2)


def test_an_exam_item_needs_two_people(pushed):
    item_id = pushed.exam[0]
    pushed.examine(item_id, "owl", by="a@x")
    assert counts(pushed.collect()) == (1, 0, 0, 0, 0)
    assert pushed.label_of(item_id) is None
    pushed.examine(item_id, "owl", by="a@x")
    assert counts(pushed.collect()) == (1, 0, 0, 0, 0)
    pushed.examine(item_id, "owl", by="b@x")
    assert counts(pushed.collect()) == (1, 0, 1, 0, 0)
    newest = pushed.labels.decisions(NAME, [item_id])[item_id]
    assert (newest.label, newest.method, newest.annotators) == ("owl", "consensus", ("a@x", "b@x"))
    assert pushed.label_of(pushed.exam[1]) is None


def test_people_who_disagree_leave_the_item_disputed_until_one_changes_the_answer(pushed):
    item_id = pushed.exam[0]
    pushed.examine(item_id, "owl", by="a@x")
    other = pushed.examine(item_id, "cat", by="b@x")
    assert counts(pushed.collect()) == (2, 0, 0, 1, 0)
    assert pushed.label_of(item_id) == (1, "disputed", None)
    pushed.labeling.edit(other, "owl")
    assert counts(pushed.collect()) == (1, 0, 1, 0, 0)
    assert pushed.label_of(item_id) == (2, "decided", "owl")


def test_an_edited_answer_makes_a_new_revision_and_a_new_version(pushed):
    annotation_id = pushed.say(pushed.train[0], "cat")
    pushed.collect()
    pushed.labeling.edit(annotation_id, "dog")
    assert counts(pushed.collect()) == (1, 0, 1, 0, 0)
    assert [(decision.version, decision.label) for decision in pushed.labels.history(NAME, pushed.train[0])] == [
        (1, "cat"),
        (2, "dog"),
    ]


def test_a_deleted_answer_leaves_a_tombstone_and_its_item_waits_again(pushed):
    annotation_id = pushed.say(pushed.train[0], "cat")
    pushed.say(pushed.train[1], "cat")
    pushed.collect()
    pushed.labeling.delete_annotation(annotation_id)
    assert counts(pushed.collect()) == (0, 1, 0, 0, 0)
    assert pushed.label_of(pushed.train[0]) == (2, "withdrawn", None)
    (row,) = pushed.labels.annotations(NAME, pushed.train[:1])[pushed.train[0]]
    assert (row.deleted, row.label) == (True, "cat")
    assert pushed.labels.counts(NAME)["label"].pushed == 3
    pushed.say(pushed.train[0], "dog")
    assert counts(pushed.collect()) == (1, 0, 1, 0, 0)
    assert pushed.label_of(pushed.train[0]) == (3, "decided", "dog")


def test_a_deletion_behind_a_new_answer_of_the_same_task_is_found(pushed):
    item_id = pushed.exam[0]
    pushed.examine(item_id, "owl", by="a@x")
    second = pushed.examine(item_id, "cat", by="b@x")
    pushed.collect()
    pushed.labeling.delete_annotation(second)
    pushed.examine(item_id, "owl", by="c@x")
    assert counts(pushed.collect()) == (1, 1, 1, 0, 0)
    assert pushed.label_of(item_id) == (2, "decided", "owl")


def test_skips_are_counted_and_are_no_labels(pushed):
    pushed.say(pushed.train[0], None)
    report = pushed.collect()
    assert (report.num_annotations, report.num_skipped, report.num_refused, report.num_decided) == (1, 1, 0, 0)
    assert pushed.label_of(pushed.train[0]) is None
    assert counts(pushed.collect()) == (0, 0, 0, 0, 0)


def test_unknown_classes_are_refused_with_the_allowed_ones(pushed):
    pushed.say(pushed.train[0], "Cat")
    pushed.say(pushed.train[1], "dog ")
    pushed.say(pushed.train[2], "dog")
    assert counts(pushed.collect()) == (3, 0, 1, 0, 2)
    entries = pushed.items.quarantined(NAME)
    assert {(entry.code, entry.digest) for entry in entries} == {
        ("UNKNOWN_CLASS", item_id) for item_id in pushed.train[:2]
    }
    assert all("must be one of cat, dog, owl" in entry.reason for entry in entries)
    assert counts(pushed.collect()) == (0, 0, 0, 0, 0)


def test_answers_to_another_question_are_refused(pushed):
    other = {"from_name": "other", "to_name": "image", "type": "choices", "value": {"choices": ["cat"]}}
    pushed.say(pushed.train[0], "x", result=[other])
    assert counts(pushed.collect()) == (1, 0, 0, 0, 1)
    assert [entry.code for entry in pushed.items.quarantined(NAME)] == ["NO_CLASS"]


def test_a_refused_answer_that_is_corrected_counts(pushed):
    annotation_id = pushed.say(pushed.train[0], "Cat")
    pushed.collect()
    pushed.labeling.edit(annotation_id, "cat")
    assert counts(pushed.collect()) == (1, 0, 1, 0, 0)


def test_answers_on_tasks_that_are_not_ours_are_refused(pushed):
    from pipeline_tasks.core.ports import LabelingTask

    pushed.labeling.import_tasks(pushed.ls_project(), [LabelingTask("stranger", {"image": "x"})])
    pushed.say("stranger", "cat")
    assert counts(pushed.collect()) == (1, 0, 0, 0, 1)
    assert [entry.code for entry in pushed.items.quarantined(NAME)] == ["ITEM_UNKNOWN"]
    assert counts(pushed.collect()) == (0, 0, 0, 0, 0)


def test_people_overrule_a_label_from_the_source(case):
    (item_id,) = case.add_numbers([1])
    case.annotate()
    from pipeline_tasks.catalog.labels import DecisionRow

    imported = DecisionRow(item_id, 1, "decided", "cat", "imported", (), (), None, 1, NOW)
    case.labels.commit(NAME, decisions=[imported], now=NOW)
    case.labeling.answer(case.ls_project(), item_id, "dog")
    case.collect()
    assert case.label_of(item_id) == (2, "decided", "dog")


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (CLASSES[:2], r"added none; removed owl"),
        (["cat", "dog", "eagle"], r"added eagle; removed owl"),
    ],
)
def test_changed_classes_stop_the_run(pushed, classes, message):
    choices = "".join(f'<Choice value="{label}"/>' for label in classes)
    xml = f'<View><Image name="image" value="$image"/><Choices name="label" toName="image">{choices}</Choices></View>'
    pushed.say(pushed.train[0], "cat")
    with pytest.raises(GateClosed, match=message) as caught:
        pushed.collect(project=make_project(classes=classes, xml=xml))
    assert caught.value.code == "SCHEMA_DRIFT"
    assert pushed.labels.annotations(NAME, pushed.train) == {}


def test_classes_changed_in_label_studio_itself_stop_the_run(pushed):
    pushed.say(pushed.train[0], "cat")
    pushed.labeling.set_config(pushed.ls_project(), XML.replace('"owl"', '"eagle"'))
    config = pushed.labeling.project(pushed.ls_project()).label_config
    with pytest.raises(GateClosed, match=r"choices of the Label Studio project 'pets'.*added eagle; removed owl"):
        pushed.collect()
    with pytest.raises(GateClosed, match=r"added eagle.*`dethrone project migrate pets` prints the plan"):
        pushed.annotate()
    assert pushed.labeling.project(pushed.ls_project()).label_config == config


def test_changes_within_the_overlap_are_found_although_the_cursor_is_past_them(pushed):
    pushed.say(pushed.train[0], "cat")
    pushed.say(pushed.train[1], "dog")
    late = next(iter(pushed.labeling.state["annotations"].values()))
    saved = pushed.labeling.state["annotations"].pop(late["id"])  # its transaction is still open
    assert counts(pushed.collect())[0] == 1
    pushed.labeling.state["annotations"][saved["id"]] = saved
    assert counts(pushed.collect()) == (1, 0, 1, 0, 0)


def test_an_annotation_whose_request_was_killed_before_it_touched_its_task_is_found(pushed, monkeypatch):
    monkeypatch.setattr(collect, "OVERLAP", dt.timedelta(0))
    pushed.say(pushed.train[0], "cat")
    pushed.collect()
    pushed.say(pushed.train[1], "dog")
    (task,) = [body for body in pushed.labeling.state["tasks"].values() if body["data"]["item_id"] == pushed.train[1]]
    task["changed_at"] = "2026-01-01T00:00:00+00:00"  # as old as the push
    assert counts(pushed.collect()) == (1, 0, 1, 0, 0)
    assert pushed.label_of(pushed.train[1]) == (1, "decided", "dog")
    assert counts(pushed.collect()) == (0, 0, 0, 0, 0)


def test_only_what_changed_is_read_again(pushed, monkeypatch):
    monkeypatch.setattr(collect, "OVERLAP", dt.timedelta(0))
    asked = []
    read = pushed.labeling.annotations

    def watched(project_id, *, updated_since=None, task_ids=None):
        annotations = list(read(project_id, updated_since=updated_since, task_ids=task_ids))
        asked.append([annotation.item_id for annotation in annotations])
        return iter(annotations)

    pushed.labeling.annotations = watched
    for item_id in pushed.train:
        pushed.say(item_id, "cat")
    pushed.collect()
    asked.clear()
    pushed.collect()
    assert asked[0] == [pushed.train[3]]  # inclusive: the last one only


def test_a_label_studio_that_lost_its_data_takes_no_label_away(case, caplog):
    items = case.add_numbers(range(20))
    items += case.add_numbers(range(20, 30))
    case.annotate()
    for item_id in items:
        case.labeling.answer(case.ls_project(), item_id, "cat")
    case.collect()
    case.labeling.delete_tasks(case.ls_project(), [task["id"] for task in case.labeling.tasks_of(case.ls_project())])
    report = case.collect()
    assert (report.num_deleted, report.num_deletions_held) == (0, 30)
    assert case.label_of(items[0]) == (1, "decided", "cat")
    assert "lacks 30 of 30 collected annotations" in caplog.text
    case.labeling.wipe()
    report = case.collect()  # the project is made anew: it lacks nothing
    assert (report.num_deleted, report.num_deletions_held) == (0, 0)
    assert case.label_of(items[0]) == (1, "decided", "cat")


@pytest.mark.parametrize(("gone", "recorded", "expected"), [(20, 20, False), (21, 42, False), (21, 41, True)])
def test_how_many_deletions_are_believed(gone, recorded, expected):
    assert collect.is_doubtful(gone, num_recorded=recorded) is expected


def test_an_older_attempt_records_nothing(pushed):
    pushed.say(pushed.train[0], "cat")
    read = pushed.labeling.annotations

    def overtaken(project_id, **arguments):
        pushed.database.acquire(f"{NAME}/collect", Attempt("run", "collect", 99), now=NOW)
        return read(project_id, **arguments)

    pushed.labeling.annotations = overtaken
    with pytest.raises(StaleAttempt, match="must hold the lease pets/collect"):
        pushed.collect()
    pushed.labeling.annotations = read
    assert pushed.labels.annotations(NAME, pushed.train) == {}
    assert counts(pushed.collect()) == (1, 0, 1, 0, 0)


@pytest.mark.parametrize("method", ["annotations", "annotated_tasks"])
def test_an_outage_in_the_middle_is_made_good_by_the_next_run(pushed, method):
    pushed.say(pushed.train[0], "cat")
    pushed.labeling.fail(method, ServiceUnavailable("away"))
    with pytest.raises(ServiceUnavailable, match="away"):
        pushed.collect()
    pushed.collect()
    assert pushed.label_of(pushed.train[0]) == (1, "decided", "cat")


def test_many_annotations_are_recorded_in_batches(pushed, monkeypatch):
    monkeypatch.setattr(collect, "BATCH_ANNOTATIONS", 2)
    for number in range(5):
        pushed.examine(pushed.exam[0], "owl", by=f"{number}@x")
    assert counts(pushed.collect()) == (5, 0, 1, 0, 0)
