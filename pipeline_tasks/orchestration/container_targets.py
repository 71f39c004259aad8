"""Targets that run images: their registry, their base image, and the image of each release."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from bento_services.inference.batch_tuning import TUNING_NAME
from bento_services.inference.config import GPU_KEY, TUNING_KEY
from pipeline_tasks.adapters import release_image as images
from pipeline_tasks.adapters.base_image import recipe
from pipeline_tasks.adapters.container_registry import Credentials, Registry
from pipeline_tasks.adapters.docker_target import DockerTarget, RunnableImage
from pipeline_tasks.adapters.kubernetes_target import KubernetesTarget
from pipeline_tasks.catalog.release_images import ImageRecord, ImageRepository
from pipeline_tasks.contracts import sha256_hex
from pipeline_tasks.core.clock import utc_now
from pipeline_tasks.core.crash_points import crash_point
from pipeline_tasks.errors import ConfigError
from pipeline_tasks.models.artifact import MANIFEST_NAME
from pipeline_tasks.orchestration.resources import ROOT, Resources, caller_environment
from pipeline_tasks.project.schema import LoadedProject
from pipeline_tasks.project.serving_schema import DockerServing, Images, KubernetesServing
from pipeline_tasks.stack.addresses import DEFAULT_PORTS

logger = logging.getLogger(__name__)

ENGINE_TIMEOUT_SECONDS = 120


def docker_target(parts: Resources, loaded: LoadedProject) -> DockerTarget:
    """Return the target of a project whose serving.target is docker."""
    config = loaded.config.serving.docker
    if config is None:  # the project's checks have said so already
        raise ConfigError(f"serving.docker of {loaded.name} must be set (got nothing).")
    publishing = functools.partial(publish, parts, loaded.name, config)
    return _on_engine(parts, config=config, publishing=publishing)


def engine_target(parts: Resources) -> DockerTarget:
    """Return the engine's containers of projects whose settings are gone: to list and to stop, not to start."""
    return _on_engine(parts, config=DockerServing(repository="none/none"), publishing=_no_image)


def _on_engine(parts: Resources, *, config: DockerServing, publishing: Callable[[str], RunnableImage]) -> DockerTarget:
    # In containers every home has one path, and two installations may share an engine: their split keys differ.
    installation = f"{parts.settings.home} {sha256_hex(parts.settings.split_key.encode())}"
    engine = engine_of(parts.settings.environment)
    reserved = DEFAULT_PORTS.values()
    return DockerTarget(home=installation, config=config, engine=engine, publish=publishing, reserved_ports=reserved)


def _no_image(bento_tag: str) -> RunnableImage:
    raise ConfigError(f"serving.docker must be set to run {bento_tag} (got nothing): the project's folder is gone.")


def kubernetes_target(parts: Resources, loaded: LoadedProject) -> KubernetesTarget:
    """Return the target of a project whose serving.target is kubernetes."""
    config = loaded.config.serving.kubernetes
    if config is None:  # the project's checks have said so already
        raise ConfigError(f"serving.kubernetes of {loaded.name} must be set (got nothing).")
    return KubernetesTarget(config=config, publish=functools.partial(publish, parts, loaded.name, config))


def engine_of(environment: Mapping[str, str], *, timeout_seconds: int = ENGINE_TIMEOUT_SECONDS) -> Any:
    """Return what connects to the Docker engine that DOCKER_HOST names, once."""

    @functools.cache
    def engine() -> Any:
        import docker

        return docker.from_env(environment=dict(environment), timeout=timeout_seconds)

    return engine


def credentials_of(config: Images) -> Credentials | None:
    """Return what the project's connection holds; None where its registry asks for nothing."""
    if config.connection is None:
        return None
    from pipeline_tasks.adapters.airflow_connections import registry_credentials

    return registry_credentials(config.connection)


