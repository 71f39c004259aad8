"""The OpenAPI document: every endpoint, header, status and body of the gateway (Source: OpenAPI 3.1.0)."""

from __future__ import annotations

import json
from typing import Any

from bento_services.gateway.api.openapi_schemas import COUNT, PROJECT_PATTERN, SCHEMAS, ref

API_VERSION = "1.0.0"
PREDICT_ERRORS = (400, 401, 403, 404, 408, 409, 413, 415, 422, 429, 500, 503)
BATCH_ERRORS = (400, 401, 403, 404, 408, 413, 415, 422, 429, 500, 503)
FEEDBACK_ERRORS = (400, 401, 403, 404, 408, 413, 422, 429, 500, 503)
ERRORS = {
    400: "A header, the body's end or its JSON is not as it must be.",
    401: "No valid API key.",
    403: "The key lacks the scope, or is for another project.",
    404: "No such project, version or prediction for this key.",
    405: "The path knows other methods; see `Allow`.",
    408: "The body came too slowly.",
    409: "The request id was used for another request.",
    410: "The prediction was kept for its time and is forgotten.",
    413: "Too many bytes, or too many items.",
    415: "A media type or encoding that the project does not take.",
    422: "The item cannot be used, or a field is wrong.",
    429: "More requests than the key's rate; see `Retry-After`.",
    500: "A defect of the gateway. The body says nothing of its inside.",
    503: "Nothing can answer just now; see `Retry-After`.",
}
ITEM_TYPES = (
    "application/octet-stream",
    "image/png",
    "image/jpeg",
    "image/webp",
    "text/plain",
    "application/json",
)
TOKEN = {"type": "string", "pattern": r"^[\x20-\x7e]{1,200}$"}
ID = {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,128}$"}


def _parameter(name: str, where: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    required = {"required": True} if where == "path" else {}
    return {"name": name, "in": where, "schema": schema, "description": description, **required}


PARAMETERS = {
    "Project": _parameter("project", "path", {"type": "string", "pattern": PROJECT_PATTERN}, "The project's name."),
    "PredictionId": _parameter("prediction_id", "path", ID, "From the answer or from `Location`."),
    "RequestId": _parameter(
        "X-Request-Id", "header", ID, "Your own id: the same id and item again get the same answer, logged once."
    ),
    "UserKey": _parameter("X-User-Key", "header", TOKEN, "The same user stays on the same deployment."),
    "BusinessKey": _parameter("X-Business-Key", "header", TOKEN, "Your own id of the case, for feedback later."),
    "ModelVersion": _parameter("X-Model-Version", "header", TOKEN, "Exactly this version, or an error."),
    "CallbackUrl": _parameter(
        "X-Callback-Url", "header", TOKEN, "Is told when there is something to read; only where the operator allows it."
    ),
    "Deployment": _parameter("deployment", "query", {"type": "string"}, "A deployment's id."),
}
HEADERS = {
    "RequestId": {"schema": {"type": "string"}, "description": "Yours, or a new one."},
    "ServerTiming": {"schema": {"type": "string"}, "description": "Where the time went, in milliseconds."},
    "RetryAfter": {"schema": COUNT, "description": "Seconds after which it is worth trying again."},
    "Location": {"schema": {"type": "string"}, "description": "Where the answer will be."},
}


def _headers(*more: str) -> dict[str, Any]:
    names = {"X-Request-Id": "RequestId", "Server-Timing": "ServerTiming"} | {
        name: name.replace("-", "") for name in more
    }
    return {name: {"$ref": f"#/components/headers/{key}"} for name, key in names.items()}


def _parameters(*names: str) -> list[dict[str, Any]]:
    return [{"$ref": f"#/components/parameters/{name}"} for name in names]


def _json(name: str, description: str, *headers: str) -> dict[str, Any]:
    return {
        "description": description,
        "headers": _headers(*headers),
        "content": {"application/json": {"schema": ref(name)}},
    }


def _list_of(name: str, description: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"type": "array", "items": ref(name)}}}
    return {"description": description, "headers": _headers(), "content": content}


