"""Requests and feedback that met an earlier gateway badly; ids of the reports of 2026-11-29."""

from __future__ import annotations

import asyncio
import base64
import json

import httpx
import pytest

from bento_services.gateway.client import Failed
from tests.service import conftest
from tests.service.conftest import bearer, png

bench = conftest.bench
PREDICT, BATCH, ASYNC = (f"/v1/projects/fashion/predict{kind}" for kind in ("", ":batch", ":async"))
JSON = {"Content-Type": "application/json"}


def in_one_loop(bench, conversation):
    """Run a conversation of several callers with the gateway in one event loop."""

    async def run():
        transport = httpx.ASGITransport(app=bench.client.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            return await conversation(client)

    return asyncio.run(run())


def send(client, seed: int = 0, *, name: str = "shop", **headers):
    return client.post(PREDICT, content=png(seed), headers=bearer(name, **headers))


def ids(responses) -> set[str]:
    return {response.json()["prediction_id"] for response in responses}


def batch_of(*seeds: int) -> bytes:
    return json.dumps({"items": [{"base64": base64_png(seed), "media_type": "image/png"} for seed in seeds]}).encode()


def base64_png(seed: int) -> str:
    return base64.b64encode(png(seed)).decode()


def test_c8_eight_requests_at_once_with_one_id_are_one_prediction_logged_once(bench):
    bench.models.delay_seconds = 0.05

    async def conversation(client):
        return await asyncio.gather(*(send(client, **{"X-Request-Id": "r-1"}) for _ in range(8)))

    responses = in_one_loop(bench, conversation)
    assert {response.status_code for response in responses} == {200}
    assert len({response.text for response in responses}) == 1
    assert len(bench.models.asked) == 1
    (record,) = bench.records()
    assert ids(responses) == {record.prediction_id}
    assert bench.counts() == (1, 1, 0)
    assert bench.metrics.get("dethrone_answers_repeated_total") == 7
    assert bench.gateway.num_open == 0


def test_c8_an_id_is_the_callers_and_another_request_under_it_is_a_conflict_while_the_first_is_on_its_way(bench):
    bench.models.delay_seconds = 0.05
    chosen = {"X-Request-Id": "r-1"}

    async def conversation(client):
        return await asyncio.gather(
            send(client, **chosen),
            send(client, name="stack", **chosen),
            send(client, 1, **chosen),
            send(client, **chosen, **{"X-User-Key": "alice"}),
            send(client, **chosen, **{"X-Business-Key": "order-7"}),
            send(client, **chosen, **{"X-Model-Version": "B"}),
        )

    first, other, *conflicts = in_one_loop(bench, conversation)
    assert len(ids([first, other])) == 2
    assert {response.status_code for response in conflicts} == {409}
    assert {response.json()["error"]["code"] for response in conflicts} == {"REQUEST_ID_REUSED"}
    assert sorted(record.status for record in bench.records()) == [200, 200, 409, 409, 409, 409]


@pytest.mark.parametrize("num_left", [1, 3])
def test_c8_who_hangs_up_and_repeats_gets_the_one_prediction(bench, num_left):
    """A caller who goes takes nothing from those who joined it, nor from the log."""
    bench.models.delay_seconds = 0.1
    chosen = {"X-Request-Id": "r-1"}

    async def conversation(client):
        gone = [asyncio.ensure_future(send(client, **chosen)) for _ in range(num_left)]
        await asyncio.sleep(0.03)
        for caller in gone:
            caller.cancel()
        again = await asyncio.gather(send(client, **chosen), send(client, **chosen))
        return [*again, await send(client, **chosen)]

    responses = in_one_loop(bench, conversation)
    (record,) = bench.records()
    assert ids(responses) == {record.prediction_id}
    assert len(bench.models.asked) == 1


def test_c8_requests_that_fail_together_are_logged_once_and_the_next_one_is_tried(bench):
    bench.models.delay_seconds = 0.05
    bench.models.replies = {"d1": Failed("timeout"), "d2": Failed("timeout")}
    chosen = {"X-Request-Id": "r-1"}

    async def conversation(client):
        failed = await asyncio.gather(*(send(client, **chosen) for _ in range(4)))
        bench.models.replies = {}
        return failed, await send(client, **chosen)

    failed, good = in_one_loop(bench, conversation)
    assert {response.status_code for response in failed} == {503}
    assert good.status_code == 200
    assert [record.status for record in bench.records()] == [503, 200]
    assert bench.counts() == (2, 2, 0)


def test_c8_a_defect_met_together_is_logged_once(bench):
    bench.models.error = RuntimeError("a defect")

    async def conversation(client):
        return await asyncio.gather(*(send(client, **{"X-Request-Id": "r-1"}) for _ in range(3)))

    assert {response.status_code for response in in_one_loop(bench, conversation)} == {500}
    assert [(record.status, record.error_code) for record in bench.records()] == [(500, "INTERNAL")]


def test_c8_batches_at_once_with_one_id_answer_each_item_once(bench):
    """Also batches that overlap in parts, of which each waits for items of the other."""
    bench.models.delay_seconds = 0.05
    headers = bearer(**{"X-Request-Id": "b-1"}) | JSON
    whole, part = batch_of(*range(6)), batch_of(*range(3))

    async def conversation(client):
        sent = [client.post(BATCH, content=body, headers=headers) for body in (whole, part, whole, part)]
        return await asyncio.gather(*sent)

    bodies = [response.json() for response in in_one_loop(bench, conversation)]
    assert [(body["num_ok"], body["num_failed"]) for body in bodies] == [(6, 0), (3, 0), (6, 0), (3, 0)]
    given = [[result["prediction"]["prediction_id"] for result in body["results"]] for body in bodies]
    assert given[0] == given[2]
    assert given[1] == given[3] == given[0][:3]
    assert sorted(record.prediction_id for record in bench.records()) == sorted(given[0])
    assert len(bench.models.asked) == 6


def test_c8_asynchronous_requests_at_once_with_one_id_are_one_prediction(bench):
    async def conversation(client):
        sent = [client.post(ASYNC, content=png(), headers=bearer(**{"X-Request-Id": "a-1"})) for _ in range(8)]
        return await asyncio.gather(*sent)

    responses = in_one_loop(bench, conversation)
    assert len(ids(responses)) == 1
    bench.work()
    bench.work()
    (record,) = bench.records()
    assert ids(responses) == {record.prediction_id}


def test_c8_who_repeats_takes_no_place_from_others(bench):
    """With 8 places, twelve who wait for one answer take one."""
    bench.models.delay_seconds = 0.05

    async def conversation(client):
        repeated = [send(client, **{"X-Request-Id": "r-1"}) for _ in range(12)]
        return await asyncio.gather(*repeated, *(send(client, seed) for seed in range(1, 8)))

    assert {response.status_code for response in in_one_loop(bench, conversation)} == {200}
    assert len(bench.records()) == 8
