"""Meanings of the S3 client's errors: try again, or tell the person what to change."""

from __future__ import annotations

from botocore.exceptions import ClientError, ConnectionError, HTTPClientError, IncompleteReadError  # noqa: A004
from botocore.parsers import ResponseParserError

from pipeline_tasks.errors import PermanentError

MISSING = frozenset({"NoSuchKey", "404", "NotFound"})
LOST = frozenset({"PreconditionFailed", "412"})
# The bytes arrived, but not the ones that were sent.
DAMAGED = frozenset({"BadDigest", "XAmzContentSHA256Mismatch", "IncompleteBody", "XAmzContentChecksumMismatch"})
BUSY = frozenset({"SlowDown", "RequestTimeout", "Throttling", "ConditionalRequestConflict", "OperationAborted"})
# The upload of a large file was completed, but the answer was lost and the SDK asked again: begin anew.
LOST_UPLOAD = frozenset({"NoSuchUpload"})


def code(error: Exception) -> str:
    """Return S3's error code; an answer without a body has its status as the code."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def status(error: Exception) -> int:
    """Return the HTTP status; 0 when there was no answer."""
    if not isinstance(error, ClientError):
        return 0
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def reason(error: Exception) -> str:
    """Return the error in a few words, without addresses and secrets."""
    return f"{status(error)} {code(error)}".strip() if isinstance(error, ClientError) else type(error).__name__


def is_transient(error: Exception) -> bool:
    """Return whether the same request may succeed later."""
    if isinstance(error, ClientError):
        return status(error) >= 500 or status(error) == 429 or code(error) in BUSY | DAMAGED | LOST_UPLOAD
    return isinstance(error, HTTPClientError | ConnectionError | IncompleteReadError | ResponseParserError)


def permanent(error: Exception, *, endpoint: str, bucket: str, verb: str, key: str) -> Exception:
    """Return the error of ours that says what to do: KeyError for a missing object, otherwise PermanentError."""
    place = f"{bucket}/{key}"
    if code(error) in MISSING:
        return KeyError(key)
    if code(error) == "NoSuchBucket":
        advice = f"The bucket {bucket} does not exist: create it, or set DETHRONE_S3_BUCKET."
    elif code(error) in {"InvalidAccessKeyId", "SignatureDoesNotMatch"}:
        advice = "The access key or its secret is wrong: check DETHRONE_S3_ACCESS_KEY and DETHRONE_S3_SECRET_KEY."
    elif code(error) == "RequestTimeTooSkewed":
        advice = "The clocks of this machine and of the store differ by more than 15 minutes: set them."
    elif code(error) == "InvalidBucketName":
        advice = "A bucket's name has 3 to 63 small letters, digits and hyphens: set DETHRONE_S3_BUCKET."
    elif status(error) == 403:
        advice = f"The access key is wrong or may not {verb} under {place}: check the key and its permissions."
    else:
        advice = "A retry does not help: read the store's log."
    return PermanentError(f"{endpoint} must {verb} {place} (got {reason(error)}). {advice}", code="S3_REFUSED")
