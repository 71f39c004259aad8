"""Loopback ports of the parts of the stack, chosen once and remembered."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline_tasks.adapters.local_ports import address, next_free_port, port_is_free
from pipeline_tasks.errors import ConfigError
from pipeline_tasks.stack.secrets import write_private

# The port a newcomer expects, then the ones below 32768 that follow it: above lie the ports that the kernel gives to
# outgoing connections, so a remembered one could be taken by any client between two starts.
DEFAULT_PORTS: Mapping[str, int] = {
    "airflow": 8080,
    "label_studio": 8081,
    "gateway": 8000,
    "s3": 8333,
    "s3_grpc": 18333,
    "s3_master": 9333,
    "s3_master_grpc": 19333,
    "s3_volume": 9340,
    "s3_volume_grpc": 19340,
    "s3_filer": 8888,
    "s3_filer_grpc": 18888,
    "s3_admin": 13646,
}
# SeaweedFS's maintenance worker looks for the admin's second port at this distance and nowhere else.
ADMIN_GRPC_OFFSET = 10000


@dataclasses.dataclass(frozen=True, slots=True)
class PortChoice:
    """The ports of one start, and for each part that got another than it wanted: (wanted, chosen)."""

    ports: Mapping[str, int]
    moved: Mapping[str, tuple[int, int]]


def choose_ports(
    remembered: Mapping[str, int], *, held: Iterable[str], is_free: Callable[[int], bool] = port_is_free
) -> PortChoice:
    """Pick a port for every part: the remembered one, else the default, else the next free one.

    `held` names the parts that are running now, whose ports are busy because they are ours.
    """
    kept = {name: remembered[name] for name in held if name in remembered}
    ports = dict(kept)
    moved: dict[str, tuple[int, int]] = {}
    for name, default in DEFAULT_PORTS.items():
        if name in ports:
            continue
        wanted = remembered.get(name, default)
        usable = _with_second_port(is_free) if name == "s3_admin" else is_free
        others = set(DEFAULT_PORTS.values()) - {wanted}
        ports[name] = next_free_port(wanted, avoid={*ports.values(), *kept.values(), *others}, is_free=usable)
        if ports[name] != wanted:
            moved[name] = (wanted, ports[name])
    return PortChoice(ports=ports, moved=moved)


def _with_second_port(is_free: Callable[[int], bool]) -> Callable[[int], bool]:
    return lambda port: is_free(port) and is_free(port + ADMIN_GRPC_OFFSET)


def read_stack(path: Path) -> dict[str, Any]:
    """Return what the last `dethrone up` remembered, or nothing before the first one."""
    try:
        return dict(json.loads(path.read_text()))
    except FileNotFoundError:
        return {}
    except ValueError:
        raise ConfigError(
            f"{path} must be JSON (got something else). Delete it: the next `dethrone up` writes it anew."
        ) from None


def stack_document(ports: Mapping[str, int], *, projects_dir: Path, home: Path) -> dict[str, Any]:
    """Return the content of `stack.json`: what `pipeline_tasks.core.settings` reads."""
    return {
        "schema": 1,
        "home": str(home),
        "projects_dir": str(projects_dir),
        "s3_endpoint": address(ports["s3"]),
        "label_studio_url": address(ports["label_studio"]),
        "airflow_url": address(ports["airflow"]),
        "gateway_url": address(ports["gateway"]),
        "ports": dict(ports),
    }


def write_stack(path: Path, document: Mapping[str, Any]) -> None:
    """Remember the addresses; readers see the old file or the new one, never half of one."""
    write_private(path, json.dumps(document, indent=2, sort_keys=True) + "\n")
