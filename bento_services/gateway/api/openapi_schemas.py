"""The shapes of the API's bodies, as JSON Schema: what `openapi.py` refers to."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

PROJECT_PATTERN = "^[a-z][a-z0-9_]{1,38}[a-z0-9]$"
TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0}
SHARE: Schema = {"type": "number", "minimum": 0, "maximum": 1}
OPTIONAL_TEXT: Schema = {"type": ["string", "null"]}
NAME: Schema = {"type": "string", "minLength": 1, "maxLength": 200}


def ref(name: str) -> Schema:
    """Return a reference to a schema of this page."""
    return {"$ref": f"#/components/schemas/{name}"}


def nullable(schema: Schema) -> Schema:
    """Return the schema, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


def _object(description: str, properties: dict[str, Schema], *, optional: tuple[str, ...] = ()) -> Schema:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "description": description, "properties": properties, "required": required}


def _said(schema: Schema, description: str) -> Schema:
    return schema | {"description": description}


SCHEMAS: dict[str, Schema] = {
    "Candidate": _object("A class and its probability.", {"label": TEXT, "confidence": SHARE}),
    "Prediction": _object(
        "One answer.",
        {
            "prediction_id": _said(TEXT, "Name it in feedback, and to ask for it later."),
            "model_version": _said(TEXT, "The one version that answered."),
            "label": _said(OPTIONAL_TEXT, "The class; null where the gateway abstains."),
            "confidence": _said(SHARE, "The probability of `label`, or of the best class where there is none."),
            "business_label": _said(OPTIONAL_TEXT, "What the business calls the class; the class itself by default."),
            "abstained": _said(FLAG, "No class reached its threshold."),
            "top": {"type": "array", "items": ref("Candidate"), "description": "The most probable classes."},
            "needs_review": _said(FLAG, "A person may look at it: ask again by `GET /v1/predictions/{prediction_id}`."),
            "answered_by": _said(TEXT, "Composed projects only: the node whose answer this is."),
            "nodes": {
                "type": "array",
                "items": ref("NodeAnswer"),
                "description": "Composed projects only: every node that was asked, in order.",
            },
        },
        optional=("answered_by", "nodes"),
    ),
    "NodeAnswer": _object(
        "What one node of a composed project said, before thresholds.",
        {"node": TEXT, "project": TEXT, "model_version": TEXT, "label": TEXT, "confidence": SHARE},
    ),
    "GraphNode": _object(
        "A step of a composed project.",
        {
            "name": TEXT,
            "project": _said(TEXT, "Whose champion is asked, by that project's own route."),
            "source": _said(TEXT, "`request`, or the node whose probabilities it is given."),
            "labels": {"type": "array", "items": TEXT, "description": "The classes of that tensor, in order."},
            "when": _said(OPTIONAL_TEXT, "It runs only if this node has run and said what follows."),
            "label_in": {"type": "array", "items": TEXT},
            "confidence_below": nullable(SHARE),
        },
    ),
    "Graph": _object(
        "A composed task.",
        {
            "nodes": {"type": "array", "items": ref("GraphNode")},
            "output": {"type": "array", "items": TEXT, "description": "The first of these that has run answers."},
        },
    ),
    "ErrorDetail": _object(
        "Why there is no answer.",
        {
            "code": _said(TEXT, "Stable: to be compared by programs."),
            "message": _said(TEXT, "What was expected and what to do: for people."),
            "field": _said(OPTIONAL_TEXT, "The header, field or part that it is about."),
            "request_id": _said(TEXT, "Name it when you report a problem."),
        },
    ),
    "Error": _object("The one shape of every error.", {"error": ref("ErrorDetail")}),
    "BatchItem": _object(
        "One item: its bytes in exactly one of `base64`, `text` and `row`.",
        {
            "base64": _said(nullable({"type": "string", "contentEncoding": "base64"}), "Any item: its encoded bytes."),
            "text": _said(OPTIONAL_TEXT, "For text projects."),
            "row": _said(nullable({"type": "object"}), "For tabular projects: column -> plain value."),
            "media_type": _said(nullable(NAME), "Of `base64`; `application/octet-stream` by default."),
            "user_key": _said(nullable(NAME), "As the header `X-User-Key`, for this item."),
            "business_key": _said(nullable(NAME), "As the header `X-Business-Key`, for this item."),
        },
        optional=("base64", "text", "row", "media_type", "user_key", "business_key"),
    )
    | {"additionalProperties": False},
    "BatchRequest": _object(
        "Several items.",
        {"items": {"type": "array", "items": ref("BatchItem"), "minItems": 1, "maxItems": 256}},
    )
    | {"additionalProperties": False},
    "BatchResult": _object(
        "What became of one item.",
        {
            "index": _said(COUNT, "Its place in the request, from 0."),
            "status": _said({"type": "integer"}, "What it alone would have got: 200, or the status of its error."),
            "prediction": nullable(ref("Prediction")),
            "error": nullable(ref("ErrorDetail")),
        },
    ),
    "BatchAnswer": _object(
        "A result for each item, in their order.",
        {
            "request_id": TEXT,
            "num_ok": COUNT,
            "num_failed": COUNT,
            "results": {"type": "array", "items": ref("BatchResult")},
        },
    ),
    "Accepted": _object(
        "A prediction that is made later.",
        {
            "prediction_id": TEXT,
            "status": {"enum": ["pending", "done", "failed", "expired"], "description": "pending, unless sent again."},
        },
    ),
    "Review": _object(
        "Whether people were asked about a prediction, and what they said.",
        {
            "state": {
                "enum": ["none", "not_asked", "asked", "answered", "disputed", "catalog_away"],
                "description": "none: nobody needs to look; not_asked: it was not given to people (yet); catalog_away: "
                "it cannot be said now.",
            },
            "label": _said(OPTIONAL_TEXT, "What a person said; null unless answered."),
            "answered_at": _said({"type": ["string", "null"], "format": "date-time"}, "UTC."),
        },
    ),
    "PredictionStatus": _object(
        "What is known of a prediction.",
        {
            "prediction_id": TEXT,
            "project": TEXT,
            "status": {"enum": ["pending", "done", "failed"]},
            "prediction": _said(
                nullable(ref("Prediction")), "Null until it is done, and where only people's answer is known any more."
            ),
            "error": _said(nullable(ref("ErrorDetail")), "Why a failed one failed."),
            "review": nullable(ref("Review")),
        },
    ),
    "Feedback": _object(
        "What really was the case, by `prediction_id` or `business_key`.",
        {
            "label": _said(NAME, "One of the project's classes, letter by letter."),
            "prediction_id": nullable(NAME),
            "business_key": nullable(NAME),
            "project": _said(nullable(NAME), "Where neither path nor key says it."),
        },
        optional=("prediction_id", "business_key", "project"),
    )
    | {"additionalProperties": False},
    "FeedbackAccepted": _object("It is in the log.", {"accepted": FLAG, "request_id": TEXT}),
    "Deployment": _object(
        "A model version that serves.",
        {"deployment_id": TEXT, "model_version": TEXT, "weight": _said(COUNT, "Percent of the traffic.")},
    ),
    "ProjectStatus": _object(
        "What serves now.",
        {
            "project": TEXT,
            "generation": _said(COUNT, "Goes up by one with each promotion, rollback and applied graph."),
            "commit_id": TEXT,
            "champion_version": TEXT,
            "deployments": {"type": "array", "items": ref("Deployment"), "description": "None of a composed project."},
            "graph": nullable(ref("Graph")),
            "modality": TEXT,
            "classes": {"type": "array", "items": TEXT},
            "review_below": SHARE,
            "abstain_below": SHARE,
            "thresholds": {"type": "object", "additionalProperties": SHARE},
            "business_labels": {"type": "object", "additionalProperties": TEXT},
            "max_request_bytes": COUNT,
        },
    ),
    "Account": _object(
        "One deployment's requests under one generation, replays and named versions left out.",
        {
            "deployment_id": TEXT,
            "model_version": TEXT,
            "asked": COUNT,
            "errors": {"type": "object", "additionalProperties": COUNT},
            "latency_counts": _said(
                {"type": "array", "items": COUNT}, "Requests up to each edge and above the one before; then the rest."
            ),
            "compared": _said(COUNT, "Mirrored requests that the champion answered too."),
            "disagreed": _said(COUNT, "Those of them with another class."),
            "paired": _said(COUNT, "Mirrored requests that the champion was asked first, whoever answered."),
            "only_it_failed": _said(COUNT, "Those of them that this one failed and the champion did not."),
            "only_champion_failed": _said(COUNT, "Those of them that the champion failed and this one did not."),
            "slower": _said(
                {"type": "array", "items": COUNT}, "By edge, those that took longer here, and not at the champion's."
            ),
            "faster": _said(
                {"type": "array", "items": COUNT}, "By edge, those that took longer at the champion's, and not here."
            ),
        },
    ),
    "Accounts": _object(
        "The accounts of a project's newest route.",
        {
            "project": TEXT,
            "generation": COUNT,
            "edges_ms": {"type": "array", "items": {"type": "number"}},
            "deployments": {"type": "array", "items": ref("Account")},
        },
    ),
    "InFlight": _object("Unanswered requests of a deployment.", {"deployment": TEXT, "in_flight": COUNT}),
    "Target": _object(
        "What Prometheus scrapes, and the labels that its series get.",
        {
            "targets": {"type": "array", "items": TEXT},
            "labels": {"type": "object", "additionalProperties": TEXT},
        },
    ),
}
