"""Pick a deployment, ask it, replay once elsewhere, and finish the answer."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections import Counter
from collections.abc import Callable

from bento_services.gateway.errors import ApiError
from bento_services.gateway.metrics import Measured
from bento_services.gateway.routing.circuit_breaker import Breakers
from bento_services.gateway.routing.deployment_counters import Accounts, FirstReply, error_of
from bento_services.gateway.routing.inference_client import Failed, Predictor, Rejected, Reply, Scores
from bento_services.gateway.routing.request_coalescing import Bundle, BundlePlace, RequestCoalescer
from bento_services.gateway.routing.routes import ProjectRoute, champion_beside, choose, choose_other
from pipeline_tasks.contracts import RouteEntry

# A server that ended is back within seconds: its supervisor starts it at once. One that is away for longer is not.
BACK_SECONDS = 15.0
LOOK_AGAIN_SECONDS = 0.1


@dataclasses.dataclass(frozen=True, slots=True)
class Patience:
    """Limits of waiting for a server that is being started again: seconds a request, requests at a time."""

    seconds: float = 0.0
    max_waiting: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class InferenceRequest:
    """One item and how the caller wants it answered.

    `tensor`: with the bytes that another service takes, which reads the classes in the order of `labels`.
    """

    payload: bytes
    media_type: str
    sticky_key: str
    version: str | None
    tensor: bool = False
    labels: tuple[str, ...] = ()
    place: BundlePlace | None = None  # in the bundle of a client's batch


@dataclasses.dataclass(frozen=True, slots=True)
class RoutedAnswer:
    """Scores, and the deployment that gave them."""

    entry: RouteEntry
    scores: Scores
    replayed: bool


class Dispatcher:
    """Sends questions to deployments and knows what is in flight; lives in one event loop."""

    def __init__(
        self,
        client: Predictor,
        *,
        patience: Patience | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._coalescer = RequestCoalescer(client)
        self._monotonic = monotonic
        self._in_flight: Counter[str] = Counter()
        self.accounts = Accounts()
        self.breakers = Breakers(monotonic=monotonic)
        self._patience = patience or Patience()
        self._num_waiting = 0
        self.num_replays = 0
        self.num_by_standby = 0

    def gauges(self) -> list[Measured]:
        """Return what is measured of the dispatches at the time of a scrape."""
        return [
            *self.breakers.gauges(),
            ("dethrone_breaker_opened", self.breakers.num_opened, {}),
            ("dethrone_replays", self.num_replays, {}),
            ("dethrone_standby_answers", self.num_by_standby, {}),
        ]

    def bundle(self, *, num_items: int) -> Bundle:
        """Return what takes the items of a client's batch to their deployments together."""
        return Bundle(self._client, num_items=num_items)

    def in_flight(self, deployment_id: str) -> int:
        """Return how many requests to this deployment are unanswered."""
        return self._in_flight[deployment_id]

    async def predict(
        self,
        question: InferenceRequest,
        *,
        current_route: Callable[[], ProjectRoute],
        drawn: Callable[[ProjectRoute, RouteEntry], None] | None = None,
        heard: Callable[[FirstReply], object] | None = None,
    ) -> RoutedAnswer:
        """Ask the deployment that the route gives, and after a failure one other: predictions are pure, so it is safe.

        The route is read again before each try: a swap in between is followed. An item that only a candidate rejects
        is the champion's to judge. `drawn` hears what the share gave, before a suspect is passed over, and `heard` how
        the first that was asked did, also where nobody could answer.

        Raises:
            ApiError: 404 unknown version, 422 and 413 a bad item, 503 nothing usable answered.
        """
        route, avoid = current_route(), self.breakers.avoided()
        entry = choose(route, sticky_key=question.sticky_key, version=question.version, avoid=avoid)
        if entry is None:
            raise _nothing_serves(question.version)
        if drawn is not None and question.version is None:
            drawn(route, (choose(route, sticky_key=question.sticky_key, version=None) if avoid else entry) or entry)
        began = self._monotonic()
        reply = await self.ask(entry, question, route)
        seconds = self._monotonic() - began
        judged = judged_reply(reply, question)
        beside = entry.model_version != route.champion_version
        answered = await self._again(entry, judged if beside else reply, question, current_route)
        if question.version is None:
            right = isinstance(reply, Rejected) and answered is None  # the champion sees no sense in it either
            first = FirstReply(entry, seconds, None if right else error_of(judged))
            self.accounts.answered(route, entry, seconds=seconds, error=first.error)
            if heard is not None:
                heard(first)
        answer = RoutedAnswer(entry, _scores(reply), replayed=False) if answered is None else _finished(*answered)
        self.num_by_standby += answer.entry == route.settings.standby
        return answer

    async def _again(
        self, entry: RouteEntry, reply: Reply, question: InferenceRequest, current_route: Callable[[], ProjectRoute]
    ) -> tuple[RouteEntry, Reply] | None:
        """Ask one other deployment where that can help; None where the first reply stands."""
        if isinstance(reply, Failed):
            return await self._replay(entry, reply, question, current_route)
        if not isinstance(reply, Rejected) or question.version is not None:
            return None
        route = current_route()
        champion = champion_beside(route, entry)
        second = None if champion is None else await self.ask(champion, question, route, alone=True)
        if champion is None or not isinstance(second, Scores):
            return None
        self.num_replays += 1
        return champion, second

    async def _replay(
        self, entry: RouteEntry, failed: Failed, question: InferenceRequest, current_route: Callable[[], ProjectRoute]
    ) -> tuple[RouteEntry, Reply]:
        """Ask one other, or, where nobody could be reached, everybody, and again until somebody is back."""
        self.num_replays += 1
        until = self._monotonic() + self._patience.seconds
        asked = {entry.deployment_id}
        reply: Reply = failed
        while True:
            route, was_away = current_route(), _is_unreachable(reply)
            avoid = self.breakers.avoided()
            entry = choose_other(route, entry, version=question.version, avoid=avoid, standby=was_away)
            is_new = entry.deployment_id not in asked
            asked.add(entry.deployment_id)
            reply = await self.ask(entry, question, route, alone=True)
            if not (was_away and _is_unreachable(reply)):
                return entry, reply
            if is_new:
                continue
            if not self._may_wait(entry, until):
                return entry, reply
            self._num_waiting += 1
            try:
                await asyncio.sleep(LOOK_AGAIN_SECONDS)
            finally:
                self._num_waiting -= 1

    def _may_wait(self, entry: RouteEntry, until: float) -> bool:
        """Tell whether one more may wait for a server: half of the slots are for those whose servers are there."""
        if self._num_waiting >= self._patience.max_waiting:
            return False
        return self._monotonic() < min(until, self.breakers.failing_since(entry.deployment_id) + BACK_SECONDS)

    async def ask(
        self, entry: RouteEntry, question: InferenceRequest, route: ProjectRoute, *, alone: bool = False
    ) -> Reply:
        """Ask one deployment, counted as in flight; its breaker hears how it ended.

        `alone`: not in one request with other items, since what failed in company must not fail its neighbours again.
        """
        # No await between the choice of an entry and this count: a drain that sees 0 has seen every chosen request.
        self._in_flight[entry.deployment_id] += 1
        self.breakers.asked(entry.deployment_id)
        asks = self._client if alone else question.place or self._coalescer
        ask = self._client.ask_tensor if question.tensor else asks.ask
        try:
            reply = await ask(entry, question.payload, media_type=question.media_type, classes=route.classes_of(entry))
        finally:
            self._in_flight[entry.deployment_id] -= 1
            if self._in_flight[entry.deployment_id] == 0:
                del self._in_flight[entry.deployment_id]
        self.breakers.heard(entry.deployment_id, reply)
        return reply


