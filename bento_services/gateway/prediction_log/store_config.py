"""The place of the prediction log: address and keys of the object store, read when they are needed."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bento_services.gateway.config import _secret
from pipeline_tasks.errors import ConfigError


@dataclasses.dataclass(frozen=True, slots=True)
class StoreConfig:
    """The place of the prediction log; secrets are kept out of `repr`."""

    endpoint: str
    bucket: str
    region: str
    access_key: str = dataclasses.field(repr=False)
    secret_key: str = dataclasses.field(repr=False)


def store_config_reader(home: Path, environment: Mapping[str, str] | None = None) -> Callable[[], StoreConfig]:
    """Return a function that reads the store's address and keys when they are needed.

    The gateway serves before the stack has written them, and without them.
    """
    env = dict(os.environ if environment is None else environment)
    return lambda: load_store_config(home, env)


def load_store_config(home: Path, environment: Mapping[str, str]) -> StoreConfig:
    """Read the store's address and keys from the environment, then `stack.json` and `secrets/` in the home folder.

    Raises:
        ConfigError: a value has neither.
    """
    endpoint = environment.get("DETHRONE_S3_ENDPOINT") or _stack(home).get("s3_endpoint")
    if not endpoint:
        raise ConfigError(
            "DETHRONE_S3_ENDPOINT must be set, or stack.json must hold s3_endpoint (got neither). "
            "Start the stack with `dethrone up`; until then predictions wait in the spool."
        )
    return StoreConfig(
        endpoint=str(endpoint),
        bucket=environment.get("DETHRONE_S3_BUCKET") or "dethrone",
        region=environment.get("DETHRONE_S3_REGION") or "us-east-1",
        access_key=_secret(home, environment, "DETHRONE_S3_ACCESS_KEY", "s3_access_key"),
        secret_key=_secret(home, environment, "DETHRONE_S3_SECRET_KEY", "s3_secret_key"),
    )


def _stack(home: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((home / "stack.json").read_text()))
    except (FileNotFoundError, ValueError):
        return {}
