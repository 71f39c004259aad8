"""Settings that a route carries to the gateway."""

from __future__ import annotations

from typing import Any

from pipeline_tasks.project.schema import LoadedProject, Project


def route_config(loaded: LoadedProject) -> dict[str, Any]:
    """Return what the gateway has to know with a route: limits, threshold, classes, what an item looks like.

    `approval` is for whoever looks back: the rule may be another one by then.
    """
    config = loaded.config
    return {
        "approval": config.approval.when,
        "review_below": config.serving.review_below,
        "top_k": config.serving.top_k,
        "thresholds": dict(config.serving.thresholds),
        "abstain_below": config.serving.abstain_below,
        "business_labels": dict(config.serving.business_labels),
        "max_request_bytes": config.serving.max_request_bytes,
        "requests_per_second": config.serving.requests_per_second,
        "classes": list(config.labels.classes),
        "modality": config.modality,
        "recipe": config.recipe.name,
        "preprocess": {
            "max_pixels": config.checks.max_pixels,
            "max_text_characters": config.checks.max_text_characters,
            **_row_reading(config),
            **({"privacy": config.privacy.deny.model_dump()} if config.deny_list else {}),
        },
    }


def _row_reading(config: Project) -> dict[str, Any]:
    """Return how a request's row is read, as the rows of the sources are."""
    if config.modality != "tabular":
        return {}
    if config.columns:
        return {"columns": [column.as_json() for column in config.columns]}
    names = {name for source in config.sources for name in getattr(source, "content_columns", ())}
    return {"content_columns": sorted(names)}
