from collections import Counter

import pytest

from pipeline_tasks.demo.scripted_annotators import Annotator, assign, chosen_label, password_for
from pipeline_tasks.errors import ConfigError

CLASSES = ["cat", "dog", "owl"]
TEAM = [Annotator(f"{name}@x", 0.0) for name in ("a", "b", "c")]
TASKS = {f"item{number}": number for number in range(9)}
TRUTH = dict.fromkeys(TASKS, "cat")


def plan(tasks=TASKS, *, team=TEAM, people=1, asked=None, before=None, truth=TRUTH):
    return assign(
        tasks, annotators=team, people_per_item=people, asked=asked or {}, answered_by=before or {}, truth=truth,
        similar={}, classes=CLASSES,
    )  # fmt: skip


def test_a_tie_gets_one_further_person_who_has_not_answered():
    (job,) = plan({"item1": 1}, people=2, asked={"item1": 3}, before={"item1": ["a@x", "b@x"]})
    assert (job.annotator.email, job.task_id) == ("c@x", 1)


def test_a_perfect_annotator_tells_the_truth_and_a_hopeless_one_never():
    labels = Counter()
    for number in range(300):
        said = chosen_label(Annotator("a@x", 1.0), str(number), truth="cat", similar={}, classes=CLASSES)
        labels[said] += 1
        assert chosen_label(TEAM[0], str(number), truth="cat", similar={}, classes=CLASSES) == "cat"
    assert set(labels) == {"dog", "owl"}
    assert min(labels.values()) > 100


def test_the_error_rate_is_kept_and_mistakes_look_alike():
    someone = Annotator("a@x", 0.2)
    similar = {"cat": ["owl", "not a class"]}
    said = [chosen_label(someone, str(n), truth="cat", similar=similar, classes=CLASSES) for n in range(2000)]
    assert set(said) == {"cat", "owl"}
    assert said.count("owl") == pytest.approx(400, abs=60)
    assert said == [chosen_label(someone, str(n), truth="cat", similar=similar, classes=CLASSES) for n in range(2000)]


def test_work_is_divided_evenly_and_each_item_gets_different_people():
    jobs = plan(people=2)
    assert Counter(job.annotator.email for job in jobs) == {"a@x": 6, "b@x": 6, "c@x": 6}
    assert all(len({job.annotator for job in jobs if job.item_id == item_id}) == 2 for item_id in TASKS)
    assert all(1.5 <= job.lead_time_seconds <= 5.5 for job in jobs)


def test_what_was_answered_before_is_not_answered_again():
    before = {"item0": {"a@x"}, "item1": {"a@x", "b@x"}, "item2": {"somebody@else", "another@else"}}
    jobs = plan(people=2, before=before)
    assert [job.annotator.email != "a@x" for job in jobs if job.item_id == "item0"] == [True]
    assert not [job for job in jobs if job.item_id in {"item1", "item2"}]


def test_items_without_a_known_label_are_left_to_people():
    assert [job.item_id for job in plan(truth={"item3": "dog"})] == ["item3"]


def test_too_few_accounts_are_refused():
    with pytest.raises(ConfigError, match=r"annotators must be at least 2 accounts.*\(got 1\)"):
        plan(team=TEAM[:1], people=2)


def test_passwords_are_the_same_each_time_and_differ_by_account():
    assert password_for("a@x", "secret") == password_for("a@x", "secret")
    assert len({password_for("a@x", "secret"), password_for("b@x", "secret"), password_for("a@x", "other")}) == 3
