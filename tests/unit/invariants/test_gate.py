"""The invariant of the gate: approvals, and what stands beside the champion in rollouts and experiments."""

import pytest

from tests.unit.invariants.invariants_case import World, approve, at, checker, drop_object


@pytest.fixture
def world():
    return World()


@pytest.fixture
def violations(database, object_store):
    return checker(database, object_store)


def test_the_last_answer_of_an_approval_counts(world, violations):
    approve("expired", sequence=1)(world)
    approve("approve", sequence=2)(world)
    assert violations(world) == []


def test_a_later_no_does_not_undo_what_was_approved_when_it_served(world, violations):
    approve("approve", sequence=1)(world)
    approve("reject", sequence=2, minutes=60)(world)
    assert violations(world) == []


@pytest.mark.parametrize(("rule", "missing"), [("never", []), ("first", [1]), ("always", [1, 2, 3, 4])])
def test_approvals_are_needed_where_the_project_asked_for_them(world, violations, rule, missing):
    for route in world.rows["routes"]:
        route["body"]["serving"] = {"approval": rule}
    expected = [f"I6 pets: generation {number} (v{number}) has no approval" for number in missing]
    assert violations(world) == expected


def test_a_rule_that_came_later_asks_nothing_of_what_served_before(world, violations):
    world.row("routes", generation=4)["body"]["serving"] = {"approval": "always"}
    approve("approve", minutes=35, verdict_id="verdict-v4")(world)
    assert violations(world) == []


def test_a_rule_that_went_later_does_not_hide_a_missing_approval(world, violations):
    world.row("routes", generation=3)["body"]["serving"] = {"approval": "always"}
    world.row("routes", generation=4)["body"]["serving"] = {"approval": "never"}
    assert violations(world) == ["I6 pets: generation 3 (v3) has no approval"]


def test_a_promotion_that_leaves_the_rule_out_is_named(world, violations):
    """Whoever writes a route by hand must not get the leniency that routes of older releases need."""
    world.row("routes", generation=3)["body"]["serving"] = {"approval": "never"}
    world.route(5, "v2", parent="commit-4", minutes=60, action="rollback")
    assert violations(world) == ["I6 pets: generation 4 (v4) does not say whether it needed an approval"]


def beside(world, name="evil", *, weight=99, shadow=False) -> None:
    """Put a judged, released and deployed model beside the champion, without traffic of its own."""
    world._model(name, champion="v3", minutes=38)
    world.remove("runs", run_id=f"run-{name}")
    route = world.row("routes", generation=4)
    entry = {"deployment_id": f"deployment-{name}", "model_version": name, "address": "", "weight": weight}
    route["body"]["shadows" if shadow else "entries"].append(entry)
    route["body"]["entries"][0]["weight"] = 100 if shadow else 100 - weight


def test_a_model_that_passed_the_gate_may_stand_beside_the_champion(world, violations):
    beside(world, weight=10)
    assert violations(world) == []


@pytest.mark.parametrize(("weight", "shadow"), [(99, False), (1, False), (0, False), (0, True)])
@pytest.mark.parametrize(
    "miss",
    [
        lambda world: world.remove("verdicts", verdict_id="verdict-evil"),
        lambda world: world.remove("releases", release_id="release-evil"),
        lambda world: world.row("verdicts", verdict_id="verdict-evil").update(created_at=at(45)),
        lambda world: world.row("releases", release_id="release-evil").update(created_at=at(45)),
        lambda world: world.row("releases", release_id="release-evil").update(infra_check={"failures": ["NaN"]}),
        approve("reject", verdict_id="verdict-evil"),
    ],
    ids=["verdict", "release", "late verdict", "late release", "infra check", "rejected"],
)
def test_an_ungated_model_beside_the_champion_is_named(world, violations, weight, shadow, miss):
    beside(world, weight=weight, shadow=shadow)
    miss(world)
    broken = violations(world, deep=True)
    assert "I6 pets: generation 4 (v4) routes to evil too, which has not passed verdict, approval and release" in broken


def test_a_model_beside_the_champion_needs_the_approval_that_was_asked_for(world, violations):
    beside(world)
    world.row("routes", generation=4)["body"]["serving"] = {"approval": "always"}
    approve("approve", verdict_id="verdict-v4")(world)
    assert violations(world) == [
        "I6 pets: generation 4 (v4) routes to evil too, which has not passed verdict, approval and release"
    ]


@pytest.mark.parametrize(("champions", "own", "num_faults"), [("always", "never", 0), ("never", "always", 1)])
def test_a_model_beside_needs_the_approval_of_its_own_time(world, violations, champions, own, num_faults):
    beside(world)
    world.row("routes", generation=4)["body"]["serving"] = {"approval": champions, "beside_approval": own}
    approve("approve", verdict_id="verdict-v4")(world)
    assert ["evil" in violation for violation in violations(world)] == [True] * num_faults


def test_a_contender_that_the_gate_kept_out_is_named(world, violations):
    beside(world)
    world.row("verdicts", verdict_id="verdict-evil").update(answer="keep")
    assert any("routes to evil too" in violation for violation in violations(world))


def step(world, action, *, share, generation=5, champion="v4") -> None:
    """Put v3, a former champion, beside the champion by a step of a rollout or an experiment; no share: alone."""
    world.route(generation, champion, parent=f"commit-{generation - 1}", minutes=50 + generation, action=action)
    body = world.row("routes", generation=generation)["body"]
    entry = {"deployment_id": "deployment-v3", "model_version": "v3", "address": "", "weight": share or 0}
    if share is not None:
        body["shadows" if share == 0 else "entries"].append(entry)
        body["entries"][0]["weight"] = 100 - share


@pytest.mark.parametrize(
    ("begin", "share", "end"),
    [
        ("shadow", 0, "canary_inconclusive"),
        ("canary", 5, "canary_failed"),
        ("experiment_start", 50, "experiment_stop"),
        ("canary", 5, "rollback"),
    ],
)
def test_a_step_of_a_rollout_and_the_way_back_are_sound(world, violations, begin, share, end):
    step(world, begin, share=share)
    step(world, end, share=None, generation=6)
    assert violations(world, deep=True) == []


def test_steps_of_a_rollout_do_not_hide_the_champions_before(world, violations):
    for number in range(4):
        step(world, "canary", share=5 * (number + 1), generation=5 + number)
    drop_object("bentos/pets/release-v3.bento")(world)
    assert [violation.split(" must ")[0] for violation in violations(world, deep=True)] == [
        "I4 pets: bentos/pets/release-v3.bento"
    ]


@pytest.mark.parametrize(
    ("action", "share", "champion", "fault"),
    [
        ("canary", None, "v4", "has nobody beside the champion after canary"),
        ("canary_failed", 5, "v4", "has a model beside the champion after canary_failed"),
        ("experiment_stop", None, "v3", "moves the champion from v4 by experiment_stop"),
    ],
)
def test_a_step_that_does_more_than_it_says_is_named(world, violations, action, share, champion, fault):  # noqa: PLR0917
    step(world, action, share=share, champion=champion)
    assert violations(world) == [f"I6 pets: generation 5 ({champion}) {fault}"]
