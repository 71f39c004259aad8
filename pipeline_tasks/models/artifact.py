"""A model version's files: `model.safetensors`, `model.json` and, where ONNX Runtime computes, `model.onnx`.

Strict on reading, no pickle anywhere.

The chain of trust: the catalog has the digest of the weights file; the weights file's metadata has the digest of the
configuration in `model.json`; the configuration has the digest of the recipe's code. So right weights with another
configuration are refused, although the weights are untouched. The metadata has the digest of `model.onnx` too: what
was judged is what serves, the runtime included.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline_tasks.contracts import Runtime, canonical_json, content_id, sha256_hex
from pipeline_tasks.errors import ConfigError
from pipeline_tasks.models.base import Array, Recipe, Signature
from pipeline_tasks.models.decoding import decode_item
from pipeline_tasks.models.exported import ExportedModel
from pipeline_tasks.models.registry import find_recipe, recipe_from_source
from pipeline_tasks.models.runtimes import AMP, EAGER, RUNTIMES, TORCH, device_of, in_precision_of
from pipeline_tasks.models.stock import OWN_RECIPE
from pipeline_tasks.models.weights_file import ArtifactInvalid, read_metadata, read_weights, write_weights

if TYPE_CHECKING:
    import torch

WEIGHTS_NAME = "model.safetensors"
MANIFEST_NAME = "model.json"
EXPORTED_NAME = "model.onnx"
FORMAT_VERSION = 1
UNRECORDED = "unrecorded"
MAX_MANIFEST_BYTES = 10_000_000


@dataclasses.dataclass(frozen=True, slots=True)
class ModelConfig:
    """The facts that fix a model version's behaviour and origin; its digest is bound into the weights file.

    `recipe_source` is the text of the project's own recipe, None for a stock one.
    """

    project: str
    version: str
    recipe: str
    recipe_digest: str
    recipe_source: str | None
    params: Mapping[str, Any]
    classes: tuple[str, ...]
    preprocessing: Mapping[str, Any]
    signature: Signature
    snapshot_id: str
    training_key: str
    warm_start: str | None
    seed: int
    threads: int
    lock_hash: str
    runtime: Runtime = EAGER

    @property
    def digest(self) -> str:
        return content_id(self.as_json())

    def as_json(self) -> dict[str, Any]:
        """Return JSON values; without the runtime where it is torch, as from before there was another."""
        fields = dataclasses.asdict(self)
        return {name: value for name, value in fields.items() if (name, value) != ("runtime", EAGER)}


@dataclasses.dataclass(frozen=True, slots=True)
class Origin:
    """The machine and libraries of a training: what `dethrone retrain` compares before it asks for the same bits.

    `precision` is the arithmetic of the forward pass, `cpu_capability` torch's instruction set (AVX2, AVX512, ...);
    model versions from before they were recorded have neither.
    """

    code_revision: str
    torch_version: str
    device: str
    precision: str = UNRECORDED
    cpu_capability: str = UNRECORDED


@dataclasses.dataclass(frozen=True, slots=True)
class ModelManifest:
    """The contents of `model.json`."""

    config: ModelConfig
    origin: Origin
    weights_digest: str
    weights_size_bytes: int
    metrics: Mapping[str, Any]

    def to_bytes(self) -> bytes:
        """Return canonical JSON: the same manifest always gives the same bytes."""
        fields = {**dataclasses.asdict(self), "config": self.config.as_json()}
        return canonical_json({"format_version": FORMAT_VERSION, **fields})


@dataclasses.dataclass(frozen=True, slots=True)
class Artifact:
    """A model version as bytes, ready to be stored: the weights first, the manifest last.

    `exported` is the graph that ONNX Runtime runs, None where torch computes.
    """

    manifest: ModelManifest
    weights: bytes
    exported: bytes | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model version ready to predict with the runtime that it was judged with: torch, or an exported graph."""

    manifest: ModelManifest
    recipe: Recipe
    module: torch.nn.Module | ExportedModel

    @property
    def runtime(self) -> Runtime:
        return self.manifest.config.runtime

    @property
    def classes(self) -> tuple[str, ...]:
        return self.manifest.config.classes

    @property
    def decoding(self) -> str:
        """Return the hash of all that decoding depends on."""
        config = self.manifest.config
        return content_id([config.recipe, config.recipe_digest, dict(config.preprocessing)])

    def decode(self, data: bytes) -> Array:
        """Turn one item's bytes into one array; InputError with a code if they are unusable."""
        return decode_item(self.recipe, data, preprocessing=self.manifest.config.preprocessing)

    def predict(self, inputs: list[Array]) -> npt.NDArray[np.float32]:
        """Return the probabilities (n, c) of decoded items, classes in the order of `classes`."""
        if not inputs:
            return np.zeros((0, len(self.classes)), dtype=np.float32)
        batch = self.recipe.collate(inputs)
        if isinstance(self.module, ExportedModel):
            return self.module.predict(batch)
        with in_precision_of(self.runtime, self.module):
            return self.recipe.predict_batch(self.module, batch)


