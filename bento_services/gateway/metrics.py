"""Counters, gauges and one histogram, as Prometheus text. `served = logged + dropped + failed` at every scrape.

That holds since predictions are counted and scrapes answered in the event loop; the shipping thread has other counters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

BUCKETS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
HELP = "See bento_services/gateway/README.md."

Outcome = Literal["logged", "dropped", "failed"]
Measured = tuple[str, float, dict[str, str]]  # name, value, labels


class GatewayMetrics:
    """Counts of the gateway since its start."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self._counters: dict[str, Any] = {}
        self._seconds = Histogram(
            "dethrone_request_seconds", "Time to answer a request", buckets=BUCKETS_SECONDS, registry=self._registry
        )
        for outcome in ("served", "logged", "dropped", "failed"):
            self.add(f"dethrone_predictions_{outcome}_total", 0)

    def add(self, name: str, amount: int = 1, **labels: str) -> None:
        """Count."""
        _series(self._counters, Counter, name, labels, self._registry).inc(amount)

    def record_outcome(self, outcome: Outcome) -> None:
        """Count one served prediction together with what became of its record."""
        self.add("dethrone_predictions_served_total")
        self.add(f"dethrone_predictions_{outcome}_total")

    def observe(self, seconds: float) -> None:
        """Add one request's time to the histogram."""
        self._seconds.observe(seconds)

    def get(self, name: str, **labels: str) -> float:
        return self._registry.get_sample_value(name, labels) or 0.0

    def render(self, gauges: Iterable[Measured]) -> str:
        """Return the exposition text; `gauges` are read by the caller at the time of the scrape."""
        registry, made = CollectorRegistry(), dict[str, Any]()
        for name, value, labels in gauges:
            _series(made, Gauge, name, labels, registry).set(value)
        return (generate_latest(self._registry) + generate_latest(registry)).decode()


def _series(
    made: dict[str, Any], kind: type[Counter | Gauge], name: str, labels: Mapping[str, str], registry: CollectorRegistry
) -> Any:
    """Return the one with these labels, of the metric that its first value begins."""
    metric = made.get(name)
    if metric is None:
        metric = made[name] = kind(name, HELP, tuple(labels), registry=registry)
    return metric.labels(**labels) if labels else metric
