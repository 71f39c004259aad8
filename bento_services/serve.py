"""Entry of an inference service: bind its one port and become BentoML's worker, with no process manager above it.

`bentoml serve` starts a manager (circus) that takes commands on two more ports, from whoever can reach them. What it
did is the supervisor's, the engine's or the cluster's: start again what ended, pass signals on, wait for a graceful
end. Run by its path, since a bento brings its own `bento_services`; standard library only.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

WORKER = "_bentoml_impl.worker.service"  # BentoML 1.4.39
BACKLOG = 2048
# glibc keeps up to 256 MiB between passes, of blocks up to 128 MiB (mallopt(3)), in one arena: another thread's would
# give back whole heaps. Else a pass of 32 images faults its activations in anew: a third of the CPU time, measured.
ALLOCATOR = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 28),
    "MALLOC_MMAP_THRESHOLD_": str(1 << 27),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Replace this process by the one that answers, on a port that is bound before anything is loaded."""
    asked = _parser().parse_args(arguments)
    try:
        listening = bind(asked.host, asked.port)
    except OSError as error:
        sys.exit(f"port {asked.port} of {asked.host} must be free (got {error.strerror}).")
    listening.set_inheritable(True)
    command = worker_command(asked.service, descriptor=listening.fileno())
    os.execve(command[0], command, worker_environment(os.environ, port=asked.port))  # noqa: S606


def bind(host: str, port: int) -> socket.socket:
    """Return a socket on the port; while nobody listens on it, callers are refused at once and can ask elsewhere."""
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((host, port))
    return bound


def worker_command(service: str, *, descriptor: int) -> list[str]:
    """Return the command of the one worker, which listens on an open file that it inherits."""
    options = {"--fd": descriptor, "--backlog": BACKLOG, "--worker-id": 1}
    words = [str(word) for option in options.items() for word in option]
    return [sys.executable, "-m", WORKER, service, *words]


def worker_environment(environment: Mapping[str, str], *, port: int) -> dict[str, str]:
    """Return the worker's environment: the allocator's settings unless it is told others, and metrics of its own."""
    home = Path(environment.get("BENTOML_HOME") or "~/bentoml").expanduser()
    metrics = home / "metrics" / str(port)  # a folder that servers share would mix their numbers
    metrics.mkdir(parents=True, exist_ok=True)
    for left in metrics.glob("*.db"):
        left.unlink(missing_ok=True)
    return {**ALLOCATOR, **environment, "PROMETHEUS_MULTIPROC_DIR": str(metrics)}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="serve.py", description="Serve one service on one port.")
    parser.add_argument("service", help="a bento's tag or folder")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    return parser


if __name__ == "__main__":
    main()
