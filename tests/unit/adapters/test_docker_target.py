"""Decisions of the Docker target, on an engine in memory; tests/docker has the real one."""

import types

import pytest
import requests
from docker.errors import APIError, DockerException, ImageNotFound, NotFound

from pipeline_tasks.adapters import docker_target as module
from pipeline_tasks.adapters import http_health, local_ports
from pipeline_tasks.adapters.docker_target import DockerTarget, RunnableImage
from pipeline_tasks.errors import ConfigError, PermanentError, ServiceUnavailable
from pipeline_tasks.project.serving_schema import DockerServing

IMAGE = RunnableImage("localhost:5000/x@sha256:ab", {"TUNING": "{}"}, auth={"username": "a", "password": "b"})


class Container:
    def __init__(self, engine, image, options):
        self.engine, self.image, self.options = engine, image, options
        self.name, self.labels, self.id = options["name"], dict(options["labels"]), options["name"]
        self.status, self.stopped = "created", None
        self.attrs = {"State": {"ExitCode": 0}, "RestartCount": 0}

    def start(self):
        ports = self.options.get("ports", {}).get("3000/tcp")
        if ports and ports[1] in self.engine.busy:
            raise refused(500, "driver failed: port is already allocated")
        if self.engine.start_error:
            raise self.engine.start_error
        self.status = "running"

    def reload(self): ...

    def stop(self, timeout):
        self.stopped, self.status = timeout, "exited"

    def remove(self, force=False, v=False):
        self.engine.all.pop(self.name, None)

    def logs(self, tail):
        return b"first line\nlast line\n"


class Engine:
    def __init__(self):
        self.all, self.busy, self.pulled, self.start_error, self.images_here = {}, set(), [], None, set()
        self.devices = None
        self.api_version, self.runtimes, self.oom, self.create_error = "1.43", {}, 0, None
        self.containers = types.SimpleNamespace(get=self._get, list=self._list, create=self._create)
        self.images = types.SimpleNamespace(get=self._image)
        self.api, self.pull_error = types.SimpleNamespace(pull=self._pull), None

    def version(self):
        return {"ApiVersion": self.api_version, "Version": "99"}

    def info(self):
        return {"Runtimes": self.runtimes, "DiscoveredDevices": self.devices}

    def events(self, **_):
        return iter([{}] * self.oom)

    def _get(self, name):
        if name not in self.all:
            raise NotFound("no such container")
        return self.all[name]

    def _list(self, *, filters, **_):
        wanted = [filters["label"]] if isinstance(filters["label"], str) else filters["label"]
        pairs = [label.partition("=") for label in wanted]
        return [
            container
            for container in self.all.values()
            if all(key in container.labels and (not sep or container.labels[key] == value) for key, sep, value in pairs)
        ]

    def _create(self, image, **options):
        if self.create_error:
            raise self.create_error
        self.all[options["name"]] = Container(self, image, options)
        return self.all[options["name"]]

    def _image(self, reference):
        if reference not in self.images_here:
            raise ImageNotFound("no")

    def _pull(self, repository, *, tag, auth_config, **_):
        self.pulled.append((repository, tag, auth_config))
        return [{"status": "Pulling"}, {"error": self.pull_error} if self.pull_error else {"status": "Done"}]


def refused(status, text):
    response = requests.Response()
    response.status_code = status
    return APIError("no", response=response, explanation=text)


@pytest.fixture
def engine(monkeypatch):
    monkeypatch.setattr(local_ports, "port_is_free", lambda _: True)
    return Engine()


def target(engine, *, home="/h", publish=lambda _: IMAGE, **options):
    config = DockerServing(repository="localhost:5000/x", **options)
    return DockerTarget(home=home, config=config, engine=lambda: engine, publish=publish, poll_seconds=0.001)


def start(docker_target, deployment_id="d1"):
    return docker_target.start(deployment_id=deployment_id, bento_tag="x:1", environment={"A": "1"})


def test_a_release_runs_by_its_digest_with_its_environment_and_its_limits(engine):
    handle = start(target(engine, memory="512m", cpus=1.5, pids=99))
    (container,) = engine.all.values()
    assert engine.pulled == [("localhost:5000/x", "sha256:ab", IMAGE.auth)]
    assert (container.image, handle.address) == (IMAGE.reference, f"http://127.0.0.1:{module.FIRST_PORT}")
    options = container.options
    assert options["environment"] == {"TUNING": "{}", "A": "1"}
    assert (options["mem_limit"], options["memswap_limit"], options["nano_cpus"]) == ("512m", "512m", 1_500_000_000)
    assert (options["pids_limit"], options["read_only"], options["cap_drop"]) == (99, True, ["ALL"])
    assert options["security_opt"] == ["no-new-privileges:true"]
    assert options["device_requests"] == []


