"""Objects below a prefix of an S3 bucket: the stack's own, or anybody's with other keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline_tasks.errors import ConfigError, InputError, SourceUnavailable
from pipeline_tasks.guards.endpoint import proxies_to
from pipeline_tasks.ingest.sources.listing import Entry, FileRead
from pipeline_tasks.ingest.sources.opening import Opening, S3Access
from pipeline_tasks.project.source_schema import S3Source

READ_ATTEMPTS = 3
FAILURES_IN_A_ROW = 20  # one object that cannot be read is its own trouble, so many without a good one the source's
_GONE = frozenset({"NoSuchKey", "404", "NotFound"})
_OF_THE_KEYS = frozenset({"SignatureDoesNotMatch", "InvalidAccessKeyId", "NoSuchBucket", "ExpiredToken"})


def open_s3(source: S3Source, opening: Opening) -> S3Objects:
    """Return the objects of a source; raises ConfigError when its keys are missing."""
    setting = opening.setting
    access = resolve_access(source, setting=setting, environment=opening.environment, own=opening.own_s3)
    return S3Objects(source=source, access=access, setting=setting)


def resolve_access(source: S3Source, *, setting: str, environment: Mapping[str, str], own: S3Access | None) -> S3Access:
    """Return where a source's bucket is and the keys to it.

    Raises:
        ConfigError: a variable that `credentials` names is not set, or the stack's own S3 is not known here.
    """
    if source.credentials is None:
        if own is None:
            raise ConfigError(f"{setting}.credentials must be set (got nothing, and no S3 of the stack is known here).")
        return own
    names = (f"{source.credentials}_ACCESS_KEY", f"{source.credentials}_SECRET_KEY")
    missing = [name for name in names if not environment.get(name)]
    if missing:
        raise ConfigError(
            f"{setting}.credentials must name variables that are set (got none of {' and '.join(missing)}). "
            "Set them in the environment of the workers."
        )
    endpoint = source.endpoint_url or (own.endpoint_url if own is not None else "")
    return S3Access(endpoint, environment[names[0]], environment[names[1]])


class S3Objects:
    """The objects below a prefix, which is a folder: `ds` means `ds/`; the key is what follows it."""

    parallel_reads = 16
    newest_ns = 0

    def __init__(self, *, source: S3Source, access: S3Access, setting: str) -> None:
        import boto3
        from botocore.config import Config

        self.name = source.name
        self._bucket = source.bucket
        self._prefix = source.prefix if source.prefix.endswith("/") or not source.prefix else f"{source.prefix}/"
        self._num_failed = 0
        self._setting = setting
        self._client = boto3.session.Session().client(
            "s3",
            endpoint_url=access.endpoint_url or None,
            region_name=access.region,
            aws_access_key_id=access.access_key,
            aws_secret_access_key=access.secret_key,
            config=Config(
                s3={"addressing_style": "path"},
                signature_version="s3v4",
                retries={"max_attempts": 4, "mode": "standard"},
                max_pool_connections=self.parallel_reads,
                connect_timeout=5,
                read_timeout=60,
                proxies=proxies_to(access.endpoint_url),
            ),
        )

    def listing(self) -> Iterator[Entry]:
        """Yield every object once; "folders" (keys that end with /) are no objects."""
        from botocore.exceptions import BotoCoreError, ClientError

        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix)
        is_empty = True
        try:
            for page in pages:
                for listed in page.get("Contents", ()):
                    is_empty = False
                    if not listed["Key"].endswith("/"):
                        yield self._entry(listed)
            if is_empty:
                self._check_folder()
        except (ClientError, BotoCoreError) as error:
            raise self._explained(error, verb="list") from error

    def read(self, entry: Entry) -> FileRead | None:
        """Return the bytes of an object, with the tag that belongs to just these bytes.

        Raises:
            InputError: OBJECT_UNREADABLE: this one object may not or cannot be read.
        """
        from botocore.exceptions import BotoCoreError, ClientError, IncompleteReadError, ResponseStreamingError

        for attempt in range(READ_ATTEMPTS):
            try:
                answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + entry.key)
                data = answer["Body"].read()
            except (IncompleteReadError, ResponseStreamingError) as error:
                if attempt == READ_ATTEMPTS - 1:
                    raise self._alone(error, cause=type(error).__name__) from error
                continue
            except ClientError as error:
                code = str(error.response.get("Error", {}).get("Code"))
                if code in _GONE:
                    return None
                of_all = code in _OF_THE_KEYS
                raise (self._explained(error, verb="read") if of_all else self._alone(error, cause=code)) from error
            except BotoCoreError as error:
                raise self._explained(error, verb="read") from error
            self._num_failed = 0
            return FileRead(data, _tag(answer["ETag"], len(data)))
        return None

    def folders_digest(self) -> None:
        """Return nothing: a bucket has no folders."""

    def _alone(self, error: Exception, *, cause: str) -> Exception:
        """Return the error of one object; when one after the other cannot be read, of the source."""
        self._num_failed += 1
        if self._num_failed > FAILURES_IN_A_ROW:
            return self._explained(error, verb="read")
        return InputError(
            f"an object must be readable (got {cause}). Check its rights and storage class; the next run tries again.",
            code="OBJECT_UNREADABLE",
        )

    def _check_folder(self) -> None:
        """Raise ConfigError if nothing is below the prefix because it is the beginning of names."""
        name = self._prefix.removesuffix("/")
        if name and self._client.list_objects_v2(Bucket=self._bucket, Prefix=name, MaxKeys=1).get("Contents"):
            raise ConfigError(
                f"{self._setting}.prefix must be a folder of the bucket (got {name}: nothing is below {self._prefix}, "
                "only names that begin like it). Correct it."
            )

    def _entry(self, listed: Mapping[str, Any]) -> Entry:
        key = str(listed["Key"]).removeprefix(self._prefix)
        return Entry(key, _tag(listed["ETag"], listed["Size"]), int(listed["Size"]))

    def _explained(self, error: Exception, *, verb: str) -> Exception:
        from botocore.exceptions import ClientError

        place = f"s3://{self._bucket}/{self._prefix}"
        if not isinstance(error, ClientError):
            return SourceUnavailable(
                f"{self._setting} must be reachable (got {type(error).__name__} for {place}). "
                "Check that the S3 server runs and endpoint_url; the next run tries again."
            )
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        code = str(error.response.get("Error", {}).get("Code", status))
        if status >= 500 or status == 429:
            return SourceUnavailable(
                f"{self._setting} must answer (got {status} {code} for {place}). The next run tries."
            )
        if code == "NoSuchBucket":
            return ConfigError(f"{self._setting}.bucket must exist (got {code} for {place}). Create it, or correct it.")
        return ConfigError(
            f"{self._setting} must allow to {verb} {place} (got {status} {code}). "
            "Check the keys that `credentials` names and the rights of their user."
        )


def _tag(etag: str, size_bytes: int) -> str:
    digest = etag.strip('"')
    return f"{size_bytes}-{digest}"
