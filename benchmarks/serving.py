"""Our inference service, alone and behind the gateway, beside seven other servers, on the same model, weights and core.

    python benchmarks/serving.py                       all servers, three models, 3 rounds (about 30 minutes)
    python benchmarks/serving.py --quick               one round of short windows
    python benchmarks/serving.py --peers ours,fastapi --models image --clients 1,16

Each server is started by itself and pinned to one core, the load generator to another. Closed loop: 1, 16, 64 and 256
clients, each with one request in flight. The steady figure is the CPU time per request of the server's whole process
tree, set beside the limit: one process that runs batches of 32 through the same model and does nothing else, measured
right before and after each server on its core. "Of limit" is the one rate by the other, both per CPU second. Rounds go
over the servers in alternating order; medians are printed, with the range of the ratio.

"Gateway + inference" is both of ours on both cores, the load generator on the gateway's; callers send PNG files, which
both decode, and each prediction is logged.

The image model is the stock recipe image_cnn at 3 x 64 x 64 pixels with 1.2 million parameters; clients send the
pixels (.npy to ours, raw bytes or base64 where a server's own protocol wants it). The text model is a small
transformer; clients send UTF-8. Both are served by torch, and in rows of their own by ONNX Runtime, in float and in
int8 (`serving.runtime`); the limit is torch's throughout. A third, "none", is a network that does nothing: all its CPU
time is our own.
Every server must first answer 8 items as the offline path does. Peers are installed into --cache with uv, which needs
the package index once; one that cannot be installed or started is named with the reason.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import dataclasses
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import serving_models as models
import serving_report as report
from serving_load import resident_mib, tree_of
from serving_peers import PEERS, Peer, environment_of

ROOT = Path(__file__).resolve().parents[1]
CLIENTS = (1, 16, 64, 256)
PORT = 23400
START_SECONDS = 120
TOLERANCE = 1e-3
SERVER_CORE, LOAD_CORE = "0", "1"


@dataclasses.dataclass(frozen=True, slots=True)
class Windows:
    """Seconds of each measurement, and the number of rounds."""

    rounds: int
    warm: float
    window: float
    limit: float
    clients: tuple[int, ...] = CLIENTS


FULL = Windows(rounds=3, warm=0.7, window=2.5, limit=1.2)
QUICK = Windows(rounds=1, warm=0.5, window=1.0, limit=0.5)


class NoAnswerError(Exception):
    """A server did not start, or does not answer as the model does."""


def main() -> int:
    arguments = parse()
    windows = QUICK if arguments.quick else FULL
    windows = dataclasses.replace(windows, rounds=arguments.rounds or windows.rounds, clients=arguments.clients)
    peers = [peer for peer in PEERS if peer.key in arguments.peers]
    pythons = {peer.key: environment_of(peer, arguments.cache) for peer in peers}
    problems = {key: problem for key, problem in pythons.items() if isinstance(problem, str)}
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="dethrone-serving-") as folder:
        for kind in arguments.models:
            scratch = Path(folder) / kind
            mine = [peer for peer in peers if kind != "none" or peer.key == "ours"]
            models.build(kind, scratch, runtimes={"eager", *(peer.runtime for peer in mine)})
            before = limit(kind, scratch, seconds=windows.limit)
            for round_number in range(windows.rounds):
                for peer in mine if round_number % 2 == 0 else reversed(mine):
                    if f"{peer.key} ({kind})" in problems or peer.key in problems:
                        continue
                    try:
                        rows = visit(peer, Path(pythons[peer.key]), kind, scratch, windows=windows)
                        after = limit(kind, scratch, seconds=windows.limit)
                    except NoAnswerError as error:
                        problems[f"{peer.key} ({kind})"] = str(error)
                        say(f"{kind} {peer.key}: {error}")
                        continue
                    fixed = {"round": round_number, "kind": kind, "peer": peer.key, "limit": (before + after) / 2}
                    before = after
                    for row in rows:
                        results.append(row | fixed)
                        say(f"{kind} {peer.key} c={row['clients']}: {report.one_line(row | fixed)}")
            say(report.table(results, kind=kind, peers=mine, clients=windows.clients))
    for key, reason in problems.items():
        say(f"not measured: {key}: {reason}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"results": results, "problems": problems}, indent=1))
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = [peer.key for peer in PEERS]
    parser.add_argument("--peers", type=lambda text: text.split(","), default=every, help=",".join(every))
    parser.add_argument("--models", type=lambda text: text.split(","), default=["image", "text", "none"])
    parser.add_argument("--clients", type=lambda text: tuple(map(int, text.split(","))), default=CLIENTS)
    parser.add_argument("--quick", action="store_true", help="one round of one second each: does it run at all")
    parser.add_argument("--rounds", type=int, help="how often each server is measured (3; 1 with --quick)")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "dethrone-benchmarks")
    parser.add_argument("--json", type=Path, help="also write every measurement into this file")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.peers) - set(every))
    if unknown:
        parser.error(f"--peers must be some of {', '.join(every)} (got {', '.join(unknown)}).")
    return arguments


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def visit(peer: Peer, python: Path, kind: str, scratch: Path, *, windows: Windows) -> list[dict[str, Any]]:
    """Start a server, check its answers, measure it at every number of clients, stop it."""
    items, expected = models.items(kind, scratch, runtime=peer.runtime)
    asks = [peer.ask(kind, item) for item in items]
    with running(peer, python, kind, scratch) as pid:
        check(peer, asks, expected)
        rows = [load(asks, pid=pid, clients=clients, windows=windows) for clients in windows.clients]
        memory = sum(resident_mib(member) for member in tree_of(pid))
    return [row | {"memory_mib": memory} for row in rows]


@contextlib.contextmanager
def running(peer: Peer, python: Path, kind: str, scratch: Path) -> Iterator[int]:
    """Run a server on its core until the block ends."""
    given = {
        "PATH": f"{python.parent}:{os.environ['PATH']}",
        "HOME": str(scratch),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "BENTOML_HOME": str(scratch / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "True",
        "RAY_USAGE_STATS_ENABLED": "0",
        "BENCH_MODEL": str(scratch / "model"),
        "BENCH_KIND": kind,
        "BENCH_PORT": str(PORT),
    }
    log = scratch / f"{peer.key}.log"
    with log.open("ab") as output:
        server = subprocess.Popen(
            ["taskset", "-c", SERVER_CORE, *peer.command(python, models.tag_of(kind, peer.runtime), PORT)],
            env=given,
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_ready(server, peer, log)
        yield server.pid
    finally:
        stop(server)


def wait_ready(server: subprocess.Popen[bytes], peer: Peer, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise NoAnswerError(f"ended while it started: {log.read_text(errors='replace')[-300:]}")
        if answers(f"http://127.0.0.1:{PORT}{peer.ready_path}"):
            return
        time.sleep(0.2)
    raise NoAnswerError(f"was not ready within {START_SECONDS} s: {log.read_text(errors='replace')[-300:]}")


def answers(url: str) -> bool:
    """Return whether a GET of the address gives 200."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status == 200
    except (OSError, urllib.error.URLError):
        return False