def _text(media_type: str, description: str) -> dict[str, Any]:
    return {
        "description": description,
        "headers": _headers(),
        "content": {media_type: {"schema": {"type": "string"}}},
    }


def _errors(statuses: tuple[int, ...]) -> dict[str, Any]:
    return {str(status): {"$ref": f"#/components/responses/Error{status}"} for status in statuses}


def _error_response(status: int) -> dict[str, Any]:
    return _json("Error", ERRORS[status], *(("Retry-After",) if status in {429, 503} else ()))


def _operation(
    name: str,
    summary: str,
    *,
    good: dict[str, Any],
    errors: tuple[int, ...],
    parameters: tuple[str, ...] = (),
    body: dict[str, Any] | None = None,
    scope: str | None = None,
    tag: str = "predictions",
) -> dict[str, Any]:
    operation: dict[str, Any] = {"operationId": name, "summary": summary, "tags": [tag]}
    if scope is not None:
        operation["description"] = f"Needs a key with the scope `{scope}`." if scope else "Needs a key of any scope."
    operation["security"] = [] if scope is None else [{"apiKey": []}]
    if parameters:
        operation["parameters"] = _parameters(*parameters)
    if body is not None:
        operation["requestBody"] = body
    return operation | {"responses": good | _errors(errors)}


ITEM_BODY = {
    "required": True,
    "description": "One encoded item: an image file, a UTF-8 text, or a JSON row.",
    "content": {name: {"schema": {"type": "string", "format": "binary"}} for name in ITEM_TYPES[:-1]}
    | {"application/json": {"schema": {"type": "object"}}},
}


def _body(name: str) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": ref(name)}}}


CALLER = ("RequestId", "UserKey", "BusinessKey", "ModelVersion")
FEEDBACK = _operation(
    "feedback",
    "Tell what really was the case",
    good={
        "202": _json(
            "FeedbackAccepted", "It is in the log; whether there is such a prediction is seen when the log is read."
        )
    },
    errors=FEEDBACK_ERRORS,
    parameters=("Project", "RequestId"),
    body=_body("Feedback"),
    scope="feedback",
    tag="feedback",
)


def _health(name: str, summary: str, *, may_fail: bool) -> dict[str, Any]:
    responses = {"200": {"description": "Yes."}} | ({"503": {"description": "Not now."}} if may_fail else {})
    return {"operationId": name, "summary": summary, "tags": ["health"], "security": [], "responses": responses}


