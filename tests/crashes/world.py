"""An installation in one folder, without Airflow and without servers: catalog, bucket, Label Studio, supervisor, home.

Every part outlives the process that uses it, so that a child can be killed anywhere and the next one goes on; the whole
is copied by copying the folder.
"""

from __future__ import annotations

import datetime as dt
import functools
import hashlib
import itertools
import json
import os
import shutil
import sys
from pathlib import Path
from urllib.parse import urlsplit

from pipeline_tasks.adapters import http_health, inference_http, local_ports
from pipeline_tasks.catalog import migrate
from pipeline_tasks.catalog.routes import ServingRepository
from pipeline_tasks.contracts import DeploymentAccount, RouteAccounts
from pipeline_tasks.core import clock
from pipeline_tasks.core.settings import load_settings
from pipeline_tasks.deployment import bento_packager
from pipeline_tasks.evaluation import task as evaluation
from pipeline_tasks.models.artifact import load
from pipeline_tasks.orchestration import deploy, entrypoints, resources
from pipeline_tasks.stack.process_target import ProcessTarget
from pipeline_tasks.stack.supervisord import ProcessInfo
from tests.fakes import FolderObjectStore
from tests.fakes_labeling import FakeLabelStudio
from tests.fakes_tracking import FakeTracker

PROJECT = "stripes"
NOW = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
BAD_CANDIDATE = "bad-candidate"
ENVIRONMENT = {
    "DETHRONE_S3_ENDPOINT": "http://127.0.0.1:1",
    "DETHRONE_LABEL_STUDIO_URL": "http://127.0.0.1:1",
    "DETHRONE_AIRFLOW_URL": "http://127.0.0.1:1",
    "DETHRONE_GATEWAY_URL": "http://127.0.0.1:1",
    "DETHRONE_SPLIT_KEY": "the split key of the crash tests",
    "DETHRONE_INFERENCE_KEY": "k" * 43,
    "DETHRONE_S3_ACCESS_KEY": "a",
    "DETHRONE_S3_SECRET_KEY": "s",
}


class Supervisor:
    """The programs of a supervisor, in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def _running(self) -> list[str]:
        return json.loads(self._path.read_text()) if self._path.exists() else []

    def _keep(self, names: set[str]) -> None:
        fresh = self._path.with_suffix(".new")
        fresh.write_text(json.dumps(sorted(names)))
        fresh.replace(self._path)

    def is_up(self) -> bool:
        return True

    def reread(self) -> None: ...

    def add(self, name: str) -> None:
        self._keep({*self._running(), name})

    def start(self, name: str) -> None:
        assert name in self._running()

    def remove(self, name: str) -> None:
        self._keep({*self._running()} - {name})

    def processes(self) -> dict[str, ProcessInfo]:
        return {name: ProcessInfo(name, "RUNNING", 1, 1.0, "") for name in self._running()}


class Packager:
    """Bentos as folders; a digest is that of the bytes."""

    def __init__(self, home: Path, **_: object) -> None:
        self._home = home

    def folder(self, tag: str) -> Path:
        return self._home / tag.replace(":", "_")

    def build(self, model_dir: Path, *, tag: str, labels: object) -> str:
        if not self.folder(tag).exists():
            part = self.folder(tag).with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)
            shutil.copytree(model_dir, part)
            part.rename(self.folder(tag))
        return str(self.digest(tag))

    def export(self, tag: str, path: Path) -> None:
        path.write_text(
            json.dumps({"tag": tag, "files": {file.name: file.read_bytes().hex() for file in self._files(tag)}})
        )

    def restore(self, path: Path) -> None:
        document = json.loads(path.read_text())
        part = self.folder(document["tag"]).with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        for name, data in document["files"].items():
            (part / name).write_bytes(bytes.fromhex(data))
        part.rename(self.folder(document["tag"]))

    def digest(self, tag: str) -> str | None:
        if not self.folder(tag).exists():
            return None
        return hashlib.sha256(b"".join(file.read_bytes() for file in self._files(tag))).hexdigest()

    def _files(self, tag: str) -> list[Path]:
        return sorted(file for file in self.folder(tag).iterdir() if file.is_file())


class Gateway:
    """Follows at once; what it has counted of each candidate is in a file, by model version."""

    def __init__(self, serving: ServingRepository, said: Path) -> None:
        self._serving, self._said = serving, said

    def followed_generation(self, project: str) -> int:
        head = self._serving.head_route(project)
        return head.generation if head else 0

    def in_flight(self, deployment_id: str) -> int:
        return 0

    def accounts(self, project: str) -> RouteAccounts | None:
        head = self._serving.head_route(project)
        if head is None:
            return None
        candidates = {entry.deployment_id for entry in head.entries if entry.weight <= 50}
        candidates |= {shadow.deployment_id for shadow in head.shadows}
        accounts = {entry.deployment_id: _account(0) for entry in head.entries}
        accounts |= {deployment_id: _account(400 if self._said.exists() else 0) for deployment_id in candidates}
        return RouteAccounts(head.generation, (1.0,), accounts)


def _account(failed: int) -> DeploymentAccount:
    """Return what a deployment's requests were, as many mirrors among them as a step needs: the clock stands still."""
    return DeploymentAccount(
        900, failed, (900, 0), compared=900, paired=900, only_it_failed=failed, slower=(0, 0), faster=(0, 0)
    )


