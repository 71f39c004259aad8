"""The inference service: one process serves exactly one model version, to the gateway and nobody else.

What a caller may do to a connection is bounded by the gateway; here the queue is (503), and each wait (504). Who has no
key can open connections, and make none of them hold more than a head.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
from pathlib import Path

import anyio.to_thread
import bentoml

from bento_services.inference.batch_tuning import load_tuning
from bento_services.inference.batcher import MicroBatcher
from bento_services.inference.config import check_device, key_digest, tracing, tuning_text
from bento_services.inference.endpoint import Endpoint, PathRouter, ServedModel
from bento_services.inference.isolated_prediction import predict_rows, probe
from bento_services.inference.responses import Answers, Row
from bento_services.inference.warmup import warm_through
from pipeline_tasks.errors import ConfigError
from pipeline_tasks.models.base import Array

REQUEST_TIMEOUT_SECONDS = 30
MAX_ITEMS = 1024
# What waits in a full queue is no garbage: to look at it after every 700 new objects, as Python does, took 2 % of it.
GC_THRESHOLD = 20_000

TRACING = tracing()
endpoint = Endpoint(key_digest=key_digest())
logger = logging.getLogger(__name__)


@bentoml.service(
    name="inference",
    workers=1,
    traffic={"timeout": REQUEST_TIMEOUT_SECONDS},
    logging={"access": {"enabled": False}},
    metrics={"enabled": True},
    tracing={"excluded_urls": "" if TRACING else ".*"},
)
class Inference:
    """Predictions of one model version; it knows nothing of users, routes or storage."""

    def __init__(self) -> None:
        from bento_services.inference.model_version import load_model

        folder = _model_dir()
        self._tuning = load_tuning(folder, text=tuning_text())
        self._model = load_model(folder)
        check_device(self._model.device)
        self._batcher: MicroBatcher[Array, Row] = MicroBatcher(
            functools.partial(predict_rows, self._model),
            max_batch_size=self._tuning.max_batch_size,
            max_queue=self._tuning.max_queue,
            lone_here=self._tuning.lone_here,
            observer=endpoint.metrics,
        )
        endpoint.serving = ServedModel(
            self._model,
            self._model.signature,
            self._batcher,
            Answers(version=self._model.version, labels=self._model.labels),
            max_items=min(MAX_ITEMS, self._tuning.max_queue),
        )
        logger.info("model version %s is loaded; %s", self._model.version, self._tuning)

    @bentoml.on_startup  # type: ignore[untyped-decorator]
    async def settle(self) -> None:
        """Warm every batch size through the endpoint, then take what is loaded out of the garbage collector's walks."""
        await warm_through(endpoint, max_batch_size=self._tuning.max_batch_size)
        endpoint.metrics.reset()
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD)

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def close(self) -> None:
        """End the model's thread."""
        self._batcher.close()

    async def __is_ready__(self) -> bool:
        """Answer /readyz: ready means that a prediction was just made."""
        return await anyio.to_thread.run_sync(probe, self._model)

    async def __metrics__(self, bentoml_text: str) -> str:
        """Answer /metrics: BentoML's text, then ours."""
        gauges = {
            "dethrone_queue_items": self._batcher.num_waiting,
            "dethrone_max_batch_size": self._tuning.max_batch_size,
            "dethrone_max_queue_items": self._tuning.max_queue,
        }
        info = {
            "model_version": self._model.version,
            "runtime": self._model.runtime,
            "event_loop": type(asyncio.get_running_loop()).__module__,  # uvloop, unless the image lacks it
        }
        return bentoml_text + endpoint.metrics.render(gauges, info=info)


Inference.add_asgi_middleware(PathRouter, endpoint=endpoint, first=not TRACING)  # type: ignore[attr-defined]


def _model_dir() -> Path:
    """Return the folder of the one model that this bento names."""
    bento = Inference.bento  # type: ignore[attr-defined]
    tags = [info.tag for info in bento.info.all_models] if bento is not None else []
    if len(tags) != 1:
        raise ConfigError(
            f"a bento must name exactly one model (got {len(tags)}). Serve a bento that build_bento made, by its tag."
        )
    return Path(bentoml.models.get(tags[0]).path)
