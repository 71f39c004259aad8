"""The inference service: one process serves exactly one model version."""

from __future__ import annotations

import functools
import gc
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio.to_thread
import bentoml

from bento_services.inference.batcher import MicroBatcher, QueueFullError, TooLateError
from bento_services.inference.predictor import BATCH_SIZES, MAX_BATCH_SIZE, predict_rows, probe, warm_up
from bento_services.inference.schemas import JsonAnswer, RawItem, Refusal, Row
from bento_services.parent import die_with_parent
from pipeline_tasks.errors import ConfigError
from pipeline_tasks.models.base import Array

REQUEST_TIMEOUT_SECONDS = 10
MAX_QUEUE = 8 * MAX_BATCH_SIZE
DEADLINE_SECONDS = 5.0  # what the gateway waits for an answer

OVERLOADED = Refusal(503, "OVERLOADED", "the model must have a free slot (got none). Try another replica, or later.")

logger = logging.getLogger(__name__)


@bentoml.service(
    name="inference",
    workers=1,
    traffic={"timeout": REQUEST_TIMEOUT_SECONDS},
    logging={"access": {"enabled": False}},
    metrics={"enabled": True},
    tracing={"excluded_urls": ".*"},
)
class Inference:
    """Predictions of one model version; it knows nothing of users, routes or storage."""

    def __init__(self) -> None:
        import torch

        from bento_services.inference.model import load_model

        die_with_parent()
        # Determinism and throughput: one thread a process; the machine is shared by replicas, not by threads.
        torch.set_num_threads(1)
        self._model = load_model(_model_dir())
        warm_up(self._model)
        RawItem.decoder = self._model.decode
        self._batcher: MicroBatcher[Array, Row] = MicroBatcher(
            functools.partial(predict_rows, self._model),
            max_batch_size=MAX_BATCH_SIZE,
            max_queue=MAX_QUEUE,
            deadline_seconds=DEADLINE_SECONDS,
            observe=batch_metrics(),
        )
        logger.info("model version %s is loaded and warm", self._model.version)

    @bentoml.on_startup  # type: ignore[untyped-decorator]
    async def settle(self) -> None:
        """Warm the worker thread too, then take what is loaded out of the garbage collector's walks."""
        await anyio.to_thread.run_sync(warm_up, self._model)
        gc.collect()
        gc.freeze()

    async def __is_ready__(self) -> bool:
        """Answer /readyz: ready means that a prediction was just made."""
        return await anyio.to_thread.run_sync(probe, self._model)

    @bentoml.api(route="/predict", input_spec=RawItem, output_spec=JsonAnswer)  # type: ignore[untyped-decorator]
    async def predict(self, item: Any) -> Any:
        """Predict one item: its encoded bytes in the body, probabilities by label in the answer."""
        if isinstance(item, Refusal):
            return item
        try:
            return await self._batcher.submit(item)
        except (QueueFullError, TooLateError):
            return OVERLOADED


def batch_metrics() -> Callable[[int, float], None]:
    """Return what counts batch sizes and waits; made inside the serving process, where BentoML collects them."""
    from prometheus_client import Histogram

    sizes = Histogram("dethrone_batch_size", "Items predicted together", buckets=BATCH_SIZES)
    waits = Histogram("dethrone_batch_wait_seconds", "Wait of a batch's oldest item")

    def observe(size: int, wait_seconds: float) -> None:
        sizes.observe(size)
        waits.observe(wait_seconds)

    return observe


def _model_dir() -> Path:
    """Return the folder of the one model that this bento names."""
    bento = Inference.bento  # type: ignore[attr-defined]
    tags = [info.tag for info in bento.info.all_models] if bento is not None else []
    if len(tags) != 1:
        raise ConfigError(
            f"a bento must name exactly one model (got {len(tags)}). Serve a bento that build_bento made, by its tag."
        )
    return Path(bentoml.models.get(tags[0]).path)
