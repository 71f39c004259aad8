"""Training once more from what a model version recorded of itself, and comparing what comes out. Nothing is published.

On a CPU with one thread the weights are a function of snapshot, recipe, parameters, seed, code and environment; where
one of these is another than the recorded one, only metrics within a tolerance can be asked for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline_tasks.core.ports import ObjectStore
from pipeline_tasks.models import artifact as model_files
from pipeline_tasks.models.registry import FoundRecipe, find_recipe, recipe_from_source
from pipeline_tasks.training.data_loading import LoadPlan, load_data, proof_of
from pipeline_tasks.training.dataset import TrainingRows
from pipeline_tasks.training.loop import FitPlan, fit
from pipeline_tasks.training.metrics import whole_figures
from pipeline_tasks.training.proof import proof_rows
from pipeline_tasks.training.task import origin_of, pack_for_runtime, training_metrics

DEVICE, THREADS = "cpu", 1
DEFAULT_TOLERANCE = 0.02


@dataclasses.dataclass(frozen=True, slots=True)
class Here:
    """The facts of this process that a training depends on, beside the recorded ones."""

    lock_hash: str
    code_revision: str
    recipe_digest: str
    origin: model_files.Origin


@dataclasses.dataclass(frozen=True, slots=True)
class MetricPair:
    """One validation metric as it was recorded and as it came out now."""

    name: str
    recorded: float
    reproduced: float

    @property
    def difference(self) -> float:
        return abs(self.recorded - self.reproduced)


@dataclasses.dataclass(frozen=True, slots=True)
class Reproduction:
    """A training beside its reproduction; `tolerance` 0 asks for the same weights and the same metrics."""

    agrees: bool
    tolerance: float
    weights_equal: bool
    recorded_digest: str
    reproduced_digest: str
    metrics: tuple[MetricPair, ...]
    warnings: tuple[str, ...]


def recipe_as_recorded(config: model_files.ModelConfig) -> FoundRecipe:
    """Return the recipe of a model version: its own source out of `model.json`, or the stock one of today's code."""
    return find_recipe(config.recipe) if config.recipe_source is None else recipe_from_source(config.recipe_source)


def here(*, lock_hash: str, code_revision: str, recipe_code: FoundRecipe) -> Here:
    """Return what this process trains with."""
    return Here(
        lock_hash, code_revision, recipe_code.code_digest, origin_of(code_revision=code_revision, device=DEVICE)
    )


def reproduce(
    manifest: model_files.ModelManifest,
    rows: TrainingRows,
    *,
    recipe_code: FoundRecipe,
    store: ObjectStore,
    folder: Path,
    origin: model_files.Origin,
) -> model_files.Artifact:
    """Train on a CPU with one thread as the manifest says, in an empty folder.

    Raises:
        ConfigError: the recipe of today does not take the recorded parameters.
        DataCorrupt: an item's bytes are gone or changed.
        GateClosed: as in training.
        PermanentError: PUBLISH_MISMATCH, the recorded preprocessing is not what the recipe of today says.
    """
    config = manifest.config
    resolved = recipe_code.recipe.resolve(config.params)
    params = {name: resolved[name] for name in config.params}  # what a later recipe added was not there
    loading = LoadPlan(
        config.project,
        config.snapshot_id,
        recipe_code,
        _before_tuning(params, manifest.metrics),
        config.classes,
        folder,
    )
    data = load_data(loading, rows, store=store)
    plan = FitPlan(params, params["epochs"], config.seed, THREADS, DEVICE, "retrain")
    module, history = fit(recipe_code.recipe, data, plan)
    metrics = training_metrics(data, history)
    artifact = pack_for_runtime(recipe_code.recipe, module, data, config=config, origin=origin, metrics=metrics)
    loaded = model_files.load_bytes(artifact.manifest.to_bytes(), artifact.weights, exported=artifact.exported)
    proof_of(loading, rows, positions=proof_rows(data.split.train), store=store).check(loaded, module)
    return artifact


