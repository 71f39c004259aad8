"""What the environment may say to an inference service; nothing is needed."""

from __future__ import annotations

import os

from pipeline_tasks.errors import ConfigError

TRACING_KEY = "DETHRONE_INFERENCE_TRACING"
TUNING_KEY = "DETHRONE_INFERENCE_TUNING"


def tracing() -> bool:
    """Return whether requests go through BentoML's OpenTelemetry middleware."""
    value = os.environ.get(TRACING_KEY, "off")
    if value not in {"on", "off"}:
        raise ConfigError(f"{TRACING_KEY} must be on or off (got {value[:40]!r}).")
    return value == "on"


def tuning_text() -> str | None:
    """Return the release's measured sizes where they are not beside its model: an image must not hold them."""
    return os.environ.get(TUNING_KEY)
