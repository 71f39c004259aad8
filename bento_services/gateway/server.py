"""Entry of the gateway's process: `python -m bento_services.gateway.server --port N`.

Its HTTP server is granian: the settings here bound what a caller may do to a connection (docs/adr/0029).
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import resource
import signal
import sys
import time
from collections.abc import Sequence

import uvloop
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server.embed import Server
from starlette.types import ASGIApp, Receive, Scope, Send

from bento_services.serve import BACKLOG, bind

MAX_HEAD_BYTES = 32 * 1024
# Of a head, and of the wait for the next one. Longer than proxies keep a connection (60 s with nginx and AWS's ALB):
# who closes first must be the one who sends.
HEAD_SECONDS = 75.0
MAX_FILES = 8192  # a connection takes one
SPARE_FILES = 1024  # what else a gateway opens: as many connections to models as items may be open, logs, pipes
LISTEN_SECONDS = 0.05  # then it listens; who comes while the rest is loaded waits for it
STOP_SECONDS = 20.0  # for requests under way; the supervisor waits for 40
FLUSH_SECONDS = 1.0  # for the last answer's way out, when no request is under way
DRAIN_LOOK_SECONDS = 0.05
# A thousand open requests are no garbage: to look at them after every 700 new objects, as Python does, took a quarter
# of the event loop's time in an overload.
GC_THRESHOLD = 20_000

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until told to end."""
    asked = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        bind(asked.host, asked.port).close()  # granian would share it with whoever shares it
    except OSError as error:
        sys.exit(f"port {asked.port} of {asked.host} must be free (got {error.strerror}).")
    uvloop.run(serve(asked.host, asked.port))


class StartingApplication:
    """ASGI application: what comes while the gateway is loaded waits for it. It knows what is under way."""

    def __init__(self) -> None:
        self._app: ASGIApp | None = None
        self._loaded = asyncio.Event()
        self._num_open = 0
        self._last_end = time.monotonic()

    def load(self, app: ASGIApp) -> None:
        self._app = app
        self._loaded.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._num_open += 1
        try:
            if self._app is None:
                await self._loaded.wait()
            if self._app is not None:
                await self._app(scope, receive, send)
        finally:
            self._num_open -= 1
            self._last_end = time.monotonic()

    async def drain(self, serving: asyncio.Task[None]) -> None:
        """Wait until a server that was told to end has ended, or has no request under way.

        It waits itself for half a head until its time is up, and for ever for a caller who does not read; meanwhile
        its port refuses everybody.
        """
        told = time.monotonic()
        while not serving.done() and time.monotonic() < told + STOP_SECONDS:
            if not self._num_open and time.monotonic() > max(told, self._last_end) + FLUSH_SECONDS:
                break
            await asyncio.wait({serving}, timeout=DRAIN_LOOK_SECONDS)


def server_of(
    app: ASGIApp, host: str, port: int, *, head_seconds: float = HEAD_SECONDS, max_connections: int | None = None
) -> Server:
    """Return the HTTP server: HTTP/1 only, an offer of another protocol is passed over."""
    return Server(
        app,
        address=host,
        port=port,
        interface=Interfaces.ASGINL,
        http=HTTPModes.http1,
        websockets=False,
        backlog=BACKLOG,
        backpressure=max_connections or raise_file_limit(),  # who comes then waits in the kernel's queue
        http1_settings=HTTP1Settings(
            header_read_timeout=round(1000 * head_seconds), max_buffer_size=MAX_HEAD_BYTES, pipeline_flush=False
        ),
        log_level=LogLevels.error,
    )


async def serve(host: str, port: int) -> None:
    """Take connections, load, answer; at SIGTERM answer what has come, then ship what the log holds."""
    app = StartingApplication()
    server = server_of(app, host, port)
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    serving, ending = loop.create_task(server.serve()), loop.create_task(told.wait())
    await asyncio.wait({serving}, timeout=LISTEN_SECONDS)
    from bento_services.gateway.service import Gateway

    gateway = Gateway()
    gateway.start()
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
    app.load(gateway.app)
    await asyncio.wait({serving, ending}, return_when=asyncio.FIRST_COMPLETED)
    server.stop()  # type: ignore[no-untyped-call]
    await app.drain(serving)
    await gateway.close()
    if not ending.done():
        sys.exit("the HTTP server must run until it is told to end (it ended by itself).")


def raise_file_limit() -> int:
    """Let this process open more files, where it may; return how many of them may be connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < files:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
        except (ValueError, OSError) as error:  # another limit of the system's
            logger.warning("no more than %d files can be open: %s", soft, error)
            files = soft
    return max(files - SPARE_FILES, files // 2)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gateway", description="Serve the gateway on one port.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    return parser


if __name__ == "__main__":
    main()
