"""The label repository on SQLite, and on PostgreSQL where it is installed."""

import dataclasses
import datetime as dt

import pytest
import sqlalchemy as sa

from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.database import Database, create_engine
from pipeline_tasks.catalog.items import Chunk, KnownItem
from pipeline_tasks.catalog.labels import AnnotationRow, DecisionRow, LabelRepository
from pipeline_tasks.catalog.set_aside import BadRow
from pipeline_tasks.contracts import Attempt
from pipeline_tasks.errors import StaleAttempt
from tests.fakes_labeling import FakeLabelStudio
from tests.labeling_case import CLASSES, NAME, NOW, Case, make_item

LATER = NOW + dt.timedelta(hours=1)


@pytest.fixture
def case(catalog_url):
    engine = create_engine(catalog_url)
    t.metadata.create_all(engine)
    yield Case(Database(engine), FakeLabelStudio())
    engine.dispose()


@pytest.fixture
def labels(case) -> LabelRepository:
    return case.labels


def annotation(number, item_id, **changes):
    row = AnnotationRow(str(number), "r1", item_id, "label", "a@x", "cat", [{"x": 1}], False, False, 2.0, NOW)
    return dataclasses.replace(row, **changes)


def decision(item_id, version=1, label="cat", status="decided"):
    return DecisionRow(item_id, version, status, label, "single", ("1",), ("a@x",), 1.0, 1, NOW)


def accept(labels):
    return labels.accept_imported(NAME, classes=CLASSES, schema_version=1, now=NOW)


def test_imported_labels_are_accepted_once(case, labels):
    ids = case.add(*(make_item(number, label=CLASSES[number % 3]) for number in range(6)), make_item(7))
    assert accept(labels) == 6
    assert accept(labels) == 0
    assert labels.decisions(NAME, ids[:1])[ids[0]] == DecisionRow(
        ids[0], 1, "decided", "cat", "imported", (), (), None, 1, NOW
    )
    assert [row.status for row in labels.decisions(NAME, ids).values()] == ["decided"] * 6


def test_a_label_that_comes_later_is_accepted_later(case, labels):
    (item_id,) = case.add(make_item(1))
    assert accept(labels) == 0
    fence = case.database.acquire("ingest", Attempt("r", "t"), now=NOW)
    case.items.record(fence, Chunk(NAME, "folder", "b", [], labels={item_id: "dog"}))
    assert accept(labels) == 1


def test_a_label_corrected_at_its_source_is_a_new_version_and_people_are_not_overruled(case, labels):
    first, second, third = case.add(*(make_item(number, label="cat") for number in range(3)))
    assert accept(labels) == 3
    labels.commit(NAME, decisions=[decision(second, version=2)], now=NOW)
    fence = case.items.database.acquire("x", Attempt("r", "ingest"), now=NOW)
    to_dog = {item_id: KnownItem("dog", "s", "k") for item_id in (first, second)}
    case.items.record(fence, Chunk(NAME, "s", "b", [], corrected=to_dog))
    assert (accept(labels), accept(labels)) == (1, 0)
    history = [(row.version, row.label, row.method) for row in labels.history(NAME, first)]
    assert history == [(1, "cat", "imported"), (2, "dog", "imported")]
    assert labels.decisions(NAME, [second])[second].method == "single"
    assert len(labels.history(NAME, third)) == 1
    case.items.record(fence, Chunk(NAME, "s", "b", [], corrected={first: KnownItem("cat", "s", "k")}))
    assert accept(labels) == 1
    assert labels.decisions(NAME, [first])[first].label == "cat"


def test_items_in_quarantine_are_neither_accepted_nor_asked_for(case, labels):
    good, bad = case.add(make_item(1, label="cat"), make_item(2, label="cat"))
    (asked,) = case.add(make_item(3))
    row = {"project": NAME, "stage": "items", "source": "folder", "key": "k", "digest": bad, "code": "X", "reason": "x"}
    with case.database.write() as connection:
        connection.execute(t.quarantine.insert(), [row | {"at": NOW}])
    assert accept(labels) == 1
    assert set(labels.decisions(NAME, [good, bad])) == {good}
    assert labels.request_unlabeled(NAME, now=NOW) == 1
    assert labels.in_state(NAME, "label", "pending") == [asked]


