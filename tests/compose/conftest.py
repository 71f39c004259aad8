"""One stack for the whole run, with a project whose first photos wait to be ingested."""

import os
import shutil

import pytest

from pipeline_tasks.demo import fashion_mnist
from tests.compose.stack import ROOT, ComposeStack, PrivateEngine

NUM_PHOTOS = 2500
ON_DOCKER = """
approval: { when: always }
serving:
  target: docker
  docker: { repository: registry:5000/dethrone, network: dethrone-serving }
  review_below: 0.5
  top_k: 3
"""


def write_project(folder):
    """Put the demo's project there, served by containers, with labeled photos as its first data."""
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "projects" / "fashion" / "labeling.xml", folder)
    text = (ROOT / "projects" / "fashion" / "project.yaml").read_text()
    before, _, after = text.partition("\nserving:\n")
    rest = after[after.index("\nmonitor:") :]
    (folder / "project.yaml").write_text(before + ON_DOCKER + rest)
    images, labels = fashion_mnist.load_subset()
    for number, (image, label) in enumerate(zip(images[:NUM_PHOTOS], labels, strict=False)):
        path = folder / "incoming" / "labeled" / str(label) / f"{number:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(fashion_mnist.png_bytes(image))
    return fashion_mnist.png_bytes(images[-1])


@pytest.fixture(scope="session")
def stack(tmp_path_factory):
    missing = [
        name for name in ("docker", "dockerd", "docker-compose", "debootstrap", "unshare") if not shutil.which(name)
    ]
    if missing or os.getuid() != 0:
        pytest.skip(f"not installed, or not root: {', '.join(missing) or 'root'}")
    folder = tmp_path_factory.mktemp("compose")
    engine = PrivateEngine()
    composed = ComposeStack(folder, engine=engine)
    try:
        composed.photo = write_project(composed.projects / "fashion")
        composed.build()
        composed.up()
        composed.push_serving_base()
        yield composed
    finally:
        composed.down()
        engine.stop()
