"""Pushes and collects in large projects, and what must not be missed by them.

Source: issue 16 section 6, and what users of Label Studio report (L4 of four tools' trackers: earlier answers are seen;
L5: the cost of a few tasks grows with the project; L10: a report that is lost).
"""

import datetime as dt
import itertools
import threading
from collections import Counter

import pytest
import sqlalchemy as sa

from pipeline_tasks.annotation import collect
from pipeline_tasks.annotation.annotation_cursor import AnnotationCursor
from pipeline_tasks.contracts import Attempt
from pipeline_tasks.core.ports import AnnotationCount
from pipeline_tasks.demo.scripted_annotators import AnnotatorAccount, password_for
from tests.contract.test_labeling import TITLES, Real, ensure, tasks
from tests.fakes_labeling import FakeLabelStudio
from tests.labeling_case import NAME, NOW, Case

HOUR = dt.timedelta(hours=1)


@pytest.fixture
def case(database, monkeypatch):
    monkeypatch.setattr(collect, "OVERLAP", dt.timedelta(0))  # the fake's seconds are answers
    return Case(database, FakeLabelStudio())


def answered(case, numbers=range(40)):
    """Push items, let a person answer all but ten, and collect; return the ten."""
    items = case.add_numbers(numbers)
    case.annotate()
    for item_id in items[10:]:
        case.labeling.answer(case.ls_project(), item_id, "cat")
    assert case.collect().num_decided == len(items) - 10
    return items[:10]


class Cost:
    """The calls of Label Studio, what they brought, and the statements of the catalog, from here on."""

    def __init__(self, case):
        self.num_statements, self.num_read = 0, 0
        self._tool, self._before = case.labeling, dict(case.labeling.calls)
        sa.event.listen(case.database.engine, "after_cursor_execute", self._count)
        for name in ("annotations", "annotated_tasks", "task_ids"):
            setattr(case.labeling, name, self._counted(getattr(type(case.labeling), name).__get__(case.labeling)))

    def _count(self, *_):
        self.num_statements += 1

    def _counted(self, read):
        def counted(*arguments, **options):
            answer = read(*arguments, **options)
            answer = answer if isinstance(answer, dict) else list(answer)
            self.num_read += len(answer)
            return iter(answer) if read.__name__ == "annotations" else answer

        return counted

    def of(self):
        calls = {name: count - self._before.get(name, 0) for name, count in self._tool.calls.items()}
        return {name: count for name, count in calls.items() if count}, self.num_read, self.num_statements


def test_l5_the_cost_of_a_collect_is_that_of_what_changed(case):
    costs = []
    for numbers in (range(40), range(40, 1200)):
        for item_id in answered(case, numbers):
            case.labeling.answer(case.ls_project(), item_id, "dog")
        cost = Cost(case)
        assert case.collect().num_decided == 10
        costs.append(cost.of())
    small, large = costs
    assert small == large
    calls, num_read, _ = large
    assert num_read == 11  # the last one before is read again
    assert sum(calls.values()) == 12
    assert calls["annotations"] == 2


def test_l5_the_cost_of_a_push_is_that_of_what_is_new(case):
    costs = []
    for numbers in (range(40), range(40, 1200)):
        answered(case, numbers)
        case.add_numbers(range(numbers.stop + 9000, numbers.stop + 9010))
        cost = Cost(case)
        assert case.annotate().num_pushed == 10
        costs.append(cost.of())
    small, large = costs
    assert small == large
    calls, num_read, _ = large
    assert num_read == 0
    assert sum(calls.values()) == 11
    assert calls["import_tasks"] == 1


def test_l5_a_deletion_and_a_missed_answer_are_found_although_the_counts_are_equal(case):
    items = answered(case)
    case.labeling.delete_annotation(min(case.labeling.state["annotations"]))
    missed(case, items[0])
    report = case.collect()
    assert (report.num_deleted, report.num_annotations) == (0, 0)
    report = case.collect(now=NOW + dt.timedelta(days=1, minutes=1))
    assert (report.num_deleted, report.num_annotations) == (1, 1)
    report = case.collect(now=NOW + dt.timedelta(days=3))
    assert (report.num_deleted, report.num_annotations) == (0, 0)


def missed(case, item_id):
    """Leave an answer whose request was killed before it touched its task."""
    case.labeling.answer(case.ls_project(), item_id, "dog")
    (task,) = [body for body in case.labeling.state["tasks"].values() if body["data"]["item_id"] == item_id]
    task["changed_at"] = "2026-01-01T00:00:00+00:00"


@pytest.mark.parametrize("change", ["deleted", "missed"])
def test_l5_other_counts_have_everything_compared_once(case, change):
    items = answered(case)
    if change == "deleted":
        case.labeling.delete_annotation(min(case.labeling.state["annotations"]))
    else:
        missed(case, items[0])
    report = case.collect()
    assert (report.num_deleted, report.num_annotations) == ((1, 0) if change == "deleted" else (0, 1))
    cost = Cost(case)
    report = case.collect()
    assert (report.num_deleted, report.num_annotations) == (0, 0)
    assert cost.of()[1] == 1