def object_prefix(project: str, version: str) -> str:
    """Return the prefix of a model version's objects: the `object_key` of its ModelRef."""
    return f"models/{project}/{version}"


def file_names(manifest: bytes) -> tuple[str, ...]:
    """Return the names of the files of a model version with this `model.json`; whether they are right, loading says."""
    try:
        runtime = json.loads(manifest)["config"]["runtime"]
    except (ValueError, TypeError, KeyError, RecursionError):
        runtime = EAGER
    two = (WEIGHTS_NAME, MANIFEST_NAME)
    return two if runtime in TORCH else (WEIGHTS_NAME, EXPORTED_NAME, MANIFEST_NAME)


def pack(
    module: torch.nn.Module,
    *,
    config: ModelConfig,
    origin: Origin,
    metrics: Mapping[str, Any],
    exported: bytes | None = None,
) -> Artifact:
    """Return a trained module as an artifact; ArtifactInvalid NON_FINITE if a weight is NaN or infinite."""
    bound = {} if exported is None else {"exported": sha256_hex(exported)}
    weights = write_weights(module.state_dict(), metadata={"config": config.digest, **bound})
    read_weights(weights)
    manifest = ModelManifest(
        config=config,
        origin=origin,
        weights_digest=sha256_hex(weights),
        weights_size_bytes=len(weights),
        metrics=metrics,
    )
    return Artifact(manifest=manifest, weights=weights, exported=exported)


def save(artifact: Artifact, folder: Path) -> None:
    """Write the files into a folder, the manifest last."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS_NAME).write_bytes(artifact.weights)
    if artifact.exported is not None:
        (folder / EXPORTED_NAME).write_bytes(artifact.exported)
    (folder / MANIFEST_NAME).write_bytes(artifact.manifest.to_bytes())


def load(folder: Path, *, expected_digest: str | None = None, device: str | None = None) -> LoadedModel:
    """Load a model version from a folder that holds exactly its files, after every check of `load_bytes`.

    Raises:
        ArtifactInvalid: also FILES: one is missing, there are others, or one is a link.
    """
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        raise ArtifactInvalid("FILES", f"{folder} must be a readable folder.") from None
    if any(entry.is_symlink() or not entry.is_file() for entry in entries):
        raise ArtifactInvalid("FILES", f"{folder} must hold regular files (got a link or a folder).")
    files = {entry.name: entry.read_bytes() for entry in entries}
    wanted = file_names(files.get(MANIFEST_NAME, b""))
    if set(files) != set(wanted):
        raise ArtifactInvalid("FILES", f"{folder} must hold {', '.join(wanted)} only (got {list(files)[:10]}).")
    return load_bytes(
        files[MANIFEST_NAME],
        files[WEIGHTS_NAME],
        exported=files.get(EXPORTED_NAME),
        expected_digest=expected_digest,
        device=device,
    )


def load_stored(
    read: Callable[[str], bytes], *, expected_digest: str | None = None, device: str | None = None
) -> LoadedModel:
    """Load a model version whose files `read` returns by name, ready to predict with its own runtime."""
    data = read(MANIFEST_NAME)
    files = {name: read(name) for name in file_names(data) if name != MANIFEST_NAME}
    return load_bytes(
        data,
        files[WEIGHTS_NAME],
        exported=files.get(EXPORTED_NAME),
        expected_digest=expected_digest,
        device=device,
    )


def load_bytes(
    manifest_bytes: bytes,
    weights: bytes,
    *,
    exported: bytes | None = None,
    expected_digest: str | None = None,
    device: str | None = None,
) -> LoadedModel:
    """Build what predicts: the module with its weights, or the exported graph; then nothing here needs torch.

    `expected_digest` is the catalog's (ModelRef.digest). Without a `device`, `amp` runs where it is served and the rest
    on the CPU; an exported graph always does.

    Raises:
        ArtifactInvalid: MANIFEST, DIGEST, CONFIG_MISMATCH, RECIPE, ARCHITECTURE, EXPORTED, or a reason of
            `read_weights`.
    """
    manifest = read_manifest(manifest_bytes)
    runtime = manifest.config.runtime
    if runtime in TORCH:
        module = load_module(manifest, weights, expected_digest=expected_digest)
        device = device or (device_of(runtime) if runtime == AMP else "cpu")
        return LoadedModel(manifest, recipe_of(manifest.config), module.to(device).eval())
    _check_digest(manifest, weights, expected_digest=expected_digest)
    metadata = read_metadata(weights)
    _check_config(manifest, metadata)
    digest = sha256_hex(exported or b"")
    if exported is None or digest != metadata.get("exported"):
        raise ArtifactInvalid(
            "EXPORTED", f"{EXPORTED_NAME} must be the one written with these weights (got {digest[:16]}...)."
        )
    return LoadedModel(manifest, recipe_of(manifest.config), ExportedModel(exported))


def load_module(manifest: ModelManifest, weights: bytes, *, expected_digest: str | None = None) -> torch.nn.Module:
    """Build a model version's torch module and give it the weights, whatever runtime it predicts with.

    Raises:
        ArtifactInvalid: DIGEST, CONFIG_MISMATCH, RECIPE, ARCHITECTURE, or a reason of `read_weights`.
    """
    _check_digest(manifest, weights, expected_digest=expected_digest)
    tensors, metadata = read_weights(weights)
    _check_config(manifest, metadata)
    module = _build(recipe_of(manifest.config), manifest.config)
    check_architecture(module, tensors)
    module.load_state_dict(tensors)
    return module


def read_manifest(data: bytes) -> ModelManifest:
    """Parse `model.json`; needs no torch.

    Raises:
        ArtifactInvalid: MANIFEST.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise _bad_manifest(f"have at most {MAX_MANIFEST_BYTES} bytes (got {len(data)})")
    try:
        fields = json.loads(data)
        if fields.pop("format_version") != FORMAT_VERSION:
            raise _bad_manifest(f"have format_version {FORMAT_VERSION}")
        config = dict(fields.pop("config"))
        signature = dict(config.pop("signature"))
        for key in ("media_types", "input_shape"):
            signature[key] = tuple(signature[key])
        config["classes"] = tuple(config["classes"])
        origin = Origin(**fields.pop("origin"))
        manifest = ModelManifest(ModelConfig(signature=Signature(**signature), **config), origin, **fields)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _bad_manifest(f"be a model manifest (got {type(error).__name__}: {str(error)[:200]})") from None
    _check_manifest(manifest)
    return manifest