def test_an_image_that_is_here_is_not_pulled(engine):
    engine.images_here.add(IMAGE.reference)
    start(target(engine))
    assert engine.pulled == []


@pytest.mark.parametrize(
    ("said", "kind", "code"),
    [
        ("write /x: no space left on device", ServiceUnavailable, "PULL_FAILED"),
        ("denied: requested access", PermanentError, "REGISTRY_REFUSED"),
    ],
)
def test_a_pull_that_fails_is_told_with_the_engines_words(engine, said, kind, code):
    engine.pull_error = said
    with pytest.raises(kind, match=said.partition(":")[0]) as error:
        start(target(engine))
    assert (error.value.code, engine.all) == (code, {})


def test_a_running_container_is_adopted_and_an_ended_one_started(engine):
    docker_target = target(engine)
    first = start(docker_target)
    (container,) = engine.all.values()
    container.status = "exited"
    assert start(target(engine, publish=None)) == first
    assert container.status == "running"
    assert start(target(engine, publish=None)) == first


def test_a_container_that_cannot_start_again_is_removed_for_the_retry(engine):
    docker_target = target(engine)
    start(docker_target)
    next(iter(engine.all.values())).status = "created"
    engine.start_error = refused(500, "port is already allocated")
    with pytest.raises(ServiceUnavailable, match=r"must start again .* It was removed"):
        start(docker_target)
    assert engine.all == {}


def test_each_container_gets_a_port_of_its_own_and_a_taken_one_is_passed_over(engine):
    docker_target = target(engine)
    engine.busy = {module.FIRST_PORT, module.FIRST_PORT + 1}
    assert start(docker_target, "d1").address.endswith(str(module.FIRST_PORT + 2))
    assert start(docker_target, "d2").address.endswith(str(module.FIRST_PORT + 3))
    assert len(engine.all) == 2


def test_when_every_port_is_taken_nothing_is_left(engine):
    engine.busy = set(range(module.FIRST_PORT, module.FIRST_PORT + 100))
    with pytest.raises(ServiceUnavailable, match="port is already allocated"):
        start(target(engine))
    assert engine.all == {}


def test_in_a_network_nothing_is_published(engine):
    handle = start(target(engine, network="stack"))
    (container,) = engine.all.values()
    assert handle.address == f"http://{container.name}:3000"
    assert (container.options["network"], "ports" in container.options) == ("stack", False)


def test_two_installations_do_not_see_each_other(engine):
    docker_target, other = target(engine, home="/a"), target(engine, home="/b")
    start(docker_target, "d1")
    start(other, "d2")
    assert (docker_target.list(), other.list()) == ({"d1": "running"}, {"d2": "running"})


def test_a_container_of_that_name_that_is_not_ours_is_left_alone(engine):
    docker_target = target(engine)
    start(docker_target)
    next(iter(engine.all.values())).labels["io.dethrone.home"] = "else"
    with pytest.raises(PermanentError, match="must be ours"):
        start(docker_target)


def test_another_attempt_that_was_faster_is_adopted(engine):
    docker_target = target(engine)
    start(docker_target)
    winner = dict(engine.all)
    engine.all.clear()
    engine.create_error = refused(409, "name is already in use")

    def publish(_):
        return IMAGE

    racing = target(engine, publish=publish)
    create = engine.containers.create

    def late(image, **options):
        engine.all.update(winner)
        return create(image, **options)

    engine.containers.create = late
    assert start(racing).address.endswith(str(module.FIRST_PORT))


