"""The errors that tasks raise: permanent ones stop a run, transient ones are retried.

Every error carries a machine-readable code in capitals; the message follows
`<key> must be <expected> (got <value>).` and says what to do next.
"""

import hashlib
import re

MAX_MESSAGE = 4000
# What terminals, logs or databases take badly: control characters, line ends, direction signs, half characters.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: object, *, limit: int = 200) -> str:
    """Return text from outside on one line that every terminal and database takes; doing it again changes nothing.

    What is longer than the limit is cut, and ends with a part of its digest.
    """
    line = _UNPRINTABLE.sub(_escape, str(text))
    if len(line) <= limit:
        return line
    digest = hashlib.sha256(line.encode()).hexdigest()[:12]
    return f"{line[: limit - 20]}...{digest}"


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


class PipelineError(Exception):
    """Base of every error that this project raises on purpose."""

    code = "PIPELINE_ERROR"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code


class PermanentError(PipelineError):
    """A retry cannot help: a person or other input is needed."""

    code = "PERMANENT"


class TransientError(PipelineError):
    """A retry may help: an outside system is away, slow or full."""

    code = "TRANSIENT"


class ConfigError(PermanentError, ValueError):
    """A file the user wrote (project.yaml, labeling.xml, settings) is wrong."""

    code = "CONFIG_INVALID"


class InputError(PermanentError, ValueError):
    """Data from outside is unusable; the code names the kind (EMPTY_FILE, IMAGE_TRUNCATED, ...).

    The message may quote that data: it is made printable here, once for all that raise it.
    """

    code = "INPUT_INVALID"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(printable(message, limit=MAX_MESSAGE), code=code)


class GateClosed(PermanentError):
    """A check said no: the run ends as rejected(code), the champion stays."""

    code = "GATE_CLOSED"


class StaleAttempt(PermanentError):
    """A newer attempt of the same work, `holder`, has the lease; this one must publish nothing."""

    code = "STALE_ATTEMPT"

    def __init__(self, message: str, *, holder: str = "") -> None:
        super().__init__(message)
        self.holder = holder


class LostRace(PipelineError):
    """A compare-and-swap found that somebody else moved the pointer first: re-read and decide again."""

    code = "LOST_RACE"


class DataCorrupt(PermanentError):
    """Stored bytes do not hash to their name."""

    code = "DATA_CORRUPT"


class SourceUnavailable(TransientError):
    """A data source (SQL, S3, folder) cannot be reached now."""

    code = "SOURCE_UNAVAILABLE"


class ServiceUnavailable(TransientError):
    """One of the stack's own services (S3, Label Studio, inference) does not answer."""

    code = "SERVICE_UNAVAILABLE"
