"""The running gateway against its own document: schemathesis over all of it, and the page's commands in a shell."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
from html import unescape

import httpx
import pytest

from bento_services.gateway.api import app
from bento_services.gateway.api.examples import EXAMPLES
from pipeline_tasks.contracts import RouteEntry
from tests.service.conftest import png
from tests.service.servers import StubInference
from tests.service.test_gateway_served import TOKEN, Stack, accounts, follows

pytestmark = [pytest.mark.integration, pytest.mark.slow]
DOCUMENT = json.loads(app.DOCUMENT)
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
NUM_EXAMPLES = int(os.environ.get("DETHRONE_FUZZ_EXAMPLES", "40"))


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    stack = Stack(tmp_path_factory.mktemp("fuzz"))
    stub = StubInference(version="A")
    stack.route(RouteEntry("dA", "A", stub.url, 100))
    with stack.gateway(DETHRONE_BODY_TIMEOUT_SECONDS="2") as served:
        follows(served.url, 1)
        yield served
    stub.stop()


def takes_anything(label: str) -> bool:
    """Say whether there is a parameter or a body that could be wrong."""
    method, path = label.split(" ")
    operation = DOCUMENT["paths"][path][method.lower()]
    return bool(operation.get("parameters") or operation.get("requestBody"))


def checked(case, response) -> None:
    text = response.text
    assert "Traceback" not in text, "no stack trace reaches a caller"
    assert "site-packages" not in text
    assert response.status_code < 500 or response.status_code == 503, "a defect"


def make_real(case, prediction_id: str) -> None:
    """Aim a generated request at a project that is there, so that it gets further than the first check."""
    if "project" in (case.path_parameters or {}):
        case.path_parameters["project"] = "fashion"
    if "prediction_id" in (case.path_parameters or {}):
        case.path_parameters["prediction_id"] = prediction_id
    case.headers = {name: value for name, value in (case.headers or {}).items() if name != "X-Model-Version"}
    if case.operation.path.endswith(("predict", "predict:async")):
        case.body, case.media_type = png(), "image/png"
        case.headers["Content-Type"] = "image/png"
    if case.operation.path.endswith("feedback") and isinstance(case.body, dict):
        case.body = {"label": "boot", "business_key": str(case.body.get("business_key") or "k"), "project": "fashion"}


def test_whatever_the_schema_allows_or_not_is_answered_as_documented(gateway):
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st
    from schemathesis.specs.openapi import checks as known

    schema = schemathesis.openapi.from_url(f"{gateway.url}/openapi.json")
    conformance = [
        known.status_code_conformance,
        known.content_type_conformance,
        known.response_schema_conformance,
        known.response_headers_conformance,
    ]
    statuses: dict[str, set[int]] = {}
    numbers = itertools.count()
    prediction_id = accepted(gateway.url)
    for result in schema.get_all_operations():
        operation = result.ok()
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
            if mode == schemathesis.GenerationMode.NEGATIVE and not takes_anything(operation.label):
                continue

            def ask(case, real):
                next(numbers)
                if real:
                    make_real(case, prediction_id)
                case.headers = {**(case.headers or {}), **HEADERS}
                response = case.call(timeout=30)
                checked(case, response)
                case.validate_response(response, checks=conformance)
                statuses.setdefault(case.operation.label, set()).add(response.status_code)

            limits = settings(
                max_examples=NUM_EXAMPLES,
                deadline=None,
                phases=[Phase.explicit, Phase.generate],
                suppress_health_check=list(HealthCheck),
                derandomize=True,
                database=None,
            )
            limits(given(case=operation.as_strategy(generation_mode=mode), real=st.booleans())(ask))()
    print(f"{next(numbers)} requests, {statuses}")
    labels = {f"{method.upper()} {path}" for path, methods in DOCUMENT["paths"].items() for method in methods}
    assert set(statuses) | {"GET /openapi.json"} == labels, "schemathesis leaves out where it read the document"
    assert [label for label, codes in statuses.items() if not codes & {200, 202}] == [], "never answered well"
    assert accounts(gateway.url)["served"] > 0
    assert "Traceback" not in gateway.log.read_text()
    assert ask_one(gateway.url, "predict").status_code == 200


def ask_one(url: str, verb: str) -> httpx.Response:
    headers = HEADERS | {"Content-Type": "image/png"}
    return httpx.post(f"{url}/v1/projects/fashion/{verb}", content=png(), headers=headers, trust_env=False)


def accepted(url: str) -> str:
    return ask_one(url, "predict:async").json()["prediction_id"]


def test_the_commands_of_the_page_work_in_a_shell_in_their_order(gateway, tmp_path):
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    page = unescape(httpx.get(f"{gateway.url}/docs", trust_env=False).text)
    (tmp_path / "item.png").write_bytes(png())
    environment = {
        "PATH": os.environ["PATH"],
        "GATEWAY": gateway.url,
        "KEY": TOKEN,
        "PROJECT": "fashion",
        "PREDICTION_ID": accepted(gateway.url),
        "NO_PROXY": "127.0.0.1",
    }
    for example in EXAMPLES:
        if example.operation == "feedbackOfKey":
            continue  # needs a key of one project; this one is for all
        command = example.as_curl()
        assert command in page
        shown = subprocess.run(
            ["bash", "-c", f"{command} --output /dev/null --write-out '%{{http_code}}'"],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        assert shown.stdout == str(example.status), example.title
