"""The contract of a deployment target, on the process target and on Kubernetes (a fake API server) alike."""

import types

import pytest

from pipeline_tasks.adapters import http_health, local_ports
from pipeline_tasks.adapters.kubernetes_manifests import KINDS
from pipeline_tasks.adapters.kubernetes_target import KubernetesTarget
from pipeline_tasks.errors import ConfigError, PermanentError, ServiceUnavailable
from pipeline_tasks.project.serving_schema import KubernetesServing
from pipeline_tasks.stack.process_target import ProcessTarget
from tests.unit.stack.test_process_target import Supervisor

NAMESPACE = "serving"
IMAGE = "registry.example.com/dethrone@sha256:" + "a" * 64


class OnProcess:
    def __init__(self, folder, monkeypatch):
        monkeypatch.setattr(local_ports, "port_is_free", lambda _port, **_: True)
        monkeypatch.setattr(http_health, "http_health", lambda *_a, **_k: http_health.Health(ok=True, detail=""))
        self.supervisor, self.folder = Supervisor(), folder
        self.target = ProcessTarget(folder, supervisor=self.supervisor, poll_seconds=0.001)

    def become_ready(self, name):
        pass

    def break_down(self, name):
        (self.folder / "logs").mkdir(exist_ok=True)
        (self.folder / "logs" / f"inference-{name}.log").write_text("no such model\n")
        self.supervisor.states[f"inference-{name}"] = iter([("FATAL", None)])


class OnKubernetes:
    def __init__(self, cluster, url):
        from kubernetes import client

        self.cluster = cluster
        self.config = KubernetesServing(namespace=NAMESPACE, repository="registry.example.com/dethrone")
        image = types.SimpleNamespace(reference=IMAGE, environment={"DETHRONE_TUNING": "{}"})
        self.connection = client.ApiClient(client.Configuration(host=url))
        self.connection.configuration.retries = False
        self.target = KubernetesTarget(
            config=self.config, publish=lambda _tag: image, api=lambda: self.connection, poll_seconds=0.01
        )

    def become_ready(self, name):
        self.cluster.become_ready(name)

    def break_down(self, name):
        waiting = {"waiting": {"reason": "CrashLoopBackOff"}}
        self.cluster.add_pod(name, log="no such model\n", restartCount=3, state=waiting)


@pytest.fixture
def on_kubernetes():
    pytest.importorskip("kubernetes", reason="the Kubernetes client is not installed (requirements/cluster.lock)")
    pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed (requirements/dev.lock)")
    from tests.kubernetes_server import running_cluster

    with running_cluster() as (cluster, url):
        yield OnKubernetes(cluster, url)


@pytest.fixture(params=["process", "kubernetes"])
def place(request, tmp_path, monkeypatch):
    if request.param == "process":
        return OnProcess(tmp_path, monkeypatch)
    return request.getfixturevalue("on_kubernetes")


def start(place, name="fashion-1", **environment):
    return place.target.start(deployment_id=name, bento_tag="dethrone_fashion:r1", environment=environment)


def test_a_start_again_adopts_what_is_there(place):
    first = start(place)
    assert start(place) == first
    assert first.deployment_id == "fashion-1"
    assert first.address.startswith("http://")
    assert list(place.target.list()) == ["fashion-1"]


def test_two_deployments_have_addresses_of_their_own(place):
    assert start(place, "a").address != start(place, "b").address
    assert set(place.target.list()) == {"a", "b"}


def test_a_ready_server_is_ready(place):
    start(place)
    place.become_ready("fashion-1")
    place.target.wait_ready("fashion-1", timeout_seconds=5)


def test_a_broken_server_is_told_with_its_last_log_lines(place):
    start(place)
    place.break_down("fashion-1")
    with pytest.raises(ServiceUnavailable, match=r"fashion-1 must become ready \(got (.|\n)*no such model") as caught:
        place.target.wait_ready("fashion-1", timeout_seconds=5)
    assert caught.value.code == "DEPLOYMENT_NOT_READY"


