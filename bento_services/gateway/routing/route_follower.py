"""Follow the catalog: a thread reads routes and keys twice a second; the last copy serves while it is away."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
import time
from pathlib import Path
from typing import Protocol

import sqlalchemy as sa

from bento_services.gateway.routing.routes import Snapshot, parse_key, parse_route, parse_snapshot, snapshot_of

# Plain SQL: the gateway shares the catalog's schema, not its code.
ROUTES_SQL = sa.text(
    "SELECT r.project, r.generation, r.commit_id, r.champion_version, r.body FROM routes r "
    "JOIN (SELECT project, MAX(generation) AS generation FROM routes GROUP BY project) h "
    "ON r.project = h.project AND r.generation = h.generation"
)
PROJECTS_SQL = sa.text("SELECT project FROM projects")
KEYS_SQL = sa.text("SELECT key_id, project, sha256, scopes FROM api_keys WHERE revoked_at IS NULL")

# A machine that vanished answers no more: noticed after about ten seconds, not after the system's two hours.
PATIENCE = {
    "connect_timeout": 3,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}

logger = logging.getLogger(__name__)


class Catalog(Protocol):
    """The source of routes and keys."""

    def read(self) -> Snapshot:
        """Return them as they are now; raises while it cannot be reached."""


class SqlCatalog:
    """The catalog's database, read only."""

    def __init__(self, url: str) -> None:
        self._engine = read_only_engine(url)

    def read(self) -> Snapshot:
        with self._engine.connect() as connection:
            routes = [parse_route(row) for row in connection.execute(ROUTES_SQL).mappings()]
            keys = [parse_key(row) for row in connection.execute(KEYS_SQL).mappings()]
            projects = [str(name) for name in connection.execute(PROJECTS_SQL).scalars()]
        return snapshot_of(routes, keys, projects=projects)


def read_only_engine(url: str) -> sa.Engine:
    """Return an engine on the catalog that cannot write."""
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        # A plain path would create an empty database where there is none yet; a kept connection would go on reading
        # the file that a restored catalog has replaced.
        uri = f"{Path(parsed.database).resolve().as_uri()}?mode=ro"
        return sa.create_engine("sqlite://", creator=lambda: sqlite3.connect(uri, uri=True), poolclass=sa.NullPool)
    return sa.create_engine(
        url, pool_pre_ping=True, pool_size=1, connect_args=PATIENCE, execution_options={"postgresql_readonly": True}
    )


class RouteFollower:
    """Holds the newest snapshot; reading `snapshot` is one attribute access, so requests never wait.

    `snapshot` is None until there is one: from the catalog, or from the local copy of an earlier life.
    """

    def __init__(self, catalog: Catalog, *, local_copy: Path, poll_seconds: float) -> None:
        self._catalog = catalog
        self._local_copy = local_copy
        self._poll_seconds = poll_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="route-follower", daemon=True)
        self._saved: str | None = None
        self._away = False
        self.snapshot: Snapshot | None = None
        self.read_at: float | None = None  # time.monotonic of the last successful read

    def start(self) -> None:
        """Read once (or load the local copy), then go on in a thread."""
        if not self.poll():
            self._load_local_copy()
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def poll(self) -> bool:
        """Read the catalog once; return False, and keep what there is, when that fails."""
        try:
            snapshot = self._catalog.read()
        except Exception as error:  # noqa: BLE001  whatever the driver raises: serving goes on with the last copy
            if not self._away:
                logger.warning("the catalog does not answer (%s); the last route keeps serving", type(error).__name__)
            self._away = True
            self.read_at = None
            return False
        self._away = False
        snapshot = _keep_vanished(snapshot, self.snapshot)
        if snapshot != self.snapshot:
            self.snapshot = snapshot
            self._log(snapshot)
        self.read_at = time.monotonic()
        self._save(snapshot)
        return True

    def age_seconds(self) -> float | None:
        """Return the seconds since the catalog was read, None while it is away."""
        return None if self.read_at is None else time.monotonic() - self.read_at

    def _run(self) -> None:
        while not self._stop.wait(self._poll_seconds):
            self.poll()

    def _load_local_copy(self) -> None:
        try:
            self.snapshot = parse_snapshot(self._local_copy.read_text())
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            logger.warning("the local copy of the routes cannot be used: %s", error)
            return
        logger.warning("serving by the local copy of the routes until the catalog answers")

    def _save(self, snapshot: Snapshot) -> None:
        """Write the local copy whole or not at all, with mode 600; a full disk must not stop following."""
        text = snapshot.to_json()
        if text == self._saved:
            return
        partial = self._local_copy.with_suffix(f".{os.getpid()}.partial")
        try:
            self._local_copy.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self._local_copy)
        except OSError as error:
            logger.warning("the local copy of the routes cannot be written: %s", error)
            with contextlib.suppress(OSError):
                partial.unlink()
            return
        self._saved = text

    def _log(self, snapshot: Snapshot) -> None:
        heads = ", ".join(f"{route.project} {route.generation}" for _, route in sorted(snapshot.routes.items()))
        logger.info("following %s", heads or "no route yet")


def _keep_vanished(new: Snapshot, old: Snapshot | None) -> Snapshot:
    """Keep the route of a project that the catalog no longer knows: routes are only ever added, so it was lost."""
    lost = {} if old is None else {name: route for name, route in old.routes.items() if name not in new.routes}
    return Snapshot(new.projects | lost.keys(), {**lost, **new.routes}, new.keys) if lost else new
