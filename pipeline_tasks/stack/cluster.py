"""Beyond one machine: Airflow's settings for a shared PostgreSQL, with Celery or Kubernetes, and their secrets."""

from __future__ import annotations

import json
import secrets
import shlex
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from pipeline_tasks.errors import ConfigError
from pipeline_tasks.stack.airflow_setup import write_airflow_files
from pipeline_tasks.stack.layout import StackLayout
from pipeline_tasks.stack.programs import s3_identities
from pipeline_tasks.stack.secrets import AIRFLOW_ROLES, ensure_secrets, write_private

EXECUTORS = ("CeleryExecutor", "KubernetesExecutor")
PARALLELISM = 32
PORT = 8080
# database -> the file of the address that uses it, and the driver that its user asks for
DATABASES: Mapping[str, tuple[str, str]] = {
    "dethrone": ("catalog_url", "postgresql+psycopg"),
    "airflow": ("airflow_database_url", "postgresql+psycopg"),
    "labelstudio": ("label_studio_database_url", "postgresql"),
}
_QUEUE = ("redis_url", "celery_result_url")
# Airflow's programs and the secret files that each reads; `celery` is a worker. The signing key of log requests is
# `airflow_api_secret`, of tasks' tokens `airflow_jwt_secret`; a running task's log is asked for through the executor.
PROGRAM_SECRETS: Mapping[str, tuple[str, ...]] = {
    "api-server": (
        *("airflow_database_url", "airflow_fernet_key", "airflow_api_secret", "airflow_jwt_secret", *_QUEUE),
        *(f"airflow_{user}_password" for user in AIRFLOW_ROLES),
    ),
    "scheduler": ("airflow_database_url", "airflow_fernet_key", "airflow_jwt_secret", *_QUEUE),
    "dag-processor": ("airflow_database_url", "airflow_fernet_key"),
    "triggerer": ("airflow_database_url", "airflow_fernet_key", "airflow_api_secret"),
    "celery": ("airflow_database_url", "airflow_api_secret", *_QUEUE),
    "db": ("airflow_database_url",),
}
_CELERY = """\
[celery]
broker_url_cmd = {broker}
result_backend_cmd = {results}
# A task belongs to the worker until it ends, so that a killed worker's tasks go to another.
task_acks_late = True
worker_prefetch_multiplier = 1
# One process a slot; each holds Airflow and, while it trains, torch.
worker_concurrency = 4
operation_timeout = 10

[celery_broker_transport_options]
# Redis gives a message that nobody acknowledged to another worker after this time: longer than the longest task.
visibility_timeout = 86400
"""


def write_settings(
    home: Path,
    *,
    root: Path,
    executor: str,
    base_url: str,
    port: int = PORT,
    programs: Collection[str] = tuple(PROGRAM_SECRETS),
) -> Path:
    """Write `airflow.cfg`, and for an api-server the passwords, below the home; return the settings' path.

    Raises:
        ConfigError: the executor is none for many machines, or a secret that one of the programs reads is missing.
    """
    if executor not in EXECUTORS:
        raise ConfigError(f"DETHRONE_EXECUTOR must be one of {', '.join(EXECUTORS)} (got {executor or 'nothing'}).")
    layout = StackLayout(home=home.resolve(), root=root)
    layout.airflow_home.mkdir(mode=0o700, parents=True, exist_ok=True)
    unused = () if executor == "CeleryExecutor" else _QUEUE
    wanted = {name for program in programs for name in PROGRAM_SECRETS[program]} - set(unused)
    values = {name: _read(layout.secrets_dir / name) for name in sorted(wanted)}
    beyond = settings(layout, executor=executor, base_url=base_url)
    write_airflow_files(layout, port=port, secrets=values, beyond=beyond)
    return layout.airflow_cfg


def settings(layout: StackLayout, *, executor: str, base_url: str) -> dict[str, str]:
    """Return the template's values that differ from one machine's; addresses with passwords are read by command."""

    def read(name: str) -> str:
        # Airflow takes every byte of the output: a line break at the end would be part of the database's name.
        return shlex.join(["sed", "--null-data", r"s/\n*$//", str(layout.secrets_dir / name)])

    celery = _CELERY.format(broker=read("redis_url"), results=read("celery_result_url"))
    return {
        "executor": executor,
        "database": f"sql_alchemy_conn_cmd = {read('airflow_database_url')}",
        "host": "0.0.0.0",  # noqa: S104 - inside a container; what is published stands in docker-compose.yml
        "base_url": base_url,
        "parallelism": str(PARALLELISM),
        "celery": celery if executor == "CeleryExecutor" else "",
    }


def ensure_cluster_secrets(folder: Path) -> list[str]:
    """Generate what is missing of the production stack's secrets and return the names of all files.

    The folder is the owner's only; the files in it can be read by every user, because each container has its own user
    and sees only the files that are mounted into it.
    """
    known = ensure_secrets(folder)
    folder.chmod(0o700)
    for name in ("postgres_password", "redis_password", "grafana_admin_password"):
        known[name] = _ensure(folder, name, lambda: secrets.token_hex(24))
    for database, (name, driver) in DATABASES.items():
        password = _ensure(folder, f"postgres_{database}_password", lambda: secrets.token_hex(24))
        known[f"postgres_{database}_password"] = password
        known[name] = _ensure(folder, name, lambda d=driver, p=password, b=database: f"{d}://{b}:{p}@postgres:5432/{b}")  # type: ignore[misc]
    redis = known["redis_password"]
    known["celery_result_url"] = _ensure(folder, "celery_result_url", lambda: f"db+{known['airflow_database_url']}")
    known["redis_url"] = _ensure(folder, "redis_url", lambda: f"redis://:{redis}@redis:6379/0")
    conf = f"requirepass {redis}\nappendonly yes\nprotected-mode yes"
    known["redis.conf"] = _ensure(folder, "redis.conf", lambda: conf)
    known["s3.json"] = _ensure_identities(folder / "s3.json", s3_identities(known))
    for name in known:  # a folder that holds other things keeps them as they are
        (folder / name).chmod(0o444)
    return sorted(known)


def _ensure(folder: Path, name: str, make: Callable[[], str]) -> str:
    path = folder / name
    if not path.exists():
        write_private(path, f"{make()}\n")
    return _read(path)


def _ensure_identities(path: Path, wanted: str) -> str:
    """Write the store's identities; to a file that is there, add those whose names it lacks.

    Raises:
        ConfigError: the file is not what the store reads.
    """
    if not path.exists():
        write_private(path, f"{wanted}\n")
    try:
        document = json.loads(path.read_text())
        names = {identity["name"] for identity in document["identities"]}
    except (ValueError, KeyError, TypeError) as error:
        advice = "Remove it, and give `dethrone secrets` again."
        raise ConfigError(f'{path} must hold JSON with "identities" (got {type(error).__name__}). {advice}') from None
    if missing := [identity for identity in json.loads(wanted)["identities"] if identity["name"] not in names]:
        document["identities"] += missing
        write_private(path, f"{json.dumps(document)}\n")
    return _read(path)


def _read(path: Path) -> str:
    text = path.read_text().strip() if path.is_file() else ""
    if not text:
        raise ConfigError(
            f"{path} must hold a secret (got nothing). `dethrone secrets <folder>` writes the production stack's."
        )
    return text
