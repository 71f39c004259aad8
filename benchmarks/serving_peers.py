"""The servers that `benchmarks/serving.py` compares: how each is installed, started and asked.

Every peer lives in an environment of its own under the cache folder, made with uv from the pins below, serves the same
two files through the same Python code for a batch, and has one worker and one thread.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline_tasks.contracts import Runtime

ROOT = Path(__file__).resolve().parents[1]
INSTALL_SECONDS = 900
MODEL_NEEDS = ("numpy", "safetensors", "pydantic", "pillow")

Ask = Callable[[str, bytes], tuple[str, dict[str, str], bytes]]
Command = Callable[[Path, str, int], list[str]]


@dataclasses.dataclass(frozen=True, slots=True)
class Peer:
    """One row: `needs` are its packages, `command` starts it, `ask` writes one item's path, headers and body."""

    key: str
    title: str
    needs: tuple[str, ...]
    command: Command
    ask: Ask
    ready_path: str = "/"
    site_file: str | None = None
    runtime: Runtime = "eager"
    read: Callable[[Any], list[float]] | None = None  # an answer's numbers, where they are no plain list


def npy_header() -> bytes:
    """Return the .npy header of one image."""
    text = "{'descr': '|u1', 'fortran_order': False, 'shape': (3, 64, 64), }".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def ask_ours(kind: str, item: bytes) -> tuple[str, dict[str, str], bytes]:
    if kind == "text":
        return "/predict", {"Content-Type": "text/plain"}, item
    return "/predict", {"Content-Type": "application/x-npy"}, npy_header() + item


def ask_raw(kind: str, item: bytes) -> tuple[str, dict[str, str], bytes]:  # noqa: ARG001  (an Ask)
    return "/predict", {"Content-Type": "application/octet-stream"}, item


def ask_gateway(kind: str, item: bytes) -> tuple[str, dict[str, str], bytes]:
    headers = {"Authorization": f"Bearer {'b' * 43}", "Content-Type": "text/plain" if kind == "text" else "image/png"}
    return "/v1/projects/benchmark/predict", headers, item if kind == "text" else png(item)


def png(item: bytes) -> bytes:
    """Return the pixels as a caller of the gateway sends them: an image file."""
    import numpy as np
    from PIL import Image

    buffer = io.BytesIO()
    pixels = np.frombuffer(item, np.uint8).reshape(3, 64, 64).transpose(1, 2, 0)
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="PNG")
    return buffer.getvalue()


def read_gateway(answer: Any) -> list[float]:
    """Return the confidences of an answer that names all classes, in the order of the classes."""
    return [choice["confidence"] for choice in sorted(answer["top"], key=lambda choice: str(choice["label"]))]


def text_of(kind: str, item: bytes) -> str:
    return item.decode() if kind == "text" else base64.b64encode(item).decode()


def as_json(document: object) -> tuple[str, dict[str, str], bytes]:
    return "/predict", {"Content-Type": "application/json"}, json.dumps(document).encode()


def ask_item(kind: str, item: bytes) -> tuple[str, dict[str, str], bytes]:
    return as_json({"item": text_of(kind, item)})


def ask_items(kind: str, item: bytes) -> tuple[str, dict[str, str], bytes]:
    return as_json({"items": [text_of(kind, item)]})


def ask_v2_json(kind: str, item: bytes) -> tuple[str, dict[str, str], bytes]:
    given = {"name": "item", "shape": [1], "datatype": "BYTES", "data": [text_of(kind, item)]}
    return ("/v2/models/m/infer", *as_json({"inputs": [given]})[1:])


