"""Health of a server by one short HTTP request."""

from __future__ import annotations

import dataclasses
import datetime as dt

import httpx


@dataclasses.dataclass(frozen=True, slots=True)
class Health:
    """The answer of one probe; `heartbeat_at` only where the part reports one."""

    ok: bool
    detail: str
    heartbeat_at: dt.datetime | None = None


def http_health(url: str, *, timeout_seconds: float = 5.0) -> Health:
    """Return whether a GET answers 200."""
    try:
        response = httpx.get(url, timeout=timeout_seconds, trust_env=False)
    except httpx.HTTPError as error:
        return Health(ok=False, detail=f"{type(error).__name__} at {url}")
    return Health(ok=response.status_code == httpx.codes.OK, detail=f"HTTP {response.status_code} at {url}")
