"""Releases on a real engine, out of a real registry: what serves, what is caught, what a crash leaves."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import threading

import httpx
import pytest

from pipeline_tasks.adapters import docker_target
from pipeline_tasks.adapters import release_image as images
from pipeline_tasks.adapters.base_image import recipe
from pipeline_tasks.adapters.container_registry import DOCKER_MANIFEST, Registry, digest_of
from pipeline_tasks.deployment import task as deployment_task
from pipeline_tasks.deployment.bento_builder import build_bento
from pipeline_tasks.errors import ConfigError, GateClosed, LostRace, ServiceUnavailable, StaleAttempt
from pipeline_tasks.models.artifact import load
from pipeline_tasks.orchestration.container_targets import publish
from tests.crash import crash_at, run_in_child
from tests.docker.dock import TOKEN, Dock, bento_time
from tests.docker.engine import RegistryServer
from tests.service.conftest import png
from tests.service.servers import ROOT

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]
HEADERS = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "image/png"}
LIST_PACKAGES = """
import importlib.metadata as m
print(*(f"{package.name}=={package.version}" for package in m.distributions(path=["/opt/serving"])))
"""
POINTS = (
    "release.push.after",
    "release.push.recorded",
    "ship.pull.after",
    "ship.create.after",
    "ship.container.after",
    "ship.route.before",
    "ship.route.after",
)


def ask(url: str, body: bytes) -> dict:
    answer = httpx.post(
        f"{url}/v1/projects/fashion/predict", content=body, headers=HEADERS, trust_env=False, timeout=20
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


def serves(dock: Dock, client, version: str) -> None:
    """Check that there is one champion of this version, and a container for it that predicts."""
    entries = dock.serving.head_route("fashion").entries
    assert [entry.model_version for entry in entries] == [version]
    assert httpx.get(f"{entries[0].address}/readyz", trust_env=False, timeout=10).status_code == 200


def container_of(dock: Dock, client, release):
    (container,) = [
        candidate
        for candidate in dock.containers(client)
        if candidate.labels["io.dethrone.release"] == release.release_id
    ]
    return container


def test_a_release_serves_what_the_offline_path_says_and_rolls_out_under_the_policy(dock, engine):
    client = engine.client
    with dock.real_gateway() as gateway:
        first = dock.release(dock.model("a"))
        dock.ship(first)
        model = load(dock.home / "models" / "a")
        for seed in range(20):
            expected = model.predict([model.decode(png(seed))])[0]
            answer = ask(gateway.url, png(seed))
            assert answer["model_version"] == "a"
            assert max(answer["confidence"], 0) == pytest.approx(float(expected.max()), abs=1e-4)
        dock.promote("b")
        dock.promote("c")
        assert ask(gateway.url, png())["model_version"] == "c"
    assert len(dock.containers(client)) == 2  # the champion and the one before; the first was drained and removed
    container = next(
        candidate for candidate in dock.containers(client) if candidate.labels["io.dethrone.model-version"] == "c"
    )
    _check_policy(client, dock, container)


def _check_policy(client, dock, container) -> None:
    host, config = container.attrs["HostConfig"], container.attrs["Config"]
    assert config["Image"].startswith(f"{dock.repository}@sha256:")
    assert config["User"] == "1034:1034"
    assert (host["ReadonlyRootfs"], host["CapDrop"], host["PidsLimit"]) == (True, ["ALL"], 256)
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert host["Memory"] == host["MemorySwap"] == 700 * 1024**2
    assert host["RestartPolicy"]["Name"] == "unless-stopped"
    assert host["LogConfig"]["Config"] == {"max-file": "3", "max-size": "10m"}
    assert [binding["HostIp"] for binding in host["PortBindings"]["3000/tcp"]] == ["127.0.0.1"]
    assert container.exec_run("touch /home/bentoml/x").exit_code != 0
    assert container.exec_run(["sh", "-c", "find / -xdev -perm /6000 -type f 2>/dev/null"]).output == b""
    assert container.exec_run(["sh", "-c", "command -v gcc cc make git"]).exit_code != 0
    environment = " ".join(config["Env"])
    assert not [word for word in ("SECRET", "PASSWORD", "TOKEN", "INDEX", "http://", "https://") if word in environment]
    installed = container.exec_run(["python3", "-c", LIST_PACKAGES])
    (record,) = dock.images(config["Labels"]["io.dethrone.release"])
    bill = json.loads(dock.store.get(record.sbom_key))
    listed = {
        f"{component['name']}=={component['version']}"
        for component in bill["components"]
        if component["type"] == "library"
    }
    assert listed == set(installed.output.decode().split())
    assert container.exec_run(["cat", "/home/bentoml/bento/sbom.cdx.json"]).output == dock.store.get(record.sbom_key)


def test_the_same_model_version_gives_the_same_image_and_only_a_small_layer_is_sent(dock, engine, monkeypatch):
    model = dock.model("same")
    sent = []
    monkeypatch.setattr(Registry, "push_blob", _counting(Registry.push_blob, sent))
    first = dock.release(model)
    (record,) = dock.images(first.release_id)
    weights = (dock.home / "models" / "same" / "model.safetensors").stat().st_size
    assert sum(sent) < weights + 1024**2
    again = dock.home / "second"
    build_bento(
        dock.home / "models" / "same",
        tag=first.bento_tag,
        labels={"model_version": "same", "verdict": first.verdict_id[:63]},
        bentoml_home=again,
    )
    bento_time(again, first.bento_tag, "2001-01-01T00:00:00+00:00")
    dock.parts.settings.bentoml_home = again
    published = publish(dock.parts, "fashion", dock.project.config.serving.docker, first.bento_tag)
    assert published.reference == record.image
    assert len(dock.images(first.release_id)) == 1
    config = json.loads(Registry(dock.repository).blob(record.image_id))
    assert config["created"] == images.CREATED
    assert config["config"]["Labels"]["io.dethrone.verdict"] == first.verdict_id[:63]
    assert engine.client.images.get(record.image).id == record.image_id


def _counting(push, sent):
    def counted(self, data):
        before = self.bytes_sent
        digest = push(self, data)
        sent.append(self.bytes_sent - before)
        return digest

    return counted


@pytest.mark.parametrize(
    "case",
    [
        ("raises", "DEPLOYMENT_NOT_READY", "the weights are haunted"),
        ("nan", "DEPLOYMENT_NOT_READY", "finite"),
        ("slow", "DEPLOYMENT_NOT_READY", "no answer in"),
        ("leaks", "DEPLOYMENT_NOT_READY", r"killed for want of memory \(limit 700m\)"),
        ("wrong", "INFRA_CHECK", "probabilities must agree"),
    ],
    ids=lambda case: case[0],
)
def test_a_bad_contender_is_caught_and_the_champion_keeps_serving(champion, engine, monkeypatch, case):
    dock, (bad, code, why) = champion, case
    monkeypatch.setattr(deployment_task, "READY_TIMEOUT_SECONDS", 20)
    monkeypatch.setattr(docker_target, "STOP_WAIT_SECONDS", 3)  # a model that loads for ever does not hear SIGTERM
    with pytest.raises((ServiceUnavailable, GateClosed), match=why) as caught:
        dock.release(dock.model(f"bad-{bad}", bad=bad), run=bad)
    assert caught.value.code == code
    serves(dock, engine.client, "good")
    assert len(dock.containers(engine.client)) == 1


@pytest.fixture(scope="module")
def champion(tmp_path_factory, engine, repository):
    """An installation with a good champion."""
    installation = Dock(tmp_path_factory.mktemp("champion"), repository=repository, environment=engine.environment)
    installation.promote("good")
    yield installation
    for container in installation.containers(engine.client):
        container.remove(force=True, v=True)


def test_kill_9_at_every_step_ends_with_one_champion_and_no_orphan(champion, engine):
    """Each killed run is followed by one that goes on from where it died."""
    for number, point in enumerate(POINTS):
        version = f"kill{number}"
        model = champion.model(version)
        crash_at(point, _release_and_ship, champion, model)
        run_in_child(_release_and_ship, champion, model)
        serves(champion, engine.client, version)
        containers = champion.containers(engine.client)
        assert [container.status for container in containers] == ["running"] * 2, point
        generations = [route.champion_version for route in champion.serving.history("fashion")]
        assert generations.count(version) == 1, point


def _release_and_ship(dock: Dock, model) -> None:
    fresh = dock.again()
    fresh.ship(fresh.release(model, run=model.version), run=model.version)


def test_two_runs_racing_to_ship_leave_one_champion(champion, engine):
    releases = [champion.release(champion.model(version), run=version) for version in ("race1", "race2")]
    before = len(champion.serving.history("fashion"))
    errors = []

    def race(release) -> None:
        mine = champion.again()
        try:
            mine.ship(release, run=release.model_version)
        except (LostRace, GateClosed, StaleAttempt) as error:
            errors.append(error)

    threads = [threading.Thread(target=race, args=(release,)) for release in releases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    history = champion.serving.history("fashion")
    assert len(history) - before == 2 - len(errors)
    assert len({route.generation for route in history}) == len(history)
    champion.again().ship(
        next(release for release in releases if release.model_version == history[-1].champion_version), run="x"
    )
    serves(champion, engine.client, history[-1].champion_version)
    assert len(champion.containers(engine.client)) == 2


def test_a_registry_that_is_down_changes_nothing_and_the_retry_ships(champion, engine, registry):
    model, before = champion.model("down"), champion.serving.head_route("fashion")
    registry.daemon.end(signal.SIGKILL)
    try:
        with pytest.raises(ServiceUnavailable, match="must answer GET"):
            champion.release(model, run="down")
        assert champion.serving.head_route("fashion") == before
        serves(champion, engine.client, before.champion_version)
    finally:
        registry.daemon.start()
    champion.ship(champion.release(model, run="down"), run="down")
    serves(champion, engine.client, "down")


def test_a_registry_that_is_full_gets_nothing_half_pushed(engine, tmp_path):
    """The registry's disk is a small loop device; a tiny base stands in for the real one."""
    with small_disk(tmp_path, megabytes=8) as disk, registry_on(disk) as server:
        dock = Dock(tmp_path / "home", repository=f"{server.host}/small", environment=engine.environment)
        registry = Registry(dock.repository)
        push_tiny_base(registry)
        model = dock.model("full")
        tag = _built(dock, model)
        filler = disk / "filler"
        with filler.open("wb") as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(64 * 1024))
                file.flush()
        docker = dock.project.config.serving.docker
        with pytest.raises(ServiceUnavailable, match="must answer") as caught:
            publish(dock.parts, "fashion", docker, tag)
        assert caught.value.code == "REGISTRY_AWAY"
        assert registry.manifest("fashion-r1") is None
        assert dock.images("r1") == []
        filler.unlink()
        published = publish(dock.parts, "fashion", docker, tag)
        assert registry.manifest(published.reference.partition("@")[2]) is not None


