"""The migrations on SQLite and PostgreSQL: same schema as tables.py, append-only, safe to race."""

import datetime as dt
import shutil
import subprocess
import sys

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from pipeline_tasks.catalog import migrate, tables
from pipeline_tasks.catalog.append_only import missing_triggers
from pipeline_tasks.catalog.database import create_engine
from pipeline_tasks.errors import PermanentError, ServiceUnavailable

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
OUTCOME = {"project": "pets", "outcome_id": "o1", "label": "cat", "source": "api", "at": NOW}


@pytest.fixture
def migrated(catalog_url):
    migrate.upgrade(catalog_url)
    engine = create_engine(catalog_url)
    yield engine
    engine.dispose()


def triggers(engine) -> set[tuple[str, str]]:
    sqlite = "SELECT name, tbl_name FROM sqlite_master WHERE type = 'trigger'"
    postgresql = "SELECT tgname, relname FROM pg_trigger JOIN pg_class ON tgrelid = pg_class.oid WHERE NOT tgisinternal"
    with engine.connect() as connection:
        return set(map(tuple, connection.exec_driver_sql(sqlite if engine.dialect.name == "sqlite" else postgresql)))


def test_the_migrations_make_exactly_the_tables_of_the_code(migrated):
    with migrated.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        difference = compare_metadata(context, tables.metadata)
    assert difference == [], "tables.py and the migrations differ: write a migration (migrate.write_revision)"


def test_the_migrations_protect_every_append_only_table(migrated):
    per_table = 2 if migrated.dialect.name == "sqlite" else 1
    assert len(triggers(migrated)) == per_table * len(tables.APPEND_ONLY)
    assert {table for _, table in triggers(migrated)} == {table.name for table in tables.APPEND_ONLY}


def test_create_all_protects_the_same_tables(migrated, tmp_path):
    made = create_engine(f"sqlite:///{tmp_path / 'made.db'}")
    tables.metadata.create_all(made)
    assert {table for _, table in triggers(made)} == {table for _, table in triggers(migrated)}
    made.dispose()


@pytest.mark.parametrize("statement", [tables.outcomes.update().values(label="dog"), tables.outcomes.delete()])
def test_an_append_only_table_refuses_update_and_delete(migrated, statement):
    with migrated.begin() as connection:
        connection.execute(tables.outcomes.insert(), OUTCOME)
    with pytest.raises(sa.exc.DBAPIError, match="outcomes is append-only"), migrated.begin() as connection:
        connection.execute(statement)
    with migrated.connect() as connection:
        assert connection.execute(sa.select(tables.outcomes.c.label)).scalars().all() == ["cat"]


def test_an_append_only_table_refuses_replacing_a_row(migrated):
    columns = "project, outcome_id, label, source, at"
    replace = f"INSERT OR REPLACE INTO outcomes ({columns}) VALUES ('pets', 'o1', 'x', 'y', '2026')"
    truncate = "TRUNCATE outcomes"
    with migrated.begin() as connection:
        connection.execute(tables.outcomes.insert(), OUTCOME)
    with pytest.raises(sa.exc.DBAPIError, match="outcomes is append-only"), migrated.begin() as connection:
        connection.exec_driver_sql(replace if migrated.dialect.name == "sqlite" else truncate)


def test_upgrade_again_changes_nothing(migrated, catalog_url):
    assert migrate.upgrade(catalog_url) == migrate.head_revision()
    assert migrate.check(catalog_url) == migrate.head_revision()


def test_check_refuses_a_catalog_without_tables(catalog_url):
    with pytest.raises(PermanentError, match=r"must be \d{4} \(got none\)\. .*dethrone up"):
        migrate.check(catalog_url)


def test_a_newer_schema_is_refused_and_left_alone(migrated, catalog_url):
    with migrated.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    for call in (migrate.check, migrate.upgrade):
        with pytest.raises(PermanentError, match=r"\(got 9999, which this version does not know\)") as caught:
            call(catalog_url)
        assert caught.value.code == "CATALOG_NEWER"


def test_a_database_that_does_not_answer_is_named_without_its_password(free_port):
    url = f"postgresql+psycopg://me:hush@127.0.0.1:{free_port}/catalog"
    with pytest.raises(ServiceUnavailable, match=rf"me:\*\*\*@127.0.0.1:{free_port}/catalog must answer") as caught:
        migrate.upgrade(url)
    assert "hush" not in str(caught.value)


