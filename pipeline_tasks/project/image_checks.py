"""Checks of the targets that run images: where those go, and what they stand on."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pipeline_tasks.project.serving_schema import DockerServing, Images, KubernetesServing, Serving
from pipeline_tasks.project.yaml_reader import Finding, finding, shown

GPU_RUNTIMES = ("eager", "amp")
_REPOSITORY = re.compile(r"(?P<host>[a-z0-9.-]+(?::[0-9]{1,5})?)/[a-z0-9]+(?:[._/-]+[a-z0-9]+)*")
_DOCKER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


def check_images(serving: Serving) -> Iterator[Finding]:
    """Yield what contradicts the section's target as (path of the key, message)."""
    if serving.target == "docker":
        yield from _check_docker(serving.docker, runtime=serving.runtime)
    if serving.target == "kubernetes":
        yield from _check_kubernetes(serving.kubernetes, runtime=serving.runtime)


def _check_images(section: str, images: Images, *, wants_gpus: bool, runtime: str) -> Iterator[Finding]:
    if not is_repository(images.repository):
        yield finding(
            f"serving.{section}.repository",
            "must be <registry host>/<path> in lower case, without a tag "
            f"(got {shown(images.repository)}). Example: localhost:5000/dethrone.",
        )
    if images.connection is not None and not _DOCKER_NAME.fullmatch(images.connection):
        yield finding(
            f"serving.{section}.connection", f"must be letters, digits and _.- (got {shown(images.connection)})."
        )
    if wants_gpus and images.base != "cuda":
        text = f"must be cuda where gpus are asked for (got {images.base}): its torch sees none."
        yield finding(f"serving.{section}.base", text)
    if wants_gpus and runtime not in GPU_RUNTIMES:
        text = f"must be 0 with serving.runtime {runtime} (got some): it runs on the CPU."
        yield finding(f"serving.{section}.gpus", text)


def _check_docker(docker: DockerServing | None, *, runtime: str) -> Iterator[Finding]:
    if docker is None:
        yield finding(
            "serving.docker",
            "must be set when serving.target is docker (got nothing). "
            "Example: docker: {repository: localhost:5000/dethrone}.",
        )
        return
    yield from _check_images("docker", docker, wants_gpus=docker.gpus != 0, runtime=runtime)
    if isinstance(docker.gpus, int) and docker.gpus < 0:
        yield finding("serving.docker.gpus", f"must be 0 or more, or all (got {docker.gpus}).")
    if docker.network is not None and not _DOCKER_NAME.fullmatch(docker.network):
        yield finding("serving.docker.network", f"must be letters, digits and _.- (got {shown(docker.network)}).")


def _check_kubernetes(kubernetes: KubernetesServing | None, *, runtime: str) -> Iterator[Finding]:
    if kubernetes is None:
        text = "must be set when serving.target is kubernetes (got nothing)."
        yield finding("serving.kubernetes", f"{text} Example: kubernetes: {{namespace: dethrone, repository: ...}}.")
        return
    yield from _check_images("kubernetes", kubernetes, wants_gpus=kubernetes.gpus > 0, runtime=runtime)
    if kubernetes.max_replicas < kubernetes.min_replicas:
        yield finding(
            "serving.kubernetes.max_replicas",
            f"must be at least min_replicas, {kubernetes.min_replicas} (got {kubernetes.max_replicas}).",
        )


def is_repository(text: str) -> bool:
    """Say whether a text names a repository by its registry, without tag or digest: `host[:port]/path`."""
    match = _REPOSITORY.fullmatch(text)
    return match is not None and (match["host"].startswith("localhost") or bool({".", ":"} & set(match["host"])))
