"""The verdict on a candidate beside the champion, under the rule of rollouts from before there was another."""

import random

import pytest

from pipeline_tasks.contracts import DeploymentAccount, Route, RouteEntry
from pipeline_tasks.deployment.canary_analysis import (
    EMPTY,
    Look,
    Phase,
    decide,
    judge,
    next_phase,
    phase_at,
    phases_of,
    share_of,
)
from pipeline_tasks.project.serving_schema import RolloutConfig, RolloutLimits

EDGES = (1.0, 2.0, 4.0, 8.0, 16.0)
CANARY, SHADOW = Phase(5, 60, 100), Phase(0, 60, 100)
LIMITS = RolloutLimits()


def account(asked, *, errors=0, ms=1.0, slow=0, slow_ms=100.0, compared=0, disagreed=0):
    counts = [0] * (len(EDGES) + 1)
    for number, milliseconds in ((asked - slow, ms), (slow, slow_ms)):
        counts[sum(edge < milliseconds for edge in EDGES)] += number
    return DeploymentAccount(asked, errors, tuple(counts), compared, disagreed)


def look(candidate, champion, *, phase=CANARY, limits=LIMITS, alpha=0.05):
    return judge(candidate, champion, phase=phase, limits=limits, alpha=alpha, edges_ms=EDGES, rule="steps/1")


def test_a_candidate_like_the_champion_passes():
    finding = look(account(2000, errors=2), account(8000, errors=8))
    assert finding.answer == "pass"
    assert finding.reasons[0].startswith("0.1% of 2,000 failed, the champion's 0.1% of 8,000: ")
    assert "(2.0 allowed)" in finding.reasons[0]


@pytest.mark.parametrize("asked", [4, 2000])
def test_one_that_fails_everything_is_failed_after_a_handful(asked):
    finding = look(account(asked, errors=asked), account(400))
    assert finding.answer == "fail"
    (reason,) = finding.reasons
    assert reason.startswith(f"100.0% of {asked:,} failed, the champion's 0.0% of 400: ")


def test_one_failure_decides_nothing():
    assert look(account(1, errors=1), account(400)).answer == "inconclusive"


def test_a_champion_that_fails_as_much_at_the_time_excuses_the_candidate():
    limits = RolloutLimits(max_error_rate_increase=0.1)
    assert look(account(3000, errors=600), account(3000, errors=600), limits=limits).answer == "pass"
    assert look(account(3000, errors=600), account(3000), limits=limits).answer == "fail"


def test_an_increase_within_the_limit_is_told_from_one_beyond():
    limits = RolloutLimits(max_error_rate_increase=0.05)
    assert look(account(20_000, errors=400), account(20_000), limits=limits).answer == "pass"
    assert look(account(20_000, errors=1600), account(20_000), limits=limits).answer == "fail"
    assert look(account(20_000, errors=1000), account(20_000), limits=limits).answer == "inconclusive"


def test_slowness_is_measured_by_the_champions_own_time():
    assert look(account(2000, ms=8.0), account(2000, ms=4.0)).answer == "pass"
    finding = look(account(2000, ms=16.0), account(2000, ms=4.0))
    assert finding.answer == "fail"
    assert finding.reasons[0].startswith("100.0% of 2,000 slower than 8 ms, the champion's 0.0% of 2,000")
    generous = RolloutLimits(max_latency_ratio=4.0)
    assert look(account(2000, ms=16.0), account(2000, ms=4.0), limits=generous).answer == "pass"


def test_a_few_slow_requests_are_no_slow_candidate():
    assert look(account(5000, slow=100), account(5000, slow=100)).answer == "pass"
    assert look(account(5000, slow=1500), account(5000, slow=100)).answer == "fail"


def test_the_champions_slow_tail_is_above_the_last_edge():
    assert look(account(3000, ms=99.0), account(3000, ms=99.0)).answer == "pass"


def test_disagreement_counts_in_the_shadow_only():
    candidate, champion = account(2000, compared=2000, disagreed=1400), account(2000)
    finding = look(candidate, champion, phase=SHADOW)
    assert finding.answer == "fail"
    assert finding.reasons[0].startswith("70.0% of 2,000 mirrored answers differ from the champion's: ")
    assert look(candidate, champion).answer == "pass"
    agreeing = account(2000, compared=2000, disagreed=100)
    assert look(agreeing, champion, phase=SHADOW).answer == "pass"
    assert look(account(2000, compared=3), champion, phase=SHADOW).answer == "inconclusive"


def test_passing_needs_the_minimum_and_both_sides():
    wide = RolloutLimits(max_error_rate_increase=0.9)
    finding = look(account(99), account(5000), limits=wide)
    assert (finding.answer, finding.reasons[0]) == ("inconclusive", "99 of the 100 requests that it needs")
    assert look(account(5000), EMPTY).answer == "inconclusive"
    assert look(EMPTY, account(5000)).answer == "inconclusive"


def test_looking_at_every_request_fails_an_equal_candidate_less_often_than_alpha():
    rng, failed, num_streams = random.Random(4), 0, 80
    limits = RolloutLimits(max_error_rate_increase=0.0001)
    for _ in range(num_streams):
        bad, other = 0, 0
        for asked in range(1, 150):
            bad, other = bad + (rng.random() < 0.1), other + (rng.random() < 0.1)
            if (
                asked % 4 < 2
                and look(account(asked, errors=bad), account(asked, errors=other), limits=limits).answer == "fail"
            ):
                failed += 1
                break
    assert failed / num_streams <= 0.05


@pytest.mark.parametrize(
    ("answer", "elapsed", "left", "expected"),
    [
        ("fail", 0, 99, "fail"),
        ("fail", 99, -1, "fail"),
        ("pass", 59, 99, "hold"),
        ("pass", 60, 99, "next"),
        ("pass", 60, -1, "next"),
        ("pass", 59, 0, "give_up"),
        ("inconclusive", 999, 1, "hold"),
        ("inconclusive", 999, 0, "give_up"),
    ],
)
def test_what_follows_a_look(answer, elapsed, left, expected):
    assert decide(Look(answer, ()), CANARY, elapsed_seconds=elapsed, seconds_left=left) == expected


def test_phases():
    assert phases_of(RolloutConfig()) == []
    canary = RolloutConfig(strategy="canary", steps=[10, 50], bake_seconds=5, min_requests=7, shadow_requests=0)
    assert phases_of(canary) == [Phase(10, 5, 7), Phase(50, 5, 7)]
    assert phases_of(RolloutConfig(strategy="canary"))[0] == Phase(0, 0, 500), "mirrors, where a project says nothing"
    shadowed = canary.model_copy(update={"shadow_seconds": 3.0})
    assert phases_of(shadowed)[0] == Phase(0, 3, 1)
    assert phases_of(canary.model_copy(update={"shadow_requests": 9}))[0] == Phase(0, 0, 9)


def test_what_follows_a_share_also_after_the_steps_were_changed():
    phases = [Phase(0, 1, 1), Phase(5, 60, 100), Phase(50, 60, 100)]
    assert [next_phase(phases, share) for share in (None, 0, 5, 20, 50)] == [*phases, phases[2], None]
    assert (phase_at(phases, 5), phase_at(phases, 20)) == (phases[1], Phase(20, 60, 100))


def test_the_share_of_a_deployment():
    entries = (RouteEntry("a", "A", "http://a", 95), RouteEntry("b", "B", "http://b", 5))
    route = Route("p", 1, "c", None, "A", entries, (RouteEntry("s", "S", "http://s", 0),))
    assert [share_of(route, name) for name in ("a", "b", "s", "z")] == [95, 5, 0, None]
