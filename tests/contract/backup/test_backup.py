"""Backup and restore on SQLite and PostgreSQL: all of it comes back, onto an empty place only, and proves itself."""

import json
import shutil
import sqlite3
import subprocess
import types
from pathlib import Path

import pytest
import sqlalchemy as sa

from pipeline_tasks.adapters import label_studio_database
from pipeline_tasks.audit.signing_keys import TRUSTED_KEYS
from pipeline_tasks.backup import catalog_copy, restore, snapshot
from pipeline_tasks.backup.repository import BackupRepository
from pipeline_tasks.backup.verify import verify_backup
from pipeline_tasks.catalog import migrate
from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.database import Database, create_engine
from pipeline_tasks.catalog.signatures import new_key, parse_key
from pipeline_tasks.core.settings import RESTORED, RESTORING, catalog_url
from pipeline_tasks.errors import ConfigError, DataCorrupt, PermanentError
from pipeline_tasks.stack import bring_up, lifecycle
from tests.backup_case import REST, Installation
from tests.fakes import FakeObjectStore, FolderObjectStore
from tests.labeling_case import Case as LabelingCase
from tests.ledger_case import Case, minutes


def rows_of(url):
    engine = create_engine(url)
    with engine.connect() as connection:
        rows = {table.name: connection.execute(sa.select(table)).all() for table in t.metadata.sorted_tables}
    engine.dispose()
    return rows


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_everything_comes_back(save, target, installation):
    Installation.write(installation.home / TRUSTED_KEYS, "public keys of before")
    report = save(check=True)
    restored = target.restore()
    assert rows_of(target.url) == rows_of(installation.environment["DETHRONE_CATALOG_URL"])
    assert restored.num_rows == report.num_rows > 7
    assert target.store.objects == installation.store.objects
    assert restored.num_objects == len(target.store.objects) > 0
    assert files_of(target.projects) == files_of(installation.projects)
    assert (target.home / RESTORED).read_text().split()[0] == report.name
    assert {path: data for path, data in files_of(target.home).items() if not path.endswith((".sqlite3", ".db"))} == {
        path: data for path, data in files_of(installation.home).items() if not path.endswith((".sqlite3", ".db"))
    } | {RESTORED: (target.home / RESTORED).read_bytes()}
    for name in ("label-studio/label_studio.sqlite3", "serving/predictions.db"):
        with sqlite3.connect(target.home / name) as connection:
            assert connection.execute("SELECT id FROM waiting").fetchall() == [("p1",)]
    assert all(path.stat().st_mode & 0o077 == 0 for path in target.home.rglob("*"))
    assert all(path.stat().st_mode & 0o077 == 0 for path in target.vault.rglob("*"))


def test_a_backup_is_verified_where_it_lies_with_the_public_key(save, installation, tmp_path):
    signer = parse_key(new_key(minutes(30)))
    database = Database(create_engine(installation.environment["DETHRONE_CATALOG_URL"], signer=signer))
    Case(database, installation.store, project="signed").judge("v1", report=b"<p>it won</p>")
    save()
    (tmp_path / "key.pem").write_text(signer.public.as_text())

    def faults_and_note():
        verified = verify_backup(installation.vault, public_key=tmp_path / "key.pem")
        return [fault for fault in verified.violations if " signed: " in fault], verified.notes[0]

    faults, note = faults_and_note()
    assert (faults, note.startswith("1 of ")) == ([], True)
    installation.store.objects["verdicts/signed/verdict-v1/report.html"] = b"<p>it lost</p>"
    save(check=True)
    faults, _ = faults_and_note()
    assert len(faults) == 1
    assert "verdicts/signed/verdict-v1/report.html with the SHA-256" in faults[0]


