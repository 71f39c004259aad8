"""A real Docker engine and a real registry for the tests, started when none runs, stopped by their process id."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import docker

from tests.services import answers, free_ports, wait_until

CACHE = Path(os.environ.get("DETHRONE_TEST_CACHE") or Path.home() / ".cache" / "dethrone-tests")
OS_TAG = "dethrone-test/os:bookworm"


class Daemon:
    """A program of ours that can be killed and started again on its data."""

    def __init__(self, command: list[str], *, log: Path, ready, what: str) -> None:
        self._command, self._log, self._ready, self._what = command, log, ready, what
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str, programs: Path | None = None) -> None:
        """Start it, with further options, and with further programs to be found before all others."""
        path = f"{programs}:{os.environ['PATH']}" if programs else os.environ["PATH"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._command, *options],
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=os.environ | {"PATH": path},
            )
        process = self._process
        wait_until(lambda: process.poll() is not None or self._ready(), timeout_seconds=60, what=self._what)
        if process.poll() is not None:
            raise RuntimeError(f"{self._what} ended: {self._log.read_text()[-600:]}")

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self._process is not None and self._process.poll() is None:
            os.kill(self._process.pid, how)
            self._process.wait(timeout=60)


class Engine:
    """An engine of our own, beside any other, where we may start one; else the machine's.

    Its bridge is its own and it changes no firewall rule, so that two engines do not take each other's network away.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="dethrone-engine-"))
        self.environment = {name: os.environ[name] for name in ("DOCKER_HOST",) if name in os.environ}
        self.daemon: Daemon | None = None
        self._bridge = f"deth{os.getpid()}"
        if os.getuid() == 0 and shutil.which("dockerd") and shutil.which("ip"):
            self._own()
        elif not self.answers():
            raise FileNotFoundError(
                "no engine answers, and to start one takes root, dockerd (docker.io) and ip (iproute2)"
            )

    def answers(self) -> bool:
        try:
            return bool(docker.from_env(environment=self.environment, timeout=5).ping())
        except (docker.errors.DockerException, OSError):
            return False

    def _own(self) -> None:
        socket = f"unix://{self.folder / 'docker.sock'}"
        self.environment = {"DOCKER_HOST": socket}
        data = CACHE / "engine" if "DETHRONE_TEST_CACHE" in os.environ else self.folder / "data"
        address = f"172.31.{os.getpid() % 250}.1/24"
        for command in (
            ["link", "add", "name", self._bridge, "type", "bridge"],
            ["addr", "add", address, "dev", self._bridge],
            ["link", "set", self._bridge, "up"],
        ):
            subprocess.run(["ip", *command], check=True)
        options = ["--exec-root", str(self.folder / "exec"), "--pidfile", str(self.folder / "pid")]
        options += ["--bridge", self._bridge, "--iptables=false", "--ip6tables=false"]
        command = ["dockerd", "--host", socket, "--data-root", str(data), *options]
        log = self.folder / "log"
        self.daemon = Daemon(command, log=log, ready=self.answers, what="the Docker engine")
        try:
            self.daemon.start()
        except (RuntimeError, TimeoutError):
            self.stop()
            raise

    @property
    def client(self) -> docker.DockerClient:
        return docker.from_env(environment=self.environment, timeout=300)

    def stop(self) -> None:
        if self.daemon is not None:
            self.daemon.end()
            subprocess.run(["ip", "link", "del", self._bridge], check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    def import_os(self) -> str:
        """Make the base of the OS, as `python:3.11-slim-bookworm` cannot be pulled: Debian 12 with its Python 3.11."""
        with contextlib.suppress(docker.errors.ImageNotFound):
            self.client.images.get(OS_TAG)
            return OS_TAG
        packed = CACHE / "bookworm-python.tar"
        if not packed.exists():
            _debootstrap(packed)
        repository, tag = OS_TAG.split(":")
        self.client.api.import_image_from_file(str(packed), repository=repository, tag=tag)
        return OS_TAG


def _debootstrap(packed: Path) -> None:
    packed.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="dethrone-os-") as folder:
        root = Path(folder) / "root"
        what = ["--variant=minbase", "--include=python3,ca-certificates", "bookworm", str(root)]
        subprocess.run(["debootstrap", *what], check=True, capture_output=True)
        partial = packed.with_suffix(".part")
        subprocess.run(["tar", "-C", str(root), "--exclude=./var/cache/apt/*", "-cf", str(partial), "."], check=True)
        partial.replace(packed)


class RegistryServer:
    """A registry on a loopback port; what it holds outlives a kill."""

    def __init__(self, *, root: Path | None = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="dethrone-registry-"))
        port = free_ports(1)[0]
        self.host = f"localhost:{port}"
        config = self.folder / "config.yml"
        config.write_text(
            "version: 0.1\n"
            "log: {level: warn}\n"
            f"storage: {{filesystem: {{rootdirectory: {root or self.folder / 'data'}}}}}\n"
            f"http: {{addr: 'localhost:{port}'}}\n"
        )
        command = ["docker-registry", "serve", str(config)]
        ready = f"http://{self.host}/v2/"
        self.daemon = Daemon(command, log=self.folder / "log", ready=lambda: answers(ready), what="the registry")
        self.daemon.start()

    def stop(self) -> None:
        self.daemon.end()
        shutil.rmtree(self.folder, ignore_errors=True)
