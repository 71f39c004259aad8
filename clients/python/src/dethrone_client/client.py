"""The client: one method per endpoint, typed answers, retries that predict and log an item once."""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import httpx

from dethrone_client.errors import ApiError, ConnectionFailed, PredictionFailed, StillPending
from dethrone_client.models import Accepted, Item, ItemError, Prediction, PredictionStatus, ProjectStatus, Row

DEFAULT_TYPES = {bytes: "application/octet-stream", str: "text/plain; charset=utf-8", Row: "application/json"}
RETRIED_STATUSES = frozenset({429, 503})
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 30.0


class Client:
    """Talks to one gateway with one key; safe to use from several threads."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str,
        project: str,
        timeout_seconds: float = 30.0,
        max_retries: int = 3,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._project = project
        self._max_retries = max_retries
        self._sleep = sleep
        self._monotonic = monotonic
        self._http = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {api_key}", "User-Agent": "dethrone-client/1"},
            timeout=timeout_seconds,
            transport=transport,
            follow_redirects=False,
        )

    def __enter__(self) -> Client:  # noqa: PYI034  Self came with Python 3.11
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def predict(
        self,
        item: Item,
        *,
        media_type: str | None = None,
        user_key: str | None = None,
        business_key: str | None = None,
        model_version: str | None = None,
        request_id: str | None = None,
    ) -> Prediction:
        """Return the answer on one item.

        Raises:
            ApiError: the gateway refused it.
            ConnectionFailed: the gateway could not be reached.
        """
        headers = _headers(media_type or DEFAULT_TYPES[type(item)], user_key, business_key, model_version)
        body = self._send("POST", self._path("predict"), headers, _encode(item), request_id)
        return Prediction.from_json(body)

    def predict_batch(
        self,
        items: Sequence[Item],
        *,
        media_type: str | None = None,
        user_key: str | None = None,
        model_version: str | None = None,
        request_id: str | None = None,
    ) -> list[Prediction | ItemError]:
        """Return an answer or an error for each item, in their order; `media_type` is that of bytes.

        Raises:
            ApiError: the batch as a whole was refused.
            ConnectionFailed: the gateway could not be reached.
        """
        document = {"items": [_batch_item(item, media_type) for item in items]}
        headers = _headers("application/json", user_key, None, model_version)
        content = json.dumps(document, allow_nan=False).encode()
        body = self._send("POST", self._path("predict:batch"), headers, content, request_id)
        return [
            ItemError.from_json(int(answer["status"]), answer["error"])
            if answer["prediction"] is None
            else Prediction.from_json(answer["prediction"])
            for answer in body["results"]
        ]

    def predict_async(
        self,
        item: Item,
        *,
        media_type: str | None = None,
        user_key: str | None = None,
        business_key: str | None = None,
        model_version: str | None = None,
        callback_url: str | None = None,
        request_id: str | None = None,
    ) -> Accepted:
        """Have a prediction made later; read it with `status` or `wait`."""
        headers = _headers(media_type or DEFAULT_TYPES[type(item)], user_key, business_key, model_version)
        if callback_url is not None:
            headers["X-Callback-Url"] = callback_url
        body = self._send("POST", self._path("predict:async"), headers, _encode(item), request_id)
        return Accepted(str(body["prediction_id"]), str(body["status"]))

    def status(self, prediction_id: str) -> PredictionStatus:
        """Return what is known of a prediction, people's answer included."""
        return PredictionStatus.from_json(self._send("GET", f"/v1/predictions/{prediction_id}", {}, None, None))

    def wait(self, prediction_id: str, *, timeout_seconds: float = 60.0, poll_seconds: float = 0.5) -> Prediction:
        """Return an asynchronous prediction as soon as it is made.

        Raises:
            StillPending: it was not made in time.
            PredictionFailed: it ended without an answer.
        """
        deadline = self._monotonic() + timeout_seconds
        while True:
            status = self.status(prediction_id)
            if status.error is not None:
                error = status.error
                raise PredictionFailed(422, error.code, error.message, field=error.field, request_id=None)
            if status.prediction is not None:
                return status.prediction
            if self._monotonic() >= deadline:
                raise StillPending(
                    f"{prediction_id} must be made within {timeout_seconds:g} s (it is {status.status})."
                )
            self._sleep(poll_seconds)

    def feedback(self, label: str, *, prediction_id: str | None = None, business_key: str | None = None) -> None:
        """Tell what really was the case, by prediction id or by your own key."""
        fields = {"label": label, "prediction_id": prediction_id, "business_key": business_key}
        content = json.dumps({name: value for name, value in fields.items() if value is not None}).encode()
        self._send("POST", self._path("feedback"), {"Content-Type": "application/json"}, content, None)

    def project(self) -> ProjectStatus:
        """Return what serves now."""
        return ProjectStatus.from_json(self._send("GET", f"/v1/projects/{self._project}", {}, None, None))

    def _path(self, verb: str) -> str:
        return f"/v1/projects/{self._project}/{verb}"

    def _send(
        self, method: str, path: str, headers: dict[str, str], content: bytes | None, request_id: str | None
    ) -> dict[str, Any]:
        """Send until there is an answer; the request id stays, so the gateway knows a repetition."""
        sent = headers | {"X-Request-Id": request_id or uuid.uuid4().hex}
        for attempt in range(self._max_retries + 1):
            last = attempt == self._max_retries
            try:
                response = self._http.request(method, path, headers=sent, content=content)
            except httpx.TransportError as error:
                if last:
                    raise ConnectionFailed(f"the gateway must answer (got {type(error).__name__}).") from error
                self._sleep(_pause(attempt, None))
                continue
            if response.status_code in RETRIED_STATUSES and not last:
                self._sleep(_pause(attempt, response.headers.get("retry-after")))
                continue
            return _body(response)
        raise ConnectionFailed("max_retries must be 0 or more.")


def _body(response: httpx.Response) -> dict[str, Any]:
    try:
        body = response.json()
    except ValueError:
        body = None
    if response.is_success and isinstance(body, dict):
        return body
    error = body.get("error") if isinstance(body, dict) else None
    fields = error if isinstance(error, dict) else {}
    raise ApiError(
        response.status_code,
        str(fields.get("code", "NOT_THE_GATEWAY")),
        str(fields.get("message", "the answer must be the gateway's (got another's: is there a proxy in between?).")),
        field=fields.get("field"),
        request_id=fields.get("request_id"),
    )


def _pause(attempt: int, retry_after: str | None) -> float:
    own = FIRST_PAUSE_SECONDS * 2.0**attempt
    told = float(retry_after) if retry_after is not None and retry_after.isdigit() else 0.0
    return min(max(own, told), LONGEST_PAUSE_SECONDS)


def _headers(
    media_type: str, user_key: str | None, business_key: str | None, model_version: str | None
) -> dict[str, str]:
    optional = {"X-User-Key": user_key, "X-Business-Key": business_key, "X-Model-Version": model_version}
    return {"Content-Type": media_type} | {name: value for name, value in optional.items() if value is not None}


def _encode(item: Item) -> bytes:
    if isinstance(item, bytes):
        return item
    return item.encode() if isinstance(item, str) else json.dumps(dict(item.values), allow_nan=False).encode()


def _batch_item(item: Item, media_type: str | None) -> dict[str, Any]:
    if isinstance(item, str):
        return {"text": item}
    if isinstance(item, Row):
        return {"row": dict(item.values)}
    named = {} if media_type is None else {"media_type": media_type}
    return {"base64": base64.b64encode(item).decode(), **named}
