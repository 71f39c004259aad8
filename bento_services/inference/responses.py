"""Answers over HTTP: one JSON answer per item, put together from parts that are made once per model."""

from __future__ import annotations

import dataclasses
import functools
import json
import struct
from collections.abc import Sequence
from typing import Any

CONTENT_JSON = (b"content-type", b"application/json")
CONTENT_TENSOR = (b"content-type", b"application/vnd.safetensors")


@dataclasses.dataclass(frozen=True, slots=True)
class PredictionError:
    """The reason that one item, or a whole request, has no prediction; the HTTP status says whose fault it is."""

    status: int
    code: str
    message: str
    field: str | None = None

    def error(self, *, request_id: str | None = None) -> dict[str, Any]:
        return {"code": self.code, "message": self.message, "field": self.field, "request_id": request_id}


Row = Sequence[float] | PredictionError

MODEL_FAILED = PredictionError(
    503, "MODEL_FAILED", "the model must answer with finite numbers (got an error). Try again later."
)
OVERLOADED = PredictionError(
    503, "OVERLOADED", "the model must have a free slot (got none). Try another replica, or later."
)
TOO_LATE = PredictionError(
    504, "DEADLINE_EXCEEDED", "the prediction must start in the caller's time (got no free model). Try another replica."
)
NOT_READY = PredictionError(503, "NOT_READY", "the model must be loaded first (got a request before). Try again.")


class Answers:
    """Writes the answers of one model version. A row's numbers are finite: `predict_rows` saw to it."""

    def __init__(self, *, version: str, labels: Sequence[str]) -> None:
        # Everything but the numbers is the same in each answer; `str` of a list of finite floats is JSON.
        named = json.dumps({"model_version": version, "labels": list(labels)}, separators=(",", ":"))
        self._single = f'{named[:-1]},"probabilities":'
        self._batch = f'{named[:-1]},"items":['
        self._numbers = struct.Struct(f"<{len(labels)}f")
        self._tensor = _tensor_head(version, labels, size_bytes=self._numbers.size)

    def single(self, row: Sequence[float]) -> bytes:
        """Return the answer to one item."""
        return f"{self._single}{row}}}".encode()

    def tensor(self, row: Sequence[float]) -> bytes:
        """Return the answer to one item as a safetensors file: the tensor `probabilities`, float32 (classes,).

        Another model that takes such a tensor takes these bytes; whose they are stands in their metadata.
        """
        return self._tensor + self._numbers.pack(*row)

    def batch(self, rows: Sequence[Row], *, request_id: str | None) -> bytes:
        """Return the answer to a batch: for each item, in order, its probabilities or its error."""
        parts = [
            json.dumps({"error": row.error(request_id=request_id)}, separators=(",", ":"))
            if isinstance(row, PredictionError)
            else f'{{"probabilities":{row}}}'
            for row in rows
        ]
        return f"{self._batch}{','.join(parts)}]}}".encode()


def _tensor_head(version: str, labels: Sequence[str], *, size_bytes: int) -> bytes:
    """Return what stands before the numbers; the header is padded so that they begin at a multiple of 8."""
    header = {
        "__metadata__": {"model_version": version, "labels": json.dumps(list(labels))},
        "probabilities": {"dtype": "F32", "shape": [len(labels)], "data_offsets": [0, size_bytes]},
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def error_body(refusal: PredictionError, *, request_id: str | None) -> bytes:
    """Return the answer to a request that has no prediction at all."""
    return _nameless(refusal) if request_id is None else _body(refusal, request_id)


def _body(refusal: PredictionError, request_id: str | None) -> bytes:
    return json.dumps({"error": refusal.error(request_id=request_id)}, separators=(",", ":")).encode()


@functools.lru_cache(maxsize=64)
def _nameless(refusal: PredictionError) -> bytes:
    """Return what a flood is answered with, again and again."""
    return _body(refusal, None)
