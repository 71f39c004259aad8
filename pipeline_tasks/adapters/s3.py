"""The object store on any S3: checksums both ways, one retry budget, and no trust in an error's word."""

from __future__ import annotations

import base64
import builtins
import datetime as dt
import hashlib
import logging
import os
import random
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.client import Config
from botocore.exceptions import BotoCoreError, ClientError, FlexibleChecksumError
from botocore.parsers import ResponseParserError

from pipeline_tasks.adapters import s3_errors
from pipeline_tasks.adapters.conditional_writes import prove_conditional_writes
from pipeline_tasks.contracts import Location, sha256_hex, sha256_of_file
from pipeline_tasks.core.object_keys import check_digest, check_key, digest_in_key
from pipeline_tasks.core.ports import ObjectInfo
from pipeline_tasks.errors import DataCorrupt, PermanentError, ServiceUnavailable
from pipeline_tasks.guards.endpoint import proxies_to

logger = logging.getLogger(__name__)

RETRY_BUDGET_SECONDS = 90.0  # SeaweedFS needs 12 to 24 s to come back after kill -9
CONNECT_TIMEOUT_SECONDS = 5
BRISK_SECONDS = 2
BRISK_REST_SECONDS = 10  # after a call that waited in vain: those behind it in the same rollback do not wait again
READ_TIMEOUT_SECONDS = 20
LONGEST_PAUSE_SECONDS = 5.0
PART_ATTEMPTS = 5
CHUNK_BYTES = 8 * 1024 * 1024
DELETE_BATCH = 1000
CORRUPT_READS = 3  # a flipped bit on the way goes away when read again; one on the disk does not

T = TypeVar("T")


