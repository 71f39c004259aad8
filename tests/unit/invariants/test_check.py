"""A sound world breaks no invariant; each way of breaking it is seen and named."""

import json

import pytest

from pipeline_tasks.contracts import content_id, sha256_hex
from pipeline_tasks.invariants.champions import whole_violations
from pipeline_tasks.invariants.check import check
from pipeline_tasks.invariants.violation import Violation, listed
from tests.unit.invariants.invariants_case import (
    NOW,
    PACK,
    PACK_KEY,
    S1,
    S2,
    World,
    approve,
    at,
    change,
    change_entry,
    checker,
    drop_object,
    labeling,
    log,
    logged,
    quarantine,
    set_object,
)


@pytest.fixture
def world():
    return World()


@pytest.fixture
def violations(database, object_store):
    return checker(database, object_store)


def test_an_empty_catalog_breaks_nothing(database, object_store):
    assert check(database, object_store, now=NOW) == []


def test_a_sound_world_breaks_nothing(world, violations):
    assert violations(world, deep=True) == []


def test_a_rollback_to_a_former_champion_is_sound(world, violations):
    world.route(5, "v2", parent="commit-4", minutes=60, action="rollback")
    assert violations(world) == []


def test_a_promotion_over_a_rolled_back_champion_is_sound(world, violations):
    world.route(5, "v2", parent="commit-4", minutes=60, action="rollback")
    world._model("v5", champion="v2", minutes=70)
    world.route(6, "v5", parent="commit-5", minutes=70)
    assert violations(world) == []


def test_two_projects_are_checked_apart(world, violations):
    run = {"kind": "train", "state": "open", "outcome": None, "reason_code": None, "reason": None, "info": {}}
    times = {"opened_at": at(0), "deadline_at": at(1), "closed_at": None}
    world.rows["runs"].append({"project": "texts", "run_id": "r", **run, **times})
    assert violations(world) == ["I7 texts: run r must be closed by its deadline 2026-01-01T00:01:00+00:00 (got open)"]


def part_gone(world):
    world.add(
        "prediction_parts", object_key="predictions/pets/gone", num_predictions=1, num_feedback=0, imported_at=NOW
    )


def twice_in_snapshot(world):
    world.remove("snapshots", snapshot_id=S2)
    world.snapshot(S2, 2, S1, ["a", "a"])


def exam_in_snapshot(world):
    world.remove("snapshots", snapshot_id=S2)
    world.snapshot(S2, 2, S1, ["a", "c"])


def unknown_in_snapshot(world):
    world.remove("snapshots", snapshot_id=S2)
    world.snapshot(S2, 2, S1, ["a", "zz"])


def rollback_to_a_stranger(world):
    world._model("v5", champion="v4", minutes=60)
    world.remove("runs", run_id="run-v5")
    world.route(5, "v5", parent="commit-4", minutes=60, action="rollback")


def failed_but_promoted(world):
    world.row("runs", run_id="run-v4").update(outcome="failed", reason_code="DEADLINE")


def promoted_but_did_nothing(world):
    ending = {"state": "closed", "outcome": "promoted", "reason_code": "PROMOTED", "reason": "r"}
    times = {"opened_at": at(0), "deadline_at": at(9), "closed_at": at(8)}
    world.add("runs", run_id="run-x", kind="train", info={}, **ending, **times)


def corrupt_predictions(world):
    world.objects[next(key for key in world.objects if key.startswith("predictions/"))] = b"garbage"


def other_weights(world):
    """Put other weights in place of those that were judged, and let the catalog name them."""
    world.objects[V4_KEY] = b"other"
    world.row("model_versions", version="v4").update(digest=sha256_hex(b"other"))


