"""Single items that travel together, of which each still has its own answer."""

import asyncio
import dataclasses

import pytest

from bento_services.gateway.routing import request_coalescing
from bento_services.gateway.routing.dispatcher import Dispatcher, InferenceRequest
from bento_services.gateway.routing.inference_client import SAFETENSORS, Failed, Rejected, Scores, all_failed
from bento_services.gateway.routing.request_coalescing import MAX_BYTES, MAX_ITEMS, MAX_OPEN, RequestCoalescer
from bento_services.gateway.routing.routes import ProjectRoute, ServingSettings
from pipeline_tasks.contracts import RouteEntry

A = RouteEntry("a", "A", address="http://a", weight=100)
B = RouteEntry("b", "B", address="http://b", weight=100)
NEVER = 1000.0


def scores(payload):
    return Scores((payload.decode(),), (1.0,))


class Wire:
    """Takes requests and answers them when the test says so: each item with its own bytes as the label."""

    def __init__(self):
        self.sent = []
        self._open = []

    async def ask(self, entry, payload, *, media_type, classes):
        return (await self._request(entry, [payload]))[0]

    async def ask_many(self, entry, payloads, *, classes):
        return await self._request(entry, list(payloads))

    async def _request(self, entry, payloads):
        future = asyncio.get_running_loop().create_future()
        self.sent.append((entry.deployment_id, payloads))
        self._open.append((future, payloads))
        return await future

    async def answer(self, judge=scores):
        """Answer the oldest open request and let what follows from it happen."""
        future, payloads = self._open.pop(0)
        future.set_result([judge(payload) for payload in payloads])
        await settled()

    async def fail(self, failed):
        future, payloads = self._open.pop(0)
        future.set_result(all_failed(failed, count=len(payloads)))
        await settled()


async def settled():
    for _ in range(10):
        await asyncio.sleep(0)


class Scene:
    """A gatherer on a wire; items are asked about by number."""

    def __init__(self, *, wait_seconds=NEVER):
        self.wire = Wire()
        self.gatherer = RequestCoalescer(self.wire, wait_seconds=wait_seconds)

    async def ask(self, *numbers, entry=A, media_type="text/plain"):
        asked = [
            asyncio.ensure_future(
                self.gatherer.ask(entry, str(number).encode(), media_type=media_type, classes=("x", "y"))
            )
            for number in numbers
        ]
        await settled()
        return asked

    @property
    def sizes(self):
        return [len(payloads) for _, payloads in self.wire.sent]


def test_an_item_for_an_idle_deployment_leaves_at_once_and_alone():
    async def play():
        scene = Scene()
        for number in range(3):
            (asked,) = await scene.ask(number)
            await scene.wire.answer()
            assert asked.result() == scores(str(number).encode())
        assert scene.sizes == [1, 1, 1]

    asyncio.run(play())


def test_what_finds_the_deployment_busy_leaves_together_at_the_next_answer_each_with_its_own():
    async def play():
        scene = Scene()
        asked = await scene.ask(*range(7))
        assert scene.sizes == [1] * MAX_OPEN
        await scene.wire.answer()
        assert scene.sizes == [1, 1, 5]
        late = await scene.ask(8, 9)
        assert scene.sizes == [1, 1, 5]
        await scene.wire.answer()
        assert scene.sizes == [1, 1, 5, 2]
        await scene.wire.answer()
        await scene.wire.answer()
        assert [future.result().labels for future in [*asked, *late]] == [(str(n),) for n in [*range(7), 8, 9]]
        assert scene.gatherer._lanes == {}

    asyncio.run(play())


def test_nobody_waits_longer_than_a_moment_for_a_deployment_that_does_not_answer():
    async def play():
        scene = Scene(wait_seconds=0.001)
        await scene.ask(*range(5))
        await asyncio.sleep(0.01)
        assert scene.sizes == [1, 1, 3]
        await scene.ask(5)
        await asyncio.sleep(0.01)
        assert scene.sizes == [1, 1, 3, 1]

    asyncio.run(play())


def test_a_full_request_does_not_wait():
    async def play():
        scene = Scene()
        await scene.ask(*range(MAX_OPEN + MAX_ITEMS + 1))
        assert scene.sizes == [*[1] * MAX_OPEN, MAX_ITEMS]

    asyncio.run(play())


