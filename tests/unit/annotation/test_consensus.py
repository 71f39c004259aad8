import dataclasses
import datetime as dt

import pytest

from pipeline_tasks.annotation.consensus import (
    REMOVED,
    Consensus,
    ConsensusRule,
    asks_further,
    decide,
    next_decision,
    read_through,
)
from pipeline_tasks.catalog.labels import AnnotationRow, DecisionRow

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
ONE = ConsensusRule(annotators_needed=1, min_agreement=0.5)
TWO = ConsensusRule(annotators_needed=2, min_agreement=0.5)


def row(number, label, *, by=None, revision="r1", **changes):
    fields = {
        "annotation_id": str(number), "revision": revision, "item_id": "i", "queue": "label",
        "annotator": by or f"p{number}", "label": label, "result": [], "cancelled": False, "deleted": False,
        "lead_time_seconds": None, "created_at": NOW,
    }  # fmt: skip
    return AnnotationRow(**(fields | changes))


def test_one_person_decides_alone_where_one_is_asked_for():
    assert decide([row(1, "cat")], ONE) == Consensus("decided", "cat", "single", ("1",), ("p1",), 1.0)


def test_too_few_people_decide_nothing():
    assert decide([], ONE) is None
    assert decide([row(1, "cat")], TWO) is None


def test_one_person_twice_is_one_person():
    assert decide([row(1, "cat", by="a"), row(2, "cat", by="a")], TWO) is None


def test_the_last_answer_of_a_person_counts():
    answers = [row(1, "cat", by="a", revision="r1"), row(2, "dog", by="a", revision="r2")]
    assert decide(answers, ONE) == Consensus("decided", "dog", "single", ("2",), ("a",), 1.0)


def test_two_who_agree_decide():
    assert decide([row(1, "cat"), row(2, "cat")], TWO) == Consensus(
        "decided", "cat", "consensus", ("1", "2"), ("p1", "p2"), 1.0
    )


def test_an_answer_under_a_name_that_is_no_class_is_none():
    answers = [row(1, "cat"), row(2, "dog"), row(3, "pet"), row(4, None), row(5, "owl")]
    read = read_through(answers, {"dog": "cat", "owl": None}, ["cat"])
    assert [answer.label for answer in read] == ["cat", "cat", None, None, REMOVED + "owl"]


def after_a_removal(votes, needed, min_agreement=0.5):
    answers = [row(number, label) for number, label in enumerate(votes)]
    return read_through(answers, {"dog": None, "cow": None}, ["cat", "owl"]), ConsensusRule(needed, min_agreement, 1)


@pytest.mark.parametrize(
    ("votes", "needed", "expected", "asks"),
    [
        (["cat", "cat", "dog"], 3, ("decided", "cat", 3), False),
        (["cat", "cat", "dog"], 2, ("decided", "cat", 3), False),
        (["cat", "dog"], 2, ("disputed", None, 2), True),
        (["cat", "dog", "cat"], 2, ("decided", "cat", 3), False),
        (["cat", "dog", "owl"], 2, ("disputed", None, 2), True),
        (["cat", "dog", "owl", "owl"], 2, ("decided", "owl", 3), False),
        (["cat", "dog", "cow"], 3, ("disputed", None, 3), True),
        (["cat", "dog"], 3, None, False),
        (["dog"], 1, None, False),
        (["dog", "cow"], 2, None, False),
        (["cat", "dog", "dog"], 3, None, False),  # it was a dog, and dropped
        (["cat", "dog", "dog", "cat"], 2, ("decided", "cat", 2), False),
    ],
)
def test_an_answer_under_a_class_that_was_removed_counts_among_the_people_and_gives_no_label(
    votes, needed, expected, asks
):
    answers, rule = after_a_removal(votes, needed)
    outcome = decide(answers, rule)
    assert expected == (outcome and (outcome.status, outcome.label, len(outcome.annotation_ids)))
    assert asks_further(answers, rule) is asks


def test_few_who_must_agree_decide_as_before_the_removal():
    answers, rule = after_a_removal(["cat", "cat", "dog", "cow"], 4, min_agreement=0.4)
    assert decide(answers, rule).label == "cat"
    answers, rule = after_a_removal(["cat", "dog"], 2, min_agreement=0.4)
    assert decide(answers, rule).status == "disputed"


def test_two_who_disagree_are_disputed():
    assert decide([row(1, "cat"), row(2, "dog")], TWO) == Consensus(
        "disputed", None, "consensus", ("1", "2"), ("p1", "p2"), 0.5
    )


@pytest.mark.parametrize(
    ("votes", "min_agreement", "expected"),
    [
        (["cat", "cat", "dog"], 0.5, ("decided", "cat")),
        (["cat", "cat", "dog"], 0.7, ("disputed", None)),
        (["cat", "cat", "dog"], 2 / 3, ("disputed", None)),  # more than the share, not as much
        (["cat", "cat", "cat"], 1.0, ("decided", "cat")),  # all agree: no share is above 1
        (["cat", "dog", "owl"], 0.0, ("disputed", None)),  # a tie is no majority
        (["cat", "cat", "dog", "dog", "owl"], 0.0, ("disputed", None)),
        (["cat", "cat", "dog", "owl"], 0.4, ("decided", "cat")),
    ],
)
def test_a_majority_needs_more_than_the_share(votes, min_agreement, expected):
    answers = [row(number, label) for number, label in enumerate(votes)]
    outcome = decide(answers, ConsensusRule(annotators_needed=len(votes), min_agreement=min_agreement))
    assert (outcome.status, outcome.label) == expected


@pytest.mark.parametrize("changes", [{"deleted": True}, {"cancelled": True}, {"label": None}])
def test_deleted_skipped_and_refused_answers_do_not_count(changes):
    assert decide([dataclasses.replace(row(1, "cat"), **changes)], ONE) is None


def next_of(annotations, previous, rule=ONE):
    return next_decision("i", annotations, rule=rule, previous=previous, schema_version=1, now=NOW)


def test_the_first_decision_is_version_one_and_the_same_again_is_none():
    first = next_of([row(1, "cat")], None)
    assert first == DecisionRow("i", 1, "decided", "cat", "single", ("1",), ("p1",), 1.0, 1, NOW)
    assert next_of([row(1, "cat")], first) is None


def test_a_changed_answer_makes_the_next_version():
    first = next_of([row(1, "cat")], None)
    second = next_of([row(1, "dog", revision="r2")], first)
    assert (second.version, second.status, second.label) == (2, "decided", "dog")


def test_a_decision_falls_when_its_answers_are_deleted_and_rises_with_a_new_one():
    first = next_of([row(1, "cat")], None)
    fallen = next_of([row(1, "cat", deleted=True)], first)
    assert (fallen.version, fallen.status, fallen.label, fallen.annotation_ids) == (2, "withdrawn", None, ())
    assert next_of([row(1, "cat", deleted=True)], fallen) is None
    risen = next_of([row(1, "cat", deleted=True), row(2, "cat")], fallen)
    assert (risen.version, risen.status, risen.annotation_ids) == (3, "decided", ("2",))


def test_an_imported_label_stays_until_enough_people_decide():
    imported = DecisionRow("i", 1, "decided", "owl", "imported", (), (), None, 1, NOW)
    assert next_of([row(1, "cat")], imported, TWO) is None
    assert next_of([], imported) is None
    decided = next_of([row(1, "cat"), row(2, "cat")], imported, TWO)
    assert (decided.version, decided.label, decided.method) == (2, "cat", "consensus")
