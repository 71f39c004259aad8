"""Calls to Label Studio's API: both kinds of token, and errors told apart."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx

from pipeline_tasks.errors import PermanentError, ServiceUnavailable

ACCESS_TOKEN_SECONDS = 240.0  # the server lets one live for 300 s
_JWT_DOTS = 2


class LabelStudioRefusedError(PermanentError):
    """Label Studio said that a request is wrong (4xx)."""

    code = "LS_REFUSED"


class LabelStudioHttp:
    """One account's connection; safe to use from many threads. Nothing is sent twice by itself."""

    def __init__(
        self,
        url: str,
        token: str,
        *,
        timeout_seconds: float,
        transport: httpx.BaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.base_url = url.rstrip("/")
        self._token = token
        self._clock = clock
        self._access: tuple[str, float] | None = None
        self._lock = threading.Lock()
        self._client = httpx.Client(
            base_url=self.base_url, timeout=timeout_seconds, transport=transport, trust_env=False
        )

    def close(self) -> None:
        self._client.close()

    def get(self, path: str, params: Mapping[str, Any] | None = None) -> Any:
        return self.call("GET", path, params=params)

    def post(self, path: str, json: Any, params: Mapping[str, Any] | None = None) -> Any:
        return self.call("POST", path, params=params, json=json)

    def call(self, method: str, path: str, *, params: Mapping[str, Any] | None = None, json: Any = None) -> Any:
        """Send one request and return its JSON, or None when the answer has no body.

        Raises:
            KeyError: 404.
            PermanentError: 401 or 403 (code LS_AUTH), or another 4xx (LS_REFUSED).
            ServiceUnavailable: no answer, 429 or 5xx; the request may have been carried out all the same.
        """
        response = self._send(method, path, params=params, json=json, headers=self._authorization())
        if response.status_code == httpx.codes.NOT_FOUND:
            raise KeyError(path)
        self._raise_for_status(response, f"{method} {path}")
        return response.json() if response.content else None

    def _send(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        try:
            return self._client.request(method, path, **arguments)
        except httpx.HTTPError as error:
            raise ServiceUnavailable(
                f"Label Studio at {self.base_url} must answer {method} {path} (got {type(error).__name__}). "
                "See `dethrone status`; the next try looks first what was done."
            ) from error

    def _authorization(self) -> dict[str, str]:
        if self._token.count(".") != _JWT_DOTS:
            return {"Authorization": f"Token {self._token}"}
        with self._lock:
            if self._access is None or self._access[1] <= self._clock():
                self._access = (self._exchange(), self._clock() + ACCESS_TOKEN_SECONDS)
            return {"Authorization": f"Bearer {self._access[0]}"}

    def _exchange(self) -> str:
        response = self._send("POST", "/api/token/refresh/", json={"refresh": self._token})
        self._raise_for_status(response, "POST /api/token/refresh/")
        return str(response.json()["access"])

    def _raise_for_status(self, response: httpx.Response, what: str) -> None:
        status = response.status_code
        if status < httpx.codes.BAD_REQUEST:
            return
        if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise PermanentError(
                auth_message(status, detail(response), personal=self._token.count(".") == _JWT_DOTS), code="LS_AUTH"
            )
        if status == httpx.codes.TOO_MANY_REQUESTS or status >= httpx.codes.INTERNAL_SERVER_ERROR:
            raise ServiceUnavailable(f"Label Studio must answer {what} with 2xx (got {status}: {detail(response)}).")
        raise LabelStudioRefusedError(f"Label Studio must accept {what} (got {status}: {detail(response)}).")


def auth_message(status: int, reason: str, *, personal: bool) -> str:
    """Return the one line that says which setting to change."""
    if personal:
        todo = "Create a new personal access token under Account & Settings and set DETHRONE_LABEL_STUDIO_TOKEN to it."
    elif "legacy" in reason:
        todo = (
            "Turn on legacy tokens under Organization > API Tokens Settings, or set DETHRONE_LABEL_STUDIO_TOKEN "
            "to a personal access token."
        )
    else:
        todo = "Set DETHRONE_LABEL_STUDIO_TOKEN to a token of an administrator (docs/labeling.md)."
    return f"DETHRONE_LABEL_STUDIO_TOKEN must be a valid Label Studio token (got HTTP {status}: {reason}). {todo}"


def detail(response: httpx.Response) -> str:
    """Return what an error answer says, at most 300 characters."""
    try:
        document = response.json()
    except ValueError:
        return f"no JSON, {len(response.content)} bytes"
    if not isinstance(document, dict):
        return str(document)[:300]
    validation = document.get("validation_errors")
    return f"{document.get('detail', document)} {validation or ''}".strip()[:300]
