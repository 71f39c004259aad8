"""Mirrors: a shadow deployment is asked what the caller asked, once the caller has the answer, and is logged."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Callable

from bento_services.gateway.metrics import GatewayMetrics
from bento_services.gateway.postprocess import DIGITS, finish
from bento_services.gateway.prediction_log.records import LogRecord
from bento_services.gateway.prediction_log.spool import Spool
from bento_services.gateway.routing.deployment_counters import FirstReply, error_of
from bento_services.gateway.routing.dispatcher import Dispatcher, InferenceRequest, judged_reply
from bento_services.gateway.routing.inference_client import Rejected, Scores
from bento_services.gateway.routing.routes import ProjectRoute
from pipeline_tasks.contracts import RouteEntry

MAX_IN_FLIGHT = 32


class Mirror:
    """Asks shadows in tasks of their own: none waits for them, and too many at a time are skipped and counted.

    One that fails is asked all the same: passed over for a while, it would fail less often than it does.
    """

    def __init__(
        self, dispatcher: Dispatcher, *, spool: Spool, metrics: GatewayMetrics, monotonic: Callable[[], float]
    ) -> None:
        self._dispatcher = dispatcher
        self._spool = spool
        self._metrics = metrics
        self._monotonic = monotonic
        self._tasks: set[asyncio.Task[None]] = set()

    def send(self, question: InferenceRequest, answered: LogRecord, *, route: ProjectRoute, first: FirstReply) -> None:
        """Ask every shadow of the route about an item that was asked; returns at once.

        `first` is how the deployment did that the share gave: where it is the champion's, the two make a pair.
        """
        for entry in route.shadows:
            if len(self._tasks) >= MAX_IN_FLIGHT:
                self._count("skipped")
                continue
            task = asyncio.get_running_loop().create_task(self._ask(entry, question, answered, route, first))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Wait for what is under way: each is bounded by the client's time limit."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _ask(
        self,
        entry: RouteEntry,
        question: InferenceRequest,
        answered: LogRecord,
        route: ProjectRoute,
        first: FirstReply,
    ) -> None:
        began = self._monotonic()
        reply = await self._dispatcher.ask(entry, question, route)
        seconds = self._monotonic() - began
        latency_ms = round(seconds * 1000, 3)
        accounts = self._dispatcher.accounts
        error = error_of(judged_reply(reply, question))
        accounts.answered(route, entry, seconds=seconds, error=error)
        if first.entry.model_version == route.champion_version:
            accounts.paired(route, entry, seconds=seconds, error=error, champion=first)
        if isinstance(reply, Scores):
            finished = finish(reply, route.settings)
            if answered.model_version == route.champion_version:
                accounts.compared(route, entry, agreed=finished.model_label == answered.label)
            scores = zip(reply.labels, reply.probabilities, strict=True)
            record = dataclasses.replace(
                _like(answered, entry, latency_ms=latency_ms),
                status=200,
                label=finished.model_label,
                confidence=finished.model_confidence,
                scores=json.dumps({label: round(value, DIGITS) for label, value in scores}, separators=(",", ":")),
            )
        else:
            code = reply.code if isinstance(reply, Rejected) else f"SHADOW_{reply.kind.upper()}"
            record = dataclasses.replace(_like(answered, entry, latency_ms=latency_ms), status=503, error_code=code)
        self._count(self._spool.append(record))

    def _count(self, outcome: str) -> None:
        self._metrics.add("dethrone_shadows_total", outcome=outcome)


def _like(answered: LogRecord, entry: RouteEntry, *, latency_ms: float) -> LogRecord:
    """Return the record of the same item by another deployment; the payload stands in the answered one's."""
    return LogRecord(
        kind="shadow",
        prediction_id=answered.prediction_id,
        request_id=answered.request_id,
        project=answered.project,
        at_ms=answered.at_ms,
        status=503,
        client=answered.client,
        latency_ms=latency_ms,
        model_version=entry.model_version,
        deployment_id=entry.deployment_id,
        user_key=answered.user_key,
        business_key=answered.business_key,
        payload_sha256=answered.payload_sha256,
    )
