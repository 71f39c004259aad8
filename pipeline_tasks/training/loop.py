"""The training loop. Deterministic on a CPU for a seed and a thread count; n items, c classes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from pipeline_tasks.errors import GateClosed, PermanentError
from pipeline_tasks.models.base import Array, Recipe
from pipeline_tasks.training.checkpoint import Checkpoints, restore
from pipeline_tasks.training.dataset import InnerSplit
from pipeline_tasks.training.decoded_inputs import DecodedInputs, batches_of
from pipeline_tasks.training.lr_schedule import one_cycle
from pipeline_tasks.training.metrics import validation_metrics
from pipeline_tasks.training.progress import StepProgress, step_progress

CHECK_EVERY_STEPS = 25
PREDICT_BATCH = 256


@dataclasses.dataclass(frozen=True, slots=True)
class TrainingData:
    """Decoded items, their classes (positions), their factors in the loss, and who validates."""

    inputs: DecodedInputs
    targets_n: npt.NDArray[np.int64]
    weights_n: npt.NDArray[np.float32]
    split: InnerSplit
    classes: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class FitPlan:
    """One fit: resolved parameters, how long, on what."""

    params: Mapping[str, Any]
    epochs: int
    seed: int
    threads: int
    device: str
    label: str = "train"


@dataclasses.dataclass(frozen=True, slots=True)
class EpochReport:
    """The report of one epoch; `step` counts batches since the start."""

    epoch: int
    step: int
    loss: float
    learning_rate: float
    metrics: dict[str, Any]


OnEpoch = Callable[[EpochReport], None]


@dataclasses.dataclass(frozen=True, slots=True)
class _Learner:
    """State that the parts of one fit share."""

    recipe: Recipe
    data: TrainingData
    plan: FitPlan
    module: nn.Module
    optimizer: torch.optim.Optimizer

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.data.split.train) / int(self.plan.params["batch_size"]))

    @property
    def num_steps(self) -> int:
        return self.plan.epochs * self.steps_per_epoch


def pick_device(*, wanted: str | None = None) -> str:
    """Return the wanted device, or `cuda` where there is one, else `cpu`."""
    return wanted or ("cuda" if torch.cuda.is_available() else "cpu")


def precision_of(device: str) -> str:
    """Return the arithmetic of the forward pass on a device."""
    return "bfloat16 autocast" if device.startswith("cuda") else "float32"


@contextmanager
def reproducible(*, threads: int, device: str) -> Iterator[None]:
    """Pin torch's threads, and refuse operations that differ from run to run on a CPU; put both back at the end."""
    threads_before, strict_before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(device == "cpu")
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(strict_before)
        torch.set_num_threads(threads_before)


def fit(
    recipe: Recipe,
    data: TrainingData,
    plan: FitPlan,
    *,
    checkpoints: Checkpoints | None = None,
    on_epoch: OnEpoch = lambda _: None,
) -> tuple[nn.Module, list[dict[str, Any]]]:
    """Train a module, going on from the newest checkpoint; return it with one report per epoch.

    Raises:
        GateClosed: NON_FINITE, the loss or a weight is NaN or infinite.
        PermanentError: OUT_OF_MEMORY.
    """
    with reproducible(threads=plan.threads, device=plan.device), _clear_memory_error(plan):
        learner = _prepare(recipe, data, plan)
        resumed = checkpoints.load() if checkpoints else None
        if resumed is not None:
            restore(resumed, learner.module, learner.optimizer)
        history = list(resumed.history) if resumed else []
        with step_progress(plan.label, total=learner.num_steps) as progress:
            for epoch in range(len(history), plan.epochs):
                report = _run_epoch(learner, epoch=epoch, progress=progress)
                history.append(dataclasses.asdict(report))
                if checkpoints:
                    checkpoints.save(learner.module, learner.optimizer, history=history)
                on_epoch(report)
        return learner.module.eval(), history


def predict(recipe: Recipe, module: nn.Module, inputs: DecodedInputs, rows: Array) -> npt.NDArray[np.float32]:
    """Return the probabilities (n, c) of these rows."""
    parts = [
        recipe.predict_batch(module, recipe.collate(inputs.take(batch)))
        for batch in batches_of(rows, batch_size=PREDICT_BATCH)
    ]
    return np.concatenate(parts)


def validate(recipe: Recipe, module: nn.Module, data: TrainingData) -> dict[str, Any]:
    """Return the metrics of a module on the rows that validate."""
    rows = data.split.validation
    return validation_metrics(predict(recipe, module, data.inputs, rows), data.targets_n[rows], data.classes)


def _prepare(recipe: Recipe, data: TrainingData, plan: FitPlan) -> _Learner:
    torch.manual_seed(plan.seed)
    module = recipe.build(plan.params, len(data.classes))
    recipe.fit_statistics(module, _batches(recipe, data.inputs, data.split.train))
    module = module.to(plan.device)
    optimizer = _optimizer(module, plan.params)
    return _Learner(recipe, data, plan, module, optimizer)


