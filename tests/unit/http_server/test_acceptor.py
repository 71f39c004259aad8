"""Connections are taken in all at once, as many as there is room for, on a real uvicorn and uvloop."""

import asyncio
import contextlib
import errno
import resource
import socket

import pytest
import uvicorn
import uvloop

from bento_services.http_server import acceptor
from bento_services.http_server.acceptor import AllAtOnceServer, Listener, accept_all_at_once, raise_file_limit
from bento_services.http_server.connection_limits import BoundedHeads
from tests.services import wait_until

GOOD = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
TURNS = 4  # of the event loop, until a connection is accepted and has begun


async def app(_scope, _receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@contextlib.contextmanager
def listening():
    with socket.create_server(("127.0.0.1", 0), backlog=128) as bound:
        yield bound


@contextlib.contextmanager
def callers(bound, number):
    """Yield connections that the kernel has taken in, and nobody else."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(socket.create_connection(bound.getsockname(), timeout=5)) for _ in range(number)]


async def turns(number=TURNS):
    for _ in range(number):
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def serving(bound, kind=AllAtOnceServer, protocol="auto"):
    config = uvicorn.Config(app, http=protocol, log_config=None, lifespan="off")
    config.load()
    server = kind(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup([bound])
    try:
        yield server
    finally:
        await asyncio.wait_for(server.shutdown([bound]), 10)


async def answer(caller):
    """Ask on a connection and return the answer's first line."""
    caller.settimeout(0)
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(caller, GOOD)
    return (await asyncio.wait_for(loop.sock_recv(caller, 1000), 10)).partition(b"\r")[0]


def test_all_who_wait_are_taken_in_within_a_few_turns():
    async def main():
        with listening() as bound:
            async with serving(bound) as server:
                with callers(bound, 50) as waiting:
                    await turns()
                    assert len(server.server_state.connections) == 50
                    assert {await answer(caller) for caller in waiting} == {b"HTTP/1.1 200 OK"}
                    assert {
                        one.transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                        for one in server.server_state.connections
                    } == {1}

    uvloop.run(main())


def test_uvicorn_and_uvloop_alone_take_in_one_a_turn():
    """The reason for all this: where it is gone, so may the listener be."""

    async def main():
        with listening() as bound:
            async with serving(bound, uvicorn.Server) as server:
                with callers(bound, 50):
                    await turns()
                    assert len(server.server_state.connections) < 10

    uvloop.run(main())


def test_no_more_are_taken_in_than_there_is_room_for(monkeypatch):
    monkeypatch.setattr(acceptor, "raise_file_limit", lambda: 3)

    async def main():
        with listening() as bound:
            async with serving(bound) as server:
                with callers(bound, 5) as waiting:
                    await asyncio.sleep(0.1)
                    assert len(server.server_state.connections) == 3
                    for caller in waiting[:2]:
                        caller.close()
                    assert await answer(waiting[4]) == b"HTTP/1.1 200 OK"

    uvloop.run(main())


def test_idle_connections_make_room_for_those_who_wait(monkeypatch):
    monkeypatch.setattr(acceptor, "raise_file_limit", lambda: 3)

    async def main():
        with listening() as bound:
            async with serving(bound, protocol=BoundedHeads) as server:
                with callers(bound, 5) as waiting:
                    answered = [await answer(caller) for caller in waiting[:3]]
                    answered += [await answer(caller) for caller in waiting[3:]]
                    assert answered == [b"HTTP/1.1 200 OK"] * 5
                    assert len(server.server_state.connections) <= 3

    uvloop.run(main())


def test_who_is_not_here_yet_when_it_ends_is_not_taken_in():
    async def main():
        with listening() as bound:
            async with serving(bound):
                address = bound.getsockname()
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(address, timeout=5)

    uvloop.run(main())


class Short(socket.socket):
    """Has no file for the first who comes."""

    failed = False

    def accept(self):
        if not self.failed:
            self.failed = True
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


def test_without_files_it_rests_and_goes_on(caplog):
    async def main():
        with listening() as plain, Short(fileno=plain.detach()) as bound, callers(bound, 2):
            made = []

            def begin():
                made.append(asyncio.Protocol())
                return made[-1]

            listener = Listener(bound, begin, backlog=8, room=lambda: 8)
            await turns()
            assert made == []
            await asyncio.to_thread(wait_until, lambda: len(made) == 2, timeout_seconds=10, what="both connections")
            await listener.close()

    uvloop.run(main())
    assert caplog.messages == ["no connection is accepted for now: [Errno 24] Too many open files"]


def test_a_listener_that_rests_can_be_closed():
    async def main():
        with listening() as bound, callers(bound, 1):
            made = []
            rooms = [0]
            listener = Listener(bound, lambda: made.append(1), backlog=8, room=lambda: rooms[0])
            await turns()
            await listener.close()
            rooms[0] = 8
            await asyncio.sleep(2 * acceptor.REST_SECONDS)
            assert made == []

    uvloop.run(main())


def test_what_it_opens_itself_and_tls_are_left_to_uvicorn(monkeypatch):
    given = []

    async def startup(_, sockets=None):
        given.append(sockets)

    monkeypatch.setattr(uvicorn.Server, "startup", startup)
    plain, secret = (AllAtOnceServer(uvicorn.Config(app, log_config=None)) for _ in range(2))
    secret.config.ssl = object()
    with listening() as bound:
        asyncio.run(plain.startup())
        asyncio.run(secret.startup([bound]))
    assert given == [None, [bound]]


@pytest.mark.parametrize(
    ("limits", "allowed", "connections"),
    [
        ((1024, 1_048_576), 8192, 7936),
        ((1024, 4096), 4096, 3840),
        ((256, 300), 300, 150),
        ((100_000, 1_048_576), None, 7936),
        ((1024, resource.RLIM_INFINITY), 8192, 7936),
    ],
)
def test_connections_leave_files_for_the_rest(monkeypatch, limits, allowed, connections):
    taken = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda _, wanted: taken.append(wanted))
    assert raise_file_limit() == connections
    assert taken == ([] if allowed is None else [(allowed, limits[1])])


