"""`dethrone status` and `logs`: what runs, where, and whether it answers. Reads only."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pipeline_tasks.adapters import http_health, local_ports
from pipeline_tasks.errors import ConfigError, ServiceUnavailable
from pipeline_tasks.stack import addresses, health
from pipeline_tasks.stack.layout import StackLayout, source_root
from pipeline_tasks.stack.logs import log_tail
from pipeline_tasks.stack.supervisor_conf import INFERENCE_PREFIX, read_port
from pipeline_tasks.stack.supervisord import ProcessInfo, Supervisor

ADDRESSES: Mapping[str, str] = {
    "s3": "s3", "label-studio": "label_studio", "airflow-api-server": "airflow", "gateway": "gateway",
}  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class PartStatus:
    """One process of the stack."""

    name: str
    state: str
    pid: int | None
    uptime_seconds: float
    address: str | None
    healthy: bool
    detail: str


@dataclasses.dataclass(frozen=True, slots=True)
class StackStatus:
    """All of them; `running` tells whether there is a supervisor at all."""

    home: str
    running: bool
    parts: tuple[PartStatus, ...]

    @property
    def healthy(self) -> bool:
        return self.running and bool(self.parts) and all(part.healthy for part in self.parts)


def status(home: Path, *, root: Path | None = None) -> StackStatus:
    """Ask the supervisor and every part, side by side; never waits more than a few seconds."""
    layout = StackLayout(home=home.resolve(), root=root or source_root())
    try:
        infos = Supervisor(layout.socket, timeout_seconds=10).processes()
    except ServiceUnavailable:
        return StackStatus(home=str(layout.home), running=False, parts=())
    ports: dict[str, int] = addresses.read_stack(layout.stack_file).get("ports", {})
    airflow = health.airflow_health(ports["airflow"]) if "airflow" in ports else "no address remembered"
    with ThreadPoolExecutor(max_workers=8) as pool:
        parts = pool.map(lambda info: _part(info, layout=layout, ports=ports, airflow=airflow), infos.values())
    return StackStatus(home=str(layout.home), running=True, parts=tuple(sorted(parts, key=_order)))


def logs(home: Path, *, part: str | None = None, num_lines: int = 30, root: Path | None = None) -> dict[str, list[str]]:
    """Return the last lines of one part's log, or of every part's.

    Raises:
        ConfigError: there is no log of that name.
    """
    layout = StackLayout(home=home.resolve(), root=root or source_root())
    files = {path.stem: path for path in sorted(layout.logs_dir.glob("*.log"))}
    if part is not None and part not in files:
        raise ConfigError(
            f"part must be one of {', '.join(files) or 'none yet'} (got {part}). Run `dethrone up` first."
        )
    return {name: log_tail(path, num_lines=num_lines) for name, path in files.items() if part in {None, name}}


def _part(
    info: ProcessInfo, *, layout: StackLayout, ports: Mapping[str, int], airflow: Mapping[str, Any] | str
) -> PartStatus:
    answer, where = _health(info.name, layout=layout, ports=ports, airflow=airflow)
    running = info.state == "RUNNING"
    return PartStatus(
        name=info.name,
        state=info.state,
        pid=info.pid,
        uptime_seconds=info.uptime_seconds,
        address=where,
        healthy=running and answer.ok,
        detail=answer.detail if running else info.description,
    )


def _health(
    name: str, *, layout: StackLayout, ports: Mapping[str, int], airflow: Mapping[str, Any] | str
) -> tuple[http_health.Health, str | None]:
    where = local_ports.address(ports[ADDRESSES[name]]) if ADDRESSES.get(name) in ports else None
    if name in health.AIRFLOW_HEALTH_KEYS:
        return health.airflow_part_health(name, airflow), where
    if name.startswith(INFERENCE_PREFIX):
        where = local_ports.address(read_port(layout.program_file(name)))
        return http_health.http_health(f"{where}/readyz"), where
    return health.probe(name, ports=ports), where


def _order(part: PartStatus) -> tuple[int, str]:
    names = ("s3", "label-studio", *health.AIRFLOW_HEALTH_KEYS, "gateway", "watchdog")
    return (names.index(part.name) if part.name in names else len(names), part.name)
