"""Rollouts judged on mirrors, latency limits, quiet services."""

import dataclasses
import datetime as dt
import itertools
import random

import pytest

from bento_services.gateway.prediction_log.records import to_parts
from bento_services.gateway.routing.deployment_counters import EDGES_MS
from pipeline_tasks.contracts import DeploymentAccount
from pipeline_tasks.core.confidence_sequences import Paired, paired_high, paired_low
from pipeline_tasks.deployment.canary_analysis import EMPTY, Phase, due_seconds, edge_below, judge, rule_of
from pipeline_tasks.deployment.canary_mirrors import faultless, judge_by, judge_mirrors, judge_step, least_number
from pipeline_tasks.deployment.canary_schedule import NUM_EDGES, Traffic, forecast, least_requests, require_end, span
from pipeline_tasks.errors import ConfigError, ServiceUnavailable
from pipeline_tasks.monitoring.daily_traffic import newest_day
from pipeline_tasks.project.serving_schema import RolloutConfig, RolloutLimits
from tests.unit.monitoring.builders import NOW, feedback, record

RULES = ("steps/1", "steps/2")
MIRRORS, STEP = Phase(0, 0, 1), Phase(5, 60, 200)
FACTS = {"limits": RolloutLimits(), "alpha": 0.05, "num_phases": 4, "edges_ms": EDGES_MS}


def quick(num, **changes):
    """Return the account of so many mirrors, answered as the champion did and as fast."""
    return dataclasses.replace(faultless(num, num_edges=NUM_EDGES), **changes)


def on_mirrors(num, *, phase=MIRRORS, champion=None, **changes):
    return judge_mirrors(quick(num, **changes), champion or quick(num), phase=phase, **FACTS)


def at_ms(values):
    """Return latency counts by the gateway's edges."""
    counts = [0] * (len(EDGES_MS) + 1)
    for value in values:
        counts[sum(edge < value for edge in EDGES_MS)] += 1
    return tuple(counts)


def timed(mine, champions):
    """Return a shadow's and the champion's account of pairs of latencies."""
    sides = list(zip(mine, champions, strict=True))
    slower = tuple(sum(b <= edge < a for a, b in sides) for edge in EDGES_MS)
    faster = tuple(sum(a <= edge < b for a, b in sides) for edge in EDGES_MS)
    num = len(sides)
    shadow = quick(num, latency_counts=at_ms(mine), slower=slower, faster=faster)
    return shadow, DeploymentAccount(num, 0, at_ms(champions))


# The bounds.


@pytest.mark.parametrize(
    ("limit", "events", "expected"), [(0.02, 0, 178), (0.02, 1, 494), (0.01, 0, 357), (0.05, 0, 70), (0.1, 0, 34)]
)
def test_how_many_pairs_show_a_limit(limit, events, expected):
    """A planned look needs 183 at 0.02, the sequence before needed 357, and 451 in each of three steps."""

    def shows(num):
        return num > events and paired_high(Paired(events, 0, num), alpha=0.05) <= limit

    assert least_number(shows) == expected


def test_bounds_are_open_before_the_first_pair_and_turn_with_the_sides():
    assert paired_low(Paired(0, 0, 0), alpha=0.05) == pytest.approx(-1)
    assert paired_high(Paired(0, 0, 0), alpha=0.05) == pytest.approx(1)
    pairs = Paired(12, 5, 300)
    assert paired_low(pairs, alpha=0.05) < pairs.difference == 7 / 300 < paired_high(pairs, alpha=0.05)
    assert paired_low(Paired(5, 12, 300), alpha=0.05) == pytest.approx(-paired_high(pairs, alpha=0.05))


@pytest.mark.parametrize(("only_one", "only_other"), [(0.02, 0.0), (0.06, 0.04), (0.3, 0.28)])
def test_looking_after_every_pair_misses_the_true_difference_at_most_as_often_as_stated(only_one, only_other):
    missed, num_streams = 0, 60
    for seed in range(num_streams):
        rng, first, other, is_missed = random.Random(seed), 0, 0, False
        for num in range(1, 601):
            drawn = rng.random()
            first, other = first + (drawn < only_one), other + (only_one <= drawn < only_one + only_other)
            if num % 30 == 0:
                is_missed |= paired_low(Paired(first, other, num), alpha=0.1) > only_one - only_other
        missed += is_missed
    assert missed / num_streams <= 0.1


