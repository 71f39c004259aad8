"""Our inference service below and above its capacity: open loop, so that no slow answer holds back the next request.

    python benchmarks/overload.py                 60 s of overload (about 3 minutes in all)
    python benchmarks/overload.py --quick         20 s of overload
    python benchmarks/overload.py --model text --deadline-ms 500
    python benchmarks/overload.py --gateway       through the gateway, on two cores

Capacity is what 64 clients get who each ask again when they have their answer. Then callers arrive by chance (Poisson):
at 50 % and at 65 % of it, and at three times of it. Every caller gives the service a deadline. Goodput is answers in
time per second, set beside the median capacity of before and after: minutes later a shared machine may be another one.
The memory is that of the whole process tree; recovered is when, after the overload, half a second goes by in which
everybody is answered and 99 % within 100 ms.

The server has core 0, the load generator core 1; what of its core the generator needs is printed: far below 100 %, it
is not what saturates. With --gateway the inference service has core 0, and the gateway shares core 1 with the
generator; callers send PNG files, and every prediction is logged. Where a target is missed the script says so
and exits 1.
"""

from __future__ import annotations

import argparse
import base64
import json
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import serving
import serving_models as models
from serving_peers import PEERS

CAPACITY_CLIENTS, CAPACITY_WINDOWS = 64, 3
HALF, MORE = 0.5, 0.65
OVERLOAD, OVERLOAD_SECONDS, QUICK_SECONDS = 3.0, 60.0, 20.0
STEADY_SECONDS, REST_SECONDS = 20.0, 6.0
HALF_P99_MS, MORE_P99_MS = 60.0, 100.0
GOODPUT_SHARE, RECOVERY_SECONDS = 0.9, 2.0
CALM_SECONDS, CALM_MS = 0.5, 100.0
MEMORY_SHARE = 1.05  # how much the second half of an overload may take above the end of its first quarter
OURS, GATEWAY = (next(peer for peer in PEERS if peer.key == key) for key in ("ours", "gateway"))

Sent = tuple[float, int, float]


def main() -> int:
    arguments = parse()
    seconds = arguments.seconds or (QUICK_SECONDS if arguments.quick else OVERLOAD_SECONDS)
    peer = GATEWAY if arguments.gateway else OURS
    with tempfile.TemporaryDirectory(prefix="dethrone-overload-") as folder:
        scratch = Path(folder)
        models.build(arguments.model, scratch, runtimes=("eager",))
        items, expected = models.items(arguments.model, scratch, runtime="eager")
        asks = [peer.ask(arguments.model, item) for item in items]
        with serving.running(peer, Path(sys.executable), arguments.model, scratch) as pid:
            serving.check(peer, asks, expected)
            windows = capacity_windows(asks, pid=pid)
            capacity = statistics.median(windows)
            phases = [
                {"rate": HALF * capacity, "seconds": STEADY_SECONDS},
                {"rate": MORE * capacity, "seconds": STEADY_SECONDS},
                {"rate": OVERLOAD * capacity, "seconds": seconds},
                {"rate": HALF * capacity, "seconds": REST_SECONDS},
            ]
            seen = drive(asks, phases, pid=pid, deadline_ms=arguments.deadline_ms)
            windows += capacity_windows(asks, pid=pid)
    told = ", ".join(f"{window:.0f}" for window in windows)
    serving.say(f"capacity, {CAPACITY_CLIENTS} clients in a closed loop, before and after: {told} requests per second")
    capacity = statistics.median(windows)
    return report(seen, capacity=capacity, deadline_seconds=arguments.deadline_ms / 1000)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("image", "text", "none"), default="image")
    parser.add_argument("--seconds", type=float, help=f"of overload ({OVERLOAD_SECONDS:g})")
    parser.add_argument("--gateway", action="store_true", help="through the gateway")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_SECONDS:g} s of overload")
    parser.add_argument("--deadline-ms", type=int, default=1000, help="what each caller gives the service (1000)")
    return parser.parse_args()


def capacity_windows(asks: Sequence[tuple[str, dict[str, str], bytes]], *, pid: int) -> list[float]:
    windows = [
        serving.load(asks, pid=pid, clients=CAPACITY_CLIENTS, windows=serving.FULL) for _ in range(CAPACITY_WINDOWS)
    ]
    return [float(window["per_second"]) for window in windows]


