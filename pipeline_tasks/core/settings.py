"""The settings of the installation: the only reader of `os.environ`.

On one machine `dethrone up` writes `stack.json` (addresses) and the secret files below the home folder, and
that is all a task needs. Beyond one machine each value is set by its environment variable, and each process has the
secret files that it needs and no other.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import getpass
import ipaddress
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline_tasks.core.below import Below
from pipeline_tasks.core.proxies import without_own_services
from pipeline_tasks.errors import ConfigError

INSTALLED_AT = "installed_at"
RESTORING = "restore-in-progress"  # a home that holds this is not whole
RESTORED = "restored"  # one that holds this is whole and was not started since


class Secret:
    """A secret of the name of the attribute."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Settings, owner: type) -> str:
        return instance.secret(self._name)


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """Addresses and folders of this installation. A secret is read when it is used: no process has them all."""

    home: Path
    projects_dir: Path
    catalog_url: str = dataclasses.field(repr=False)
    s3_endpoint: str
    s3_bucket: str
    s3_region: str
    label_studio_url: str
    airflow_url: str
    gateway_url: str
    wandb_mode: str
    serving_host: str
    # Measured on two cores, 6,000 photos and 6 epochs: 9 s with one thread; with two, 78 s as soon as another process
    # wants a core, since torch's threads wait for each other at every operation.
    train_threads: int = 1
    train_device: str | None = None
    environment: Mapping[str, str] = dataclasses.field(repr=False, default_factory=dict)

    logs_dir = Below("home", "logs")
    bentoml_home = Below("home", "bentoml")
    wandb_dir = Below("home", "wandb")
    scratch_dir = Below("home", "scratch")
    docs_dir = Below("home", "data-docs")

    s3_access_key = Secret()
    s3_secret_key = Secret()
    label_studio_token = Secret()
    webhook_secret = Secret()
    airflow_admin_password = Secret()
    inference_key = Secret()
    split_key = Secret()

    @property
    def label_studio_s3_keys(self) -> tuple[str, str]:
        """Return the keys with which Label Studio reads items; our own where a store was given without others."""
        is_given = self._is_given
        if is_given("DETHRONE_LABEL_STUDIO_S3_ACCESS_KEY") or not is_given("DETHRONE_S3_ACCESS_KEY"):
            with contextlib.suppress(ConfigError):
                return self.secret("label_studio_s3_access_key"), self.secret("label_studio_s3_secret_key")
        return self.s3_access_key, self.s3_secret_key

    @property
    def inference_headers(self) -> dict[str, str]:
        """Return what a request to an inference service itself has to carry."""
        return {"Authorization": f"Bearer {self.inference_key}"}

    @property
    def signing_key(self) -> str | None:
        """Return what signs the ledger's entries; None where no `dethrone up` of this version has made one yet."""
        try:
            return self.secret("signing_key")
        except ConfigError:
            return None

    def _is_given(self, variable: str) -> bool:
        return bool(self.environment.get(variable) or self.environment.get(f"{variable}_FILE"))

    def secret(self, name: str) -> str:
        """Return a secret: its variable, or what its file says.

        Raises:
            ConfigError: there is neither.
        """
        variable = f"DETHRONE_{name.upper()}"
        if self.environment.get(variable):
            return self.environment[variable]
        path = Path(self.environment.get(f"{variable}_FILE") or self.home / "secrets" / name)
        try:
            return path.read_text().strip()
        except FileNotFoundError:
            raise ConfigError(
                f"{variable} must be set, or the file {path} must exist (got neither). "
                "`dethrone up` writes it at its first start; docker-compose.yml says which service has which."
            ) from None


def home_from(environment: Mapping[str, str]) -> Path:
    """Return the one state folder: DETHRONE_HOME, or `.dethrone` below the working directory."""
    return Path(environment.get("DETHRONE_HOME") or ".dethrone").expanduser().resolve()


def catalog_url(env: Mapping[str, str]) -> str:
    """Return DETHRONE_CATALOG_URL, what the file DETHRONE_CATALOG_URL_FILE says, or a SQLite file in the home."""
    if env.get("DETHRONE_CATALOG_URL"):
        return env["DETHRONE_CATALOG_URL"]
    if env.get("DETHRONE_CATALOG_URL_FILE"):
        return Path(env["DETHRONE_CATALOG_URL_FILE"]).read_text().strip()
    return f"sqlite:///{home_from(env) / 'catalog.db'}"


