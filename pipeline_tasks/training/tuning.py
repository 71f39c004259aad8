"""Automated choice of hyper-parameters with Optuna; a killed search goes on and ends with the same choice.

Finished trials lie in a log of our own, one JSON line each, and each trial draws from its own seed: the choice is a
function of seed, data and number of trials. (A study in Optuna's storage would keep the killed trial as running and
start the sampler's random numbers anew.)
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna

from pipeline_tasks.core.atomic_files import replace_file
from pipeline_tasks.errors import GateClosed
from pipeline_tasks.models.base import Choice, FloatRange, IntRange, Space

logger = logging.getLogger(__name__)

LOG_NAME = "trials.json"

Report = Callable[[int, float], None]
Score = Callable[[int, Mapping[str, Any], Report], float]


@dataclasses.dataclass(frozen=True, slots=True)
class TrialRecord:
    """One finished trial. `value` is the gate's metric on the validation part; a pruned or failed trial has none."""

    number: int
    params: dict[str, Any]
    state: str
    value: float | None
    intermediate: dict[str, float]


class _Pruned(Exception):
    """The trial is worse than the median of the others so far."""


def choose_params(
    space: Mapping[str, Space],
    defaults: Mapping[str, Any],
    *,
    trials: int,
    seed: int,
    folder: Path,
    score: Score,
) -> tuple[dict[str, Any], list[TrialRecord]]:
    """Return the best parameters found and all trials; the first trial is the defaults, so none can be lost by tuning.

    `score(number, params, report)` trains and returns the metric on the validation part; it calls
    `report(epoch, value)`.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {name: distribution_of(entry, default=defaults[name]) for name, entry in space.items()}
    records = _load(folder / LOG_NAME)
    while len(records) < trials:
        record = _run_trial(records, distributions, defaults, seed=seed, score=score)
        records = [*records, record]
        replace_file(folder / LOG_NAME, json.dumps([dataclasses.asdict(entry) for entry in records]).encode())
        logger.info("trial %d of %d: %s, validation %s", record.number + 1, trials, record.state, record.value)
    best = max((entry for entry in records if entry.value is not None), key=_rank, default=None)
    if best is None:
        raise GateClosed(
            f"at least one of {trials} trials must end with finite weights (got none). "
            "Lower recipe.params.learning_rate, and look for extreme values in the data.",
            code="NON_FINITE",
        )
    return {**defaults, **best.params}, records


def _rank(record: TrialRecord) -> tuple[float, int]:
    return (record.value or 0.0, -record.number)


def _run_trial(
    records: list[TrialRecord],
    distributions: Mapping[str, optuna.distributions.BaseDistribution],
    defaults: Mapping[str, Any],
    *,
    seed: int,
    score: Score,
) -> TrialRecord:
    number = len(records)
    study = _replay(records, distributions, seed=seed + number)
    if number == 0:
        study.enqueue_trial({name: defaults[name] for name in distributions})
    trial = study.ask(dict(distributions))
    intermediate: dict[str, float] = {}

    def report(epoch: int, value: float) -> None:
        intermediate[str(epoch)] = value
        trial.report(value, epoch)
        if number > 0 and trial.should_prune():
            raise _Pruned

    try:
        value = score(number, {**defaults, **trial.params}, report)
    except _Pruned:
        return TrialRecord(number, dict(trial.params), "pruned", None, intermediate)
    except GateClosed as error:
        return TrialRecord(number, dict(trial.params), error.code.lower(), None, intermediate)
    return TrialRecord(number, dict(trial.params), "complete", value, intermediate)


def _replay(
    records: list[TrialRecord], distributions: Mapping[str, optuna.distributions.BaseDistribution], *, seed: int
) -> optuna.Study:
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=3),
    )
    for record in records:
        state = optuna.trial.TrialState.COMPLETE if record.value is not None else optuna.trial.TrialState.PRUNED
        study.add_trial(
            optuna.create_trial(
                params=record.params,
                distributions=dict(distributions),
                value=record.value,
                intermediate_values={int(epoch): value for epoch, value in record.intermediate.items()},
                state=state,
            )
        )
    return study


def distribution_of(space: Space, *, default: Any) -> optuna.distributions.BaseDistribution:
    """Return Optuna's form of a space, widened so that it holds the project's own value.

    Raises:
        TypeError: a recipe's `param_space` holds something else.
    """
    if isinstance(space, Choice):
        return optuna.distributions.CategoricalDistribution(tuple(dict.fromkeys((*space.values, default))))
    if not isinstance(space, FloatRange | IntRange):
        raise TypeError(f"param_space must hold FloatRange, IntRange or Choice (got {type(space).__name__}).")
    low, high = min(space.low, default), max(space.high, default)
    log = space.log and low > 0
    if isinstance(space, IntRange):
        return optuna.distributions.IntDistribution(int(low), int(high), log=log)
    return optuna.distributions.FloatDistribution(low, high, log=log)


def _load(path: Path) -> list[TrialRecord]:
    try:
        return [TrialRecord(**fields) for fields in json.loads(path.read_text())]
    except FileNotFoundError:
        return []
