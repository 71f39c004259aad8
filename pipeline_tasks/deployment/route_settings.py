"""Settings that a route carries to the gateway."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline_tasks.contracts import ServingSettings
from pipeline_tasks.project.schema import LoadedProject, Project


def route_config(loaded: LoadedProject, *, learned: Sequence[str] = ()) -> dict[str, Any]:
    """Return what the gateway has to know with a route: limits, threshold, classes, what an item looks like.

    `learned` are the model's own classes: it may be older than a class of project.yaml. `approval` is for whoever looks
    back: the rule may be another one by then.
    """
    config = loaded.config
    settings = ServingSettings(
        **config.serving.routed(),
        classes=tuple(learned or config.labels.classes),
        modality=config.modality,
        recipe=config.recipe.name,
        preprocess={
            "max_pixels": config.checks.max_pixels,
            "max_text_characters": config.checks.max_text_characters,
            **_row_reading(config),
            **({"privacy": config.privacy.deny.model_dump()} if config.deny_list else {}),
        },
    )
    return {"approval": config.approval.when, **settings.as_promoted()}


def _row_reading(config: Project) -> dict[str, Any]:
    """Return how a request's row is read, as the rows of the sources are."""
    if config.modality != "tabular":
        return {}
    if config.columns:
        return {"columns": [column.as_json() for column in config.columns]}
    names = {name for source in config.sources for name in source.item_columns or ()}
    return {"content_columns": sorted(names)}
