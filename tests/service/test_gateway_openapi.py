"""The OpenAPI document says what the gateway does, and the page's examples work as they stand."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html import unescape

import pytest
from starlette.routing import Route

from bento_services.gateway.api import app, openapi
from bento_services.gateway.api.docs_page import render, resolve
from bento_services.gateway.api.examples import EXAMPLES
from tests.service.conftest import png, token_of
from tests.service.test_gateway_batch import item, send
from tests.service.test_gateway_later import look, submit

DOCUMENT = json.loads(app.DOCUMENT)
HEALTH_PATHS = {"/healthz", "/livez", "/readyz"}
OPERATIONS = [
    (path, method, operation) for path, methods in DOCUMENT["paths"].items() for method, operation in methods.items()
]


def references(value):
    if isinstance(value, dict):
        yield from [value["$ref"]] if "$ref" in value else []
        for child in value.values():
            yield from references(child)
    elif isinstance(value, list):
        for child in value:
            yield from references(child)


def test_the_files_are_what_the_operations_and_types_make():
    again = "make them again: python -m bento_services.gateway.api.openapi"
    assert openapi.build() == DOCUMENT, again
    assert render(DOCUMENT) == app.PAGE.removesuffix("\n"), again


def test_the_gateway_starts_without_what_makes_them():
    """Its image has neither."""
    shown = "import bento_services.gateway.service, sys; print({'pydantic', 'jinja2'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", shown], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_the_document_and_the_routes_agree(bench):
    routed = {
        (route.path, method.lower())
        for route in bench.client.app.routes
        if isinstance(route, Route) and route.path != "/{path:path}"
        for method in route.methods - {"HEAD"}
    }
    documented = {(path, method) for path, method, _ in OPERATIONS}
    assert documented == routed


def test_every_reference_leads_somewhere_and_every_component_is_used():
    used = set(references(DOCUMENT))
    for reference in used:
        assert resolve({"$ref": reference}, DOCUMENT)
    defined = {
        f"#/components/{kind}/{name}"
        for kind in ("schemas", "responses", "parameters", "headers")
        for name in DOCUMENT["components"][kind]
    }
    assert defined - used == {"#/components/responses/Error405"}, "405 is for methods that no operation has"


def test_operations_have_ids_of_their_own_and_name_their_path_parameters():
    ids = [operation["operationId"] for _, _, operation in OPERATIONS]
    assert len(ids) == len(set(ids))
    for path, _, operation in OPERATIONS:
        parameters = [resolve(parameter, DOCUMENT) for parameter in operation.get("parameters", ())]
        assert {parameter["name"] for parameter in parameters if parameter["in"] == "path"} == set(
            re.findall(r"{(\w+)}", path)
        )


def test_what_is_open_says_so_and_nothing_else_is_open(bench):
    for path, method, operation in OPERATIONS:
        if path in HEALTH_PATHS:
            continue
        url = path.replace("{project}", "fashion").replace("{prediction_id}", "x")
        status = bench.client.request(method, url).status_code
        assert (status == 401) == bool(operation["security"]), path


def keys(name: str) -> set[str]:
    return set(DOCUMENT["components"]["schemas"][name]["properties"])


def test_bodies_have_exactly_the_documented_fields(bench):
    headers = {"Authorization": f"Bearer {token_of('shop')}"}
    answer = bench.predict().json()
    assert set(answer) == keys("Prediction") - {"answered_by", "nodes"}  # of composed projects
    assert set(answer["top"][0]) == keys("Candidate")
    batch = send(bench, {"items": [item(), {}]}).json()
    assert set(batch) == keys("BatchAnswer")
    assert {frozenset(result) for result in batch["results"]} == {frozenset(keys("BatchResult"))}
    assert set(batch["results"][1]["error"]) == keys("ErrorDetail")
    accepted = submit(bench).json()
    assert set(accepted) == keys("Accepted")
    bench.work()
    status = look(bench, accepted["prediction_id"]).json()
    assert set(status) == keys("PredictionStatus")
    assert set(status["review"]) == keys("Review")
    feedback = bench.client.post("/feedback", json={"prediction_id": "p", "label": "boot"}, headers=headers)
    assert set(feedback.json()) == keys("FeedbackAccepted")
    described = bench.client.get("/v1/projects/fashion", headers=headers).json()
    assert set(described) == keys("ProjectStatus")
    assert set(described["deployments"][0]) == keys("Deployment")
    in_flight = bench.client.get("/internal/inflight", headers={"Authorization": f"Bearer {token_of('stack')}"})
    assert set(in_flight.json()) == keys("InFlight")
    targets = bench.client.get("/internal/targets", headers={"Authorization": f"Bearer {token_of('stack')}"}).json()
    assert {frozenset(target) for target in targets} == {frozenset(keys("Target"))}
    assert set(bench.predict(b"x").json()) == keys("Error")


@pytest.mark.parametrize("path", ["/openapi.json", "/docs"])
def test_document_and_page_are_open_and_say_what_they_are(bench, path):
    response = bench.client.get(path)
    assert response.status_code == 200
    if path == "/docs":
        assert response.headers["content-security-policy"].startswith("default-src 'none'")
    else:
        assert response.json() == DOCUMENT


def test_the_page_has_every_operation_and_loads_nothing(bench):
    page = bench.client.get("/docs").text
    for path, _, operation in OPERATIONS:
        assert f'<h3 id="{operation["operationId"]}">' in page
        assert path in page
    assert not re.search(r"<script|<link|<img|<iframe|src=|@import|url\(", page)
    for example in EXAMPLES:
        assert example.as_curl() in unescape(page)


def test_every_operation_has_an_example():
    assert {example.operation for example in EXAMPLES} == {operation["operationId"] for _, _, operation in OPERATIONS}


@pytest.mark.parametrize(
    "example", [example for example in EXAMPLES if example.path not in HEALTH_PATHS], ids=lambda example: example.title
)
def test_each_example_is_answered_as_it_says(bench, example):
    prediction_id = submit(bench).json()["prediction_id"]
    path = example.path.replace("{project}", "fashion").replace("{prediction_id}", prediction_id)
    name = "stack" if "admin" in operation_of(example).get("description", "") else "shop"
    headers = {} if example.open_to_all else {"Authorization": f"Bearer {token_of(name)}"}
    body = png() if example.file else example.body
    response = bench.client.request(example.method, path, headers=headers | dict(example.headers), content=body)
    assert response.status_code == example.status, response.text


def operation_of(example):
    return next(operation for _, _, operation in OPERATIONS if operation["operationId"] == example.operation)
