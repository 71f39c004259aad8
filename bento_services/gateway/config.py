"""The gateway's settings: its only reader of the environment and of the secret files."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

from bento_services.gateway.async_predictions.callbacks import CallbackPolicy, parse_policy
from bento_services.gateway.async_predictions.store import StoreLimits
from pipeline_tasks.errors import ConfigError

MIB = 1024 * 1024
INFERENCE_KEY = ("DETHRONE_INFERENCE_KEY", "inference_key")


@dataclasses.dataclass(frozen=True, slots=True)
class GatewayConfig:
    """The gateway's folders, addresses and limits."""

    home: Path
    catalog_url: str = dataclasses.field(repr=False)
    poll_seconds: float = 0.5
    ship_seconds: float = 5.0
    spool_limit_bytes: int = 1024 * MIB
    segment_limit_bytes: int = 8 * MIB
    inference_timeout_seconds: float = 5.0
    body_timeout_seconds: float = 10.0
    max_in_flight: int = 512
    batch_max_items: int = 256
    batch_max_bytes: int = 32 * MIB
    callbacks: CallbackPolicy = dataclasses.field(default_factory=CallbackPolicy)
    store: StoreLimits = dataclasses.field(default_factory=StoreLimits)

    @property
    def spool_dir(self) -> Path:
        return self.home / "spool"

    @property
    def routes_file(self) -> Path:
        return self.home / "serving" / "routes.json"

    @property
    def predictions_file(self) -> Path:
        return self.home / "serving" / "predictions.db"


def load_config(environment: Mapping[str, str] | None = None) -> GatewayConfig:
    """Read DETHRONE_HOME and the DETHRONE_* limits; every one but the home has a default.

    Raises:
        ConfigError: a number is not one, or not above zero.
    """
    env = os.environ if environment is None else environment
    home = Path(env.get("DETHRONE_HOME") or ".dethrone").expanduser().resolve()
    defaults = GatewayConfig(home=home, catalog_url="")
    return GatewayConfig(
        home=home,
        catalog_url=_catalog_url(env, home),
        poll_seconds=_number(env, "DETHRONE_ROUTE_POLL_SECONDS", defaults.poll_seconds),
        ship_seconds=_number(env, "DETHRONE_LOG_SHIP_SECONDS", defaults.ship_seconds),
        spool_limit_bytes=int(_number(env, "DETHRONE_SPOOL_MAX_BYTES", defaults.spool_limit_bytes)),
        segment_limit_bytes=int(_number(env, "DETHRONE_SPOOL_SEGMENT_BYTES", defaults.segment_limit_bytes)),
        inference_timeout_seconds=_number(
            env, "DETHRONE_INFERENCE_TIMEOUT_SECONDS", defaults.inference_timeout_seconds
        ),
        body_timeout_seconds=_number(env, "DETHRONE_BODY_TIMEOUT_SECONDS", defaults.body_timeout_seconds),
        max_in_flight=int(_number(env, "DETHRONE_MAX_IN_FLIGHT", defaults.max_in_flight)),
        batch_max_items=int(_number(env, "DETHRONE_BATCH_MAX_ITEMS", defaults.batch_max_items)),
        batch_max_bytes=int(_number(env, "DETHRONE_BATCH_MAX_BYTES", defaults.batch_max_bytes)),
        callbacks=_callbacks(env),
        store=StoreLimits(
            max_pending=int(_number(env, "DETHRONE_ASYNC_MAX_PENDING", defaults.store.max_pending)),
            max_pending_bytes=int(_number(env, "DETHRONE_ASYNC_MAX_BYTES", defaults.store.max_pending_bytes)),
            keep_seconds=_number(env, "DETHRONE_PREDICTION_KEEP_SECONDS", defaults.store.keep_seconds),
        ),
    )


def _catalog_url(env: Mapping[str, str], home: Path) -> str:
    if env.get("DETHRONE_CATALOG_URL"):
        return env["DETHRONE_CATALOG_URL"]
    path = env.get("DETHRONE_CATALOG_URL_FILE")
    return Path(path).read_text().strip() if path else f"sqlite:///{home / 'catalog.db'}"


def load_inference_key(home: Path, environment: Mapping[str, str] | None = None) -> str | None:
    """Return the key that inference services ask for; None where there is none, and then none of them may ask."""
    try:
        return _secret(home, os.environ if environment is None else environment, *INFERENCE_KEY)
    except ConfigError:
        return None


def _callbacks(env: Mapping[str, str]) -> CallbackPolicy:
    try:
        return parse_policy(env.get("DETHRONE_CALLBACK_HOSTS", ""))
    except ValueError as error:
        raise ConfigError(f"DETHRONE_CALLBACK_HOSTS {error} Example: hooks.example.com, http://10.0.0.5:9000") from None


def _number(env: Mapping[str, str], name: str, default: float) -> float:
    text = env.get(name)
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 < value < float("inf"):
        raise ConfigError(f"{name} must be a number above 0 (got {text!r}).")
    return value


def _secret(home: Path, env: Mapping[str, str], variable: str, name: str) -> str:
    if env.get(variable):
        return env[variable]
    path = Path(env.get(f"{variable}_FILE") or home / "secrets" / name)
    try:
        return path.read_text().strip()
    except OSError:
        raise ConfigError(
            f"{variable} must be set, or the file {name} must exist in secrets/ (got neither). "
            "`dethrone up` writes it at its first start."
        ) from None
