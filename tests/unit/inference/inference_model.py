"""A model of one number per item, for the inference service's tests."""

import asyncio

import numpy as np

from bento_services.inference.batcher import MicroBatcher
from bento_services.inference.endpoint import Endpoint, ServedModel
from bento_services.inference.isolated_prediction import predict_rows
from bento_services.inference.responses import Answers
from pipeline_tasks.errors import InputError
from pipeline_tasks.models.base import Signature

SIGNATURE = Signature(("text/plain",), "float64", (1,), 2)


class Doubles:
    """Answers (1 - x, x); a poisoned item fails its whole pass, as does a pass of more items than memory has."""

    version = "A"
    labels = ("low", "high")

    def __init__(self, *, poison=None, memory=1000, answer=None):
        self.poison = poison
        self.memory = memory
        self.answer = answer
        self.batches = []
        self.recoveries = 0

    def decode(self, data):
        try:
            return np.array([float(data)])
        except ValueError:
            raise InputError("an item must be a number (got text).", code="NOT_A_NUMBER") from None

    def example(self):
        return np.array([0.5])

    def predict(self, items):
        self.batches.append(len(items))
        values = [float(item[0]) for item in items]
        if self.poison in values:
            raise RuntimeError("a device error")
        if len(items) > self.memory:
            raise MemoryError
        return np.array(self.answer(values) if self.answer else [[1.0 - value, value] for value in values])

    def recover(self):
        self.recoveries += 1


def items(*values):
    return [np.array([value]) for value in values]


def endpoint_of(model, *, max_batch_size=4, max_queue=8, max_items=6, signature=SIGNATURE):
    """Return an endpoint that serves the model; its batcher binds to the loop of its first request."""
    endpoint = Endpoint()
    batcher = MicroBatcher(
        lambda batch: predict_rows(model, batch),
        max_batch_size=max_batch_size,
        max_queue=max_queue,
        observer=endpoint.metrics,
    )
    answers = Answers(version=model.version, labels=model.labels)
    endpoint.serving = ServedModel(model, signature, batcher, answers, max_items=max_items)
    return endpoint


async def ask(endpoint, body, *, method="POST", chunks=None, **headers):
    """Send one request into the endpoint; return status, headers and body."""
    left = list([body] if chunks is None else chunks)
    sent = []

    async def receive():
        if not left:
            return {"type": "http.disconnect"}
        chunk = left.pop(0)
        if chunk is None:
            await asyncio.sleep(60)
        return {"type": "http.request", "body": chunk, "more_body": bool(left)}

    async def send(message):
        sent.append(message)

    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    await endpoint.predict({"type": "http", "method": method, "path": "/predict", "headers": named}, receive, send)
    start, end = sent
    return start["status"], dict(start["headers"]), end["body"]
