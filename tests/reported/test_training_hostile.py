"""Hostile items among good ones before training and gate: what an older version let into a snapshot or an exam.

The good ones are trained on and judged, the bad ones are named, the next run says the same. Source: issue 12, point 4.
"""

from __future__ import annotations

import json
import logging
import re

import numpy as np
import pyarrow as pa
import pytest

from pipeline_tasks.contracts import UNDECODABLE, canonical_json, sha256_hex
from pipeline_tasks.errors import DataCorrupt, GateClosed, InputError
from pipeline_tasks.evaluation import verdict as vd
from pipeline_tasks.models.decoding import decode_item
from pipeline_tasks.models.registry import FoundRecipe, find_recipe
from pipeline_tasks.training.data_loading import LoadPlan, load_data
from pipeline_tasks.training.dataset import rows_of
from tests.fakes import FakeObjectStore
from tests.reported.test_decode import Raising
from tests.unit.evaluation import support as s
from tests.unit.evaluation.conftest import run, verdicts, world  # noqa: F401  (fixtures)
from tests.unit.ingest.conftest import png

NUM_GOOD = 1000
CLASSES = ("no", "yes")
IMAGE = png(1)
PARAMS = {
    "image": {"image_size": 8, "channels": 1},
    "text": {},
    "tabular": {"numbers": ["a"], "categories": {"b": ["x"]}},
}
RECIPES = {"image": "image_cnn", "text": "text_bow", "tabular": "tabular_mlp"}
GOOD = {
    "image": png,
    "text": lambda number: f"letter number {number}".encode(),
    "tabular": lambda number: canonical_json({"a": number, "b": "x"}),
}
BAD = {
    "image": {
        b"": "EMPTY_FILE",
        b"no image \0 at all": "NOT_AN_IMAGE",
        IMAGE[:-20]: "IMAGE_TRUNCATED",
        IMAGE[:40]: None,
        b"GIF89a" + b"\0" * 30: None,
        "line\u2028one\r\nline two".encode(): "NOT_AN_IMAGE",
    },
    "text": {b"": None, "größer".encode("latin-1"): None, "größer".encode("utf-16"): None, b"half \xed\xa0\x80": None},
    "tabular": {
        b"": None,
        b"\xff\xfe\0": None,
        b"[1, 2]": None,
        b"[" * 50_000: None,
        b'{"a": "NA", "b": "x"}': None,
        b'{"a": 1e999, "b": "x"}': None,
        b'{"a": [1], "b": "x"}': None,
        b'{"b": "x"}': None,
        b'{"a": "\\ud800\\u0000\\n", "b": "x"}': None,
    },
}


@pytest.fixture
def database(any_database):
    return any_database


class Snapshot:
    """Items of a modality in a store, the bad ones among the good, and what training makes of them."""

    def __init__(self, modality: str, folder, *, recipe: FoundRecipe | None = None, bad: dict | None = None) -> None:
        self.good = [GOOD[modality](number) for number in range(NUM_GOOD)]
        self.bad = list(BAD[modality] if bad is None else bad)
        self.store = FakeObjectStore()
        self.found = recipe or find_recipe(RECIPES[modality])
        data = [*self.good[:400], *self.bad, *self.good[400:]]
        self.store.put("pack", b"".join(data))
        sizes = [len(payload) for payload in data]
        table = {
            "item_id": [sha256_hex(payload) for payload in data],
            "label": [CLASSES[number % 2] for number in range(len(data))],
            "split": ["train"] * len(data),
            "group_key": [str(number) for number in range(len(data))],
            "object_key": ["pack"] * len(data),
            "offset": np.cumsum([0, *sizes])[:-1],
            "size_bytes": sizes,
        }
        self.rows = rows_of(pa.table(table))
        params = self.found.recipe.resolve(PARAMS[modality]) | {"validation_share": 0.1, "class_weights": "none"}
        self.plan = LoadPlan("pets", "snapshot", self.found, params, CLASSES, folder)

    def load(self):
        return load_data(self.plan, self.rows, store=self.store)


