"""Transactions, leases and idempotent inserts, on SQLite and PostgreSQL, with threads and with processes."""

import datetime as dt
import random
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.database import insert_ignore
from pipeline_tasks.contracts import Attempt
from pipeline_tasks.errors import StaleAttempt

NOW = dt.datetime(2026, 1, 1, 12, 30, tzinfo=dt.UTC)


def seen(key: str) -> dict[str, str]:
    return {"project": "pets", "source": "folder", "key": key, "fingerprint": "f"}


def count(database, table) -> int:
    with database.read() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()


def test_insert_ignore_counts_only_the_rows_that_were_new(database):
    with database.write() as connection:
        assert insert_ignore(connection, t.seen_objects, []) == 0
        assert insert_ignore(connection, t.seen_objects, [seen("a")]) == 1
        assert insert_ignore(connection, t.seen_objects, [seen("a")]) == 0
        assert insert_ignore(connection, t.seen_objects, [seen("a"), seen("b"), seen("c"), seen("b")]) == 2
        assert insert_ignore(connection, t.seen_objects, [seen(str(number)) for number in range(5000)]) == 5000
    assert count(database, t.seen_objects) == 5003


def test_insert_ignore_leaves_existing_rows_as_they_are(database):
    with database.write() as connection:
        insert_ignore(connection, t.seen_objects, [seen("a")])
        insert_ignore(connection, t.seen_objects, [seen("a") | {"fingerprint": "other"}])
        assert connection.execute(sa.select(t.seen_objects.c.fingerprint)).scalars().all() == ["f"]


def test_a_failed_transaction_writes_nothing(database):
    def fail_late():
        with database.write() as connection:
            insert_ignore(connection, t.seen_objects, [seen("a")])
            raise ZeroDivisionError("after the insert")

    with pytest.raises(ZeroDivisionError, match="after the insert"):
        fail_late()
    assert count(database, t.seen_objects) == 0


def test_times_come_back_in_utc_and_naive_ones_are_refused(database):
    local = dt.datetime(2026, 1, 1, 14, 30, tzinfo=dt.timezone(dt.timedelta(hours=2)))
    row = {"name": "x", "token": 1, "holder": "h", "acquired_at": local}
    with database.write() as connection:
        connection.execute(t.leases.insert(), row)
        assert connection.execute(sa.select(t.leases.c.acquired_at)).scalar_one() == NOW
        assert connection.execute(sa.select(t.leases.c.acquired_at)).scalar_one().tzinfo == dt.UTC
    with pytest.raises(sa.exc.StatementError, match="must carry a time zone"), database.write() as connection:
        connection.execute(t.leases.insert(), row | {"name": "y", "acquired_at": local.replace(tzinfo=None)})


def test_the_newest_attempt_holds_the_lease(database):
    first = database.acquire("pets/train", Attempt("run1", "train", 1), now=NOW)
    second = database.acquire("pets/train", Attempt("run1", "train", 2), now=NOW)
    assert (first.token, second.token, second.holder) == (1, 2, "run1/train/2")
    database.check(second)
    with pytest.raises(StaleAttempt, match=r"run1/train/1 must hold the lease pets/train \(got: run1/train/2 holds it"):
        database.check(first)


def test_a_lease_that_was_never_taken_is_stale(database):
    fence = database.acquire("pets/train", Attempt("run1", "train"), now=NOW)
    with database.write() as connection:
        connection.execute(t.leases.delete())
    with pytest.raises(StaleAttempt, match="nobody holds it"):
        database.check(fence)


def test_a_stale_fence_writes_nothing(database):
    stale = database.acquire("pets/train", Attempt("run1", "train", 1), now=NOW)
    database.acquire("pets/train", Attempt("run1", "train", 2), now=NOW)
    with pytest.raises(StaleAttempt, match="publishes nothing"), database.write(stale) as connection:
        insert_ignore(connection, t.seen_objects, [seen("a")])
    assert count(database, t.seen_objects) == 0


def test_a_lease_taken_while_a_fenced_write_runs_waits_for_it(database):
    fence = database.acquire("pets/train", Attempt("run1", "train", 1), now=NOW)
    taken = threading.Event()

    def take() -> int:
        token = database.acquire("pets/train", Attempt("run1", "train", 2), now=NOW).token
        taken.set()
        return token

    with ThreadPoolExecutor(1) as pool:
        with database.write(fence) as connection:
            newer = pool.submit(take)
            insert_ignore(connection, t.seen_objects, [seen("a")])
            assert not taken.wait(0.5), "the lease moved under a transaction that was fenced by it"
        assert newer.result(timeout=30) == 2
    assert count(database, t.seen_objects) == 1


def test_racing_threads_get_different_tokens(database):
    with ThreadPoolExecutor(16) as pool:
        fences = list(
            pool.map(lambda number: database.acquire("pets/train", Attempt("r", "t", number), now=NOW), range(48))
        )
    assert sorted(fence.token for fence in fences) == list(range(1, 49))


def test_writers_of_the_same_rows_in_other_orders_do_not_deadlock(database):
    rows = [seen(str(number)) for number in range(4000)]

    def write(number: int) -> int:
        with database.write() as connection:
            return insert_ignore(connection, t.seen_objects, random.Random(number).sample(rows, len(rows)))

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(write, range(8))) == 4000


RACER = """
import datetime as dt, sys
from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.database import Database, create_engine, insert_ignore
from pipeline_tasks.contracts import Attempt
from pipeline_tasks.errors import StaleAttempt

url, number, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
catalog = Database(create_engine(url))
now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
for count in range(rounds):
    fence = catalog.acquire("pets/ingest", Attempt("run", "ingest", number), now=now)
    with catalog.write() as connection:
        rows = [dict(project="pets", source=f"{number}", key=f"{count}/{row}", fingerprint="f") for row in range(20)]
        assert insert_ignore(connection, t.seen_objects, rows) == 20
    try:
        with catalog.write(fence) as connection:
            row = dict(project="pets", source="fenced", key=str(fence.token), fingerprint="f")
            insert_ignore(connection, t.seen_objects, [row])
    except StaleAttempt:
        pass
"""


def test_eight_processes_write_at_once_without_an_error_and_without_a_lost_row(database, catalog_url):
    processes, rounds = 8, 15
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, catalog_url, str(number), str(rounds)], stderr=subprocess.PIPE, text=True
        )
        for number in range(processes)
    ]
    errors = [racer.communicate(timeout=120)[1] for racer in racers]
    assert errors == [""] * processes
    with database.read() as connection:
        assert connection.execute(sa.select(t.leases.c.token)).scalar_one() == processes * rounds
        fenced = sa.select(sa.func.count()).where(t.seen_objects.c.source == "fenced")
        assert 1 <= connection.execute(fenced).scalar_one() <= processes * rounds
        own = sa.select(sa.func.count()).where(t.seen_objects.c.source != "fenced")
        assert connection.execute(own).scalar_one() == processes * rounds * 20


def test_a_reader_does_not_wait_for_a_writer(database):
    with database.write() as connection:
        insert_ignore(connection, t.seen_objects, [seen("a")])
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(count, database, t.seen_objects).result(timeout=5) == 0
    assert count(database, t.seen_objects) == 1