class S3ObjectStore:
    """One bucket of an S3 server; safe to use from many threads."""

    def __init__(
        self,
        *,
        endpoint: str,
        bucket: str,
        access_key: str,
        secret_key: str,
        region: str = "us-east-1",
        max_connections: int = 32,
        budget_seconds: float = RETRY_BUDGET_SECONDS,
        read_timeout_seconds: float = READ_TIMEOUT_SECONDS,
        rest_seconds: float = 0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        rng: random.Random | None = None,
        client: Any = None,
    ) -> None:
        self._same_bucket = partial(
            S3ObjectStore, endpoint=endpoint, bucket=bucket, access_key=access_key, secret_key=secret_key, region=region
        )
        self.endpoint = endpoint
        self.bucket = bucket
        self._region = region
        self._budget_seconds = budget_seconds
        self._rest_seconds, self._resting_until = rest_seconds, clock()
        self._clock = clock
        self._sleep = sleep
        self._rng = rng or random.Random()  # noqa: S311 - jitter between retries, no secret
        self._make_client = partial(
            _make_client,
            endpoint=endpoint,
            access_key=access_key,
            secret_key=secret_key,
            region=region,
            max_connections=max_connections,
            read_timeout_seconds=read_timeout_seconds,
        )
        # Ours is the only retry: one hidden in the SDK turns a successful conditional write into a 412.
        self._client: Any = client or self._make_client(max_attempts=1)

    @cached_property
    def brisk(self) -> S3ObjectStore:
        """Return the same bucket for those who go on without it when it does not answer at once."""
        return self._same_bucket(
            budget_seconds=BRISK_SECONDS, read_timeout_seconds=BRISK_SECONDS, rest_seconds=BRISK_REST_SECONDS
        )

    @cached_property
    def _upload_client(self) -> Any:
        """Repeats single parts of a large file by itself; never used for conditional writes."""
        return self._make_client(max_attempts=PART_ATTEMPTS)

    def put(self, key: str, data: bytes, *, content_type: str = "application/octet-stream") -> None:
        check_digest(check_key(key), data)
        request = self._put_request(key, data, content_type)
        self._retried("put", key, lambda: self._client.put_object(**request))

    def put_file(self, key: str, path: Path, *, content_type: str = "application/octet-stream") -> None:
        check_key(key)
        digest = sha256_of_file(path)
        expected = digest_in_key(key)
        if expected not in {None, digest}:
            raise DataCorrupt(f"{path} must have the SHA-256 that {key} names (got {digest}). Read its source again.")
        extra = {"ContentType": content_type, "Metadata": {"sha256": digest}, "ChecksumAlgorithm": "SHA256"}
        transfer = TransferConfig(multipart_threshold=CHUNK_BYTES, multipart_chunksize=CHUNK_BYTES, max_concurrency=4)

        def upload() -> None:
            with path.open("rb") as file:
                self._upload_client.upload_fileobj(file, self.bucket, key, ExtraArgs=extra, Config=transfer)

        self._retried("put", key, upload)

    def create(self, key: str, data: bytes, *, content_type: str = "application/octet-stream") -> bool:
        check_digest(check_key(key), data)
        request = self._put_request(key, data, content_type) | {"IfNoneMatch": "*"}

        def attempt() -> bool:
            try:
                self._client.put_object(**request)
            except ClientError as error:
                if s3_errors.code(error) not in s3_errors.LOST:
                    raise
                # Lost, or an earlier attempt of ours was written although its answer never came: look.
                return self._digest_of(key) == sha256_hex(data)
            return True

        return self._retried("create", key, attempt)

    def get(self, key: str) -> bytes:
        check_key(key)
        return self._retried("get", key, lambda: self._reread(key, lambda: self._get_checked(key)))

    def get_range(self, location: Location) -> bytes:
        key = check_key(location.object_key)
        if location.size_bytes == 0:
            return b""
        last = location.offset + location.size_bytes - 1

        def attempt() -> bytes:
            try:
                answer = self._client.get_object(Bucket=self.bucket, Key=key, Range=f"bytes={location.offset}-{last}")
                data: bytes = answer["Body"].read()
            except ClientError as error:
                if s3_errors.code(error) not in {"InvalidRange", "416"}:
                    raise
                data = b""
            if len(data) != location.size_bytes:
                raise DataCorrupt(
                    f"{key} must hold {location.size_bytes} bytes at offset {location.offset} (got {len(data)})."
                )
            return data

        return self._retried("get", key, lambda: self._reread(key, attempt))

    def get_file(self, key: str, path: Path) -> None:
        check_key(key)
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        try:
            self._retried("get", key, lambda: self._reread(key, lambda: self._stream(key, part)))
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    def exists(self, key: str) -> bool:
        check_key(key)
        try:
            self._retried("head", key, lambda: self._client.head_object(Bucket=self.bucket, Key=key))
        except KeyError:
            return False
        return True

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        token: dict[str, str] = {}
        while True:
            request = {"Bucket": self.bucket, "Prefix": prefix, **token}
            page = self._retried("list", prefix, partial(self._client.list_objects_v2, **request))
            for entry in page.get("Contents", ()):
                yield ObjectInfo(
                    key=entry["Key"],
                    size_bytes=entry["Size"],
                    etag=entry["ETag"].strip('"'),
                    modified_at=entry["LastModified"],
                )
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def delete(self, keys: Iterable[str]) -> None:
        batch: builtins.list[dict[str, str]] = []
        for key in keys:
            batch.append({"Key": check_key(key)})
            if len(batch) == DELETE_BATCH:
                self._delete(batch)
                batch = []
        if batch:
            self._delete(batch)

    def ensure_bucket(self) -> None:
        """Create the bucket if it is not there."""

        def attempt() -> None:
            try:
                self._client.head_bucket(Bucket=self.bucket)
            except ClientError as error:
                if s3_errors.status(error) != 404:
                    raise
                self._create_bucket()

        self._retried("create the bucket", "", attempt)

    def self_test(self) -> None:
        """Prove that the store keeps conditional writes; call before anything relies on it.

        Raises:
            PermanentError: it does not (STORE_UNSAFE), so that two runs could both win.
        """
        self._retried(
            "race for a key of",
            "self-test/",
            lambda: prove_conditional_writes(self._client, bucket=self.bucket, nonce=secrets.token_hex(16)),
        )

    def abort_stale_uploads(self, *, before: dt.datetime) -> int:
        """Abort multipart uploads that were begun before a time (a killed writer's) and return how many."""
        listing = self._retried("list", "", lambda: self._client.list_multipart_uploads(Bucket=self.bucket))
        stale = [upload for upload in listing.get("Uploads", ()) if upload["Initiated"] < before]
        for upload in stale:
            request = {"Bucket": self.bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
            self._retried("abort", upload["Key"], partial(self._client.abort_multipart_upload, **request))
        return len(stale)

    def _put_request(self, key: str, data: bytes, content_type: str) -> dict[str, Any]:
        digest = hashlib.sha256(data).digest()
        return {
            "Bucket": self.bucket,
            "Key": key,
            "Body": data,
            "ContentType": content_type,
            "ChecksumSHA256": base64.b64encode(digest).decode(),
            "Metadata": {"sha256": digest.hex()},
        }

    def _get_checked(self, key: str) -> bytes:
        answer = self._client.get_object(Bucket=self.bucket, Key=key)
        data: bytes = answer["Body"].read()
        _compare(key, sha256_hex(data), _expected_digest(key, answer))
        return data

    def _stream(self, key: str, path: Path) -> None:
        answer = self._client.get_object(Bucket=self.bucket, Key=key)
        digest = hashlib.sha256()
        with path.open("wb") as file:
            for chunk in answer["Body"].iter_chunks(1024 * 1024):
                digest.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        _compare(key, digest.hexdigest(), _expected_digest(key, answer))

    def _digest_of(self, key: str) -> str | None:
        """Return the SHA-256 of what lies under a key now, from its metadata or else from its bytes."""
        answer = self._client.head_object(Bucket=self.bucket, Key=key)
        recorded = answer["Metadata"].get("sha256")
        return recorded if recorded is not None else sha256_hex(self._get_checked(key))

    def _reread(self, key: str, read: Callable[[], T]) -> T:
        for _ in range(CORRUPT_READS - 1):
            try:
                return read()
            except (DataCorrupt, FlexibleChecksumError):
                logger.warning("%s: bytes do not match their checksum, reading again", key)
        try:
            return read()
        except FlexibleChecksumError as error:
            raise DataCorrupt(f"{key} must match its checksum (got {error}). Restore it from a backup.") from error

    def _delete(self, batch: builtins.list[dict[str, str]]) -> None:
        request = {"Bucket": self.bucket, "Delete": {"Objects": batch, "Quiet": True}}
        answer = self._retried("delete", batch[0]["Key"], lambda: self._client.delete_objects(**request))
        if answer.get("Errors"):
            first = answer["Errors"][0]
            raise PermanentError(
                f"{self.bucket}/{first['Key']} must be deletable (got {first['Code']}). Check the key's permissions."
            )

    def _create_bucket(self) -> None:
        where = {} if self._region == "us-east-1" else {"LocationConstraint": self._region}
        extra = {"CreateBucketConfiguration": where} if where else {}
        try:
            self._client.create_bucket(Bucket=self.bucket, **extra)
        except ClientError as error:
            if s3_errors.code(error) not in {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}:
                raise

    def _retried(self, verb: str, key: str, action: Callable[[], T]) -> T:
        """Do it, again and again with jitter until the budget is spent; then, or at once, raise our own errors."""
        began, pause = self._clock(), 0.1
        if began < self._resting_until:
            raise ServiceUnavailable(
                f"{self.endpoint} must {verb} {self.bucket}/{key} (got no answer before, not asked again for "
                f"{self._rest_seconds:g} s). Check that the object store runs: `dethrone status`."
            )
        deadline = began + self._budget_seconds
        while True:
            try:
                return action()
            except (BotoCoreError, ClientError, ResponseParserError) as error:
                if not s3_errors.is_transient(error):
                    raise s3_errors.permanent(
                        error, endpoint=self.endpoint, bucket=self.bucket, verb=verb, key=key
                    ) from error
                wait = self._rng.uniform(0, pause)
                if self._clock() + wait > deadline:
                    self._resting_until = self._clock() + self._rest_seconds
                    raise ServiceUnavailable(
                        f"{self.endpoint} must {verb} {self.bucket}/{key} within {self._budget_seconds:g} s "
                        f"(got {s3_errors.reason(error)}). Check that the object store runs: `dethrone status`."
                    ) from error
                logger.warning("cannot %s %s now (%s), trying again", verb, key, s3_errors.reason(error))
            self._sleep(wait)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def _make_client(
    *,
    endpoint: str,
    access_key: str,
    secret_key: str,
    region: str,
    max_connections: int,
    read_timeout_seconds: float,
    max_attempts: int,
) -> Any:
    return boto3.session.Session().client(
        "s3",
        endpoint_url=endpoint,
        region_name=region,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        config=Config(
            s3={"addressing_style": "path"},
            signature_version="s3v4",
            connect_timeout=min(CONNECT_TIMEOUT_SECONDS, read_timeout_seconds),
            read_timeout=read_timeout_seconds,
            max_pool_connections=max_connections,
            retries={"total_max_attempts": max_attempts, "mode": "standard"},
            proxies=proxies_to(endpoint),
        ),
    )


def _expected_digest(key: str, answer: dict[str, Any]) -> str | None:
    return digest_in_key(key) or answer["Metadata"].get("sha256")


def _compare(key: str, got: str, expected: str | None) -> None:
    if expected is not None and got != expected:
        raise DataCorrupt(
            f"{key} must hold bytes with the SHA-256 {expected} (got {got}). "
            "Restore the object from a backup, or make it again from its source."
        )