def recipe_of(config: ModelConfig) -> Recipe:
    """Return the recipe that a model version was trained with; an own recipe comes out of the manifest.

    Raises:
        ArtifactInvalid: RECIPE.
    """
    try:
        if config.recipe_source is None:
            return find_recipe(config.recipe).recipe
        found = recipe_from_source(config.recipe_source)
    except ConfigError as error:
        raise ArtifactInvalid("RECIPE", str(error)) from error
    if found.code_digest != config.recipe_digest:
        raise ArtifactInvalid("RECIPE", "recipe_source must hash to recipe_digest.")
    return found.recipe


def check_architecture(module: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise ArtifactInvalid ARCHITECTURE unless names, shapes and dtypes are exactly the module's."""
    wanted = {name: (tuple(tensor.shape), str(tensor.dtype)) for name, tensor in module.state_dict().items()}
    got = {name: (tuple(tensor.shape), str(tensor.dtype)) for name, tensor in tensors.items()}
    if wanted != got:
        names = sorted(name for name in wanted.keys() | got.keys() if wanted.get(name) != got.get(name))[:10]
        differences = ", ".join(f"{name}: {wanted.get(name)} not {got.get(name)}" for name in names)
        raise ArtifactInvalid("ARCHITECTURE", f"the weights must be the architecture's ({differences}).")


def _bad_manifest(expected: str) -> ArtifactInvalid:
    return ArtifactInvalid("MANIFEST", f"{MANIFEST_NAME} must {expected}.")


def _check_manifest(manifest: ModelManifest) -> None:
    config = manifest.config
    strings = (config.project, config.version, config.recipe, config.recipe_digest, manifest.weights_digest)
    if not all(isinstance(value, str) and value for value in strings):
        raise _bad_manifest("have text in project, version, recipe, recipe_digest and weights_digest")
    if not isinstance(config.params, dict) or not isinstance(config.preprocessing, dict):
        raise _bad_manifest("have objects in params and preprocessing")
    if config.runtime not in RUNTIMES:
        raise _bad_manifest(f"have a runtime of {', '.join(RUNTIMES)}")
    classes = config.classes
    if len(classes) < 2 or len(set(classes)) != len(classes) or not all(isinstance(name, str) for name in classes):
        raise _bad_manifest("have two or more different classes")
    if config.signature.num_classes != len(classes):
        raise _bad_manifest(f"have {len(classes)} classes in its signature (got {config.signature.num_classes})")
    if (config.recipe == OWN_RECIPE) != isinstance(config.recipe_source, str):
        raise _bad_manifest(f"have recipe_source exactly when recipe is {OWN_RECIPE}")


def _check_digest(manifest: ModelManifest, weights: bytes, *, expected_digest: str | None) -> None:
    digest = sha256_hex(weights)
    if digest != (expected_digest or manifest.weights_digest) or digest != manifest.weights_digest:
        wanted = expected_digest or manifest.weights_digest
        raise ArtifactInvalid("DIGEST", f"{WEIGHTS_NAME} must hash to {wanted[:16]}... (got {digest[:16]}...).")


def _check_config(manifest: ModelManifest, metadata: Mapping[str, str]) -> None:
    if metadata.get("config") != manifest.config.digest:
        raise ArtifactInvalid("CONFIG_MISMATCH", f"{MANIFEST_NAME} must be the one written with these weights.")


def _build(recipe: Recipe, config: ModelConfig) -> torch.nn.Module:
    try:
        return recipe.build(recipe.resolve(config.params), len(config.classes))
    except ConfigError as error:
        raise ArtifactInvalid("RECIPE", str(error)) from error