V4_KEY = "models/pets/v4/model.safetensors"
BROKEN = [
    # I1 nothing lost
    (drop_object(PACK_KEY), f"I1 pets: 1 objects of items that are not in the store: {PACK_KEY}"),
    (set_object(PACK_KEY, PACK[:10]), f"I1 pets: 1 objects that end before their last item: {PACK_KEY}"),
    (set_object(PACK_KEY, b"x" * 12), f"I1 pets: 1 objects that do not hash to their name: {PACK_KEY}"),
    (quarantine("ingest"), "I1 pets: 1 items that are in quarantine too: a"),
    (lambda world: world.remove("items", item_id="a"), "I1 pets: 1 labeling_tasks of unknown items: a"),
    (lambda world: world.remove("items", item_id="b"), "I1 pets: 1 label_decisions of unknown items: b"),
    (lambda world: world.remove("items", item_id="c"), "I1 pets: 1 exam_items of unknown items: c"),
    (change("items", {"item_id": "c"}, split="train"), "I1 pets: 1 exam items whose split is train: c"),
    (
        drop_object(f"snapshots/pets/{S1}/manifest.parquet"),
        f"I1 pets: snapshot {S1[:12]} has no manifest snapshots/pets/{S1}/manifest.parquet",
    ),
    (
        set_object(f"snapshots/pets/{S1}/manifest.parquet", b"x"),
        f"I1 pets: snapshot {S1[:12]} must be readable (got ArrowInvalid)",
    ),
    (change("snapshots", {"snapshot_id": S1}, num_rows=7), f"I1 pets: snapshot {S1[:12]} must have 7 rows (got 1)"),
    (unknown_in_snapshot, f"I1 pets: 1 unknown items in snapshot {S2[:12]}: zz"),
    (exam_in_snapshot, f"I1 pets: 1 exam items trained on in snapshot {S2[:12]}: c"),
    (lambda world: world.ls_tasks[1].clear(), "I1 pets: 1 pushed items without their labeling task: a"),
    (labeling(1, "b", [13]), "I1 pets: 1 labeling tasks that nobody asked for: b"),
    (change("labeling_tasks", {"item_id": "a"}, ls_task_id=None), "I1 pets: 1 pushed items without a task id: a"),
    (part_gone, "I1 pets: 1 imported prediction parts that are gone: predictions/pets/gone"),
    (corrupt_predictions, "must be readable (got DataCorrupt)"),
    (log({"kind": "prediction", "at_ms": 1}), "must be readable (got DataCorrupt)"),
    # I2 nothing twice
    (twice_in_snapshot, f"I2 pets: 1 items twice in snapshot {S2[:12]}: a"),
    (labeling(1, "a", [11, 12]), "I2 pets: 1 items with more than one labeling task: a"),
    (labeling(2, "a", [19]), "I2 pets: 1 items with more than one labeling task: a"),
    (log(logged("p1", "v1", 16)), "I2 pets: 1 predictions logged more than once: p1"),
    # I3 one linear chain
    (
        change("routes", {"generation": 2}, parent_commit_id="other"),
        "I3 pets: generation 2 must have the parent commit-1 (got other)",
    ),
    (change("routes", {"generation": 4}, generation=6), "I3 pets: generation 4 must follow 3 (got 6)"),
    (change_entry(4, weight=99), "I3 pets: generation 4 must give away 100 % of the traffic"),
    (change_entry(4, model_version="v3"), "I3 pets: generation 4 must route to its champion v4"),
    (change_entry(4, deployment_id="nobody"), "I3 pets: generation 4 routes to nobody, which is not recorded"),
    (
        change("snapshots", {"snapshot_id": S2}, parent_id="s0"),
        f"I3 pets: snapshot {S2[:12]} must be generation 2 after {S1} (got 2 after s0)",
    ),
    # I4 head and its two predecessors are whole
    (drop_object(V4_KEY), f"I4 pets: {V4_KEY} must have the SHA-256 {sha256_hex(b'weights of v4')} (got KeyError)"),
    (set_object(V4_KEY, b"x"), f"(got {sha256_hex(b'x')})"),
    (
        drop_object("models/pets/v2/model.json"),
        "I4 pets: champion v2 must have models/pets/v2/model.json (got no such object)",
    ),
    (
        drop_object("bentos/pets/release-v3.bento"),
        f"I4 pets: bentos/pets/release-v3.bento must have the SHA-256 {sha256_hex(b'bento')} (got KeyError)",
    ),
    (
        set_object("bentos/pets/release-v3.bento", b"x"),
        f"I4 pets: bentos/pets/release-v3.bento must have the SHA-256 {sha256_hex(b'bento')} (got {sha256_hex(b'x')})",
    ),
    (
        lambda world: world.remove("model_versions", version="v4"),
        "I4 pets: champion v4 must be a recorded model version (got none)",
    ),
    # I5 served = pointer
    (log(logged("p9", "v1", 20.6)), "I5 pets: 1 predictions came from v1 while the route did not name it"),
    (log(logged("p9", "v3", 29.4)), "I5 pets: 1 predictions came from v3 while the route did not name it"),
    (log(logged("p9", "ghost", 30)), "I5 pets: 1 predictions came from ghost while the route did not name it"),
    # I6 gated
    (lambda world: world.remove("verdicts", verdict_id="verdict-v2"), "I6 pets: generation 2 (v2) has no verdict"),
    (
        change("verdicts", {"verdict_id": "verdict-v2"}, answer="keep"),
        "I6 pets: generation 2 (v2) stands on a verdict that says keep",
    ),
    (
        change("verdicts", {"verdict_id": "verdict-v2"}, contender_version="v9"),
        "I6 pets: generation 2 (v2) stands on a verdict on v9",
    ),
    (
        change("verdicts", {"verdict_id": "verdict-v2"}, champion_version=None),
        "I6 pets: generation 2 (v2) was compared with None, the champion was v1",
    ),
    (
        change("verdicts", {"verdict_id": "verdict-v2"}, created_at=at(21)),
        "I6 pets: generation 2 (v2) was judged after it served",
    ),
    (
        set_object("verdicts/pets/verdict-v2/verdict.json", b"x"),
        "I6 pets: generation 2 (v2) must have the verdict verdicts/pets",
    ),
    (drop_object("verdicts/pets/verdict-v2/verdict.json"), "(got KeyError)"),
    (other_weights, f"I6 pets: generation 4 (v4) has the weights {sha256_hex(b'other')[:12]}, judged were "),
    (approve("reject"), "I6 pets: generation 1 (v1) serves though the approval said reject"),
    (approve("approve", minutes=11), "I6 pets: generation 1 (v1) was approved after it served"),
    (
        lambda world: world.remove("releases", model_version="v3"),
        "I6 pets: generation 3 (v3) has no release of that model and verdict",
    ),
    (
        change("releases", {"model_version": "v3"}, infra_check={"failures": ["NaN"]}),
        "I6 pets: generation 3 (v3) serves a release that failed its infra check",
    ),
    (
        change("releases", {"model_version": "v3"}, created_at=at(31)),
        "I6 pets: generation 3 (v3) was released after it served",
    ),
    (rollback_to_a_stranger, "I6 pets: generation 5 (v5) returns to a model that never was champion"),
    (change("routes", {"generation": 2}, action="push"), "I6 pets: generation 2 (v2) has the unknown action push"),
    # I7 every run ends once, in time
    (change("runs", {"run_id": "run-v4"}, reason=None), "I7 pets: run run-v4 is closed with outcome promoted"),
    (change("runs", {"run_id": "run-v4"}, state="open"), "I7 pets: run run-v4 is open with outcome promoted"),
    (failed_but_promoted, "I7 pets: run run-v4 ended failed but moved the route"),
    (promoted_but_did_nothing, "I7 pets: run run-x ended promoted but did not move the route"),
    # I9 nothing left over
    (set_object("self-test/1", b"x"), "I9 *: 1 temporary objects older than an hour: self-test/1"),
    (change("leases", {"name": "pets/train"}, holder=""), "I9 *: 1 leases without a holder: pets/train"),
]