def drive(
    asks: Sequence[tuple[str, dict[str, str], bytes]], phases: Sequence[dict[str, float]], *, pid: int, deadline_ms: int
) -> dict[str, Any]:
    """Run the phases from the generator's core."""
    deadline = {"X-Request-Timeout-Ms": str(deadline_ms)}
    plan = {
        "port": serving.PORT,
        "path": asks[0][0],
        "requests": [
            {"headers": headers | deadline, "body": base64.b64encode(body).decode()} for _, headers, body in asks
        ],
        "phases": list(phases),
        "pid": pid,
    }
    command = ["taskset", "-c", serving.LOAD_CORE, sys.executable, str(Path(__file__).with_name("open_load.py"))]
    ran = subprocess.run(command, input=json.dumps(plan), capture_output=True, text=True, check=False)
    if ran.returncode:
        raise serving.NoAnswerError(f"the load generator failed: {ran.stderr[-300:]}")
    return dict(json.loads(ran.stdout))


def report(seen: dict[str, Any], *, capacity: float, deadline_seconds: float) -> int:
    """Print what was seen beside the targets; return how many were missed, as an exit code."""
    half, more, over, rest = seen["phases"]
    for name, row in (("50 %", half), ("65 %", more), (f"{OVERLOAD:g} times", over), ("50 % after it", rest)):
        serving.say(f"{name}: {summary(row['sent'])}, generator {100 * row['generator_cpu']:.0f} % of its core")
    serving.say(f"connections at most: {seen['most_connections']}")
    accepted = [latency for _, status, latency in over["sent"] if status == 200]
    good = sum(latency <= deadline_seconds for latency in accepted) / over["sent"][-1][0]
    early, late = memory_growth(over["memory_mib"])
    healed = recovery(rest["sent"])
    return verdicts(
        [
            ("p99 at 50 % in ms", p99_ms(half["sent"]), HALF_P99_MS, below),
            ("p99 at 65 % in ms", p99_ms(more["sent"]), MORE_P99_MS, below),
            ("goodput by capacity at three times of it", good / capacity, GOODPUT_SHARE, above),
            ("p99 of the accepted in ms", 1000 * quantile(accepted, 0.99), 1000 * deadline_seconds, below),
            (f"memory, late ({late:.0f} MiB) by early ({early:.0f} MiB)", late / early, MEMORY_SHARE, below),
            ("seconds to recover", healed, RECOVERY_SECONDS, below),
            ("generator's share of its core", max(phase["generator_cpu"] for phase in seen["phases"]), 0.8, below),
        ]
    )


def below(value: float, target: float) -> bool:
    return value <= target


def above(value: float, target: float) -> bool:
    return value >= target


def verdicts(rows: Sequence[tuple[str, float, float, Callable[[float, float], bool]]]) -> int:
    missed = [name for name, value, target, fits in rows if not fits(value, target)]
    for name, value, target, fits in rows:
        serving.say(f"{name}: {value:.3g}, target {target:g}: {'met' if fits(value, target) else 'MISSED'}")
    return 1 if missed else 0


def summary(sent: Sequence[Sent]) -> str:
    """Return how many requests came and what became of them, in words."""
    statuses = Counter(status for _, status, _ in sent)
    told = ", ".join(f"{statuses[key]} x {key or 'no answer'}" for key in sorted(statuses))
    good = [latency for _, status, latency in sent if status == 200]
    times = f"p50 {1000 * quantile(good, 0.5):.1f} p99 {1000 * quantile(good, 0.99):.1f} ms" if good else "none good"
    return f"{len(sent) / sent[-1][0]:.0f}/s offered, {told}; of the answers {times}"


def quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(int(len(values) * share), len(values) - 1)] if values else float("inf")


def p99_ms(sent: Sequence[Sent]) -> float:
    """Return the 99th percentile over all requests; one without a good answer took for ever."""
    return 1000 * quantile([latency if status == 200 else float("inf") for _, status, latency in sent], 0.99)


def memory_growth(samples: Sequence[float]) -> tuple[float, float]:
    """Return the most memory in the first quarter, and in the second half."""
    return max(samples[: max(1, len(samples) // 4)]), max(samples[len(samples) // 2 :])


def recovery(sent: Sequence[Sent]) -> float:
    """Return after how many seconds a calm moment began, infinity where none came."""
    start = 0.0
    while start + CALM_SECONDS <= sent[-1][0]:
        moment = [request for request in sent if start <= request[0] < start + CALM_SECONDS]
        if moment and p99_ms(moment) <= CALM_MS and all(status == 200 for _, status, _ in moment):
            return start
        start += 0.1
    return float("inf")


if __name__ == "__main__":
    sys.exit(main())
