"""Hostile items in a batch prediction among good ones: each is named in its row. Source: issue 12, point 4."""

from __future__ import annotations

import io
import types

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline_tasks.contracts import Attempt
from pipeline_tasks.errors import InputError, PermanentError
from pipeline_tasks.orchestration import offline_predictions
from tests.unit.ingest.conftest import World

BAD = {
    "NO": "line one\nline two \0 \ud800",
    "LONG": "x" * 9000,
}


class Model:
    """A champion that refuses some countries, and has no number for another one."""

    classes = ("no", "yes")

    def decode(self, data: bytes) -> bytes:
        for country, message in BAD.items():
            if f'"{country}"'.encode() in data:
                raise InputError(message, code="VALUE_INVALID")
        return data

    def predict(self, inputs: list[bytes]):
        if not inputs:
            raise ValueError("need at least one array to stack")
        if any(b'"NAN"' in payload for payload in inputs):
            raise PermanentError("the model must give finite numbers (got nan).", code="NON_FINITE_OUTPUT")
        return np.array([[0.25, 0.75]] * len(inputs), np.float32)


@pytest.fixture
def parts(world, database, object_store, tmp_path, monkeypatch):
    monkeypatch.setattr(offline_predictions, "champion_of", lambda *_: types.SimpleNamespace(version="v1"))
    monkeypatch.setattr(offline_predictions, "load_stored", lambda _: lambda _: Model())
    settings = types.SimpleNamespace(scratch_dir=tmp_path / "scratch")
    parts = types.SimpleNamespace(database=database, store=object_store, settings=settings)
    parts.project = lambda _: world.project
    return parts


def answers(world: World, parts, countries: list[str]) -> dict[str, dict]:
    rows = "".join(f"{number},{number},{country},\n" for number, country in enumerate(countries))
    world.write("a.csv", f"id,amount,country,label\n{rows}")
    world.run()
    report = offline_predictions.predict_batch(parts, "some_rows", attempt=Attempt("r", "t", 1), batch_id=None)
    assert report["num_items"] == len(countries)
    records = pq.read_table(io.BytesIO(parts.store.get(report["object_key"]))).to_pylist()
    return {row["key"]: row for row in records}


@pytest.mark.parametrize("num_good", [0, 3], ids=["bad-alone", "among-good"])
def test_a_batch_names_what_it_cannot_answer(world, parts, num_good):
    told = answers(world, parts, [*["DE"] * num_good, *BAD, "NAN", *["FR"] * num_good])
    bad = [told.pop(str(num_good + index)) for index in range(3)]
    assert {(row["label"], row["confidence"], row["problem"]) for row in told.values()} == (
        {("yes", 0.75, None)} if num_good else set()
    )
    assert [row["label"] for row in bad] == [None] * 3
    assert [row["problem"].partition(":")[0] for row in bad] == ["VALUE_INVALID", "VALUE_INVALID", "NON_FINITE_OUTPUT"]
    assert all(row["problem"].isprintable() and len(row["problem"]) <= 200 for row in bad)


def test_a_suggestion_is_made_for_what_can_be_answered(world, parts):
    answers(world, parts, ["DE", *BAD, "NAN"])
    items = world.all()
    suggestions = offline_predictions.champion_suggestions(parts, "some_rows", list(items.values()))
    assert suggestions == {items["0"].item_id: {"label": "yes", "score": 0.75, "model_version": "v1"}}