def test_requests_are_made_once_and_keep_their_first_reason(case, labels):
    items = [make_item(1, origin="production"), make_item(2, split="exam", origin="production")]
    case.add(*items)
    guess = {item.item_id: {"label": "cat", "score": 0.2} for item in items}
    assert labels.request(items, reason="uncertain", now=NOW, priority=0.8, predictions=guess) == 2
    assert labels.request(items, reason="manual", now=LATER) == 0
    (train,) = labels.claim(NAME, "label", limit=9)
    (exam,) = labels.claim(NAME, "exam", limit=9)
    assert (train.item, train.prediction) == (items[0], {"label": "cat", "score": 0.2})
    assert (exam.item, exam.prediction) == (items[1], None)


def test_the_most_urgent_are_claimed_first_and_no_item_twice(case, labels):
    items = [make_item(number) for number in range(5)]
    case.add(*items)
    for priority, item in enumerate(items):
        labels.request([item], reason="new", now=NOW, priority=float(priority))
    claimed = [request.item.item_id for request in labels.claim(NAME, "label", limit=2)]
    claimed += [request.item.item_id for request in labels.claim(NAME, "label", limit=9)]
    assert claimed == [item.item_id for item in reversed(items)]
    assert labels.claim(NAME, "label", limit=9) == []
    assert labels.counts(NAME)["label"].pushing == 5


def test_the_way_of_a_task(case, labels):
    items = [make_item(number) for number in range(3)]
    ids = case.add(*items)
    labels.request_unlabeled(NAME, now=NOW)
    labels.claim(NAME, "label", limit=9)
    labels.mark_pushed(NAME, {ids[0]: 11, ids[1]: 12}, ls_project_id=5, now=NOW)
    labels.give_back(NAME, [ids[2]])
    assert labels.recorded_tasks(NAME, "label", ls_project_id=5) == {ids[0]: 11, ids[1]: 12}
    assert labels.in_state(NAME, "label", "pending") == [ids[2]]
    assert labels.pushed_elsewhere(NAME, "label", ls_project_id=6) == sorted(ids[:2])
    labels.commit(NAME, decisions=[decision(ids[0])], now=NOW)
    labels.mark_pushed(NAME, {ids[0]: 99}, ls_project_id=5, now=NOW)
    counts = labels.counts(NAME)["label"]
    assert (counts.pending, counts.pushing, counts.pushed, counts.done, counts.outstanding) == (1, 0, 1, 1, 2)
    assert labels.recorded_tasks(NAME, "label", ls_project_id=5)[ids[0]] == 11


def test_suggestions_are_kept_for_pending_training_items_only(case, labels):
    train, exam = make_item(1), make_item(2, split="exam")
    case.add(train, exam)
    labels.request_unlabeled(NAME, now=NOW)
    assert [item.item_id for item in labels.without_prediction(NAME, limit=9)] == [train.item_id]
    labels.suggest(NAME, {item.item_id: {"label": "cat", "score": 0.25} for item in (train, exam)})
    assert labels.without_prediction(NAME, limit=9) == []
    assert labels.claim(NAME, "label", limit=1)[0].prediction == {"label": "cat", "score": 0.25}
    assert labels.claim(NAME, "exam", limit=1)[0].prediction is None
    labels.suggest(NAME, {})


def test_a_revision_is_recorded_once_and_the_newest_counts(case, labels):
    (item_id,) = case.add(make_item(1))
    labels.commit(NAME, annotations=[annotation(1, item_id)], now=NOW)
    labels.commit(NAME, annotations=[annotation(1, item_id, label="dog")], now=LATER)  # same revision: the first stays
    assert labels.annotations(NAME, [item_id]) == {item_id: [annotation(1, item_id)]}
    labels.commit(NAME, annotations=[annotation(1, item_id, revision="r2", label="owl")], now=LATER)
    (newest,) = labels.annotations(NAME, [item_id])[item_id]
    assert (newest.revision, newest.label) == ("r2", "owl")


