"""Health of each part of the stack: one short HTTP request per probe."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

import httpx

from pipeline_tasks.adapters.http_health import Health, http_health
from pipeline_tasks.adapters.local_ports import address

AIRFLOW_HEALTH_KEYS: Mapping[str, tuple[str, str]] = {
    "airflow-api-server": ("metadatabase", ""),
    "airflow-scheduler": ("scheduler", "latest_scheduler_heartbeat"),
    "airflow-dag-processor": ("dag_processor", "latest_dag_processor_heartbeat"),
    "airflow-triggerer": ("triggerer", "latest_triggerer_heartbeat"),
}
HEALTH_PATHS: Mapping[str, tuple[str, str]] = {
    "s3": ("s3", "/healthz"),
    "label-studio": ("label_studio", "/health"),
    "gateway": ("gateway", "/readyz"),
}


def probe(program: str, *, ports: Mapping[str, int], timeout_seconds: float = 5.0) -> Health:
    """Return the health of a program by name; one without an address of its own is as healthy as its process."""
    if program in AIRFLOW_HEALTH_KEYS:
        document = airflow_health(ports["airflow"], timeout_seconds=timeout_seconds)
        return airflow_part_health(program, document)
    if program not in HEALTH_PATHS:
        return Health(ok=True, detail="")
    port_name, path = HEALTH_PATHS[program]
    return http_health(f"{address(ports[port_name])}{path}", timeout_seconds=timeout_seconds)


def airflow_health(port: int, *, timeout_seconds: float = 5.0) -> Mapping[str, Any] | str:
    """Return the api-server's own health document, or why there is none."""
    url = f"{address(port)}/api/v2/monitor/health"
    try:
        response = httpx.get(url, timeout=timeout_seconds, trust_env=False)
        response.raise_for_status()
        document = response.json()
    except (httpx.HTTPError, ValueError) as error:
        return f"{type(error).__name__} at {url}"
    return document if isinstance(document, dict) else f"no health document at {url}"


def airflow_part_health(program: str, document: Mapping[str, Any] | str) -> Health:
    """Return one process's health out of the document that covers all four."""
    if isinstance(document, str):
        return Health(ok=False, detail=document)
    key, heartbeat_key = AIRFLOW_HEALTH_KEYS[program]
    part = document.get(key) or {}
    status = str(part.get("status"))
    heartbeat = part.get(heartbeat_key) if heartbeat_key else None
    return Health(
        ok=status == "healthy",
        detail=f"{key} {status}",
        heartbeat_at=dt.datetime.fromisoformat(heartbeat) if heartbeat else None,
    )
