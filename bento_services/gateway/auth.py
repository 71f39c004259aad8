"""Callers: their keys, rights and rates."""

from __future__ import annotations

import dataclasses
import hmac
import re
from collections import OrderedDict

from bento_services.gateway.errors import ApiError
from bento_services.gateway.routing.routes import KeyInfo, Snapshot
from pipeline_tasks.contracts import sha256_hex

EVERY_PROJECT = "*"
MAX_BUCKETS = 10_000
BURST_SECONDS = 1.0
_BEARER = re.compile(r"Bearer ([\x21-\x7e]{1,512})", re.IGNORECASE)


def authenticate(snapshot: Snapshot, authorization: str | None, *, scope: str | None) -> KeyInfo:
    """Return the caller's key, with any scope if none is asked for.

    Only digests are compared, in constant time, so that timing tells nothing about a key.

    Raises:
        ApiError: 401 without a valid key, 403 when it lacks the scope.
    """
    match = _BEARER.fullmatch(authorization or "")
    if match is None:
        raise ApiError(
            401, "KEY_MISSING", "Authorization must be `Bearer <API key>`. See `dethrone keys`.", field="Authorization"
        )
    key = _known(snapshot, match[1])
    if key is None:
        raise ApiError(
            401, "KEY_INVALID", "the API key must be a known one that is not revoked.", field="Authorization"
        )
    if scope is not None and scope not in key.scopes:
        raise ApiError(403, "SCOPE_MISSING", f"the API key must have the scope {scope}.", field="Authorization")
    return key


def _known(snapshot: Snapshot, token: str) -> KeyInfo | None:
    digest = sha256_hex(token.encode())
    key = snapshot.keys.get(digest)
    return key if key is not None and hmac.compare_digest(key.sha256, digest) else None


def require_project(key: KeyInfo, project: str) -> None:
    """Refuse a key of another project, in the same words whether that project exists or not.

    Raises:
        ApiError: 403.
    """
    if key.project not in {EVERY_PROJECT, project}:
        raise ApiError(403, "PROJECT_FORBIDDEN", "the API key must be for this project.", field="Authorization")


@dataclasses.dataclass(slots=True)
class _Bucket:
    tokens: float
    filled_at: float


class RateLimiter:
    """One token bucket per caller and project: a steady rate, with one second's worth of burst."""

    def __init__(self) -> None:
        self._buckets: OrderedDict[tuple[str, str], _Bucket] = OrderedDict()

    def take(self, key_id: str, project: str, *, per_second: float, now: float, cost: int = 1) -> None:
        """Count a request of `cost` items; `now` is a monotonic time in seconds.

        One with more items than there are tokens passes and is paid off by those who come after it: otherwise a batch
        above one second's worth could never pass.

        Raises:
            ApiError: 429 with the time after which there is room again.
        """
        burst = max(1.0, per_second * BURST_SECONDS)
        bucket = self._buckets.setdefault((key_id, project), _Bucket(burst, now))
        self._buckets.move_to_end((key_id, project))
        if len(self._buckets) > MAX_BUCKETS:
            self._buckets.popitem(last=False)
        bucket.tokens = min(burst, bucket.tokens + max(0.0, now - bucket.filled_at) * per_second)
        bucket.filled_at = now
        if bucket.tokens < 1.0:
            raise ApiError(
                429,
                "RATE_LIMITED",
                f"a key must send at most {per_second:g} requests per second. Slow down.",
                retry_after_seconds=(1.0 - bucket.tokens) / per_second,
            )
        bucket.tokens -= cost
