"""Experiments on matched pairs: sizes, late and selective outcomes."""

import dataclasses
import itertools
import random

import pytest

from pipeline_tasks.deployment.experiment_analysis import (
    Experiment,
    Exposure,
    Outcome,
    as_text,
    check_window,
    compare_arms,
)
from pipeline_tasks.deployment.experiment_pairs import Pairs, match
from pipeline_tasks.errors import ConfigError

HOUR = 3_600_000
OLD = Experiment("e1", "p", 7, "va", "vb", {"da": "a", "db": "b"}, 50, "correct", 0.95)
NEW = dataclasses.replace(OLD, rule="pairs/1", matures_after_seconds=3600.0)
END = 10**12


def user(number, arm, *, right, after_ms=1000, at_ms=None):
    """Return one user's exposure and, where `right` is not None, the outcome told so long after it."""
    at = number * 1000 if at_ms is None else at_ms
    exposed = Exposure(f"r{number}", f"p{number}", f"u{number}", None, f"d{arm}", "x", at)
    if right is None:
        return exposed, None
    return exposed, Outcome(f"f{number}", f"p{number}", None, "x" if right else "y", at + after_ms)


def report(users, *, experiment=NEW, as_of_ms=END):
    exposures = [exposed for exposed, _ in users]
    return compare_arms(experiment, exposures, [told for _, told in users if told], as_of_ms=as_of_ms)


EACH = [(arm, right) for arm in "ab" for right in (True, False)]
ALL, AT_ONCE = dict.fromkeys(EACH, 1.0), dict.fromkeys(EACH, 1000)


def draw(rates, *, number, seed, share=0.5, told=ALL, after_ms=AT_ONCE):
    """Return users; `told` and `after_ms` say by arm and answer how often an outcome is told, and when."""
    rng, users = random.Random(seed), []
    for place in range(number):
        arm = "b" if rng.random() < share else "a"
        right = rng.random() < rates[arm]
        is_told = rng.random() < told[arm, right]
        users.append(user(place, arm, right=right if is_told else None, after_ms=after_ms[arm, right]))
    return users


@pytest.mark.parametrize(
    ("units", "expected"),
    [
        ("", (0, 0, 0)),
        ("a1 a0", (0, 0, 0)),
        ("a1 b0", (1, 1, 0)),
        ("b1 a0", (1, 0, 1)),
        ("a1 b1 b0 a0", (2, 0, 0)),
        ("a0 a1 b0 b1", (2, 1, 1)),  # the newest first: a1 with b0, a0 with b1
        ("a0 a0 a0 a1 b1", (1, 0, 0)),
    ],
)
def test_a_unit_is_matched_with_the_newest_of_the_other_arm(units, expected):
    assert match((unit[0], unit[1] == "1") for unit in units.split()) == Pairs(*expected)


@pytest.mark.parametrize(
    ("only_a", "only_b", "uneven"), [(0, 0, False), (0, 5, False), (6, 0, True), (40, 60, False), (39, 61, True)]
)
def test_sides_are_uneven_where_a_look_shows_it(only_a, only_b, uneven):
    assert Pairs(500, only_a, only_b).is_uneven is uneven


def test_a_longer_log_only_adds_pairs():
    rng = random.Random(5)
    units = [(rng.choice("ab"), rng.random() < 0.3) for _ in range(200)]
    pairs = [match(units[:cut]) for cut in range(200)]
    for before, after in itertools.pairwise(pairs):
        assert (after.num - before.num, after.only_a - before.only_a, after.only_b - before.only_b) in {
            (0, 0, 0),
            (1, 0, 0),
            (1, 1, 0),
            (1, 0, 1),
        }


def test_pairs_decide_where_two_intervals_do_not():
    """Row 8: 2.7 to 3.6 times the outcomes are needed by the difference of two intervals."""
    users = draw({"a": 0.5, "b": 0.6}, number=1800, seed=3)
    assert report(users)["answer"] == "b"
    assert report(users, experiment=OLD)["answer"] == "undecided"


@pytest.mark.parametrize("share", [0.5, 0.2, 0.9])
def test_a_true_difference_is_found_at_any_share(share):
    uneven = dataclasses.replace(NEW, share=round(100 * share))
    for better in "ab":
        rates = {"a": 0.5, "b": 0.5} | {better: 0.75}
        assert report(draw(rates, number=3000, seed=4, share=share), experiment=uneven)["answer"] == better


def test_no_difference_is_seldom_found_however_often_one_looks_while_the_rate_moves_with_the_day():
    wrong = 0
    for seed in range(60):
        rng = random.Random(seed)
        units = [(rng.choice("ab"), rng.random() < (0.2 if n % 200 < 100 else 0.8)) for n in range(1000)]
        wrong += any(match(units[:cut]).ahead(alpha=0.05) for cut in range(50, 1001, 50))
    assert wrong / 60 <= 0.05


def test_the_order_and_doubles_of_the_log_do_not_matter():
    users = draw({"a": 0.5, "b": 0.6}, number=400, seed=6)
    mixed = [*users, *users[:50]]
    random.Random(3).shuffle(mixed)
    assert report(mixed) == report(users)


def test_a_unit_counts_once_its_exposure_is_older_than_the_window():
    users = [user(1, "a", right=True, at_ms=0), user(2, "b", right=False, at_ms=HOUR)]
    counted = [
        [arm["num_outcomes"] for arm in report(users, as_of_ms=at)["arms"].values()]
        for at in (HOUR - 1, HOUR, 2 * HOUR)
    ]
    assert counted == [[0, 0], [1, 0], [1, 1]]


