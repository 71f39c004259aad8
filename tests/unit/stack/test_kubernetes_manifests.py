"""deploy/kubernetes: valid against the API's schema, and saying what the code and the template say."""

import configparser

import pytest
import yaml

from pipeline_tasks.adapters.kubernetes_manifests import KINDS, PORT, manifests
from pipeline_tasks.project_serving import KubernetesServing
from pipeline_tasks.stack import cluster
from pipeline_tasks.stack.layout import source_root

ROOT = source_root()
FOLDER = ROOT / "deploy" / "kubernetes"
FILES = sorted(path for path in FOLDER.rglob("*.yaml") if path.name not in {"values.yaml", "kustomization.yaml"})
BODIES = [(path.name, body) for path in FILES for body in yaml.safe_load_all(path.read_text())]
VERSIONS = ("1.31", "1.37")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("name", "body"), BODIES, ids=lambda value: value if isinstance(value, str) else value["kind"])
def test_every_manifest_is_valid(name, body, version):
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    kubernetes_validate.validate(body, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("gpus", [0, 1])
def test_what_a_release_is_made_of_is_valid(version, gpus):
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    config = KubernetesServing(namespace="dethrone", repository="r.example.com/d", gpus=gpus, node_selector={"a": "b"})
    found = manifests("fashion-1", config=config, image="r@sha256:0", environment={"A": "1"})
    assert [kind for kind, _body in found] == list(KINDS)
    for _kind, body in found:
        kubernetes_validate.validate(body, version, strict=True)


def test_the_kustomization_lists_every_file_of_the_base():
    named = yaml.safe_load((FOLDER / "base" / "kustomization.yaml").read_text())["resources"]
    present = {path.name for path in (FOLDER / "base").glob("*.yaml")} - {"kustomization.yaml"}
    assert set(named) == present


def test_the_shipper_may_touch_what_a_release_is_made_of_and_nothing_else():
    (role,) = [body for _name, body in BODIES if body["kind"] == "Role"]
    may = {
        (group, resource): rule["verbs"]
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    for kind in KINDS:
        group = kind.api.partition("/")[0] if "/" in kind.api else ""
        assert {"get", "list", "create", "patch", "delete"} == set(may.pop((group, kind.plural)))
    assert may == {("", "pods"): ["get", "list"], ("", "pods/log"): ["get"]}


def test_the_gateway_gets_through_to_inference_and_inference_lets_it_in():
    (policy,) = [body for name, body in BODIES if name == "gateway-network.yaml"]
    (out,) = [rule for rule in policy["spec"]["egress"] if "to" in rule]
    config = KubernetesServing(namespace="dethrone", repository="r.example.com/d")
    release = {kind.name: body for kind, body in manifests("a", config=config, image="i", environment={})}
    pod = release["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert out["to"][0]["podSelector"]["matchLabels"].items() <= pod.items()
    assert [port["port"] for port in out["ports"]] == [PORT]
    gateway = policy["spec"]["podSelector"]["matchLabels"]
    allowed = [one["podSelector"]["matchLabels"] for one in release["NetworkPolicy"]["spec"]["ingress"][0]["from"]]
    assert gateway in allowed
    (task,) = [body for name, body in BODIES if name == "task-pod.yaml"]
    assert any(one.items() <= task["metadata"]["labels"].items() for one in allowed)


def test_the_charts_values_say_what_the_template_says(tmp_path):
    values = yaml.safe_load((FOLDER / "airflow" / "values.yaml").read_text())
    cluster.ensure_cluster_secrets(tmp_path / "secrets")
    path = cluster.write_settings(tmp_path, root=ROOT, executor=values["executor"], base_url="http://a")
    parser = configparser.ConfigParser()
    parser.read(path)
    for section, options in values["config"].items():
        for name, value in options.items():
            if name != "dags_folder":
                assert parser[section][name] == value, (section, name)
    assert parser["core"]["executor"] == values["executor"]


def test_only_the_gpu_pod_asks_for_a_gpu_and_it_names_its_pool():
    pods = {name: body["spec"] for name, body in BODIES if body["kind"] == "Pod"}
    limits = {name: pod["containers"][0]["resources"]["limits"] for name, pod in pods.items()}
    assert ["nvidia.com/gpu" in limits[name] for name in ("gpu-pod.yaml", "task-pod.yaml")] == [True, False]
    assert pods["gpu-pod.yaml"]["nodeSelector"] == {"dethrone.io/pool": "gpu"}