@pytest.mark.parametrize("modality", RECIPES)
def test_hostile_items_are_left_out_of_training_by_name(modality, tmp_path, caplog):
    snapshot = Snapshot(modality, tmp_path)
    preprocessing = snapshot.found.recipe.preprocessing(snapshot.plan.params)
    content = {sha256_hex(payload): payload for payload in (*snapshot.good, *snapshot.bad)}
    for _ in range(2):  # the second attempt finds what the first has decoded
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            data = snapshot.load()
        used = np.concatenate([data.split.train, data.split.validation])
        trained = [content[snapshot.rows[int(row)].item_id] for row in used]
        assert sorted(trained) == sorted(snapshot.good)
        for array, payload in zip(data.inputs.take(used), trained, strict=True):
            np.testing.assert_array_equal(
                array, decode_item(snapshot.found.recipe, payload, preprocessing=preprocessing)
            )
        (message,) = caplog.messages
        assert message.isprintable()
        assert all(sha256_hex(payload)[:16] in message for payload in snapshot.bad)
        for payload, code in BAD[modality].items():
            assert f"('{sha256_hex(payload)[:16]}', '{code}')" in message or code is None


def test_what_a_recipe_of_a_project_raises_stops_one_item_each(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(Raising, "preprocessing", lambda *_: {}, raising=False)
    monkeypatch.setattr(Raising, "resolve", lambda _, params: params, raising=False)
    monkeypatch.setattr(Raising, "signature", lambda *_: None, raising=False)
    snapshot = Snapshot("image", tmp_path, recipe=FoundRecipe(Raising(), "digest"), bad={b"bad": None, b"list": None})
    with caplog.at_level(logging.WARNING):
        data = snapshot.load()
    assert len(data.split.train) + len(data.split.validation) == NUM_GOOD
    assert caplog.messages[0].startswith("2 items do not decode and are left out: [('")
    assert caplog.messages[0].count("ITEM_INVALID") == 2


def test_more_bad_items_than_a_training_leaves_out_close_the_gate_by_their_codes(tmp_path):
    snapshot = Snapshot("tabular", tmp_path, bad=dict.fromkeys([f'{{"b": "{n}"}}'.encode() for n in range(11)]))
    for _ in range(2):
        with pytest.raises(GateClosed, match=r"got 11 of 1011 that do not: COLUMN_MISSING\)") as caught:
            snapshot.load()
        assert caught.value.code == UNDECODABLE


def test_bytes_that_are_not_the_items_stop_the_training_by_name(tmp_path):
    """The stored bytes were changed: a training on them could not be repeated."""
    snapshot = Snapshot("text", tmp_path)
    snapshot.store.put("pack", snapshot.store.get("pack").replace(b"letter number 7\x00"[:-1], b"letter number 8", 1))
    with pytest.raises(DataCorrupt, match=rf"pack at \d+ must hold the bytes of item {sha256_hex(snapshot.good[7])}"):
        snapshot.load()


MESSAGES = ["two\nlines\r\n", "\0 nul", "half \ud800", "\u202eturned", "x" * 9000, "<script>alert(1)</script>"]


def test_hostile_exam_items_are_left_out_of_a_verdict_by_name(run, world, object_store, verdicts, monkeypatch):  # noqa: F811
    """Both models decode alike; the judgement is of the others, is stored on both catalogs, and replays."""
    bad = {s.payload(2, number): message for number, message in enumerate(MESSAGES, start=60)}

    def decode(data):
        if data in bad:
            raise InputError(bad[data], code="VALUE_INVALID")
        return data

    for model in world.models.values():
        monkeypatch.setattr(model, "decode", decode)
    first = run()
    document = json.loads(object_store.get(f"{first.object_key}/verdict.json"))
    assert document["evidence"]["current"]["num_items"] == 240 - len(bad)
    left_out = {entry["item_id"]: entry["reason"] for entry in document["question"]["left_out"]}
    assert left_out.keys() == {sha256_hex(payload) for payload in bad}
    assert all(reason.isprintable() and len(reason) < 1000 for reason in left_out.values())
    report = object_store.get(f"{first.object_key}/report.html").decode()
    assert all(item_id in report for item_id in left_out)
    assert not re.search("<script>alert", report)
    evidence = object_store.get(f"{first.object_key}/evidence.parquet")
    assert vd.document_bytes(vd.replay(document, evidence)) == vd.document_bytes(document)
    assert run() == first
    assert [verdict.ref.answer for verdict in verdicts.history(s.project().name)] == [first.answer] == ["promote"]