def test_a_second_backup_copies_only_what_is_new(save, installation):
    first = save()
    installation.store.put("reports/one.html", b"new")
    installation.store.calls.clear()
    second = save()
    assert (first.num_new_objects, second.num_new_objects) == (first.num_objects, 1)
    assert installation.store.calls["get_file"] == 1
    assert second.num_objects == first.num_objects + 1
    assert len(BackupRepository(installation.vault).manifest_names()) == 2


def test_an_older_backup_can_be_named(save, target, installation):
    first = save()
    installation.ledger.judge("v9", at=9)
    save()
    assert target.restore(name=first.name).num_rows == first.num_rows


@pytest.mark.parametrize("what", ["home", "projects", "store", "catalog"])
def test_a_place_that_is_not_empty_is_refused_and_left_as_it_was(save, target, installation, what):
    save()
    if what == "home":
        Installation.write(target.home / "catalog.db", "mine")
    elif what == "projects":
        Installation.write(target.projects / "plain" / "project.yaml", "mine")
    elif what == "store":
        target.store.put("mine", b"mine")
    else:
        migrate.upgrade(target.url)
        bring_up.issue_stack_keys(target.home.with_name("other"), url=target.url)
    with pytest.raises(ConfigError, match=r"must be (empty|missing)"):
        target.restore()
    assert target.store.objects.get("mine", b"mine") == b"mine"
    if what != "store":
        assert "plain/incoming/new.png" not in files_of(target.projects) or what == "catalog"


@pytest.mark.parametrize("harm", ["change", "remove"])
def test_a_backup_with_one_bad_byte_is_refused_before_anything_is_written(save, target, harm):
    save()
    blob = max(path for path in (target.vault / "blobs").rglob("*") if path.is_file())
    if harm == "remove":
        blob.unlink()
    else:
        data = blob.read_bytes()
        blob.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(DataCorrupt, match=r"must be there with the bytes that were written \(got 1 of"):
        target.restore()
    assert not target.home.exists()
    with pytest.raises(DataCorrupt, match="missing or changed"):
        BackupRepository(target.vault).check(
            snapshot.blobs_of(BackupRepository(target.vault).manifest(), BackupRepository(target.vault))
        )


def test_an_invariant_that_broke_on_the_way_is_named(save, target, installation, monkeypatch):
    save()
    assert target.restore().violations == ()  # what was broken before the backup is not its fault
    shutil.rmtree(target.home)
    target.store = FakeObjectStore()
    target.url += "2"
    put_file = FakeObjectStore.put_file
    lose = "verdicts/fashion/verdict-v1/verdict.json"
    monkeypatch.setattr(
        FakeObjectStore, "put_file", lambda store, key, *a, **k: None if key == lose else put_file(store, key, *a, **k)
    )
    report = target.restore()
    assert any("verdict-v1" in fault for fault in report.violations)
    assert "held when the backup was made, and do not now" in restore.as_text(report, target.vault)


