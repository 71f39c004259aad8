"""Rollouts in steps on a real catalog; a test writes the gateway's accounts, and only waiting moves the clock."""

import dataclasses
import itertools

import pytest

from pipeline_tasks.contracts import Attempt
from pipeline_tasks.deployment import canary, task
from pipeline_tasks.deployment.canary_schedule import Traffic
from pipeline_tasks.errors import ConfigError, GateClosed, ServiceUnavailable, StaleAttempt
from tests.unit.deployment.canary_case import CANARY, PROMOTED, Killed, Rolling
from tests.unit.deployment.test_task import NOW, Yard, closed
from tests.unit.evaluation import support as s


@pytest.fixture
def yard(database):
    return Rolling(database)


def test_a_good_candidate_goes_step_by_step_and_each_step_bakes(yard):
    route = yard.roll()
    assert yard.moves == PROMOTED
    assert (route.champion_version, yard.seconds) == ("b", 10)
    assert yard.champions == ["a", "a", "a", "b"]
    assert set(yard.target.running) == {"fashion-ra", "fashion-rb"}
    assert len(yard.checked) == 1
    records = yard.serving.records("fashion")
    assert [record.verdict_id for record in records] == ["verdict-a", "verdict-a", "verdict-a", "verdict-b"]
    assert records[1].reason == "10 % to b beside a (verdict verdict-b said promote)"
    assert records[2].reason.startswith(
        "50 % to b beside a (verdict verdict-b said promote); 10 % passed: 0.0% of 900 "
    )
    assert records[3].reason.startswith("verdict verdict-b said promote; 50 % passed: 0.0% of 900 failed, the champ")


def test_the_champions_settings_stay_until_the_candidate_is_champion(yard):
    yard.roll()
    configs = [record.serving for record in yard.serving.records("fashion")]
    beside = {"beside_classes": list(yard.project.config.labels.classes), "beside_approval": "never"}
    standby = dataclasses.asdict(dataclasses.replace(yard.serving.history("fashion")[0].entries[0], weight=0))
    beside |= {"rollout": {"rule": "steps/2"}}
    assert configs == [{}, beside, beside, {"new": True, "standby": standby}]


def test_the_first_champion_and_all_at_once_have_no_steps(database):
    yard = Rolling(database, strategy="all_at_once")
    yard.roll()
    assert [action for action, _ in yard.moves] == ["promote", "promote"]
    assert yard.gateway.looks == 0


def test_shipping_what_serves_already_looks_at_nothing(yard):
    attempt = yard.attempt()
    yard.roll(attempt=attempt)
    looks = yard.gateway.looks
    assert yard.roll(attempt=Attempt(attempt.run_id, attempt.task, 2)).generation == 4
    assert yard.gateway.looks == looks


def test_a_shadow_comes_first_where_the_project_wants_one(database):
    yard = Rolling(database, shadow_seconds=7.0, shadow_requests=300)
    yard.roll()
    assert yard.moves[1] == ("shadow", {"a": 100, "b": 0})
    assert yard.moves[2:] == PROMOTED[1:]
    assert yard.seconds == 17


def test_what_was_seen_on_mirrors_lets_the_steps_pass_without_a_proof(database):
    """Row 5: sticky users fail at a step for who they are; on mirrors the two answer alike."""
    yard = Rolling(database, shadow_requests=300)
    yard.during = [lambda: yard.gateway.said.update({"fashion-rb": {"asked": 60, "errors": 9}})]
    assert yard.roll().champion_version == "b"
    records = yard.serving.records("fashion")
    assert [record.serving.get("rollout") for record in records] == [None, *[{"rule": "mirrors/1"}] * 3, None]
    assert "; mirrors passed: 0 of 900 mirrors failed here only, 0 at the champion only: " in records[2].reason
    assert records[3].reason.endswith("; 10 % passed: 9 of 60 failed, the champion's 0 of 4,000")


def test_a_step_after_mirrors_still_fails_for_a_catastrophe(database):
    yard = Rolling(database, shadow_requests=300)
    yard.during = [lambda: yard.gateway.said.update({"fashion-rb": {"asked": 60, "errors": 40}})]
    with pytest.raises(GateClosed, match=r"10 % to b failed: 66\.7% of 60 failed"):
        yard.roll()
    assert yard.moves[1:] == [("shadow", {"a": 100, "b": 0}), PROMOTED[1], ("canary_failed", {"a": 100})]


def test_a_step_after_mirrors_waits_for_its_requests_no_longer_than_its_part_of_the_time(database):
    yard = Rolling(database, shadow_requests=300)
    yard.during = [lambda: yard.gateway.said.update({"fashion-rb": {"asked": 3}})]
    assert yard.roll().champion_version == "b"
    begun = [record.created_at for record in yard.serving.records("fashion")]
    seconds = [(after - before).total_seconds() for before, after in itertools.pairwise(begun[1:])]
    assert seconds == [0, 50, 50], "half of the deadline's 100 s each, less than a minute"


