"""The gateway's client against a service over HTTP: one item, several in one request, answers of any length."""

from __future__ import annotations

import asyncio
import json

import pytest

from bento_services.gateway.routing.inference_client import Failed, InferenceClient, Rejected, Scores
from bento_services.inference.request_decoding import BATCH, split_batch
from pipeline_tasks.contracts import RouteEntry
from tests.service.servers import CLASSES, StubInference

SCORES = Scores(CLASSES, (0.7, 0.2, 0.1))
ROW = {"probabilities": [0.7, 0.2, 0.1]}


@pytest.fixture
def stub():
    stub = StubInference(version="A")
    yield stub
    stub.stop()


def ask(stub, *payloads, key=None):
    async def asking():
        client, entry = InferenceClient(timeout_seconds=5.0, key=key), RouteEntry("d1", "A", stub.url, 100)
        try:
            if len(payloads) == 1:
                return await client.ask(entry, payloads[0], media_type="image/png", classes=CLASSES)
            return list(await client.ask_many(entry, payloads, classes=CLASSES))
        finally:
            await client.close()

    return asyncio.run(asking())


def test_several_items_travel_as_the_inference_service_reads_them(stub):
    rejected = {"error": {"code": "NOT_AN_IMAGE", "message": "m", "field": "body", "request_id": None}}
    stub.body = json.dumps({"model_version": "A", "labels": CLASSES, "items": [ROW, rejected, ROW]}).encode()
    payloads = [b"one", b"", b"three" * 1000]
    assert ask(stub, *payloads) == [SCORES, Rejected(422, "NOT_AN_IMAGE", "m"), SCORES]
    assert split_batch(stub.last_body, max_items=3) == payloads
    assert stub.last_headers["Content-Type"] == BATCH
    assert stub.num_requests == 1


@pytest.mark.parametrize(("key", "header"), [("k1", "Bearer k1"), (None, None)])
def test_the_service_gets_the_key_where_there_is_one(stub, key, header):
    ask(stub, b"one", key=key)
    assert stub.last_headers.get("Authorization") == header


def test_a_service_that_is_gone_fails_every_item_and_is_told_once(stub):
    stub.stop()
    replies = ask(stub, b"one", b"two")
    assert replies == [Failed("unreachable")] * 2
    assert [reply.echo for reply in replies] == [False, True]


def test_an_answer_in_several_pieces_is_read_whole(stub):
    stub.body = json.dumps({"model_version": "A", "labels": CLASSES} | ROW).encode().ljust(2_000_000)
    assert ask(stub, b"one") == SCORES


def test_an_answer_without_end_is_nonsense(stub):
    stub.body = json.dumps({"model_version": "A", "labels": CLASSES} | ROW).encode().rjust(5_000_000)
    assert ask(stub, b"one") == Failed("nonsense")
