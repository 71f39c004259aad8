"""A model version's two files: what is saved is loaded, and anything else is refused with its reason."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline_tasks.contracts import sha256_hex
from pipeline_tasks.models import artifact
from pipeline_tasks.models.registry import find_recipe
from pipeline_tasks.models.weights_file import ArtifactInvalid, read_weights, write_weights
from tests.model_configs import config_of

PARAMS = {"image_size": 8, "width": 2, "hidden": 4}
ORIGIN = artifact.Origin(code_revision="abc", torch_version="2", device="cpu")


def build(
    *, recipe="image_cnn", folder: Path | None = None, params=None, classes=("cat", "dog", "emu"), seed=0, exported=None
):
    entry = find_recipe(recipe, folder=folder)
    resolved = entry.recipe.resolve(PARAMS | (params or {}))
    config = config_of(
        entry,
        recipe=recipe,
        params=resolved,
        classes=classes,
        project="pets",
        version="0123456789abcdef",
        seed=seed,
        runtime="eager" if exported is None else "onnx",
    )
    torch.manual_seed(seed)
    module = entry.recipe.build(resolved, len(classes))
    return artifact.pack(module, config=config, origin=ORIGIN, metrics={"accuracy": 0.5}, exported=exported)


@pytest.fixture
def packed():
    return build()


@pytest.fixture
def folder(packed, tmp_path):
    artifact.save(packed, tmp_path / "model")
    return tmp_path / "model"


def edit(folder: Path, change) -> None:
    """Change model.json, keeping the weights' digest right: what a careful forger would do."""
    path = folder / artifact.MANIFEST_NAME
    fields = json.loads(path.read_text())
    change(fields)
    fields["weights_digest"] = sha256_hex((folder / artifact.WEIGHTS_NAME).read_bytes())
    path.write_text(json.dumps(fields))


def refused(folder: Path, reason: str, **arguments):
    with pytest.raises(ArtifactInvalid, match=rf"ARTIFACT_INVALID\({reason}\)"):
        artifact.load(folder, **arguments)


def test_a_saved_model_answers_as_before(packed, folder):
    loaded = artifact.load(folder, expected_digest=packed.manifest.weights_digest)
    inputs = [np.full((1, 8, 8), value, np.uint8) for value in (0, 128)]
    torch.manual_seed(0)
    original = loaded.recipe.build(loaded.manifest.config.params, 3)
    expected = loaded.recipe.predict_batch(original, np.stack(inputs))
    assert np.array_equal(loaded.predict(inputs), expected)
    assert loaded.predict([]).shape == (0, 3)
    assert loaded.classes == ("cat", "dog", "emu")


def test_the_manifest_survives_its_round_trip_byte_for_byte(packed):
    data = packed.manifest.to_bytes()
    assert artifact.read_manifest(data).to_bytes() == data
    assert artifact.read_manifest(data) == packed.manifest


def test_the_same_module_gives_the_same_bytes(packed):
    assert build().weights == packed.weights


@pytest.mark.parametrize("position", [0, 9, 60, -1])
def test_one_flipped_byte_in_the_weights_is_refused(folder, position):
    path = folder / artifact.WEIGHTS_NAME
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(bytes(data))
    refused(folder, "DIGEST")


def test_weights_and_manifest_of_another_version_are_refused_by_the_catalogs_digest(folder):
    other = build(seed=1)
    artifact.save(other, folder)
    refused(folder, "DIGEST", expected_digest=build().manifest.weights_digest)


@pytest.mark.parametrize(
    "change",
    [
        lambda fields: fields["config"].update(classes=["dog", "cat", "emu"]),
        lambda fields: fields["config"]["preprocessing"].update(image_size=9),
        lambda fields: fields["config"]["params"].update(dropout=0.9),
        lambda fields: fields["config"].update(snapshot_id="other"),
    ],
    ids=["classes swapped", "preprocessing", "params", "snapshot"],
)
def test_right_weights_with_another_configuration_are_refused(folder, change):
    edit(folder, change)
    refused(folder, "CONFIG_MISMATCH")


@pytest.mark.parametrize(
    "change",
    [
        lambda fields: fields.pop("config"),
        lambda fields: fields.update(more=1),
        lambda fields: fields.update(format_version=2),
        lambda fields: fields["config"].update(classes=["cat", "cat", "emu"]),
        lambda fields: fields["config"].update(classes=["cat"]),
        lambda fields: fields["config"].update(classes=["cat", "dog"]),
        lambda fields: fields["config"].update(version=""),
        lambda fields: fields["config"].update(params=[]),
        lambda fields: fields["config"].update(recipe_source="RECIPE = 1"),
        lambda fields: fields["config"].pop("seed"),
    ],
)
def test_a_malformed_manifest_is_refused(folder, change):
    edit(folder, change)
    refused(folder, "MANIFEST")


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"format_version": 1}'])
def test_bytes_that_are_no_manifest_are_refused(data):
    with pytest.raises(ArtifactInvalid, match="MANIFEST"):
        artifact.read_manifest(data)