def load_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """Read the settings from the environment, then `stack.json` and `secrets/` in the home folder.

    Raises:
        ConfigError: a value has neither; the message names the variable and the command that writes it.
    """
    env = dict(os.environ if environment is None else environment)
    home = home_from(env)
    stack = _read_stack(home)

    def value(variable: str, stack_key: str) -> str:
        text = env.get(variable) or stack.get(stack_key)
        if not text:
            raise ConfigError(
                f"{variable} must be set, or {home / 'stack.json'} must hold {stack_key} (got neither). "
                "Start the stack with `dethrone up`, or set the variable."
            )
        return str(text)

    return Settings(
        home=home,
        projects_dir=Path(env.get("DETHRONE_PROJECTS") or stack.get("projects_dir") or "projects").resolve(),
        catalog_url=catalog_url(env),
        s3_endpoint=value("DETHRONE_S3_ENDPOINT", "s3_endpoint"),
        s3_bucket=env.get("DETHRONE_S3_BUCKET") or "dethrone",
        s3_region=env.get("DETHRONE_S3_REGION") or "us-east-1",
        label_studio_url=value("DETHRONE_LABEL_STUDIO_URL", "label_studio_url"),
        airflow_url=value("DETHRONE_AIRFLOW_URL", "airflow_url"),
        gateway_url=value("DETHRONE_GATEWAY_URL", "gateway_url"),
        wandb_mode=_wandb_mode(env),
        serving_host=_serving_host(env),
        train_threads=_train_threads(env),
        train_device=_train_device(env),
        environment=env,
    )


def _read_stack(home: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((home / "stack.json").read_text()))
    except FileNotFoundError:
        return {}


def _wandb_mode(env: Mapping[str, str]) -> str:
    if env.get("WANDB_MODE"):
        return env["WANDB_MODE"]
    return "online" if env.get("WANDB_API_KEY") or env.get("WANDB_BASE_URL") else "offline"


def _serving_host(env: Mapping[str, str]) -> str:
    text = env.get("DETHRONE_SERVING_HOST") or "127.0.0.1"
    try:
        address = ipaddress.IPv4Address(text)
    except ValueError:
        address = None
    if address is None or address.is_unspecified:
        raise ConfigError(
            f"DETHRONE_SERVING_HOST must be an IPv4 address of this machine (got {text}). The gateway reaches the "
            "servers of the process target there."
        )
    return text


def _train_threads(env: Mapping[str, str]) -> int:
    text = env.get("DETHRONE_TRAIN_THREADS") or "1"
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 1024:
        raise ConfigError(
            f"DETHRONE_TRAIN_THREADS must be a whole number from 1 to 1024 (got {text!r}). "
            "Another number gives another model version."
        )
    return int(text)


def _train_device(env: Mapping[str, str]) -> str | None:
    text = env.get("DETHRONE_TRAIN_DEVICE") or None
    if text is not None and not re.fullmatch(r"cpu|cuda(:[0-9]{1,3})?", text):
        raise ConfigError(
            f"DETHRONE_TRAIN_DEVICE must be cpu, cuda or cuda:<number> (got {text!r}). "
            "Leave it out to train on a GPU where there is one."
        )
    return text


def projects_dir() -> Path:
    """Return the folder of the projects without asking for anything else: what a DAG file needs to be parsed."""
    stack = _read_stack(home_from(os.environ))
    return Path(os.environ.get("DETHRONE_PROJECTS") or stack.get("projects_dir") or "projects").resolve()


def gpu_pod_template() -> str | None:
    """Return the pod template of tasks that want a GPU, where Kubernetes runs the tasks."""
    return os.environ.get("DETHRONE_GPU_POD_TEMPLATE") or None


def process_environment() -> dict[str, str]:
    """Return a copy of this process's environment, for the commands that hand it on to programs that they start."""
    return dict(os.environ)


def reach_own_services() -> dict[str, str]:
    """Keep this process's requests to the stack away from its shell's proxies; return the environment as it was."""
    before = dict(os.environ)
    environment = without_own_services(before)
    for name in set(before) - set(environment):
        del os.environ[name]
    os.environ.update(environment)
    return before


def user_name() -> str:
    """Return who gives a command; a user id that the machine has no name for is one, too."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def installed_at() -> dt.datetime | None:
    """Return when this installation was first started, or None: schedules begin then, not with what lies before."""
    try:
        text = (home_from(os.environ) / INSTALLED_AT).read_text().strip()
    except FileNotFoundError:
        return None
    return dt.datetime.fromisoformat(text) if text else None  # empty: the disk was full
