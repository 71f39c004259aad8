"""The errors that tasks raise: permanent ones stop a run, transient ones are retried.

Every error carries a machine-readable code in capitals; the message follows
`<key> must be <expected> (got <value>).` and says what to do next.
"""

MAX_PRINTED = 300


def printable(text: object, *, limit: int = MAX_PRINTED) -> str:
    """Return a text from outside as a message may carry it: one line that every terminal and database takes."""
    plain = str(text).encode("utf-8", "backslashreplace").decode()
    line = "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in plain)
    return line if len(line) <= limit else f"{line[: limit - 3]}..."


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
    """Data from outside is unusable; the code names the kind (EMPTY_FILE, IMAGE_TRUNCATED, ...)."""

    code = "INPUT_INVALID"


class GateClosed(PermanentError):
    """A check said no: the run ends as rejected(code), the champion stays."""

    code = "GATE_CLOSED"


class StaleAttempt(PermanentError):
    """A newer attempt of the same work holds the lease; this one must publish nothing."""

    code = "STALE_ATTEMPT"


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
