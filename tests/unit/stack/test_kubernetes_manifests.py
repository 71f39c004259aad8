"""deploy/kubernetes: valid against the API's schema, and saying what the code and the template say."""

import configparser
import shutil
import subprocess
from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit

import pytest
import yaml

from bento_services.gateway.async_predictions.callbacks import is_public
from pipeline_tasks.adapters.kubernetes_manifests import KINDS, PORT, manifests
from pipeline_tasks.project.serving_schema import KubernetesServing
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
    bodies = manifests("fashion-1", config=config, image="r@sha256:0", environment={"A": "1"})
    assert [kind for kind, _body in bodies] == list(KINDS)
    for _kind, body in bodies:
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
    allowed = [peer["podSelector"]["matchLabels"] for peer in release["NetworkPolicy"]["spec"]["ingress"][0]["from"]]
    assert gateway in allowed
    (task,) = [body for name, body in BODIES if name == "task-pod.yaml"]
    assert any(labels.items() <= task["metadata"]["labels"].items() for labels in allowed)


def egress(name):
    (policy,) = [body for file, body in BODIES if file == name]
    return policy["spec"]["egress"]


def test_the_gateway_gets_through_to_all_that_it_calls_and_to_nothing_else(tmp_path):
    """Its four: names, the catalog of `dethrone secrets`, the store of its own environment, and inference."""
    (gateway,) = [body for name, body in BODIES if name == "gateway.yaml" and body["kind"] == "Deployment"]
    container = gateway["spec"]["template"]["spec"]["containers"][0]
    environment = {variable["name"]: variable["value"] for variable in container["env"]}
    cluster.ensure_cluster_secrets(tmp_path)
    catalog = urlsplit((tmp_path / "catalog_url").read_text().strip())
    store = urlsplit(environment["DETHRONE_S3_ENDPOINT"])
    anywhere = {port["port"] for rule in egress("gateway-network.yaml") if "to" not in rule for port in rule["ports"]}
    assert anywhere == {53, catalog.port, store.port}
    assert "DETHRONE_CALLBACK_HOSTS" not in environment  # and so nothing is called that a caller names


def test_callbacks_are_let_out_where_the_gateway_would_send_them():
    (rule,) = egress("network.yaml")
    assert [port["port"] for port in rule["ports"]] == [443]
    blocks = [(block["ipBlock"]["cidr"], block["ipBlock"].get("except", ())) for block in rule["to"]]

    def passes(text):
        address = ip_address(text)
        inside = [excepted for network, excepted in blocks if address in ip_network(network)]
        return any(all(address not in ip_network(network_text) for network_text in excepted) for excepted in inside)

    addresses = (
        "8.8.8.8",
        "93.184.216.34",
        "2606:4700::1111",
        "10.0.0.1",
        "100.64.0.1",
        "127.0.0.1",
        "169.254.169.254",
    )
    addresses += ("172.20.0.1", "192.168.1.1", "224.0.0.1", "0.0.0.0", "fd00::1", "fe80::1", "::1", "2002:a00:1::1")
    assert [address for address in addresses if passes(address) != is_public(address)] == []
    overlay = yaml.safe_load((FOLDER / "callbacks" / "kustomization.yaml").read_text())
    assert overlay["resources"] == ["../base", "network.yaml"]
    assert "DETHRONE_CALLBACK_HOSTS" in overlay["patches"][0]["patch"]


def test_the_store_is_reached_on_its_s3_port_alone_and_label_studio_reaches_what_it_needs():
    store, label_studio = yaml.safe_load_all((FOLDER / "base" / "store-network.yaml").read_text())
    assert store["spec"]["policyTypes"] == ["Ingress"]
    assert [port["port"] for rule in store["spec"]["ingress"] for port in rule["ports"]] == [8333]
    assert "Egress" in label_studio["spec"]["policyTypes"]
    reached = [port["port"] for rule in label_studio["spec"]["egress"] for port in rule["ports"]]
    assert reached == [53, 53, 5432, 8333, 8080]