def _is_unreachable(reply: Reply) -> bool:
    return isinstance(reply, Failed) and reply.kind == "unreachable"


def judged_reply(reply: Reply, question: InferenceRequest) -> Reply:
    """Return an answer as a failure where it cannot be handed on; the champion's says that its graph is outdated."""
    fits = not question.labels or not isinstance(reply, Scores) or reply.labels == question.labels
    return reply if fits else Failed("class_order")


def _finished(entry: RouteEntry, reply: Reply) -> RoutedAnswer:
    return RoutedAnswer(entry, _scores(reply), replayed=True)


def _nothing_serves(version: str | None) -> ApiError:
    if version is None:
        return ApiError(
            503, "NOTHING_SERVES", "the project must have a champion (got none yet).", retry_after_seconds=5
        )
    return ApiError(
        404,
        "MODEL_VERSION_UNKNOWN",
        "X-Model-Version must be a version that serves now. See GET /v1/projects/{project}.",
        field="X-Model-Version",
    )


def _scores(reply: Reply) -> Scores:
    if isinstance(reply, Scores):
        return reply
    if isinstance(reply, Rejected):
        raise ApiError(reply.status, reply.code, reply.message, field="body")
    if reply.kind == "overloaded":
        raise ApiError(
            503, "OVERLOADED", "the model must have a free slot (got none). Try again.", retry_after_seconds=1
        )
    raise ApiError(
        503,
        "MODEL_FAILED",
        "the model must answer with sense and in time (got neither). Try again.",
        retry_after_seconds=1,
    )
