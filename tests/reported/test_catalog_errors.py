"""A catalog that is locked, full, read-only, damaged or away is said in words: never a library's error."""

import errno
import json
import sqlite3
import stat

import pytest
import sqlalchemy as sa

from pipeline_tasks.backup import verify
from pipeline_tasks.catalog import database as module
from pipeline_tasks.catalog import migrate
from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.database import Database, create_engine
from pipeline_tasks.catalog.database_errors import catalog_error
from pipeline_tasks.cli import main
from pipeline_tasks.contracts import Attempt
from pipeline_tasks.errors import DataCorrupt, PermanentError, PipelineError, ServiceUnavailable, TransientError
from tests.ledger_case import NOW

ROW = {"project": "pets", "source": "folder", "key": "k", "fingerprint": "x" * 50_000}


@pytest.fixture
def catalog(tmp_path, monkeypatch):
    """A catalog in a file that is waited for a tenth of a second."""
    monkeypatch.setattr(module, "BUSY_TIMEOUT_SECONDS", 0.1)
    path = tmp_path / "pets.db"
    migrate.upgrade(f"sqlite:///{path}")
    return path


def locked(path):
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    return f"sqlite:///{path}", other


def full(path):
    return f"sqlite:///{path}", "PRAGMA max_page_count=1"


def read_only(path):
    return f"sqlite:///{path}", "PRAGMA query_only=1"


def damaged(path):
    path.write_bytes(b"not a database, but a file of some length" * 100)
    return f"sqlite:///{path}", None


def in_no_folder(path):
    return f"sqlite:///{path.parent / 'gone' / 'pets.db'}", None


def empty(path):
    return f"sqlite:///{path.parent / 'empty.db'}", None


@pytest.mark.parametrize(
    ("make", "error", "code", "words"),
    [
        (locked, ServiceUnavailable, "SERVICE_UNAVAILABLE", r"must be free \(got: database is locked\)"),
        (full, TransientError, "DISK_FULL", r"must have room on its disk \(got: database or disk is full\)"),
        (read_only, PermanentError, "CATALOG_READ_ONLY", r"must be writable .*attempt to write a readonly database"),
        (damaged, DataCorrupt, "DATA_CORRUPT", r"must be a whole database \(got: file is not a database\)"),
        (in_no_folder, PermanentError, "CATALOG_READ_ONLY", r"unable to open database file"),
        (empty, PermanentError, "CATALOG_OUTDATED", r"must have this version's tables \(got: no such table"),
    ],
    ids=["H9-locked", "H9-full", "H9-read-only", "H9-damaged", "H9-no-folder", "H9-no-tables"],
)
def test_a_write_says_what_is_the_matter(catalog, make, error, code, words):
    url, held = make(catalog)
    engine = create_engine(url)
    if isinstance(held, str):
        sa.event.listen(engine, "connect", lambda connection, _record: connection.execute(held))
    with pytest.raises(error, match=words) as caught, Database(engine).write() as connection:
        connection.execute(t.seen_objects.insert(), ROW)
    assert caught.value.code == code
    assert str(catalog.parent) in str(caught.value)
    engine.dispose()


def test_h9_every_way_into_a_locked_catalog_is_said(catalog):
    _url, holder = locked(catalog)
    database = Database(create_engine(f"sqlite:///{catalog}"))
    with pytest.raises(ServiceUnavailable, match="must be free"):
        database.acquire("pets/train", Attempt("r", "train"), now=NOW)
    with pytest.raises(ServiceUnavailable, match="must be free"):
        migrate.upgrade(f"sqlite:///{catalog}")
    holder.execute("ROLLBACK")
    assert database.acquire("pets/train", Attempt("r", "train"), now=NOW).token == 1


