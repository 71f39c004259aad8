"""The running stack as a container beside its services sees it: which it knows, and what every port says without a key.

After test_compose.py, on a stack that has a champion.
"""

import json
import textwrap

import httpx
import pytest

from pipeline_tasks.stack.outside import CLOSED_POSTGRES, CLOSED_REDIS, CLOSED_TLS
from tests.compose.stack import until

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1800)]

# What each service's ports say to somebody without a key: the protocol, and the pages that are handed out.
TEXTS = ("HTTP", ["/docs", "/openapi.json"])  # what an API says of itself
OPEN = ["/api/v1/status/config", "/api/v1/targets", "/debug/pprof/", "/metrics"]
DATABASE = {"postgres": {5432: (CLOSED_POSTGRES, [])}}
PARTS = (8888, 9333, 9340, 18333, 18888, 19333, 19340, 23646, 33646)  # of the store
STORE = {"s3": {8333: ("HTTP", []), **dict.fromkeys(PARTS, (CLOSED_TLS, []))}}
WORKER = {"airflow-worker": {8793: TEXTS}}  # of tasks' logs, which want a signed order
API = {"airflow-api-server": {8080: TEXTS}}
GATEWAY = {"gateway": {8000: TEXTS}}
PROMETHEUS = {"prometheus": {9090: ("HTTP", OPEN)}}
RELEASE = {3000: ("HTTP", [])}
INNER = [5432, 6379, 8333, 9333, 8080, 8793, 8000, 5000, 9090]
SEEN = {
    "dethrone-test_default": {
        **DATABASE, **STORE, **WORKER, **API, **GATEWAY, "redis": {6379: (CLOSED_REDIS, [])},
        "airflow-triggerer": {8794: TEXTS}, "airflow-scheduler": {}, "airflow-dag-processor": {},
    },
    "dethrone-test_labeling": {**DATABASE, **STORE, **WORKER, **API, "label-studio": {8080: ("HTTP", [])}},
    "dethrone-serving": {**GATEWAY, **WORKER, **PROMETHEUS},
    "dethrone-test_shipping": {**WORKER, "registry": {5000: ("HTTP", ["/v2/_catalog"])}},
    "dethrone-test_watching": PROMETHEUS,
    "bridge": {},
}  # fmt: skip


def champions(stack):
    """Return the names of the containers of releases."""
    containers = stack.engine.client.containers.list(
        filters={"label": "io.dethrone.project=fashion"}, ignore_removed=True
    )
    return [container.name for container in containers]


def told(stack, network, *names):
    """Return what is seen in one network: each service's open ports with what they say."""
    seen = stack.beside(network, *names)
    ports = {name: {} for name in seen["services"]}
    for port in seen["ports"]:
        served = sorted(path for path, status in port["statuses"].items() if status < 300)
        ports[port["program"]][port["port"]] = (port["protocol"], served)
    return ports


@pytest.mark.parametrize("network", SEEN)
def test_h3_a_container_beside_the_stack_sees_what_stands_here_and_nothing_else(stack, network):
    releases = champions(stack) if network == "dethrone-serving" else []
    assert told(stack, network, *releases) == {**SEEN[network], **dict.fromkeys(releases, RELEASE)}


def test_h1_from_no_network_of_the_stack_only_the_published_ports_are_reached(stack):
    """A container on the engine's default bridge: no address of the stack, and of this machine three ports."""
    client = stack.engine.client
    label = {"label": "com.docker.compose.project=dethrone-test"}
    networks = [container.attrs["NetworkSettings"]["Networks"] for container in client.containers.list(filters=label)]
    ips = sorted(
        {address["IPAddress"] for attached in networks for address in attached.values() if address["IPAddress"]}
    )
    (machine,) = {pool["Gateway"] for pool in client.networks.get("bridge").attrs["IPAM"]["Config"]}
    code = textwrap.dedent(f"""
        import json
        from pipeline_tasks.stack.outside_containers import open_ports
        from pipeline_tasks.stack.outside import Listener, ask, open_to_all
        inner = [port for ip in {ips} for port in open_ports(ip, {INNER})]
        ports = open_ports("{machine}", {[*stack.ports.values(), 5000, 3001, 2375, 2376]})
        services = {dict(zip(stack.ports.values(), ("gateway", "airflow-api-server", "label-studio"), strict=True))}
        wrong = [open_to_all(services.get(port, "?"), ask(Listener("", "{machine}", port))) for port in ports]
        print(json.dumps([inner, ports, wrong]))
    """)
    inner, ports, wrong = json.loads(stack.run_python("bridge", "-c", code))
    assert len(ips) > 9
    assert inner == []
    assert ports == sorted(stack.ports.values())
    assert wrong == ["", "", ""]


def test_h2_label_studio_fetches_nothing_from_its_neighbours(stack):
    """By an administrator, who alone may import at all: what labelers may is in tests/reported."""
    client = httpx.Client(
        base_url=stack.url("LABEL_STUDIO"),
        headers={"Authorization": f"Token {stack.secret('label_studio_token')}"},
        timeout=60,
        trust_env=False,
    )
    project = client.post("/api/projects/", json={"title": "inner addresses"}).json()["id"]
    worker = stack.run_python(
        "dethrone-test_labeling", "-c", "import socket; print(socket.gethostbyname('airflow-worker'))"
    )
    for host in (
        "postgres:5432",
        "airflow-worker:8793",
        f"{worker.strip()}:8793",
        "s3:9333",
        "127.0.0.1:8080",
        "redis:6379",
    ):
        answer = client.post(f"/api/projects/{project}/import", data={"url": f"http://{host}/x.json"})
        assert answer.status_code == 400, (host, answer.text)
    assert client.get(f"/api/projects/{project}/").json()["task_number"] == 0
    assert client.delete(f"/api/projects/{project}/").status_code == 204


def test_h1_a_release_of_before_shows_no_process_manager_to_its_neighbours(stack):
    """Its manager listens on loopback, which is the container's own."""
    client = stack.engine.client
    now = client.containers.get(champions(stack)[0])
    serve = ["-m", "bentoml", "serve", "/home/bentoml/bento", "--host", "0.0.0.0", "--port", "3000"]
    old = client.containers.run(
        now.image, serve, entrypoint=["python3"], environment=now.attrs["Config"]["Env"], network="dethrone-serving",
        name="release-of-before", detach=True, read_only=True, tmpfs={"/tmp": ""},
    )  # fmt: skip
    listening = "print([line.split()[1] for line in open('/proc/net/tcp') if line.split()[3] == '0A'])"

    def inside():
        return old.exec_run(["python3", "-c", listening]).output.decode()

    try:
        until(lambda: ":0BB8" in inside(), 120, "the release of before", stack=stack)
        assert inside().count("0100007F:") >= 2
        assert told(stack, "dethrone-serving", old.name)[old.name] == RELEASE
    finally:
        old.remove(force=True, v=True)


def test_h1_the_doctor_of_a_container_looks_at_its_neighbours(stack):
    told = stack.compose(
        "--profile", "tools", "run", "--rm", "-T", "tools", "dethrone", "doctor", "--json", check=False
    )
    checks = {row["name"]: row for row in json.loads(told)["rows"]}
    row = checks["from beside"]
    assert row["ok"], row
    for name in ("postgres", "redis", "s3", "airflow-worker", "label-studio", "gateway"):
        assert name in row["detail"].partition("; not seen from here: ")[0]
    assert row["detail"].endswith("not seen from here: airflow-worker-gpu, registry, prometheus, grafana")
    assert "leftovers" not in checks
