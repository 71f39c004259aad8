"""The contract of deployment targets on a real engine."""

from __future__ import annotations

import io
import os
import signal

import pytest

from pipeline_tasks.adapters.docker_target import DockerTarget, RunnableImage
from pipeline_tasks.project_serving import DockerServing
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
def target(engine, tiny, tmp_path):
    def publish(bento_tag):
        return RunnableImage(tiny, {"CODE": BROKEN if bento_tag == "broken" else SERVER})

    config = DockerServing(repository="localhost:5000/x", memory="64m")
    one = DockerTarget(home=str(tmp_path), config=config, engine=lambda: engine.client, publish=publish)
    yield one
    for name in one.list():
        one.stop(name)


class TestDockerTarget(TargetContract):
    running = "running"

    def kill(self, target, name):
        """End the process from outside: `docker kill` means that somebody wants it ended."""
        os.kill(target._find(target._engine(), name).attrs["State"]["Pid"], signal.SIGKILL)

    def identity(self, target, name):
        return target._find(target._engine(), name).id