@pytest.mark.parametrize(
    ("state", "error", "code"),
    [
        ("53100", TransientError, "DISK_FULL"),
        ("53300", ServiceUnavailable, "SERVICE_UNAVAILABLE"),
        ("57P01", ServiceUnavailable, "SERVICE_UNAVAILABLE"),
        ("08006", ServiceUnavailable, "SERVICE_UNAVAILABLE"),
        ("40001", ServiceUnavailable, "SERVICE_UNAVAILABLE"),
        ("40P01", ServiceUnavailable, "SERVICE_UNAVAILABLE"),
        ("55P03", ServiceUnavailable, "SERVICE_UNAVAILABLE"),
        ("25006", PermanentError, "CATALOG_READ_ONLY"),
        ("28P01", PermanentError, "CATALOG_REFUSED"),
        ("3D000", PermanentError, "CATALOG_REFUSED"),
        ("42P01", PermanentError, "CATALOG_OUTDATED"),
        ("XX001", DataCorrupt, "DATA_CORRUPT"),
        ("22003", PermanentError, "CATALOG_ERROR"),
        (None, ServiceUnavailable, "SERVICE_UNAVAILABLE"),
    ],
)
def test_h9_postgresql_says_it_by_its_codes(state, error, code):
    raw = type("Error", (Exception,), {"sqlstate": state})("it broke\nDETAIL: at length")
    translated = catalog_error(sa.exc.OperationalError("SELECT", {}, raw), place="postgresql://u:***@h/db")
    assert (type(translated), translated.code) == (error, code)
    assert "(got: it broke)" in str(translated)


def test_h9_a_taken_key_is_the_callers(catalog):
    database = Database(create_engine(f"sqlite:///{catalog}"))
    with database.write() as connection:
        connection.execute(t.seen_objects.insert(), ROW)
    with pytest.raises(sa.exc.IntegrityError), database.write() as connection:
        connection.execute(t.seen_objects.insert(), ROW)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ServiceUnavailable("the catalog at x must be free (got: locked)."), "SERVICE_UNAVAILABLE"),
        (OSError(errno.ENOSPC, "No space left on device", "/srv/x"), "DISK_FULL"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "/srv/x"), "DISK_FULL"),
    ],
    ids=["H9-locked", "H9-full", "H9-quota"],
)
def test_a_command_ends_with_a_code_and_words(monkeypatch, capsys, error, code):
    def fail(*_anchors, **_options):
        raise error

    monkeypatch.setattr(verify, "verify_installation", fail)
    assert main.main(["verify", "--json"]) == main.FAILED
    assert json.loads(capsys.readouterr().out)["error"]["code"] == code


@pytest.mark.parametrize(("error", "status"), [(ServiceUnavailable, 503), (PermanentError, 500)])
def test_h9_a_page_says_it_too(monkeypatch, error, status):
    from airflow.api_fastapi.core_api.security import get_user
    from fastapi.testclient import TestClient

    from pipeline_tasks.orchestration import airflow_plugin, overview

    def fail():
        raise error("the catalog at x must be free (got: locked).")

    monkeypatch.setattr(overview, "overview_html", fail)
    monkeypatch.setitem(airflow_plugin.app.dependency_overrides, get_user, lambda: "alice")
    answer = TestClient(airflow_plugin.app, raise_server_exceptions=False).get("/")
    assert (answer.status_code, "must be free" in answer.text) == (status, True)
    assert issubclass(error, PipelineError)


@pytest.mark.parametrize("there", [False, True], ids=["H13-new", "H13-there"])
def test_a_catalog_is_its_owners_whoever_made_its_folder(tmp_path, there):
    path = tmp_path / "catalog.db"
    if there:
        migrate.upgrade(f"sqlite:///{path}")
        path.chmod(0o644)
    tmp_path.chmod(0o755)
    migrate.upgrade(f"sqlite:///{path}")
    engine = create_engine(f"sqlite:///{path}")
    with Database(engine).write() as connection:
        connection.execute(t.seen_objects.insert(), ROW)
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.glob("catalog.db*")}
    assert modes == {"catalog.db": 0o600, "catalog.db-wal": 0o600, "catalog.db-shm": 0o600}
    engine.dispose()
