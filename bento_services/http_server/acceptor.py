"""Take in every connection that waits, in one turn of the event loop.

uvloop (libuv since 1.46) accepts one connection per turn. Under load a turn takes milliseconds: callers who each open a
connection then stand in the kernel's queue for longer than they wait for an answer, where nobody can refuse them.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import resource
import socket
from collections.abc import Callable

import uvicorn

from bento_services.http_server.connection_limits import BoundedHeads

MAX_IN_A_TURN = 256
REST_SECONDS = 0.1
MAX_FILES = 8192  # a connection takes 10 KiB, and one with an unfinished head 40
SPARE_FILES = 256  # what else a server opens: connections of its own, logs, pipes

logger = logging.getLogger(__name__)


class Listener:
    """Accepts the connections of a listening socket; lives in one event loop.

    It rests while `room`, how many more may be open, is not above 0, and where the kernel has no file for another.
    """

    def __init__(
        self,
        listening: socket.socket,
        create_protocol: Callable[[], asyncio.Protocol],
        *,
        backlog: int,
        room: Callable[[], int],
    ) -> None:
        self._listening = listening
        self._create_protocol = create_protocol
        self._room = room
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._beginning: set[asyncio.Task[None]] = set()
        self._is_short = False
        listening.settimeout(0)
        listening.listen(backlog)
        self._watch()

    async def close(self) -> None:
        """Accept nothing more; those that were accepted have begun when this returns. The socket stays open."""
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._listening)
        await asyncio.gather(*self._beginning, return_exceptions=True)

    def _watch(self) -> None:
        self._loop.add_reader(self._listening, self._accept)

    def _rest(self, reason: str) -> None:
        if not self._is_short:  # said once, until connections are accepted again
            logger.warning("no connection is accepted for now: %s", reason)
        self._is_short = True
        self._loop.remove_reader(self._listening)
        self._timer = self._loop.call_later(REST_SECONDS, self._watch)

    def _accept(self) -> None:
        room = self._room() - len(self._beginning)
        if room <= 0:
            self._rest("as many are open as there is room for")
            return
        for _ in range(min(room, MAX_IN_A_TURN)):
            try:
                connection, _ = self._listening.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                self._rest(str(error))
                return
            self._is_short = False
            task = self._loop.create_task(self._begin(connection))
            self._beginning.add(task)
            task.add_done_callback(self._beginning.discard)

    async def _begin(self, connection: socket.socket) -> None:
        try:
            connection.settimeout(0)
            if connection.family != socket.AF_UNIX:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._loop.connect_accepted_socket(self._create_protocol, sock=connection)
        except OSError as error:  # it is gone already
            logger.debug("a connection ended before it began: %s", error)
            connection.close()


class AllAtOnceServer(uvicorn.Server):
    """uvicorn's server; over TLS, or on sockets that it opens itself, it accepts in uvicorn's own way."""

    _listeners: tuple[Listener, ...] = ()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if sockets is None or self.config.ssl is not None:
            await super().startup(sockets)
            return
        await super().startup([])
        self._most = raise_file_limit()
        self._listeners = tuple(
            Listener(listening, self._protocol, backlog=self.config.backlog, room=self._room) for listening in sockets
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for listener in self._listeners:
            await listener.close()
        await super().shutdown(sockets)

    def _room(self) -> int:
        """Return how many more connections may be open; idle ones make room for those who wait."""
        connections = self.server_state.connections
        room = self._most - len(connections)
        if room <= 0:
            idle = (one for one in connections if isinstance(one, BoundedHeads) and one.is_idle)
            for connection in list(itertools.islice(idle, MAX_IN_A_TURN)):
                connection.make_room()
        return room

    def _protocol(self) -> asyncio.Protocol:
        """Return what uvicorn's own `startup` makes for a connection."""
        return self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )


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


def accept_all_at_once() -> None:
    """Have the HTTP servers that this process starts from now on take in connections this way.

    BentoML makes uvicorn's server itself (1.4.39), so this is where another can be named.
    """
    uvicorn.Server = AllAtOnceServer  # type: ignore[misc]
