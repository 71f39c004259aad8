"""The OpenAPI description of POST /predict, for a loaded model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bento_services.inference.request_decoding import BATCH, NPY, SAFETENSORS

ERROR = {
    "type": "object",
    "required": ["code", "message", "field", "request_id"],
    "properties": {
        "code": {"type": "string", "examples": ["OVERLOADED"]},
        "message": {"type": "string"},
        "field": {"type": ["string", "null"]},
        "request_id": {"type": ["string", "null"]},
    },
}
PROBABILITIES = {
    "type": "array",
    "items": {"type": "number", "minimum": 0, "maximum": 1},
    "description": "In the order of `labels`.",
}
NAMES = {"model_version": {"type": "string"}, "labels": {"type": "array", "items": {"type": "string"}}}
SINGLE = {
    "type": "object",
    "required": ["model_version", "labels", "probabilities"],
    "properties": {**NAMES, "probabilities": PROBABILITIES},
}
BATCH_ANSWER = {
    "type": "object",
    "required": ["model_version", "labels", "items"],
    "properties": {
        **NAMES,
        "items": {
            "type": "array",
            "description": "One for each item of the request, in its order.",
            "items": {
                "oneOf": [
                    {
                        "type": "object",
                        "required": ["probabilities"],
                        "properties": {"probabilities": PROBABILITIES},
                    },
                    {"type": "object", "required": ["error"], "properties": {"error": ERROR}},
                ]
            },
        },
    },
}
STATUSES = {
    "400": "A header is wrong, or the connection was closed within the body.",
    "408": "The body came too slowly.",
    "413": "The body, or the number of items, is too large.",
    "415": "A pickle, or a coded body.",
    "422": "The item, or the form of the batch or tensor, cannot be used.",
    "503": "Overloaded, not ready, or the model failed on this item.",
    "504": "The prediction could not start within x-request-timeout-ms.",
}


def document(media_types: Sequence[str], *, max_items: int) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document; `media_types` are those of one encoded item."""
    binary = {"schema": {"type": "string", "format": "binary"}}
    batch = {
        "schema": {
            "type": "string",
            "format": "binary",
            "description": f"Up to {max_items} items, each as 4 bytes of length (highest first) and its bytes.",
        }
    }
    content = {
        **dict.fromkeys(media_types or ("application/octet-stream",), binary),
        BATCH: batch,
        NPY: binary,
        SAFETENSORS: binary,
    }
    error = {"type": "object", "required": ["error"], "properties": {"error": ERROR}}
    failures = {
        status: {"description": text, "content": {"application/json": {"schema": error}}}
        for status, text in STATUSES.items()
    }
    answer = {"application/json": {"schema": {"oneOf": [SINGLE, BATCH_ANSWER]}}, SAFETENSORS: binary}
    operation = {
        "summary": "Predict one item or a batch",
        "operationId": "predict",
        "parameters": [
            _header("x-request-timeout-ms", "The caller's remaining time in milliseconds.", {"type": "integer"}),
            _header(
                "accept",
                "The media type of safetensors: one item's answer as the float32 tensor `probabilities` (classes,), "
                "with model_version and labels in its metadata; another model takes these bytes as they are.",
                {"type": "string"},
            ),
            _header("x-request-id", "Returned as it is, in the header and in errors.", {"type": "string"}),
        ],
        "requestBody": {"required": True, "content": content},
        "responses": {"200": {"description": "Probabilities.", "content": answer}, **failures},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "Dethrone inference", "version": "1"},
        "paths": {"/predict": {"post": operation}},
    }


def _header(name: str, text: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "description": text, "schema": schema}
