"""Builds the adapters from the settings: the one place that knows which implementation stands behind a port."""

from __future__ import annotations

import dataclasses
import functools
import subprocess
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline_tasks.adapters.airflow_rest import AirflowRest
from pipeline_tasks.adapters.gateway_admin import GatewayClient
from pipeline_tasks.adapters.s3 import S3ObjectStore
from pipeline_tasks.catalog.database import Database, create_engine
from pipeline_tasks.catalog.signatures import parse_key
from pipeline_tasks.contracts import Attempt, Fence, sha256_hex
from pipeline_tasks.core import crash_points
from pipeline_tasks.core.clock import utc_now
from pipeline_tasks.core.ports import ObjectStore
from pipeline_tasks.core.settings import Settings, load_settings
from pipeline_tasks.errors import ConfigError
from pipeline_tasks.project.loader import load_project
from pipeline_tasks.project.schema import LoadedProject

AIRFLOW_PATIENCE_SECONDS = 10.0
ROOT = Path(__file__).resolve().parents[2]


@dataclasses.dataclass
class Resources:
    """One process's adapters and repositories, each built when first used."""

    settings: Settings

    @cached_property
    def database(self) -> Database:
        key = self.settings.signing_key
        return Database(create_engine(self.settings.catalog_url, signer=parse_key(key) if key else None))

    @cached_property
    def store(self) -> S3ObjectStore:
        settings = self.settings
        return S3ObjectStore(
            endpoint=settings.s3_endpoint,
            bucket=settings.s3_bucket,
            access_key=settings.s3_access_key,
            secret_key=settings.s3_secret_key,
            region=settings.s3_region,
        )

    @property
    def brisk_store(self) -> ObjectStore:
        """Return the same store for those who cannot wait for it: what recovers must not need what failed."""
        return self.store.brisk if isinstance(self.store, S3ObjectStore) else self.store

    @cached_property
    def labeling(self) -> Any:
        from pipeline_tasks.adapters.label_studio import LabelStudio, ObjectStorage, Webhook

        settings = self.settings
        access_key, secret_key = settings.label_studio_s3_keys
        return LabelStudio(
            settings.label_studio_url,
            settings.label_studio_token,
            webhook=Webhook(f"{settings.airflow_url}/dethrone/hooks/label-studio/{{title}}", settings.webhook_secret),
            storage=ObjectStorage(
                bucket=settings.s3_bucket,
                endpoint=settings.s3_endpoint,
                region=settings.s3_region,
                access_key=access_key,
                secret_key=secret_key,
            ),
        )

    @property
    def own_s3(self) -> Any:
        """Return the stack's own S3 for sources that name no other."""
        from pipeline_tasks.ingest.sources.opening import S3Access

        settings = self.settings
        return S3Access(settings.s3_endpoint, settings.s3_access_key, settings.s3_secret_key, settings.s3_region)

    @cached_property
    def gateway(self) -> GatewayClient:
        key = (self.settings.home / "secrets" / "gateway_admin_key").read_text().strip()
        return GatewayClient(self.settings.gateway_url, api_key=key)

    @cached_property
    def airflow(self) -> AirflowRest:
        settings = self.settings
        return AirflowRest(
            settings.airflow_url,
            username="admin",
            password=settings.airflow_admin_password,
            patience_seconds=AIRFLOW_PATIENCE_SECONDS,
        )

    @cached_property
    def target(self) -> Any:
        from pipeline_tasks.stack.process_target import ProcessTarget

        settings = self.settings
        told = functools.partial(caller_environment, settings)
        return ProcessTarget(settings.home, host=settings.serving_host, told=told)

    @cached_property
    def tracker(self) -> Any:
        from pipeline_tasks.adapters.wandb_tracker import WandbTracker

        environment = self.settings.environment
        return WandbTracker(
            directory=self.settings.wandb_dir,
            mode=self.settings.wandb_mode,
            api_key=environment.get("WANDB_API_KEY"),
            base_url=environment.get("WANDB_BASE_URL"),
            environment=environment,
        )

    def project(self, name: str) -> LoadedProject:
        """Load one project's files.

        Raises:
            ConfigError: there is no such project, or a file of it is wrong.
        """
        folder = self.settings.projects_dir / name
        if not (folder / "project.yaml").is_file():
            known = sorted(path.parent.name for path in self.settings.projects_dir.glob("*/project.yaml"))
            raise ConfigError(
                f"project must be a folder with a project.yaml below {self.settings.projects_dir} "
                f"(got {name}). Known: {', '.join(known) or 'none'}."
            )
        return load_project(folder)

    def fence(self, project: str, stage: str, attempt: Attempt) -> Fence:
        """Take the lease of a project's stage for this attempt; an older attempt can publish nothing from now on."""
        return self.database.acquire(f"{project}/{stage}", attempt, now=utc_now())


def caller_environment(settings: Settings) -> dict[str, str]:
    """Return what an inference service is told of the key that its callers have to send: its SHA-256 alone."""
    from bento_services.inference.config import CALLER_KEY

    return {CALLER_KEY: sha256_hex(settings.inference_key.encode())}


def build_resources(settings: Settings | None = None) -> Resources:
    """Return this process's parts, with the crash point armed that a test asked for."""
    settings = settings or load_settings()
    crash_points.arm_from(settings.environment)
    return Resources(settings)


def lock_path() -> Path | None:
    """Return the lock file that the environment was installed from; None outside of a checkout."""
    path = ROOT / "requirements" / "pipeline.lock"
    return path if path.is_file() else None


def lock_hash() -> str:
    """Return the SHA-256 of the lock file that the environment was installed from: the same to train and to serve."""
    path = lock_path()
    return sha256_hex(path.read_bytes()) if path else "unlocked"


def code_revision() -> str:
    """Return the git revision of this checkout, `-dirty` when files differ from it, or `unknown` outside of git."""
    try:
        revision = _git("rev-parse", "HEAD")
        return f"{revision}-dirty" if _git("status", "--porcelain", "--untracked-files=no") else revision
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True, timeout=20)  # noqa: S603, S607
    return done.stdout.strip()