def stop(server: subprocess.Popen[bytes]) -> None:
    """End the server and all its processes, and wait until they are gone."""
    members = tree_of(server.pid)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        server.wait(timeout=15)
    for member in members:
        with contextlib.suppress(ProcessLookupError):
            os.kill(member, signal.SIGKILL)
    server.wait()
    time.sleep(0.5)


def check(peer: Peer, asks: Sequence[tuple[str, dict[str, str], bytes]], expected: Sequence[Sequence[float]]) -> None:
    """Compare the first answers with the offline path's; NoAnswerError when one differs."""
    for (path, headers, body), wanted in list(zip(asks, expected, strict=True))[:8]:
        request = urllib.request.Request(f"http://127.0.0.1:{PORT}{path}", data=body, headers=headers)
        for attempt in range(40):
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    document = json.load(answer)
                got = peer.read(document) if peer.read else report.numbers(document, count=len(wanted))
                break
            except urllib.error.HTTPError as error:
                if attempt == 39 or error.code not in {404, 503}:
                    raise NoAnswerError(f"answers {error.code}: {error.read()[:200]!r}") from error
                time.sleep(0.5)
        if max(abs(share - other) for share, other in zip(got, wanted, strict=True)) > TOLERANCE:
            raise NoAnswerError(f"must answer {list(wanted)[:3]}... (got {got[:3]}...)")


def load(
    asks: Sequence[tuple[str, dict[str, str], bytes]], *, pid: int, clients: int, windows: Windows
) -> dict[str, Any]:
    """Drive the server from its own core and return what the load generator saw."""
    plan = {
        "port": PORT,
        "path": asks[0][0],
        "requests": [{"headers": headers, "body": base64.b64encode(body).decode()} for _, headers, body in asks],
        "concurrency": clients,
        "warm_seconds": windows.warm,
        "seconds": windows.window,
        "pid": pid,
    }
    command = ["taskset", "-c", LOAD_CORE, sys.executable, str(Path(__file__).with_name("serving_load.py"))]
    ran = subprocess.run(command, input=json.dumps(plan), capture_output=True, text=True, check=False)
    if ran.returncode:
        raise NoAnswerError(f"the load generator failed: {ran.stderr[-300:]}")
    return {**json.loads(ran.stdout), "clients": clients}


def limit(kind: str, scratch: Path, *, seconds: float) -> float:
    """Return the items per CPU second of batches of 32 in a process of its own, on the server's core."""
    command = ["taskset", "-c", SERVER_CORE, sys.executable, str(Path(__file__).with_name("serving_models.py"))]
    command += [kind, str(scratch), str(seconds)]
    given = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(command, env=given, capture_output=True, text=True, check=True)
    return statistics.median(json.loads(ran.stdout))


if __name__ == "__main__":
    sys.exit(main())