@pytest.mark.parametrize("counts", [(-1, 0, 3), (2, 2, 3), (0, -1, 3)])
def test_pairs_that_cannot_be_are_refused(counts):
    with pytest.raises(ValueError, match="the trials of one side only must be 0 to num_trials together"):
        Paired(*counts)


def test_an_alpha_that_is_no_chance_is_refused():
    with pytest.raises(ValueError, match="alpha must lie between 0 and 1"):
        paired_low(Paired(0, 0, 1), alpha=1.0)


# The verdict on mirrors.


def test_the_gateways_edges_are_five_percent_apart_and_as_many_as_the_forecast_says():
    assert len(EDGES_MS) == NUM_EDGES
    assert max(after / before for before, after in itertools.pairwise(EDGES_MS)) < 1.0503
    assert (EDGES_MS[0], EDGES_MS[-1] > 60_000) == (0.5, True)


def test_failures_that_both_have_are_nobodys():
    """Row 5: users whose items fail under both models made 7 to 22 % of equal candidates fail."""
    both = quick(1000, errors=300)
    assert on_mirrors(1000, errors=300, champion=both).answer == "pass"
    assert (
        judge(
            both, quick(1000), phase=STEP, limits=RolloutLimits(), alpha=0.05, edges_ms=EDGES_MS, rule="steps/2"
        ).answer
        == "fail"
    )


@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        pytest.param({}, "pass", id="alike"),
        pytest.param({"only_it_failed": 3}, "pass", id="3-of-1000"),
        pytest.param({"only_it_failed": 30, "only_champion_failed": 30}, "inconclusive", id="as-often-each-way"),
        pytest.param({"only_it_failed": 70}, "fail", id="7-percent"),
        pytest.param({"only_it_failed": 70, "only_champion_failed": 60}, "inconclusive", id="net-1-percent"),
        pytest.param({"compared": 1000, "disagreed": 700}, "fail", id="disagrees"),
    ],
)
def test_errors_and_disagreement_on_mirrors(changes, answer):
    assert on_mirrors(1000, **changes).answer == answer


def test_equal_models_that_fail_at_random_pass_with_more_mirrors():
    assert on_mirrors(20_000, only_it_failed=600, only_champion_failed=600).answer == "pass"


def test_one_that_fails_everything_is_failed_after_ten_mirrors():
    assert [on_mirrors(num, only_it_failed=num).answer for num in (9, 12)] == ["inconclusive", "fail"]


def test_a_pass_needs_its_mirrors_and_no_more():
    assert [on_mirrors(num).answer for num in (177, 178)] == ["inconclusive", "pass"]
    judged = on_mirrors(400, phase=Phase(0, 0, 500))
    assert (judged.answer, judged.reasons) == ("inconclusive", ("400 of the 500 mirrors that it needs",))
    assert on_mirrors(0, champion=EMPTY).answer == "inconclusive"


@pytest.mark.parametrize(("times", "answer"), [(1.0, "pass"), (1.5, "pass"), (2.5, "fail"), (3.0, "fail")])
def test_a_latency_ratio_of_two_means_two(times, answer):
    """Row 6: a candidate 2.5 times slower passed 20 of 20 rollouts."""
    rng = random.Random(7)
    champions = [95 * rng.lognormvariate(0, 0.1) for _ in range(2000)]
    shadow, champion = timed([times * milliseconds for milliseconds in champions], champions)
    assert judge_mirrors(shadow, champion, phase=MIRRORS, **FACTS).answer == answer


def test_the_bound_is_no_more_than_the_ratio_times_the_interpolated_90_percent_latency():
    for scale in (3.0, 17.0, 95.0, 700.0):
        values = [scale * (1 + number / 1000) for number in range(1000)]
        true = scale * 1.9
        for ratio in (1.0, 2.0, 3.5):
            bound = EDGES_MS[edge_below(DeploymentAccount(1000, 0, at_ms(values)), EDGES_MS, ratio=ratio)]
            assert 0.94 * ratio * true < bound <= 1.005 * ratio * true


def test_a_latency_beyond_the_last_edge_or_below_the_first_has_a_bound():
    for milliseconds, edge in ((10**6, len(EDGES_MS) - 1), (0.01, 0)):
        assert edge_below(DeploymentAccount(10, 0, at_ms([milliseconds] * 10)), EDGES_MS, ratio=1.0) == edge


# The steps after mirrors.


