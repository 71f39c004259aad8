"""The production stack as docker-compose.yml has it, on an engine of its own that pulls nothing.

The engine lives in a mount namespace with a `/run` and an `/etc/hosts` of its own: the file's `/var/run/docker.sock` is
its socket, and `registry` is this machine for it, without a change to the machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from pipeline_tasks.stack import cluster
from pipeline_tasks.stack.layout import source_root
from tests.docker.engine import CACHE, OS_TAG, Daemon, Engine
from tests.services import free_ports

ROOT = source_root()
HERE = Path(__file__).parent
# The names that docker-compose.yml and the Dockerfiles pull -> the target of stand_ins/Dockerfile.
STAND_INS = {
    "python:3.11.14-slim-trixie": "python",
    "python:3.11.14-slim-bookworm": "python",
    "postgres:17.6-bookworm": "postgres",
    "redis:7.2.11-bookworm": "redis",
    "registry:3.0.0": "registry",
    "prom/prometheus:v3.5.0": "prometheus",
}
SERVICES = tuple(yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"])
TORCH_PORT = 43057  # always the same: the address is part of what the builder knows a layer by
NETWORKS = "10.213.0.0/19"
# What an engine does that may change the firewall: a network's containers reach each other and no other network.
# One that ran before may have left `DROP` behind, and bridges ask the same chain.
WITHIN = [
    ["--source", subnet, "--destination", subnet, "--jump", "ACCEPT"]
    for subnet in (f"10.213.{n}.0/24" for n in range(32))
]
ELSEWHERE = [[end, NETWORKS, "--jump", "DROP"] for end in ("--source", "--destination")]
ISOLATED = [["FORWARD", *rule] for rule in (*WITHIN, *ELSEWHERE)]
# A proxy that nothing listens on: what goes by it fails.
PROXIES = dict.fromkeys(("httpProxy", "httpsProxy"), "http://127.0.0.1:9")
LEFT_OUT = {"grafana"}  # in no package source that is allowed here
NAMESPACE = """\
mount -t tmpfs -o mode=755 tmpfs /run
mount --bind "$1" /etc/hosts
shift
exec "$@"
"""


class PrivateEngine(Engine):
    """An engine that is this machine's only one, as far as it can see."""

    def _own(self) -> None:
        hosts = self.folder / "hosts"
        hosts.write_text(f"{Path('/etc/hosts').read_text()}\n127.0.0.1 registry\n")
        socket = f"unix://{self.folder / 'docker.sock'}"
        self.environment = {"DOCKER_HOST": socket}
        for command in (
            ["link", "add", "name", self._bridge, "type", "bridge"],
            ["addr", "add", f"172.31.{os.getpid() % 250}.1/24", "dev", self._bridge],
            ["link", "set", self._bridge, "up"],
        ):
            subprocess.run(["ip", *command], check=True)
        for rule in reversed(ISOLATED):
            subprocess.run(["iptables", "--insert", *rule], check=True)
        options = ["--exec-root", str(self.folder / "exec"), "--pidfile", str(self.folder / "pid")]
        options += ["--bridge", self._bridge, "--iptables=false", "--ip6tables=false"]
        options += ["--default-address-pool", f"base={NETWORKS},size=24", "--group", "root"]
        command = ["dockerd", "--host", socket, "--host", "unix:///run/docker.sock"]
        command += ["--data-root", str(CACHE / "compose-engine"), *options]
        inside = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", NAMESPACE, "sh", str(hosts), *command]
        self.daemon = Daemon(inside, log=self.folder / "log", ready=self.answers, what="the Docker engine")
        try:
            self.daemon.start()
        except (RuntimeError, TimeoutError):
            self.stop()
            raise

    def stop(self) -> None:
        super().stop()
        for rule in ISOLATED:
            subprocess.run(["iptables", "--delete", *rule], check=False)


