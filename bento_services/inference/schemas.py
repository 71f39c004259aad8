"""What goes out over HTTP: one JSON answer per item, put together from parts that are made once per model."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence
from typing import Any

CONTENT_JSON = (b"content-type", b"application/json")


@dataclasses.dataclass(frozen=True, slots=True)
class Refusal:
    """Why one item, or a whole request, has no prediction; the HTTP status says whose fault it is."""

    status: int
    code: str
    message: str
    field: str | None = None

    def error(self, *, request_id: str | None = None) -> dict[str, Any]:
        return {"code": self.code, "message": self.message, "field": self.field, "request_id": request_id}


Row = Sequence[float] | Refusal

MODEL_FAILED = Refusal(
    503, "MODEL_FAILED", "the model must answer with finite numbers (got an error). Try again later."
)
OVERLOADED = Refusal(503, "OVERLOADED", "the model must have a free slot (got none). Try another replica, or later.")
TOO_LATE = Refusal(
    504, "DEADLINE_EXCEEDED", "the prediction must start in the caller's time (got no free model). Try another replica."
)
NOT_READY = Refusal(503, "NOT_READY", "the model must be loaded first (got a request before). Try again.")


class Answers:
    """Writes the answers of one model version. A row's numbers are finite: `predict_rows` saw to it."""

    def __init__(self, *, version: str, labels: Sequence[str]) -> None:
        # Everything but the numbers is the same in each answer; `str` of a list of finite floats is JSON.
        named = json.dumps({"model_version": version, "labels": list(labels)}, separators=(",", ":"))
        self._single = f'{named[:-1]},"probabilities":'
        self._batch = f'{named[:-1]},"items":['

    def single(self, row: Sequence[float]) -> bytes:
        """Return the answer to one item."""
        return f"{self._single}{row}}}".encode()

    def batch(self, rows: Sequence[Row], *, request_id: str | None) -> bytes:
        """Return the answer to a batch: for each item, in order, its probabilities or its error."""
        parts = [
            json.dumps({"error": row.error(request_id=request_id)}, separators=(",", ":"))
            if isinstance(row, Refusal)
            else f'{{"probabilities":{row}}}'
            for row in rows
        ]
        return f"{self._batch}{','.join(parts)}]}}".encode()


def error_body(refusal: Refusal, *, request_id: str | None) -> bytes:
    """Return the answer to a request that has no prediction at all."""
    return _nameless(refusal) if request_id is None else _body(refusal, request_id)


def _body(refusal: Refusal, request_id: str | None) -> bytes:
    return json.dumps({"error": refusal.error(request_id=request_id)}, separators=(",", ":")).encode()


@functools.lru_cache(maxsize=64)
def _nameless(refusal: Refusal) -> bytes:
    """Return what a flood is answered with, again and again."""
    return _body(refusal, None)
