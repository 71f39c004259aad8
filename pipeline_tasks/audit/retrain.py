"""`dethrone retrain`: a model version trained once more from its recorded lineage, and compared. Writes nothing."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

from pipeline_tasks.catalog.database import Database
from pipeline_tasks.catalog.datasets import DatasetRepository
from pipeline_tasks.catalog.model_versions import ModelRecord, ModelRepository
from pipeline_tasks.contracts import ModelRef
from pipeline_tasks.core.ports import ObjectStore
from pipeline_tasks.errors import ConfigError, DataCorrupt, PermanentError
from pipeline_tasks.models import artifact as model_files
from pipeline_tasks.training import reproduce as training
from pipeline_tasks.training.dataset import rows_of
from pipeline_tasks.validation import task as validation_task

EXACT = "exactly: one thread, and the recorded code and environment"


def retrain(
    project: str,
    version: str,
    *,
    database: Database,
    store: ObjectStore,
    scratch: Path,
    lock_hash: str,
    code_revision: str,
    tolerance: float | None = None,
) -> training.Reproduction:
    """Train a model version again, on a CPU with one thread in a scratch folder that is removed, and compare.

    Raises:
        ConfigError: there is no such model version, or the tolerance is negative.
        PermanentError: LINEAGE_GONE, its files are gone.
        DataCorrupt: its snapshot or an item is gone or changed, or catalog and model.json disagree.
        ArtifactInvalid: its files are not what the catalog recorded.
    """
    if tolerance is not None and tolerance < 0:
        raise ConfigError(f"--tolerance must be 0 or more (got {tolerance}).")
    models = ModelRepository(database)
    record = models.get(project, version)
    if record is None:
        raise ConfigError(f"version must be a model version of {project} (got {version}). See `dethrone lineage`.")
    manifest = _stored(store, record.ref)
    _check_record(record, manifest)
    snapshot = DatasetRepository(database).find_snapshot(project, record.ref.snapshot_id)
    if snapshot is None:
        raise _gone(f"snapshot {record.ref.snapshot_id[:12]} must be in the catalog")
    rows = rows_of(validation_task.read_manifest(store, snapshot))
    recipe = training.recipe_as_recorded(manifest.config)
    now = training.here(lock_hash=lock_hash, code_revision=code_revision, recipe_code=recipe)
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch, prefix=f"retrain-{project}-") as folder:
        again = training.reproduce(
            manifest, rows, recipe_code=recipe, store=store, folder=Path(folder), origin=now.origin
        )
    return training.compare(manifest, again, warnings=training.warnings_of(manifest, now), tolerance=tolerance)


def _stored(store: ObjectStore, ref: ModelRef) -> model_files.ModelManifest:
    """Return the manifest of a model version whose weights are whole."""
    names = (model_files.MANIFEST_NAME, model_files.WEIGHTS_NAME)
    try:
        manifest, weights = (store.get(f"{ref.object_key}/{name}") for name in names)
    except KeyError as error:
        raise _gone(f"{ref.object_key} must hold {' and '.join(names)}") from error
    parsed = model_files.read_manifest(manifest)
    model_files.load_module(parsed, weights, expected_digest=ref.digest)
    return parsed


def _gone(expected: str) -> PermanentError:
    return PermanentError(
        f"{expected} to train it again (got nothing). Restore it from a backup of the object store and the catalog.",
        code="LINEAGE_GONE",
    )


def _check_record(record: ModelRecord, manifest: model_files.ModelManifest) -> None:
    """Raise DataCorrupt unless the catalog and model.json tell the same of how the model came about."""
    config = manifest.config
    told = {
        "version": (record.ref.version, config.version),
        "snapshot_id": (record.ref.snapshot_id, config.snapshot_id),
        "training_key": (record.training_key, config.training_key),
        "recipe": (record.recipe, config.recipe),
        "params": (dict(record.params), dict(config.params)),
        "seed": (record.seed, config.seed),
        "lock_hash": (record.lock_hash, config.lock_hash),
        "code_revision": (record.code_revision, manifest.origin.code_revision),
        "metrics": (dict(record.metrics), dict(manifest.metrics)),
    }
    differing = sorted(name for name, (catalog, file) in told.items() if catalog != file)
    if differing:
        raise DataCorrupt(
            f"the catalog's row of model version {record.ref.version} must say what its model.json says (got other "
            f"{', '.join(differing)}). One of them was changed: restore it from a backup."
        )


def comparison_json(project: str, version: str, comparison: training.Reproduction) -> dict[str, Any]:
    """Return a comparison as JSON values."""
    metrics = [{**dataclasses.asdict(pair), "difference": pair.difference} for pair in comparison.metrics]
    return {"project": project, "version": version, **dataclasses.asdict(comparison), "metrics": metrics}


def comparison_text(project: str, version: str, comparison: training.Reproduction) -> str:
    """Return a comparison for people: the answer first."""
    how = (
        EXACT
        if comparison.tolerance == 0 and not comparison.warnings
        else f"within a tolerance of {comparison.tolerance:g}"
    )
    weights = "equal" if comparison.weights_equal else "different"
    recorded, reproduced = comparison.recorded_digest[:16], comparison.reproduced_digest[:16]
    lines = [
        f"{'Agrees' if comparison.agrees else 'DIFFERS'}: model version {version} of {project}, asked for {how}.",
        f"weights: {weights} (recorded {recorded}, reproduced {reproduced})",
        f"{'metric':<28}{'recorded':>12}{'reproduced':>12}{'difference':>12}",
    ]
    lines += [
        f"{pair.name:<28}{pair.recorded:>12.6f}{pair.reproduced:>12.6f}{pair.difference:>12.6f}"
        for pair in comparison.metrics
    ]
    return "\n".join([*lines, *(f"warning: {warning}" for warning in comparison.warnings)])
