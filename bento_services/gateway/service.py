"""The gateway service: the business side of a prediction; no model and no torch in this process."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Mapping

import bentoml
from starlette.types import ASGIApp, Receive, Scope, Send

from bento_services.gateway.api.app import build_app, random_ids
from bento_services.gateway.api.predict_async import Worker
from bento_services.gateway.async_predictions.callbacks import CallbackClient
from bento_services.gateway.async_predictions.resources import AsyncResources
from bento_services.gateway.async_predictions.reviews import SqlReviews
from bento_services.gateway.async_predictions.store import PredictionStore
from bento_services.gateway.config import load_config, load_inference_key
from bento_services.gateway.load_shedding import Entrance
from bento_services.gateway.metrics import Metrics
from bento_services.gateway.prediction_log.shipper import Shipper
from bento_services.gateway.prediction_log.spool import Spool
from bento_services.gateway.prediction_log.uploader import Uploader
from bento_services.gateway.request_handler import RequestHandler as Core
from bento_services.gateway.routing.dispatcher import Dispatcher, Patience
from bento_services.gateway.routing.inference_client import InferenceClient
from bento_services.gateway.routing.route_follower import RouteFollower, SqlCatalog
from bento_services.http_server.acceptor import accept_all_at_once
from bento_services.http_server.admission import guard_door
from bento_services.http_server.connection_limits import bound_heads

REQUEST_TIMEOUT_SECONDS = 30
# Longer than proxies keep theirs (60 s with nginx and AWS's ALB): who closes first must be the one who sends.
IDLE_SECONDS = 75
# A thousand open requests are no garbage: to look at them after every 700 new objects, as Python does, took a quarter
# of the event loop's time in an overload.
GC_THRESHOLD = 20_000
HEALTH_PATHS = frozenset({"/healthz", "/livez", "/readyz"})

app = build_app()
entrance = Entrance()
logger = logging.getLogger(__name__)


class OwnPaths:
    """Answers everything but the health checks, and leaves those to BentoML.

    As a BentoML middleware it would stand behind those for spans, timers and contexts, which cost more than the
    gateway's own work, and beside BentoML's open pages, which say what is inside. When the application starts, it
    therefore steps in front of the whole stack.
    """

    def __init__(self, outer: ASGIApp) -> None:
        self._outer = outer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in HEALTH_PATHS:
            await app(scope, receive, send)
            return
        if scope["type"] == "lifespan":
            whole = scope["app"]
            if not isinstance(whole.middleware_stack, OwnPaths):
                whole.middleware_stack = OwnPaths(whole.middleware_stack)
        await self._outer(scope, receive, send)


@bentoml.service(
    name="gateway",
    workers=1,  # rates, in-flight counts and repeated answers live in one process
    traffic={"timeout": REQUEST_TIMEOUT_SECONDS},
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},  # our own are exact, and BentoML's would be open to everybody
    tracing={"excluded_urls": ".*"},
)
@bentoml.asgi_app(app, path="/")
class Gateway:
    """Authenticates, limits, checks, routes, answers and logs."""

    def __init__(self) -> None:
        config = load_config()
        metrics = Metrics()
        spool = Spool(config.spool_dir, limit_bytes=config.spool_limit_bytes, segment_bytes=config.segment_limit_bytes)
        self._client = InferenceClient(
            timeout_seconds=config.inference_timeout_seconds, key=load_inference_key(config.home)
        )
        self._follower = RouteFollower(
            SqlCatalog(config.catalog_url), local_copy=config.routes_file, poll_seconds=config.poll_seconds
        )
        self._uploader = Uploader(config.home)
        self._uploader.start()
        self._shipper = Shipper(spool, self._uploader.upload, metrics=metrics, interval_seconds=config.ship_seconds)
        later = AsyncResources(
            store=PredictionStore(config.predictions_file, limits=config.store, wall_seconds=time.time),
            reviews=SqlReviews(config.catalog_url),
            callbacks=CallbackClient(config.callbacks),
        )
        self._core = app.state.gateway = Core(
            config,
            follower=self._follower,
            dispatcher=Dispatcher(
                self._client, patience=Patience(config.inference_timeout_seconds, config.max_in_flight // 2)
            ),
            spool=spool,
            metrics=metrics,
            later=later,
            new_id=random_ids(),
            wall_ms=lambda: time.time_ns() // 1_000_000,
        )
        self._later = later
        self._worker = Worker(self._core)
        self._follower.start()
        self._shipper.start()
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD)

    async def __is_ready__(self) -> bool:
        """Answer /readyz: ready means that there are routes to follow, the catalog's or the last known."""
        return self._follower.snapshot is not None

    @bentoml.on_startup  # type: ignore[untyped-decorator]
    async def begin(self) -> None:
        """Go on with the predictions that wait."""
        self._worker.start()

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    async def close(self) -> None:
        """Stop following and ship what the log holds."""
        self._follower.stop()
        await self._worker.stop()
        await self._core.mirror.stop()
        await self._client.close()
        await self._later.callbacks.close()
        self._later.store.close()
        self._shipper.stop()
        self._uploader.close()


def _refuse(url: bytes, headers: Mapping[bytes, bytes]) -> bytes | None:
    core = getattr(app.state, "gateway", None)
    return None if core is None else entrance.refuse(core, url, headers)


Gateway.add_asgi_middleware(OwnPaths)  # type: ignore[attr-defined]
accept_all_at_once()
bound_heads(idle_seconds=IDLE_SECONDS)
guard_door(_refuse)
