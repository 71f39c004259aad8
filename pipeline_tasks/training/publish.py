"""Publishing a model version: weights, graph, manifest, catalog row; nothing is ever overwritten by another."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch

from pipeline_tasks.catalog.database import Database
from pipeline_tasks.catalog.model_versions import ModelRecord, ModelRepository
from pipeline_tasks.contracts import Fence, sha256_hex
from pipeline_tasks.core.crash_points import crash_point
from pipeline_tasks.core.ports import ObjectStore
from pipeline_tasks.models import artifact as models
from pipeline_tasks.models.weights_file import ArtifactInvalid, read_weights
from pipeline_tasks.training.proof import Proof

logger = logging.getLogger(__name__)

Validate = Callable[[torch.nn.Module], Mapping[str, Any]]


def publish_model(
    artifact: models.Artifact,
    module: torch.nn.Module,
    *,
    proof: Proof,
    store: ObjectStore,
    database: Database,
    fence: Fence,
    validate: Validate,
    complete: Callable[[models.ModelManifest], ModelRecord],
) -> ModelRecord:
    """Store the objects and record the model version; return the record that stands.

    `complete` makes the catalog's record of a manifest; `validate` measures a module again; `module` was trained.

    Raises:
        PermanentError: PUBLISH_MISMATCH, what is stored is not what was trained.
        StaleAttempt: a newer attempt holds the lease.
    """
    database.check(fence)
    crash_point("train.put.before")
    manifest = store_artifact(
        artifact, module, proof=proof, store=store, database=database, fence=fence, validate=validate
    )
    crash_point("train.put.after")
    record = ModelRepository(database).record(complete(manifest), fence=fence)
    crash_point("train.put.recorded")
    return record


def store_artifact(
    artifact: models.Artifact,
    module: torch.nn.Module,
    *,
    proof: Proof,
    store: ObjectStore,
    database: Database,
    fence: Fence,
    validate: Validate,
) -> models.ModelManifest:
    """Write weights, graph and manifest, and return the manifest that stands under the version's prefix.

    On a CPU a repeated training gives the same bytes. On a GPU it may not; then the weights that came first stay, and
    the manifest is made for them, so that two attempts at one time can never mix their files. No manifest is written
    before the stored files, loaded as the gate loads them, answered as the module does.

    Raises:
        PermanentError: PUBLISH_MISMATCH.
    """
    config = artifact.manifest.config
    prefix = models.object_prefix(config.project, config.version)
    stored = artifact
    if not store.create(f"{prefix}/{models.WEIGHTS_NAME}", artifact.weights):
        stored, module = _adopt(artifact, module, store=store, database=database, fence=fence, validate=validate)
    crash_point("train.weights.after")
    database.check(fence)
    if stored.exported is not None:
        store.put(f"{prefix}/{models.EXPORTED_NAME}", stored.exported)  # the weights' metadata says which bytes
        crash_point("train.graph.after")
        database.check(fence)
    key, manifest = f"{prefix}/{models.MANIFEST_NAME}", stored.manifest.to_bytes()
    prove_stored(prefix, manifest, module, proof=proof, store=store)
    if not store.create(key, manifest, content_type="application/json"):
        logger.info("%s was published by an earlier attempt: adopting it", prefix)
        manifest = store.get(key)
        prove_stored(prefix, manifest, None, proof=proof, store=store)
        return models.read_manifest(manifest)
    return stored.manifest


def prove_stored(
    prefix: str, manifest: bytes, module: torch.nn.Module | None, *, proof: Proof, store: ObjectStore
) -> None:
    """Load the stored files with this manifest as the gate does, and compare them with what was trained.

    Raises:
        PermanentError: PUBLISH_MISMATCH.
    """

    def read(name: str) -> bytes:
        return manifest if name == models.MANIFEST_NAME else store.get(f"{prefix}/{name}")

    proof.check(models.load_stored(read), module)


def _adopt(
    artifact: models.Artifact,
    trained: torch.nn.Module,
    *,
    store: ObjectStore,
    database: Database,
    fence: Fence,
    validate: Validate,
) -> tuple[models.Artifact, torch.nn.Module]:
    """Return an artifact of the weights that lie there, and a module of them; those of another configuration go.

    So are weights whose graph is not there: on a CPU by the same.
    """
    config = artifact.manifest.config
    prefix = models.object_prefix(config.project, config.version)
    key = f"{prefix}/{models.WEIGHTS_NAME}"
    weights = store.get(key)
    exported = _stored_graph(store, prefix) if artifact.exported is not None else None
    try:
        tensors, metadata = read_weights(weights)
        graph_digest = sha256_hex(exported) if exported is not None else None
        matches = metadata.get("config") == config.digest and metadata.get("exported") == graph_digest
    except ArtifactInvalid:
        matches = False
    if not matches:
        # Left by a crash between the two puts, and no manifest names it: no reader can have seen it.
        database.check(fence)
        store.put(key, artifact.weights)
        return artifact, trained
    module = models.recipe_of(config).build(config.params, len(config.classes))
    models.check_architecture(module, tensors)
    module.load_state_dict(tensors)
    logger.info("%s was written by an earlier attempt: adopting it", key)
    manifest = dataclasses.replace(
        artifact.manifest,
        weights_digest=sha256_hex(weights),
        weights_size_bytes=len(weights),
        metrics={**artifact.manifest.metrics, "validation": validate(module)},
    )
    return models.Artifact(manifest=manifest, weights=weights, exported=exported), module


def _stored_graph(store: ObjectStore, prefix: str) -> bytes | None:
    try:
        return store.get(f"{prefix}/{models.EXPORTED_NAME}")
    except KeyError:
        return None
