"""The state of the gateway for callers and scrapes."""

from __future__ import annotations

import dataclasses
from typing import Any

from bento_services.gateway.metrics import Measured
from bento_services.gateway.request_handler import RequestHandler
from bento_services.gateway.routing.routes import ProjectRoute


def describe(route: ProjectRoute) -> dict[str, Any]:
    """Return what serves now, without internal addresses."""
    entries = [
        {"deployment_id": entry.deployment_id, "model_version": entry.model_version, "weight": entry.weight}
        for entry in route.entries
    ]
    return {
        "project": route.project,
        "generation": route.generation,
        "commit_id": route.commit_id,
        "champion_version": route.champion_version,
        "deployments": entries,
        "graph": None if route.graph is None else dataclasses.asdict(route.graph),
        "modality": route.settings.modality,
        "classes": list(route.settings.classes),
        "review_below": route.settings.review_below,
        "abstain_below": route.settings.abstain_below,
        "thresholds": dict(route.settings.thresholds),
        "business_labels": dict(route.settings.business_labels),
        "max_request_bytes": route.settings.max_request_bytes,
    }


def gauges(gateway: RequestHandler) -> list[Measured]:
    """Return what is measured at the time of a scrape; the catalog's age is -1 while it is away."""
    age, snapshot = gateway.follower.age_seconds(), gateway.follower.snapshot
    routes = snapshot.routes if snapshot else {}
    if snapshot:
        gateway.dispatcher.breakers.forget(
            {entry.deployment_id for route in snapshot.routes.values() for entry in route.named}
        )
    return [
        *(("dethrone_route_generation", route.generation, {"project": name}) for name, route in routes.items()),
        ("dethrone_catalog_age_seconds", -1.0 if age is None else round(age, 3), {}),
        ("dethrone_spool_bytes", gateway.spool.size_bytes, {}),
        ("dethrone_requests_open", gateway.num_open, {}),
        *gateway.dispatcher.gauges(),
    ]
