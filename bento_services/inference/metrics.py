"""Counters and histograms as Prometheus text, for one event loop.

Not prometheus_client: in the multi-process mode that BentoML sets up, one count costs ten times as much.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)

HELP = {
    "dethrone_requests_total": "Requests answered, by HTTP status",
    "dethrone_items_total": "Items answered, by code: OK, or why there is no prediction",
    "dethrone_batches_total": "Passes of the model, by reason: full, or the model was free",
}


@dataclasses.dataclass(slots=True)
class Histogram:
    """Counts of values that were at most each edge."""

    name: str
    text: str
    edges: Sequence[float]
    counts: list[int] = dataclasses.field(init=False)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.edges) + 1)

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.edges, value)] += 1
        self.total += value

    def lines(self) -> list[str]:
        """Return the exposition of this histogram."""
        lines, seen = [f"# HELP {self.name} {self.text}", f"# TYPE {self.name} histogram"], 0
        for edge, count in zip((*map(float, self.edges), "+Inf"), self.counts, strict=True):
            seen += count
            lines.append(f'{self.name}_bucket{{le="{edge}"}} {seen}')
        return [*lines, f"{self.name}_sum {self.total:.6f}", f"{self.name}_count {seen}"]


class InferenceMetrics:
    """Counts of the service from the end of its warm-up on; also the batcher's observer."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget what the warm-up counted."""
        self.requests: Counter[int] = Counter()
        self.items: Counter[str] = Counter({"OK": 0})
        self.batches: Counter[str] = Counter({"full": 0, "free": 0})
        self.request_seconds = Histogram("dethrone_request_seconds", "Time to answer a request", SECONDS)
        self.wait_seconds = Histogram("dethrone_batch_wait_seconds", "A request's wait for its first pass", SECONDS)
        self.batch_size = Histogram("dethrone_batch_size", "Items predicted together", SIZES)
        self.pass_seconds = Histogram("dethrone_pass_seconds", "Time of a pass of the model", SECONDS)

    def answered(self, status: int, *, seconds: float) -> None:
        """Count one request."""
        self.requests[status] += 1
        self.request_seconds.observe(seconds)

    def waited(self, seconds: float) -> None:
        self.wait_seconds.observe(seconds)

    def passed(self, size: int, *, reason: str) -> None:
        self.batch_size.observe(size)
        self.batches[reason] += 1

    def took(self, seconds: float) -> None:
        self.pass_seconds.observe(seconds)

    def render(self, gauges: Mapping[str, float], *, info: Mapping[str, str]) -> str:
        """Return the exposition text; `gauges` are read by the caller at the time of the scrape."""
        labels = ",".join(f'{name}="{value}"' for name, value in info.items())
        lines = ["# TYPE dethrone_model_info gauge", f"dethrone_model_info{{{labels}}} 1"]
        lines += _counter("dethrone_requests_total", "status", self.requests)
        lines += _counter("dethrone_items_total", "code", self.items)
        lines += _counter("dethrone_batches_total", "reason", self.batches)
        for histogram in (self.request_seconds, self.wait_seconds, self.batch_size, self.pass_seconds):
            lines += histogram.lines()
        for name, value in sorted(gauges.items()):
            lines += [f"# TYPE {name} gauge", f"{name} {value}"]
        return "\n".join(lines) + "\n"


def _counter(name: str, label: str, counts: Mapping[Any, int]) -> list[str]:
    head = [f"# HELP {name} {HELP[name]}", f"# TYPE {name} counter"]
    return [*head, *(f'{name}{{{label}="{key}"}} {counts[key]}' for key in sorted(counts))]
