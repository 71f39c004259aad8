"""A sound world breaks no invariant; each way of breaking it is seen and named."""

import copy
import datetime as dt
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.ledger_repository import backfill
from pipeline_tasks.contracts import canonical_json, content_id, sha256_hex
from pipeline_tasks.invariants import check
from pipeline_tasks.invariants_champions import whole_violations
from pipeline_tasks.invariants_report import Violation, listed
from tests.documents import verdict_document

NOW = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
PACK = b"aaaabbbbcccc"
PACK_KEY = f"packs/pets/{sha256_hex(PACK)[:2]}/{sha256_hex(PACK)}.pack"
ITEMS = {"a": (0, "train"), "b": (4, "train"), "c": (8, "exam")}
VERSIONS = ("v1", "v2", "v3", "v4")


def at(minutes: float) -> dt.datetime:
    return NOW - dt.timedelta(days=1) + dt.timedelta(minutes=minutes)


def parquet(rows: list[dict]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def predictions_key(data: bytes) -> str:
    return f"predictions/pets/2026-01-01/{sha256_hex(data)}.parquet"


def logged(prediction_id: str, version: str | None, minutes: float) -> dict:
    at_ms = int(at(minutes).timestamp() * 1000)
    return {"kind": "prediction", "prediction_id": prediction_id, "model_version": version, "at_ms": at_ms}


class World:
    """Rows and objects of a loop at rest, before they are written."""

    def __init__(self) -> None:
        self.rows: dict[str, list[dict]] = {table.name: [] for table in t.metadata.sorted_tables}
        self.objects: dict[str, bytes] = {PACK_KEY: PACK}
        self.ls_tasks: dict[int, dict[str, list[int]]] = {1: {"a": [11]}, 2: {"c": [12]}}
        self._items()
        self._models()
        self.predictions([logged("p1", "v1", 15), logged("p2", "v4", 50), logged("refused", None, 1)])
        self.add("leases", name="pets/train", token=3, holder="run-v4/ship/1", acquired_at=at(40))

    def add(self, table: str, **values) -> dict:
        row = values if table == "leases" else {"project": "pets", **values}
        self.rows[table].append(row)
        return row

    def _items(self) -> None:
        self.add(
            "projects",
            split_key="k",
            labels=["cat", "dog"],
            schema_version=1,
            ls_project_ids={"label": 1, "exam": 2},
            created_at=at(0),
        )
        for item_id, (offset, split) in ITEMS.items():
            place = {"object_key": PACK_KEY, "offset": offset, "size_bytes": 4, "media_type": "text/plain"}
            origin = {"source": "folder", "key": item_id, "group_key": item_id, "origin": "source", "batch_id": "1"}
            self.add("items", item_id=item_id, split=split, source_label=None, arrived_at=at(0), **place, **origin)
            decision = {"status": "decided", "label": "cat", "method": "single", "annotation_ids": [], "annotators": []}
            self.add(
                "label_decisions",
                item_id=item_id,
                version=1,
                agreement=1.0,
                schema_version=1,
                decided_at=at(1),
                **decision,
            )
        for item_id, queue, ls_project_id, ls_task_id in (("a", "label", 1, 11), ("c", "exam", 2, 12)):
            ids = {"ls_project_id": ls_project_id, "ls_task_id": ls_task_id, "prediction": None, "reason": "new"}
            self.add(
                "labeling_tasks",
                item_id=item_id,
                queue=queue,
                state="pushed",
                priority=0.0,
                requested_at=at(0),
                pushed_at=at(1),
                **ids,
            )
        self.add("exam_items", item_id="c", epoch=1, label="cat")
        self.snapshot("s1", 1, None, ["a"])
        self.snapshot("s2", 2, "s1", ["a", "b"])

    def snapshot(self, snapshot_id: str, generation: int, parent_id: str | None, item_ids: list[str]) -> dict:
        key = f"snapshots/pets/{snapshot_id}/manifest.parquet"
        self.objects[key] = parquet([{"item_id": item_id, "split": "train"} for item_id in item_ids])
        return self.add(
            "snapshots",
            snapshot_id=snapshot_id,
            generation=generation,
            parent_id=parent_id,
            object_key=key,
            num_rows=len(item_ids),
            class_counts={},
            schema_version=1,
            run_id="run-v1",
            created_at=at(2),
        )

    def _models(self) -> None:
        champion = parent = None
        for number, version in enumerate(VERSIONS, start=1):
            self._model(version, champion=champion, minutes=10.0 * number)
            self.route(number, version, parent=parent, minutes=10.0 * number)
            champion, parent = version, f"commit-{number}"

    def _model(self, version: str, *, champion: str | None, minutes: float) -> None:
        weights, answers = f"weights of {version}".encode(), f"answers of {version}".encode()
        said = {"project": "pets", "contender": version, "champion": champion, "exam_ids": ["e"]}
        verdict = canonical_json(verdict_document(**said, evidence=answers, weights=sha256_hex(weights)))
        folder, verdict_key = f"models/pets/{version}", f"verdicts/pets/verdict-{version}"
        bento = f"bentos/pets/release-{version}.bento"
        self.objects |= {
            f"{folder}/model.safetensors": weights,
            f"{folder}/model.json": b"{}",
            f"{verdict_key}/verdict.json": verdict,
            f"{verdict_key}/evidence.parquet": answers,
            bento: b"bento",
        }
        run_id, before = f"run-{version}", at(minutes - 1)
        trained = {"params": {}, "metrics": {}, "tracker": {}, "seed": 0, "lock_hash": "l", "code_revision": "r"}
        self.add(
            "model_versions",
            version=version,
            training_key=version,
            recipe="image_cnn",
            snapshot_id="s1",
            object_key=folder,
            digest=sha256_hex(weights),
            run_id=run_id,
            created_at=before,
            **trained,
        )
        self.add(
            "verdicts",
            verdict_id=f"verdict-{version}",
            answer="promote",
            champion_version=champion,
            contender_version=version,
            exam_ids=["e"],
            reasons={},
            policy_id="p",
            object_key=verdict_key,
            digest=sha256_hex(verdict),
            run_id=run_id,
            created_at=before,
        )
        self.add(
            "releases",
            release_id=f"release-{version}",
            model_version=version,
            verdict_id=f"verdict-{version}",
            bento_tag=version,
            bento_digest="d",
            object_key=bento,
            infra_check={"failures": [], "export_sha256": sha256_hex(b"bento")},
            run_id=run_id,
            created_at=before,
        )
        self.add(
            "deployments",
            deployment_id=f"deployment-{version}",
            release_id=f"release-{version}",
            model_version=version,
            target="process",
            address="http://127.0.0.1:1",
            created_at=before,
        )
        ending = {"state": "closed", "outcome": "promoted", "reason_code": "PROMOTED", "reason": "it was better"}
        times = {"opened_at": at(minutes - 5), "deadline_at": at(minutes + 60), "closed_at": at(minutes + 1)}
        self.add("runs", run_id=run_id, kind="train", info={}, **ending, **times)

    def route(
        self, generation: int, version: str, *, parent: str | None, minutes: float, action: str = "promote"
    ) -> dict:
        entry = {"deployment_id": f"deployment-{version}", "model_version": version, "address": "", "weight": 100}
        return self.add(
            "routes",
            generation=generation,
            commit_id=f"commit-{generation}",
            parent_commit_id=parent,
            attempt=f"run-{version}/ship/1" if action == "promote" else f"manual-{generation}/rollback/1",
            action=action,
            champion_version=version,
            verdict_id=f"verdict-{version}",
            body={"entries": [entry], "shadows": []},
            actor="gate",
            reason="better",
            created_at=at(minutes),
        )

    def predictions(self, rows: list[dict]) -> str:
        data = parquet(rows)
        self.objects[predictions_key(data)] = data
        return predictions_key(data)

    def row(self, table: str, **where) -> dict:
        return next(row for row in self.rows[table] if all(row[key] == value for key, value in where.items()))

    def remove(self, table: str, **where) -> None:
        self.rows[table].remove(self.row(table, **where))


class Labeling:
    """The part of a labeling tool that the checker asks."""

    def __init__(self, tasks: dict[int, dict[str, list[int]]]) -> None:
        self._tasks = tasks

    def task_ids(self, project_id, item_ids=None):
        return copy.deepcopy(self._tasks[project_id])


@pytest.fixture
def world():
    return World()


@pytest.fixture
def violations(database, object_store):
    """Write a world down and return what the checker says of it."""

    def write_and_check(world: World, **arguments) -> list[str]:
        with database.write() as connection:
            for name, rows in world.rows.items():
                if rows:
                    connection.execute(t.metadata.tables[name].insert(), rows)
            backfill(connection)
        object_store.objects.update(world.objects)
        found = check(database, object_store, now=NOW, labeling=Labeling(world.ls_tasks), **arguments)
        return [str(one) for one in found]

    return write_and_check


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


def drop_object(key: str):
    return lambda world: world.objects.pop(key)


def set_object(key: str, data: bytes):
    return lambda world: world.objects.update({key: data})


def change(table: str, where: dict, **values):
    return lambda world: world.row(table, **where).update(values)


def change_entry(generation: int, **values):
    return lambda world: world.row("routes", generation=generation)["body"]["entries"][0].update(values)


def quarantine(stage: str, *, code: str = "IMAGE_TRUNCATED"):
    def apply(world):
        refused = {
            "source": "folder",
            "key": "x",
            "code": code,
            "reason": "r",
            "object_key": None,
            "at": NOW,
        }
        world.add("quarantine", stage=stage, digest="a", **refused)

    return apply


def approve(decision: str, *, minutes: float = 5, sequence: int = 1, verdict_id: str = "verdict-v1"):
    def apply(world):
        answer = {
            "verdict_id": verdict_id,
            "sequence": sequence,
            "decision": decision,
            "by": "ann",
            "requested_by": "bob",
        }
        world.add("approvals", **answer, reason="looks good", at=at(minutes))

    return apply


def labeling(project_id: int, item_id: str, task_ids: list[int]):
    return lambda world: world.ls_tasks[project_id].update({item_id: task_ids})


def log(*rows):
    return lambda world: world.predictions(list(rows))


def part_gone(world):
    world.add(
        "prediction_parts", object_key="predictions/pets/gone", num_predictions=1, num_feedback=0, imported_at=NOW
    )


def twice_in_snapshot(world):
    world.remove("snapshots", snapshot_id="s2")
    world.snapshot("s2", 2, "s1", ["a", "a"])


def exam_in_snapshot(world):
    world.remove("snapshots", snapshot_id="s2")
    world.snapshot("s2", 2, "s1", ["a", "c"])


def unknown_in_snapshot(world):
    world.remove("snapshots", snapshot_id="s2")
    world.snapshot("s2", 2, "s1", ["a", "zz"])


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
        drop_object("snapshots/pets/s1/manifest.parquet"),
        "I1 pets: snapshot s1 has no manifest snapshots/pets/s1/manifest.parquet",
    ),
    (
        set_object("snapshots/pets/s1/manifest.parquet", b"x"),
        "I1 pets: snapshot s1 must be readable (got ArrowInvalid)",
    ),
    (change("snapshots", {"snapshot_id": "s1"}, num_rows=7), "I1 pets: snapshot s1 must have 7 rows (got 1)"),
    (unknown_in_snapshot, "I1 pets: 1 unknown items in snapshot s2: zz"),
    (exam_in_snapshot, "I1 pets: 1 exam items trained on in snapshot s2: c"),
    (lambda world: world.ls_tasks[1].clear(), "I1 pets: 1 pushed items without their labeling task: a"),
    (labeling(1, "b", [13]), "I1 pets: 1 labeling tasks that nobody asked for: b"),
    (change("labeling_tasks", {"item_id": "a"}, ls_task_id=None), "I1 pets: 1 pushed items without a task id: a"),
    (part_gone, "I1 pets: 1 imported prediction parts that are gone: predictions/pets/gone"),
    (corrupt_predictions, "must be readable (got DataCorrupt)"),
    # I2 nothing twice
    (twice_in_snapshot, "I2 pets: 1 items twice in snapshot s2: a"),
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
        change("snapshots", {"snapshot_id": "s2"}, parent_id="s0"),
        "I3 pets: snapshot s2 must be generation 2 after s1 (got 2 after s0)",
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
    found = violations(world, deep=True)
    assert any(message in one for one in found), found


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
    (found,) = violations(world)
    assert found.startswith("I2 pets: 1 answers to requests for approval that are kept twice: approve by ann at 20")
    assert found.endswith("on verdict-v1")


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
    found = violations(world, deep=True)
    assert "I6 pets: generation 4 (v4) routes to evil too, which has not passed verdict, approval and release" in found


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
    assert ["evil" in one for one in violations(world)] == [True] * num_faults


def test_a_contender_that_the_gate_kept_out_is_named(world, violations):
    beside(world)
    world.row("verdicts", verdict_id="verdict-evil").update(answer="keep")
    assert any("routes to evil too" in one for one in violations(world))


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
    assert [one.split(" must ")[0] for one in violations(world, deep=True)] == ["I4 pets: bentos/pets/release-v3.bento"]


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
    found = [str(one) for one in whole_violations("pets", routes, models, [], object_store)]
    assert (fault in found[0]) if fault else found == []