@pytest.mark.parametrize(
    ("facts", "is_due", "answer"),
    [
        pytest.param({"asked": 200}, False, "pass", id="its-requests"),
        pytest.param({"asked": 20}, False, "inconclusive", id="not-yet"),
        pytest.param({"asked": 20}, True, "pass", id="its-time"),
        pytest.param({"asked": 0}, True, "pass", id="nobody-came"),
        pytest.param({"asked": 300, "errors": 60}, False, "pass", id="one-user-who-fails-a-fifth"),
        pytest.param({"asked": 300, "errors": 150}, False, "fail", id="half-fails"),
        pytest.param({"asked": 10, "errors": 10}, True, "fail", id="all-fails"),
    ],
)
def test_a_step_only_fails_for_what_no_mix_of_users_explains(facts, is_due, answer):
    candidate = DeploymentAccount(**{"errors": 0, "latency_counts": (facts["asked"], *[0] * NUM_EDGES)} | facts)
    assert judge_step(candidate, quick(4000), phase=STEP, is_due=is_due, **FACTS).answer == answer


def test_a_step_fails_where_most_requests_take_four_times_as_long():
    champion = DeploymentAccount(4000, 0, at_ms([10.0] * 4000))
    answers = [
        judge_step(DeploymentAccount(300, 0, at_ms([ms] * 300)), champion, phase=STEP, is_due=False, **FACTS).answer
        for ms in (30.0, 50.0)
    ]
    assert answers == ["pass", "fail"]


# The rules.


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({}, "mirrors/1"),
        ({"shadow_requests": 0}, "steps/2"),
        ({"shadow_requests": 0, "shadow_seconds": 5}, "mirrors/1"),
    ],
)
def test_what_a_rollout_begins_under(settings, rule):
    assert rule_of(RolloutConfig(strategy="canary", **settings)) == rule


def test_the_rule_before_rounds_the_latency_limit_up_and_the_one_now_down():
    edges = tuple(round(0.5 * 1.25**number, 3) for number in range(54))
    facts = {"limits": RolloutLimits(), "edges_ms": edges, "alpha": 0.05, "num_phases": 3, "is_due": False}

    def account(milliseconds):
        counts = [0] * 55
        counts[sum(edge < milliseconds for edge in edges)] = 3000
        return DeploymentAccount(3000, 0, tuple(counts))

    answers = {
        rule: judge_by(rule, account(2.5 * 95), account(95), phase=STEP, **facts).answer
        for rule in ("steps/1", "steps/2")
    }
    assert answers == {"steps/1": "pass", "steps/2": "fail"}


# The time that it takes.


def test_the_time_is_walked_along_the_day():
    day = Traffic((*[0.0] * 60, *[60.0] * 60))  # an hour of nothing, an hour of one a second
    assert day.seconds_until(60, begin=0) == 3660
    assert day.seconds_until(60, begin=3630) == 3690
    assert day.seconds_until(3600, begin=0) == 7200
    assert day.seconds_until(3601, begin=0) == pytest.approx(10_801)
    assert day.seconds_until(36_000_000, begin=0) == 7200 * 10_000
    assert day.text == "3,600 requests in 2.0 h"


def test_a_day_without_a_request_is_none():
    with pytest.raises(ValueError, match="per_minute must count one request at least"):
        Traffic((0.0,) * 5)


def test_the_least_number_of_requests_is_what_the_rules_need():
    canary = RolloutConfig(strategy="canary", shadow_requests=1)
    assert least_requests(canary, MIRRORS) == 178
    assert least_requests(canary, STEP) == 200
    assert least_requests(RolloutConfig(strategy="canary", shadow_requests=0), STEP) == 451


def test_a_rollout_at_a_busy_service_has_its_time():
    end = require_end(RolloutConfig(strategy="canary"), Traffic((300.0,) * 1440))
    assert [(phase.share, round(until), needed) for phase, until, needed in end.phases] == [
        (0, 100, 500),
        (5, 700, 200),
        (25, 860, 200),
        (50, 940, 200),
    ]
    assert (end.can_end, round(end.seconds)) == (True, 940)


