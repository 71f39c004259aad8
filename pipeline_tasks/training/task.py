"""The train stage: adopt, or decode, tune, fit, publish."""

from __future__ import annotations

import dataclasses
import datetime as dt
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from pipeline_tasks.catalog.database import Database
from pipeline_tasks.catalog.model_versions import ModelRecord, ModelRepository
from pipeline_tasks.contracts import Attempt, ModelRef, SnapshotRef, content_id
from pipeline_tasks.core.ports import ObjectStore, Tracker, TrackerRun
from pipeline_tasks.models import artifact as model_files
from pipeline_tasks.models.base import Recipe
from pipeline_tasks.models.registry import FoundRecipe, recipe_for
from pipeline_tasks.models.runtimes import TORCH
from pipeline_tasks.project.schema import LoadedProject
from pipeline_tasks.training.checkpoint import Checkpoints
from pipeline_tasks.training.data_loading import LoadPlan, input_facts, load_data, proof_of
from pipeline_tasks.training.dataset import rows_of
from pipeline_tasks.training.loop import EpochReport, FitPlan, TrainingData, fit, pick_device, precision_of, validate
from pipeline_tasks.training.metrics import whole_figures
from pipeline_tasks.training.proof import export_rows, proof_rows
from pipeline_tasks.training.publish import prove_stored, publish_model
from pipeline_tasks.training.training_key import DEFAULT_METRIC, TrainingKey
from pipeline_tasks.training.tuning import Report, TrialRecord, choose_params

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class _Job:
    """The inputs that every step of one training needs."""

    project: LoadedProject
    snapshot: SnapshotRef
    recipe_code: FoundRecipe
    key: TrainingKey
    folder: Path
    device: str
    tracker: Tracker
    run_id: str

    @property
    def recipe(self) -> Recipe:
        return self.recipe_code.recipe

    @property
    def defaults(self) -> Mapping[str, Any]:
        return self.key.params

    def start_run(self, *, suffix: str, job_type: str, params: Mapping[str, Any]) -> TrackerRun:
        """Open the tracker's run of this training or trial; its id follows from the training key."""
        facts = {"snapshot": self.snapshot.snapshot_id, "version": self.key.version, "seed": self.key.seed}
        return self.tracker.start(
            project=self.project.name,
            run_id=f"{self.project.name}-{self.key.version}{suffix}",
            group=self.run_id,
            job_type=job_type,
            config={**facts, "recipe": self.key.recipe, "device": self.device, **params},
        )


def train(
    project: LoadedProject,
    snapshot: SnapshotRef,
    manifest: pa.Table,
    *,
    store: ObjectStore,
    tracker: Tracker,
    attempt: Attempt,
    database: Database,
    now: dt.datetime,
    scratch: Path,
    lock_hash: str,
    code_revision: str,
    threads: int = 1,
    seed: int | None = None,
    device: str | None = None,
) -> ModelRef:
    """Return the model version of this snapshot: the one that exists for the training key, or a new one.

    Raises:
        ConfigError: the recipe or its parameters are wrong.
        GateClosed: NON_FINITE, UNDECODABLE, UNKNOWN_LABEL or TOO_FEW_GROUPS.
        PermanentError: OUT_OF_MEMORY, PUBLISH_MISMATCH, or EXPORT_FAILED where serving.runtime asks for a graph.
        StaleAttempt: a newer attempt of the same training has taken over.
    """
    recipe = recipe_for(project.config.modality, project.config.recipe.name, folder=project.folder)
    key = training_key(project, snapshot.snapshot_id, recipe, seed=seed, threads=threads, lock_hash=lock_hash)
    folder = scratch / f"train-{project.name}-{key.version}"
    plan = LoadPlan(key.project, key.snapshot_id, recipe, key.params, key.classes, folder)
    rows = rows_of(manifest)
    recorded = ModelRepository(database).find(project.name, training_key=key.digest)
    if recorded is not None:
        stored = store.get(f"{recorded.ref.object_key}/{model_files.MANIFEST_NAME}")
        prove_stored(recorded.ref.object_key, stored, None, proof=proof_of(plan, rows, store=store), store=store)
        logger.info("model version %s exists for this training: adopting it", recorded.ref.version)
        return recorded.ref
    fence = database.acquire(f"train/{project.name}/{key.version}", attempt, now=now)
    job = _Job(project, snapshot, recipe, key, folder, pick_device(wanted=device), tracker, attempt.run_id)
    data = load_data(plan, rows, store=store)
    facts = input_facts(plan, rows, store=store, shown=project.config.as_shown)
    artifact, module, run = _fit(job, data, facts=facts, code_revision=code_revision)
    run.finish()

    def complete(stored: model_files.ModelManifest) -> ModelRecord:
        return _record(job, stored, tracker=run.reference(), now=now)

    record = publish_model(
        artifact,
        module,
        proof=proof_of(plan, rows, positions=proof_rows(data.split.train), store=store),
        store=store,
        database=database,
        fence=fence,
        validate=lambda module: validate(job.recipe, module, data),
        complete=complete,
    )
    shutil.rmtree(folder, ignore_errors=True)
    return record.ref