def test_a_stopped_server_is_gone_and_can_be_stopped_again(place):
    start(place)
    place.target.stop("fashion-1")
    assert place.target.list() == {}
    place.target.stop("fashion-1")
    place.target.stop("never-was")


@pytest.mark.parametrize("name", ["", "../etc", "a b", "a\nb", "x" * 101, "-d", "a/b"])
def test_an_id_that_names_nothing_is_refused(place, name):
    with pytest.raises(ConfigError, match="deployment_id must be 1 to"):
        start(place, name)


# Kubernetes alone


def test_every_object_is_applied_and_valid(on_kubernetes):
    start(on_kubernetes, DETHRONE_DEPLOYMENT="fashion-1")
    cluster = on_kubernetes.cluster
    assert sorted(body["kind"] for body in cluster.objects.values()) == sorted(kind.name for kind in KINDS)
    spec = cluster.deployment("fashion-1")["spec"]
    assert "replicas" not in spec  # the autoscaler's
    (container,) = spec["template"]["spec"]["containers"]
    assert container["image"] == IMAGE
    assert {variable["name"]: variable["value"] for variable in container["env"]} == {
        "DETHRONE_DEPLOYMENT": "fashion-1",
        "DETHRONE_TUNING": "{}",
        "OMP_NUM_THREADS": "1",
    }
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert spec["template"]["spec"]["automountServiceAccountToken"] is False


def test_gpus_are_limited_and_tolerated(on_kubernetes):
    on_kubernetes.target._config = on_kubernetes.config.model_copy(
        update={"gpus": 2, "node_selector": {"pool": "gpu"}, "pull_secret": "pull"}
    )
    start(on_kubernetes)
    pod = on_kubernetes.cluster.deployment("fashion-1")["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert pod["nodeSelector"] == {"pool": "gpu"}
    assert pod["imagePullSecrets"] == [{"name": "pull"}]


def test_applying_again_changes_nothing_and_leaves_the_autoscalers_field_alone(on_kubernetes):
    start(on_kubernetes)
    cluster = on_kubernetes.cluster
    (path,) = [key for key in cluster.objects if "/deployments/" in key]
    scaled = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "fashion-1"}, "spec": {"replicas": 5}}
    assert cluster.apply(path, scaled, manager="autoscaler", force=False)[0] == 200
    before = cluster.deployment("fashion-1")["metadata"]["generation"]
    start(on_kubernetes)
    assert cluster.deployment("fashion-1")["spec"]["replicas"] == 5
    assert cluster.deployment("fashion-1")["metadata"]["generation"] == before


def test_a_variable_that_is_not_wanted_any_more_is_removed(on_kubernetes):
    start(on_kubernetes, EXTRA="1")
    start(on_kubernetes)
    (container,) = on_kubernetes.cluster.deployment("fashion-1")["spec"]["template"]["spec"]["containers"]
    assert "EXTRA" not in {variable["name"] for variable in container["env"]}


def test_what_somebody_else_changed_is_not_overwritten(on_kubernetes):
    start(on_kubernetes)
    cluster = on_kubernetes.cluster
    (path,) = [key for key in cluster.objects if "/services/" in key]
    other = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "fashion-1"}}
    other["spec"] = {"selector": {"app.kubernetes.io/instance": "mine"}}
    assert cluster.apply(path, other, manager="kubectl", force=True)[0] == 200
    with pytest.raises(
        PermanentError, match=r"HTTP 409: Apply failed with 1 conflicts: kubectl: spec\.selector"
    ) as caught:
        start(on_kubernetes)
    assert caught.value.code == "CLUSTER_REFUSED"


def test_an_object_that_the_api_does_not_know_is_refused(on_kubernetes):
    on_kubernetes.target._config = on_kubernetes.config.model_copy(update={"min_replicas": "two"})
    with pytest.raises(PermanentError, match=r"HTTP 422: 'two' is not of type 'integer'"):
        start(on_kubernetes)


