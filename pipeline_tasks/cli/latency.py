"""Parts of a request's time: real requests through the gateway, beside the same ones to the model's server."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from pipeline_tasks.catalog.items import ItemRepository
from pipeline_tasks.catalog.routes import ServingRepository
from pipeline_tasks.errors import ConfigError, ServiceUnavailable
from pipeline_tasks.orchestration.resources import Resources

MAX_ITEMS = 32
WARM_UP_SHARE = 10  # one in so many requests warms connections and caches and is not counted
USER_KEY = "dethrone-latency"
TIMEOUT_SECONDS = 30.0
# As the gateway names its parts in `Server-Timing`; what it passes on from the inference service.
GATEWAY_PARTS = ("read", "check", "inference", "log")
INFERENCE_PARTS = ("queue", "decode", "model")
# Sums and counts of the model server's own histograms -> what they are the time of.
COUNTERS = {"dethrone_batch_wait_seconds": "queue_wait_mean_ms", "dethrone_pass_seconds": "pass_mean_ms"}
MEANS = {"queue_wait_mean_ms": "waiting for a pass", "pass_mean_ms": "the model's pass"}
_PART = re.compile(r"\s*([a-z]+)\s*;\s*dur=([0-9.]+)\s*")
_NUMBER = re.compile(r"[0-9.]+(?:e[+-]?[0-9]+)?")


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """One request: seconds as the caller saw them, and by part as the gateway told them."""

    seconds: float
    parts: Mapping[str, float]


@dataclasses.dataclass(frozen=True, slots=True)
class Payload:
    """An item as a request carries it."""

    data: bytes
    media_type: str


def measure(
    parts: Resources, project: str, *, num_requests: int, file: Payload | None, monotonic: Callable[[], float]
) -> dict[str, Any]:
    """Send requests one after the other, in turn through the gateway and directly, and return where their time went.

    Raises:
        ConfigError: there is nothing to ask about.
        ServiceUnavailable: an answer was not 200.
    """
    payloads = [file] if file is not None else _items(parts, project)
    key = (parts.settings.home / "secrets" / "gateway_api_key").read_text().strip()
    route = ServingRepository(parts.database).head_route(project)
    champion = (
        next((entry for entry in route.entries if entry.model_version == route.champion_version), None)
        if route
        else None
    )
    address = None if champion is None else champion.address
    with httpx.Client(trust_env=False, timeout=TIMEOUT_SECONDS) as client:
        asks = _asks(client, parts, project, key=key, address=address, monotonic=monotonic)
        own = parts.settings.inference_headers
        before = _counters(client, address, own)
        through, direct = _alternate(asks, payloads, num_requests=num_requests)
        means = counter_means(before, _counters(client, address, own))
    return {"project": project, "num_requests": len(through), **report(through, direct), "model_server": means}


def payload_of(path: Path, *, media_type: str) -> Payload:
    """Return a file as what to ask about."""
    if not path.is_file():
        raise ConfigError(f"--file must exist (got {path}).")
    return Payload(path.read_bytes(), media_type)


def _items(parts: Resources, project: str) -> list[Payload]:
    items = itertools.islice(ItemRepository(parts.database).iterate(project), MAX_ITEMS)
    payloads = [Payload(parts.store.get_range(item.location), item.media_type) for item in items]
    if not payloads:
        raise ConfigError(f"{project} must have an item to ask about (got none). Give one with --file.")
    return payloads


Ask = Callable[[Payload], Sample]


def _asks(
    client: httpx.Client,
    parts: Resources,
    project: str,
    *,
    key: str,
    address: str | None,
    monotonic: Callable[[], float],
) -> tuple[Ask, Ask | None]:
    """Return how to ask the gateway, and how to ask the champion's own server if it can be reached from here."""
    headers = {"Authorization": f"Bearer {key}", "X-User-Key": USER_KEY}
    gateway = f"{parts.settings.gateway_url}/v1/projects/{project}/predict"

    def ask(url: str, payload: Payload, sent: Mapping[str, str]) -> Sample:
        began = monotonic()
        response = client.post(url, content=payload.data, headers={**sent, "Content-Type": payload.media_type})
        seconds = monotonic() - began
        if response.status_code != 200:
            raise ServiceUnavailable(f"{url} must answer 200 (got {response.status_code}: {response.text[:200]}).")
        return Sample(seconds, parse_timing(response.headers.get("server-timing", "")))

    def through(payload: Payload) -> Sample:
        return ask(gateway, payload, headers)

    def direct(payload: Payload) -> Sample:
        return ask(f"{address}/predict", payload, parts.settings.inference_headers)

    return through, None if address is None else direct


