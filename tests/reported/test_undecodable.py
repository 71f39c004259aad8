"""Items that do not decode are known at ingest, with a way out for those that older versions let in.

Source: README.md here.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import types
from pathlib import Path

import pytest
import sqlalchemy as sa

from pipeline_tasks.audit import lineage
from pipeline_tasks.audit.lineage_tree import when
from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.database import Database, create_engine
from pipeline_tasks.catalog.set_aside import Retirement, SetAsideRepository
from pipeline_tasks.cli import main
from pipeline_tasks.contracts import sha256_hex
from pipeline_tasks.errors import ConfigError, GateClosed, InputError
from pipeline_tasks.evaluation import verdict as vd
from pipeline_tasks.invariants.check import check
from pipeline_tasks.orchestration import item_retirement, resources
from pipeline_tasks.validation import items as items_module
from pipeline_tasks.validation.check_reports import CheckContext
from pipeline_tasks.validation.task import build_snapshot, check_items, open_exam, release_decodable
from tests.fakes import FakeObjectStore
from tests.lineage_case import Past
from tests.lineage_case import item_id as past_item
from tests.unit.evaluation import support as s
from tests.unit.evaluation.conftest import run, verdicts, world  # noqa: F401  (fixtures)
from tests.unit.monitoring.builders import Production, record
from tests.unit.validation.builders import CLASSES, NOW, Scene, png

FOLDER = Path(__file__).parent
TABLE = {
    "modality": "tabular",
    "sources": [{"type": "table", "path": "rows", "key_column": "id", "content_columns": ["a", "b"], "name": "folder"}],
}


# What does not decode is known at ingest, and a way out for what older versions let in


def row(value: object, index: int = 0) -> bytes:
    return json.dumps({"a": value, "b": index}).encode()


def table_scene(database, object_store, tmp_path, **overrides) -> Scene:
    return Scene(database, object_store, tmp_path, **(TABLE | overrides))


def reasons(scene) -> dict[str, str]:
    with scene.database.read() as connection:
        return {entry.key: f"{entry.code}: {entry.reason}" for entry in connection.execute(sa.select(t.quarantine))}


HOSTILE = ["NA", "2,5", "$5", "5%", "1e999", [1], {"x": 1}, "\ud800", "line\nbreak"]


def test_b2_rows_that_the_recipe_cannot_read_are_named_at_ingest_and_go_no_further(database, object_store, tmp_path):
    """Hostile rows among good ones: the good arrive in snapshot and exam, the bad are named."""
    scene = table_scene(database, object_store, tmp_path)
    for split in ("train", "exam"):
        for index in range(12):
            item_id = scene.add_item(
                row(index, 1 if split == "exam" else 0), split=split, media_type="application/json"
            )
            scene.decide(item_id, CLASSES[index % 2])
        for index, value in enumerate(HOSTILE):
            item_id = scene.add_item(
                row(value, 100 + (split == "exam")), split=split, media_type="application/json", key=f"{split}-{index}"
            )
            scene.decide(item_id, CLASSES[index % 2])
    check_items(scene.project, "b1", **scene.arguments)
    told = reasons(scene)
    assert sorted(told) == sorted(f"{split}-{index}" for split in ("train", "exam") for index in range(len(HOSTILE)))
    assert told["exam-0"].startswith(
        "UNDECODABLE: VALUE_INVALID: a must be null or a number up to 3.4e38 (got 'NA'). Correct it at its source"
    )
    assert all(text.isprintable() for text in told.values())
    (exam,) = open_exam(scene.project, **scene.freezing)
    snapshot = build_snapshot(scene.project, **scene.freezing)
    assert (exam.num_items, snapshot.num_rows) == (12, 12)


def test_b2_freezing_an_exam_decodes_again(database, object_store, tmp_path):
    """Items of an older version were never decoded by the items check."""
    scene = table_scene(database, object_store, tmp_path)
    for index in range(11):
        scene.decide(scene.add_item(row(index), split="exam", media_type="application/json"), CLASSES[index % 2])
    bad = scene.add_item(row("NA"), split="exam", media_type="application/json", key="bad")
    scene.decide(bad, "cat")
    (exam,) = open_exam(scene.project, **scene.freezing)
    assert exam.num_items == 11
    assert list(reasons(scene)) == ["bad"]
    assert SetAsideRepository(database).unusable("pets", [bad]) == {bad}


def test_b2_another_recipe_brings_its_items_back(database, object_store, tmp_path):
    scene = table_scene(database, object_store, tmp_path, checks={"max_quarantine_share": 0.5})
    for index in range(4):
        scene.add_item(json.dumps({"a": 1, "b": "x" if index else 2}).encode() + b" " * index, key=str(index))
    bad = table_scene(
        database, object_store, tmp_path / "b", recipe={"name": "tabular_mlp", "params": {"numbers": ["b"]}}
    )
    with pytest.raises(GateClosed) as caught:
        check_items(bad.project, "b1", **scene.arguments)
    assert caught.value.code in {"TOO_MANY_BAD_ROWS", "BYTES_MATCH_ID"}
    undecodable = {key for key, text in reasons(scene).items() if text.startswith("UNDECODABLE")}
    assert undecodable == {"1", "2", "3"}
    repository = SetAsideRepository(database)
    assert release_decodable(bad.project, set_aside=repository, store=object_store) == 0
    assert release_decodable(scene.project, set_aside=repository, store=object_store) == 3
    assert not {key for key, text in reasons(scene).items() if text.startswith("UNDECODABLE")}


def test_b2_an_undecodable_exam_item_is_left_out_for_both_models(run, world, object_store, monkeypatch):  # noqa: F811
    """An exam of an older version does not block every training for ever, and the verdict says what is missing."""
    bad = s.payload(2, 7)

    def decode(data):
        if data == bad:
            raise InputError("a must be a number (got 'NA').", code="VALUE_INVALID")
        return data

    for model in world.models.values():
        monkeypatch.setattr(model, "decode", decode)
    ref = run()
    document = json.loads(object_store.get(f"{ref.object_key}/verdict.json"))
    assert document["evidence"]["current"]["num_items"] == 239
    (left_out,) = document["question"]["left_out"]
    assert (left_out["item_id"], left_out["code"]) == (sha256_hex(bad), "UNDECODABLE")
    assert "VALUE_INVALID: a must be a number (got 'NA')." in left_out["reason"]
    assert "ITEMS_LEFT_OUT" in [
        reason["code"] for reason in document["decision"]["reasons"] if reason["stand"] == "note"
    ]
    assert sha256_hex(bad) in object_store.get(f"{ref.object_key}/report.html").decode()
    assert ref.answer == "promote"
    evidence = object_store.get(f"{ref.object_key}/evidence.parquet")
    assert vd.document_bytes(vd.replay(document, evidence)) == vd.document_bytes(document)


def test_b2_a_verdict_without_left_out_items_is_as_before(run, object_store):  # noqa: F811
    document = json.loads(object_store.get(f"{run().object_key}/verdict.json"))
    assert "left_out" not in document["question"]


def test_b2_a_contender_that_refuses_what_is_hard_is_not_judged_on_the_rest(run, world, monkeypatch):  # noqa: F811
    hard = {s.payload(2, index) for index in range(5)}

    def decode(data):
        if data in hard:
            raise InputError("too hard", code="VALUE_INVALID")
        return data

    monkeypatch.setattr(world.models["new"], "decode", decode)
    with pytest.raises(GateClosed, match=r"got 5 of 120 that only one of them decodes; the contender on") as caught:
        run()
    assert caught.value.code == "UNDECODABLE"


def test_b2_a_retired_item_is_left_out_and_named(run, object_store):  # noqa: F811
    gone = sha256_hex(s.payload(2, 3))
    ref = run(retired={gone: "retired by ann on 2026-03-01: typed in wrongly"})
    document = json.loads(object_store.get(f"{ref.object_key}/verdict.json"))
    assert [(entry["code"], entry["item_id"]) for entry in document["question"]["left_out"]] == [("RETIRED", gone)]
    assert document["evidence"]["current"]["num_items"] == 239
    assert "typed in wrongly" in object_store.get(f"{ref.object_key}/report.html").decode()


def test_b2_a_retired_item_is_in_no_new_snapshot_and_no_new_exam(scene_of_pets):
    scene = scene_of_pets
    trained, asked = scene.add_labeled(8), scene.add_labeled(12, split="exam", start=50)
    for item_id in (trained[0], asked[0]):
        item_retirement.retire(scene.database, "pets", item_id[:20], reason="wrong", by="ann", now=NOW)
    (exam,) = open_exam(scene.project, **scene.freezing)
    assert (exam.num_items, build_snapshot(scene.project, **scene.freezing).num_rows) == (11, 7)


def test_b2_retiring_is_recorded_once_and_says_which_exams_hold_the_item(scene_of_pets):
    scene = scene_of_pets
    item_id = scene.add_labeled(10, split="exam")[0]
    open_exam(scene.project, **scene.freezing)
    first = item_retirement.retire(scene.database, "pets", item_id, reason="typed\nwrongly", by="ann", now=NOW)
    assert first.record == Retirement("pets", item_id, "typed wrongly", "ann", NOW)
    assert first.epochs == (1,)
    again = item_retirement.retire(scene.database, "pets", item_id, reason="other", by="ben", now=NOW)
    assert (again.record, again.is_new) == (first.record, False)
    assert "was retired by ann before" in item_retirement.as_text(again)
    assert item_retirement.as_json(first)["epochs"] == [1]


@pytest.mark.parametrize(
    ("project", "item", "reason", "message"),
    [
        ("pets", "0" * 64, "why", r"an item's id of pets \(got 0000"),
        ("pets", "ab", "why", "4 characters or more"),
        ("dogs", "0" * 64, "why", r"project must be one that the catalog knows \(got dogs\)"),
        ("pets", "0" * 64, " ", "reason must say why"),
    ],
)
def test_b2_retiring_what_is_not_there_or_without_a_reason_is_refused(scene_of_pets, project, item, reason, message):
    scene_of_pets.add_item(png(1))
    with pytest.raises(ConfigError, match=message):
        item_retirement.retire(scene_of_pets.database, project, item, reason=reason, by="ann", now=NOW)


@pytest.mark.parametrize("as_json", [True, False])
def test_b2_the_command_retires_and_refuses(scene_of_pets, monkeypatch, tmp_path, capsys, as_json):
    (tmp_path / "pets").mkdir(exist_ok=True)
    monkeypatch.setenv("DETHRONE_PROJECTS", str(tmp_path))
    item_id = scene_of_pets.add_item(png(1))
    monkeypatch.setattr(resources, "build_resources", lambda: types.SimpleNamespace(database=scene_of_pets.database))
    flags = ["--json"] if as_json else []
    assert main.main(["item", "retire", "pets", item_id[:12], "--reason", "typed in wrongly", *flags]) == main.DONE
    said = capsys.readouterr().out
    if as_json:
        assert json.loads(said)["item_id"] == item_id
    else:
        assert said.startswith(f"Item {item_id[:12]} of pets is retired. New snapshots and exams leave it out.")
    for arguments in (["f" * 64, "--reason", "why"], [item_id, "--reason", ""]):
        assert main.main(["item", "retire", "pets", *arguments]) == main.USAGE


def test_b2_lineage_and_verify_know_a_retired_item(database, object_store):
    Past(database, object_store)
    item_retirement.retire(database, "pets", past_item(6), reason="typed in wrongly", by="ann", now=NOW)
    said = f"retired by ann, {when(NOW)}: typed in wrongly"
    tree = lineage.lineage(database, object_store, f"item:{past_item(6)}", project="pets")
    assert said in str(tree)
    row = {"project": "pets", "item_id": "nobody", "reason": "r", "by": "ann", "at": NOW}
    with database.write() as connection:
        connection.execute(t.item_retirements.insert(), row)
    violations = [str(violation) for violation in check(database, object_store, now=NOW)]
    assert "I1 pets: 1 item_retirements of unknown items: nobody" in violations


def test_b2_verify_is_content_with_items_that_the_check_put_aside(scene_of_pets):
    scene_of_pets.add_item(png(1))
    scene_of_pets.add_item(b"no image")
    check_items(scene_of_pets.project, "b1", **scene_of_pets.arguments)
    assert [str(violation) for violation in check(scene_of_pets.database, scene_of_pets.store, now=NOW)] == []


def test_g10_a_production_item_that_fails_the_items_check_is_shown_to_nobody(database, object_store, tmp_path):
    production = Production(database, object_store, tmp_path, audit_share=1.0)
    production.crown()
    production.log(*(record(number) for number in range(4)))
    bad = sha256_hex(png(2))
    checked = []

    def check_batch(batch_id: str) -> None:
        checked.append(batch_id)
        with database.write() as connection:
            row = {"project": "pets", "stage": "items", "source": "production", "key": "k", "digest": bad}
            connection.execute(t.quarantine.insert(), row | {"code": "UNDECODABLE", "reason": "r", "at": NOW})

    production.outside = dataclasses.replace(production.outside, check=check_batch)
    production.run()
    asked = {task["item_id"] for task in production.rows(t.labeling_tasks)}
    assert (len(checked), len(asked), bad in asked) == (1, 3, False)


@pytest.fixture
def scene_of_pets(database, object_store, tmp_path):
    return Scene(database, object_store, tmp_path)


# The check holds a chunk, not the batch


def answer_in_chunks(folder, template, size, monkeypatch):
    """Return report, quarantine and failures of one hostile batch, checked in chunks of this size."""
    folder.mkdir()
    shutil.copy(template, folder / "catalog.db")
    database = Database(create_engine(f"sqlite:///{folder / 'catalog.db'}"))
    scene = table_scene(database, FakeObjectStore(), folder, checks={"max_quarantine_share": 0.9})
    for index in range(40):
        value = "NA" if index % 3 == 0 else index
        scene.add_item(row(value, index), media_type="application/json" if index % 5 else "image/gif", key=str(index))
    monkeypatch.setattr(items_module, "CHUNK_ROWS", size)
    report = check_items(scene.project, "b1", **scene.arguments)
    with database.read() as connection:
        (failures,) = connection.scalars(sa.select(t.checks.c.failures))
    database.engine.dispose()
    plain = [{name: failure[name] for name in ("rule", "num_failed", "failing_ids")} for failure in failures]
    return (report.severity, report.num_rows, report.num_quarantined), reasons(scene), plain


def test_a_batch_in_many_chunks_gets_the_answer_of_one(tmp_path, catalog_template, monkeypatch):
    whole = answer_in_chunks(tmp_path / "whole", catalog_template, 1000, monkeypatch)
    assert whole[0] == ("quarantine", 40, 19)
    assert answer_in_chunks(tmp_path / "chunks", catalog_template, 7, monkeypatch) == whole


def test_the_check_of_a_long_batch_tells_how_far_it_is(scene_of_pets, monkeypatch, caplog):
    scene, ticks = scene_of_pets, iter(range(0, 1000, 10))
    for index in range(3):
        scene.add_item(png(index))
    monkeypatch.setattr(items_module, "CHUNK_ROWS", 1)
    context = CheckContext("pets", scene.store, scene.datasets, scene.folder, "r", NOW)
    with caplog.at_level("INFO"):
        items_module.items_check(scene.project).run("b1", context=context, monotonic=lambda: float(next(ticks)))
    assert "b1: 2 items checked, 0 put aside" in caplog.text