@pytest.mark.parametrize(
    ("change", "options", "code", "text"),
    [
        ({"api_version": "1.24"}, {}, "ENGINE_TOO_OLD", r"API 1\.41, engine 20\.10 or newer \(got 1\.24, engine 99\)"),
        ({}, {"gpus": 2}, "GPU_MISSING", "got 2 wanted, none offered"),
        ({}, {"gpus": "all"}, "GPU_MISSING", "got all wanted, none offered"),
        ({"devices": [{"ID": "nvidia.com/gpu=0"}]}, {"gpus": 2}, "GPU_MISSING", "got 2 wanted, 1 offered"),
        ({"devices": [{"ID": "intel.com/gpu=0"}]}, {"gpus": 1}, "GPU_MISSING", "got 1 wanted, none offered"),
    ],
)
def test_an_engine_that_cannot_is_told_before_anything_is_built(engine, change, options, code, text):
    for name, value in change.items():
        setattr(engine, name, value)
    with pytest.raises(ConfigError, match=text) as error:
        start(target(engine, publish=None, **options))
    assert error.value.code == code


def test_gpus_are_asked_for_where_the_engine_has_them_and_forgone_where_they_may_be(engine):
    start(target(engine, gpus=1, require_gpus=False), "cpu")
    engine.runtimes = {"nvidia": {}}
    start(target(engine, gpus="all"), "gpu")
    start(target(engine, gpus=2), "two")
    asked = [container.options["device_requests"] for container in engine.all.values()]
    assert [[request["Count"] for request in each] for each in asked] == [[], [-1], [2]]
    # compute is CUDA itself: left out, some toolkits give the container nothing but nvidia-smi
    assert {str(request["Capabilities"]) for each in asked for request in each} == {"[['gpu', 'compute', 'utility']]"}
    assert {request["Driver"] for each in asked for request in each} == {"nvidia"}


def test_an_engine_that_knows_gpus_by_cdi_is_asked_by_their_names(engine):
    engine.devices = [{"Source": "cdi", "ID": f"nvidia.com/gpu={name}"} for name in ("10", "all", "2", "GPU-ab", "1")]
    start(target(engine, gpus="all"), "all")
    start(target(engine, gpus=2), "two")
    asked = [container.options["device_requests"] for container in engine.all.values()]
    assert [[(request["Driver"], request["DeviceIDs"], request["Count"]) for request in each] for each in asked] == [
        [("cdi", ["nvidia.com/gpu=1", "nvidia.com/gpu=2", "nvidia.com/gpu=10"], 0)],
        [("cdi", ["nvidia.com/gpu=1", "nvidia.com/gpu=2"], 0)],
    ]


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (DockerException("no socket"), ServiceUnavailable, "ENGINE_AWAY"),
        (requests.ConnectionError("gone"), ServiceUnavailable, "ENGINE_AWAY"),
        (refused(500, "no space left on device"), ServiceUnavailable, "ENGINE_FAILED"),
        (refused(409, "removal of container x is already in progress"), ServiceUnavailable, "ENGINE_BUSY"),
        (refused(400, "invalid"), PermanentError, "ENGINE_REFUSED"),
    ],
    ids=["away", "gone", "full", "busy", "refused"],
)
def test_what_the_sdk_raises_is_translated(engine, error, kind, code):
    engine.create_error = error
    with pytest.raises(kind) as caught:
        start(target(engine))
    assert caught.value.code == code


def test_stop_waits_for_requests_and_is_no_error_again(engine):
    docker_target = target(engine)
    start(docker_target)
    (container,) = engine.all.values()
    docker_target.stop("d1")
    docker_target.stop("d1")
    assert (container.stopped, engine.all) == (module.STOP_WAIT_SECONDS, {})


@pytest.mark.parametrize(
    ("status", "restarts", "reason"),
    [("exited", 0, "exited with exit code 0"), ("restarting", 3, "3 restarts"), ("running", 0, "no answer in 0 s")],
)
def test_a_server_that_does_not_get_ready_is_told_with_its_log(engine, monkeypatch, status, restarts, reason):
    monkeypatch.setattr(http_health, "http_health", lambda *_, **__: types.SimpleNamespace(ok=False))
    docker_target = target(engine, memory="64m")
    start(docker_target)
    (container,) = engine.all.values()
    container.status, container.attrs["RestartCount"], engine.oom = status, restarts, 2
    with pytest.raises(ServiceUnavailable, match=rf"got {reason}[\s\S]*want of memory \(limit 64m\)[\s\S]*last line"):
        docker_target.wait_ready("d1", timeout_seconds=0.05)


def test_a_server_that_is_gone_is_told(engine):
    with pytest.raises(ServiceUnavailable, match=r"got no such container\)\. There is no such container"):
        target(engine).wait_ready("d1", timeout_seconds=1)
