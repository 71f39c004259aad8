"""What the environment may say to an inference service; nothing is needed."""

from __future__ import annotations

import os

from pipeline_tasks.errors import ConfigError

TRACING_KEY = "DETHRONE_INFERENCE_TRACING"


def tracing() -> bool:
    """Return whether requests go through BentoML's OpenTelemetry middleware."""
    value = os.environ.get(TRACING_KEY, "off")
    if value not in {"on", "off"}:
        raise ConfigError(f"{TRACING_KEY} must be on or off (got {value[:40]!r}).")
    return value == "on"
