"""Annotate on the fake Label Studio: every item once, whatever went wrong before."""

import pytest

from pipeline_tasks.annotation import push as push_module
from pipeline_tasks.catalog.schema_versions import SchemaRepository
from pipeline_tasks.contracts import Attempt
from pipeline_tasks.errors import ServiceUnavailable, StaleAttempt
from tests.fakes_labeling import FakeLabelStudio
from tests.labeling_case import CLASSES, NAME, NOW, XML, Case, content_of, make_item, make_project, with_classes


@pytest.fixture
def case(database):
    return Case(database, FakeLabelStudio())


def test_items_without_a_label_are_pushed_once_into_the_queue_of_their_split(case):
    train = case.add_numbers(range(5))
    exam = case.add_numbers(range(5, 8), split="exam")
    report = case.annotate()
    assert (report.num_requested, report.num_pushed, report.num_adopted) == (8, 8, 0)
    assert case.tasks_per_item("label") == dict.fromkeys(train, 1)
    assert case.tasks_per_item("exam") == dict.fromkeys(exam, 1)
    again = case.annotate()
    assert (again.num_requested, again.num_pushed) == (0, 0)
    assert case.labeling.calls["import_tasks"] == 2


def test_nothing_to_do_makes_projects_and_no_task(case):
    report = case.annotate()
    assert (report.num_requested, report.num_pushed) == (0, 0)
    assert case.labeling.calls["import_tasks"] == 0


def test_imported_labels_are_accepted_and_not_asked_for(case):
    labeled = case.add_numbers(range(3), label="cat")
    case.add_numbers(range(3, 5))
    report = case.annotate()
    assert (report.num_imported_labels, report.num_requested) == (3, 2)
    assert [case.label_of(item_id) for item_id in labeled] == [(1, "decided", "cat")] * 3
    assert case.labels.decisions(NAME, labeled)[labeled[0]].method == "imported"


def test_imported_labels_can_be_ignored(case):
    case.add_numbers(range(3), label="cat")
    report = case.annotate(project=make_project(imported="ignore"))
    assert (report.num_imported_labels, report.num_requested) == (0, 3)


def test_an_imported_label_that_is_no_class_goes_to_people_and_to_the_quarantine(case):
    (item_id,) = case.add_numbers([1], label="Cat")
    report = case.annotate()
    assert (report.num_imported_labels, report.num_requested) == (0, 1)
    (entry,) = case.items.quarantined(NAME)
    assert (entry.stage, entry.code, entry.digest) == ("labels", "UNKNOWN_CLASS", item_id)
    assert entry.reason == "label must be one of cat, dog, owl (got Cat)."


def test_items_from_production_wait_for_the_monitor_to_ask(case):
    case.add(make_item(1, origin="production"))
    assert case.annotate().num_requested == 0


def test_a_lost_answer_to_an_import_makes_no_double(case):
    items = case.add_numbers(range(7))
    case.labeling.fail("import_tasks", ServiceUnavailable("504"), after=True)
    with pytest.raises(ServiceUnavailable, match="504"):
        case.annotate(chunk_items=3)
    report = case.annotate(chunk_items=3)
    assert (report.num_adopted, report.num_pushed) == (3, 4)
    assert case.tasks_per_item() == dict.fromkeys(items, 1)


def test_an_import_that_did_not_happen_is_done_again(case):
    items = case.add_numbers(range(4))
    case.labeling.fail("import_tasks", ServiceUnavailable("away"))
    with pytest.raises(ServiceUnavailable, match="away"):
        case.annotate()
    report = case.annotate()
    assert (report.num_adopted, report.num_pushed) == (0, 4)
    assert case.tasks_per_item() == dict.fromkeys(items, 1)


def test_a_lost_answer_to_a_deletion_is_made_good(case):
    items = case.add_numbers(range(3))
    case.annotate()
    double = case.labeling.import_tasks(case.ls_project(), _copies(case, items))
    case.labeling.fail("delete_tasks", ServiceUnavailable("504"), after=True)
    with pytest.raises(ServiceUnavailable, match="504"):
        case.annotate()
    assert case.annotate().num_duplicates_removed == 0
    assert case.tasks_per_item() == dict.fromkeys(items, 1)
    assert not {task["id"] for task in case.labeling.tasks_of(case.ls_project())} & set(double)