@pytest.mark.parametrize(
    ("settings", "an_hour", "proposed"),
    [
        pytest.param({}, 120, "deadline_seconds: 45600", id="longer"),
        pytest.param({}, 20, "shadow_requests: 178, deadline_seconds: 86400", id="20-an-hour"),
        pytest.param(
            {}, 6, "shadow_requests: 88, deadline_seconds: 86400, limits.max_error_rate_increase: 0.05", id="6-an-hour"
        ),
        pytest.param({"shadow_requests": 0}, 20, "shadow_requests: 178, deadline_seconds: 86400", id="steps"),
        pytest.param({}, 1, None, id="1-an-hour"),
    ],
)
def test_a_rollout_that_cannot_end_is_refused_with_the_settings_that_would_do(settings, an_hour, proposed):
    """Row 4: nothing warned that 20 requests an hour can never show two points in a day."""
    traffic, rollout = Traffic((an_hour / 60,) * 1440), RolloutConfig(strategy="canary", **settings)
    with pytest.raises(ConfigError, match=r"serving\.rollout must be able to end by its deadline_seconds") as error:
        require_end(rollout, traffic)
    said = f"{proposed}; or " if proposed else ""
    assert str(error.value).endswith(f"Settings that would do: {said}strategy: all_at_once.")
    if proposed:
        pairs = dict(part.split(": ") for part in proposed.split(", "))
        limits = {"limits": {"max_error_rate_increase": float(pairs.pop("limits.max_error_rate_increase", 0.02))}}
        changed = {name: int(value) for name, value in pairs.items()} | limits
        assert forecast(RolloutConfig(**{"strategy": "canary", **settings, **changed}), traffic).can_end


def test_limits_that_no_number_of_requests_shows_are_refused():
    limits = RolloutLimits(max_error_rate_increase=1e-9)
    with pytest.raises(ConfigError, match="must be such that ten million requests can show them"):
        require_end(RolloutConfig(strategy="canary", limits=limits), Traffic((10.0,)))


@pytest.mark.parametrize(
    ("phase", "left", "due"),
    [
        (Phase(5, 60, 9), 9000, 600),
        (Phase(25, 60, 9), 800, 400),
        (Phase(50, 0, 9), 9000, 60),
        (Phase(50, 60, 9), 30, 60),
    ],
)
def test_a_step_waits_ten_times_its_least_time_and_no_more_than_its_part(phase, left, due):
    phases = [Phase(0, 0, 1), *(dataclasses.replace(phase, share=share) for share in (5, 25, 50))]
    assert due_seconds(phases, phase, seconds_left=left) == due


@pytest.mark.parametrize(("seconds", "text"), [(59.6, "60 s"), (600, "10 min"), (9000, "2.5 h")])
def test_times_in_words(seconds, text):
    assert span(seconds) == text


def ms(when):
    return int(when.timestamp() * 1000)


def put(store, *records):
    for key, data in to_parts(records).items():
        store.put(key, data)


def test_the_traffic_of_the_newest_day_is_read_from_the_log(object_store):
    minutes = (1500, 1439, 30, 30, 1)
    answered = [record(n, at_ms=ms(NOW - dt.timedelta(minutes=ago, seconds=-1))) for n, ago in enumerate(minutes)]
    failed = record(8, at_ms=ms(NOW), status=503, prediction_id=None)
    put(object_store, *answered, failed, feedback(1, "dog"))
    traffic = newest_day(object_store, "pets", now=NOW)
    assert (len(traffic.per_minute), sum(traffic.per_minute)) == (1440, 4)
    assert [minute for minute, num in enumerate(traffic.per_minute) if num] == [1, 1410, 1439]


def test_a_young_service_has_the_minutes_since_its_first_request(object_store):
    put(object_store, *(record(n, at_ms=ms(NOW - dt.timedelta(minutes=10 - n, seconds=-1))) for n in range(9)))
    assert newest_day(object_store, "pets", now=NOW).per_minute == (1,) * 9 + (0,)


def test_parts_are_sampled_where_there_are_many(object_store, monkeypatch):
    monkeypatch.setattr("pipeline_tasks.monitoring.daily_traffic.MOST_PARTS", 4)
    for number in range(12):
        put(object_store, record(number, at_ms=ms(NOW - dt.timedelta(minutes=5))))
    assert sum(newest_day(object_store, "pets", now=NOW).per_minute) == 12


def test_no_traffic_a_damaged_log_and_a_store_that_is_away_are_not_known(object_store, monkeypatch, caplog):
    assert newest_day(object_store, "pets", now=NOW) is None
    object_store.put(f"predictions/pets/{NOW.date()}/x.parquet", b"garbage")
    assert newest_day(object_store, "pets", now=NOW) is None

    def away(*_):
        raise ServiceUnavailable("the store must answer.")

    monkeypatch.setattr(object_store, "list", away)
    assert newest_day(object_store, "pets", now=NOW) is None
    assert "the traffic of pets is not known: the store must answer." in caplog.text
