"""Requests to copy: shown on the page, and tried by the tests as they stand there."""

from __future__ import annotations

import dataclasses
import json
import shlex


@dataclasses.dataclass(frozen=True, slots=True)
class RequestExample:
    """One request. `{project}` and `{prediction_id}` in the path, and the file, are the reader's own."""

    operation: str
    title: str
    method: str
    path: str
    status: int
    headers: tuple[tuple[str, str], ...] = ()
    file: str | None = None
    body: str | None = None
    open_to_all: bool = False

    def as_curl(self) -> str:
        """Return the command; `$GATEWAY`, `$KEY`, `$PROJECT` and `$PREDICTION_ID` come from the reader's shell."""
        path = self.path.replace("{project}", "$PROJECT").replace("{prediction_id}", "$PREDICTION_ID")
        parts = ["curl --silent --show-error"]
        if self.method != "GET":
            parts.append(f"--request {self.method}")
        if not self.open_to_all:
            parts.append('--header "Authorization: Bearer $KEY"')
        parts += [f"--header {shlex.quote(f'{name}: {value}')}" for name, value in self.headers]
        if self.file is not None:
            parts.append(f"--data-binary @{self.file}")
        if self.body is not None:
            parts.append(f"--data {shlex.quote(self.body)}")
        return " \\\n  ".join([*parts, f'"$GATEWAY{path}"'])


JSON = ("Content-Type", "application/json")
PNG = ("Content-Type", "image/png")
PREDICT = "/v1/projects/{project}/predict"
# A PNG of 28 x 28 grey pixels: the smallest item that any image project takes.
GREY = "iVBORw0KGgoAAAANSUhEUgAAABwAAAAcCAAAAABXZoBIAAAAFklEQVR42mNsYMANmBhGJUclRyWhAADxiwC4gQrlWAAAAABJRU5ErkJggg=="
EXAMPLES = (
    RequestExample("predict", "One image", "POST", PREDICT, 200, headers=(PNG,), file="item.png"),
    RequestExample(
        "predict",
        "The same user, your own ids",
        "POST",
        PREDICT,
        200,
        headers=(PNG, ("X-User-Key", "alice"), ("X-Business-Key", "order-7"), ("X-Request-Id", "order-7.1")),
        file="item.png",
    ),
    RequestExample(
        "predictBatch",
        "Two items in one request; the second cannot be used",
        "POST",
        f"{PREDICT}:batch",
        200,
        headers=(JSON,),
        body=json.dumps({"items": [{"base64": GREY, "business_key": "order-8"}, {"base64": "bm8gaW1hZ2U="}]}),
    ),
    RequestExample("predictAsync", "Answered later", "POST", f"{PREDICT}:async", 202, headers=(PNG,), file="item.png"),
    RequestExample("getPrediction", "Read it", "GET", "/v1/predictions/{prediction_id}", 200),
    RequestExample(
        "feedback",
        "The order was a boot after all",
        "POST",
        "/v1/projects/{project}/feedback",
        202,
        headers=(JSON,),
        body=json.dumps({"business_key": "order-7", "label": "boot"}),
    ),
    RequestExample(
        "feedbackOfKey",
        "With a key of one project",
        "POST",
        "/feedback",
        202,
        headers=(JSON,),
        body=json.dumps({"business_key": "order-7", "label": "boot"}),
    ),
    RequestExample("describeProject", "What serves now", "GET", "/v1/projects/{project}", 200),
    RequestExample("inFlight", "Is a deployment drained?", "GET", "/internal/inflight?deployment=d1", 200),
    RequestExample("accounts", "How do the deployments of a route do?", "GET", "/internal/accounts/{project}", 200),
    RequestExample("targets", "What is there to scrape?", "GET", "/internal/targets", 200),
    RequestExample("metrics", "Counters", "GET", "/metrics", 200),
    RequestExample("openapi", "This document", "GET", "/openapi.json", 200, open_to_all=True),
    RequestExample("docs", "This page", "GET", "/docs", 200, open_to_all=True),
    RequestExample("healthz", "Alive?", "GET", "/healthz", 200, open_to_all=True),
    RequestExample("livez", "Alive?", "GET", "/livez", 200, open_to_all=True),
    RequestExample("readyz", "Ready?", "GET", "/readyz", 200, open_to_all=True),
)
