"""Catalog, object store and Label Studio killed in turn under load: no prediction fails, and nothing is lost after."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import io
import itertools
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline_tasks.adapters.label_studio import LabelStudio
from pipeline_tasks.annotation.label_studio_projects import labeling_config
from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.database import Database, create_engine
from pipeline_tasks.catalog.datasets import DatasetRepository
from pipeline_tasks.catalog.monitoring import MonitoringRepository
from pipeline_tasks.catalog.routes import ServingRepository
from pipeline_tasks.contracts import Attempt, Route, RouteEntry, sha256_hex
from pipeline_tasks.demo.scripted_annotators import Annotator, answer_all
from pipeline_tasks.deployment.bento_builder import build_bento
from pipeline_tasks.errors import ServiceUnavailable
from pipeline_tasks.ingest.exam_split import split_of
from pipeline_tasks.models.artifact import load
from pipeline_tasks.monitoring import task as monitor
from pipeline_tasks.monitoring.log_import import MonitoringResources
from pipeline_tasks.project.schema import LoadedProject, Project
from tests.labeling_case import NAME, XML, Case
from tests.service.servers import CLASSES, GATEWAY, gateway_environment, serving, write_model
from tests.services import S3_ACCESS_KEY, S3_SECRET_KEY, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow]
NOW = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
TOKEN = "t" * 43
HEADERS = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "image/png"}
SPLIT_KEY = "the split key of this test"
EXAM_SHARE = 0.2
NUM_PER_PHASE = 10
NUM_CLIENTS = 4
PHASES = ("calm", "catalog killed", "catalog hanging", "store killed", "labeling killed")


def image(seed: int) -> bytes:
    """Return noise; every fifth image is so big that the gateway decodes it in a thread."""
    side = 256 if seed % 5 == 0 else 28
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


IMAGES = {
    phase: [image(number * 100 + index) for index in range(NUM_PER_PHASE)]
    for number, phase in enumerate(PHASES, start=1)
}
EVERY_IMAGE = [photo for some in IMAGES.values() for photo in some]


class Load:
    """Clients that keep asking about the images of the phase; notes what each got, and for what."""

    def __init__(self, url: str) -> None:
        self.url = f"{url}/v1/projects/{NAME}/predict"
        self.codes: Counter[str] = Counter()
        self.answers: list[tuple[str, dict]] = []  # the image's digest and the answer
        self._images = itertools.cycle(IMAGES["calm"])
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=60)

    def enter(self, phase: str) -> None:
        self._images = itertools.cycle(IMAGES[phase])

    def wait_for_more(self, number: int = 60) -> None:
        goal = sum(self.codes.values()) + number
        wait_until(lambda: sum(self.codes.values()) >= goal, timeout_seconds=60, what="the traffic")

    async def _run(self) -> None:
        async with httpx.AsyncClient(headers=HEADERS, trust_env=False, timeout=30) as client:
            await asyncio.gather(*(self._ask_on(client) for _ in range(NUM_CLIENTS)))

    async def _ask_on(self, client: httpx.AsyncClient) -> None:
        while not self._stop.is_set():
            content = next(self._images)
            try:
                response = await client.post(self.url, content=content)
            except httpx.HTTPError as error:
                self.codes[type(error).__name__] += 1
                continue
            self.codes[str(response.status_code)] += 1
            if response.status_code == 200:
                self.answers.append((sha256_hex(content), response.json()))
            await asyncio.sleep(0.02)


class Scene:
    """A catalog on PostgreSQL, a store, Label Studio, and the project between them."""

    def __init__(self, database: Database, store, tool: LabelStudio) -> None:
        self.database = database
        self.serving = ServingRepository(database)
        monitoring = {"audit_share": 0.0, "max_uncertain": 1000}
        xml = XML
        for old, new in zip(("cat", "dog", "owl"), CLASSES, strict=True):
            xml = xml.replace(old, new)
        document = {
            "name": NAME,
            "modality": "image",
            "sources": [{"type": "folder", "path": "in"}],
            "labels": {"classes": list(CLASSES)},
            "recipe": {"name": "image_cnn"},
            "split": {"exam_share": EXAM_SHARE},
            "monitor": monitoring,
        }
        self.project = LoadedProject(
            config=Project.model_validate(document), folder=Path("projects") / NAME, labeling_xml=xml
        )
        self.case = Case(database, tool, project=self.project, store=store)
        self.outside = MonitoringResources(
            database=database,
            store=store,
            items=self.case.items,
            labels=self.case.labels,
            datasets=DatasetRepository(database),
            monitoring=MonitoringRepository(database),
            split_key=SPLIT_KEY,
        )
        self._runs = itertools.count(1)

    def route(self, entry: RouteEntry, *, review_below: float) -> int:
        head = self.serving.head_route(NAME)
        generation = head.generation + 1 if head else 1
        parent = head.commit_id if head else None
        route = Route(NAME, generation, f"c{generation}", parent, entry.model_version, (entry,))
        settings = {"classes": list(CLASSES), "modality": "image", "requests_per_second": 1e6}
        settings |= {"review_below": review_below, "preprocess": {"max_pixels": 1_000_000}}
        facts = {"action": "promote", "attempt": "r/ship/1", "verdict_id": "v", "actor": "gate", "reason": "won"}
        self.serving.commit_route(route, **facts, serving=settings, at=NOW)
        return generation

    def monitor(self):
        run_id = f"m{next(self._runs)}"
        return monitor.run(
            self.project,
            outside=self.outside,
            attempt=Attempt(run_id, "monitor"),
            run_id=run_id,
            now=dt.datetime.now(dt.UTC),
        )

    def people_answer(self, server) -> int:
        """Let one person answer everything that is open with the first class."""
        num_answers = 0
        for queue in ("label", "exam"):
            num_answers += answer_all(
                self.case.labeling,
                url=server.url,
                admin_token=server.token,
                password_secret=server.password,
                project_id=self.case.ls_project(queue),
                annotators=[Annotator("one@dethrone.test", 0.0)],
                people_per_item=1,
                config=labeling_config(self.project),
                truth={sha256_hex(photo): CLASSES[0] for photo in EVERY_IMAGE},
                similar={},
            ).num_answers
        return num_answers


@pytest.fixture
def scene(postgres_server, s3_store, label_studio_server):
    engine = create_engine(postgres_server.new_database())
    t.metadata.create_all(engine)
    tool = LabelStudio(label_studio_server.url, label_studio_server.token)
    scene = Scene(Database(engine), s3_store, tool)
    scene.serving.issue_key("*", name="t", scopes=["predict", "feedback", "admin"], token=TOKEN, at=NOW)
    yield scene
    registered = scene.case.labels.registration(NAME)
    for project_id in registered[2].values() if registered else ():
        tool._sdk.projects.delete(project_id)
    engine.dispose()


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """A release of an untrained model, and the review threshold that half of the images are below."""
    folder = tmp_path_factory.mktemp("release")
    write_model(folder / "model", version="v1")
    build_bento(
        folder / "model", tag="dethrone_pets:r1", labels={"model_version": "v1"}, bentoml_home=folder / "bentoml"
    )
    model = load(folder / "model")
    confidences = np.sort(np.max(model.predict([model.decode(photo) for photo in EVERY_IMAGE]), axis=1))
    middle = len(confidences) // 2
    return folder, float(confidences[middle - 1] + confidences[middle]) / 2


@contextlib.contextmanager
def killed(server):
    """Take a server away with kill -9; it is back behind the block, whatever happens in it."""
    server.kill()
    try:
        yield
    finally:
        server.start()


@contextlib.contextmanager
def hanging(server):
    """Let a server keep its connections and say nothing."""
    processes = server.processes()
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            process.send_signal(signal.SIGCONT)


def get(url: str, path: str, *, timeout: float = 20) -> httpx.Response:
    return httpx.get(f"{url}{path}", headers=HEADERS, trust_env=False, timeout=timeout)


def metrics(url: str) -> dict[str, float]:
    lines = get(url, "/metrics").text.splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[:1] != "#")}


def follows(url: str, generation: int) -> None:
    path = f"/v1/projects/{NAME}"
    wait_until(lambda: get(url, path).json().get("generation") == generation, timeout_seconds=30, what="the route")


def review_of(url: str, prediction_id: str) -> str:
    return get(url, f"/v1/predictions/{prediction_id}").json()["review"]["state"]


def rows_in(store) -> list[dict]:
    parts = [store.get(info.key) for info in store.list("predictions/")]
    columns = ["kind", "prediction_id", "status", "payload_sha256", "needs_review"]
    return [row for part in parts for row in pq.read_table(io.BytesIO(part), columns=columns).to_pylist()]


@pytest.fixture
def servers(postgres_server, seaweed_server, label_studio_server):
    return postgres_server, seaweed_server, label_studio_server


def test_outages_in_turn_fail_no_prediction_and_lose_nothing(scene, release, servers, s3_store, tmp_path):
    folder, review_below = release
    postgres_server, seaweed_server, label_studio_server = servers
    keys = {"DETHRONE_S3_ACCESS_KEY": S3_ACCESS_KEY, "DETHRONE_S3_SECRET_KEY": S3_SECRET_KEY}
    where = {"DETHRONE_S3_BUCKET": s3_store.bucket, "DETHRONE_S3_ENDPOINT": seaweed_server.endpoint}
    url = scene.database.engine.url.render_as_string(hide_password=False)
    environment = gateway_environment(tmp_path, **keys, **where, DETHRONE_CATALOG_URL=url)
    inference_environment = {"BENTOML_HOME": str(folder / "bentoml")}
    with (
        serving("dethrone_pets:r1", home=folder, environment=inference_environment, cwd=tmp_path) as inference,
        serving(GATEWAY, home=tmp_path, environment=environment) as gateway,
    ):
        entry = RouteEntry("d1", "v1", inference.url, 100)
        follows(gateway.url, scene.route(entry, review_below=review_below))
        with Load(gateway.url) as load:
            load.wait_for_more()
            doubtful = next(answer for _, answer in load.answers if answer["needs_review"])["prediction_id"]
            assert review_of(gateway.url, doubtful) == "not_asked"

            load.enter("catalog killed")
            with killed(postgres_server):
                wait_until(
                    lambda: metrics(gateway.url)["dethrone_catalog_age_seconds"] == -1,
                    timeout_seconds=20,
                    what="the gap",
                )
                load.wait_for_more()
                assert get(gateway.url, f"/v1/projects/{NAME}").json()["generation"] == 1
                assert review_of(gateway.url, doubtful) == "catalog_away"
                assert get(gateway.url, "/v1/predictions/nobody").json()["error"]["code"] == "CATALOG_AWAY"
            follows(gateway.url, scene.route(entry, review_below=review_below))
            assert review_of(gateway.url, doubtful) == "not_asked"

            load.enter("catalog hanging")
            with hanging(postgres_server):
                began = time.monotonic()
                with contextlib.ExitStack() as looks:
                    for _ in range(60):  # more than there are threads to decode big images in
                        looks.callback(_look_in_a_thread(gateway.url, doubtful).join)
                    load.wait_for_more(2 * NUM_PER_PHASE)
                assert time.monotonic() - began < 30
                load.wait_for_more()
            follows(gateway.url, scene.route(entry, review_below=review_below))

            load.enter("store killed")
            with killed(seaweed_server):
                before = metrics(gateway.url)["dethrone_spool_bytes"]
                load.wait_for_more()
                assert metrics(gateway.url)["dethrone_spool_bytes"] > before + 60 * len(IMAGES["store killed"][1]) / 2
                wait_until(
                    lambda: metrics(gateway.url).get("dethrone_log_ship_failures_total", 0) > 0,
                    timeout_seconds=60,
                    what="the store's absence",
                )
                full = metrics(gateway.url)["dethrone_spool_bytes"]
            wait_until(
                lambda: metrics(gateway.url)["dethrone_spool_bytes"] < full / 2, timeout_seconds=60, what="the draining"
            )

            load.enter("labeling killed")
            with killed(label_studio_server):
                load.wait_for_more()
                assert scene.monitor().num_uncertain > 0
                with pytest.raises(ServiceUnavailable, match="must answer"):
                    scene.case.annotate()
            scene.case.annotate()
            load.wait_for_more()

        assert set(load.codes) == {"200"}
        counted = metrics(gateway.url)
        accounts = [counted[f"dethrone_predictions_{name}_total"] for name in ("served", "logged", "dropped", "failed")]
        assert accounts == [len(load.answers), len(load.answers), 0, 0]
        wait_until(lambda: metrics(gateway.url)["dethrone_spool_bytes"] == 0, timeout_seconds=60, what="the draining")

        rows = rows_in(s3_store)
        assert sorted(row["prediction_id"] for row in rows) == sorted(body["prediction_id"] for _, body in load.answers)
        assert {row["status"] for row in rows} == {200}

        unsure = {digest for digest, answer in load.answers if answer["needs_review"]}
        assert {phase for phase in PHASES if unsure & {sha256_hex(photo) for photo in IMAGES[phase]}} == set(PHASES)
        assert unsure < {digest for digest, _ in load.answers}
        asked = {digest for digest in unsure if side_of(digest) == "train"}  # the exam's side is left alone
        for _ in range(2):
            scene.monitor()
            scene.case.annotate()
        assert scene.people_answer(label_studio_server) > 0
        scene.case.collect()
        tasks = scene.case.tasks_per_item()
        assert set(tasks.values()) == {1}
        assert asked <= set(tasks)
        for digest, answer in {digest: answer for digest, answer in load.answers if digest in asked}.items():
            status = get(gateway.url, f"/v1/predictions/{answer['prediction_id']}").json()
            assert (status["review"]["state"], status["review"]["label"]) == ("answered", CLASSES[0]), digest


def _look_in_a_thread(url: str, prediction_id: str) -> threading.Thread:
    thread = threading.Thread(target=lambda: get(url, f"/v1/predictions/{prediction_id}", timeout=60))
    thread.start()
    return thread


def side_of(item_id: str) -> str:
    return split_of(item_id, project=NAME, split_key=SPLIT_KEY, exam_share=EXAM_SHARE)