@pytest.mark.parametrize(("apply", "message"), BROKEN, ids=[message[:60] for _, message in BROKEN])
def test_each_broken_invariant_is_named(world, violations, apply, message):
    apply(world)
    broken = violations(world, deep=True)
    assert any(message in violation for violation in broken), broken


@pytest.mark.parametrize(("deep", "recorded"), [(False, True), (True, False)])
def test_a_bento_that_is_gone_is_named_without_its_hash_too(world, violations, deep, recorded):
    world.objects.pop("bentos/pets/release-v3.bento")
    if not recorded:
        world.row("releases", model_version="v3").update(infra_check={"failures": []})
    assert violations(world, deep=deep) == [
        "I4 pets: champion v3 must have bentos/pets/release-v3.bento (got no such object)"
    ]


def test_a_bento_of_an_older_release_has_no_hash_to_compare(world, violations):
    world.row("releases", model_version="v3").update(infra_check={"failures": []})
    world.objects["bentos/pets/release-v3.bento"] = b"x"
    assert violations(world, deep=True) == []


def test_quarantine_of_a_later_stage_is_no_loss(world, violations):
    quarantine("labels")(world)
    assert violations(world) == []


def test_a_second_copy_with_another_label_is_refused_and_the_item_stays(world, violations):
    quarantine("ingest", code="LABEL_CONFLICT")(world)
    assert violations(world) == []


