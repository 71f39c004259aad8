"""A disputed item is asked of one further person after the other, and of nobody twice (issue 14, point 3)."""

import pytest

from pipeline_tasks.annotation.consensus import AgreementRule, asks_further, decide, people_wanted
from pipeline_tasks.catalog.disputes import DisputeRepository
from tests.fakes_labeling import FakeLabelStudio
from tests.labeling_case import NAME, Case, make_project
from tests.unit.annotation.test_consensus import row


@pytest.fixture
def case(database):
    return Case(database, FakeLabelStudio())


@pytest.fixture
def tied(case):
    """An exam item on which two people differ, collected."""
    (case.item,) = case.add_numbers([1], split="exam")
    case.annotate()
    case.say = lambda label, *, by: case.labeling.answer(case.ls_project("exam"), case.item, label, by=by)
    case.say("owl", by="a@x")
    case.say("cat", by="b@x")
    case.report = case.collect()
    return case


def shown(case, person, queue="exam"):
    return case.labeling.shown_to(case.ls_project(queue), person)


@pytest.mark.parametrize(
    ("votes", "rule", "expected"),
    [
        pytest.param(["cat", "dog"], AgreementRule(2, 0.5, 1), True, id="a tie"),
        pytest.param(["cat", "dog"], AgreementRule(2, 0.5, 0), False, id="nobody further"),
        pytest.param(["cat"], AgreementRule(2, 0.5, 1), False, id="too few yet"),
        pytest.param(["cat", "cat"], AgreementRule(2, 0.5, 1), False, id="decided"),
        pytest.param(["cat", "dog", "owl"], AgreementRule(2, 0.5, 1), False, id="the limit is reached"),
        pytest.param(["cat", "dog", "owl"], AgreementRule(2, 0.5, 2), False, id="one more cannot decide it"),
        pytest.param(["cat", "dog", "owl"], AgreementRule(2, 0.5, 3), True, id="two more can"),
        pytest.param(["cat", "cat", "dog"], AgreementRule(3, 0.7, 1), True, id="below the share that must agree"),
        pytest.param(["cat", "cat", "dog"], AgreementRule(3, 0.75, 1), False, id="no further person reaches the share"),
        pytest.param(["cat", "dog"], AgreementRule(2, 1.0, 5), False, id="all must agree"),
        pytest.param(["cat", "dog"], AgreementRule(1, 0.5, 1), True, id="two answered where one was asked"),
        pytest.param(["cat", "dog", "owl"], AgreementRule(1, 0.5, 1), False, id="three answered where one was asked"),
    ],
)
def test_a_further_person_is_asked_while_one_is_left_and_can_decide(votes, rule, expected):
    answers = [row(number, label) for number, label in enumerate(votes)]
    assert asks_further(answers, rule) is expected


def test_a_further_person_who_has_answered_already_counts_once():
    answers = [row(1, "cat", by="a"), row(2, "dog", by="b"), row(3, "cat", by="a", revision="r2")]
    rule = AgreementRule(2, 0.5, 1)
    assert decide(answers, rule).status == "disputed"
    assert asks_further(answers, rule) is True
    assert people_wanted(answers) == 3


def test_label_studio_counts_a_refused_answer_and_no_skip_and_nothing_deleted():
    answers = [row(1, "cat"), row(2, None), row(3, None, cancelled=True), row(4, "dog", deleted=True)]
    assert people_wanted(answers) == 3


def test_a_tie_is_asked_of_one_further_person_who_has_not_answered(tied):
    assert (tied.report.num_disputed, tied.report.num_asked) == (1, 1)
    assert tied.label_of(tied.item) == (1, "disputed", None)
    assert [shown(tied, person) for person in ("a@x", "b@x", "c@x")] == [[], [], [tied.item]]
    assert tied.labels.counts(NAME)["exam"].pushed == 1
    assert DisputeRepository(tied.database).num_asked(NAME) == {"label": 0, "exam": 1}


def test_the_third_answer_decides(tied):
    tied.say("cat", by="c@x")
    report = tied.collect()
    assert (report.num_decided, report.num_asked) == (1, 0)
    assert tied.label_of(tied.item) == (2, "decided", "cat")
    assert shown(tied, "d@x") == []
    assert tied.labels.counts(NAME)["exam"].done == 1


def test_a_third_answer_by_one_of_the_two_decides_nothing(tied):
    tied.say("owl", by="b@x")
    tied.say("cat", by="a@x")
    assert tied.collect().num_asked == 1
    assert tied.label_of(tied.item)[1:] == ("disputed", None)
    assert shown(tied, "c@x") == [tied.item]


def test_three_answers_that_differ_stay_disputed_and_are_asked_no_more(tied):
    tied.say("dog", by="c@x")
    report = tied.collect()
    assert (report.num_disputed, report.num_asked) == (1, 0)
    assert tied.label_of(tied.item) == (2, "disputed", None)
    assert shown(tied, "d@x") == []
    assert tied.labels.counts(NAME)["exam"].done == 1
    tied.project = make_project(further_people=3)
    assert tied.collect().num_asked == 1
    assert shown(tied, "d@x") == [tied.item]


def test_without_further_people_a_tie_is_left_out_as_before(tied):
    tied.project = make_project(further_people=0)
    assert tied.collect().num_asked == 0
    assert tied.labels.counts(NAME)["exam"].done == 1


def test_a_tie_that_an_earlier_release_closed_is_asked_of_a_further_person(tied):
    disputes = DisputeRepository(tied.database)
    fence = tied.database.acquire(
        "old", attempt_of("old"), now=tied.labels.decisions(NAME, [tied.item])[tied.item].decided_at
    )
    disputes.set_open(NAME, asked=[], settled=[tied.item], fence=fence)
    assert tied.labels.counts(NAME)["exam"].done == 1
    assert tied.collect().num_asked == 1
    assert tied.labels.counts(NAME)["exam"].pushed == 1


def test_a_change_of_the_settings_takes_no_further_person_away(tied):
    tied.project = make_project(exam_annotators=1)
    tied.collect()
    tied.project = make_project()
    tied.collect()
    tied.collect()
    assert shown(tied, "c@x") == [tied.item]


def test_a_task_that_is_right_is_not_written_again(tied):
    before = tied.labeling.calls["ask_people"]
    tied.collect()
    assert tied.labeling.calls["ask_people"] == before == 1


def test_a_tie_in_a_lost_project_is_pushed_again_and_the_old_answers_count(tied):
    tied.labeling.drop_project(tied.ls_project("exam"))
    tied.annotate()
    assert shown(tied, "c@x") == [tied.item]
    tied.say("cat", by="c@x")
    assert tied.collect().num_decided == 1
    assert tied.label_of(tied.item) == (2, "decided", "cat")


def test_a_training_item_is_asked_of_a_further_person_too(case):
    case.project = make_project(annotators=2)
    (item,) = case.add_numbers([1])
    case.annotate()
    for person, label in (("a@x", "owl"), ("b@x", "cat")):
        case.labeling.answer(case.ls_project(), item, label, by=person)
    assert case.collect().num_asked == 1
    assert shown(case, "c@x", "label") == [item]


def test_a_retired_item_is_asked_of_nobody(tied):
    from pipeline_tasks.catalog.set_aside import Retirement, SetAsideRepository

    at = tied.labels.decisions(NAME, [tied.item])[tied.item].decided_at
    SetAsideRepository(tied.database).retire(Retirement(NAME, tied.item, "no photo", "ann", at))
    assert tied.collect().num_asked == 0


def attempt_of(run):
    from pipeline_tasks.contracts import Attempt

    return Attempt(run, "old")