def test_doubles_without_an_annotation_are_removed_and_an_annotated_one_stays(case):
    items = case.add_numbers(range(3))
    case.annotate()
    first, second = case.labeling.task_ids(case.ls_project(), items[:1])[items[0]], items[1]
    case.labeling.import_tasks(case.ls_project(), _copies(case, items))
    case.labeling.answer(case.ls_project(), second, "cat")
    report = case.annotate()
    assert report.num_duplicates_removed == 3
    assert case.labeling.task_ids(case.ls_project(), items[:1]) == {items[0]: first}
    assert case.tasks_per_item() == dict.fromkeys(items, 1)


def test_an_older_attempt_imports_nothing_after_a_newer_one_began(case):
    case.add_numbers(range(6))
    imported = case.labeling.import_tasks

    def overtaken(project_id, tasks):
        ids = imported(project_id, tasks)
        case.database.acquire(f"{NAME}/annotate", Attempt("run", "annotate", 99), now=NOW)
        return ids

    case.labeling.import_tasks = overtaken
    with pytest.raises(StaleAttempt, match="run/annotate/1 must hold the lease pets/annotate"):
        case.annotate(chunk_items=2)
    assert len(case.labeling.tasks_of(case.ls_project())) == 2
    case.labeling.import_tasks = imported
    report = case.annotate(chunk_items=2)
    assert (report.num_adopted, report.num_pushed) == (2, 4)
    assert set(case.tasks_per_item().values()) == {1}


def test_an_import_of_an_older_attempt_that_lands_late_is_removed_by_the_next_run(case):
    items = case.add_numbers(range(4))
    case.annotate()
    case.labeling.import_tasks(case.ls_project(), _copies(case, items[:2]))  # the older attempt's, on its way
    assert case.annotate().num_duplicates_removed == 2
    assert case.tasks_per_item() == dict.fromkeys(items, 1)


def test_tasks_deleted_by_hand_come_back_while_they_have_no_label(case):
    items = case.add_numbers(range(3))
    case.annotate()
    case.labeling.answer(case.ls_project(), items[0], "cat")
    case.collect()
    gone = case.labeling.task_ids(case.ls_project(), items[:2])  # one answered, one not
    case.labeling.delete_tasks(case.ls_project(), [task_id for ids in gone.values() for task_id in ids])
    assert case.annotate().num_pushed == 1
    assert case.tasks_per_item() == dict.fromkeys(items[1:], 1)


def test_a_label_studio_that_lost_everything_gets_its_open_tasks_again(case):
    items = case.add_numbers(range(4))
    case.annotate()
    case.labeling.answer(case.ls_project(), items[0], "cat")
    case.collect()
    case.labeling.wipe()
    report = case.annotate()
    assert report.num_pushed == 3
    assert case.tasks_per_item() == dict.fromkeys(items[1:], 1)
    assert case.label_of(items[0]) == (1, "decided", "cat")


def test_suggestions_are_shown_to_labelers_but_never_in_the_exam_and_the_unsure_come_first(case):
    train = case.add_numbers(range(3))
    exam = case.add_numbers(range(3, 5), split="exam")
    scores = dict(zip(train, (0.9, 0.2, 0.5), strict=True))
    seen = []

    def suggest(items):
        seen.extend(item.item_id for item in items)
        return {item.item_id: {"label": "dog", "score": scores[item.item_id]} for item in items}

    case.annotate(suggestions=suggest)
    assert sorted(seen) == sorted(train)
    assert not set(seen) & set(exam)
    tasks = case.labeling.tasks_of(case.ls_project())
    assert [task["data"]["item_id"] for task in tasks] == sorted(train, key=scores.__getitem__)
    assert [task["predictions"][0]["score"] for task in tasks] == [0.2, 0.5, 0.9]
    assert all(task["predictions"] == [] for task in case.labeling.tasks_of(case.ls_project("exam")))
    projects = case.labeling.state["projects"]
    assert projects[str(case.ls_project())]["show_predictions"] is True
    assert projects[str(case.ls_project("exam"))]["show_predictions"] is False