def test_a_prediction_without_a_time_is_no_end_of_the_check(world, violations):
    log(logged("p9", "v1", 15) | {"at_ms": None})(world)
    assert violations(world) == []


def test_predictions_around_a_switch_are_served_by_either(world, violations):
    log(logged("p8", "v1", 20.4), logged("p9", "v2", 19.6))(world)
    assert violations(world) == []


def test_a_shadow_may_predict(world, violations):
    shadow = {"deployment_id": "deployment-v1", "model_version": "v1", "address": "", "weight": 0}
    world.row("routes", generation=4)["body"]["shadows"].append(shadow)
    log(logged("p9", "v1", 50))(world)
    assert violations(world) == []


def test_an_answer_that_is_kept_twice_is_named(world, violations):
    approve("approve", sequence=1)(world)
    approve("approve", sequence=2)(world)
    (violation,) = violations(world)
    assert violation.startswith("I2 pets: 1 answers to requests for approval that are kept twice: approve by ann at 20")
    assert violation.endswith("on verdict-v1")


def test_a_long_list_of_names_is_cut_after_ten():
    assert list(listed("I1", "pets", "things", [f"{number:02d}" for number in range(12)])) == [
        Violation("I1", "pets", "12 things: 00, 01, 02, 03, 04, 05, 06, 07, 08, 09, ...")
    ]


def safetensors(**metadata) -> bytes:
    header = json.dumps({"__metadata__": metadata}).encode()
    return len(header).to_bytes(8, "little") + header


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({}, None),
        ({"model.onnx": b"evil"}, "model.onnx must have the SHA-256"),
        ({"model.onnx": None}, "model.onnx must have the SHA-256"),
        ({"model.json": b'{"config": {"runtime": "eager"}}'}, "model.json must have the configuration"),
        ({"model.json": b"[]"}, "model.json must have the configuration"),
    ],
)
def test_what_serves_beside_the_weights_is_what_they_were_written_with(object_store, changes, fault):
    config = {"runtime": "onnx", "classes": ["cat", "dog"]}
    weights = safetensors(config=content_id(config), exported=sha256_hex(b"graph"))
    files = {
        "model.safetensors": weights,
        "model.onnx": b"graph",
        "model.json": json.dumps({"config": config}).encode(),
    }
    for name, data in (files | changes).items():
        if data is not None:
            object_store.put(f"models/pets/v1/{name}", data)
    routes = [{"action": "promote", "champion_version": "v1"}]
    models = {"v1": {"object_key": "models/pets/v1", "digest": sha256_hex(weights)}}
    broken = [str(violation) for violation in whole_violations("pets", routes, models, [], object_store)]
    assert (fault in broken[0]) if fault else broken == []
