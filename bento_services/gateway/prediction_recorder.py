"""The records of predictions: what was answered, what failed, and how long each part of a request took."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from bento_services.gateway.errors import ApiError
from bento_services.gateway.metrics import GatewayMetrics
from bento_services.gateway.postprocess import DIGITS, Finished
from bento_services.gateway.prediction_log.records import LogRecord
from bento_services.gateway.prediction_log.spool import Spool
from bento_services.gateway.routing.dispatcher import RoutedAnswer
from bento_services.gateway.trace import Trace
from pipeline_tasks.contracts import sha256_hex

if TYPE_CHECKING:
    from bento_services.gateway.api.schemas import PredictionBody


class PredictionRecorder:
    """Writes the prediction log from the traces of requests."""

    def __init__(
        self,
        spool: Spool,
        metrics: GatewayMetrics,
        *,
        new_id: Callable[[], str],
        wall_ms: Callable[[], int],
        monotonic: Callable[[], float],
    ) -> None:
        self._spool = spool
        self._metrics = metrics
        self._wall_ms = wall_ms
        self.new_id = new_id
        self.monotonic = monotonic

    @contextlib.contextmanager
    def span(self, trace: Trace, name: str) -> Iterator[None]:
        """Measure a part of a request; parts of one name add up."""
        began = self.monotonic()
        try:
            yield
        finally:
            trace.spans[name] = trace.spans.get(name, 0.0) + self.monotonic() - began

    def log_answer(self, trace: Trace, answered: RoutedAnswer, finished: Finished) -> tuple[PredictionBody, LogRecord]:
        """Log a finished answer; returns it and its record."""
        scores = zip(answered.scores.labels, answered.scores.probabilities, strict=True)
        prediction_id = trace.prediction_id or self.new_id()
        record = self.record(
            trace,
            status=200,
            prediction_id=prediction_id,
            model_version=answered.entry.model_version,
            deployment_id=answered.entry.deployment_id,
            label=finished.model_label,
            confidence=finished.model_confidence,
            answer_label=finished.label,
            needs_review=finished.needs_review,
            scores=json.dumps({label: round(value, DIGITS) for label, value in scores}, separators=(",", ":")),
        )
        self._metrics.record_outcome(self._spool.append(record))
        return finished.answer(prediction_id, answered.entry.model_version), record

    def log_error(self, trace: Trace, error: ApiError) -> None:
        """Log an item that got no answer; a promised prediction id is kept."""
        trace.is_logged = True
        record = self.record(trace, status=error.status, prediction_id=trace.prediction_id, error_code=error.code)
        self._metrics.record_outcome(self._spool.append(record))

    def record(self, trace: Trace, **facts: Any) -> LogRecord:
        """Return the log record of a request as it is now; nothing is written."""
        payload = None if trace.is_raw else trace.payload
        hashed = payload if payload is not None else trace.hashed
        return LogRecord(
            kind="prediction",
            request_id=trace.request_id,
            project=trace.project,
            at_ms=self._wall_ms(),
            client=trace.client,
            latency_ms=round((self.monotonic() - trace.started) * 1000, 3),
            user_key=trace.user_key,
            business_key=trace.business_key,
            media_type=trace.media_type,
            payload=payload,
            payload_sha256=None if hashed is None else sha256_hex(hashed),
            generation=trace.generation,
            assigned=trace.assigned,
            **facts,
        )