def training_key(
    project: LoadedProject,
    snapshot_id: str,
    recipe_code: FoundRecipe,
    *,
    seed: int | None,
    threads: int,
    lock_hash: str,
) -> TrainingKey:
    """Return the key of training a project as it is now on a snapshot; `seed` None: the project's."""
    config = project.config.recipe
    tune = config.tune.model_dump() if config.tune.trials else None
    return TrainingKey(
        project=project.name,
        snapshot_id=snapshot_id,
        classes=tuple(project.config.labels.classes),
        recipe=config.name,
        recipe_digest=recipe_code.code_digest,
        params=recipe_code.recipe.resolve(config.params),
        tune=tune,
        seed=config.seed if seed is None else seed,
        threads=threads,
        lock_hash=lock_hash,
        runtime=project.config.serving.runtime,
        metric=project.config.gate.metric if tune else DEFAULT_METRIC,
    )


def _fit(
    job: _Job, data: TrainingData, *, facts: Mapping[str, Any], code_revision: str
) -> tuple[model_files.Artifact, torch.nn.Module, TrackerRun]:
    params, trials = _tune(job, data)
    run = job.start_run(suffix="", job_type="train", params=params)
    plan = FitPlan(params, params["epochs"], job.key.seed, job.key.threads, job.device)
    checkpoints = Checkpoints(job.folder / "checkpoints", key=content_id([job.key.digest, params]))

    def on_epoch(report: EpochReport) -> None:
        run.log(_curve(report), step=report.step)
        logger.info(
            "epoch %d of %d: loss %.4f, validation accuracy %.4f",
            report.epoch,
            plan.epochs,
            report.loss,
            report.metrics["accuracy"],
        )

    try:
        module, history = fit(job.recipe, data, plan, checkpoints=checkpoints, on_epoch=on_epoch)
        artifact = _pack(job, data, module, history, facts, params=params, trials=trials, code_revision=code_revision)
    except Exception:
        run.finish(exit_code=1)
        raise
    run.summary({"weights_digest": artifact.manifest.weights_digest, **facts, **history[-1]["metrics"]})
    return artifact, module, run


def _tune(job: _Job, data: TrainingData) -> tuple[dict[str, Any], list[TrialRecord]]:
    tune, metric = job.project.config.recipe.tune, job.key.metric
    if tune.trials == 0:
        return dict(job.defaults), []

    def score(number: int, params: Mapping[str, Any], report: Report) -> float:
        run = job.start_run(suffix=f"-trial-{number}", job_type="tune", params=params)
        plan = FitPlan(params, tune.epochs, job.key.seed, job.key.threads, job.device, f"trial {number + 1}")

        def on_epoch(epoch: EpochReport) -> None:
            run.log(_curve(epoch), step=epoch.step)
            report(epoch.epoch, epoch.metrics[metric])

        try:
            _, history = fit(job.recipe, data, plan, on_epoch=on_epoch)
        finally:
            run.finish()
        return float(history[-1]["metrics"][metric])

    return choose_params(
        job.recipe.param_space(job.defaults),
        job.defaults,
        trials=tune.trials,
        seed=job.key.seed,
        folder=job.folder,
        score=score,
    )


