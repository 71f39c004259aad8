"""Predictions that are asked about later: asynchronous ones, and answers that a person is to look at.

SQLite in `<home>/serving`, written by one thread in batches. A committed row survives a killed gateway; a power cut may
take the newest ones (WAL, synchronous=NORMAL). Bounded: the number and bytes of what waits, and the number of what is
kept. Two gateways may share a folder: what waits is leased, and a dead one's lease runs out.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import sqlite3
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, TypeVar

State = Literal["pending", "done", "failed", "expired"]
Event = Literal["answered", "reviewed"]
T = TypeVar("T")

logger = logging.getLogger(__name__)

MAX_BUFFERED = 10_000
FLUSH_SECONDS = 0.05
CALLBACK_DELAYS_SECONDS = (0.0, 10.0, 60.0)
SCHEMA = """
CREATE TABLE IF NOT EXISTS predictions (
    prediction_id TEXT PRIMARY KEY,
    project TEXT NOT NULL,
    state TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    request TEXT NOT NULL,
    payload BLOB,
    answer TEXT,
    item_id TEXT NOT NULL,
    created_at REAL NOT NULL,
    due_at REAL NOT NULL,
    ended_at REAL,
    callback_url TEXT,
    callback_event TEXT,
    callback_due REAL,
    callback_attempts INTEGER NOT NULL DEFAULT 0,
    review_due REAL
);
CREATE INDEX IF NOT EXISTS ix_due ON predictions (due_at) WHERE state = 'pending';
CREATE INDEX IF NOT EXISTS ix_callback ON predictions (callback_due) WHERE callback_due IS NOT NULL;
CREATE INDEX IF NOT EXISTS ix_review ON predictions (review_due) WHERE review_due IS NOT NULL;
CREATE INDEX IF NOT EXISTS ix_ended ON predictions (ended_at) WHERE ended_at IS NOT NULL;
"""


@dataclasses.dataclass(frozen=True, slots=True)
class StoreLimits:
    """The most that the store holds."""

    max_pending: int = 1000
    max_pending_bytes: int = 256 * 1024 * 1024
    max_kept: int = 100_000
    keep_seconds: float = 7 * 86_400.0


@dataclasses.dataclass(frozen=True, slots=True)
class Waiting:
    """A prediction to be made: who asked, for what, how."""

    prediction_id: str
    project: str
    request: Mapping[str, Any]
    payload: bytes
    created_at: float


@dataclasses.dataclass(frozen=True, slots=True)
class Stored:
    """The state of a prediction; `answer` is the prediction of a done one, the error of a failed one."""

    prediction_id: str
    project: str
    state: State
    fingerprint: str
    answer: Mapping[str, Any] | None
    item_id: str


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """A callback that is due."""

    prediction_id: str
    url: str
    event: Event
    attempts: int


class StoreFullError(Exception):
    """There is no room for another waiting prediction."""


class PredictionStore:
    """Every method but `remember` returns a future: one thread does all the work, in order."""

    def __init__(self, path: Path, *, limits: StoreLimits, wall_seconds: Callable[[], float]) -> None:
        self._path = path
        self._limits = limits
        self._now = wall_seconds
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prediction-store")
        self._buffer: deque[tuple[Any, ...]] = deque(maxlen=MAX_BUFFERED)
        self._flushing = False
        self._timer: asyncio.TimerHandle | None = None
        self._connection: sqlite3.Connection | None = None

    def close(self) -> None:
        """Write what is buffered and close the file."""
        if self._timer is not None:
            self._timer.cancel()
        self._run(self._close).result()
        self._thread.shutdown()

    def submit(self, waiting: Waiting, *, fingerprint: str, item_id: str, callback_url: str | None) -> Future[Stored]:
        """Keep a prediction to be made; the same id again returns what there is already.

        Raises:
            StoreFullError: too much waits.
        """
        return self._run(lambda: self._submit(waiting, fingerprint, item_id, callback_url))

    def claim(self, *, limit: int, lease_seconds: float) -> Future[list[Waiting]]:
        """Take what is due, the oldest first; nobody else gets it until the lease ends."""
        return self._run(lambda: self._claim(limit, lease_seconds))

    def finish(
        self,
        prediction_id: str,
        state: Literal["done", "failed"],
        answer: Mapping[str, Any],
        *,
        review_in: float | None,
    ) -> Future[None]:
        """Keep how a prediction ended and make its callback due; the payload is forgotten."""
        return self._run(lambda: self._finish(prediction_id, state, json.dumps(answer), review_in))

    def postpone(self, prediction_id: str, *, seconds: float) -> Future[None]:
        """Make a waiting prediction due later."""
        sql = "UPDATE predictions SET due_at = ? WHERE prediction_id = ? AND state = 'pending'"
        return self._run(lambda: self._write(sql, (self._now() + seconds, prediction_id)))

    def find(self, prediction_id: str) -> Future[Stored | None]:
        """Return what is known of a prediction, None if nothing is."""
        return self._run(lambda: self._find(prediction_id))

    def remember(self, prediction_id: str, *, project: str, answer: Mapping[str, Any], item_id: str) -> None:
        """Keep an answer that was given already; returns at once, written with its neighbours soon after.

        Belongs to a running event loop. Whatever reads the store later sees it.
        """
        now = self._now()
        self._buffer.append((prediction_id, project, json.dumps(answer), item_id, now, now, now))
        if not self._flushing:
            self._flushing = True
            self._timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self._run, lambda: None)

    def calls(self, *, limit: int) -> Future[list[Call]]:
        """Return the callbacks that are due; each is due again later unless it is settled."""
        return self._run(lambda: self._calls(limit))

    def called(self, prediction_id: str) -> Future[None]:
        """Note that a callback was taken."""
        sql = "UPDATE predictions SET callback_due = NULL, callback_attempts = 0 WHERE prediction_id = ?"
        return self._run(lambda: self._write(sql, (prediction_id,)))

    def to_review(self, *, limit: int, again_in: float) -> Future[list[Stored]]:
        """Return predictions with a callback that a person has not answered as far as was known."""
        return self._run(lambda: self._to_review(limit, again_in))

    def reviewed(self, prediction_id: str) -> Future[None]:
        """Make the second callback due: a person has answered."""
        sql = (
            "UPDATE predictions SET review_due = NULL, callback_event = 'reviewed', callback_due = ?, "
            "callback_attempts = 0 WHERE prediction_id = ?"
        )
        return self._run(lambda: self._write(sql, (self._now(), prediction_id)))

    def expire(self) -> Future[None]:
        """Forget answers after their time, and the oldest ones when there are too many; an expired id stays known."""
        return self._run(self._expire)

    def _run(self, work: Callable[[], T]) -> Future[T]:
        """Do some work in the store's thread, after what is buffered was written."""

        def after_buffered() -> T:
            self._flush()
            return work()

        return self._thread.submit(after_buffered)

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            connection = sqlite3.connect(self._path, timeout=5.0, isolation_level=None, check_same_thread=False)
            self._path.chmod(0o600)  # payloads wait in it
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.executescript(SCHEMA)
            self._connection = connection
        return self._connection

    def _rows(self, sql: str, values: tuple[Any, ...] = ()) -> list[sqlite3.Row]:
        return self._open().execute(sql, values).fetchall()

    def _write(self, sql: str, values: tuple[Any, ...]) -> None:
        self._open().execute(sql, values)

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _submit(self, waiting: Waiting, fingerprint: str, item_id: str, callback_url: str | None) -> Stored:
        known = self._find(waiting.prediction_id)
        if known is not None:
            return known
        sql = "SELECT COUNT(*) AS n, COALESCE(SUM(LENGTH(payload)), 0) AS size FROM predictions WHERE state = 'pending'"
        held = self._rows(sql)[0]
        limits = self._limits
        if held["n"] >= limits.max_pending or held["size"] + len(waiting.payload) > limits.max_pending_bytes:
            raise StoreFullError
        self._write(
            "INSERT INTO predictions (prediction_id, project, state, fingerprint, request, payload, item_id, "
            "created_at, due_at, callback_url, callback_event) "
            "VALUES (?, ?, 'pending', ?, ?, ?, ?, ?, ?, ?, 'answered')",
            (
                waiting.prediction_id,
                waiting.project,
                fingerprint,
                json.dumps(dict(waiting.request)),
                waiting.payload,
                item_id,
                waiting.created_at,
                self._now(),
                callback_url,
            ),
        )
        return Stored(waiting.prediction_id, waiting.project, "pending", fingerprint, None, item_id)

    def _claim(self, limit: int, lease_seconds: float) -> list[Waiting]:
        now = self._now()
        rows = self._rows(
            "UPDATE predictions SET due_at = ? WHERE prediction_id IN (SELECT prediction_id FROM predictions "
            "WHERE state = 'pending' AND due_at <= ? ORDER BY due_at LIMIT ?) "
            "RETURNING prediction_id, project, request, payload, created_at",
            (now + lease_seconds, now, limit),
        )
        return [
            Waiting(row["prediction_id"], row["project"], json.loads(row["request"]), row["payload"], row["created_at"])
            for row in rows
        ]

    def _finish(self, prediction_id: str, state: str, answer: str, review_in: float | None) -> None:
        now = self._now()
        self._write(
            "UPDATE predictions SET state = ?, answer = ?, payload = NULL, ended_at = ?, "
            "callback_due = CASE WHEN callback_url IS NULL THEN NULL ELSE ? END, "
            "review_due = CASE WHEN callback_url IS NULL THEN NULL ELSE ? END "
            "WHERE prediction_id = ? AND state = 'pending'",
            (state, answer, now, now, None if review_in is None else now + review_in, prediction_id),
        )

    def _find(self, prediction_id: str) -> Stored | None:
        rows = self._rows("SELECT * FROM predictions WHERE prediction_id = ?", (prediction_id,))
        return _stored(rows[0]) if rows else None

    def _flush(self) -> None:
        self._flushing = False
        rows = []
        while self._buffer:
            rows.append(self._buffer.popleft())
        if not rows:
            return
        sql = (
            "INSERT OR IGNORE INTO predictions (prediction_id, project, state, fingerprint, request, answer, item_id, "
            "created_at, due_at, ended_at) VALUES (?, ?, 'done', '', '{}', ?, ?, ?, ?, ?)"
        )
        try:
            with self._open() as connection:  # one transaction
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany(sql, rows)
        except sqlite3.Error as error:  # they can be read no more, but they were given and logged
            logger.warning("%d answers cannot be kept for later reading: %s", len(rows), error)

    def _calls(self, limit: int) -> list[Call]:
        now = self._now()
        rows = self._rows(
            "SELECT prediction_id, callback_url, callback_event, callback_attempts FROM predictions "
            "WHERE callback_due <= ? ORDER BY callback_due LIMIT ?",
            (now, limit),
        )
        calls = [Call(*row) for row in rows]
        for call in calls:
            attempts = call.attempts + 1
            more = attempts < len(CALLBACK_DELAYS_SECONDS)
            due = now + CALLBACK_DELAYS_SECONDS[attempts] if more else None
            sql = "UPDATE predictions SET callback_due = ?, callback_attempts = ? WHERE prediction_id = ?"
            self._write(sql, (due, attempts, call.prediction_id))
        return calls

    def _to_review(self, limit: int, again_in: float) -> list[Stored]:
        now = self._now()
        rows = self._rows(
            "UPDATE predictions SET review_due = ? WHERE prediction_id IN (SELECT prediction_id FROM predictions "
            "WHERE review_due <= ? ORDER BY review_due LIMIT ?) RETURNING *",
            (now + again_in, now, limit),
        )
        return [_stored(row) for row in rows]

    def _expire(self) -> None:
        limits, now = self._limits, self._now()
        self._write(
            "UPDATE predictions SET state = 'expired', answer = NULL, review_due = NULL, callback_due = NULL "
            "WHERE state != 'expired' AND ended_at < ?",
            (now - limits.keep_seconds,),
        )
        self._write(
            "DELETE FROM predictions WHERE prediction_id IN (SELECT prediction_id FROM predictions "
            "WHERE ended_at IS NOT NULL ORDER BY ended_at DESC LIMIT -1 OFFSET ?)",
            (limits.max_kept,),
        )


def _stored(row: sqlite3.Row) -> Stored:
    answer = None if row["answer"] is None else json.loads(row["answer"])
    return Stored(row["prediction_id"], row["project"], row["state"], row["fingerprint"], answer, row["item_id"])
