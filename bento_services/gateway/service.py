"""The gateway, put together from its parts: the business side of a prediction, without a model."""

from __future__ import annotations

import time

from bento_services.gateway.api.app import build_app, random_ids
from bento_services.gateway.api.predict_async import Worker
from bento_services.gateway.async_predictions.callbacks import CallbackClient
from bento_services.gateway.async_predictions.resources import AsyncResources
from bento_services.gateway.async_predictions.reviews import SqlReviews
from bento_services.gateway.async_predictions.store import PredictionStore
from bento_services.gateway.config import load_config, load_inference_key
from bento_services.gateway.load_shedding import LoadShedding
from bento_services.gateway.metrics import GatewayMetrics
from bento_services.gateway.prediction_log.shipper import Shipper
from bento_services.gateway.prediction_log.spool import Spool
from bento_services.gateway.prediction_log.uploader import Uploader
from bento_services.gateway.request_handler import RequestHandler
from bento_services.gateway.routing.dispatcher import Dispatcher, Patience
from bento_services.gateway.routing.inference_client import InferenceClient
from bento_services.gateway.routing.route_follower import RouteFollower, SqlCatalog


class Gateway:
    """Authenticates, limits, checks, routes, answers and logs; one process, since it counts rates and open requests."""

    def __init__(self) -> None:
        config = load_config()
        metrics = GatewayMetrics()
        spool = Spool(config.spool_dir, limit_bytes=config.spool_limit_bytes, segment_bytes=config.segment_limit_bytes)
        self._client = InferenceClient(
            timeout_seconds=config.inference_timeout_seconds, key=load_inference_key(config.home)
        )
        self._follower = RouteFollower(
            SqlCatalog(config.catalog_url), local_copy=config.routes_file, poll_seconds=config.poll_seconds
        )
        self._uploader = Uploader(config.home)
        self._shipper = Shipper(spool, self._uploader.upload, metrics=metrics, interval_seconds=config.ship_seconds)
        self._async_resources = AsyncResources(
            store=PredictionStore(config.predictions_file, limits=config.store, wall_seconds=time.time),
            reviews=SqlReviews(config.catalog_url),
            callbacks=CallbackClient(config.callbacks),
        )
        self._handler = RequestHandler(
            config,
            follower=self._follower,
            dispatcher=Dispatcher(
                self._client, patience=Patience(config.inference_timeout_seconds, config.max_in_flight // 2)
            ),
            spool=spool,
            metrics=metrics,
            async_resources=self._async_resources,
            new_id=random_ids(),
            wall_ms=lambda: time.time_ns() // 1_000_000,
        )
        self._worker = Worker(self._handler)
        self.app = LoadShedding(build_app(self._handler), self._handler)

    def start(self) -> None:
        """Follow the routes, ship the log, and go on with the predictions that wait; in the event loop."""
        self._uploader.start()
        self._follower.start()
        self._shipper.start()
        self._worker.start()

    async def close(self) -> None:
        """Stop following and ship what the log holds."""
        self._follower.stop()
        await self._worker.stop()
        await self._handler.mirror.stop()
        await self._client.close()
        await self._async_resources.callbacks.close()
        self._async_resources.store.close()
        self._shipper.stop()
        self._uploader.close()
