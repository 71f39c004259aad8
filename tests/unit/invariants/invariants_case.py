"""A sound world: the rows and objects of a loop at rest, and the ways of breaking it."""

import copy
import datetime as dt
import io

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.ledger_repository import backfill, backfill_later
from pipeline_tasks.contracts import canonical_json, sha256_hex
from pipeline_tasks.invariants.check import check
from pipeline_tasks.validation import manifest
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


def manifest_of(item_ids: list[str], *, label: str = "cat", split: str = "train") -> pa.Table:
    """Return a manifest of a world's items, twice where an id is given twice."""
    same = {
        "label": label,
        "weight": 1.0,
        "split": split,
        "object_key": PACK_KEY,
        "offset": 0,
        "size_bytes": 4,
        "media_type": "text/plain",
        "decision_version": 1,
        "method": "single",
        "annotators": [],
        "source": "folder",
        "origin": "source",
        "arrived_at": at(0),
    }
    rows = [{"item_id": item_id, "group_key": item_id, **same} for item_id in item_ids]
    return pa.Table.from_pylist(rows, schema=manifest.SCHEMA)


S1, S2 = (manifest.manifest_id(manifest_of(ids)) for ids in (["a"], ["a", "b"]))
EXAM = manifest_of(["c"], split="exam")
EXAM_ID = manifest.exam_id(EXAM)


def predictions_key(data: bytes) -> str:
    return f"predictions/pets/2026-01-01/{sha256_hex(data)}.parquet"


def logged(prediction_id: str, version: str | None, minutes: float) -> dict:
    at_ms = int(at(minutes).timestamp() * 1000)
    return {"kind": "prediction", "prediction_id": prediction_id, "model_version": version, "at_ms": at_ms}


def model_json(version: str, weights: bytes) -> dict:
    """Return as much of a model.json as the catalog's row repeats."""
    config = {"project": "pets", "version": version, "recipe": "image_cnn", "params": {}, "snapshot_id": S1}
    config |= {"training_key": version, "seed": 0, "lock_hash": "l"}
    facts = {"weights_digest": sha256_hex(weights), "metrics": {}, "origin": {"code_revision": "r"}}
    return {"config": config, **facts}


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
            origin["content_id"] = sha256_hex(PACK[offset : offset + 4])
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
        exam_key = f"exams/pets/{EXAM_ID}.parquet"
        self.objects[exam_key] = manifest.to_parquet(EXAM)
        opened = {"run_id": "run-v1", "opened_at": at(1)}
        self.add("exams", epoch=1, exam_id=EXAM_ID, object_key=exam_key, num_items=1, **opened)
        self.add("exam_items", item_id="c", epoch=1, label="cat")
        self.snapshot(S1, 1, None, ["a"])
        self.snapshot(S2, 2, S1, ["a", "b"])

    def snapshot(self, snapshot_id: str, generation: int, parent_id: str | None, item_ids: list[str]) -> dict:
        key = f"snapshots/pets/{snapshot_id}/manifest.parquet"
        self.objects[key] = manifest.to_parquet(manifest_of(item_ids))
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
            f"{folder}/model.json": canonical_json(model_json(version, weights)),
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
            snapshot_id=S1,
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


def checker(database, object_store):
    """Write a world down and return what the checker says of it."""

    def write_and_check(world: World, **arguments) -> list[str]:
        with database.write() as connection:
            for name, rows in world.rows.items():
                if rows:
                    connection.execute(t.metadata.tables[name].insert(), rows)
            backfill(connection)
            backfill_later(connection)
        object_store.objects.update(world.objects)
        broken = check(database, object_store, now=NOW, labeling=Labeling(world.ls_tasks), **arguments)
        return [str(violation) for violation in broken]

    return write_and_check


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
