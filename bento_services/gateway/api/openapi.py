"""The OpenAPI document: every endpoint, header, status and body of the gateway (Source: OpenAPI 3.1.0).

`python -m bento_services.gateway.api.openapi` makes `openapi.json` of the operations here and of the types in
`schemas.py`, and `docs.html` of that; the gateway serves these files.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from bento_services.gateway.api import schemas
from bento_services.gateway.api.docs_page import render

API_VERSION = "1.0.0"
FOLDER = Path(__file__).parent
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
RETRIED = dict.fromkeys((429, 503), ("Retry-After",))
ALWAYS, WITH_KEY, WITH_BODY = (400, 500), (401, 403, 503), (408, 413, 422, 429)  # operations add their own
FILES = ("application/octet-stream", "image/png", "image/jpeg", "image/webp", "text/plain")
FILE = {"schema": {"type": "string", "format": "binary"}}
ITEM = {
    "required": True,
    "description": "One encoded item: an image file, a UTF-8 text, or a JSON row.",
    "content": {**dict.fromkeys(FILES, FILE), "application/json": {"schema": {"type": "object"}}},
}
TEXT = {"type": "string"}
TOKEN = {"type": "string", "pattern": r"^[\x20-\x7e]{1,200}$"}
ID = {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,128}$"}
PROJECT = {"type": "string", "pattern": "^[a-z][a-z0-9_]{1,38}[a-z0-9]$"}
# Component -> name, place, schema, description.
PARAMETERS = {
    "Project": ("project", "path", PROJECT, "The project's name."),
    "PredictionId": ("prediction_id", "path", ID, "From the answer or from `Location`."),
    "RequestId": (
        *("X-Request-Id", "header", ID),
        "Your own id: the same id and item again get the same answer, logged once.",
    ),
    "UserKey": ("X-User-Key", "header", TOKEN, "The same user stays on the same deployment."),
    "BusinessKey": ("X-Business-Key", "header", TOKEN, "Your own id of the case, for feedback later."),
    "ModelVersion": ("X-Model-Version", "header", TOKEN, "Exactly this version, or an error."),
    "CallbackUrl": (
        *("X-Callback-Url", "header", TOKEN),
        "Is told when there is something to read; only where the operator allows it.",
    ),
    "Deployment": ("deployment", "query", TEXT, "A deployment's id."),
}
HEADERS = {
    "X-Request-Id": (TEXT, "Yours, or a new one."),
    "Server-Timing": (TEXT, "Where the time went, in milliseconds."),
    "Retry-After": ({"type": "integer", "minimum": 0}, "Seconds after which it is worth trying again."),
    "Location": (TEXT, "Where the answer will be."),
}


@dataclasses.dataclass(frozen=True)
class Operation:
    """One endpoint: POST where it takes a body, else GET. `scope` is the key's: "" any, None that it needs no key.

    Of parameters and errors it names those that do not follow from its path, its body and its key.
    """

    path: str
    name: str
    summary: str
    answer: Any  # the type of a good answer's body
    means: str
    _: dataclasses.KW_ONLY
    scope: str | None = None
    body: Any = None  # a type, or a request body as the document has it
    parameters: tuple[str, ...] = ()
    errors: tuple[int, ...] = ()
    status: int = 200
    headers: tuple[str, ...] = ()
    media_type: str = "application/json"


TAGS = {"predict": "predictions", "feedback": "feedback", "": "projects"}  # by scope; the others are of operation
CALLER = ("UserKey", "BusinessKey", "ModelVersion")
FEEDBACK = Operation(
    "/v1/projects/{project}/feedback",
    "feedback",
    "Tell what really was the case",
    schemas.FeedbackAcceptedBody,
    "It is in the log; whether there is such a prediction is seen when the log is read.",
    scope="feedback",
    body=schemas.FeedbackBody,
    errors=(404,),
    status=202,
)
OPERATIONS = (
    Operation(
        "/v1/projects/{project}/predict",
        "predict",
        "Ask about one item",
        schemas.PredictionBody,
        "The answer.",
        scope="predict",
        body=ITEM,
        parameters=CALLER,
        errors=(409, 415),
    ),
    Operation(
        "/v1/projects/{project}/predict:batch",
        "predictBatch",
        "Ask about several items; each has its own answer or error",
        schemas.BatchAnswerBody,
        "The batch could be read; see the status of each result.",
        scope="predict",
        body=schemas.BatchRequestBody,
        parameters=CALLER,
        errors=(415,),
    ),
    Operation(
        "/v1/projects/{project}/predict:async",
        "predictAsync",
        "Ask now, read the answer later",
        schemas.AcceptedBody,
        "It will be made, also after a restart.",
        scope="predict",
        body=ITEM,
        parameters=(*CALLER, "CallbackUrl"),
        errors=(409, 415),
        status=202,
        headers=("Location",),
    ),
    Operation(
        "/v1/predictions/{prediction_id}",
        "getPrediction",
        "Read an asynchronous prediction, or what people said about one that needed review",
        schemas.PredictionStatusBody,
        "What is known.",
        scope="predict",
        errors=(410,),
    ),
    FEEDBACK,
    Operation(
        "/v1/projects/{project}",
        "describeProject",
        "What serves now",
        schemas.ProjectStatusBody,
        "The head of the project's route.",
        scope="",
    ),
    dataclasses.replace(
        FEEDBACK,
        path="/feedback",
        name="feedbackOfKey",
        summary="Feedback for the project of the key, or the one that the body names",
    ),
    Operation(
        "/internal/inflight",
        "inFlight",
        "What a deployment still works on: a drain is over at 0",
        schemas.InFlightBody,
        "Now.",
        scope="admin",
        parameters=("Deployment",),
    ),
    Operation(
        "/internal/accounts/{project}",
        "accounts",
        "What each deployment did with the requests that the newest route gave it",
        schemas.AccountsBody,
        "Since the gateway follows this generation.",
        scope="admin",
    ),
    Operation(
        "/internal/targets",
        "targets",
        "Every inference service of the routes, for Prometheus' http_sd_configs",
        list[schemas.TargetBody],
        "Those of the projects of the key.",
        scope="admin",
    ),
    Operation(
        *("/metrics", "metrics", "Prometheus text", str, "Counters, gauges and one histogram."),
        scope="admin",
        media_type="text/plain",
    ),
    Operation("/openapi.json", "openapi", "This document", dict, "OpenAPI 3.1."),
    Operation(
        *("/docs", "docs", "This document as a page, with examples to copy", str, "One file; it loads nothing else."),
        media_type="text/html",
    ),
)
ALIVE = "Is the process alive?"
HEALTH = {"healthz": ALIVE, "livez": ALIVE, "readyz": "Are there routes to follow?"}  # only the last may say no


class _Schemas(GenerateJsonSchema):
    """JSON Schema by the names of the API, and without titles of fields, which pydantic makes of their names."""

    def normalize_name(self, name: str) -> str:
        return super().normalize_name(name).removesuffix("Body")

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002  (pydantic's signature)
        return False


def build() -> dict[str, Any]:
    """Return the document."""
    types = [schemas.ErrorBody, *(kind for each in OPERATIONS for kind in (each.answer, each.body) if callable(kind))]
    made, definitions = TypeAdapter.json_schemas(
        [(kind, "serialization", TypeAdapter(kind)) for kind in types],
        ref_template="#/components/schemas/{model}",
        schema_generator=_Schemas,
    )
    of_type = {kind: schema for (kind, _), schema in made.items()}
    paths = {each.path: {"post" if each.body else "get": _operation(each, of_type)} for each in OPERATIONS}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Dethrone gateway",
            "version": API_VERSION,
            "description": "Predictions by the champions of the projects. Fields may be added to answers; these stay. "
            "Every error has the same shape, with a code for programs. A path or method that is not here is a 404 or "
            "405.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name} for name in ("predictions", "feedback", "projects", "operation", "health")],
        "paths": paths | {f"/{name}": {"get": _health(name, question)} for name, question in HEALTH.items()},
        "components": {
            "securitySchemes": {
                "apiKey": {"type": "http", "scheme": "bearer", "description": "An API key: `dethrone keys issue`."}
            },
            "parameters": {
                key: dict(zip(("name", "in", "schema", "description"), row, strict=True))
                | ({"required": True} if row[1] == "path" else {})
                for key, row in PARAMETERS.items()
            },
            "headers": {
                _component(name): {"schema": schema, "description": text} for name, (schema, text) in HEADERS.items()
            },
            "responses": {
                f"Error{status}": _response(text, of_type[schemas.ErrorBody], RETRIED.get(status, ()))
                for status, text in ERRORS.items()
            },
            "schemas": {
                name: {key: value for key, value in schema.items() if key != "title"}
                for name, schema in definitions["$defs"].items()
            },
        },
    }


def _operation(operation: Operation, of_type: dict[Any, Any]) -> dict[str, Any]:
    scope, body = operation.scope, operation.body
    in_path = [key for key, (name, *_) in PARAMETERS.items() if f"{{{name}}}" in operation.path]
    errors = {*ALWAYS, *operation.errors, *WITH_KEY * (scope is not None), *WITH_BODY * (body is not None)}
    errors |= {404} if in_path else set()
    described = {
        "operationId": operation.name,
        "summary": operation.summary,
        "tags": [TAGS.get("admin" if scope is None else scope, "operation")],
        "security": [] if scope is None else [{"apiKey": []}],
        "parameters": [_reference("parameters", key) for key in (*in_path, "RequestId", *operation.parameters)],
        "responses": {
            str(operation.status): _response(
                operation.means, of_type[operation.answer], operation.headers, operation.media_type
            )
        }
        | {str(status): _reference("responses", f"Error{status}") for status in sorted(errors)},
    }
    if scope is not None:
        described["description"] = f"Needs a key with the scope `{scope}`." if scope else "Needs a key of any scope."
    if body is not None:
        described["requestBody"] = body if body is ITEM else {"required": True, "content": _json(of_type[body])}
    return described


def _json(schema: Any) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _response(
    text: str, schema: Any, headers: tuple[str, ...] = (), media_type: str = "application/json"
) -> dict[str, Any]:
    names = ("X-Request-Id", "Server-Timing", *headers)
    return {
        "description": text,
        "headers": {name: _reference("headers", _component(name)) for name in names},
        "content": {media_type: {"schema": schema}},
    }


def _component(header: str) -> str:
    return header.removeprefix("X-").replace("-", "")


def _reference(kind: str, name: str) -> dict[str, str]:
    return {"$ref": f"#/components/{kind}/{name}"}


def _health(name: str, question: str) -> dict[str, Any]:
    responses = {"200": {"description": "Yes."}} | ({"503": {"description": "Not now."}} if name == "readyz" else {})
    return {"operationId": name, "summary": question, "tags": ["health"], "security": [], "responses": responses}


def main() -> None:
    """Write the document and its page."""
    document = build()
    FOLDER.joinpath("openapi.json").write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n")
    FOLDER.joinpath("docs.html").write_text(render(document) + "\n")


if __name__ == "__main__":
    main()
