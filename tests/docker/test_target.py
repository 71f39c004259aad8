"""The contract of deployment targets on a real engine."""

from __future__ import annotations

import io
import os
import signal
from pathlib import Path

import pytest

from pipeline_tasks.adapters.docker_target import DockerTarget, RunnableImage
from pipeline_tasks.project.serving_schema import DockerServing
from tests.target_contract import BROKEN, SERVER, TargetContract

pytestmark = pytest.mark.docker
TINY = "dethrone-test/tiny:1"
DOCKERFILE = """FROM {base}
USER 1034:1034
CMD ["python3", "-c", "import os; exec(os.environ['CODE'])", "0.0.0.0", "3000"]
"""


@pytest.fixture(scope="module")
def tiny(engine):
    """An image that runs the code which its environment holds."""
    dockerfile = DOCKERFILE.format(base=engine.import_os())
    engine.client.images.build(fileobj=io.BytesIO(dockerfile.encode()), tag=TINY, rm=True)
    return TINY


@pytest.fixture
def hook(engine, tmp_path):
    """A file with what the engine told NVIDIA's hook: the engine runs with one that only writes that down."""
    if engine.daemon is None:
        pytest.skip("the engine is the machine's own: not ours to start anew")
    program = tmp_path / "programs" / "nvidia-container-runtime-hook"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho $@ > {tmp_path}/told\n")
    program.chmod(0o755)
    engine.daemon.end()
    engine.daemon.start("--add-runtime", "nvidia=runc", programs=program.parent)
    yield tmp_path / "told"
    engine.daemon.end()
    engine.daemon.start()


def test_an_engine_with_nvidias_hook_is_asked_for_gpus_that_compute(engine, tiny, tmp_path, hook):
    image = RunnableImage(tiny, {"CODE": SERVER})
    config = DockerServing(repository="localhost:5000/x", memory="64m", base="cuda", gpus="all")
    docker_target = DockerTarget(
        home=str(tmp_path), config=config, engine=lambda: engine.client, publish=lambda _: image
    )
    try:
        docker_target.start(deployment_id="gpu", bento_tag="a:b", environment={})
        docker_target.wait_ready("gpu", timeout_seconds=30)
        (container,) = engine.client.containers.list(filters={"label": "io.dethrone.deployment=gpu"})
        environment = Path(f"/proc/{container.attrs['State']['Pid']}/environ").read_text().split("\0")
    finally:
        docker_target.stop("gpu")
    assert hook.read_text() == "prestart\n"
    assert {"NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=compute,utility"} <= set(environment)


@pytest.fixture
def target(engine, tiny, tmp_path):
    def publish(bento_tag):
        return RunnableImage(tiny, {"CODE": BROKEN if bento_tag == "broken" else SERVER})

    config = DockerServing(repository="localhost:5000/x", memory="64m")
    docker_target = DockerTarget(home=str(tmp_path), config=config, engine=lambda: engine.client, publish=publish)
    yield docker_target
    for name in docker_target.list():
        docker_target.stop(name)


class TestDockerTarget(TargetContract):
    running = "running"

    def kill(self, target, name):
        """End the process from outside: `docker kill` means that somebody wants it ended."""
        os.kill(target._find(target._engine(), name).attrs["State"]["Pid"], signal.SIGKILL)

    def identity(self, target, name):
        return target._find(target._engine(), name).id