@contextlib.contextmanager
def small_disk(folder, *, megabytes):
    """Mount a file system of its own; the device goes with it."""
    image, mount = folder / "disk.img", folder / "disk"
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(megabytes * 1024**2)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
    mounted = subprocess.run(["mount", "-o", "loop", str(image), str(mount)], check=False, capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"no loop device: {mounted.stderr.decode()[:200]}")
    try:
        yield mount
    finally:
        subprocess.run(["umount", str(mount)], check=True)


@contextlib.contextmanager
def registry_on(disk):
    server = RegistryServer(root=disk / "registry")
    try:
        yield server
    finally:
        server.stop()


def push_tiny_base(registry) -> None:
    layer = images.pack_layer({"x": b"x"})
    config = json.dumps({"config": {"Labels": {}}, "rootfs": {"diff_ids": [digest_of(layer)]}}).encode()
    kind = "application/vnd.docker"
    document = {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": {
            "mediaType": f"{kind}.container.image.v1+json",
            "digest": registry.push_blob(config),
            "size": len(config),
        },
        "layers": [
            {
                "mediaType": f"{kind}.image.rootfs.diff.tar",
                "digest": registry.push_blob(layer),
                "size": len(layer),
            }
        ],
    }
    registry.push_manifest(
        json.dumps(document).encode(), media_type=DOCKER_MANIFEST, tag=recipe(ROOT, variant="cpu").tag
    )


