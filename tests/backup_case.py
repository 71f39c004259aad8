"""An installation that is backed up, and the empty machine that a backup is restored on."""

from __future__ import annotations

import dataclasses
import sqlite3

from pipeline_tasks.backup import restore as backup_restore
from pipeline_tasks.catalog import migrate
from pipeline_tasks.catalog.database import Database, create_engine
from pipeline_tasks.orchestration.ledger_anchors import note_head
from pipeline_tasks.orchestration.resources import Resources
from tests.fakes import FakeObjectStore
from tests.ledger_case import Case as LedgerCase

REST = {
    "DETHRONE_S3_ENDPOINT": "http://127.0.0.1:1",
    "DETHRONE_LABEL_STUDIO_URL": "http://127.0.0.1:1",
    "DETHRONE_AIRFLOW_URL": "http://127.0.0.1:1",
    "DETHRONE_GATEWAY_URL": "http://127.0.0.1:1",
}
SECRETS = ("s3_access_key", "s3_secret_key", "label_studio_token", "webhook_secret", "split_key", "gateway_admin_key")
PROJECT = "modality: image\n"


class Installation:
    """A home folder, its projects, its catalog and its bucket, as `dethrone backup` finds them while they are used."""

    def __init__(self, folder, url):
        self.home, self.projects, self.vault = folder / "home", folder / "projects", folder / "backups"
        self.environment = REST | {"DETHRONE_CATALOG_URL": url, "DETHRONE_HOME": str(self.home)}
        self.environment["DETHRONE_PROJECTS"] = str(self.projects)
        migrate.upgrade(url)
        self.database = Database(create_engine(url))
        self.store = FakeObjectStore()
        self.ledger = LedgerCase(self.database, self.store)
        self.ledger.tell()
        note_head(dataclasses.make_dataclass("P", ["database", "brisk_store"])(self.database, self.store), "fashion")
        for name in SECRETS:
            self.write(self.home / "secrets" / name, f"the {name}")
        self.write(self.home / "spool" / "000000000001-7.sealed", "whole records")
        self.write(self.home / "spool" / "000000000002-7.open", "newest records")
        self.write(self.home / "label-studio" / "media" / "logo.png", "png")
        self.write(self.projects / "plain" / "project.yaml", PROJECT)
        self.write(self.projects / "plain" / "incoming" / "new.png", "not ingested yet")
        for name in ("label-studio/label_studio.sqlite3", "serving/predictions.db"):
            self.write(self.home / name, "")
            with sqlite3.connect(self.home / name) as connection:
                connection.execute("CREATE TABLE waiting (id TEXT)")
                connection.execute("INSERT INTO waiting VALUES ('p1')")

    @staticmethod
    def write(path, text):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def save(self, monkeypatch, **arguments):
        monkeypatch.setattr(Resources, "store", self.store)
        for name, value in self.environment.items():
            monkeypatch.setenv(name, value)
        return backup_restore.save(self.vault, **({"with_secrets": True} | arguments))


class Target:
    """An empty machine."""

    def __init__(self, folder, installation, monkeypatch):
        self.home, self.projects = folder / "home", folder / "projects"
        self.url = f"sqlite:///{folder / 'catalog.db'}"
        self.store = FakeObjectStore()
        self.vault = installation.vault
        self._monkeypatch = monkeypatch

    def restore(self, **arguments):
        self._monkeypatch.setattr(Resources, "store", self.store)
        self._monkeypatch.setattr(FakeObjectStore, "ensure_bucket", lambda _self: None, raising=False)
        places = {"DETHRONE_CATALOG_URL": self.url, "DETHRONE_HOME": str(self.home)}
        given = {"name": None, "home_dir": self.home, "projects_dir": self.projects, "environment": REST | places}
        return backup_restore.restore(self.vault, **(given | arguments))
