"""An installation as far as shipping needs one: catalog, store, a project on Docker, and contenders good and bad."""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import json
import types
from pathlib import Path

import sqlalchemy as sa
import torch

from pipeline_tasks.adapters import inference_http
from pipeline_tasks.adapters.gateway_admin import GatewayClient
from pipeline_tasks.catalog import tables
from pipeline_tasks.catalog.database import Database, create_engine
from pipeline_tasks.catalog.routes import ServingRepository
from pipeline_tasks.catalog.verdicts import ReleaseRepository
from pipeline_tasks.contracts import Attempt, ModelRef, sha256_hex
from pipeline_tasks.deployment import bento_packager
from pipeline_tasks.deployment import release as release_task
from pipeline_tasks.deployment import task as deployment_task
from pipeline_tasks.deployment.golden_requests import GoldenAnswer
from pipeline_tasks.deployment.route_plan import deployment_id_of
from pipeline_tasks.models.artifact import MANIFEST_NAME, WEIGHTS_NAME, Origin, load, pack, save
from pipeline_tasks.models.registry import recipe_from_source
from pipeline_tasks.orchestration.container_targets import docker_target
from pipeline_tasks.orchestration.resources import lock_path
from pipeline_tasks.stack.secrets import ensure_secret
from tests.fakes import FolderObjectStore
from tests.model_configs import config_of
from tests.service.conftest import png
from tests.service.servers import CLASSES, GATEWAY, gateway_environment, serving, write_model
from tests.unit.evaluation import support as s

torch.set_num_threads(1)  # the tests fork: a child that inherits torch's threads waits for them for ever

TOKEN = "t" * 43
ROUTE_CONFIG = {
    "classes": list(CLASSES),
    "modality": "image",
    "requests_per_second": 1e6,
    "preprocess": {"max_pixels": 1_000_000},
}
# An own recipe that is as it should be until it runs in a container; `%s` is what it does there.
BAD_RECIPE = """
import os, time
import numpy as np
from pipeline_tasks.models.base import RecipeParams, Signature, parse_params

KEPT = []

class Bad:
    name = "recipe.py"
    modality = "image"
    def resolve(self, params): return parse_params(RecipeParams, params).model_dump()
    def param_space(self, params): return {}
    def preprocessing(self, params): return {}
    def signature(self, params, num_classes): return Signature(("image/png",), "uint8", (1,), num_classes)
    def decode(self, data, *, preprocessing): return np.frombuffer(data[:1], np.uint8)
    def collate(self, inputs): return np.stack(inputs)
    def augment(self, batch, *, params, generator): return batch
    def build(self, params, num_classes):
        import torch
        return torch.nn.Linear(1, num_classes)
    def fit_statistics(self, model, batches): pass
    def predict_batch(self, model, inputs):
        answer = np.full((len(inputs), 3), 1 / 3, np.float32)
        if os.environ.get("BENTOML_CONTAINERIZED"):
            %s
        return answer

RECIPE = Bad()
"""
BAD = {
    "raises": "raise RuntimeError('the weights are haunted')",
    "nan": "answer[:] = np.nan",
    "slow": "time.sleep(5)",
    "leaks": "KEPT.append(np.ones(32_000_000, np.float64))",
    "wrong": "answer[:] = (0.9, 0.1, 0.0)",
}


def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


class Instant:
    """A gateway that follows at once."""

    def __init__(self, serving) -> None:
        self._serving = serving

    def followed_generation(self, project: str) -> int:
        return self._serving.head_route(project).generation

    def in_flight(self, deployment_id: str) -> int:
        return 0