@pytest.mark.parametrize("name", ["base", "callbacks"])
def test_kubectl_builds_the_folder(name):
    program = shutil.which("kubectl")
    if program is None:
        pytest.skip("kubectl is not installed")
    done = subprocess.run(
        [program, "kustomize", str(FOLDER / name)], capture_output=True, text=True, timeout=60, check=True
    )
    built = [body for body in yaml.safe_load_all(done.stdout) if body["kind"] == "NetworkPolicy"]
    assert len(built) == {"base": 3, "callbacks": 4}[name]
    assert {body["metadata"]["namespace"] for body in built} == {"dethrone"}


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


def test_what_is_applied_by_itself_names_the_namespace():
    """The base's kustomization adds it; templates of pods get it from who uses them."""
    applied = [path for path in FILES if path.parent.name == "airflow"]
    bodies = [body for path in applied for body in yaml.safe_load_all(path.read_text()) if body["kind"] != "Pod"]
    assert {body["metadata"].get("namespace") for body in bodies} == {"dethrone"}


def mounted(volumes):
    (secret,) = [volume["secret"] for volume in volumes if "secret" in volume]
    assert {item["key"] for item in secret["items"]} == {item["path"] for item in secret["items"]}
    return {item["key"] for item in secret["items"]}


def test_each_pod_has_the_secrets_that_its_service_has_in_the_compose_file():
    """Airflow's own secrets come to its pods by the chart; a store of yours knows no key of Label Studio's own."""
    pods = {name: mounted(body["spec"]["volumes"]) for name, body in BODIES if body["kind"] == "Pod"}
    values = yaml.safe_load((FOLDER / "airflow" / "values.yaml").read_text())
    (job,) = [body for _name, body in BODIES if body["kind"] == "Job"]
    pods["upgrade"] = mounted(job["spec"]["template"]["spec"]["volumes"])
    pods["api-server"] = mounted(values["apiServer"]["extraVolumes"])
    assert not [volume for volume in values["volumes"] if "secret" in volume]
    services = {
        "task-pod.yaml": "airflow-worker",
        "gpu-pod.yaml": "airflow-worker-gpu",
        "api-server": "airflow-api-server",
    }
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    of_airflow = {name for names in cluster.PROGRAM_SECRETS.values() for name in names}
    labels_key = {"label_studio_s3_access_key", "label_studio_s3_secret_key"}
    for pod, service in services.items():
        assert pods[pod] == {secret["source"] for secret in compose[service]["secrets"]} - of_airflow - labels_key


def test_only_the_gpu_pod_asks_for_a_gpu_and_it_names_its_pool():
    pods = {name: body["spec"] for name, body in BODIES if body["kind"] == "Pod"}
    limits = {name: pod["containers"][0]["resources"]["limits"] for name, pod in pods.items()}
    assert ["nvidia.com/gpu" in limits[name] for name in ("gpu-pod.yaml", "task-pod.yaml")] == [True, False]
    assert pods["gpu-pod.yaml"]["nodeSelector"] == {"dethrone.io/pool": "gpu"}


@pytest.mark.parametrize("name", ["task-pod.yaml", "gpu-pod.yaml"])
def test_a_tasks_pod_has_what_the_charts_own_has(name):
    """Its configuration, which says where the api-server is, and its logs (the chart's files/pod-template-file)."""
    values = yaml.safe_load((FOLDER / "airflow" / "values.yaml").read_text())
    home = values["airflowHome"]
    (spec,) = [body["spec"] for file, body in BODIES if file == name]
    (container,) = spec["containers"]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert set(volumes) == {mount["name"] for mount in container["volumeMounts"]}
    config, logs = mounts[f"{home}/airflow.cfg"], mounts[f"{home}/logs"]
    assert (config["subPath"], volumes[config["name"]]["configMap"]) == ("airflow.cfg", {"name": "airflow-config"})
    assert volumes[logs["name"]]["persistentVolumeClaim"] == {"claimName": "airflow-logs"}
    assert values["logs"]["persistence"]["enabled"]
    environment = {variable["name"]: variable["value"] for variable in container["env"]}
    assert environment == {"AIRFLOW_HOME": home, "AIRFLOW__CORE__EXECUTOR": "LocalExecutor"}
    command = (FOLDER / "airflow" / "values.yaml").read_text().split("\n", 3)[1]
    assert "--install airflow " in command, "the names above follow from the release's"