def test_racing_upgrades_from_four_processes_all_succeed(catalog_url):
    code = "import sys; from pipeline_tasks.catalog import migrate; print(migrate.upgrade(sys.argv[1]))"
    racers = [
        subprocess.Popen([sys.executable, "-c", code, catalog_url], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(4)
    ]
    answers = [racer.communicate(timeout=120) for racer in racers]
    assert [(racer.returncode, out.strip()) for racer, (out, _) in zip(racers, answers, strict=True)] == [
        (0, migrate.head_revision().encode())
    ] * 4, answers
    assert migrate.check(catalog_url) == migrate.head_revision()


@pytest.fixture
def later_version(tmp_path, monkeypatch):
    """The code as it will be when a table has been added, with its own copy of the migrations."""
    folder = tmp_path / "migrations"
    shutil.copytree(migrate._FOLDER, folder)
    added = sa.Table("added", tables.metadata, sa.Column("key", sa.Text, primary_key=True))
    added.append_column(sa.Column("at", tables.UtcDateTime, nullable=False))
    monkeypatch.setattr(migrate, "_FOLDER", folder)
    yield folder
    tables.metadata.remove(added)


def test_a_schema_change_is_written_as_a_migration_checked_and_applied(migrated, catalog_url, later_version):
    older = migrate.head_revision()
    migrate.write_revision(catalog_url, "Add a table")
    newer = f"{int(older) + 1:04d}"
    assert (later_version / "versions" / f"{newer}_add_a_table.py").exists()
    with pytest.raises(PermanentError, match=rf"must be {newer} \(got {older}\)") as caught:
        migrate.check(catalog_url)
    assert caught.value.code == "CATALOG_OUTDATED"
    assert migrate.upgrade(catalog_url) == newer == migrate.check(catalog_url)
    with migrated.begin() as connection:
        connection.execute(tables.metadata.tables["added"].insert(), {"key": "k", "at": NOW})
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, tables.metadata) == []


def test_items_of_an_older_catalog_have_their_id_as_their_content(catalog_url):
    """Migration of `content_id`: what is there keeps its id, and is found by its content."""
    revision = next(script for script in migrate._scripts().walk_revisions() if "content_id" in script.path)
    with migrate._connection(catalog_url) as connection:
        command.upgrade(migrate._config(connection), revision.down_revision)
        row = {column.name: "x" for column in tables.items.c if column.name != "content_id"}
        row |= {"item_id": "old", "offset": 0, "size_bytes": 1, "arrived_at": "2026-01-01 00:00:00"}
        names = [f'"{name}"' for name in row]
        values = ", ".join(f":{name}" for name in row)
        connection.execute(sa.text(f"INSERT INTO items ({', '.join(names)}) VALUES ({values})"), row)
    migrate.upgrade(catalog_url)
    engine = create_engine(catalog_url)
    with engine.connect() as connection:
        assert connection.execute(sa.select(tables.items.c.item_id, tables.items.c.content_id)).all() == [
            ("old", "old")
        ]
    engine.dispose()


def test_h8_a_trigger_that_is_gone_or_does_nothing_is_named(migrated):
    names = [table.name for table in tables.APPEND_ONLY]
    sqlite = migrated.dialect.name == "sqlite"
    drop = "DROP TRIGGER routes_append_only_DELETE" if sqlite else "DROP TRIGGER routes_append_only ON routes"
    with migrated.begin() as connection:
        assert list(missing_triggers(connection, names)) == []
        connection.exec_driver_sql(drop)
        assert list(missing_triggers(connection, names)) == ["routes"]
    if not sqlite:
        with migrated.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE exams DISABLE TRIGGER exams_append_only")
            assert set(missing_triggers(connection, names)) == {"routes", "exams"}
            connection.exec_driver_sql(
                "CREATE OR REPLACE FUNCTION dethrone_append_only() RETURNS trigger LANGUAGE plpgsql "
                "AS 'BEGIN RETURN NULL; END'"
            )
            assert set(missing_triggers(connection, names)) == set(names)
