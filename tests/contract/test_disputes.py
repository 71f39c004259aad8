"""Items on which people differ, and labels of the source in the exam, on SQLite and PostgreSQL."""

from __future__ import annotations

import dataclasses
import datetime as dt

import pytest
import sqlalchemy as sa

from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.datasets import DatasetRepository
from pipeline_tasks.catalog.disputes import DisputeRepository
from pipeline_tasks.catalog.exam_window import ExamLabels
from pipeline_tasks.catalog.labels import DecisionRow
from pipeline_tasks.catalog.monitoring import AuditRow, MonitoringRepository
from pipeline_tasks.contracts import Attempt, ExamRef
from tests.fakes_labeling import FakeLabelStudio
from tests.labeling_case import CLASSES, NAME, NOW, Case, make_item

HOUR = dt.timedelta(hours=1)


@pytest.fixture
def case(database):
    built = Case(database, FakeLabelStudio())
    built.disputes = DisputeRepository(database)
    built.fence = database.acquire("test", Attempt("run", "test"), now=NOW)
    return built


def decision(item_id, status="disputed", *, version=1, method="consensus", at=NOW):
    label = "cat" if status == "decided" else None
    return DecisionRow(item_id, version, status, label, method, ("1", "2"), ("a@x", "b@x"), 0.5, 1, at)


def commit(case, *decisions, kept_open=()):
    case.labels.commit(NAME, decisions=decisions, kept_open=kept_open, now=NOW)


def state_of(case, item_id):
    task = t.labeling_tasks.c
    with case.database.read() as connection:
        return connection.execute(sa.select(task.state).where(task.item_id == item_id)).scalar_one()


def open_epoch(case, epoch, ids, *, at):
    exam = ExamRef(NAME, epoch, f"e{epoch}", f"exams/{epoch}", len(ids))
    pairs = [(item_id, "cat") for item_id in ids]
    assert DatasetRepository(case.database).open_exam(exam, labels=pairs, run_id="r", now=at, fence=case.fence)


def test_a_disputed_items_task_stays_open_and_is_closed_and_opened_again(case):
    asked, closed, other = case.add(*(make_item(number, split="exam") for number in range(3)))
    case.labels.request_unlabeled(NAME, now=NOW)
    case.labels.mark_pushed(NAME, {asked: 11, other: 13}, ls_project_id=5, now=NOW)
    commit(case, decision(asked), decision(closed), decision(other, "decided"), kept_open=[asked])
    disputed = {dispute.item_id: dispute for dispute in case.disputes.disputed(NAME, "exam")}
    assert {item_id: (dispute.is_open, dispute.ls_task_id) for item_id, dispute in disputed.items()} == {
        asked: (True, 11),
        closed: (False, None),
    }
    assert case.disputes.disputed(NAME, "label") == []
    assert case.disputes.num_asked(NAME) == {"label": 0, "exam": 1}
    case.disputes.set_open(NAME, asked=[closed], settled=[asked], fence=case.fence)
    assert [state_of(case, item_id) for item_id in (asked, closed, other)] == ["done", "pending", "done"]
    case.disputes.set_open(NAME, asked=[asked], settled=[closed], fence=case.fence)
    assert [state_of(case, item_id) for item_id in (asked, closed, other)] == ["pushed", "done", "done"]


def test_a_later_decision_ends_a_dispute(case):
    (item_id,) = case.add(make_item(1, split="exam"))
    case.labels.request_unlabeled(NAME, now=NOW)
    commit(case, decision(item_id), kept_open=[item_id])
    commit(case, decision(item_id, "decided", version=2))
    assert case.disputes.disputed(NAME, "exam") == []
    assert case.disputes.num_asked(NAME) == {"label": 0, "exam": 0}


def test_what_an_exam_lacks_is_counted_by_the_time_of_the_first_dispute(case):
    """Two epochs, and of each the items on which people differed when it was opened."""
    ids = case.add(*(make_item(number, split="exam") for number in range(8)))
    first, early, member, asked, final, later, since, train = *ids[:7], *case.add(make_item(99))
    case.labels.request_unlabeled(NAME, now=NOW)
    commit(case, decision(first, "decided"), decision(early), kept_open=[early])
    open_epoch(case, 1, [first], at=NOW + HOUR)
    between, after = NOW + 2 * HOUR, NOW + 4 * HOUR
    rows = [decision(item_id, at=between) for item_id in (asked, final, since, train)]
    commit(case, *rows, decision(member, "decided", at=between), kept_open=[asked, train])
    open_epoch(case, 2, [member], at=NOW + 3 * HOUR)
    commit(case, decision(later, at=after), decision(since, "decided", version=2, at=after))
    commit(case, decision(final, version=2, at=after))  # disputed again: it belongs to the epoch of the first time
    both = case.disputes.exam_labels(NAME, [1, 2], after=None, until=NOW + 3 * HOUR)
    newest = case.disputes.exam_labels(NAME, [2], after=NOW + HOUR, until=NOW + 3 * HOUR)
    assert both == ExamLabels(num_asked=2, num_disputed=1, num_decided=1, num_imported=0)
    assert newest == ExamLabels(num_asked=1, num_disputed=1, num_decided=1, num_imported=0)
    assert case.disputes.exam_labels(NAME, [1], after=None, until=NOW + HOUR).num_open == 1
    open_epoch(case, 3, [since], at=NOW + 5 * HOUR)  # what was decided since is in an epoch now
    assert case.disputes.exam_labels(NAME, [1, 2], after=None, until=NOW + 3 * HOUR).num_decided == 0