def test_an_engine_that_is_ended_brings_the_champion_back_at_the_same_address(champion, engine):
    if engine.daemon is None:
        pytest.skip("the engine is the machine's own: not ours to end")
    before = champion.serving.head_route("fashion")
    engine.daemon.end(signal.SIGTERM)
    try:
        with pytest.raises(ServiceUnavailable, match="the Docker engine must answer") as caught:
            champion.release(champion.model("away"), run="away")
        assert caught.value.code == "ENGINE_AWAY"
    finally:
        engine.daemon.start()
    champion.target.wait_ready(before.entries[0].deployment_id, timeout_seconds=60)
    serves(champion, engine.client, before.champion_version)


def test_a_base_image_that_is_missing_is_named_before_anything_starts(engine, registry, repository, tmp_path):
    dock = Dock(tmp_path, repository=f"{registry.host}/empty", environment=engine.environment)
    with pytest.raises(ConfigError, match=r"make serving-base PUSH=localhost:\d+/empty") as caught:
        dock.release(dock.model("x"))
    assert caught.value.code == "BASE_IMAGE_MISSING"
    assert dock.containers(engine.client) == []


def test_a_gpu_that_is_required_and_missing_is_named(engine, repository, tmp_path):
    if "nvidia" in engine.client.info()["Runtimes"]:
        pytest.skip("this engine has a GPU")
    dock = Dock(tmp_path, repository=repository, environment=engine.environment, gpus="all")
    with pytest.raises(ConfigError, match="none offered") as caught:
        dock.release(dock.model("x"))
    assert caught.value.code == "GPU_MISSING"


def test_a_service_in_a_network_is_reached_by_its_name_and_publishes_nothing(engine, repository, tmp_path):
    client = engine.client
    network = client.networks.create("dethrone-test-net")
    dock = Dock(tmp_path, repository=repository, environment=engine.environment, network=network.name)
    try:
        model = dock.model("n")
        tag = _built(dock, model)
        handle = dock.target.start(deployment_id="d1", bento_tag=tag, environment={})
        (container,) = dock.containers(client)
        assert handle.address == f"http://{container.name}:3000"
        assert not container.attrs["HostConfig"]["PortBindings"]
        dock.target.stop("d1")
        dock.target.stop("d1")
        assert dock.target.list() == {}
    finally:
        with contextlib.suppress(Exception):
            dock.target.stop("d1")
        network.remove()


def _built(dock: Dock, model) -> str:
    tag = "dethrone_fashion:r1"
    folder = dock.home / "models" / model.version
    build_bento(folder, tag=tag, labels={"verdict": "v"}, bentoml_home=dock.parts.settings.bentoml_home)
    return tag
