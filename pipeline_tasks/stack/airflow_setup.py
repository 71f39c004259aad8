"""Everything Airflow needs before and after its first start: settings, passwords, database, pools."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import shlex
import sqlite3
import string
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path

import httpx

from pipeline_tasks.adapters.local_ports import LOOPBACK, address
from pipeline_tasks.errors import ConfigError, ServiceUnavailable
from pipeline_tasks.stack.events import StartCancelled
from pipeline_tasks.stack.layout import StackLayout
from pipeline_tasks.stack.secrets import AIRFLOW_ROLES, write_private

POOLS: Mapping[str, tuple[int, str]] = {"gpu": (1, "One accelerator, or the CPU cores where there is none.")}
_CONFIG_SECRETS = ("airflow_fernet_key", "airflow_api_secret", "airflow_jwt_secret")
MIN_PARALLELISM, MAX_PARALLELISM = 4, 8


_ON_SQLITE = """\
sql_alchemy_conn = sqlite:///{airflow_home}/airflow.db
sql_alchemy_connect_args = pipeline_tasks.stack.airflow_database.CONNECT_ARGS
sql_alchemy_connect_args_async = pipeline_tasks.stack.airflow_database.CONNECT_ARGS"""


def render_airflow_cfg(
    template: str, *, layout: StackLayout, port: int, num_cpus: int, beyond: Mapping[str, str] | None = None
) -> str:
    """Fill in the template for one machine, or with what differs beyond it; a `%` in a path is doubled.

    Raises:
        ConfigError: the template names a value that does not exist.
    """
    values: dict[str, object] = {
        "executor": "LocalExecutor",
        "database": _ON_SQLITE.format(airflow_home=layout.airflow_home),
        "host": LOOPBACK,
        "base_url": address(port),
        "celery": "",
        "airflow_home": layout.airflow_home,
        "dags_folder": layout.root / "dags",
        "logs_dir": layout.logs_dir / "airflow",
        "parallelism": min(max(num_cpus * 2, MIN_PARALLELISM), MAX_PARALLELISM),
        "passwords_file": layout.passwords_file,
        "port": port,
        **{f"cat_{name}": shlex.join(["cat", str(layout.secrets_dir / name)]) for name in _CONFIG_SECRETS},
        "users": ",".join(f"{user}:{role}" for user, role in AIRFLOW_ROLES.items()),
        **(beyond or {}),
    }
    texts = {key: str(value).replace("%", "%%") for key, value in values.items()}
    try:
        return string.Template(template).substitute(texts)
    except (KeyError, ValueError) as error:
        raise ConfigError(
            f"airflow.cfg.template must use only {', '.join(sorted(texts))} (got {error}). Write $$ for a dollar sign."
        ) from None


def write_airflow_files(
    layout: StackLayout, *, port: int, secrets: Mapping[str, str], beyond: Mapping[str, str] | None = None
) -> None:
    """Write `airflow.cfg` and, where `secrets` has passwords, the simple auth manager's file, for the owner only."""
    template = layout.airflow_template.read_text()
    text = render_airflow_cfg(template, layout=layout, port=port, num_cpus=os.cpu_count() or 1, beyond=beyond)
    write_private(layout.airflow_cfg, text)
    passwords = {user: secrets[name] for user in AIRFLOW_ROLES if (name := f"airflow_{user}_password") in secrets}
    if passwords:
        write_private(layout.passwords_file, json.dumps(passwords))


def migrate(layout: StackLayout, *, airflow: Path, environment: Mapping[str, str], cancel: threading.Event) -> bool:
    """Bring Airflow's database to the installed version; False when it is there already.

    Works on a copy that takes the database's place at the end, so a kill at any moment leaves the old one whole.
    No process of Airflow may run meanwhile.

    Raises:
        ServiceUnavailable: the migration failed; the message holds its last lines.
        StartCancelled: another part failed meanwhile.
    """
    version = importlib.metadata.version("apache-airflow")
    stamp, database = layout.airflow_home / "migrated", layout.airflow_home / "airflow.db"
    if database.exists() and stamp.exists() and stamp.read_text() == version:
        return False
    # A file of its own: the migration of a killed `up` may still be at work on the one before.
    for path in layout.airflow_home.glob("airflow.db.migrating-*"):
        path.unlink(missing_ok=True)
    work = layout.airflow_home / f"airflow.db.migrating-{os.getpid()}"
    if database.exists():
        _copy_database(database, work)
    _run_migration(
        airflow,
        environment={**environment, "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{work}"},
        log=layout.log_file("airflow-migrate"),
        cancel=cancel,
    )
    _checkpoint(work)
    _remove_database(database)
    work.replace(database)
    write_private(stamp, version)
    return True


def ensure_pools(port: int, *, username: str, password: str, timeout_seconds: float = 120) -> list[str]:
    """Create the pools that are missing and return their names; a person's change of slots is kept.

    A first answer of a fresh api-server takes long on a busy machine: each request may take `timeout_seconds`.

    Raises:
        ServiceUnavailable: the api-server refused or did not answer.
    """
    try:
        with httpx.Client(base_url=address(port), timeout=timeout_seconds, trust_env=False) as client:
            token = client.post("/auth/token", json={"username": username, "password": password})
            token.raise_for_status()
            client.headers["Authorization"] = f"Bearer {token.json()['access_token']}"
            return [name for name in POOLS if create_pool(client, name)]
    except httpx.HTTPError as error:
        raise ServiceUnavailable(
            f"Airflow must create the pools {', '.join(POOLS)} (got {type(error).__name__}: {error}). "
            "See `dethrone logs airflow-api-server`."
        ) from error


def create_pool(client: httpx.Client, name: str) -> bool:
    """Create one pool; False when it is there, whoever made it."""
    if client.get(f"/api/v2/pools/{name}").status_code == httpx.codes.OK:
        return False
    slots, description = POOLS[name]
    body = {"name": name, "slots": slots, "description": description, "include_deferred": False}
    response = client.post("/api/v2/pools", json=body)
    if response.status_code == httpx.codes.CONFLICT:
        return False
    response.raise_for_status()
    return True


def _run_migration(airflow: Path, *, environment: Mapping[str, str], log: Path, cancel: threading.Event) -> None:
    with (
        log.open("ab") as output,
        subprocess.Popen(  # noqa: S603 - our own interpreter's command
            [str(airflow), "db", "migrate"], env=dict(environment), stdout=output, stderr=subprocess.STDOUT
        ) as process,
    ):
        while process.poll() is None:
            if cancel.wait(0.1):
                process.terminate()
                raise StartCancelled
        code = process.returncode
    if code != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-10:])
        raise ServiceUnavailable(f"airflow db migrate must end with 0 (got {code}). Its last lines:\n{tail}")


def _copy_database(source: Path, target: Path) -> None:
    with contextlib.closing(sqlite3.connect(source)) as old, contextlib.closing(sqlite3.connect(target)) as new:
        old.backup(new)


def _checkpoint(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _remove_database(path: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
