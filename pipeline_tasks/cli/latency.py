"""Parts of a request's time, as the gateway's `Server-Timing` tells them of real requests."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import httpx
import numpy as np

from pipeline_tasks.catalog.items import ItemRepository
from pipeline_tasks.errors import ConfigError, ServiceUnavailable
from pipeline_tasks.orchestration.resources import Resources

MAX_ITEMS = 32
WARM_UP_SHARE = 10  # one in so many requests warms connections and caches and is not counted
TIMEOUT_SECONDS = 30.0
SHARES = {"p50_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99}

Payload = tuple[bytes, str]  # an item's bytes and media type


def measure(
    parts: Resources, project: str, *, num_requests: int, file: Payload | None, monotonic: Callable[[], float]
) -> dict[str, Any]:
    """Send requests one after the other and return quantiles of each part, and of the whole, in milliseconds.

    Raises:
        ConfigError: there is nothing to ask about.
        ServiceUnavailable: an answer was not 200.
    """
    payloads = [file] if file is not None else _items(parts, project)
    url = f"{parts.settings.gateway_url}/v1/projects/{project}/predict"
    key = (parts.settings.home / "secrets" / "gateway_api_key").read_text().strip()
    headers = {"Authorization": f"Bearer {key}", "X-User-Key": "dethrone-latency"}
    rows = []
    with httpx.Client(trust_env=False, timeout=TIMEOUT_SECONDS, headers=headers) as client:
        for data, media_type in itertools.islice(
            itertools.cycle(payloads), num_requests + num_requests // WARM_UP_SHARE
        ):
            began = monotonic()
            try:
                response = client.post(url, content=data, headers={"Content-Type": media_type})
            except httpx.HTTPError as error:
                raise ServiceUnavailable(
                    f"the gateway must answer (got {type(error).__name__}). Look at `dethrone status`."
                ) from error
            milliseconds = (monotonic() - began) * 1000
            if response.status_code != 200:
                raise ServiceUnavailable(f"{url} must answer 200 (got {response.status_code}: {response.text[:200]}).")
            rows.append(split(milliseconds, response.headers.get("Server-Timing", "")))
    return {"project": project, "num_requests": num_requests, "parts": quantiles(rows[-num_requests:])}


def _items(parts: Resources, project: str) -> list[Payload]:
    items = itertools.islice(ItemRepository(parts.database).iterate(project), MAX_ITEMS)
    payloads = [(parts.store.get_range(item.location), item.media_type) for item in items]
    if not payloads:
        raise ConfigError(f"{project} must have an item to ask about (got none). Give one with --file.")
    return payloads


def split(milliseconds: float, header: str) -> dict[str, float]:
    """Divide one request's time; what nobody claims is the difference to the next larger whole."""
    told = {name: float(value) for name, value in re.findall(r"([a-z]+);dur=([0-9.]+)", header)}
    read, check, inference, log, total = (
        told.get(name, 0.0) for name in ("read", "check", "inference", "log", "total")
    )
    inside = {f"model server: {name}": told[name] for name in ("queue", "decode", "model") if name in told}
    return {
        "caller and network": milliseconds - total,
        "gateway: read the body": read,
        "gateway: check the item": check,
        "gateway: log": log,
        "gateway: the rest": total - read - check - inference - log,
        "hop to the model server, and what it does not tell": inference - sum(inside.values()),
        **inside,
        "all, as the caller sees it": milliseconds,
    }


def quantiles(rows: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Return part -> its quantiles (nearest rank), a part that a request does not have as 0."""
    names = dict.fromkeys(name for row in sorted(rows, key=len, reverse=True) for name in row)
    values = {name: [row.get(name, 0.0) for row in rows] for name in names}
    return {
        name: {
            key: round(float(np.quantile(values[name], share, method="inverted_cdf")), 3)
            for key, share in SHARES.items()
        }
        for name in names
    }


def as_text(figures: Mapping[str, Any]) -> str:
    """Return the report as a table."""
    head = f"{figures['project']}: {figures['num_requests']} requests, one after the other; milliseconds"
    titles = f"{'':52}{'p50':>9}{'p95':>9}{'p99':>9}"
    rows = (
        f"{name:52}" + "".join(f"{values[key]:9.2f}" for key in SHARES) for name, values in figures["parts"].items()
    )
    return "\n".join([head, titles, *rows])
