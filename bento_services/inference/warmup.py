"""Warm-up through the endpoint: what the first requests would pay for is paid before the service is ready."""

from __future__ import annotations

import asyncio
import logging
import time

from starlette.types import Message, Scope

from bento_services.inference.batch_tuning import warm_sizes
from bento_services.inference.endpoint import MAX_DEADLINE_SECONDS, Endpoint, ServedModel
from bento_services.inference.example_items import encoded_samples
from bento_services.inference.request_decoding import BATCH, NPY, join_batch, npy_bytes, takes_tensors

logger = logging.getLogger(__name__)


async def warm_through(endpoint: Endpoint, *, max_batch_size: int) -> None:
    """Run every batch size through the model's thread, and requests of every form through the endpoint, alone and many.

    A model that fails on its example is not stopped here: /readyz says so.
    """
    serving = endpoint.serving
    if serving is None:
        return
    example = serving.model.example()
    for size in warm_sizes(max_batch_size):
        await serving.batcher.submit([example] * size, deadline=time.monotonic() + MAX_DEADLINE_SECONDS)
    statuses: list[int] = []
    for media_type, body in _bodies(serving):
        statuses += await asyncio.gather(
            *(_ask(endpoint, body, media_type=media_type) for _ in range(2 * max_batch_size))
        )
    logger.info("warm: batches of 1 to %d, %d requests", max_batch_size, len(statuses))


def _bodies(serving: ServedModel) -> list[tuple[str, bytes]]:
    """Return a body of each form that this model takes."""
    bodies = encoded_samples(serving.signature)
    bodies += [(BATCH, join_batch([body])) for _, body in bodies]
    if takes_tensors(serving.signature):
        bodies.append((NPY, npy_bytes(serving.model.example())))
    return bodies


async def _ask(endpoint: Endpoint, body: bytes, *, media_type: str) -> int:
    """Send one request into the endpoint and return its status."""
    answered: list[int] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            answered.append(message["status"])

    scope: Scope = {"type": "http", "method": "POST", "headers": [(b"content-type", media_type.encode())]}
    await endpoint.predict(scope, receive, send)
    return answered[0]