def _alternate(
    asks: tuple[Ask, Ask | None], payloads: Sequence[Payload], *, num_requests: int
) -> tuple[list[Sample], list[Sample]]:
    """Ask both ways in turn, so that a slow minute of the machine falls on both."""
    through, direct = asks
    samples: tuple[list[Sample], list[Sample]] = ([], [])
    reachable = direct is not None
    for payload in itertools.islice(itertools.cycle(payloads), num_requests + num_requests // WARM_UP_SHARE):
        try:
            samples[0].append(through(payload))
        except httpx.HTTPError as error:
            raise ServiceUnavailable(
                f"the gateway must answer (got {type(error).__name__}). Look at `dethrone status`."
            ) from error
        if direct is not None and reachable:
            try:
                samples[1].append(direct(payload))
            except (httpx.HTTPError, ServiceUnavailable):
                reachable = False  # its address may be one of another machine's loopback: the gateway's word remains
    return samples[0][-num_requests:], samples[1][-num_requests:] if reachable else []


def _counters(client: httpx.Client, address: str | None, headers: Mapping[str, str]) -> dict[str, float]:
    """Return the model server's metrics, summed over labels; none where it cannot be reached."""
    if address is None:
        return {}
    try:
        lines = client.get(f"{address}/metrics", headers=headers).text.splitlines()
    except httpx.HTTPError:
        return {}
    counters: dict[str, float] = {}
    for line in lines:
        name, _, value = line.rpartition(" ")
        if not line.startswith("#") and _NUMBER.fullmatch(value):
            bare = name.partition("{")[0]
            counters[bare] = counters.get(bare, 0.0) + float(value)
    return counters


def counter_means(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Return the mean times that the model server counted between two readings, in milliseconds."""
    means = {}
    for name, title in COUNTERS.items():
        seconds = after.get(f"{name}_sum", 0.0) - before.get(f"{name}_sum", 0.0)
        number = after.get(f"{name}_count", 0.0) - before.get(f"{name}_count", 0.0)
        if number > 0:
            means[title] = round(seconds / number * 1000, 3)
    return means


def parse_timing(text: str) -> dict[str, float]:
    """Return the parts of a `Server-Timing` header in seconds."""
    matches = (_PART.fullmatch(part) for part in text.split(","))
    return {match[1]: float(match[2]) / 1000 for match in matches if match is not None}


def report(through: Sequence[Sample], direct: Sequence[Sample]) -> dict[str, Any]:
    """Return quantiles in milliseconds by part; the parts of one request add up to what its caller saw."""
    rows = [split(sample) for sample in through]
    names = list(dict.fromkeys(name for row in rows for name in row))
    whole = [sample.seconds for sample in through]
    straight = [sample.seconds for sample in direct]
    return {
        "parts": [{"part": name, **quantiles(row.get(name, 0.0) for row in rows)} for name in names],
        "through_gateway": quantiles(whole),
        "direct": quantiles(straight) if straight else None,
        "gateway_adds_p50_ms": round((quantile(whole, 0.5) - quantile(straight, 0.5)) * 1000, 3) if straight else None,
        "inference_tells": any(name in sample.parts for sample in through for name in INFERENCE_PARTS),
    }


def split(sample: Sample) -> dict[str, float]:
    """Divide one request's time; what nobody claims is the difference to the next larger whole."""
    told = sample.parts
    total = told.get("total", 0.0)
    inside = sum(told.get(name, 0.0) for name in INFERENCE_PARTS)
    parts = {
        "caller and network": sample.seconds - total,
        "gateway: read the body": told.get("read", 0.0),
        "gateway: check the item": told.get("check", 0.0),
        "gateway: log": told.get("log", 0.0),
        "gateway: the rest": total - sum(told.get(name, 0.0) for name in GATEWAY_PARTS),
    }
    if inside == 0.0:
        return parts | {"hop, queue and model": told.get("inference", 0.0)}
    return (
        parts
        | {"hop to the model and back": told.get("inference", 0.0) - inside}
        | {f"model server: {name}": told.get(name, 0.0) for name in INFERENCE_PARTS}
    )


def quantiles(seconds: Iterable[float]) -> dict[str, float]:
    """Return median, 95th and 99th percentile in milliseconds."""
    values = list(seconds)
    return {f"p{int(share * 100)}_ms": round(quantile(values, share) * 1000, 3) for share in (0.5, 0.95, 0.99)}


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least this share of the values does not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def as_text(figures: Mapping[str, Any]) -> str:
    """Return the report as a table."""
    return "\n".join(_lines(figures))


def _lines(figures: Mapping[str, Any]) -> Iterator[str]:
    yield f"{figures['project']}: {figures['num_requests']} requests, one after the other; milliseconds"
    yield f"{'':28}{'p50':>9}{'p95':>9}{'p99':>9}"
    for row in figures["parts"]:
        yield _row(row["part"], row)
    yield _row("all, as the caller sees it", figures["through_gateway"])
    if figures["direct"] is None:
        yield "The model's server cannot be asked directly from here."
    else:
        yield _row("the model's server alone", figures["direct"])
        yield f"The gateway adds {figures['gateway_adds_p50_ms']:.2f} ms to the median."
    if figures["model_server"]:
        said = ", ".join(f"{MEANS[name]} {value:.2f} ms" for name, value in figures["model_server"].items())
        yield f"By the model server's own counters, over both ways: {said} on average."
    elif not figures["inference_tells"]:
        yield "This release does not tell queue and model apart."


def _row(name: str, values: Mapping[str, float]) -> str:
    return f"{name:28}{values['p50_ms']:9.2f}{values['p95_ms']:9.2f}{values['p99_ms']:9.2f}"