def test_l5_answers_that_come_while_it_is_read_have_nothing_compared(case):
    items = answered(case)
    case.labeling.answer(case.ls_project(), items[0], "dog")
    count, calls = case.labeling.annotation_count, itertools.count(1)

    def busy(project_id):
        if next(calls) == 2:
            case.labeling.answer(case.ls_project(), items[1], "dog")
        return count(project_id)

    case.labeling.annotation_count = busy
    cost = Cost(case)
    assert case.collect().num_decided == 2
    assert cost.of()[1] == 4  # two, and the newest of each reading again


def test_l5_a_cursor_of_an_earlier_release_goes_on(case):
    answered(case)
    cursor = case.items.cursor(NAME, "annotations/label")
    value = {key: cursor.value[key] for key in ("ls_project_id", "changed_at")}
    fence = case.database.acquire("test", Attempt("test", "test"), now=NOW)
    case.items.move_cursor(fence, project=NAME, name="annotations/label", value=value, after=cursor, now=NOW)
    cost = Cost(case)
    report = case.collect()
    assert (report.num_annotations, report.num_deleted) == (0, 0)
    assert cost.of()[1] == 31  # the newest annotation, and all tasks once
    assert case.items.cursor(NAME, "annotations/label").value.keys() > value.keys()


@pytest.mark.parametrize("hours_later", [0, 2], ids=["seen at once", "seen when its time has come again"])
def test_a_clock_that_went_back_hides_no_change(case, hours_later):
    items = answered(case)
    changed = [annotation["id"] for annotation in case.labeling.state["annotations"].values()][:3]
    case.labeling.state["tick"] += hours_later * 3600
    case.labeling.clock_error = -HOUR
    if hours_later:  # changed before: at a time that was read
        case.labeling.state["tick"] -= 3000
    case.labeling.edit(changed[0], "dog")
    if hours_later:
        case.labeling.state["tick"] += 6000
    cost = Cost(case)
    assert case.collect().num_decided == 1
    assert cost.of()[1] == 30  # all of them
    case.labeling.edit(changed[1], "dog")
    case.labeling.answer(case.ls_project(), items[0], "dog")
    assert case.collect().num_decided == 2
    case.labeling.edit(changed[2], "dog")
    assert case.collect().num_decided == 1


def test_a_clock_that_goes_on_has_nothing_read_anew():
    moment = NOW
    known = AnnotationCursor(1, moment, moment, None, moment, 0.5)
    for at, ahead in ((moment, 0.5), (moment - dt.timedelta(seconds=59), -50.0), (moment + 9 * HOUR, 7200.0)):
        assert not known.is_ahead_of(AnnotationCount(1, at, ahead))
    for at, ahead in ((moment - dt.timedelta(seconds=61), 0.5), (moment + HOUR, -60.6)):
        assert known.is_ahead_of(AnnotationCount(1, at, ahead))
    assert AnnotationCursor.of(known.value()) == known


@pytest.mark.integration
def test_l4_three_at_once_are_three_different_people_and_see_nobodys_answer(label_studio_server):
    """Label Studio's own label stream on overlap 3; a fourth person gets what one of the three skipped, and no more."""
    real = Real(label_studio_server)
    project_id = ensure(real.tool, next(TITLES), people=3, show=False)
    names = [f"{number:064x}" for number in range(12)]
    real.tool.import_tasks(project_id, tasks(*names))
    invite = real.http.get("/api/invite")["token"]
    region = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": ["dog"]}}
    shown = []

    def label(person, skipped=""):
        account = AnnotatorAccount(real.url, f"{person}.test", password_for(person, "secret"))
        account.enter(invite_token=invite)
        while len(shown) < 100:
            try:
                task = account._client.get(f"/api/projects/{project_id}/next").json()
            except KeyError:
                return
            item_id = task["data"]["item_id"]
            shown.append((person, item_id, task["annotations"]))
            body = {"result": [], "was_cancelled": True} if item_id == skipped else {"result": [region]}
            account._client.post(f"/api/tasks/{task['id']}/annotations/", json=body)

    threads = [threading.Thread(target=label, args=(f"p{number}@x", names[4] * (number == 1))) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=300)
    label("p3@x")
    given = real.tool.annotations(project_id)
    answers = [(answer.item_id, answer.annotator) for answer in given if not answer.cancelled]
    assert len(answers) == len(set(answers)) == 36
    assert Counter(item_id for item_id, _ in answers) == dict.fromkeys(names, 3)
    assert [item_id for person, item_id, _ in shown if person == "p3@x"] == [names[4]]
    assert [annotations for _, _, annotations in shown if annotations] == []