PATHS: dict[str, dict[str, Any]] = {
    "/v1/projects/{project}/predict": {
        "post": _operation(
            "predict",
            "Ask about one item",
            good={"200": _json("Prediction", "The answer.")},
            errors=PREDICT_ERRORS,
            parameters=("Project", *CALLER),
            body=ITEM_BODY,
            scope="predict",
        )
    },
    "/v1/projects/{project}/predict:batch": {
        "post": _operation(
            "predictBatch",
            "Ask about several items; each has its own answer or error",
            good={"200": _json("BatchAnswer", "The batch could be read; see the status of each result.")},
            errors=BATCH_ERRORS,
            parameters=("Project", *CALLER),
            body=_body("BatchRequest"),
            scope="predict",
        )
    },
    "/v1/projects/{project}/predict:async": {
        "post": _operation(
            "predictAsync",
            "Ask now, read the answer later",
            good={"202": _json("Accepted", "It will be made, also after a restart.", "Location")},
            errors=PREDICT_ERRORS,
            parameters=("Project", *CALLER, "CallbackUrl"),
            body=ITEM_BODY,
            scope="predict",
        )
    },
    "/v1/predictions/{prediction_id}": {
        "get": _operation(
            "getPrediction",
            "Read an asynchronous prediction, or what people said about one that needed review",
            good={"200": _json("PredictionStatus", "What is known.")},
            errors=(400, 401, 403, 404, 410, 500, 503),
            parameters=("PredictionId", "RequestId"),
            scope="predict",
        )
    },
    "/v1/projects/{project}/feedback": {"post": FEEDBACK},
    "/v1/projects/{project}": {
        "get": _operation(
            "describeProject",
            "What serves now",
            good={"200": _json("ProjectStatus", "The head of the project's route.")},
            errors=(400, 401, 403, 404, 500, 503),
            parameters=("Project", "RequestId"),
            scope="",
            tag="projects",
        )
    },
    "/feedback": {
        "post": FEEDBACK
        | {
            "operationId": "feedbackOfKey",
            "summary": "Feedback for the project of the key, or the one that the body names",
            "parameters": _parameters("RequestId"),
        }
    },
    "/internal/inflight": {
        "get": _operation(
            "inFlight",
            "What a deployment still works on: a drain is over at 0",
            good={"200": _json("InFlight", "Now.")},
            errors=(400, 401, 403, 500, 503),
            parameters=("Deployment", "RequestId"),
            scope="admin",
            tag="operation",
        )
    },
    "/internal/accounts/{project}": {
        "get": _operation(
            "accounts",
            "What each deployment did with the requests that the newest route gave it",
            good={"200": _json("Accounts", "Since the gateway follows this generation.")},
            errors=(400, 401, 403, 404, 500, 503),
            parameters=("Project", "RequestId"),
            scope="admin",
            tag="operation",
        )
    },
    "/internal/targets": {
        "get": _operation(
            "targets",
            "Every inference service of the routes, for Prometheus' http_sd_configs",
            good={"200": _list_of("Target", "Those of the projects of the key.")},
            errors=(400, 401, 403, 500, 503),
            parameters=("RequestId",),
            scope="admin",
            tag="operation",
        )
    },
    "/metrics": {
        "get": _operation(
            "metrics",
            "Prometheus text",
            good={"200": _text("text/plain", "Counters, gauges and one histogram.")},
            errors=(400, 401, 403, 500, 503),
            parameters=("RequestId",),
            scope="admin",
            tag="operation",
        )
    },
    "/openapi.json": {
        "get": _operation(
            "openapi",
            "This document",
            good={
                "200": {
                    "description": "OpenAPI 3.1.",
                    "headers": _headers(),
                    "content": {"application/json": {"schema": {"type": "object"}}},
                }
            },
            errors=(400, 500),
            parameters=("RequestId",),
            tag="operation",
        )
    },
    "/docs": {
        "get": _operation(
            "docs",
            "This document as a page, with examples to copy",
            good={"200": _text("text/html", "One file; it loads nothing else.")},
            errors=(400, 500),
            parameters=("RequestId",),
            tag="operation",
        )
    },
    "/healthz": {"get": _health("healthz", "Is the process alive?", may_fail=False)},
    "/livez": {"get": _health("livez", "Is the process alive?", may_fail=False)},
    "/readyz": {"get": _health("readyz", "Are there routes to follow?", may_fail=True)},
}

DOCUMENT: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {
        "title": "Dethrone gateway",
        "version": API_VERSION,
        "description": "Predictions by the champions of the projects. Fields may be added to answers; these stay. "
        "Every error has the same shape, with a code for programs. A path or method that is not here is a 404 or 405.",
        "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
    },
    "servers": [{"url": "/"}],
    "tags": [{"name": name} for name in ("predictions", "feedback", "projects", "operation", "health")],
    "paths": PATHS,
    "components": {
        "securitySchemes": {
            "apiKey": {"type": "http", "scheme": "bearer", "description": "An API key: `dethrone keys issue`."}
        },
        "parameters": PARAMETERS,
        "headers": HEADERS,
        "responses": {f"Error{status}": _error_response(status) for status in ERRORS},
        "schemas": SCHEMAS,
    },
}

TEXT = json.dumps(DOCUMENT, ensure_ascii=False, indent=1)