def test_mirrors_leave_the_steps_their_time(database):
    yard = Rolling(database, shadow_requests=300)
    yard.gateway.said["fashion-rb"] = {"asked": 120}
    with pytest.raises(GateClosed, match=r"mirrors to b stayed undecided to the deadline of 100 s: 120 of the 300 mir"):
        yard.roll()
    assert yard.seconds == 90


def test_a_gateway_that_is_away_lets_no_step_pass(database):
    yard = Rolling(database, shadow_requests=300)
    yard.during = [lambda: setattr(yard.gateway, "away", True)]
    with pytest.raises(GateClosed, match="the gateway does not tell of generation 3 yet") as error:
        yard.roll()
    assert error.value.code == "CANARY_INCONCLUSIVE"


def test_a_rollout_that_cannot_end_is_refused_before_anything_starts(database):
    """Row 4: 20 requests an hour and a deadline of an hour."""
    yard = Rolling(database, shadow_requests=300)
    yard.traffic = Traffic((1 / 3,) * 1440)
    with pytest.raises(
        ConfigError, match=r"480 requests in 24\.0 h, the 300 mirrors it needs are there after 15\.0 h"
    ) as e:
        yard.roll()
    assert e.value.code == "ROLLOUT_CANNOT_END"
    assert "Settings that would do: deadline_seconds: 86400; or strategy: all_at_once." in str(e.value)
    assert (len(yard.moves), set(yard.target.running), yard.checked) == (1, {"fashion-ra"}, [])


def test_the_time_that_it_takes_is_said_before_it_begins(database):
    yard = Rolling(database, shadow_requests=300)
    yard.traffic = Traffic((600.0,) * 1440)
    yard.roll()
    reason = yard.serving.records("fashion")[1].reason
    assert reason.endswith("; at the traffic of the newest day (864,000 requests in 24.0 h) it takes 75 s at least")


@pytest.mark.parametrize("number", [0, 300])
def test_a_rollout_that_began_under_the_rule_before_goes_on_under_it(database, monkeypatch, number):
    """Such a route does not say its rule; a version before commits it here."""
    yard = Rolling(database, shadow_requests=number)
    commit = canary.commit_beside

    def commit_as_before(*args, **facts):
        commit(*args, **facts | {"beside": {}})

    monkeypatch.setattr(canary, "commit_beside", commit_as_before)
    attempt = yard.attempt()

    def stop():
        raise Killed

    yard.during = [stop]
    with pytest.raises(Killed):
        yard.roll(attempt=attempt)
    monkeypatch.undo()
    yard.project = s.project(serving={"rollout": CANARY | {"shadow_requests": 300}})
    yard.gateway.said["fashion-rb"] = {"asked": 900, "errors": 120}
    with pytest.raises(GateClosed, match=r"failed: 13\.3% of 900 failed, the champion's 0\.0% of 4,000"):
        yard.roll(attempt=Attempt(attempt.run_id, attempt.task, 2))


def test_a_shadow_that_disagrees_never_gets_traffic(database):
    yard = Rolling(database, shadow_requests=300)
    yard.gateway.said["fashion-rb"] = {"asked": 400, "disagreed": 390}
    with pytest.raises(GateClosed, match=r"mirrors to b failed: 390 of 400 mirrored answers differ"):
        yard.roll()
    assert yard.moves[1:] == [("shadow", {"a": 100, "b": 0}), ("canary_failed", {"a": 100})]


@pytest.mark.parametrize(
    ("facts", "reason"),
    [({"asked": 9, "errors": 9}, "100.0% of 9 failed"), ({"asked": 60, "slow": 60}, "100.0% of 60 slower than 1 ms")],
)
def test_a_bad_candidate_is_returned_from_at_once_and_the_reason_is_kept(yard, facts, reason):
    yard.gateway.said["fashion-rb"] = facts
    with pytest.raises(
        GateClosed, match=f"10 % to b failed: {reason}.*a has all the traffic of fashion again"
    ) as error:
        yard.roll()
    assert error.value.code == "CANARY_FAILED"
    assert yard.moves[1:] == [PROMOTED[1], ("canary_failed", {"a": 100})]
    assert yard.seconds == 0
    assert set(yard.target.running) == {"fashion-ra"}
    assert yard.serving.records("fashion")[-1].reason.startswith(f"10 % to b failed: {reason}")
    assert yard.serving.records("fashion")[-1].serving == {}


