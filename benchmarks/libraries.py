"""Libraries beside own code (ADR 30): the largest difference of what both compute, and what each takes.

    python benchmarks/libraries.py

Wilson intervals and Jensen-Shannon distances of scipy, cron expressions and the import of croniter. An import is timed
in three new processes; the least counts.
"""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
import time
from collections.abc import Callable

from croniter import croniter
from scipy import stats

from pipeline_tasks.core.proportions import wilson_interval
from pipeline_tasks.project.checks import is_cron
from pipeline_tasks.validation.check_tables import js_distance

TIMED = 500
NUM_EXPRESSIONS = 20_000
FIELDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))


def milliseconds(call: Callable[[], object]) -> float:
    """Return what a call takes on average."""
    begin = time.perf_counter()
    for _ in range(TIMED):
        call()
    return (time.perf_counter() - begin) * 1000 / TIMED


def wilson() -> str:
    """Compare the intervals of whole counts."""
    worst, different, total = 0.0, 0, 0
    for trials, confidence in itertools.product(
        [*range(1, 120), 500, 1000, 9999, 10**6], [0.5, 0.9, 0.95, 0.99, 0.9999]
    ):
        for successes in sorted({0, 1, trials // 3, trials // 2, trials - 1, trials}):
            ours = wilson_interval(successes, trials, confidence=confidence)
            other = stats.binomtest(successes, trials).proportion_ci(confidence, method="wilson")
            worst = max(worst, abs(ours.low - other.low), abs(ours.high - other.high))
            different += (ours.low, ours.high) != (other.low, other.high)
            total += 1
    own = milliseconds(lambda: wilson_interval(70, 100))
    scipys = milliseconds(lambda: stats.binomtest(70, 100).proportion_ci(0.95, method="wilson"))
    return f"Wilson: {different} of {total} differ, by {worst:.1e} at most; {own:.2f} ms, scipy {scipys:.2f} ms"


def jensen_shannon(generator: random.Random) -> str:
    """Look for a distance of proportional counts that is not 0."""
    wrong = 0
    for _ in range(40_000):
        counts = {str(name): generator.randint(1, 999) for name in range(generator.randint(1, 20))}
        factor = generator.randint(2, 97)
        wrong += js_distance(counts, {name: count * factor for name, count in counts.items()}) != 0.0
    return f"Jensen-Shannon: {wrong} of 40000 distances of proportional counts are not 0"


def cron(generator: random.Random) -> str:
    """Count the expressions that only one of the two takes."""
    taken, only_ours, only_croniters = 0, 0, 0
    for _ in range(NUM_EXPRESSIONS):
        expression = " ".join(_field(generator, *limits) for limits in FIELDS)
        ours, other = is_cron(expression), croniter.is_valid(expression)
        taken += ours
        only_ours += ours and not other
        only_croniters += other and not ours
    program = "import time; t = time.perf_counter(); import croniter; print(time.perf_counter() - t)"
    seconds = min(float(subprocess.check_output([sys.executable, "-c", program])) for _ in range(3))
    text = f"cron: {taken} of {NUM_EXPRESSIONS} taken, {only_ours} of them not by croniter, {only_croniters} more by it"
    return f"{text}; import of croniter {seconds * 1000:.0f} ms"


def _field(generator: random.Random, low: int, high: int) -> str:
    first, second, step = generator.randint(low, high), generator.randint(low, high), generator.randint(1, 70)
    return generator.choice(["*", f"{first}", f"{first}-{second}", f"*/{step}", f"{first}-{second}/{step}"])


def main() -> None:
    """Print a line for each."""
    generator = random.Random(1)
    print(wilson())
    print(jensen_shannon(generator))
    print(cron(generator))


if __name__ == "__main__":
    main()
