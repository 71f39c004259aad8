"""Errors of the client, by what the caller can do about them."""

from __future__ import annotations


class ClientError(Exception):
    """Anything that this client raises."""


class ConnectionFailed(ClientError):
    """The gateway could not be reached, or did not answer in time, as often as it was tried."""


class StillPending(ClientError):
    """An asynchronous prediction was not made in time; asking again later is fine."""


class ApiError(ClientError):
    """The gateway refused the request; `code` is stable, `message` is for people."""

    def __init__(self, status: int, code: str, message: str, *, field: str | None, request_id: str | None) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.field = field
        self.request_id = request_id


class PredictionFailed(ApiError):
    """An asynchronous prediction ended without an answer."""
