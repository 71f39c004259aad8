"""One request to an inference server over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx

from pipeline_tasks.errors import printable


def ask_server(headers: Mapping[str, str], address: str, payload: bytes, media_type: str) -> Mapping[str, Any] | str:
    """Send one golden request to an inference server; what is no prediction comes back as text.

    `headers` hold the key that the server asks for.
    """
    try:
        sent = {"Content-Type": media_type, **headers}
        answer = httpx.post(f"{address}/predict", content=payload, headers=sent, timeout=30, trust_env=False)
    except httpx.HTTPError as error:
        return type(error).__name__
    if answer.status_code != 200:
        return f"HTTP {answer.status_code}: {printable(answer.text)}"
    try:
        document = answer.json()
    except ValueError:
        document = None
    return document if isinstance(document, dict) else f"HTTP 200, which is no JSON object: {printable(answer.text)}"