def test_an_outcome_after_the_window_does_not_count_and_is_told_of():
    users = [user(n, "ab"[n % 2], right=True, after_ms=2 * HOUR if n % 4 == 0 else 1000) for n in range(80)]
    compared = report(users)
    assert [(arm["num_matured"], arm["num_outcomes"], arm["num_late"]) for arm in compared["arms"].values()] == [
        (40, 20, 20),
        (40, 40, 0),
    ]
    assert compared["warning"].startswith("20 of 80 outcomes were told after the maturation window, and do not count")


def test_a_user_who_comes_again_keeps_the_first_exposures_clock():
    exposed, told = user(1, "a", right=True, at_ms=0)
    again = dataclasses.replace(exposed, request_id="r9", prediction_id="p9", at_ms=2 * HOUR)
    compared = compare_arms(NEW, [again, exposed], [told], as_of_ms=HOUR)
    assert (compared["arms"]["a"]["num_matured"], compared["arms"]["a"]["num_outcomes"]) == (1, 1)


def answer_at(users, at_ms, *, experiment):
    """Return what the experiment answered at a look, by what was logged until then."""
    logged = [(e, o if o is not None and o.at_ms <= at_ms else None) for e, o in users if e.at_ms <= at_ms]
    return report(logged, experiment=experiment, as_of_ms=at_ms)["answer"]


def test_wrong_answers_told_late_in_one_arm_decide_nothing():
    """Row 7: 60 of 60 null experiments were answered at some look."""
    late = AT_ONCE | {("b", False): 600_000}
    looks = range(100_000, 1_500_001, 100_000)
    answers = dict.fromkeys(("intervals/1", "pairs/1"), 0)
    for seed in range(6):
        users = draw({"a": 0.7, "b": 0.7}, number=1500, seed=seed, after_ms=late)
        for rule in answers:
            experiment = dataclasses.replace(NEW, rule=rule)
            answers[rule] += any(answer_at(users, at, experiment=experiment) in {"a", "b"} for at in looks)
    assert answers["pairs/1"] == 0
    assert answers["intervals/1"] == 6


@pytest.mark.parametrize(
    ("told", "answer"),
    [
        pytest.param({group: 0.9 if group[0] == "b" else 0.3 for group in EACH}, "withheld", id="more-of-b"),
        pytest.param(ALL | {("b", False): 0.0}, "withheld", id="wrong-ones-hidden-in-b"),
        pytest.param(dict.fromkeys(EACH, 0.5) | {("b", False): 1.0}, "withheld", id="wrong-ones-twice-as-often-in-b"),
        pytest.param(dict.fromkeys(EACH, 0.4), "undecided", id="alike"),
    ],
)
def test_the_answer_is_withheld_where_the_arms_are_not_told_alike(told, answer):
    compared = report(draw({"a": 0.6, "b": 0.6}, number=1500, seed=2, told=told))
    assert compared["answer"] == answer
    if answer == "withheld":
        assert compared["withheld"].startswith("outcomes must be told of both arms alike (got ")
        assert (
            as_text(compared | {"state": "running"}).splitlines()[-1].startswith("answer: withheld: outcomes must be")
        )
    else:
        assert compared["withheld"] is None


def test_a_draw_that_does_not_fit_its_share_withholds_the_answer():
    users = draw({"a": 0.2, "b": 0.9}, number=1500, seed=2, share=0.2)
    compared = report(users)
    assert (compared["answer"], compared["withheld"]) == ("withheld", compared["warning"])
    assert compared["warning"].startswith("b must be about 50 % of the exposed")


def test_the_report_in_words_says_what_was_counted_and_how_the_pairs_fell():
    lines = as_text(report(draw({"a": 0.2, "b": 0.6}, number=600, seed=1)) | {"state": "running"}).splitlines()
    assert lines[-1] == "answer: b"
    assert lines[-3].startswith("  counted: units exposed 1 h ago or earlier (")
    assert "matched pairs" in lines[-2]
    assert "for b: " in lines[-2]


def test_a_report_under_the_rule_before_has_not_changed():
    compared = report([user(n, "ab"[n % 2], right=n % 3 > 0) for n in range(30)], experiment=OLD, as_of_ms=0)
    assert list(compared) == [
        "experiment_id",
        "project",
        "generation",
        "metric",
        "confidence",
        "arms",
        "difference",
        "answer",
        "warning",
    ]
    assert compared["arms"]["a"] == {
        "model_version": "va",
        "num_requests": 15,
        "num_exposed": 15,
        "num_outcomes": 15,
        "num_successes": 10,
        "rate": 10 / 15,
        "bounds": compared["arms"]["b"]["bounds"],
    }


@pytest.mark.parametrize(("text", "seconds"), [("1s", 1), ("90m", 5400), ("24h", 86_400), ("90d", 7_776_000)])
def test_windows(text, seconds):
    assert check_window(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "0h", "-1h", "1.5h", "24", "1w", "91d", "9" * 400 + "d", "\u0663h", "soon"])
def test_a_window_that_is_none_is_refused(text):
    with pytest.raises(ConfigError, match="--matures-after must be a whole number and s, m, h or d, 90d at most"):
        check_window(text)
