"""Answers of a stack's ports to somebody without a key, tried on real sockets."""

import contextlib
import datetime as dt
import ipaddress
import os
import socket
import ssl
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pipeline_tasks.stack import outside
from pipeline_tasks.stack.doctor import check_from_outside
from pipeline_tasks.stack.outside import OpenPort, PortAnswer, ask, open_to_all


@contextlib.contextmanager
def speaker(first=b"", answer=b"", *, wrap=None):
    """A port whose server says `first` unasked and `answer` to whatever it gets."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = server.accept()
                with contextlib.suppress(OSError), connection:
                    if wrap is not None:
                        connection = wrap(connection)
                    if first:
                        connection.sendall(first)
                    connection.recv(4096)
                    connection.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    yield OpenPort("x", "127.0.0.1", server.getsockname()[1])
    server.close()


@contextlib.contextmanager
def website(statuses, *, body=b"x"):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(statuses.get(self.path, 404))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield OpenPort("x", "127.0.0.1", server.server_port)
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A self-signed certificate for loopback, and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
    now = dt.datetime.now(dt.UTC)
    alternative = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + dt.timedelta(days=1))
        .add_extension(alternative, critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


def wrapper(certificate, *, mode):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.verify_mode = mode
    if mode is ssl.CERT_REQUIRED:
        context.load_verify_locations(certificate)
    return lambda plain: context.wrap_socket(plain, server_side=True)


ZMTP = bytes([0xFF, 0, 0, 0, 0, 0, 0, 0, 1, 0x7F])
SETTINGS = bytes([0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 100])
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize(
    ("said", "protocol"),
    [
        ({"first": ZMTP}, "ZeroMQ"),  # the control port of a process manager
        ({"first": b"+OK ready\r\n"}, "banner"),
        ({"answer": SETTINGS}, "HTTP/2 or gRPC without TLS"),
        ({"answer": b"-ERR unknown command\r\n"}, "an unknown protocol"),
        ({}, "an unknown protocol"),
    ],
)
def test_a_port_that_speaks_with_everybody_is_open(said, protocol):
    with speaker(**said) as listener:
        answer = ask(listener)
    assert answer.protocol == protocol
    assert open_to_all("x", answer) == f"speaks {protocol} with everybody"


POSTGRES = {  # what the server says to a startup message: the user is let in, is asked for a password, has no line
    "open": b"R\0\0\0\x08\0\0\0\0S\0\0\0\x16",
    "scram": b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0",
    "no line": b"E\0\0\0\x60SFATAL\0C28000\0",
}


@pytest.mark.parametrize(
    ("said", "protocol", "wrong"),
    [
        (b"-NOAUTH Authentication required.\r\n", "Redis that asks for a password", ""),
        (b"+PONG\r\n", "Redis", "speaks Redis with everybody"),
        (POSTGRES["scram"], "PostgreSQL that asks for a password", ""),
        (POSTGRES["no line"], "PostgreSQL that asks for a password", ""),
        (POSTGRES["open"], "PostgreSQL", "speaks PostgreSQL with everybody"),
        (b"Rubbish\r\n", "an unknown protocol", "speaks an unknown protocol with everybody"),
    ],
)
def test_a_database_is_closed_when_it_asks_for_a_password(said, protocol, wrong):
    with speaker(answer=said) as listener:
        answer = ask(listener)
    assert (answer.protocol, open_to_all("x", answer)) == (protocol, wrong)


def test_tls_that_asks_for_a_certificate_is_closed(certificate):
    with speaker(answer=OK, wrap=wrapper(certificate, mode=ssl.CERT_REQUIRED)) as listener:
        answer = ask(listener)
    assert answer == PortAnswer("TLS that asks for a certificate")
    assert open_to_all("x", answer) == ""


def test_tls_without_a_certificate_of_the_caller_is_looked_into(certificate):
    with speaker(answer=OK, wrap=wrapper(certificate, mode=ssl.CERT_NONE)) as listener:
        answer = ask(listener, paths=("/dir/status",))
    assert answer == PortAnswer("HTTPS", {}), "the same for every path"
    assert open_to_all("x", PortAnswer("HTTPS", {"/dir/status": 200})) == "hands out /dir/status"


def test_each_path_is_tried_without_a_key():
    with website({"/": 200, "/metrics": 401, "/dir/status": 200, "/docs": 302}) as listener:
        answer = ask(listener)
    assert answer.protocol == "HTTP"
    assert answer.statuses == {
        "/": 200, "/metrics": 401, "/dir/status": 200, "/docs": 302,
    }  # fmt: skip
    assert open_to_all("inference-fashion-1", answer) == "hands out /, /dir/status"
    assert open_to_all("gateway", answer) == "hands out /dir/status", "its own page is for everybody"


def test_a_program_that_has_one_page_for_every_path_hands_out_none_of_them():
    with website(dict.fromkeys((*outside.PATHS, outside.NOWHERE), 200)) as listener:
        assert ask(listener) == PortAnswer("HTTP", {})


def test_an_empty_page_hands_out_nothing():
    with website({"/metrics": 200}, body=b"") as listener:
        assert open_to_all("label-studio", ask(listener)) == ""


def test_a_port_that_is_gone_is_closed():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert ask(OpenPort("x", "127.0.0.1", port)) == PortAnswer("closed")


def test_the_ports_and_sockets_of_a_process_are_found(tmp_path):
    code = (
        "import socket, sys, time\n"
        "a = socket.create_server(('127.0.0.1', 0))\n"
        "b = socket.socket(socket.AF_UNIX); b.bind(sys.argv[1]); b.listen()\n"
        "print(a.getsockname()[1], flush=True); time.sleep(60)\n"
    )
    path = tmp_path / "s"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdout=subprocess.PIPE,
        env=os.environ | {"SUPERVISOR_PROCESS_NAME": "gateway"},
    ) as child:
        port = int(child.stdout.readline())
        process = psutil.Process(child.pid)
        assert outside.listeners([process]) == (OpenPort("gateway", "127.0.0.1", port),)
        assert outside.sockets([process]) == (str(path),)
        child.kill()


@pytest.mark.parametrize(
    ("folder", "mode", "is_open"), [(0o755, 0o777, True), (0o755, 0o755, False), (0o700, 0o777, False)]
)
def test_a_socket_is_open_when_others_can_reach_it_and_write(tmp_path, folder, mode, is_open, monkeypatch):
    inner = tmp_path / "run"
    inner.mkdir()
    path = inner / "s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        path.chmod(mode)
        inner.chmod(folder)
        monkeypatch.setattr(type(path), "parents", property(lambda _: [inner]))  # pytest's own folders are private
        assert outside.open_sockets([str(path)]) == ([str(path)] if is_open else [])


def test_an_abstract_socket_is_open_to_all():
    assert outside.open_sockets(["@wide"]) == ["@wide"]


def test_the_doctor_names_what_is_open():
    assert check_from_outside(9, []).ok
    check = check_from_outside(9, ["gateway on 127.0.0.1:1 hands out /metrics"])
    assert not check.ok
    assert check.detail == "gateway on 127.0.0.1:1 hands out /metrics"
    assert "dethrone up" in check.advice