def _optimizer(module: nn.Module, params: Mapping[str, Any]) -> torch.optim.Optimizer:
    rate, decay = params["learning_rate"], params["weight_decay"]
    if params["optimizer"] == "sgd":
        return torch.optim.SGD(module.parameters(), lr=rate, weight_decay=decay)
    return torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=decay)


def _batches(recipe: Recipe, inputs: DecodedInputs, rows: npt.NDArray[np.int64]) -> Iterator[Array]:
    for batch in batches_of(rows, batch_size=PREDICT_BATCH):
        yield recipe.collate(inputs.take(batch))


def _run_epoch(learner: _Learner, *, epoch: int, progress: StepProgress) -> EpochReport:
    plan, data = learner.plan, learner.data
    # Everything random in an epoch follows from seed and epoch, so that a resumed run repeats it exactly.
    torch.manual_seed(plan.seed * 1_000_003 + epoch)
    generator = np.random.default_rng([plan.seed, epoch])
    order = batches_of(generator.permutation(data.split.train), batch_size=plan.params["batch_size"])
    learner.module.train()
    total = torch.zeros((), device=plan.device)
    for number, rows in enumerate(order):
        step = epoch * len(order) + number
        rate = _set_rate(learner, step=step)
        total += _train_step(learner, rows, generator=generator)
        if number % CHECK_EVERY_STEPS == CHECK_EVERY_STEPS - 1 or number == len(order) - 1 or progress.due():
            mean = _finite(total.item() / (number + 1), epoch=epoch)
            progress.advance(done=step + 1, note=f"epoch {epoch + 1} of {plan.epochs}, loss {mean:.3f}")
    _check_weights(learner.module, epoch=epoch)
    metrics = validate(learner.recipe, learner.module, data)
    return EpochReport(epoch + 1, (epoch + 1) * len(order), round(mean, 6), rate, metrics)


def _train_step(learner: _Learner, rows: npt.NDArray[np.int64], *, generator: np.random.Generator) -> torch.Tensor:
    recipe, data, plan = learner.recipe, learner.data, learner.plan
    batch = recipe.augment(recipe.collate(data.inputs.take(rows)), params=plan.params, generator=generator)
    inputs = torch.from_numpy(np.ascontiguousarray(batch)).to(plan.device)
    targets_n = torch.from_numpy(data.targets_n[rows]).to(plan.device)
    weights_n = torch.from_numpy(data.weights_n[rows]).to(plan.device)
    with torch.autocast("cuda", dtype=torch.bfloat16, enabled=precision_of(plan.device) != "float32"):
        logits_nc = learner.module(inputs)
    losses_n = nn.functional.cross_entropy(
        logits_nc.float(), targets_n, reduction="none", label_smoothing=plan.params["label_smoothing"]
    )
    loss = (losses_n * weights_n).sum() / weights_n.sum().clamp_min(1e-12)
    learner.optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    learner.optimizer.step()
    return loss.detach()


def _set_rate(learner: _Learner, *, step: int) -> float:
    rate, beta = one_cycle(step, num_steps=learner.num_steps, peak=learner.plan.params["learning_rate"])
    for group in learner.optimizer.param_groups:
        group["lr"] = rate
        if "betas" in group:
            group["betas"] = (beta, 0.999)
    return rate


def _finite(loss: float, *, epoch: int) -> float:
    if not math.isfinite(loss):
        raise _not_finite(f"a loss of {loss}", epoch=epoch)
    return loss


def _check_weights(module: nn.Module, *, epoch: int) -> None:
    bad = sorted(name for name, tensor in module.state_dict().items() if not bool(torch.isfinite(tensor).all()))
    if bad:
        raise _not_finite(f"NaN or infinity in {', '.join(bad[:10])}", epoch=epoch)


def _not_finite(got: str, *, epoch: int) -> GateClosed:
    return GateClosed(
        f"the training must stay finite (got {got} in epoch {epoch + 1}). "
        "Lower recipe.params.learning_rate, and look for extreme values in the data.",
        code="NON_FINITE",
    )


@contextmanager
def _clear_memory_error(plan: FitPlan) -> Iterator[None]:
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not is_out_of_memory(error):
            raise
        raise PermanentError(
            f"recipe.params.batch_size must fit into the memory of {plan.device} (got {plan.params['batch_size']}: "
            "out of memory). Halve it, make the model smaller, or give the task more memory.",
            code="OUT_OF_MEMORY",
        ) from error


def is_out_of_memory(error: RuntimeError) -> bool:
    """Tell whether torch ran out of memory: on a GPU it has a class for that, on a CPU only a text."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
