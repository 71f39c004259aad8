"""Settings of an inference service from the environment; none is needed."""

from __future__ import annotations

import os
import re

from pipeline_tasks.errors import ConfigError

TRACING_KEY = "DETHRONE_INFERENCE_TRACING"
TUNING_KEY = "DETHRONE_INFERENCE_TUNING"
GPU_KEY = "DETHRONE_INFERENCE_GPU"
CALLER_KEY = "DETHRONE_INFERENCE_KEY_SHA256"


def tracing() -> bool:
    """Return whether requests go through BentoML's OpenTelemetry middleware."""
    value = os.environ.get(TRACING_KEY, "off")
    if value not in {"on", "off"}:
        raise ConfigError(f"{TRACING_KEY} must be on or off (got {value[:40]!r}).")
    return value == "on"


def check_device(device: str) -> None:
    """Refuse a device that is not the one this service was promised.

    Raises:
        ConfigError: a GPU is required and torch sees none.
    """
    value = os.environ.get(GPU_KEY, "optional")
    if value not in {"required", "optional"}:
        raise ConfigError(f"{GPU_KEY} must be required or optional (got {value[:40]!r}).")
    if value == "required" and device == "cpu":
        raise ConfigError(
            "torch must see a GPU: this release requires one (got none). The machine's driver may be older than the "
            "CUDA of the base image: compare `nvidia-smi` there with `python -m torch.utils.collect_env` here."
        )


def key_digest() -> bytes | None:
    """Return the SHA-256 of the key that callers send; None lets everyone in, as a service under test does.

    Raises:
        ConfigError: the value is no SHA-256 in lower-case hex.
    """
    value = os.environ.get(CALLER_KEY)
    if value is None:
        return None
    if not re.fullmatch(r"[0-9a-f]{64}", value):
        raise ConfigError(f"{CALLER_KEY} must be a SHA-256 as 64 hexadecimal digits (got {len(value)} characters).")
    return bytes.fromhex(value)


def tuning_text() -> str | None:
    """Return the release's measured sizes where they are not beside its model: an image must not hold them."""
    return os.environ.get(TUNING_KEY)