def test_live_counts_leave_out_the_deleted(case, labels):
    a, b, c = case.add(*(make_item(number) for number in range(3)))
    rows = [
        annotation(1, a), annotation(2, a), annotation(3, b, cancelled=True), annotation(4, c),
        annotation(4, c, revision="r1~deleted", deleted=True), annotation(5, a, queue="exam"),
    ]  # fmt: skip
    labels.commit(NAME, annotations=rows, now=NOW)
    assert labels.live_counts(NAME, "label") == {a: 2, b: 1}
    assert labels.live_counts(NAME, "exam") == {a: 1}


def test_decisions_form_a_history_and_the_newest_counts(case, labels):
    (item_id,) = case.add(make_item(1, split="exam"))
    assert labels.decisions(NAME, [item_id]) == {}
    labels.commit(NAME, decisions=[decision(item_id)], now=NOW)
    assert labels.decisions(NAME, [item_id])[item_id].status == "decided"
    labels.commit(NAME, decisions=[decision(item_id, 2, None, "disputed")], now=NOW)
    assert [row.version for row in labels.history(NAME, item_id)] == [1, 2]
    assert labels.decisions(NAME, [item_id])[item_id].status == "disputed"


def test_a_batch_is_recorded_whole_or_not_at_all(case, labels):
    (item_id,) = case.add(make_item(1))
    labels.commit(NAME, decisions=[decision(item_id)], now=NOW)
    with pytest.raises(sa.exc.IntegrityError):
        labels.commit(NAME, annotations=[annotation(1, item_id)], decisions=[decision(item_id)], now=NOW)
    assert labels.annotations(NAME, [item_id]) == {}


def test_a_stale_attempt_writes_nothing(case, labels):
    (item_id,) = case.add(make_item(1, label="cat"))
    old = case.database.acquire("stage", Attempt("r", "t", 1), now=NOW)
    case.database.acquire("stage", Attempt("r", "t", 2), now=NOW)
    refusal = BadRow("s", "k", item_id, "X", "x")
    calls = [
        lambda: labels.commit(NAME, annotations=[annotation(1, item_id)], refusals=[refusal], now=NOW, fence=old),
        lambda: labels.accept_imported(NAME, classes=CLASSES, schema_version=1, now=NOW, fence=old),
        lambda: labels.request_unlabeled(NAME, now=NOW, fence=old),
        lambda: labels.request([make_item(1)], reason="new", now=NOW, fence=old),
        lambda: labels.claim(NAME, "label", limit=1, fence=old),
        lambda: labels.register(NAME, classes=CLASSES, schema_version=1, ls_project_ids={}, now=NOW, fence=old),
        lambda: labels.refuse(NAME, refusal, closed=True, now=NOW, fence=old),
    ]
    for call in calls:
        with pytest.raises(StaleAttempt, match="r/t/1 must hold the lease stage"):
            call()
    assert labels.annotations(NAME, [item_id]) == labels.decisions(NAME, [item_id]) == {}
    assert labels.registration(NAME) is None
    assert case.items.quarantined(NAME) == []


def test_a_registration_is_kept_and_updated(labels):
    assert labels.registration(NAME) is None
    labels.register(NAME, classes=CLASSES, schema_version=1, ls_project_ids={"label": 1, "exam": 2}, now=NOW)
    labels.register(NAME, classes=CLASSES, schema_version=1, ls_project_ids={"label": 3, "exam": 2}, now=LATER)
    assert labels.registration(NAME) == (CLASSES, 1, {"label": 3, "exam": 2})


def test_known_items_and_counts_of_nothing(labels):
    assert labels.known_items(NAME, ["nobody"], queue="label") == set()
    assert labels.counts(NAME)["exam"].outstanding == 0
    assert labels.history(NAME, "nobody") == []


@pytest.mark.slow
def test_many_source_labels_are_accepted_in_one_go(case, labels):
    case.add(*(make_item(number, label="cat") for number in range(20_000)))
    started = dt.datetime.now(dt.UTC)
    assert accept(labels) == 20_000
    assert labels.request_unlabeled(NAME, now=NOW) == 0
    assert dt.datetime.now(dt.UTC) - started < dt.timedelta(seconds=90)
