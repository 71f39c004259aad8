"""The configuration of model versions that nobody trained: what tests and benchmarks write, load and serve."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline_tasks.contracts import Runtime
from pipeline_tasks.models.artifact import ModelConfig
from pipeline_tasks.models.registry import FoundRecipe


def config_of(
    recipe_code: FoundRecipe,
    *,
    recipe: str,
    params: Mapping[str, Any],
    classes: tuple[str, ...],
    project: str = "fashion",
    version: str = "v1",
    seed: int = 0,
    runtime: Runtime = "eager",
) -> ModelConfig:
    """Return what a model version's files say of it; `params` are resolved, `recipe` is what project.yaml names."""
    return ModelConfig(
        project=project,
        version=version,
        recipe=recipe,
        recipe_digest=recipe_code.code_digest,
        recipe_source=recipe_code.own_source,
        params=params,
        classes=classes,
        preprocessing=recipe_code.recipe.preprocessing(params),
        signature=recipe_code.recipe.signature(params, len(classes)),
        snapshot_id="s1",
        training_key="k1",
        warm_start=None,
        seed=seed,
        threads=1,
        lock_hash="l1",
        runtime=runtime,
    )