def test_one_that_turns_bad_at_a_later_step_is_returned_from_there(yard):
    yard.during = [lambda: None] * 6 + [lambda: yard.gateway.said.update({"fashion-rb": {"asked": 30, "errors": 30}})]
    with pytest.raises(GateClosed, match="50 % to b failed"):
        yard.roll()
    assert yard.moves == [*PROMOTED[:3], ("canary_failed", {"a": 100})]


@pytest.mark.parametrize("away", [True, False])
def test_undecided_at_the_deadline_returns_to_the_champion(yard, away):
    yard.gateway.away = away
    yard.gateway.said["fashion-rb"] = {"asked": 7}
    with pytest.raises(GateClosed, match=r"10 % to b stayed undecided to the deadline of 100 s: ") as error:
        yard.roll()
    assert error.value.code == "CANARY_INCONCLUSIVE"
    assert yard.moves[1:] == [PROMOTED[1], ("canary_inconclusive", {"a": 100})]
    assert yard.seconds == 100
    assert set(yard.target.running) == {"fashion-ra"}


def test_a_rollback_during_a_canary_wins_and_the_canary_stops(yard):
    yard.during = [yard.rollback]
    attempt = yard.attempt()
    with pytest.raises(GateClosed, match=r"generation 3 by ann, rollback: complaints\). It stops here") as error:
        yard.roll(attempt=attempt)
    assert error.value.code == "ROLLED_BACK"
    assert yard.moves[1:] == [PROMOTED[1], ("rollback", {"a": 100})]
    assert set(yard.target.running) == {"fashion-ra"}
    with pytest.raises(GateClosed, match=r"generation 3 by ann, rollback: complaints"):
        yard.roll(attempt=Attempt(attempt.run_id, attempt.task, 2))
    assert len(yard.moves) == 3


def test_a_rollback_that_has_begun_lets_no_step_through(yard):
    yard.during = [lambda: None] * 4 + [
        lambda: yard.database.acquire("fashion/ship", Attempt("x", "rollback"), now=NOW)
    ]
    with pytest.raises(StaleAttempt, match="x/rollback/1 holds it"):
        yard.roll()
    assert yard.moves == PROMOTED[:2]


def test_after_an_ended_canary_a_rollback_goes_to_the_champion_before(yard):
    yard.roll()
    yard.gateway.said = {"fashion-rb": {"asked": 4000}, "fashion-rc": {"asked": 99, "errors": 99}}
    with pytest.raises(GateClosed, match="10 % to c failed"):
        yard.roll("c")
    assert yard.rollback().champion_version == "a"


def test_a_champion_can_be_named_while_a_canary_runs(yard):
    yard.during = [lambda: yard.rollback(to_version="a")]
    with pytest.raises(GateClosed, match="rollback: complaints"):
        yard.roll()
    assert yard.moves[-1] == ("rollback", {"a": 100})


def test_a_candidate_that_fails_its_check_is_stopped_without_a_route(yard):
    with pytest.raises(GateClosed, match="no"):
        yard.roll(check=closed)
    assert (len(yard.moves), set(yard.target.running)) == (1, {"fashion-ra"})


def test_a_closed_gate_starts_no_canary(yard):
    with pytest.raises(GateClosed, match="no"):
        yard.roll(gate=closed)
    assert (len(yard.moves), set(yard.target.running)) == (1, {"fashion-ra"})


def test_no_rollout_while_an_experiment_runs(yard):
    head = yard.serving.head_route("fashion")
    route = dataclasses.replace(head, generation=2, commit_id="e", parent_commit_id=head.commit_id)
    facts = {"action": "experiment_start", "attempt": "x/experiment/1", "verdict_id": "verdict-a"}
    yard.serving.commit_route(route, **facts, actor="ann", reason="50 % to z", serving={}, at=NOW)
    for ship in (yard.roll, lambda: yard.ship("b")):
        with pytest.raises(
            GateClosed, match=r"no running experiment to ship \(got generation 2: 50 % to z, by ann"
        ) as e:
            ship()
        assert e.value.code == "EXPERIMENT_RUNNING"
    assert yard.roll("a").generation == 2, "a retry on the champion itself changes nothing"
    assert set(yard.target.running) == {"fashion-ra"}


def test_a_server_that_never_becomes_ready_starts_no_canary(yard):
    yard.target.broken.add("fashion-rb")
    with pytest.raises(ServiceUnavailable, match="must become ready"):
        yard.roll()
    assert len(yard.moves) == 1


def test_a_deployment_that_got_traffic_while_others_drained_is_not_stopped(yard):
    yard.target.running |= {"fashion-rb": "RUNNING", "fashion-rc": "RUNNING"}

    def in_flight(deployment_id):
        yard.gateway.in_flight = lambda _: 0
        Yard.ship(yard, "c")
        return 0

    yard.gateway.in_flight = in_flight
    task.settle(yard.context())
    assert set(yard.target.running) == {"fashion-ra", "fashion-rc"}
