"""CeleryExecutor on PostgreSQL and Redis with two workers that share nothing else: one dies, the loop goes on.

Each worker has a home and a network namespace of its own, with an address on a bridge without NAT; what they share
(PostgreSQL, Redis, S3, Label Studio, Airflow's api-server, the gateway) they reach over the bridge. The survivor serves
at its own address. Label Studio and S3 are the real ones.
"""

import json
import random
import shutil
import time

import httpx
import pytest

from pipeline_tasks.catalog.database import Database, create_engine
from pipeline_tasks.catalog.routes import ServingRepository
from pipeline_tasks.stack.layout import source_root
from tests import services
from tests.e2e.network import LOOPBACK, CannotMakeNetwork, Relay, network

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]
NUM_ROWS = 1200
PROJECT = """\
version: 1
name: shop
description: Whether an order is kept.
owner: ml
modality: tabular
sources:
  - type: table
    name: incoming
    path: incoming
    key_column: id
    content_columns: [amount, country]
    label_column: label
labels: {classes: ["no", "yes"], imported_in_exam: true, annotators: 1, exam_annotators: 1}
split: {exam_share: 0.2}
recipe:
  name: tabular_mlp
  params: {numbers: [amount], categories: {country: [DE, FR, US]}}
train: {min_new_labels: 200}
gate:
  metric: macro_f1
  floors: {accuracy: 0.6}
  limits: {latency_p99_ms: 2000, size_mb: 20}
  exam: {min_items: 50}
approval: {when: never}
serving: {top_k: 2, review_below: 0.5}
schedules: {monitor: null}
"""


def rows(number):
    generator = random.Random(number)
    lines = ["id,amount,country,label"]
    for key in range(NUM_ROWS):
        amount, country = generator.uniform(0, 100), generator.choice(["DE", "FR", "US"])
        kept = (amount > 50) != (generator.random() < 0.05)
        lines.append(f"{number}-{key},{amount:.3f},{country},{'yes' if kept else 'no'}")
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def two_machines():
    try:
        with network(2) as laid:
            yield laid
    except CannotMakeNetwork as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def installation(tmp_path_factory, two_machines, postgres_server, seaweed_server, label_studio_server):
    if shutil.which("redis-server") is None:
        pytest.skip("Redis (redis-server) is not installed")
    pytest.importorskip("airflow.providers.celery", reason="requirements/cluster.lock is not installed")
    from pipeline_tasks.adapters.s3 import S3ObjectStore
    from tests.e2e.machines import Installation

    folder = tmp_path_factory.mktemp("machines")
    project = folder / "projects" / "shop"
    (project / "incoming").mkdir(parents=True)
    (project / "project.yaml").write_text(PROJECT)
    shutil.copy(source_root() / "pipeline_tasks" / "project" / "templates" / "tabular" / "labeling.xml", project)
    (project / "incoming" / "first.csv").write_text(rows(1))
    built = Installation(
        folder,
        network=two_machines,
        postgres=postgres_server,
        seaweed=seaweed_server,
        label_studio=label_studio_server,
        projects=project.parent,
    )
    keys = {"access_key": services.S3_ACCESS_KEY, "secret_key": services.S3_SECRET_KEY}
    S3ObjectStore(
        endpoint=seaweed_server.endpoint, bucket=built.environment["DETHRONE_S3_BUCKET"], **keys
    ).ensure_bucket()
    shared = (postgres_server.port, seaweed_server.ports[0], label_studio_server.port)
    with Relay(two_machines.address, *shared):
        try:
            built.start()
            yield built
        finally:
            built.stop()


def until(condition, seconds, what, installation):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.3)
    pytest.fail(f"within {seconds} s this must come: {what}\n{installation.logs()}")


def running_task(installation):
    """Return the worker that has a task of the training run in its hands now, and the task."""
    for run in installation.airflow.runs("shop__train"):
        for task in installation.airflow.tasks("shop__train", run["dag_run_id"]):
            if task["state"] == "running" and task["pid"] and task["task_id"] in {"snapshot", "train", "judge"}:
                for machine in installation.workers:
                    if task["pid"] in {process.pid for process in machine.living()}:
                        return machine, task
    return None


def serving_addresses(installation):
    engine = create_engine((installation.folder / "secrets" / "catalog_url").read_text())
    head = ServingRepository(Database(engine)).head_route("shop")
    engine.dispose()
    return [entry.address for entry in head.entries]


def ended(installation):
    runs = installation.airflow.runs("shop__train")
    results = [installation.airflow.result("shop__train", run["dag_run_id"], "finish") for run in runs]
    return next((result for result in results if result and result.get("outcome")), None)


def test_the_loop_goes_on_when_one_of_two_workers_dies(installation, postgres_server):
    airflow = installation.airflow
    until(lambda: "shop__train" in airflow.dag_ids(), 90, "the project's DAGs", installation)
    assert airflow.import_errors() == []
    for machine in installation.workers:
        assert machine.space.reaches(installation.host, postgres_server.port)
        assert not machine.space.reaches(LOOPBACK, postgres_server.port)
    airflow.trigger("shop__ingest")
    victim, task = until(
        lambda: running_task(installation), 150, "a task of the training run on a worker", installation
    )
    assert victim.die() > 3
    result = until(
        lambda: ended(installation),
        400,
        f"the end of the run after the worker with {task['task_id']} died",
        installation,
    )
    assert result["outcome"] == "promoted", result
    (survivor,) = [machine for machine in installation.workers if machine is not victim]
    assert "Nothing lost, nothing twice" in survivor.run("dethrone", "verify")
    history = json.loads(survivor.run("dethrone", "history", "shop", "--json"))["rows"]
    assert [route["action"] for route in history] == ["promote"]
    key = (installation.folder / "secrets" / "gateway_api_key").read_text().strip()
    answer = httpx.post(
        f"{installation.environment['DETHRONE_GATEWAY_URL']}/v1/projects/shop/predict",
        json={"amount": 90.0, "country": "DE"},
        headers={"Authorization": f"Bearer {key}"},
        timeout=30,
        trust_env=False,
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["label"] == "yes"
    assert answer.json()["model_version"] == history[-1]["champion"]
    (server,) = serving_addresses(installation)
    assert server.startswith(f"http://{survivor.space.address}:")