def test_what_a_crash_left_half_applied_is_listed_completed_and_removed(on_kubernetes):
    cluster = on_kubernetes.cluster
    start(on_kubernetes)
    for path in [key for key in cluster.objects if "deployments" in key or "autoscalers" in key]:
        cluster.objects.pop(path)
    assert on_kubernetes.target.list() == {"fashion-1": "incomplete"}
    start(on_kubernetes)
    assert on_kubernetes.target.list() == {"fashion-1": "starting"}
    on_kubernetes.become_ready("fashion-1")
    assert on_kubernetes.target.list() == {"fashion-1": "ready"}
    on_kubernetes.target.stop("fashion-1")
    assert cluster.objects == {}


def test_the_autoscaler_goes_before_what_it_scales(on_kubernetes):
    start(on_kubernetes)
    on_kubernetes.cluster.calls.clear()
    on_kubernetes.target.stop("fashion-1")
    deleted = [path.split("/")[-2] for verb, path in on_kubernetes.cluster.calls if verb == "DELETE"]
    assert deleted.index("horizontalpodautoscalers") < deleted.index("deployments") < deleted.index("services")


def test_what_is_not_ours_is_not_listed(on_kubernetes):
    on_kubernetes.cluster.objects["/api/v1/namespaces/serving/services/db"] = {"metadata": {"name": "db"}}
    assert on_kubernetes.target.list() == {}


@pytest.mark.parametrize(
    ("container", "reason"),
    [
        ({"state": {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}}, "ImagePullBackOff: not found"),
        ({"restartCount": 4}, "4 restarts"),
    ],
)
def test_what_cannot_start_is_told_at_once(on_kubernetes, container, reason):
    start(on_kubernetes)
    on_kubernetes.cluster.add_pod("fashion-1", **container)
    with pytest.raises(ServiceUnavailable, match=rf"\(got {reason}\)"):
        on_kubernetes.target.wait_ready("fashion-1", timeout_seconds=60)


def test_a_missing_gpu_and_a_memory_kill_are_told(on_kubernetes):
    start(on_kubernetes)
    path = on_kubernetes.cluster.add_pod("fashion-1", lastState={"terminated": {"reason": "OOMKilled"}})
    assert "Pending, OOMKilled" in on_kubernetes.target.describe("fashion-1")
    full = {"type": "PodScheduled", "reason": "Unschedulable", "message": "0/3 nodes: Insufficient nvidia.com/gpu"}
    on_kubernetes.cluster.objects[path]["status"]["conditions"] = [full]
    with pytest.raises(ServiceUnavailable, match=r"cannot be placed .*Insufficient nvidia.com/gpu"):
        on_kubernetes.target.wait_ready("fashion-1", timeout_seconds=0.05)


def test_an_old_spec_that_is_ready_does_not_count(on_kubernetes):
    start(on_kubernetes)
    on_kubernetes.become_ready("fashion-1")
    start(on_kubernetes, NEW="1")
    with pytest.raises(ServiceUnavailable, match="no answer in 0 s"):
        on_kubernetes.target.wait_ready("fashion-1", timeout_seconds=0.05)


@pytest.mark.parametrize(
    ("status", "error", "code"),
    [(503, ServiceUnavailable, "CLUSTER_FAILED"), (403, PermanentError, "CLUSTER_REFUSED")],
)
def test_what_the_api_answers_says_whether_a_retry_helps(on_kubernetes, status, error, code):
    on_kubernetes.cluster.fail.append(status)
    with pytest.raises(error, match=rf"HTTP {status}: the test wants it so") as caught:
        start(on_kubernetes)
    assert caught.value.code == code
    start(on_kubernetes)


def test_an_api_that_is_away_is_transient(on_kubernetes):
    on_kubernetes.connection.configuration.host = "http://127.0.0.1:9"
    with pytest.raises(ServiceUnavailable, match="the Kubernetes API must answer") as caught:
        on_kubernetes.target.list()
    assert caught.value.code == "CLUSTER_AWAY"
