"""Targets of a monitoring of the inference services, in the form of Prometheus' `http_sd_configs`: pure functions.

Source: https://prometheus.io/docs/prometheus/latest/http_sd/
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from bento_services.gateway.auth import EVERY_PROJECT
from bento_services.gateway.routing.routes import KeyInfo, Snapshot

if TYPE_CHECKING:
    from bento_services.gateway.api.schemas import TargetBody

PORTS = {"http": 80, "https": 443}


def scrape_targets(snapshot: Snapshot, key: KeyInfo) -> list[TargetBody]:
    """Return every deployment of the routes, shadows too, that the key may see, by project and deployment."""
    return [
        {
            "targets": [_host_and_port(entry.address)],
            "labels": {
                "__scheme__": urlsplit(entry.address).scheme,
                "project": route.project,
                "deployment": entry.deployment_id,
                "model_version": entry.model_version,
            },
        }
        for _, route in sorted(snapshot.routes.items())
        if key.project in {EVERY_PROJECT, route.project}
        for entry in sorted((*route.entries, *route.shadows), key=lambda deployment: deployment.deployment_id)
    ]


def _host_and_port(address: str) -> str:
    parts = urlsplit(address)
    return parts.netloc if parts.port else f"{parts.netloc}:{PORTS[parts.scheme]}"
