"""Counters and one histogram, as Prometheus text. Exact: `served = logged + dropped + failed` at every scrape."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from typing import Literal

BUCKETS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class GatewayMetrics:
    """Counts of the gateway since its start; shared by the event loop and the shipping thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter()
        self._buckets = [0] * (len(BUCKETS_SECONDS) + 1)
        self._sum_seconds = 0.0

    def add(self, name: str, amount: int = 1, *, label: str = "") -> None:
        """Count; `label` is Prometheus text such as `code="RATE_LIMITED"`."""
        with self._lock:
            self._counts[name, label] += amount

    def record_outcome(self, outcome: Outcome) -> None:
        """Count one served prediction together with what became of its record: no scrape sees only half."""
        with self._lock:
            self._counts["dethrone_predictions_served_total", ""] += 1
            self._counts[f"dethrone_predictions_{outcome}_total", ""] += 1

    def observe(self, seconds: float) -> None:
        """Add one request's time to the histogram."""
        index = next((i for i, edge in enumerate(BUCKETS_SECONDS) if seconds <= edge), len(BUCKETS_SECONDS))
        with self._lock:
            self._buckets[index] += 1
            self._sum_seconds += seconds

    def get(self, name: str, *, label: str = "") -> int:
        with self._lock:
            return self._counts[name, label]

    def render(self, gauges: Mapping[str, float]) -> str:
        """Return the exposition text; `gauges` are read by the caller at the time of the scrape."""
        with self._lock:
            counts, buckets, total = dict(self._counts), list(self._buckets), self._sum_seconds
        for name in ("served", "logged", "dropped", "failed"):
            counts.setdefault((f"dethrone_predictions_{name}_total", ""), 0)
        lines = [_line(name, label, value) for (name, label), value in sorted(counts.items())]
        return "\n".join([*lines, *_histogram(buckets, total), *_gauges(gauges)]) + "\n"


def _line(name: str, label: str, value: float) -> str:
    return f"{name}{{{label}}} {value}" if label else f"{name} {value}"


def _gauges(gauges: Mapping[str, float]) -> list[str]:
    return [f"{name} {value}" for name, value in sorted(gauges.items())]


def _histogram(buckets: list[int], total_seconds: float) -> list[str]:
    name, seen, lines = "dethrone_request_seconds", 0, []
    for edge, count in zip((*BUCKETS_SECONDS, "+Inf"), buckets, strict=True):
        seen += count
        lines.append(f'{name}_bucket{{le="{edge}"}} {seen}')
    return [*lines, f"{name}_sum {total_seconds:.6f}", f"{name}_count {seen}"]


Outcome = Literal["logged", "dropped", "failed"]
