"""Labels and reliabilities from several answers: known teams give known figures."""

import numpy as np
import pytest

from pipeline_tasks.annotation.reliability import METHODS, Votes, aggregate, choose

CLASSES = ("cat", "dog", "fox")


def answers_of(truth, team, *, seed=0):
    """Return everybody's answers; `team` has a person's chance of being right, or what he says for each class."""
    generator = np.random.default_rng(seed)
    answers = []
    for number, label in enumerate(truth):
        for name, skill in team.items():
            if isinstance(skill, dict):
                said = skill.get(label, label)
            else:
                others = [other for other in CLASSES if other != label]
                said = label if generator.random() < skill else others[generator.integers(2)]
            answers.append((f"i{number}", name, said))
    return answers


@pytest.fixture(scope="module")
def truth():
    return [CLASSES[number % 3] for number in range(400)]


def share_right(aggregated, truth):
    return np.mean([aggregated.labels[f"i{number}"] == label for number, label in enumerate(truth)])


def test_a_label_outside_the_classes_is_left_out_and_the_last_of_two_answers_counts():
    votes = Votes.of([("a", "ann", "dog"), ("a", "ann", "cat"), ("a", "ben", "wolf")], classes=CLASSES)
    assert (votes.items, votes.people) == (("a",), ("ann",))
    assert votes.counts_nc.tolist() == [[1, 0, 0]]


def test_the_majority_is_the_most_frequent_label(truth):
    votes = Votes.of([("a", "ann", "dog"), ("a", "ben", "dog"), ("a", "cleo", "cat")], classes=CLASSES)
    aggregated = aggregate(votes, "majority")
    assert aggregated.labels == {"a": "dog"}
    assert aggregated.posterior_nc[0] == pytest.approx([1 / 3, 2 / 3, 0])


def test_one_good_person_outweighs_two_bad_ones(truth):
    """By chances of being right; a majority lets the two decide where they agree."""
    votes = Votes.of(answers_of(truth, {"ann": 0.97, "ben": 0.45, "cleo": 0.45, "dan": 0.9}), classes=CLASSES)
    right = {method: share_right(aggregate(votes, method), truth) for method in METHODS}
    assert right["one-coin"] > right["majority"] + 0.05


def test_reliabilities_are_those_of_the_team(truth):
    team = {"ann": 0.95, "ben": 0.8, "cleo": 0.6, "dan": 0.9, "eve": 0.7}
    told = aggregate(Votes.of(answers_of(truth, team), classes=CLASSES), "one-coin").reliability()
    assert {name: share.estimate for name, share in told.items()} == pytest.approx(team, abs=0.05)
    assert all(share.low < share.estimate < share.high for share in told.values())


def test_of_a_majority_reliabilities_are_those_of_one_coin(truth):
    votes = Votes.of(answers_of(truth, {"ann": 0.95, "ben": 0.8, "cleo": 0.6}), classes=CLASSES)
    assert aggregate(votes, "majority").reliability() == aggregate(votes, "one-coin").reliability()


def test_people_who_confuse_two_classes_are_read_by_their_confusions(truth):
    confused = {"cat": "dog", "dog": "cat"}
    team = {"ann": 0.95, "ben": 0.95, "cleo": confused, "dan": confused, "eve": 0.9}
    votes = Votes.of(answers_of(truth, team), classes=CLASSES)
    assert choose(votes).method == "dawid-skene"
    aggregated = aggregate(votes, "dawid-skene")
    assert share_right(aggregated, truth) > 0.98
    cleo = aggregated.confusion_pcc[votes.people.index("cleo")]
    assert (cleo[0, 1] > 0.9, cleo[1, 0] > 0.9, cleo[2, 2] > 0.9) == (True, True, True)


def test_with_people_who_differ_in_skill_alone_one_coin_is_chosen(truth):
    votes = Votes.of(answers_of(truth, {"ann": 0.97, "ben": 0.6, "cleo": 0.5, "dan": 0.9}), classes=CLASSES)
    choice = choose(votes)
    assert (choice.method, choice.num_votes) == ("one-coin", 1600)
    assert choice.held_out["one-coin"] > choice.held_out["majority"]


@pytest.mark.parametrize("team", [{"ann": 0.9, "ben": 0.8}, {"ann": 0.9}], ids=["two people", "one"])
def test_of_fewer_than_three_people_nobody_can_tell_who_is_right(truth, team):
    assert choose(Votes.of(answers_of(truth, team), classes=CLASSES)).method == "majority"


def test_few_votes_are_no_reason_to_leave_the_majority(truth):
    votes = Votes.of(answers_of(truth[:50], {"ann": 0.97, "ben": 0.5, "cleo": 0.9}), classes=CLASSES)
    assert choose(votes) == choose(votes)
    assert choose(votes).method == "majority"


def test_nothing_is_chosen_from_nothing():
    votes = Votes.of([], classes=CLASSES)
    assert choose(votes).method == "majority"
    assert aggregate(votes, "dawid-skene").labels == {}
    assert aggregate(votes, "one-coin").reliability() == {}
