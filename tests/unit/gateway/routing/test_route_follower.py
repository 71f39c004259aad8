import datetime as dt

import pytest

from bento_services.gateway.routing.route_follower import RouteFollower, SqlCatalog
from bento_services.gateway.routing.routes import ServingSettings
from pipeline_tasks.catalog import tables
from pipeline_tasks.catalog.routes import ServingRepository
from pipeline_tasks.contracts import Route, RouteEntry, sha256_hex
from tests.services import wait_until

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
TOKEN = "t" * 43


def commit(database, generation, version="A"):
    ServingRepository(database).commit_route(
        Route(
            "fashion",
            generation,
            f"c{generation}",
            f"c{generation - 1}" if generation > 1 else None,
            version,
            (RouteEntry(f"d{generation}", version, "http://x", 100),),
        ),
        action="promote",
        attempt="run/ship/1",
        verdict_id="v",
        actor="gate",
        reason="won",
        serving={"top_k": generation, "classes": ["bag", "boot"]},
        at=NOW,
    )


class Switched:
    """A catalog that a test can take away."""

    def __init__(self, url):
        self._catalog = SqlCatalog(url)
        self.away = False

    def read(self):
        if self.away:
            raise OSError("connection refused")
        return self._catalog.read()


@pytest.fixture
def catalog(database):
    return Switched(str(database.engine.url))


def follower(catalog, tmp_path, poll_seconds=0.01):
    return RouteFollower(catalog, local_copy=tmp_path / "serving" / "routes.json", poll_seconds=poll_seconds)


def test_the_head_of_each_route_the_projects_and_the_valid_keys_are_followed(database, catalog, tmp_path):
    serving = ServingRepository(database)
    with database.write() as connection:
        row = {"project": "texts", "split_key": "k", "labels": [], "schema_version": 1, "ls_project_ids": {}}
        connection.execute(tables.projects.insert(), [row | {"created_at": NOW}])
    kept = serving.issue_key("fashion", name="a", scopes=["predict"], token=TOKEN, at=NOW)
    gone = serving.issue_key("*", name="b", scopes=["admin"], token="u" * 43, at=NOW)
    serving.revoke_key(gone.key_id, at=NOW)
    commit(database, 1)
    commit(database, 2, "B")

    following = follower(catalog, tmp_path)
    assert following.poll()
    snapshot = following.snapshot
    assert snapshot.projects == {"fashion", "texts"}
    assert list(snapshot.routes) == ["fashion"]
    assert (snapshot.routes["fashion"].generation, snapshot.routes["fashion"].champion_version) == (2, "B")
    assert snapshot.routes["fashion"].settings == ServingSettings(top_k=2, classes=("bag", "boot"))
    assert {key.key_id for key in snapshot.keys.values()} == {kept.key_id}
    assert list(snapshot.keys) == [sha256_hex(TOKEN.encode())]


def test_a_new_generation_is_followed_within_a_second(database, catalog, tmp_path):
    commit(database, 1)
    following = follower(catalog, tmp_path)
    following.start()
    commit(database, 2)
    wait_until(
        lambda: following.snapshot.routes["fashion"].generation == 2, timeout_seconds=1, what="the second generation"
    )
    following.stop()


def test_the_last_route_serves_while_the_catalog_is_away(database, catalog, tmp_path, caplog):
    commit(database, 1)
    following = follower(catalog, tmp_path)
    assert following.poll()
    assert following.age_seconds() < 1
    before = following.snapshot
    catalog.away = True
    assert [following.poll() for _ in range(3)] == [False, False, False]
    assert following.snapshot is before
    assert following.age_seconds() is None
    assert caplog.text.count("the catalog does not answer (OSError)") == 1
    catalog.away = False
    commit(database, 2)
    assert following.poll()
    assert following.snapshot.routes["fashion"].generation == 2


def test_a_restart_without_the_catalog_serves_by_the_local_copy(database, catalog, tmp_path):
    ServingRepository(database).issue_key("fashion", name="a", scopes=["predict"], token=TOKEN, at=NOW)
    commit(database, 1)
    first = follower(catalog, tmp_path)
    first.poll()
    catalog.away = True
    second = follower(catalog, tmp_path, poll_seconds=60)
    second.start()
    second.stop()
    assert second.snapshot == first.snapshot
    copy = tmp_path / "serving" / "routes.json"
    assert oct(copy.stat().st_mode & 0o777) == "0o600"
    assert TOKEN not in copy.read_text()


def test_the_catalog_wins_over_the_local_copy_at_a_restart(database, catalog, tmp_path):
    commit(database, 1)
    follower(catalog, tmp_path).poll()
    commit(database, 2)
    restarted = follower(catalog, tmp_path, poll_seconds=60)
    restarted.start()
    restarted.stop()
    assert restarted.snapshot.routes["fashion"].generation == 2


@pytest.mark.parametrize("text", ["", "{", "[1]"])
def test_a_damaged_local_copy_means_not_ready_rather_than_a_crash(catalog, tmp_path, text):
    (tmp_path / "serving").mkdir()
    (tmp_path / "serving" / "routes.json").write_text(text)
    catalog.away = True
    following = follower(catalog, tmp_path, poll_seconds=60)
    following.start()
    following.stop()
    assert following.snapshot is None


def test_a_route_that_vanished_from_the_catalog_keeps_serving(database, catalog, tmp_path):
    commit(database, 1)
    following = follower(catalog, tmp_path)
    following.poll()
    with database.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE routes")
    tables.routes.create(database.engine)
    assert following.poll()
    assert following.snapshot.routes["fashion"].generation == 1


def test_a_disk_without_room_does_not_stop_the_following(database, catalog, tmp_path, caplog):
    commit(database, 1)
    (tmp_path / "serving").write_text("a file where the folder should be")
    following = follower(catalog, tmp_path)
    assert following.poll()
    assert following.snapshot.routes["fashion"].generation == 1
    assert "cannot be written" in caplog.text


def test_reading_a_catalog_that_is_not_there_yet_creates_none(tmp_path):
    path = tmp_path / "catalog.db"
    following = follower(SqlCatalog(f"sqlite:///{path}"), tmp_path)
    assert following.poll() is False
    assert list(tmp_path.iterdir()) == []


def test_a_catalog_that_was_replaced_by_another_file_is_followed(tmp_path):
    from pipeline_tasks.catalog.database import Database, create_engine

    folder = tmp_path / "a folder with 100% # and é"
    folder.mkdir()
    path = folder / "catalog.db"
    following = follower(SqlCatalog(f"sqlite:///{path}"), tmp_path)
    for generations in (1, 2):
        engine = create_engine(f"sqlite:///{tmp_path / str(generations)}")
        tables.metadata.create_all(engine)
        for generation in range(1, generations + 1):
            commit(Database(engine), generation)
        engine.dispose()
        (tmp_path / str(generations)).replace(path)
        assert following.poll()
        assert following.snapshot.routes["fashion"].generation == generations


@pytest.mark.integration
def test_postgresql_is_followed_alike(postgres_server, tmp_path):
    from pipeline_tasks.catalog.database import Database, create_engine

    url = postgres_server.new_database()
    engine = create_engine(url)
    tables.metadata.create_all(engine)
    database = Database(engine)
    ServingRepository(database).issue_key("fashion", name="a", scopes=["predict"], token=TOKEN, at=NOW)
    commit(database, 1)
    following = follower(SqlCatalog(url), tmp_path)
    assert following.poll()
    assert following.snapshot.routes["fashion"].settings.classes == ("bag", "boot")
    assert len(following.snapshot.keys) == 1
    engine.dispose()