def test_a_half_restored_home_does_not_start(save, target, monkeypatch):
    save()
    monkeypatch.setattr(restore, "_prove", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        target.restore()
    with pytest.raises(ConfigError, match="a restore that was cut short"):
        bring_up.start_stack(target.home, projects_dir=target.projects, environment={})


def test_a_restore_that_was_cut_short_goes_on(save, target, monkeypatch):
    save()
    with monkeypatch.context() as patch:
        patch.setattr(restore, "_prove", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            target.restore()
    assert (target.home / RESTORING).exists()
    target.restore()
    assert not (target.home / RESTORING).exists()


def test_secrets_can_stay_out_and_are_asked_for(save, target, installation):
    report = save(with_secrets=False)
    assert "secrets are not in it" in restore.as_text(report, target.vault)
    assert b"the split_key" not in {path.read_bytes() for path in target.vault.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match="must hold the installation's secrets"):
        target.restore()
    shutil.copytree(installation.home / "secrets", target.home / "secrets")
    target.restore()
    assert (target.home / "secrets" / "split_key").read_text() == "the split_key"


def test_the_backup_says_that_the_secrets_are_in_it(save, target):
    assert "secrets are IN this backup" in restore.as_text(save(), target.vault)


def test_what_was_broken_before_the_backup_is_told(save, target, installation):
    del installation.store.objects["verdicts/fashion/verdict-v1/verdict.json"]
    report = save()
    told = [fault for fault in report.violations if "verdict-v1" in fault]
    assert told
    text = restore.as_text(report, target.vault)
    assert [fault for fault in told if f"Broken before the backup, and in it: {fault}" not in text] == []


def test_a_folder_inside_the_home_is_refused(save, installation):
    installation.vault = installation.home / "backups"
    with pytest.raises(ConfigError, match="must lie outside of"):
        save()


def test_an_older_schema_is_upgraded_on_the_way_in_and_a_newer_one_refused(save, tmp_path, installation):
    dump = tmp_path / "dump.db"
    catalog_copy.dump(installation.environment["DETHRONE_CATALOG_URL"], dump)
    with sqlite3.connect(dump) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(PermanentError, match="A newer Dethrone has upgraded it") as caught:
        catalog_copy.load(dump, f"sqlite:///{tmp_path / 'target.db'}")
    assert caught.value.code == "CATALOG_NEWER"


def test_a_newer_catalog_stops_the_start_before_anything_runs(tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    migrate.upgrade(url := catalog_url({"DETHRONE_HOME": str(home)}))
    with sqlite3.connect(home / "catalog.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    monkeypatch.setattr(lifecycle, "up", lambda *_a, **_k: pytest.fail("it was started"))
    with pytest.raises(PermanentError, match="A newer Dethrone"):
        bring_up.start_stack(home, projects_dir=tmp_path, environment={"DETHRONE_CATALOG_URL": url})


def test_labels_and_their_json_survive_the_copy(tmp_path, catalog_url):
    migrate.upgrade(catalog_url)
    case = LabelingCase(Database(create_engine(catalog_url)), labeling=None, store=FolderObjectStore(tmp_path / "s3"))
    case.add_numbers(range(3))
    catalog_copy.dump(catalog_url, tmp_path / "dump.db")
    back = f"sqlite:///{tmp_path / 'back.db'}"
    catalog_copy.load(tmp_path / "dump.db", back)
    assert rows_of(back) == rows_of(catalog_url)
    assert len(rows_of(back)["items"]) == 3


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("home", "../outside"),
        ("home", "/tmp/outside"),
        ("home", "secrets/../../outside"),
        ("home", "supervisor/conf.d/mine.conf"),
        ("projects", "plain/../../outside"),
    ],
)
def test_a_path_that_leads_elsewhere_is_refused_before_anything_is_written(save, target, part, name):
    path = target.vault / "manifests" / f"{save().name}.json"
    manifest = json.loads(path.read_text())
    manifest[part][name] = next(iter(manifest["home"].values()))
    path.write_text(json.dumps(manifest))
    with pytest.raises(DataCorrupt, match="must lie inside of the folder"):
        target.restore()
    assert not target.home.exists()
    assert list(target.home.parent.rglob("outside")) == []


def test_an_object_that_is_removed_meanwhile_does_not_break_the_backup(save, target, installation):
    installation.store.put("fingerprints/part-1", b"a working file")
    get_file = installation.store.get_file

    def removed(key, path):
        if key.startswith("fingerprints/"):
            raise KeyError(key)
        get_file(key, path)

    installation.store.get_file = removed
    num_objects = save(check=True).num_objects
    assert num_objects == len(installation.store.objects) - 1
    assert target.restore().violations == ()


class Programs:
    """PostgreSQL's programs, as far as a restore sees them: a second pg_restore finds tables."""

    def __init__(self, monkeypatch, *, num_tables=0):
        self.calls, self.num_tables, self.dies = [], num_tables, False
        monkeypatch.setattr(label_studio_database.subprocess, "run", self)

    def __call__(self, command, *, env, **_):
        self.calls.append((command, env))
        if command[0] == "psql":
            return subprocess.CompletedProcess(command, 0, f"{self.num_tables}\n", "")
        if command[0] == "pg_dump":
            Path(next(argument for argument in command if argument.startswith("--file="))[7:]).write_text("dump")
            return subprocess.CompletedProcess(command, 0, "", "")
        failed, self.num_tables = bool(self.num_tables), 30
        if self.dies:
            raise KeyboardInterrupt
        return subprocess.CompletedProcess(command, int(failed), "", "relation exists" if failed else "")

    @property
    def names(self):
        return [command[0] for command, _env in self.calls]


LABEL_STUDIO = {"DETHRONE_LABEL_STUDIO_DATABASE_URL": "postgresql://ls:p%40ss@db:5433/labels?sslmode=require"}


@pytest.mark.parametrize("moment", ["written", "proven"])
def test_label_studio_on_postgresql_comes_back_once_and_its_password_is_on_no_command_line(
    save, target, installation, monkeypatch, moment
):
    """Also when the restore is killed between the end of pg_restore and its next mark."""
    programs = Programs(monkeypatch)
    installation.environment |= LABEL_STUDIO
    save()
    environment = REST | {"DETHRONE_CATALOG_URL": target.url, "DETHRONE_HOME": str(target.home)} | LABEL_STUDIO
    with monkeypatch.context() as patch:
        if moment == "proven":
            patch.setattr(restore, "_prove", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        patch.setattr(programs, "dies", moment == "written")
        with pytest.raises(KeyboardInterrupt):
            target.restore(environment=environment)
    target.restore(environment=environment)
    assert programs.names == ["pg_dump", "psql", "pg_restore", "psql"]
    for command, env in programs.calls:
        assert "postgresql://ls@db:5433/labels?sslmode=require" in command
        assert "ss@" not in " ".join(command).replace("ls@", "")
        assert env["PGPASSWORD"] == "p@ss"


def test_a_label_studio_database_that_is_not_empty_is_refused_each_time(save, target, installation, monkeypatch):
    programs = Programs(monkeypatch, num_tables=3)
    installation.environment |= LABEL_STUDIO
    save()
    environment = REST | {"DETHRONE_CATALOG_URL": target.url, "DETHRONE_HOME": str(target.home)} | LABEL_STUDIO
    for _ in range(2):
        with pytest.raises(ConfigError, match="Label Studio's database must be empty"):
            target.restore(environment=environment)
    assert "pg_restore" not in programs.names


@pytest.mark.parametrize("composed", [True, False])
def test_a_project_without_a_server_of_its_own_or_with_a_wrong_file_does_not_stop_a_restore(
    save, target, installation, monkeypatch, composed
):
    file = "name: fashion\ngraph: {}\n" if composed else "not: [a project"
    Installation.write(installation.projects / "fashion" / "project.yaml", file)
    route = types.SimpleNamespace(champion_version="graph-1" if composed else "v1", entries=() if composed else ("v1",))
    monkeypatch.setattr(
        restore.ServingRepository, "head_route", lambda _self, name: route if name == "fashion" else None
    )
    save()
    report = target.restore()
    commands = ("dethrone project validate fashion", "dethrone rollback fashion --to-version v1 --reason restored")
    assert report.to_start == (() if composed else commands)
    assert all(command in restore.as_text(report, target.vault) for command in report.to_start)
    assert not (target.home / RESTORING).exists()


def test_an_unknown_backup_or_format_is_refused(save, target):
    with pytest.raises(ConfigError, match=r"must hold the backup asked for \(got none\)"):
        target.restore()
    name = save().name
    with pytest.raises(ConfigError, match="must hold the backup 20200101T000000Z"):
        target.restore(name="20200101T000000Z")
    path = target.vault / "manifests" / f"{name}.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(ConfigError, match=r"format must be 1 \(got 2\)"):
        target.restore()
