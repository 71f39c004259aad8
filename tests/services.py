"""Real services that the integration tests start by themselves, on free ports, and stop by their process id."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import sqlalchemy as sa

POSTGRES_BIN = Path("/usr/lib/postgresql/15/bin")
S3_ACCESS_KEY = "dethronetest"
S3_SECRET_KEY = "dethronetestsecret"  # of a server that lives as long as the test run


def free_ports(count: int, *, host: str = "127.0.0.1") -> list[int]:
    """Return ports of an address that were free a moment ago."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for bound in sockets:
            bound.bind((host, 0))
        return [bound.getsockname()[1] for bound in sockets]
    finally:
        for bound in sockets:
            bound.close()


def wait_until(ready, *, timeout_seconds: float, what: str) -> None:
    """Poll until `ready()` is true."""
    deadline = time.monotonic() + timeout_seconds
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} was not ready within {timeout_seconds} s")
        time.sleep(0.1)


def answers(url: str) -> bool:
    """Return whether a GET of the address gives 200."""
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return response.status == 200
    except (urllib.error.URLError, OSError):
        return False


def postgres_bin() -> Path | None:
    """Return the folder of initdb and pg_ctl, or None where PostgreSQL is not installed."""
    program = shutil.which("initdb")
    if program:
        return Path(program).parent
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    return folders[-1] if folders else None


class PostgresServer:
    """A throw-away PostgreSQL cluster, as the user `postgres` when we are root; can be killed and started again."""

    def __init__(self) -> None:
        self.bin = postgres_bin()
        self.port = free_ports(1)[0]
        self.folder = Path(tempfile.mkdtemp(prefix="dethrone-pg-"))
        self._user = pwd.getpwnam("postgres") if os.getuid() == 0 else None
        self._count = 0

    def _run(self, *command: str) -> None:
        owner = {"user": self._user.pw_uid, "group": self._user.pw_gid} if self._user else {}
        subprocess.run(
            command, check=True, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT, timeout=120, **owner
        )

    def start(self) -> None:
        data = str(self.folder / "data")
        if not (self.folder / "data").exists():
            if self._user:
                os.chown(self.folder, self._user.pw_uid, self._user.pw_gid)
            self._run(str(self.bin / "initdb"), "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync")
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder}"
        options += " -c fsync=off -c max_connections=200"
        log = str(self.folder / "log")
        self._run(str(self.bin / "pg_ctl"), "-D", data, "-w", "-t", "60", "-l", log, "-o", options, "start")

    def processes(self) -> list[psutil.Process]:
        """Return the server's processes, the first one first."""
        server = psutil.Process(int((self.folder / "data" / "postmaster.pid").read_text().split()[0]))
        return [server, *server.children(recursive=True)]

    def kill(self) -> None:
        """End the server as kill -9 of all its processes does."""
        processes = self.processes()
        for process in processes:
            with suppress(psutil.NoSuchProcess):  # they end by themselves when the first one is gone
                process.kill()
        psutil.wait_procs(processes, timeout=20)

    def stop(self) -> None:
        self._run(str(self.bin / "pg_ctl"), "-D", str(self.folder / "data"), "-m", "immediate", "stop")
        shutil.rmtree(self.folder)

    def new_database(self) -> str:
        """Create an empty database and return its SQLAlchemy URL."""
        self._count += 1
        name = f"catalog_{os.getpid()}_{self._count}"
        engine = sa.create_engine(self._url("postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        engine.dispose()
        return self._url(name)

    def _url(self, database: str) -> str:
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/{database}"


def weed_path() -> Path:
    """Return where the installed `weed` program is."""
    return Path(sys.executable).parent / "weed"


class SeaweedServer:
    """A throw-away SeaweedFS with its S3 port on loopback; can be killed and started again on its data."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="dethrone-weed-"))
        self.ports = free_ports(10)
        self.endpoint = f"http://127.0.0.1:{self.ports[0]}"
        self._process: subprocess.Popen[bytes] | None = None
        self._buckets = 0

    def command(self) -> list[str]:
        names = ("s3.port", "s3.port.grpc", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc")
        names += ("filer.port", "filer.port.grpc", "admin.port", "admin.port.grpc")
        ports = [f"-{name}={port}" for name, port in zip(names, self.ports, strict=True)]
        off = ["-admin.ui=false", "-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"]
        where = [f"-dir={self.folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
        return [str(weed_path()), "-logtostderr=true", "mini", *where, *ports, *off]

    def start(self) -> None:
        (self.folder / "data").mkdir(exist_ok=True)
        environment = {
            "AWS_ACCESS_KEY_ID": S3_ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": S3_SECRET_KEY,
            "GOMEMLIMIT": "512MiB",
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
        }
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self.command(), env=environment, cwd=self.folder, stdout=log, stderr=subprocess.STDOUT
            )
        wait_until(lambda: answers(f"{self.endpoint}/healthz"), timeout_seconds=60, what="SeaweedFS")

    def kill(self) -> None:
        """End the server as kill -9 does."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        self.kill()
        shutil.rmtree(self.folder)

    def new_bucket_name(self) -> str:
        self._buckets += 1
        return f"bucket-{os.getpid()}-{self._buckets}"


@contextmanager
def running(server):
    """Start a server, and stop it whatever happens."""
    try:
        server.start()
        yield server
    finally:
        server.stop()
