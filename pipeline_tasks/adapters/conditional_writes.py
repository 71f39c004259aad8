"""Proof that an S3 keeps `If-None-Match` and `If-Match`: without it two champions could both win."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pipeline_tasks.errors import PermanentError

PREFIX = "self-test"
NUM_RACERS = 4
_LOST = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey", "412", "409", "404"})


def prove_conditional_writes(client: Any, *, bucket: str, nonce: str, num_rounds: int = 2) -> None:
    """Let several writers race for one key, first to create it and then to replace it, and count the winners.

    Raises:
        PermanentError: not exactly one won, or the object does not hold the winner's bytes: the store ignores the
            condition (STORE_UNSAFE), as SeaweedFS 4.16 did.
    """
    for round_number in range(num_rounds):
        key = f"{PREFIX}/{nonce}-{round_number}"
        try:
            _race(client, bucket=bucket, key=key, condition="IfNoneMatch", value="*", kind="create")
            etag = client.head_object(Bucket=bucket, Key=key)["ETag"]
            _race(client, bucket=bucket, key=key, condition="IfMatch", value=etag, kind="replace")
        finally:
            client.delete_object(Bucket=bucket, Key=key)


def _race(client: Any, *, bucket: str, key: str, condition: str, value: str, kind: str) -> None:
    barrier = threading.Barrier(NUM_RACERS)
    bodies = [f"{kind} by racer {racer}".encode() for racer in range(NUM_RACERS)]

    def write(body: bytes) -> bool:
        barrier.wait()
        return _wins(lambda: client.put_object(Bucket=bucket, Key=key, Body=body, **{condition: value}))

    with ThreadPoolExecutor(max_workers=NUM_RACERS) as pool:
        outcomes = list(pool.map(write, bodies))
    winners = [body for body, won in zip(bodies, outcomes, strict=True) if won]
    content = client.get_object(Bucket=bucket, Key=key)["Body"].read()
    if len(winners) != 1 or content != winners[0]:
        raise PermanentError(
            f"one of {NUM_RACERS} racing writes with {condition} must win (got {len(winners)} winners). "
            "This S3 ignores conditional writes: use SeaweedFS 4.17 or newer, or another store that keeps them.",
            code="STORE_UNSAFE",
        )


def _wins(write: Callable[[], Any]) -> bool:
    from botocore.exceptions import ClientError

    try:
        write()
    except ClientError as error:
        if str(error.response.get("Error", {}).get("Code")) in _LOST:
            return False
        raise
    return True