def test_a_huge_manifest_is_refused():
    with pytest.raises(ArtifactInvalid, match="at most 10000000 bytes"):
        artifact.read_manifest(b" " * 10_000_001)


def forge(packed: artifact.Artifact, tensors) -> tuple[bytes, bytes]:
    weights = write_weights(tensors, metadata={"config": packed.manifest.config.digest})
    manifest = dataclasses.replace(packed.manifest, weights_digest=sha256_hex(weights))
    return manifest.to_bytes(), weights


def change_tensors(tensors, kind: str) -> dict[str, torch.Tensor]:
    name = "head.3.bias"
    changed = dict(tensors)
    if kind == "missing":
        del changed[name]
    elif kind == "extra":
        changed["extra"] = torch.zeros(1)
    elif kind == "shape":
        changed[name] = torch.zeros(4)
    elif kind == "dtype":
        changed[name] = changed[name].double()
    return changed


@pytest.mark.parametrize("kind", ["missing", "extra", "shape", "dtype"])
def test_other_names_shapes_or_dtypes_than_the_architecture_are_refused(packed, kind):
    tensors, _ = read_weights(packed.weights)
    with pytest.raises(ArtifactInvalid, match="ARCHITECTURE"):
        artifact.load_bytes(*forge(packed, change_tensors(tensors, kind)))


def test_infinite_weights_are_never_packed(packed):
    recipe = find_recipe("image_cnn").recipe
    module = recipe.build(packed.manifest.config.params, 3)
    torch.nn.init.constant_(module.head[0].bias, float("inf"))
    with pytest.raises(ArtifactInvalid, match="NON_FINITE"):
        artifact.pack(module, config=packed.manifest.config, origin=ORIGIN, metrics={})


def test_a_missing_file_is_refused(folder):
    (folder / artifact.MANIFEST_NAME).unlink()
    refused(folder, "FILES")


def test_a_missing_folder_is_refused(tmp_path):
    refused(tmp_path / "none", "FILES")


def test_an_extra_file_is_refused(folder):
    (folder / "model.pkl").write_bytes(b"")
    refused(folder, "FILES")


def test_a_link_is_refused(folder, tmp_path):
    target = tmp_path / "elsewhere"
    (folder / artifact.WEIGHTS_NAME).rename(target)
    (folder / artifact.WEIGHTS_NAME).symlink_to(target)
    refused(folder, "FILES")


def test_an_unknown_recipe_is_refused(packed):
    config = dataclasses.replace(packed.manifest.config, recipe="image_vit")
    forged = artifact.Artifact(dataclasses.replace(packed.manifest, config=config), packed.weights)
    with pytest.raises(ArtifactInvalid, match=r"RECIPE\): recipe.name must be one of"):
        artifact.load_bytes(*forge(forged, read_weights(packed.weights)[0]))


def test_params_that_the_recipe_refuses_are_refused(packed):
    config = dataclasses.replace(packed.manifest.config, params={"width": "wide"})
    forged = artifact.Artifact(dataclasses.replace(packed.manifest, config=config), packed.weights)
    with pytest.raises(ArtifactInvalid, match=r"RECIPE\): recipe.params.width must be"):
        artifact.load_bytes(*forge(forged, read_weights(packed.weights)[0]))


OWN = """
from pipeline_tasks.models.image_cnn.recipe import ImageCnnRecipe
class Mine(ImageCnnRecipe):
    name = "mine"
RECIPE = Mine()
"""


def test_an_own_recipe_travels_with_its_model(tmp_path):
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "recipe.py").write_text(OWN)
    packed = build(recipe="recipe.py", folder=tmp_path / "project")
    (tmp_path / "project" / "recipe.py").unlink()
    artifact.save(packed, tmp_path / "model")
    assert artifact.load(tmp_path / "model").recipe.name == "mine"


def test_an_own_recipe_whose_code_was_changed_is_refused(tmp_path):
    (tmp_path / "recipe.py").write_text(OWN)
    packed = build(recipe="recipe.py", folder=tmp_path)
    config = dataclasses.replace(packed.manifest.config, recipe_source=OWN.replace("mine", "theirs"))
    forged = artifact.Artifact(dataclasses.replace(packed.manifest, config=config), packed.weights)
    with pytest.raises(ArtifactInvalid, match="must hash to recipe_digest"):
        artifact.load_bytes(*forge(forged, read_weights(packed.weights)[0]))
    with pytest.raises(ArtifactInvalid, match="CONFIG_MISMATCH"):
        artifact.load_bytes(dataclasses.replace(packed.manifest, config=config).to_bytes(), packed.weights)