def test_a_request_has_a_bound_in_bytes(monkeypatch):
    monkeypatch.setattr(request_coalescing, "MAX_BYTES", 5)

    async def play():
        scene = Scene()
        await scene.ask(0, 1, 22, 33, 4444)
        assert [payloads for _, payloads in scene.wire.sent[MAX_OPEN:]] == [[b"22", b"33"]]
        await scene.wire.answer()
        assert scene.wire.sent[-1][1] == [b"4444"]

    assert MAX_BYTES >= 1024 * 1024
    asyncio.run(play())


def test_items_for_different_deployments_or_classes_never_share_a_request():
    async def play():
        scene = Scene()
        await scene.ask(*range(4))
        await scene.ask(10, 11, 12, entry=B)
        await scene.ask(20, 21, 22, entry=dataclasses.replace(A, weight=50))
        for _ in range(3 * MAX_OPEN):
            await scene.wire.answer()
        assert {name: [p for n, p in scene.wire.sent if n == name and len(p) > 1] for name in "ab"} == {
            "a": [[b"2", b"3"]],
            "b": [],
        }

    asyncio.run(play())


def test_a_tensor_goes_alone_however_busy_the_deployment_is():
    async def play():
        scene = Scene()
        await scene.ask(*range(4), media_type=SAFETENSORS)
        assert scene.sizes == [1, 1, 1, 1]

    asyncio.run(play())


def test_the_items_of_callers_who_left_are_not_sent():
    async def play():
        scene = Scene()
        asked = await scene.ask(*range(5))
        asked[2].cancel()
        asked[4].cancel()
        await settled()
        await scene.wire.answer()
        assert scene.wire.sent[-1][1] == [b"3"]
        asked[3].cancel()
        await scene.wire.answer()
        await scene.wire.answer()
        assert scene.gatherer._lanes == {}

    asyncio.run(play())


def test_a_caller_who_leaves_alone_makes_room():
    async def play():
        scene = Scene()
        asked = await scene.ask(*range(3))
        asked[0].cancel()
        await settled()
        assert scene.wire.sent[-1][1] == [b"2"]

    asyncio.run(play())


def test_a_defect_reaches_everybody_who_waits():
    class Broken(Wire):
        async def ask_many(self, entry, payloads, *, classes):
            raise RuntimeError("defect")

    async def play():
        scene = Scene()
        scene.wire = Broken()
        scene.gatherer = RequestCoalescer(scene.wire, wait_seconds=NEVER)
        asked = await scene.ask(*range(4))
        await scene.wire.answer()
        errors = await asyncio.gather(asked[2], asked[3], return_exceptions=True)
        assert [str(error) for error in errors] == ["defect", "defect"]
        await scene.wire.answer()
        assert scene.gatherer._lanes == {}

    asyncio.run(play())


@pytest.mark.parametrize("failed", [Failed("unreachable"), Failed("timeout"), Failed("overloaded")])
def test_what_failed_together_is_asked_again_item_by_item(failed):
    async def play():
        wire = Wire()
        dispatcher = Dispatcher(wire, monotonic=lambda: 0.0)
        on = ProjectRoute("fashion", 1, "c1", "A", (A,), (), ServingSettings(classes=()))

        def ask(number):
            question = InferenceRequest(str(number).encode(), "text/plain", str(number), None)
            return asyncio.ensure_future(dispatcher.predict(question, current_route=lambda: on))

        asked = [ask(number) for number in range(5)]
        await settled()
        await wire.answer()
        assert [len(payloads) for _, payloads in wire.sent] == [1, 1, 3]
        await wire.answer()
        await wire.fail(failed)
        assert [payloads for _, payloads in wire.sent[3:]] == [[b"2"], [b"3"], [b"4"]]
        for _ in range(3):
            await wire.answer()
        assert [(future.result().scores.labels, future.result().replayed) for future in asked[2:]] == [
            ((str(number),), True) for number in (2, 3, 4)
        ]
        assert dispatcher.in_flight("a") == 0

    asyncio.run(play())


def test_a_rejected_item_rejects_nobody_else():
    def judge(payload):
        return Rejected(422, "BAD", "bad") if payload == b"3" else scores(payload)

    async def play():
        scene = Scene()
        asked = await scene.ask(*range(5))
        for _ in range(3):
            await scene.wire.answer(judge)
        assert [isinstance(future.result(), Rejected) for future in asked] == [False, False, False, True, False]

    asyncio.run(play())