def ask_v2_binary(kind: str, item: bytes) -> tuple[str, dict[str, str], bytes]:
    data = item if kind == "image" else item.ljust(1024, b"\0")
    shape = [1, 3, 64, 64] if kind == "image" else [1, len(data)]
    given = {"name": "item", "shape": shape, "datatype": "UINT8", "parameters": {"binary_data_size": len(data)}}
    head = json.dumps({"inputs": [given]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
    return "/v2/models/m/infer", headers, head + data


def run_app(name: str) -> Command:
    return lambda python, _tag, _port: [str(python), "-m", f"benchmarks.serving_apps.{name}"]


def run_uvicorn(python: Path, _tag: str, port: int) -> list[str]:
    app = "benchmarks.serving_apps.fastapi_naive:app"
    quiet = ["--no-access-log", "--log-level", "warning"]
    return [str(python), "-m", "uvicorn", app, "--host", "127.0.0.1", "--port", str(port), *quiet]


def run_bento(target: str) -> Command:
    def command(python: Path, tag: str, port: int) -> list[str]:
        address = ["--host", "127.0.0.1", "--port", str(port)]
        if target == "ours":
            return [str(python), str(ROOT / "bento_services" / "serve.py"), tag, *address]
        return [str(python.parent / "bentoml"), "serve", f"benchmarks.serving_apps.{target}", *address]

    return command


PEERS = (
    Peer("ours", "ours", (), run_bento("ours"), ask_ours, "/readyz"),
    Peer("ours-onnx", "ours, ONNX Runtime", (), run_bento("ours"), ask_ours, "/readyz", runtime="onnx"),
    Peer("ours-onnx-int8", "ours, ONNX int8", (), run_bento("ours"), ask_ours, "/readyz", runtime="onnx-int8"),
    Peer(
        "gateway",
        "ours, gateway + inference",
        (),
        run_app("gateway_app"),
        ask_gateway,
        "/readyz",
        read=read_gateway,
    ),
    Peer("fastapi", "FastAPI, naive", ("fastapi==0.142.2", "uvicorn==0.54.0"), run_uvicorn, ask_raw, "/docs"),
    Peer("bento-stock", "BentoML, stock", ("bentoml==1.4.39",), run_bento("bento_stock:Stock"), ask_item, "/readyz"),
    Peer(
        "bento-batch",
        "BentoML, batchable",
        ("bentoml==1.4.39",),
        run_bento("bento_batchable:Batchable"),
        ask_items,
        "/readyz",
    ),
    Peer("litserve", "LitServe", ("litserve==0.2.19",), run_app("litserve_app"), ask_item, "/health"),
    Peer("ray", "Ray Serve", ("ray[serve]==2.58.0",), run_app("ray_app"), ask_raw, "/-/healthz"),
    Peer("mlserver", "MLServer", ("mlserver==1.7.1",), run_app("mlserver_app"), ask_v2_json, "/v2/models/m/ready"),
    Peer(
        "pytriton",
        "Triton (PyTriton)",
        ("nvidia-pytriton==0.5.7", "numpy<2"),
        run_app("pytriton_app"),
        ask_v2_binary,
        "/v2/models/m/ready",
        "pytriton_sitecustomize.py",
    ),
)


def environment_of(peer: Peer, cache: Path) -> Path | str:
    """Return the Python of the peer's environment, made if it is not there, or why there is none."""
    if not peer.needs:
        return Path(sys.executable)
    folder = cache / peer.key
    python, done = folder / "bin" / "python", folder / ".installed"
    if done.is_file() and done.read_text() == str(peer.needs):
        return python
    uv = Path(sys.executable).parent / "uv"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    needs = [*peer.needs, *MODEL_NEEDS, f"torch=={torch_version()}"]
    for command in (
        [str(uv), "venv", "--quiet", "--clear", "--python", version, str(folder)],
        [str(uv), "pip", "install", "--quiet", "--python", str(python), *needs],
    ):
        try:
            ran = subprocess.run(
                command, env=uv_environment(), capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
            )
        except (subprocess.TimeoutExpired, OSError) as error:
            return f"cannot be installed: {error}"
        if ran.returncode:
            return f"cannot be installed: {' '.join(ran.stderr.split())[:200]}"
    if peer.site_file:
        (site,) = folder.glob("lib/python*/site-packages")
        shutil.copyfile(Path(__file__).parent / "serving_apps" / peer.site_file, site / "sitecustomize.py")
    done.write_text(str(peer.needs))
    return python


def torch_version() -> str:
    """Return the torch that we serve with, without its build's name."""
    from importlib.metadata import version

    return version("torch").partition("+")[0]


def uv_environment() -> dict[str, str]:
    """Return the environment for uv: it does not read pip's settings."""
    given = dict(os.environ)
    handed = (("UV_FIND_LINKS", "PIP_FIND_LINKS"), ("UV_DEFAULT_INDEX", "PIP_INDEX_URL"), ("SSL_CERT_FILE", "PIP_CERT"))
    for ours, theirs in handed:
        if theirs in given:
            given.setdefault(ours, given[theirs])
    return {name: value for name, value in given.items() if name not in {"VIRTUAL_ENV", "PYTHONPATH"}}
