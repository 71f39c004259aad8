"""Hostile exam items and hostile answers of a server before a release. Source: issue 12, point 4."""

from __future__ import annotations

import dataclasses
import functools
import json
import types
from pathlib import Path

import httpx
import numpy as np
import pytest

from pipeline_tasks.adapters import inference_http
from pipeline_tasks.catalog.items import Chunk, ItemRepository
from pipeline_tasks.contracts import Attempt, DeploymentRef, Location, ReleaseRef, sha256_hex
from pipeline_tasks.deployment import release as release_task
from pipeline_tasks.deployment.golden_requests import NUM_GOLDEN, golden_answers, golden_bytes
from pipeline_tasks.errors import GateClosed, InputError
from pipeline_tasks.evaluation import scoring
from pipeline_tasks.orchestration import deploy
from pipeline_tasks.validation.task import open_exam
from tests.unit.validation.builders import CLASSES, NOW, Scene

RELEASE = ReleaseRef("pets", "r1", "m1", "v1", "dethrone_pets:r1")
SERVER = DeploymentRef("pets", "d1", "r1", "m1", "http://server")


class Model:
    """A stored model that answers texts of digits, and refuses the rest in words that no store takes."""

    classes, runtime = CLASSES, "eager"

    def decode(self, data: bytes) -> float:
        if not data.isdigit():
            raise InputError(f"line one\nline two \0 \ud800 {data!r}", code="VALUE_INVALID")
        return float(data)

    def predict(self, inputs):
        share = np.stack(inputs) / 100
        return np.stack([share, 1 - share], axis=1)


@pytest.fixture
def scene(database, object_store, tmp_path, monkeypatch) -> Scene:
    monkeypatch.setattr(scoring, "load_stored", lambda _: lambda _: Model())
    checks = {"min_rows": 2, "min_per_class": 1}
    return Scene(database, object_store, tmp_path, modality="text", checks=checks)


def freeze(scene: Scene, home: Path, texts: list[bytes]):
    """Freeze an exam of these texts, and return what releasing needs."""
    for index, text in enumerate(texts):
        item_id = scene.add_item(text, split="exam", media_type="text/plain", key=f"k{index}")
        scene.decide(item_id, CLASSES[index % 2])
    open_exam(scene.project, **scene.freezing)
    settings = types.SimpleNamespace(home=home, inference_headers={})
    return types.SimpleNamespace(database=scene.database, store=scene.store, settings=settings)


def served(body: bytes, *, status: int = 200):
    def post(url, **_):
        return httpx.Response(status, content=body, request=httpx.Request("POST", url))

    return post


def test_exam_items_that_the_model_refuses_are_no_questions(scene, tmp_path):
    good = [str(number).encode() for number in range(10, 22)]
    parts = freeze(scene, tmp_path, [*good[:6], b"NA", b"two words", b"-", *good[6:]])
    golden = deploy.golden_items(parts, "pets", None)
    assert {case.payload for case in golden} <= set(good)
    assert 0 < len(golden) <= NUM_GOLDEN
    assert all(case.expected.probabilities["cat"] == int(case.payload) / 100 for case in golden)


def test_a_release_without_one_question_is_refused_by_a_sentence(scene, tmp_path):
    parts = freeze(scene, tmp_path, [f"word {number}".encode() for number in range(12)])
    golden = deploy.golden_items(parts, "pets", None)
    with pytest.raises(GateClosed, match="must answer 0 golden requests") as caught:
        release_task.require_golden_answers(RELEASE, SERVER, golden, ask=lambda *_: "")
    assert caught.value.code == "INFRA_CHECK"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, "line\nbreak \0 \u202e".encode()),
        (500, b"\xff\xfe" * 5000),
        (200, b"<html>\r\n</html>"),
        (200, b"[1]"),
        (200, b'{"model_version": "m\\n\\u0000\\ud800"}'),
        (200, b'{"model_version": "m1", "labels": 5, "probabilities": 5}'),
        (200, b'{"model_version": "m1", "labels": ["cat"], "probabilities": ["\\n\\ud800"]}'),
        (200, b'{"model_version": "m1", "labels": ["\\n\\u0000\\ud800"], "probabilities": [1]}'),
        (200, b'{"model_version": "m1", "labels": [["cat"]], "probabilities": [1]}'),
        (200, b'{"model_version": "m1", "labels": ["cat", "dog"], "probabilities": [NaN, 1]}'),
        (200, b'{"model_version": "m1", "labels": ["cat", "dog"], "probabilities": [1e999, null]}'),
    ],
)
def test_what_a_server_answers_closes_the_gate_in_printable_words(scene, tmp_path, monkeypatch, status, body):
    parts = freeze(scene, tmp_path, [str(number).encode() for number in range(10, 22)])
    golden = deploy.golden_items(parts, "pets", None)
    monkeypatch.setattr(inference_http.httpx, "post", served(body, status=status))
    with pytest.raises(GateClosed, match=f"got {NUM_GOLDEN} that differ") as caught:
        release_task.require_golden_answers(
            RELEASE, SERVER, golden, ask=functools.partial(inference_http.ask_server, parts.settings.inference_headers)
        )
    assert str(caught.value).isprintable()


def test_a_release_is_asked_again_what_it_was_asked(scene, tmp_path):
    """An item's bytes are stored anew when its columns change; a rollback would have asked for the new ones."""
    parts = freeze(scene, tmp_path, [str(number).encode() for number in range(10, 22)])
    golden = deploy.golden_items(parts, "pets", None)
    scene.store.put(release_task.golden_key(RELEASE), golden_bytes([case.expected for case in golden]))
    items = ItemRepository(scene.database)
    scene.store.put("packs/new", b"99")
    for item in list(items.iterate("pets"))[:5]:
        renewed = {"location": Location("packs/new", 0, 2), "content_id": sha256_hex(b"99")}
        fence = scene.database.acquire("pets/ingest", Attempt("r", "ingest", 1), now=NOW)
        items.record(fence, Chunk("pets", "folder", "b2", [], renewed=[dataclasses.replace(item, **renewed)]))
    again = deploy.golden_again(parts, RELEASE, store=scene.store)
    assert {case.expected.item_id: case.payload for case in again} == {
        case.expected.item_id: case.payload for case in golden
    }
    stored = json.loads(scene.store.get(release_task.golden_key(RELEASE)))
    for body in stored:
        del body["asked"]
    assert {case.asked for case in golden_answers(json.dumps(stored).encode())} == {None}, (
        "as releases of before have it"
    )
