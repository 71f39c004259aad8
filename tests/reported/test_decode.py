"""The same inputs are trained on, judged and served.

Nothing is frozen that cannot be read. The inputs are in `data/` and `serving/`, see README.md.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipeline_tasks.contracts import sha256_hex
from pipeline_tasks.errors import InputError, PermanentError
from pipeline_tasks.guards.image import guard_image
from pipeline_tasks.ingest.item_checks import Candidate, examine_file
from pipeline_tasks.models.decoding import decode_item
from pipeline_tasks.models.image_cnn.preprocess import decode_image
from pipeline_tasks.models.image_cnn.recipe import RECIPE as IMAGE_CNN
from pipeline_tasks.validation.fingerprints import image_fingerprint
from pipeline_tasks.validation.item_facts import item_facts
from pipeline_tasks.validation.task import build_snapshot, check_items
from tests.unit.training.scene import Scene as TrainingScene
from tests.unit.training.scene import fill
from tests.unit.validation.builders import CLASSES, Scene, png

FOLDER = Path(__file__).parent
EXIF = sorted([*(FOLDER / "serving").glob("exif_*"), *(FOLDER / "data").glob("f03_*")])
PARAMS = {"image_size": 32, "channels": 3, "max_pixels": 25_000_000}


# The proof at publishing

OWN_RECIPE = """
from pipeline_tasks.models.image_cnn.recipe import ImageCnnRecipe


class Shifted(ImageCnnRecipe):
    name = "recipe.py"

    def preprocessing(self, params):
        return {**super().preprocessing(params), "steps": STEPS}

    def decode(self, data, *, preprocessing):
        image = super().decode(data, preprocessing=preprocessing)
        for name in (preprocessing["steps"]):
            image = image // 2 if name == "halve" else image + 7
        return image


