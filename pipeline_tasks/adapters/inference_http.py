"""One request to an inference server over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx

from pipeline_tasks.errors import printable
from pipeline_tasks.orchestration.resources import Resources


def ask_server(parts: Resources, address: str, payload: bytes, media_type: str) -> Mapping[str, Any] | str:
    """Send one golden request to an inference server; what is no prediction comes back as text."""
    try:
        headers = {"Content-Type": media_type, **parts.settings.inference_headers}
        answer = httpx.post(f"{address}/predict", content=payload, headers=headers, timeout=30, trust_env=False)
    except httpx.HTTPError as error:
        return type(error).__name__
    if answer.status_code != 200:
        return f"HTTP {answer.status_code}: {printable(answer.text)}"
    try:
        found = answer.json()
    except ValueError:
        found = None
    return found if isinstance(found, dict) else f"HTTP 200, which is no JSON object: {printable(answer.text)}"
