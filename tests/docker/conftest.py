"""One engine, one registry and one base image for the whole run; nothing is pulled."""

from __future__ import annotations

import contextlib
import os
import shutil

import pytest

from pipeline_tasks.adapters.base_image import build_base, push_base, recipe
from tests.docker.dock import Dock
from tests.docker.engine import Engine, RegistryServer
from tests.service.servers import ROOT


@pytest.fixture(scope="session")
def engine():
    try:
        running = Engine()
    except (OSError, RuntimeError, TimeoutError) as error:
        pytest.skip(f"no Docker engine: {error}")
    yield running
    running.stop()


@pytest.fixture(scope="session")
def registry(engine):
    if shutil.which("docker-registry") is None:
        pytest.skip("docker-registry is not installed")
    server = RegistryServer()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def base_image(engine, tmp_path_factory):
    """The base image of this checkout's lock, on Debian's own Python."""
    if shutil.which("debootstrap") is None:
        pytest.skip("debootstrap is not installed")
    name, _ = build_base(
        recipe(ROOT, variant="cpu"),
        os_base=engine.import_os(),
        engine=engine.client,
        environment=dict(os.environ),
        scratch=tmp_path_factory.mktemp("base"),
    )
    return name


@pytest.fixture(scope="session")
def repository(engine, registry, base_image):
    """A repository that holds the base image."""
    address = f"{registry.host}/dethrone"
    push_base(engine.client, base_image, repository=address, auth=None)
    return address


@pytest.fixture
def dock(tmp_path, engine, repository):
    """An empty installation that ships to the engine; its containers are removed in the end."""
    installation = Dock(tmp_path, repository=repository, environment=engine.environment)
    yield installation
    with contextlib.suppress(Exception):
        for container in installation.containers(engine.client):
            container.remove(force=True, v=True)
