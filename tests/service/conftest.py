"""A gateway in this process, with a stub in place of the inference services."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import itertools
import time

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from bento_services.gateway.api.app import build_app
from bento_services.gateway.api.predict_async import Worker
from bento_services.gateway.async_predictions.resources import AsyncResources
from bento_services.gateway.async_predictions.store import PredictionStore
from bento_services.gateway.config import GatewayConfig
from bento_services.gateway.metrics import GatewayMetrics
from bento_services.gateway.prediction_log.records import LogRecord, read_records
from bento_services.gateway.prediction_log.spool import Spool
from bento_services.gateway.request_handler import RequestHandler
from bento_services.gateway.routing.dispatcher import Dispatcher
from bento_services.gateway.routing.inference_client import Scores
from bento_services.gateway.routing.request_coalescing import RequestCoalescer
from bento_services.gateway.routing.route_follower import RouteFollower
from bento_services.gateway.routing.routes import KeyInfo, ProjectRoute, ServingSettings, Snapshot, snapshot_of
from pipeline_tasks.contracts import RouteEntry, sha256_hex
from tests.service.servers import CLASSES

TOKENS = {
    "shop": ("fashion", {"predict", "feedback"}),
    "reader": ("fashion", {"predict"}),
    "texts": ("texts", {"predict", "feedback"}),
    "stack": ("*", {"predict", "feedback", "admin"}),
}
MAX_REQUEST_BYTES = 100_000


def token_of(name: str) -> str:
    return name * 12


def bearer(name: str = "shop", **headers: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token_of(name)}", "Content-Type": "image/png"} | headers


def png(seed: int = 0, side: int = 28) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


class StubModels:
    """Answers for every deployment; `replies` overrides by deployment id."""

    def __init__(self) -> None:
        self.replies = {}
        self.asked = []
        self.bundles = []
        self.error = None
        self.delay_seconds = 0.0

    async def ask(self, entry, payload, *, media_type, classes):
        self.asked.append((entry.deployment_id, payload, media_type))
        await asyncio.sleep(self.delay_seconds)
        if self.error is not None:
            raise self.error
        return self.replies.get(entry.deployment_id, Scores(CLASSES, (0.7, 0.2, 0.1)))

    async def ask_many(self, entry, payloads, *, classes):
        self.bundles.append((entry.deployment_id, len(payloads)))
        return [await self.ask(entry, payload, media_type=None, classes=classes) for payload in payloads]


class StubReviews:
    """People's answers in the catalog; `error` is a catalog that is away."""

    def __init__(self) -> None:
        self.audited = {}
        self.error = None

    def find(self, prediction_id, *, project="", item_id=""):
        if self.error is not None:
            raise self.error
        return self.audited.get(prediction_id)


class StubCallbacks:
    """Takes calls, or refuses them."""

    def __init__(self) -> None:
        self.calls = []
        self.takes = True

    async def post(self, url, *, event, prediction_id):
        self.calls.append((url, event, prediction_id))
        return self.takes


class FixedCatalog:
    def __init__(self, snapshot: Snapshot | None) -> None:
        self.snapshot = snapshot

    def read(self) -> Snapshot:
        if self.snapshot is None:
            raise OSError("away")
        return self.snapshot


@dataclasses.dataclass
class Bench:
    """A gateway and everything a test turns or reads."""

    client: TestClient
    models: StubModels
    catalog: FixedCatalog
    follower: RouteFollower
    spool: Spool
    metrics: GatewayMetrics
    gateway: RequestHandler
    reviews: StubReviews
    callbacks: StubCallbacks

    def answer_by(self, models: StubModels) -> None:
        """Let other models answer from now on."""
        self.gateway.dispatcher._client = models
        self.gateway.dispatcher._coalescer = RequestCoalescer(models)

    def work(self) -> None:
        """Make what waits, once."""
        asyncio.run(Worker(self.gateway).run_once())

    def predict(self, body: bytes | None = None, *, project: str = "fashion", headers=None, **more):
        content = png() if body is None else body
        chosen = bearer(**more) if headers is None else headers
        return self.client.post(f"/v1/projects/{project}/predict", content=content, headers=chosen)

    def records(self) -> list[LogRecord]:
        self.spool.seal()
        return [record for path in self.spool.sealed() for record, _ in read_records(path.read_bytes())]

    def counts(self) -> tuple[int, int, int]:
        names = ("served", "logged", "dropped")
        return tuple(self.metrics.get(f"dethrone_predictions_{name}_total") for name in names)

    def failed(self) -> int:
        return self.metrics.get("dethrone_predictions_failed_total")

    def follow(self, snapshot: Snapshot) -> None:
        self.catalog.snapshot = snapshot
        self.follower.poll()


def routes(**settings) -> list[ProjectRoute]:
    limits = {"max_request_bytes": MAX_REQUEST_BYTES, "requests_per_second": 1e6, "classes": CLASSES}
    image = ServingSettings(**({**limits, "modality": "image", "preprocess": {"max_pixels": 25_000_000}} | settings))
    text = ServingSettings(**{**limits, "modality": "text", "preprocess": {"max_text_characters": 1000}})
    row = ServingSettings(**{**limits, "modality": "tabular", "preprocess": {}})
    entries = (RouteEntry("d1", "A", "http://d1", 100), RouteEntry("d2", "B", "http://d2", 0))
    return [
        ProjectRoute("fashion", 3, "c3", "A", entries, (), image),
        ProjectRoute("texts", 1, "t1", "A", entries, (), text),
        ProjectRoute("rows", 1, "r1", "A", entries, (), row),
    ]


def snapshot(**settings) -> Snapshot:
    keys = [
        KeyInfo(name, project, sha256_hex(token_of(name).encode()), frozenset(scopes))
        for name, (project, scopes) in TOKENS.items()
    ]
    return snapshot_of(routes(**settings), keys, projects=["fashion", "texts", "rows", "untrained"])


@pytest.fixture
def bench(tmp_path):
    config = GatewayConfig(home=tmp_path, catalog_url="", body_timeout_seconds=0.3, max_in_flight=8)
    catalog, models, metrics = FixedCatalog(snapshot()), StubModels(), GatewayMetrics()
    follower = RouteFollower(catalog, local_copy=config.routes_file, poll_seconds=60)
    follower.poll()
    spool = Spool(config.spool_dir, limit_bytes=50_000_000, segment_bytes=1_000_000)
    store = PredictionStore(config.predictions_file, limits=config.store, wall_seconds=time.time)
    resources = AsyncResources(store=store, reviews=StubReviews(), callbacks=StubCallbacks())
    numbers, times = itertools.count(1), itertools.count(1_767_225_600_000)
    gateway = RequestHandler(
        config,
        follower=follower,
        dispatcher=Dispatcher(models),
        spool=spool,
        metrics=metrics,
        async_resources=resources,
        new_id=lambda: f"id{next(numbers):08d}",
        wall_ms=lambda: next(times),
    )
    client = TestClient(build_app(gateway), raise_server_exceptions=False)
    yield Bench(client, models, catalog, follower, spool, metrics, gateway, resources.reviews, resources.callbacks)
    store.close()
