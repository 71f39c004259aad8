"""Foundation of Label Studio's SDK: one HTTP client, whose errors are ours, and an account's token."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx

from pipeline_tasks.errors import PermanentError, ServiceUnavailable

if TYPE_CHECKING:
    from label_studio_sdk.base_client import LabelStudioBase

ACCESS_TOKEN_SECONDS = 240.0  # the server lets one live for 300 s
_JWT_DOTS = 2


class LabelStudioRefusedError(PermanentError):
    """Label Studio said that a request is wrong (4xx)."""

    code = "LS_REFUSED"


class LabelStudioHttp(httpx.Client):
    """The client under the SDK; safe to use from many threads.

    The SDK repeats a POST whose answer was lost or 5xx, which would import twice. Errors are raised here, below it, so
    that nothing is sent twice by itself, and each names the request.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_seconds: float,
        refusal: Callable[[int, str], str],
        auth: Callable[[httpx.Request], httpx.Request] | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        super().__init__(base_url=url, timeout=timeout_seconds, auth=auth, transport=transport, trust_env=False)
        self._refusal = refusal

    def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        """Send one request and return its answer, which is JSON or empty under /api/.

        Raises:
            KeyError: 404.
            PermanentError: 401 or 403 (code LS_AUTH), or another 4xx (LS_REFUSED).
            ServiceUnavailable: no answer, 429 or 5xx; the request may have been carried out all the same.
        """
        what = f"{request.method} {request.url.path}"
        try:
            response = super().send(request, **options)
        except httpx.HTTPError as error:
            raise ServiceUnavailable(
                f"Label Studio at {self.base_url} must answer {what} (got {type(error).__name__}). "
                "See `dethrone status`; the next try looks first what was done."
            ) from error
        if response.status_code == httpx.codes.NOT_FOUND:
            raise KeyError(request.url.path)
        self._raise_for_status(response, what)
        kind = response.headers.get("content-type", "no type")
        if "/api/" in request.url.path and response.content and not kind.startswith("application/json"):
            raise ServiceUnavailable(f"Label Studio must answer {what} with JSON (got {response.status_code}, {kind}).")
        return response

    def _raise_for_status(self, response: httpx.Response, what: str) -> None:
        status = response.status_code
        if status < httpx.codes.BAD_REQUEST:
            return
        if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise PermanentError(self._refusal(status, detail(response)), code="LS_AUTH")
        if status == httpx.codes.TOO_MANY_REQUESTS or status >= httpx.codes.INTERNAL_SERVER_ERROR:
            raise ServiceUnavailable(f"Label Studio must answer {what} with 2xx (got {status}: {detail(response)}).")
        raise LabelStudioRefusedError(f"Label Studio must accept {what} (got {status}: {detail(response)}).")


class LabelStudioAccount:
    """The SDK of the account that a token belongs to; tokens of both kinds."""

    def __init__(
        self,
        url: str,
        token: str,
        *,
        timeout_seconds: float,
        transport: httpx.BaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = url.rstrip("/")
        self._token = token
        self._clock = clock
        self._sdk: tuple[LabelStudioBase, float] | None = None
        self._client = LabelStudioHttp(
            self.url, timeout_seconds=timeout_seconds, refusal=self._refusal, transport=transport
        )

    @property
    def sdk(self) -> LabelStudioBase:
        """The SDK; a new one after four minutes, since each exchanges a personal access token once.

        One alone would use an access token to its last second by this machine's clock.

        Raises:
            PermanentError: LS_AUTH: the token is a personal access token that has expired.
        """
        if self._sdk is None or self._sdk[1] <= self._clock():
            self._sdk = (sdk(self.url, self._token, self._client), self._clock() + ACCESS_TOKEN_SECONDS)
        return self._sdk[0]

    def _refusal(self, status: int, reason: str) -> str:
        return auth_message(status, reason, personal=self._token.count(".") == _JWT_DOTS)


def sdk(url: str, token: str, client: LabelStudioHttp) -> LabelStudioBase:
    """Return the SDK on a client of ours.

    Raises:
        PermanentError: LS_AUTH: the token is a personal access token that has expired.
    """
    from label_studio_sdk.base_client import LabelStudioBase  # its subclass LabelStudio imports pandas: 0.9 s, 134 MB
    from label_studio_sdk.core.api_error import ApiError

    try:
        return LabelStudioBase(base_url=f"{url}/", api_key=token, httpx_client=client, max_retries=0)
    except ApiError as error:
        reason = str(error.body.get("detail") if isinstance(error.body, dict) else error.body)
        raise PermanentError(auth_message(error.status_code or 401, reason, personal=True), code="LS_AUTH") from None


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