def test_labels_of_the_source_decide_exam_items_only_where_the_project_says_so(case):
    train, exam = case.add(make_item(1, label="cat"), make_item(2, split="exam", label="dog"))
    register = {"classes": CLASSES, "schema_version": 1, "now": NOW}
    assert case.labels.accept_imported(NAME, **register) == 1
    assert set(case.labels.decisions(NAME, [train, exam])) == {train}
    assert case.labels.request_unlabeled(NAME, now=NOW) == 1
    assert case.labels.in_state(NAME, "exam", "pending") == [exam]
    assert case.labels.accept_imported(NAME, in_exam=True, **register) == 1
    case.labels.close_imported(NAME)
    assert case.labels.in_state(NAME, "exam", "pending") == [exam]
    case.labels.close_imported(NAME, in_exam=True)
    assert case.labels.in_state(NAME, "exam", "done") == [exam]
    assert DatasetRepository(case.database).num_decided(NAME) == {"label": 1, "exam": 0}
    assert DatasetRepository(case.database).num_decided(NAME, imported_in_exam=True) == {"label": 1, "exam": 1}


def test_people_are_asked_of_exam_items_that_an_earlier_release_decided_by_their_source(case):
    """Items of opened epochs keep their label; the others are asked of people, also where their task was closed."""
    frozen, waiting, closed = case.add(*(make_item(number, split="exam") for number in range(3)))
    case.labels.request_unlabeled(NAME, now=NOW)
    case.labels.mark_pushed(NAME, {closed: 7}, ls_project_id=5, now=NOW)
    with case.database.write() as connection:
        gone = t.labeling_tasks.c.item_id.in_([frozen, waiting])
        connection.execute(t.labeling_tasks.delete().where(gone))
    commit(case, *(decision(item_id, "decided", method="imported") for item_id in (frozen, waiting, closed)))
    open_epoch(case, 1, [frozen], at=NOW + HOUR)
    assert case.labels.request_unlabeled(NAME, imported_in_exam=True, now=NOW) == 0
    assert case.labels.request_unlabeled(NAME, now=NOW) == 1
    assert case.labels.in_state(NAME, "exam", "pending") == [waiting]
    assert case.labels.in_state(NAME, "exam", "pushed") == [closed]
    assert case.disputes.exam_decisions(NAME) == {
        (True, True): 1, (False, True): 2, (True, False): 0, (False, False): 0,
    }  # fmt: skip
    assert case.disputes.exam_labels(NAME, [1], after=None, until=NOW + HOUR).num_imported == 1


def test_an_audit_goes_to_the_exams_people_and_an_open_one_stays_where_it_is(case):
    items = [make_item(number, origin="production") for number in range(2)]
    old, new = case.add(*items)
    case.labels.request([items[0]], reason="uncertain", now=NOW)
    case.labels.request(items, reason="audit", now=NOW)
    assert case.labels.known_items(NAME, [old, new], queue="label") == {old}
    assert case.labels.known_items(NAME, [old, new], queue="exam") == {new}


def test_audits_without_a_label_of_people_are_open_or_do_not_count(case):
    items = [make_item(number, origin="production") for number in range(4)]
    right, asked, final, imported = case.add(*items)
    case.labels.request(items, reason="audit", now=NOW)
    monitoring = MonitoringRepository(case.database)
    picks = [AuditRow(f"p{n}", item.item_id, "m1", "cat", 0.9, "audit", NOW) for n, item in enumerate(items)]
    monitoring.record_picks(
        NAME, [*picks, dataclasses.replace(picks[1], prediction_id="u", kind="uncertain")], now=NOW, fence=case.fence
    )
    commit(case, decision(right, "decided"), decision(asked), decision(final), kept_open=[asked])
    commit(case, decision(imported, "decided", method="imported"))
    assert [row.item_id for row in monitoring.audited(NAME)] == [right]
    assert [row.item_id for row in monitoring.audited(NAME, imported=True)] == [right, imported]
    assert [(row.item_id, row.is_asked) for row in monitoring.open_audits(NAME)] == [(asked, True), (final, False)]