def test_those_who_were_accepted_have_begun_when_it_is_closed():
    async def main():
        with listening() as bound, callers(bound, 5):
            made = []

            class Begun(asyncio.Protocol):
                def connection_made(self, transport):
                    made.append(transport)

            listener = Listener(bound, Begun, backlog=8, room=lambda: 8)
            listener._accept()
            assert made == []
            await listener.close()
            assert len(made) == 5

    uvloop.run(main())


def test_in_one_turn_no_more_are_accepted_than_leaves_time_for_the_rest(monkeypatch):
    monkeypatch.setattr(acceptor, "MAX_IN_A_TURN", 3)

    async def main():
        with listening() as bound, callers(bound, 5):
            listener = Listener(bound, asyncio.Protocol, backlog=8, room=lambda: 8)
            listener._accept()
            assert len(listener._beginning) == 3
            await listener.close()

    uvloop.run(main())


def test_a_unix_socket_is_listened_on_too(tmp_path):
    async def main():
        with socket.socket(socket.AF_UNIX) as bound, socket.socket(socket.AF_UNIX) as caller:
            bound.bind(str(tmp_path / "s"))
            async with serving(bound):
                caller.connect(str(tmp_path / "s"))
                assert await answer(caller) == b"HTTP/1.1 200 OK"

    uvloop.run(main())


def test_where_the_system_allows_no_more_files_it_goes_on_with_what_it_has(monkeypatch, caplog):
    def refused(*_):
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", refused)
    assert raise_file_limit() == 768
    assert "no more than 1024 files can be open" in caplog.text


def test_bentomls_worker_makes_this_server(monkeypatch):
    monkeypatch.setattr(uvicorn, "Server", uvicorn.Server)
    accept_all_at_once()
    assert uvicorn.Server is AllAtOnceServer