class ComposeStack:
    """The stack of one folder: its secrets, its projects, and docker-compose on it."""

    def __init__(self, folder: Path, *, engine: Engine) -> None:
        self.folder, self.engine = folder, engine
        self.secrets, self.projects = folder / "secrets", folder / "projects"
        cluster.ensure_cluster_secrets(self.secrets)
        self.ports = dict(zip(("GATEWAY", "AIRFLOW", "LABEL_STUDIO"), free_ports(3), strict=True))
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("DETHRONE_")},
            **engine.environment,
            **{f"DETHRONE_{name}_PORT": str(port) for name, port in self.ports.items()},
            "DETHRONE_SECRETS": str(self.secrets),
            "DETHRONE_PROJECTS": str(self.projects),
            "DETHRONE_BACKUPS": str(folder / "backups"),
            "DOCKER_GID": "0",  # of the socket that PrivateEngine makes
            "DOCKER_BUILDKIT": "0",
            "COMPOSE_PROJECT_NAME": "dethrone-test",
            "COMPOSE_HTTP_TIMEOUT": "300",
        }

    def secret(self, name: str) -> str:
        return (self.secrets / name).read_text().strip()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    def compose(self, *arguments: str, timeout: float = 1800, check: bool = True) -> str:
        files = ["--file", str(ROOT / "docker-compose.yml"), "--file", str(HERE / "override.yml")]
        done = subprocess.run(
            [shutil.which("docker-compose") or "docker-compose", *files, *arguments],
            env=self.environment, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip
        if check and done.returncode != 0:
            raise RuntimeError(f"compose {' '.join(arguments)}: {done.stdout[-3000:]}{done.stderr[-3000:]}")
        return done.stdout

    def build(self) -> None:
        """Make every image: the stand-ins of those that would be pulled, then ours, by the file."""
        self.engine.import_os()
        context = self.folder / "stand-ins"
        shutil.copytree(HERE / "stand_ins", context, dirs_exist_ok=True)
        given = os.environ.get("SSL_CERT_FILE") or "/etc/ssl/certs/ca-certificates.crt"
        shutil.copyfile(given, context / "ca-certificates.crt")
        for name, target in STAND_INS.items():
            self._docker("build", "--quiet", "--network", "host", "--target", target, "--tag", name, str(context))
        with torch_index() as address:
            self.environment["DETHRONE_TORCH_INDEX_URL"] = address
            self.compose("build", "migrate", "label-studio", "gateway", timeout=3600)
        settings = self.folder / "docker-config"
        settings.mkdir(exist_ok=True)
        (settings / "config.json").write_text(json.dumps({"proxies": {"default": PROXIES}}))
        self.environment["DOCKER_CONFIG"] = str(settings)

    def up(self) -> None:
        self.compose("up", "--detach", "--no-build", *self.services())

    def services(self) -> list[str]:
        """Return the services of the file that run here: no profile, and not what cannot be had."""
        return sorted(set(SERVICES) - LEFT_OUT - {"tools", "airflow-worker-gpu"})

    def health(self) -> dict[str, str]:
        """Return each container's health by service; what has no check says its state."""
        states = {}
        label = "com.docker.compose.project=dethrone-test"
        for container in self.engine.client.containers.list(all=True, filters={"label": label}, ignore_removed=True):
            state = container.attrs["State"]
            done = state["Status"] == "exited" and state["ExitCode"] == 0
            said = "done" if done else state.get("Health", {}).get("Status", state["Status"])
            states[container.labels["com.docker.compose.service"]] = said
        return states

    def beside(self, network: str, *names: str) -> dict[str, Any]:
        """Return what a container of one network sees of the services, and of containers of these names."""
        command = ["-m", "pipeline_tasks.stack.outside_containers", *names]
        return json.loads(self.run_python(network, *command))

    def run_python(self, network: str, *arguments: str) -> str:
        """Run Python in a container of ours that is in one network and has no secret."""
        said = self.engine.client.containers.run(
            "dethrone-airflow:0.2.0", list(arguments), entrypoint=["python"], network=network, remove=True
        )
        return said.decode()

    def logs(self, service: str, lines: int = 40) -> str:
        return self.compose("logs", "--no-color", f"--tail={lines}", service, check=False)

    def push_serving_base(self) -> str:
        """Run what docker-compose.yml's head says, on the base of the OS that is here."""
        arguments = ["serving-base", "--os-base", OS_TAG, "--push", "registry:5000/dethrone"]
        command = [sys.executable, "-m", "pipeline_tasks.cli.main", *arguments]
        environment = {**os.environ, **self.engine.environment, "DETHRONE_HOME": str(self.folder / "home")}
        done = subprocess.run(
            command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"serving-base: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done.stdout

    def down(self) -> None:
        """Remove every container and volume; images stay."""
        for container in self.engine.client.containers.list(all=True, ignore_removed=True):
            container.remove(force=True, v=True)  # the releases too: they hold the network
        self.compose("down", "--volumes", "--timeout", "10", check=False)

    def _docker(self, *arguments: str) -> None:
        done = subprocess.run(
            ["docker", *arguments], env=self.environment, capture_output=True, text=True, timeout=1800, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"docker {' '.join(arguments)}: {done.stdout[-1500:]}{done.stderr[-3000:]}")


@contextlib.contextmanager
def torch_index() -> Iterator[str]:
    """Serve the folder that PIP_FIND_LINKS names as an index of torch's builds; no address where there is none."""
    folder = Path(os.environ.get("PIP_FIND_LINKS", "/nonexistent"))
    wheels = sorted(wheel.name for wheel in folder.glob("torch-*.whl"))
    if not wheels:
        yield ""
        return
    page = "".join(f'<a href="/{name}">{name}</a>' for name in wheels)
    server = ThreadingHTTPServer(("127.0.0.1", TORCH_PORT), partial(_Index, page=page, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/simple"
    finally:
        server.shutdown()
        server.server_close()


class _Index(SimpleHTTPRequestHandler):
    def __init__(self, *arguments: object, page: str, **options: object) -> None:
        self._page = page
        super().__init__(*arguments, **options)

    def do_GET(self) -> None:
        if not self.path.startswith("/simple/torch"):
            return super().do_GET()
        body = self._page.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        return None

    def log_message(self, *_: object) -> None:
        return


def until(condition, seconds, what, *, stack, services=()):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(2)
    pytest.fail(f"within {seconds} s: {what}; {stack.health()}\n" + "\n".join(map(stack.logs, services)))


def ask(stack):
    """Return the gateway's answer about a photo that no training saw."""
    answer = httpx.post(
        f"{stack.url('GATEWAY')}/v1/projects/fashion/predict",
        content=stack.photo,
        headers={"Authorization": f"Bearer {stack.secret('gateway_api_key')}", "Content-Type": "image/png"},
        timeout=30,
    )
    assert answer.status_code == 200, answer.text
    return answer.json()
