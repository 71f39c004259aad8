"""Hostile input of annotate and collect among good (issue 12, point 4).

Source: the walk through every page and command of 2026-11-29 (tests/reported/README.md).
"""

import dataclasses
import json

import pytest

from pipeline_tasks.core.ports import LabelingTask
from pipeline_tasks.errors import PermanentError
from tests.fakes_labeling import FakeLabelStudio
from tests.labeling_case import NAME, NOTES, XML, Case, codes_of, make_item, make_project, region, texts_of

# Hostile input among good

NUL, HALF, LONG = "a\0b", "a\ud800b", "x" * 5000
HOSTILE = {
    "another control": ([region(name="other")], "NO_CLASS", None),
    "a note alone": (NOTES[:1], "NO_CLASS", None),
    "no label": ([{"from_name": "label", "to_name": "image", "type": "choices", "value": {}}], "SCHEMA_MISMATCH", None),
    "no value": ([{"from_name": "label", "to_name": "image", "type": "choices"}], "SCHEMA_MISMATCH", None),
    "two labels": ([region("cat"), region("dog")], "SCHEMA_MISMATCH", None),
    "no region": (["cat", 3, None], "NO_CLASS", None),
    "another tag": ([region(to="picture")], "SCHEMA_MISMATCH", None),
    "outside the classes": ([region("wolf")], "UNKNOWN_CLASS", None),
    "NUL in the class": ([region("cat\0")], "UNKNOWN_CLASS", None),
    "half a character in the class": ([region("\udc80")], "UNKNOWN_CLASS", None),
    "a list as class": ([region(["cat"])], "UNKNOWN_CLASS", None),
    "a huge class": ([region("x" * 100_000)], "UNKNOWN_CLASS", None),
    "lines in a control's name": ([region(name="a\nb\u2028c")], "NO_CLASS", None),
    "huge note": ([region("cat"), region(["x" * 2_000_000], name="note", key="text")], "NOTE_LEFT_OUT", "cat"),
    "not a number": ([region("cat"), region(float("nan"), name="sure", key="rating")], "NOTE_LEFT_OUT", "cat"),
    "NUL in a note": ([region("cat"), region([NUL], name="note", key="text")], None, "cat"),
    "half a character in a note": ([region("cat"), region([HALF], name="note", key="text")], None, "cat"),
    "HTML and emoji in a note": ([region("cat"), region(["<b>🐈</b>"], name="note", key="text")], None, "cat"),
}


def is_printable(text):
    text.encode()
    return text.isprintable()


def test_hostile_results_are_named_and_the_good_ones_arrive(case):
    items = case.add_numbers(range(len(HOSTILE) + 2))
    case.annotate()
    case.labeling.answer(case.ls_project(), items[-1], "dog")
    for item_id, (result, _, _) in zip(items, HOSTILE.values(), strict=False):
        case.labeling.answer(case.ls_project(), item_id, "", result=result, by=f"<i>{NUL}{HALF}🐈@x")
    case.labeling.answer(case.ls_project(), items[-2], "owl")
    case.collect()
    assert [case.label_of(item) for item in items[-2:]] == [(1, "decided", "owl"), (1, "decided", "dog")]
    told = {digest: (code, reason) for code, digest, reason in texts_of(case)}
    for item_id, (what, (_, code, label)) in zip(items, HOSTILE.items(), strict=False):
        assert told.get(item_id, (None, ""))[0] == code, what
        assert case.label_of(item_id) == (label and (1, "decided", label)), what
    assert all(is_printable(reason) and len(reason) < 2000 for _, reason in told.values())
    again = case.collect()
    assert (again.num_annotations, again.num_refused, again.num_deleted) == (0, 0, 0)
    case.labeling.answer(case.ls_project(), items[0], "cat")
    assert case.collect().num_decided == 1


def test_hostile_tasks_are_named_and_the_good_ones_arrive(case):
    good, changed, removed, stranger_of, exam = case.add_numbers(range(5))
    (examined,) = case.add_numbers([9], split="exam")
    case.annotate()
    tasks = {item_id: ids[0] for item_id, ids in case.labeling.task_ids(case.ls_project()).items()}
    case.labeling.import_tasks(
        case.ls_project(), [LabelingTask(odd_id, {"image": "x"}) for odd_id in (NUL, HALF, LONG, "")]
    )
    case.labeling.import_tasks(case.ls_project("exam"), [LabelingTask(exam, {"image": "x"})])
    for number, task in enumerate(case.labeling.tasks_of(case.ls_project())):
        if task["data"]["item_id"] in (NUL, HALF, LONG, ""):
            case.labeling.answer(case.ls_project(), task["data"]["item_id"], "cat", by=f"{number}@x")
    case.labeling.answer(case.ls_project("exam"), exam, "cat")
    for item_id, label in ((changed, "cat"), (removed, "dog"), (good, "owl")):
        case.labeling.answer(case.ls_project(), item_id, label)
    case.labeling.edit_data(tasks[changed], item_id=stranger_of)
    case.labeling.edit_data(tasks[removed], item_id=None)
    report = case.collect()
    assert (report.num_decided, report.num_refused) == (1, 7)
    assert case.label_of(good) == (1, "decided", "owl")
    assert case.label_of(stranger_of) is None
    assert case.label_of(exam) is None
    assert codes_of(case) == ["ITEM_CHANGED"] * 2 + ["ITEM_UNKNOWN"] * 5
    assert all(is_printable(entry.reason) and is_printable(entry.digest) for entry in case.items.quarantined(NAME))
    assert case.collect().num_annotations == 0
    case.annotate()  # sets the changed tasks right
    there = case.labeling.task_ids(case.ls_project(), [good, changed, removed, stranger_of, exam])
    assert there == {item_id: [task_id] for item_id, task_id in tasks.items()}
    assert case.collect().num_decided == 2
    assert len(case.labeling.tasks_of(case.ls_project())) == 9  # nobody's imported task was removed
    case.labeling.answer(case.ls_project("exam"), examined, "cat", by="ann@x")
    case.labeling.answer(case.ls_project("exam"), examined, "cat", by="ben@x")
    assert case.collect().num_decided == 1