def test_a_project_without_suggestions_asks_for_none(case):
    case.add_numbers(range(2))
    case.annotate(project=make_project(suggestions=False), suggestions=lambda _items: pytest.fail("asked"))
    assert all(task["predictions"] == [] for task in case.labeling.tasks_of(case.ls_project()))


def test_a_request_of_the_monitor_with_a_prediction_for_an_exam_item_shows_none(case):
    item = make_item(1, split="exam", origin="production")
    case.store.put(item.location.object_key, content_of(1))
    case.add(item)
    case.labels.request([item], reason="audit", now=NOW, predictions={item.item_id: {"label": "cat", "score": 0.3}})
    assert case.annotate().num_pushed == 1
    assert case.labeling.tasks_of(case.ls_project("exam"))[0]["predictions"] == []


def test_large_images_are_shown_by_their_address(case):
    large = make_item(1, content=bytes(70_000))
    case.add(large)
    case.annotate()
    assert case.labeling.calls["connect_objects"] == 0  # Label Studio takes no storage without an object in it
    case.store.put(large.location.object_key, bytes(70_000))
    case.annotate()
    assert case.labeling.calls["connect_objects"] == 2
    (task,) = case.labeling.tasks_of(case.ls_project())
    assert task["data"]["image"] == f"s3://bucket/{large.location.object_key}"


def test_an_import_carries_no_more_bytes_than_allowed(case, monkeypatch):
    monkeypatch.setattr(push_module, "CHUNK_BYTES", 20)  # "image 1" has 7 bytes
    case.add_numbers(range(5))
    assert case.annotate().num_pushed == 5
    assert case.labeling.calls["import_tasks"] == 3


def test_an_item_that_cannot_be_shown_goes_to_the_quarantine_and_the_rest_is_pushed(database):
    xml = XML.replace('<Image name="image" value="$image"/>', '<Text name="image" value="$text"/>')
    case = Case(database, FakeLabelStudio(), project=make_project(modality="text", xml=xml))
    bad = make_item(1, content=b"\xff\xfe", media_type="text/plain")
    case.store.put(bad.location.object_key, b"\xff\xfe")
    case.add(bad)
    good = case.add_numbers([2])
    assert case.annotate().num_pushed == 1
    assert case.tasks_per_item() == {good[0]: 1}
    (entry,) = case.items.quarantined(NAME)
    assert (entry.code, entry.digest) == ("ITEM_UNREADABLE", bad.item_id)
    assert case.annotate().num_pushed == 0


def _copies(case, item_ids):
    from pipeline_tasks.core.ports import LabelingTask

    return [LabelingTask(item_id, {"image": "x"}) for item_id in item_ids]


def test_classes_are_added_as_a_version_of_their_own_and_labels_stay(case):
    train = case.add_numbers(range(3))
    case.annotate()
    case.labeling.answer(case.ls_project(), train[0], "cat")
    case.collect()
    case.project = with_classes([*CLASSES, "bat"])
    case.annotate()
    case.annotate()
    assert case.labels.registration(NAME)[:2] == ([*CLASSES, "bat"], 2)
    assert [len(version.classes) for version in SchemaRepository(case.database).history(NAME)] == [3, 4]
    assert all('"bat"' in case.labeling.project(case.ls_project(queue)).label_config for queue in ("label", "exam"))
    case.labeling.answer(case.ls_project(), train[1], "bat")
    assert case.collect().num_decided == 1
    decided = case.labels.decisions(NAME, train)
    assert {(row.label, row.version, row.schema_version) for row in decided.values()} == {("cat", 1, 1), ("bat", 1, 2)}


def test_a_config_of_an_earlier_version_in_label_studio_is_brought_up_to_date(case):
    (item,) = case.add_numbers([1])
    case.annotate()
    case.labeling.answer(case.ls_project(), item, "cat")
    case.collect()
    before = case.labeling.project(case.ls_project()).label_config
    case.project = with_classes([*CLASSES, "bat"])
    case.annotate()
    case.labeling.set_config(case.ls_project(), before)  # killed between the catalog and Label Studio
    case.annotate()
    assert '"bat"' in case.labeling.project(case.ls_project()).label_config
