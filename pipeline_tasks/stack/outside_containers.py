"""The production stack as a container beside its services sees it: every port of each service, tried without a key."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import selectors
import socket
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from pipeline_tasks.stack.outside import OpenPort, PortAnswer, ask, open_to_all

# The services of docker-compose.yml that listen, by the names that containers know them by.
SERVICES = (
    *("postgres", "redis", "s3", "airflow-api-server", "airflow-scheduler", "airflow-dag-processor"),
    *("airflow-triggerer", "airflow-worker", "airflow-worker-gpu", "label-studio", "gateway"),
    *("registry", "prometheus", "grafana"),
)
PORTS = range(1, 65536)
BATCH = 400  # connections that are open at once: a process may have 1024 files
SECONDS = 1.0


def addresses(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the IPv4 addresses of those names that have one here; one without may take seconds to be unknown."""
    with ThreadPoolExecutor(max_workers=len(names)) as pool:
        by_name = dict(zip(names, pool.map(_addresses, names), strict=True))
    return {name: ips for name, ips in by_name.items() if ips}


def open_ports(ip: str, ports: Sequence[int] = PORTS) -> list[int]:
    """Return the ports that take a connection; none where nothing of the first ones says so much as no."""
    listening: list[int] = []
    for start in range(0, len(ports), BATCH):
        taken, answered = _connect(ip, ports[start : start + BATCH])
        listening += taken
        if not answered:
            break
    return listening


def seen(services: Mapping[str, Iterable[str]]) -> Iterator[tuple[OpenPort, PortAnswer]]:
    """Yield every open port of these services with what it says to somebody without a key."""
    for name, ips in services.items():
        for ip in ips:
            for port in open_ports(ip):
                listener = OpenPort(name, ip, port)
                yield listener, ask(listener)


def findings(services: Mapping[str, Iterable[str]]) -> tuple[int, list[str]]:
    """Return how many ports were tried, and a line for each that is open to all."""
    tried = list(seen(services))
    wrong = [(port, open_to_all(port.program, answer)) for port, answer in tried]
    return len(tried), [f"{port.program} on {port.ip}:{port.port} {said}" for port, said in wrong if said]


def _addresses(name: str) -> tuple[str, ...]:
    try:
        told = socket.getaddrinfo(name, None, socket.AF_INET, socket.SOCK_STREAM)
    except OSError:
        return ()
    return tuple(sorted({str(info[4][0]) for info in told}))


def _connect(ip: str, ports: Sequence[int]) -> tuple[list[int], bool]:
    """Return which ports took a connection, and whether any answered at all, if only by refusing."""
    taken, answered = [], False
    with selectors.DefaultSelector() as selector, contextlib.ExitStack() as opened:
        for port in ports:
            connection = opened.enter_context(socket.socket())
            connection.settimeout(0)
            connection.connect_ex((ip, port))
            selector.register(connection, selectors.EVENT_WRITE, port)
        deadline = time.monotonic() + SECONDS
        while selector.get_map() and time.monotonic() < deadline:
            for key, _ in selector.select(timeout=SECONDS / 10):
                error = key.fileobj.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # type: ignore[union-attr]
                answered = True
                if not error:
                    taken.append(int(key.data))
                selector.unregister(key.fileobj)
    return sorted(taken), answered


def main() -> int:
    """Print, as JSON, the services that have an address here, and of these and further names what each port says."""
    services = addresses((*SERVICES, *sys.argv[1:]))
    ports = [
        dataclasses.asdict(listener) | {"protocol": answer.protocol, "statuses": dict(answer.statuses)}
        for listener, answer in seen(services)
    ]
    print(json.dumps({"services": services, "ports": ports}))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