class Dock:
    """Opened anew by every process that works on it: a connection must not cross a fork."""

    def __init__(self, home: Path, *, repository: str, environment, **docker: object) -> None:
        self.home, self.repository, self.environment = home, repository, dict(environment)
        home.mkdir(exist_ok=True)
        key = ensure_secret(home / "secrets", "inference_key")
        settings = types.SimpleNamespace(
            home=home,
            inference_key=key,
            inference_headers={"Authorization": f"Bearer {key}"},
            bentoml_home=home / "bentoml",
            scratch_dir=home / "scratch",
            split_key="0" * 64,
            environment=self.environment,
        )
        fresh = not (home / "catalog.db").exists()
        self.engine = create_engine(f"sqlite:///{home / 'catalog.db'}")
        self.database = Database(self.engine)
        self.serving = ServingRepository(self.database)
        if fresh:
            tables.metadata.create_all(self.engine)
            scopes = ["predict", "feedback", "admin"]
            self.serving.issue_key("*", name="t", scopes=scopes, token=TOKEN, at=now())
        self.store = FolderObjectStore(home / "objects")
        self.parts = types.SimpleNamespace(settings=settings, database=self.database, store=self.store)
        options = {"repository": repository, "memory": "700m", **docker}
        self.project = project_on_docker(options)
        self.target = docker_target(self.parts, self.project)
        self.gateway = Instant(self.serving)

    def again(self) -> Dock:
        """Return the same installation with connections of its own."""
        return Dock(self.home, repository=self.repository, environment=self.environment)

    def model(self, version: str, *, bad: str | None = None) -> ModelRef:
        """Write a model version into the store; `bad` names what it does wrong in a container."""
        folder = self.home / "models" / version
        if bad is None:
            write_model(folder, version=version, seed=int(sha256_hex(version.encode())[:6], 16))
        else:
            write_bad_model(folder, version=version, source=BAD_RECIPE % BAD[bad])
        for name in (WEIGHTS_NAME, MANIFEST_NAME):
            self.store.put(f"models/fashion/{version}/{name}", (folder / name).read_bytes())
        digest = sha256_hex((folder / WEIGHTS_NAME).read_bytes())
        return ModelRef("fashion", version, f"models/fashion/{version}", digest, "s1")

    def golden(self, version: str):
        model = load(self.home / "models" / version)
        return [
            release_task.GoldenItem(
                payload=png(seed),
                media_type="image/png",
                expected=GoldenAnswer(
                    f"item-{seed}",
                    dict(zip(CLASSES, map(float, model.predict([model.decode(png(seed))])[0]), strict=True)),
                ),
            )
            for seed in range(4)
        ]

    def release(self, model: ModelRef, *, run: str = "run"):
        verdict_id = sha256_hex(model.version.encode())
        attempt = Attempt(run, "release")
        release_id = release_task.release_id_of(model, verdict_id=verdict_id, lock_hash="l1")
        with release_task.contender_removed(self.target, deployment_id_of("fashion", release_id)):
            return release_task.release(
                self.project,
                model,
                verdict_id=verdict_id,
                lock_hash="l1",
                records=ReleaseRepository(self.database),
                store=self.store,
                packager=bento_packager.BentoPackager(self.parts.settings.bentoml_home, lock_path=lock_path()),
                start=lambda built: deployment_task.start_release(self.project, built, target=self.target),
                ask=functools.partial(inference_http.ask_server, self.parts.settings.inference_headers),
                golden=lambda: self.golden(model.version),
                fence=self.database.acquire("fashion/release", attempt, now=now()),
                run_id=run,
                now=now(),
                scratch=self.home / "scratch",
            )

    def ship(self, release, *, run: str = "run"):
        attempt = Attempt(run, "ship")
        return deployment_task.ship(
            self.context(attempt),
            release,
            require_promotable=lambda: None,
            route_config=ROUTE_CONFIG,
            fence=self.database.acquire("fashion/ship", attempt, now=now()),
        )

    def context(self, attempt: Attempt):
        return deployment_task.RouteContext(self.project, self.serving, self.target, self.gateway, attempt, now)

    def release_of(self, version: str):
        return ReleaseRepository(self.database).of_model("fashion", version)

    def promote(self, version: str):
        """Release a good model version and give it all traffic."""
        return self.ship(self.release(self.model(version), run=version), run=version)

    @contextlib.contextmanager
    def real_gateway(self):
        """Serve the route by the gateway in a process of its own, and ship through it."""
        with serving(GATEWAY, home=self.home, environment=gateway_environment(self.home)) as server:
            self.gateway = GatewayClient(server.url, api_key=TOKEN)
            yield server

    def images(self, release_id: str):
        with self.database.read() as connection:
            query = sa.select(tables.release_images).where(tables.release_images.c.release_id == release_id)
            return connection.execute(query).all()

    def containers(self, client):
        containers = client.containers.list(all=True, filters={"label": f"io.dethrone.home={self.target._home}"})
        return sorted(containers, key=lambda container: container.name)


def project_on_docker(options):
    """Return the tests' project with its serving on Docker."""
    project = s.project()
    config = project.config.model_dump(mode="json") | {"serving": {"target": "docker", "docker": options}}
    return type(project)(config=type(project.config).model_validate(config), folder=project.folder, labeling_xml="")


def write_bad_model(folder: Path, *, version: str, source: str) -> None:
    recipe_code = recipe_from_source(source)
    params = recipe_code.recipe.resolve({})
    config = config_of(recipe_code, recipe="recipe.py", params=params, classes=CLASSES, version=version)
    origin = Origin(code_revision="c1", torch_version=torch.__version__, device="cpu")
    save(pack(recipe_code.recipe.build(params, len(CLASSES)), config=config, origin=origin, metrics={}), folder)


def bento_time(home: Path, tag: str, when: str) -> None:
    """Give a stored bento and its model another build time and another measurement, as a second build would."""
    name, version = tag.split(":")
    for path in (home / "bentos" / name / version / "bento.yaml", home / "models" / name / version / "model.yaml"):
        lines = path.read_text().splitlines()
        changed = [f"{line.partition(':')[0]}: '{when}'" if "creation_time:" in line else line for line in lines]
        path.write_text("\n".join(changed) + "\n")
    tuning = home / "models" / name / version / "serving.json"
    tuning.write_text(json.dumps({**json.loads(tuning.read_text()), "max_batch_size": 3}))
