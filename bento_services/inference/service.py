"""The inference service: one process serves exactly one model version."""

from __future__ import annotations

import gc
import logging
from pathlib import Path
from typing import Any

import anyio.to_thread
import bentoml

from bento_services.inference.predictor import MAX_BATCH_SIZE, predict_rows, probe, warm_up
from bento_services.inference.schemas import JsonAnswer, RawItem
from pipeline_tasks.errors import ConfigError

REQUEST_TIMEOUT_SECONDS = 10
MAX_CONCURRENCY = 8 * MAX_BATCH_SIZE  # more than this in flight is answered 429 at once
MAX_LATENCY_MS = 10_000  # not a batching window: a low value makes the dispatcher throw requests away

logger = logging.getLogger(__name__)


@bentoml.service(
    name="inference",
    workers=1,
    traffic={"timeout": REQUEST_TIMEOUT_SECONDS, "max_concurrency": MAX_CONCURRENCY},
    logging={"access": {"enabled": False}},
    metrics={"enabled": True},
    tracing={"excluded_urls": ".*"},
)
class Inference:
    """Predictions of one model version; it knows nothing of users, routes or storage."""

    def __init__(self) -> None:
        import torch

        from bento_services.inference.model import load_model

        # Determinism and throughput: one thread a process; the machine is shared by replicas, not by threads.
        torch.set_num_threads(1)
        self._model = load_model(_model_dir())
        warm_up(self._model)
        RawItem.decoder = self._model.decode
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

    @bentoml.api(  # type: ignore[untyped-decorator]
        route="/predict",
        batchable=True,
        max_batch_size=MAX_BATCH_SIZE,
        max_latency_ms=MAX_LATENCY_MS,
        input_spec=RawItem,
        output_spec=JsonAnswer,
    )
    def predict(self, items: list[Any]) -> list[Any]:
        """Predict one item: its encoded bytes in the body, probabilities by label in the answer."""
        return list(predict_rows(self._model, items))


def _model_dir() -> Path:
    """Return the folder of the one model that this bento names."""
    bento = Inference.bento  # type: ignore[attr-defined]
    tags = [info.tag for info in bento.info.all_models] if bento is not None else []
    if len(tags) != 1:
        raise ConfigError(
            f"a bento must name exactly one model (got {len(tags)}). Serve a bento that build_bento made, by its tag."
        )
    return Path(bentoml.models.get(tags[0]).path)
