"""Parts that the targets of images are built with."""

import types
from pathlib import Path

import pytest

from pipeline_tasks.orchestration import container_targets
from pipeline_tasks.project.serving_schema import DockerServing, KubernetesServing


def target(*, home, split_key):
    settings = types.SimpleNamespace(home=Path(home), split_key=split_key, environment={})
    config = DockerServing(repository="registry:5000/dethrone")
    serving = types.SimpleNamespace(docker=config)
    loaded = types.SimpleNamespace(name="fashion", config=types.SimpleNamespace(serving=serving))
    return container_targets.docker_target(types.SimpleNamespace(settings=settings), loaded)


def name_of(docker_target):
    return docker_target._name("fashion-1")


def test_two_installations_on_one_engine_do_not_know_each_others_containers():
    mine = name_of(target(home="/var/lib/dethrone", split_key="a"))
    assert name_of(target(home="/var/lib/dethrone", split_key="a")) == mine
    assert name_of(target(home="/var/lib/dethrone", split_key="b")) != mine
    assert name_of(target(home="/elsewhere", split_key="a")) != mine


@pytest.mark.parametrize(
    ("config", "required"),
    [
        (DockerServing(repository="r.io/x"), False),
        (DockerServing(repository="r.io/x", gpus="all"), True),
        (DockerServing(repository="r.io/x", gpus=1), True),
        (DockerServing(repository="r.io/x", gpus=1, require_gpus=False), False),
        (KubernetesServing(repository="r.io/x", namespace="n"), False),
        (KubernetesServing(repository="r.io/x", namespace="n", gpus=1), True),
    ],
)
def test_a_release_that_requires_a_gpu_does_not_serve_from_a_cpu(config, required):
    assert container_targets.gpu_environment(config) == ({"DETHRONE_INFERENCE_GPU": "required"} if required else {})
