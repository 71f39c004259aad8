"""Entry of an inference service: bind its one port and answer by BentoML, with no process manager above it.

`bentoml serve` starts a manager (circus) that takes commands on two more ports, from whoever can reach them. What it
did is the supervisor's, the engine's or the cluster's: start again what ended, pass signals on, wait for a graceful
end. Run by its path, since a bento brings its own `bento_services`: of ours it imports nothing.
"""

from __future__ import annotations

import argparse
import logging
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

BACKLOG = 2048
MAX_HEAD_BYTES = 32 * 1024  # and what one read of the socket brings
# glibc keeps up to 256 MiB between passes, of blocks up to 128 MiB (mallopt(3)), in one arena: another thread's would
# give back whole heaps. Else a pass of 32 images faults its activations in anew: a third of the CPU time, measured.
ALLOCATOR = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 28),
    "MALLOC_MMAP_THRESHOLD_": str(1 << 27),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Replace this process by the one that answers, on a port that is bound before anything is loaded.

    The allocator reads its environment at the start of a process.
    """
    asked = _parser().parse_args(arguments)
    if asked.fd is not None:
        answer(asked.service, socket.socket(fileno=asked.fd))
        return
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
    """Return the command of the process that answers, on an open file that it inherits; `-P`: not from this folder."""
    return [sys.executable, "-P", str(Path(__file__).resolve()), service, "--fd", str(descriptor)]


def bounded_head() -> type[Any]:
    """Return uvicorn's protocol on httptools with a bound on heads: it keeps one whole however long it is, key or not.

    h11, uvicorn's other parser, bounds heads itself, and takes a quarter more CPU time for a text, twice as much
    without a model (docs/benchmarks.md).
    """
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    class BoundedHead(HttpToolsProtocol):
        _num_bytes = 0  # since the last one of a body: of a head, or of the trailer behind one

        def data_received(self, data: bytes) -> None:
            if self._num_bytes > MAX_HEAD_BYTES:
                self.transport.abort()
                return
            self._num_bytes += len(data)
            super().data_received(data)

        def on_body(self, body: bytes) -> None:
            self._num_bytes = 0
            super().on_body(body)

        def on_message_complete(self) -> None:
            self._num_bytes = 0
            super().on_message_complete()

    return BoundedHead


def answer(bento: str, listening: socket.socket) -> None:
    """Load a bento and answer until told to end."""
    import bentoml
    import uvicorn

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    protocol = bounded_head()  # before the bento: some of version 0.2.0 hide httptools
    context = bentoml.server_context  # its names are labels of BentoML's own metrics
    context.worker_index = 1
    service: Any = bentoml.load(bento, standalone_load=True)
    context.service_type, context.service_name = "entry_service", service.name
    context.service_routes = [method.route for method in service.apis.values()]
    if service.bento is not None:
        context.bento_name, context.bento_version = service.bento.tag.name, service.bento.tag.version
    config = uvicorn.Config(
        service.to_asgi(), http=protocol, backlog=BACKLOG, access_log=False, log_config=None, server_header=False
    )
    uvicorn.Server(config).run(sockets=[listening])


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
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--port", type=int)
    where.add_argument("--fd", type=int, help="a socket that is bound already")
    return parser


if __name__ == "__main__":
    main()
