"""Numbers of items in one pass, and of those that may wait.

Measured when a release is built, kept beside its model, read when it starts.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

TUNING_NAME = "serving.json"
FORMAT_VERSION = 1
SIZES = (1, 2, 4, 8, 16, 32, 64)
ROUNDS = 5
# A request that just missed a pass waits for it and takes the next one: twice this is the time of a busy service.
LATENCY_BUDGET_SECONDS = 0.1
WORTH_WAITING_FOR = 1.05
# A second of work may wait: more would be answered after its caller has given up, less sheds what a burst brings.
QUEUE_SECONDS = 1.0
MIN_QUEUE, MAX_QUEUE = 128, 4096
# An item that takes no longer is predicted in the event loop when it is alone: nothing else is kept waiting by that.
LONE_SECONDS = 0.005


class MeasuredModel(Protocol):
    """The part of a model that is measured."""

    def example(self) -> Any:
        """Return a decoded item."""

    def predict(self, items: Sequence[Any]) -> Any:
        """Return the items' probabilities."""


@dataclasses.dataclass(frozen=True, slots=True)
class Tuning:
    """The sizes that a service works with, and the times (seconds of a pass, by its size) that they come from."""

    max_batch_size: int = 16
    max_queue: int = 128
    seconds_by_size: Mapping[int, float] = dataclasses.field(default_factory=dict)

    @property
    def lone_here(self) -> bool:
        """Return whether an item that is alone is predicted in the event loop."""
        return self.seconds_by_size.get(1, LONE_SECONDS + 1) <= LONE_SECONDS


def measure(
    model: MeasuredModel,
    *,
    clock: Callable[[], float],
    sizes: Sequence[int] = SIZES,
    budget_seconds: float = LATENCY_BUDGET_SECONDS,
    rounds: int = ROUNDS,
) -> dict[int, float]:
    """Return the median seconds of a pass by its size, up to the first size that takes more than the budget.

    The rounds go over all sizes in turn, so that a slow moment of the machine meets them alike.
    """
    batches = {}
    for size in sizes:
        batch = [model.example()] * size
        model.predict(batch)
        batches[size] = batch
        if _seconds(model, batch, clock=clock) > budget_seconds:
            break
    times: dict[int, list[float]] = {size: [] for size in batches}
    for _ in range(rounds):
        for size, batch in batches.items():
            times[size].append(_seconds(model, batch, clock=clock))
    return {size: statistics.median(seconds) for size, seconds in times.items()}


def _seconds(model: MeasuredModel, batch: Sequence[Any], *, clock: Callable[[], float]) -> float:
    began = clock()
    model.predict(batch)
    return clock() - began


def choose(seconds_by_size: Mapping[int, float], *, budget_seconds: float = LATENCY_BUDGET_SECONDS) -> Tuning:
    """Return the tuning with the smallest size that is within 5 % of the best throughput inside the budget."""
    fitting = {size: seconds for size, seconds in seconds_by_size.items() if seconds <= budget_seconds}
    fitting = fitting or {min(seconds_by_size): seconds_by_size[min(seconds_by_size)]}
    rates = {size: size / max(seconds, 1e-9) for size, seconds in fitting.items()}
    best = max(rates.values())
    size = min(size for size, rate in rates.items() if rate * WORTH_WAITING_FOR >= best)
    max_queue = min(max(int(rates[size] * QUEUE_SECONDS), MIN_QUEUE), MAX_QUEUE)
    return Tuning(size, max_queue, dict(seconds_by_size))


def save_tuning(tuning: Tuning, folder: Path) -> None:
    """Write the tuning beside a release's model."""
    document = {"format_version": FORMAT_VERSION, **dataclasses.asdict(tuning)}
    (folder / TUNING_NAME).write_text(json.dumps(document, indent=1) + "\n")


def load_tuning(folder: Path, *, text: str | None = None) -> Tuning:
    """Return the release's tuning, or the default where it has none or one that cannot be meant.

    `text` is what the environment says instead of the file beside the model.
    """
    try:
        document = json.loads((folder / TUNING_NAME).read_text() if text is None else text)
        size, queue = int(document["max_batch_size"]), int(document["max_queue"])
        times = {int(key): float(value) for key, value in document["seconds_by_size"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return Tuning()
    sizes_fit = 1 <= size <= 1024 and size <= queue <= 65_536
    if document.get("format_version") != FORMAT_VERSION or not sizes_fit:
        return Tuning()
    return Tuning(size, queue, times)


def warm_sizes(max_batch_size: int) -> list[int]:
    """Return the batch sizes to warm up: all that can occur."""
    return list(range(1, max_batch_size + 1))