def publish(parts: Resources, project: str, config: Images, bento_tag: str) -> RunnableImage:
    """Let the registry have the image of a bento, record it, and return how to run it.

    The image is a pure function of bento and base, so a retry sends only what is missing and names the same digest.

    Raises:
        ConfigError: BASE_IMAGE_MISSING, the registry has no base image for this lock.
        ServiceUnavailable, PermanentError: the registry is away, full, or refuses the credentials.
    """
    credentials = credentials_of(config)
    plain_http = parts.settings.environment.get("DETHRONE_PLAIN_HTTP_REGISTRY")
    registry = Registry(config.repository, credentials=credentials, plain_http=plain_http)
    base = _base_image(registry, config)
    name, release_id = bento_tag.split(":")
    home = parts.settings.bentoml_home
    bento, model = home / "bentos" / name / release_id, home / "models" / name / release_id
    facts = _facts(bento, model)
    base_packages = base.labels.get(images.PACKAGES_LABEL, "").split()
    bill = images.sbom(
        base_packages, project=project, version=facts["version"], digest=facts["weights"], base_digest=base.digest
    )
    labels = images.image_labels(
        project=project,
        release_id=release_id,
        verdict_id=facts["verdict"],
        bento_digest=facts["bento"],
        model=facts,
        base=base,
    )
    built = images.build_image(
        base, {**images.bento_files(bento, model, tag=bento_tag), images.SBOM_NAME: bill}, labels=labels
    )
    if registry.manifest(built.digest) is None:
        registry.push_blob(built.layer)
        crash_point("release.push.after")
        registry.push_blob(built.config)
        registry.push_manifest(built.manifest, media_type=built.media_type, tag=f"{project}-{release_id}")
    sbom_key = f"bentos/{project}/{release_id}.{built.digest[7:19]}.{images.SBOM_NAME}"
    parts.store.put(sbom_key, bill, content_type="application/vnd.cyclonedx+json")
    record = ImageRecord(
        project=project,
        release_id=release_id,
        image=f"{config.repository}@{built.digest}",
        image_id=built.image_id,
        base_digest=base.digest,
        layer_bytes=len(built.layer),
        sbom_key=sbom_key,
    )
    ImageRepository(parts.database).record(record, now=utc_now())
    crash_point("release.push.recorded")
    logger.info("image %s: %d bytes sent", record.image, registry.bytes_sent)
    auth = {"username": credentials.username, "password": credentials.password} if credentials else None
    told = _tuning(model) | gpu_environment(config) | caller_environment(parts.settings)
    return RunnableImage(record.image, environment=told, auth=auth)


def _base_image(registry: Registry, config: Images) -> images.BaseImage:
    made_from = recipe(ROOT, variant=config.base)
    tag = config.base_digest or made_from.tag
    manifest = registry.manifest(tag)
    if manifest is None:
        variant = "" if config.base == "cpu" else f" VARIANT={config.base}"
        raise ConfigError(
            f"{registry.repository} must hold the base image {tag} (got none for this lock). Build and push it once: "
            f"make serving-base{variant} PUSH={registry.repository}. The champion keeps serving.",
            code="BASE_IMAGE_MISSING",
        )
    config_blob = json.loads(registry.blob(manifest.document["config"]["digest"]))
    base = images.BaseImage(
        digest=manifest.digest,
        media_type=manifest.media_type,
        layers=tuple(manifest.document["layers"]),
        config=config_blob,
    )
    lock = sha256_hex(made_from.lock.read_bytes())
    if config.base_digest and base.labels.get(images.LOCK_LABEL) != lock:
        raise ConfigError(
            f"base_digest must name the base image of {made_from.lock.name} (got {config.base_digest}, of another "
            f"lock). Push {made_from.tag} and take its digest. The champion keeps serving.",
            code="BASE_IMAGE_MISSING",
        )
    return base


def _facts(bento: Path, model: Path) -> dict[str, str]:
    """Return what the image's labels say, from the bento and its model's manifest."""
    labels = yaml.safe_load((bento / "bento.yaml").read_text())["labels"]
    manifest = json.loads((model / MANIFEST_NAME).read_bytes())
    return {
        "version": manifest["config"]["version"],
        "lock_hash": manifest["config"]["lock_hash"],
        "code_revision": manifest["origin"]["code_revision"],
        "weights": manifest["weights_digest"],
        "verdict": str(labels.get("verdict", "")),
        "bento": str(labels["digest"]),
    }


def _tuning(model: Path) -> dict[str, str]:
    """Return the measured sizes as the container's environment: measured anew they would change the image."""
    path = model / TUNING_NAME
    return {TUNING_KEY: path.read_text()} if path.is_file() else {}


def gpu_environment(config: Images) -> dict[str, str]:
    """Have the service refuse to answer from a CPU where the project pays for a GPU."""
    on_docker = isinstance(config, DockerServing) and config.gpus != 0 and config.require_gpus
    on_kubernetes = isinstance(config, KubernetesServing) and config.gpus > 0
    return {GPU_KEY: "required"} if on_docker or on_kubernetes else {}