class World:
    """The parts of a process that works on the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        home = folder / "home"
        environment = ENVIRONMENT | {
            "DETHRONE_HOME": str(home),
            "DETHRONE_PROJECTS": str(folder / "projects"),
            "DETHRONE_CATALOG_URL": f"sqlite:///{folder / 'catalog.db'}",
        }
        self.parts = resources.Resources(load_settings(environment))
        self.labeling = FakeLabelStudio(folder / "label-studio.json")
        target = ProcessTarget(
            home,
            command=lambda tag, port: ("serve", tag, "--port", str(port)),
            poll_seconds=0.001,
            supervisor=Supervisor(folder / "supervisor.json"),
        )
        self.store = FolderObjectStore(folder / "objects", now=NOW)
        self.store.abort_stale_uploads = lambda **_: 0
        self.store.ensure_bucket = lambda: None
        vars(self.parts).update(
            store=self.store,
            labeling=self.labeling,
            target=target,
            tracker=FakeTracker(),
            gateway=Gateway(ServingRepository(self.parts.database), folder / BAD_CANDIDATE),
        )

    def results(self) -> dict[str, dict]:
        """Return each task's result, as Airflow keeps it: written when the task has ended."""
        path = self.folder / "results.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def keep_result(self, name: str, result: dict) -> None:
        path = self.folder / "results.json"
        path.write_text(json.dumps(self.results() | {name: result}, default=str))


def make_world(folder: Path) -> World:
    """Make an empty installation."""
    folder.mkdir(parents=True)
    migrate.upgrade(f"sqlite:///{folder / 'catalog.db'}")
    return World(folder)


def be_at(now: dt.datetime, folder: Path) -> None:
    """Let this process live at a time, reach no network, and build no real bento."""
    real, frozen = clock.utc_now, lambda: now
    for module in [known for name, known in sys.modules.items() if name.startswith("pipeline_tasks.")]:
        if getattr(module, "utc_now", None) is real:
            module.utc_now = frozen
    local_ports.port_is_free = lambda _port, **_: True
    http_health.http_health = lambda *_a, **_k: http_health.Health(ok=True, detail="")
    ticks = itertools.count()
    # Latencies stand in the verdict's id.
    evaluation.GateContext = functools.partial(evaluation.GateContext, timer=lambda: next(ticks) / 1000)
    os.getloadavg = lambda: (0.0, 0.0, 0.0)  # a verdict says how busy the machine was
    entrypoints.code_revision = lambda: "of the test"  # another one once somebody commits meanwhile
    deploy.BentoPackager = bento_packager.BentoPackager = Packager
    deploy.ask_server = inference_http.ask_server = functools.partial(_ask, folder)


def _ask(folder: Path, _headers: object, address: str, payload: bytes, _media_type: str) -> dict[str, object] | str:
    """Answer a golden request as the server on that port does, from the bento that its program names."""
    port = str(urlsplit(address).port)
    for program in (folder / "home" / "supervisor" / "conf.d").glob("*.conf"):
        command = next(line for line in program.read_text().splitlines() if line.startswith("command"))
        if command.rstrip().endswith(f" {port}"):
            tag = command.split()[-3]
            model = load(Packager(folder / "home" / "bentoml").folder(tag))
            (row,) = model.predict([model.decode(payload)])
            return {
                "model_version": model.manifest.config.version,
                "labels": list(model.classes),
                "probabilities": [float(probability) for probability in row],
            }
    return "nobody listens"
