"""Cost of the gateway's metrics: CPU time of what one request counts, and of one scrape.

python -m benchmarks.gateway_metrics
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from bento_services.gateway.metrics import GatewayMetrics

ROUNDS, REQUESTS, SCRAPES = 5, 50_000, 500


def main() -> None:
    """Print medians of the rounds in microseconds of CPU time."""
    metrics = GatewayMetrics()
    for number in range(20):
        metrics.add("dethrone_refused_total", code=f"CODE_{number}")
    gauges = [(f"dethrone_gauge_{number}", 1.0, {"deployment": "d"}) for number in range(10)]

    def served() -> None:
        metrics.record_outcome("logged")
        metrics.observe(0.004)

    def refused() -> None:
        metrics.add("dethrone_refused_total", code="OVERLOADED")
        metrics.observe(0.0)

    for name, work, times in (
        ("a served request", served, REQUESTS),
        ("a refused request", refused, REQUESTS),
        ("a scrape", lambda: metrics.render(gauges), SCRAPES),
    ):
        print(f"{name:20}{statistics.median(_microseconds(work, times) for _ in range(ROUNDS)):9.2f} us")


def _microseconds(work: Callable[[], object], times: int) -> float:
    began = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - began) / times * 1e6


if __name__ == "__main__":
    main()