def _curve(report: EpochReport) -> dict[str, float]:
    return {
        "epoch": float(report.epoch),
        "train/loss": report.loss,
        "train/learning_rate": report.learning_rate,
        **{f"validation/{name}": value for name, value in whole_figures(report.metrics).items()},
    }


def _pack(
    job: _Job,
    data: TrainingData,
    module: torch.nn.Module,
    history: list[dict[str, Any]],
    facts: Mapping[str, Any],
    *,
    params: Mapping[str, Any],
    trials: Sequence[TrialRecord],
    code_revision: str,
) -> model_files.Artifact:
    key = job.key
    config = model_files.ModelConfig(
        project=key.project,
        version=key.version,
        recipe=key.recipe,
        recipe_digest=key.recipe_digest,
        recipe_source=job.recipe_code.own_source,
        params=dict(params),
        classes=key.classes,
        preprocessing=job.recipe.preprocessing(params),
        signature=job.recipe.signature(params, len(key.classes)),
        snapshot_id=key.snapshot_id,
        training_key=key.digest,
        warm_start=key.warm_start,
        seed=key.seed,
        threads=key.threads,
        lock_hash=key.lock_hash,
        runtime=key.runtime,
    )
    metrics = {
        **training_metrics(data, history),
        **facts,
        "trials": [dataclasses.asdict(trial) for trial in trials],
    }
    if trials:
        metrics["chosen_by"] = key.metric
    origin = origin_of(code_revision=code_revision, device=job.device)
    return pack_for_runtime(job.recipe, module, data, config=config, origin=origin, metrics=metrics)


def pack_for_runtime(
    recipe: Recipe,
    module: torch.nn.Module,
    data: TrainingData,
    *,
    config: model_files.ModelConfig,
    origin: model_files.Origin,
    metrics: Mapping[str, Any],
) -> model_files.Artifact:
    """Return a trained module as an artifact, with the graph that its runtime needs, made from training items.

    Raises:
        PermanentError: EXPORT_FAILED.
    """
    if config.runtime in TORCH:
        return model_files.pack(module, config=config, origin=origin, metrics=metrics)
    from pipeline_tasks.training.onnx_export import export_module

    items = data.inputs.take(export_rows(data.split.train))
    made = export_module(recipe, module, runtime=config.runtime, signature=config.signature, items=items)
    return model_files.pack(
        module, config=config, origin=origin, metrics={**metrics, "export": made.facts}, exported=made.data
    )


def training_metrics(data: TrainingData, history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what a fit says of itself: the last epoch's validation, how many rows, the loss of each epoch."""
    return {
        "validation": history[-1]["metrics"],
        "num_train": len(data.split.train),
        "num_skipped": len(data.inputs.skipped),
        "epochs": [{name: entry[name] for name in ("epoch", "loss")} for entry in history],
    }


def origin_of(*, code_revision: str, device: str) -> model_files.Origin:
    """Return where this process trains: what the bits of the weights depend on beside the training key."""
    return model_files.Origin(
        code_revision=code_revision,
        torch_version=torch.__version__,
        device=device,
        precision=precision_of(device),
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
    )


def _record(
    job: _Job, manifest: model_files.ModelManifest, *, tracker: Mapping[str, str], now: dt.datetime
) -> ModelRecord:
    config = manifest.config
    ref = ModelRef(
        project=config.project,
        version=config.version,
        object_key=model_files.object_prefix(config.project, config.version),
        digest=manifest.weights_digest,
        snapshot_id=config.snapshot_id,
    )
    return ModelRecord(
        ref=ref,
        training_key=job.key.digest,
        recipe=config.recipe,
        params=dict(config.params),
        metrics=dict(manifest.metrics),
        seed=config.seed,
        lock_hash=config.lock_hash,
        code_revision=manifest.origin.code_revision,
        tracker=dict(tracker),
        run_id=job.run_id,
        created_at=now,
    )
