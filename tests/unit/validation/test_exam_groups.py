"""Groups of an exam's items: of one key, near duplicates, and what these join."""

import json

import numpy as np
import pytest

from pipeline_tasks.demo import fashion_mnist
from pipeline_tasks.project.gate_schema import NearDuplicates
from pipeline_tasks.validation import leakage
from pipeline_tasks.validation.exam_groups import exam_groups
from pipeline_tasks.validation.task import open_exam
from tests.unit.validation.builders import png
from tests.unit.validation.test_leakage import labeled, photos, written_anew
from tests.unit.validation.test_near_duplicates import encoded, packed


def groups(items, *, modality, keys=None, **settings):
    groups_of_items = exam_groups(
        {item_id: item_id for item_id in items} | (keys or {}),
        packed(items, modality=modality),
        modality=modality,
        settings=NearDuplicates(**settings),
        read=lambda ids: {item_id: items[item_id] for item_id in ids},
    )
    assert set(groups_of_items) == set(items) | set(keys or {})
    return groups_of_items


def test_photos_that_are_copies_are_one_group():
    pixels = fashion_mnist.load_subset()[0]
    items = {f"a{n}": encoded(pixels[n]) for n in range(6)}
    items |= {
        "b0": encoded(pixels[0], format="JPEG", quality=90),
        "b1": encoded(np.ascontiguousarray(pixels[1][:, ::-1])),
    }
    alone = {item_id: item_id for item_id in items}
    assert groups(items, modality="image") == alone | {"b0": "a0", "b1": "a1"}
    assert groups(items, modality="image", image_moves=False) == alone | {"b0": "a0"}
    assert groups(items, modality="image", policy="off") == alone


def test_copies_join_the_groups_of_their_keys():
    """A chain: the key of a0 and a1, the copy of a1, and the key of that copy's."""
    pixels = fashion_mnist.load_subset()[0]
    items = {f"a{n}": encoded(pixels[n]) for n in range(5)}
    items["b1"] = encoded(pixels[1], compress_level=1)
    keys = {"a0": "x", "a1": "x", "b1": "y", "a3": "y", "flat": "z"}  # flat: an item without a fingerprint
    expected = {"a0": "x", "a1": "x", "b1": "x", "a3": "x", "a2": "a2", "a4": "a4", "flat": "z"}
    assert groups(items, modality="image", keys=keys) == expected


def test_texts_and_rows_that_are_copies_are_one_group():
    text = " ".join(f"word{n}" for n in range(100))
    texts = {"a": text.encode(), "b": text.upper().encode(), "c": b"something else", "d": f"He wrote: {text}".encode()}
    assert groups(texts, modality="text") == {"a": "a", "b": "a", "c": "c", "d": "a"}
    random = np.random.default_rng(4)
    table = random.normal(size=(200, 8)) * 10
    table[180:] = table[100:120] * (1 + random.normal(size=(20, 8)) * 1e-5)  # a tenth of them are copies
    rows = {f"r{n:03d}": json.dumps({f"c{m}": v for m, v in enumerate(row)}).encode() for n, row in enumerate(table)}
    expected = {name: name for name in rows} | {f"r{180 + n}": f"r{100 + n}" for n in range(20)}
    assert groups(rows, modality="tabular") == expected


@pytest.mark.parametrize("modality", ["image", "text", "tabular"])
def test_an_exam_of_one_item(modality):
    item = {"image": png(1), "text": b"some text", "tabular": b'{"a": 1}'}[modality]
    assert groups({"a": item}, modality=modality) == {"a": "a"}


def test_the_groups_of_a_stored_exam(scene):
    ids = photos(scene, range(10), split="exam")
    copy = labeled(scene, written_anew(png(3, side=16)), split="exam")
    (exam,) = open_exam(scene.project, **scene.freezing)
    stored = leakage.exam_groups(scene.project, exam, store=scene.store)
    assert set(stored) == {*ids, copy}
    assert stored[copy] == stored[ids[3]]
    assert len(set(stored.values())) == 10