def test_a_changed_task_that_shows_something_else_is_left_and_its_item_is_asked_again(case):
    items = case.add_numbers(range(2))
    case.annotate()
    task_id = case.labeling.task_ids(case.ls_project())[items[0]][0]
    case.labeling.answer(case.ls_project(), items[0], "cat")
    case.labeling.edit_data(task_id, item_id=items[1], image="another")
    case.collect()
    assert codes_of(case) == ["ITEM_CHANGED"]
    case.annotate()
    assert case.labeling.task_data(case.ls_project(), task_id)["image"] == "another"
    assert len(case.labeling.task_ids(case.ls_project())[items[0]]) == 1
    assert case.label_of(items[1]) is None


def test_an_account_that_is_gone_and_an_endless_lead_time(case):
    (item_id,) = case.add_numbers([1])
    case.annotate()
    case.labeling.answer(case.ls_project(), item_id, "cat", by="nobody")
    read = case.labeling.annotations
    case.labeling.annotations = lambda *args, **more: (
        dataclasses.replace(annotation, lead_time_seconds=float("nan")) for annotation in read(*args, **more)
    )
    assert case.collect().num_decided == 1
    (row,) = case.labels.annotations(NAME, [item_id])[item_id]
    assert (row.annotator, row.lead_time_seconds) == ("nobody", None)


class Picky(FakeLabelStudio):
    """Refuses an import with a task that it does not like, whole, as Label Studio does; answers 500 to NUL."""

    def import_tasks(self, project_id, tasks):
        body = json.dumps([dict(task.data) for task in tasks], ensure_ascii=False, allow_nan=False)
        body.encode()
        assert "\\u0000" not in body
        if "REFUSED" in body:
            raise PermanentError(f"Label Studio must accept this (got 400: {NUL}{HALF}).", code="LS_REFUSED")
        return super().import_tasks(project_id, tasks)


def test_hostile_items_stop_only_themselves_on_the_way_into_label_studio(any_database):
    case = Case(
        any_database,
        Picky(),
        project=make_project(modality="tabular", xml=XML.replace("Image", "Table").replace("$image", "$row")),
    )
    contents = {
        "good": b'{"a": 1}', "nan": b'{"a": NaN}', "nul": b'{"a": "x\\u0000y"}', "half": b'{"\\ud800": "\\udc00"}',
        "html": b'{"a": "<script>1</script>"}', "refused": b'{"a": "REFUSED"}', "list": b"[1]", "bytes": b"\xff",
        "lost": b'{"a": "lost"}', "cut": b'{"a": "cut"}', "last": b'{"a": 2}',
    }  # fmt: skip
    ids = {}
    for number, (name, content) in enumerate(contents.items()):
        item = make_item(number, content=content, media_type="application/json")
        (ids[name],) = case.add(item)
        if name != "lost":
            case.store.objects[item.location.object_key] = content[: 5 if name == "cut" else None]
    report = case.annotate()
    assert report.num_pushed == 6
    codes = {entry.digest: entry.code for entry in case.items.quarantined(NAME)}
    expected = {"refused": "LS_REFUSED", "list": "ITEM_UNREADABLE", "bytes": "ITEM_UNREADABLE"}
    assert codes == {ids[key]: code for key, code in {**expected, "lost": "DATA_LOST", "cut": "DATA_LOST"}.items()}
    assert all(is_printable(entry.reason) for entry in case.items.quarantined(NAME))
    assert case.annotate().num_pushed == 0
    case.store.put(make_item(8, content=contents["lost"]).location.object_key, contents["lost"])  # it is back
    assert case.annotate().num_pushed == 1
    assert set(case.labeling.task_ids(case.ls_project())) == {
        ids[name] for name in ("good", "nan", "nul", "half", "html", "last", "lost")
    }


@pytest.mark.parametrize(
    "bad", [{"label": "wolf", "score": 0.5}, {"label": "cat", "score": float("nan")}, {"label": "cat", "score": 7.0}]
)
def test_a_bad_suggestion_is_left_out_and_its_item_is_asked_for(case, bad):
    first, second_ = case.add_numbers(range(2))
    suggested = {first: bad, second_: {"label": "cat", "score": 0.5}}
    assert case.annotate(suggestions=lambda _items: suggested).num_pushed == 2
    shown = {body["data"]["item_id"]: len(body["predictions"]) for body in case.labeling.tasks_of(case.ls_project())}
    assert shown == {first: 0, second_: 1}
    assert texts_of(case) == []