RECIPE = Shifted()
"""


def own_scene(database, store, folder, steps: str) -> TrainingScene:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.py").write_text(OWN_RECIPE.replace("STEPS", steps))
    return TrainingScene(database, store, folder, name="recipe.py")


def published(store) -> list[str]:
    return [key for key in store.objects if key.endswith("model.json")]


def test_a1_a_recipe_whose_preprocessing_is_a_map_with_an_order_is_not_published(database, object_store, tmp_path):
    """`model.json` sorts keys: what training saw first, the gate and the gateway would see second."""
    scene = own_scene(database, object_store, tmp_path / "own", '{"shift": 1, "halve": 1}')
    with pytest.raises(
        PermanentError, match=r"difference in item [0-9a-f]{16} at position \[0, 0, 0\]: \d+ in"
    ) as caught:
        scene.train()
    assert caught.value.code == "PUBLISH_MISMATCH"
    assert published(object_store) == []
    assert scene.models.history("stripes") == []


def test_a1_the_same_steps_as_a_list_are_published(database, object_store, tmp_path):
    scene = own_scene(database, object_store, tmp_path / "own", '["shift", "halve"]')
    ref = scene.train()
    assert published(object_store) == [f"{ref.object_key}/model.json"]
    assert scene.train(run_id="run-2", number=2) == ref


def test_a1_a_version_that_an_older_release_published_so_is_not_adopted(database, object_store, tmp_path, monkeypatch):
    scene = own_scene(database, object_store, tmp_path / "own", '{"shift": 1, "halve": 1}')
    with monkeypatch.context() as patched:
        patched.setattr("pipeline_tasks.training.proof.Proof.check", lambda *_: None)
        scene.train()
    with pytest.raises(PermanentError) as caught:
        scene.train(run_id="run-2", number=2)
    assert caught.value.code == "PUBLISH_MISMATCH"


def test_a1_a_module_that_holds_more_than_its_weights_is_not_published(database, object_store, tmp_path):
    """A buffer that is not in the weights file is another one after loading."""
    folder = tmp_path / "own"
    scene = own_scene(database, object_store, folder, "[]")
    source = (
        (folder / "recipe.py")
        .read_text()
        .replace(
            "RECIPE = Shifted()",
            "class Scaled(Shifted):\n"
            "    def fit_statistics(self, model, batches):\n"
            "        super().fit_statistics(model, batches)\n"
            "        model.scale = 0.25\n\n"
            "    def predict_batch(self, model, inputs):\n"
            "        found = super().predict_batch(model, inputs)\n"
            "        uniform = 1 / found.shape[1]\n"
            "        return (uniform + (found - uniform) * getattr(model, 'scale', 1.0)).astype('float32')\n\n\n"
            "RECIPE = Scaled()",
        )
    )
    (folder / "recipe.py").write_text(source)
    with pytest.raises(PermanentError, match="in the probability of 'across': ") as caught:
        scene.train()
    assert caught.value.code == "PUBLISH_MISMATCH"


@pytest.mark.parametrize("runtime", ["eager", "amp", "onnx", "onnx-int8"])
def test_a1_each_runtime_passes_the_proof(database, object_store, tmp_path, runtime):
    ref = TrainingScene(database, object_store, tmp_path, runtime=runtime).train()
    assert published(object_store) == [f"{ref.object_key}/model.json"]


# Images with broken metadata


@pytest.mark.parametrize("path", EXIF, ids=lambda path: path.name)
def test_b1_broken_metadata_changes_nothing(path):
    """The picture is used, alike in guard, facts, fingerprint and recipe, and nothing is written to stderr."""
    data = path.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decoded = guard_image(data, max_pixels=25_000_000)
        array = decode_item(IMAGE_CNN, data, preprocessing=PARAMS)
        facts = item_facts(data, item_id=sha256_hex(data), modality="image", max_pixels=25_000_000)
        image_fingerprint(data, max_pixels=25_000_000)
    assert array.shape == (3, 32, 32)
    assert (facts["readable"], facts["width"], facts["height"]) == (True, *decoded.image.size)


def oriented(orientation: object, *, spoil: bytes = b"") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    pixels_hw = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10
    Image.fromarray(pixels_hw).save(buffer, "PNG", exif=spoil or exif.tobytes())
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (oriented(1), (6, 4)),
        (oriented(6), (4, 6)),
        (oriented(9), (6, 4)),
        (oriented(6, spoil=b"Exif\0\0garbage"), (6, 4)),
    ],
    ids=["upright", "turned", "unknown", "unreadable"],
)
def test_b1_the_orientation_counts_where_it_can_be_read(data, size):
    assert guard_image(data, max_pixels=100).image.size == size
    facts = item_facts(data, item_id=sha256_hex(data), modality="image", max_pixels=100)
    assert (facts["width"], facts["height"]) == size


def test_b1_broken_images_among_good_ones_reach_the_training(database, object_store, tmp_path):
    """Each of the reported files is trained on; the snapshot is not blocked for ever."""
    scene, seen = Scene(database, object_store, tmp_path), set()
    for index, path in enumerate(EXIF):
        data = path.read_bytes()
        kind = {"jpeg": "image/jpeg", "jpg": "image/jpeg"}.get(path.suffix[1:], f"image/{path.suffix[1:]}")
        if sha256_hex(data) in seen:
            continue
        seen.add(sha256_hex(data))
        scene.decide(scene.add_item(data, media_type=kind, key=path.name), CLASSES[index % 2])
    report = check_items(scene.project, "b1", **scene.arguments)
    assert report.num_quarantined == 0
    assert build_snapshot(scene.project, **scene.freezing).num_rows == report.num_rows


class Raising:
    """An own recipe that raises on some bytes what no list of errors has."""

    name, modality = "recipe.py", "image"

    def decode(self, data, *, preprocessing):
        if data == b"bad":
            raise ZeroDivisionError("line one\nline two \0 \ud800")
        if data == b"list":
            return [1, 2]
        return np.zeros(2, np.float32)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"bad", r"the recipe must decode the item \(got ZeroDivisionError: line one\\x0aline two \\x00 \\ud800\)\."),
        (b"list", r"to an array of numbers \(got list\)"),
    ],
)
def test_b1_what_a_recipe_raises_is_an_undecodable_item(data, message):
    assert decode_item(Raising(), b"good", preprocessing={}).shape == (2,)
    with pytest.raises(InputError, match=message) as caught:
        decode_item(Raising(), data, preprocessing={})
    assert caught.value.code == "ITEM_INVALID"
    assert str(caught.value).isprintable()


def test_b1_an_array_that_is_not_what_the_signature_says_is_an_undecodable_item():
    signature = IMAGE_CNN.signature({"channels": 3, "image_size": 16}, 2)
    with pytest.raises(InputError, match=r"uint8 of the shape \(3, 16, 16\) \(got uint8 of \(3, 32, 32\)\)"):
        decode_item(IMAGE_CNN, png(1), preprocessing=PARAMS, signature=signature)


def test_b1_an_item_that_does_not_decode_is_left_out_of_training_by_name(database, object_store, tmp_path, caplog):
    """One that an older version let in; the good ones are trained on."""
    scene = TrainingScene(database, object_store, tmp_path)
    table = scene.manifest.to_pydict()
    pack = object_store.get(table["object_key"][0])
    payloads = [pack[at : at + size] for at, size in zip(table["offset"], table["size_bytes"], strict=True)]
    payloads += [png(900 + index, side=12) for index in range(30)]
    payloads[5] = b"no image"
    scene.manifest = label_all(fill(object_store, payloads=payloads[:90]), payloads[90:], object_store)
    with caplog.at_level("WARNING"):
        scene.train()
    assert f"('{sha256_hex(b'no image')[:16]}', 'NOT_AN_IMAGE')" in caplog.text


def label_all(manifest: pa.Table, more: list[bytes], store) -> pa.Table:
    """Return the manifest with more items, so that one bad one is less than 1 % of them."""
    rows = manifest.to_pylist()
    for number, data in enumerate(more):
        key = f"items/stripes/{sha256_hex(data)}"
        store.put(key, data)
        place = {"object_key": key, "offset": 0, "size_bytes": len(data)}
        rows.append({**rows[number % 3], "item_id": sha256_hex(data), "group_key": f"more {number}", **place})
    return pa.Table.from_pylist(rows)


# Facts of what the model sees


def test_a9_black_on_transparent_is_not_blank():
    data = (FOLDER / "data" / "f15_black_on_transparent.png").read_bytes()
    facts = item_facts(data, item_id=sha256_hex(data), modality="image", max_pixels=25_000_000)
    assert facts["pixel_spread"] == 255


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


HALF = np.repeat(np.array([[0, 255]], np.uint8), 4, axis=0).repeat(2, axis=1)
WIDE = Image.fromarray(np.arange(0, 65536, 4096, dtype=np.uint16).reshape(4, 4))
PALETTE = Image.fromarray(HALF).convert("P")
CMYK = Image.fromarray(HALF).convert("CMYK")


@pytest.mark.parametrize(
    "data",
    [encoded(WIDE), encoded(PALETTE), encoded(PALETTE, transparency=0), encoded(CMYK, "JPEG", quality=100)],
    ids=["16-bit", "palette", "palette with alpha", "cmyk"],
)
def test_a9_the_facts_are_of_the_pixels_that_the_recipe_sees(data):
    facts = item_facts(data, item_id=sha256_hex(data), modality="image", max_pixels=100)
    seen = decode_image(data, preprocessing={"image_size": 4, "channels": 1, "max_pixels": 100})
    assert facts["pixel_mean"] == seen.mean()
    assert facts["pixel_spread"] == int(seen.max()) - int(seen.min())


# Property: any noisy image is decoded alike everywhere, or refused at ingest


def noisy(kind: str, number: int) -> bytes:
    """Return a valid image with some bytes changed in its metadata, and in every second one anywhere."""
    generator = np.random.default_rng([number, sum(kind.encode())])
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x0100] = int(generator.integers(0, 10)), "maker", 12
    mode = ("RGB", "L", "RGBA")[number % 3] if kind != "JPEG" else ("RGB", "L")[number % 2]
    pixels_hwc = generator.integers(0, 256, (9, 13, 4), dtype=np.uint8)
    tiff = bytearray(exif.tobytes())
    for position in generator.integers(6, len(tiff), generator.integers(0, 6)):
        tiff[position] = generator.integers(0, 256)
    data = bytearray(encoded(Image.fromarray(pixels_hwc, "RGBA").convert(mode), kind, exif=bytes(tiff)))
    if number % 2:
        for position in generator.integers(12, len(data), generator.integers(1, 4)):
            data[position] = generator.integers(0, 256)
    return bytes(data)


def check_noisy(kind: str, number: int, project) -> bool:
    """Return whether the image is taken, after all that look at it agree."""
    data = noisy(kind, number)
    (source,) = project.sources
    examined = examine_file("a/b", data, project=project, source=source)
    limit = project.checks.max_pixels
    if not isinstance(examined, Candidate):
        with pytest.raises(InputError):
            decode_item(IMAGE_CNN, data, preprocessing=PARAMS)
        assert examined.reason.isprintable()
        return False
    shown = guard_image(data, max_pixels=limit).image
    array = decode_item(IMAGE_CNN, data, preprocessing=PARAMS)
    facts = item_facts(data, item_id=sha256_hex(data), modality="image", max_pixels=limit)
    image_fingerprint(data, max_pixels=limit)
    expected = np.asarray(shown.convert("RGB").resize((32, 32), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert np.array_equal(array, expected)
    assert facts["readable"]
    assert facts["pixel_mean"] == np.asarray(shown.convert("L")).mean()
    return True


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
@pytest.mark.parametrize("count", [300, pytest.param(4000, marks=pytest.mark.slow)])
def test_b1_noisy_images_are_decoded_alike_or_refused(kind, count, tmp_path):
    project = Scene(None, None, tmp_path).project.config
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        taken = sum(check_noisy(kind, number, project) for number in range(count))
    assert 0.4 * count < taken < count
