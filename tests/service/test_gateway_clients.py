"""The clients against the running gateway, and what they were generated from against the gateway's own document."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys

import dethrone_client
import httpx
import pytest

from bento_services.gateway.api import app
from tests.service.conftest import png
from tests.service.servers import ROOT
from tests.service.test_gateway_served import TOKEN

DOCUMENT = json.loads(app.DOCUMENT)
TYPESCRIPT = ROOT / "clients" / "typescript"


def test_the_generated_types_have_every_operation_and_schema():
    generated = (TYPESCRIPT / "src" / "schema.ts").read_text()
    compiled = (TYPESCRIPT / "dist" / "schema.d.ts").read_text()
    names = list(DOCUMENT["components"]["schemas"])
    names += [operation["operationId"] for path in DOCUMENT["paths"].values() for operation in path.values()]
    for name in names:
        assert f" {name}: {{" in generated, name
        assert f" {name}: {{" in compiled, name


def test_generating_again_gives_the_committed_types(tmp_path):
    tool = TYPESCRIPT / "node_modules" / ".bin" / "openapi-typescript"
    if shutil.which("node") is None or not tool.exists():
        pytest.skip("node or clients/typescript/node_modules is not installed")
    document = ROOT / "bento_services/gateway/api/openapi.json"
    command = [str(tool), str(document), "--output", str(tmp_path / "schema.ts")]
    subprocess.run(command, check=True, capture_output=True)
    assert (tmp_path / "schema.ts").read_text() == (TYPESCRIPT / "src" / "schema.ts").read_text()


@pytest.fixture(scope="module")
def gateway(stub_gateway):
    return stub_gateway


@pytest.mark.integration
@pytest.mark.slow
def test_the_python_client_speaks_to_the_running_gateway(gateway):
    with dethrone_client.Client(
        gateway.url, api_key=TOKEN, project="fashion", transport=httpx.HTTPTransport(trust_env=False)
    ) as client:
        answer = client.predict(png(), media_type="image/png", business_key="order-7")
        assert (answer.label, answer.model_version, answer.abstained) == ("bag", "A", False)
        good, bad = client.predict_batch([png(), b"no image"])
        assert (good.label, bad.code) == ("bag", "NOT_AN_IMAGE")
        later = client.predict_async(png(1), media_type="image/png")
        assert client.wait(later.prediction_id, timeout_seconds=30).prediction_id == later.prediction_id
        client.feedback("boot", prediction_id=answer.prediction_id)
        assert client.project().champion_version == "A"
        with pytest.raises(dethrone_client.ApiError, match="422 NOT_AN_IMAGE"):
            client.predict(b"no image", media_type="image/png")


@pytest.mark.integration
@pytest.mark.slow
def test_the_typescript_client_speaks_to_the_running_gateway(gateway, tmp_path):
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    (tmp_path / "item.png").write_bytes(png())
    environment = {
        "PATH": os.environ["PATH"],
        "GATEWAY": gateway.url,
        "KEY": TOKEN,
        "PROJECT": "fashion",
        "ITEM": str(tmp_path / "item.png"),
    }
    command = [node, str(TYPESCRIPT / "tests" / "try.mjs")]
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert shown.returncode == 0, shown.stderr
    got = json.loads(shown.stdout)
    assert (got["prediction"]["label"], got["later"]["status"], got["feedback"]["accepted"]) == ("bag", "done", True)
    assert [result["status"] for result in got["batch"]["results"]] == [200, 422]
    assert got["later"]["prediction_id"] == got["accepted"]["prediction_id"]
    assert got["project"]["champion_version"] == "A"
    assert got["refused"] == {"status": 422, "code": "NOT_AN_IMAGE"}


def blocks(client: str, language: str) -> list[str]:
    """Return the examples of a client's README in a language."""
    text = (ROOT / "clients" / client / "README.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def as_printed(gateway, folder, example: str) -> str:
    """Return an example for this gateway and key, with the files that it reads in place."""
    assert example.count("http://127.0.0.1:8000") == example.count('"..."') == 1
    for number, name in enumerate(("boot.png", "a.png", "b.png")):
        (folder / name).write_bytes(png(number))
    return example.replace("http://127.0.0.1:8000", gateway.url).replace('"..."', f'"{TOKEN}"')


def run_example(command: list[str], folder, **environment: str) -> str:
    shown = subprocess.run(
        command,
        env={"PATH": os.environ["PATH"], "HOME": str(folder)} | environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (shown.returncode, shown.stderr) == (0, "")
    return shown.stdout


@pytest.mark.integration
@pytest.mark.slow
def test_the_python_readme_runs_as_printed(gateway, tmp_path):
    (example,) = blocks("python", "python")
    source = str(ROOT / "clients" / "python" / "src")
    (tmp_path / "example.py").write_text(as_printed(gateway, tmp_path, example))
    lines = run_example([sys.executable, "example.py"], tmp_path, PYTHONPATH=source).splitlines()
    assert [line.split()[0] for line in lines] == ["bag", "bag", "bag", "bag"]


@pytest.mark.integration
@pytest.mark.slow
def test_the_typescript_readme_runs_as_printed(gateway, tmp_path):
    """It asked for `readFile` without importing it."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("node or npm is not installed")
    install, _generate = blocks("typescript", "bash")
    (example,) = blocks("typescript", "ts")
    (tmp_path / "clients").mkdir()
    (tmp_path / "clients" / "typescript").symlink_to(TYPESCRIPT)
    (tmp_path / "package.json").write_text("{}")
    quiet = {f"npm_config_{name}": "false" for name in ("update_notifier", "audit", "fund")}
    run_example(["bash", "-c", f"{install.strip()} --offline"], tmp_path, **quiet)
    (tmp_path / "example.mjs").write_text(as_printed(gateway, tmp_path, example))
    assert run_example([node, "example.mjs"], tmp_path).split() == ["bag", "0.7", "false"]


def test_the_typescript_readme_has_the_types_that_it_uses(tmp_path):
    tool = TYPESCRIPT / "node_modules" / ".bin" / "tsc"
    if shutil.which("node") is None or not tool.exists():
        pytest.skip("node or clients/typescript/node_modules is not installed")
    (example,) = blocks("typescript", "ts")
    modules = tmp_path / "node_modules"
    modules.mkdir()
    (modules / "dethrone-client").symlink_to(TYPESCRIPT)
    # Of node's own types only what the example takes: they are no dependency of the client.
    declared = "export function readFile(path: string): Promise<Uint8Array<ArrayBuffer>>;"
    (tmp_path / "node.d.ts").write_text(f'declare module "node:fs/promises" {{ {declared} }}')
    (tmp_path / "example.mts").write_text(example)
    options = "--noEmit --strict --module nodenext --target es2022 --lib es2022,dom --skipLibCheck"
    command = [str(tool), *options.split(), "node.d.ts", "example.mts"]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert (shown.stdout, shown.returncode) == ("", 0)