def _before_tuning(params: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that the data was loaded with: before tuning, which trial 0 holds."""
    trials = metrics.get("trials") or [{"params": {}}]
    return {**params, **trials[0]["params"]}


def warnings_of(manifest: model_files.ModelManifest, now: Here) -> list[str]:
    """Return, in words, each way in which a training here is not the recorded one; none = the same bits are due."""
    config, origin = manifest.config, manifest.origin
    pairs = [
        ("environment lock", config.lock_hash, now.lock_hash),
        ("code revision", origin.code_revision, now.code_revision),
        ("recipe code", config.recipe_digest, now.recipe_digest),
        ("torch", origin.torch_version, now.origin.torch_version),
        ("device", origin.device, now.origin.device),
        ("number of threads", str(config.threads), str(THREADS)),
        ("precision", origin.precision, now.origin.precision),
        ("CPU instructions", origin.cpu_capability, now.origin.cpu_capability),
        ("weights to start from", config.warm_start or "none", "none"),
    ]
    warnings = [
        f"{name} must be the recorded one for the same bits (recorded {_short(recorded)}, got {_short(got)})."
        for name, recorded, got in pairs
        if recorded not in (got, model_files.UNRECORDED)
    ]
    if now.code_revision == origin.code_revision and (
        now.code_revision.endswith("-dirty") or now.code_revision == "unknown"
    ):
        warnings.append(
            f"code revision must be a commit for the same bits (got {_short(now.code_revision)} both times)."
        )
    return warnings


def _short(value: str) -> str:
    return value if len(value) <= 24 else f"{value[:12]}...{'-dirty' if value.endswith('-dirty') else ''}"


def compare(
    manifest: model_files.ModelManifest,
    reproduced: model_files.Artifact,
    *,
    warnings: Sequence[str],
    tolerance: float | None,
) -> Reproduction:
    """Compare a model version with its reproduction; without a tolerance: 0 if there is no warning, else 0.02."""
    allowed = tolerance if tolerance is not None else (DEFAULT_TOLERANCE if warnings else 0.0)
    again = reproduced.manifest
    validation = manifest.metrics["validation"]
    pairs, tolerated = metric_pairs(validation, again.metrics["validation"]), whole_figures(validation)
    weights_equal = again.weights_digest == manifest.weights_digest
    same_rows = _row_counts(manifest.metrics) == _row_counts(again.metrics)
    if allowed == 0:
        agrees = weights_equal and all(
            _as_recorded(manifest.metrics[name], again.metrics[name]) for name in again.metrics
        )
    else:
        agrees = same_rows and all(pair.difference <= allowed for pair in pairs if pair.name in tolerated)
    return Reproduction(
        agrees=agrees,
        tolerance=allowed,
        weights_equal=weights_equal,
        recorded_digest=manifest.weights_digest,
        reproduced_digest=again.weights_digest,
        metrics=tuple(pairs),
        warnings=tuple(warnings),
    )


def _as_recorded(recorded: Any, reproduced: Any) -> bool:
    """Compare what was recorded; a figure that a later release added to the metrics is in no older record."""
    if isinstance(recorded, Mapping) and isinstance(reproduced, Mapping):
        return all(name in reproduced and recorded[name] == reproduced[name] for name in recorded)
    return bool(recorded == reproduced)


def metric_pairs(recorded: Mapping[str, Any], reproduced: Mapping[str, Any]) -> list[MetricPair]:
    """Return the metrics of the whole, then the recall of each class; a metric that is gone counts as 0."""
    pairs = [MetricPair(name, value, reproduced.get(name, 0.0)) for name, value in whole_figures(recorded).items()]
    again = reproduced.get("per_class", {})
    for name, entry in recorded["per_class"].items():
        pairs.append(MetricPair(f"recall of {name}", entry["recall"], again.get(name, {}).get("recall", 0.0)))
    return pairs


def _row_counts(metrics: Mapping[str, Any]) -> tuple[int, int, int]:
    return metrics["num_train"], metrics["num_skipped"], metrics["validation"]["num_items"]
