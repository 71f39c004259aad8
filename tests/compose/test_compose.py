"""docker-compose.yml started as a whole: every service healthy, and the loop runs through it, from photos to an answer.

`make test-compose`. The first run builds every image (gigabytes, a quarter of an hour); later ones go on from those.
"""

import json
import os

import httpx
import pytest

from pipeline_tasks.adapters.airflow_rest import AirflowRest
from pipeline_tasks.demo import fashion_mnist
from tests.compose.stack import LEFT_OUT, SERVICES, ask, until

pytestmark = [pytest.mark.compose, pytest.mark.timeout(5400)]


@pytest.fixture(scope="module")
def airflow(stack):
    return AirflowRest(stack.url("AIRFLOW"), username="admin", password=stack.secret("airflow_admin_password"))


def test_every_service_becomes_healthy(stack):
    wanted = {name: "done" if name == "migrate" else "healthy" for name in stack.services()}
    assert set(wanted) == set(SERVICES) - LEFT_OUT - {"tools", "airflow-worker-gpu"}
    until(lambda: stack.health() == wanted, 600, f"all of {wanted}", stack=stack, services=SERVICES)


def test_people_get_in_with_their_passwords_only(stack, airflow):
    url = stack.url("AIRFLOW")
    assert httpx.post(f"{url}/auth/token", json={"username": "admin", "password": "admin"}).status_code == 401
    assert airflow.import_errors() == []
    token = httpx.post(
        f"{url}/auth/token", json={"username": "viewer", "password": stack.secret("airflow_viewer_password")}
    ).json()["access_token"]
    page = httpx.get(f"{url}/dethrone/", headers={"Authorization": f"Bearer {token}"}, timeout=60)
    assert page.status_code == 200
    assert "fashion" in page.text
    studio = httpx.get(
        f"{stack.url('LABEL_STUDIO')}/api/current-user/whoami",
        headers={"Authorization": f"Token {stack.secret('label_studio_token')}"},
        timeout=60,
    )
    assert studio.status_code == 200


def test_the_loop_runs_on_the_worker_and_its_champion_answers(stack, airflow):
    until(
        lambda: "fashion__train" in airflow.dag_ids(), 120, "the DAGs", stack=stack, services=["airflow-dag-processor"]
    )
    airflow.trigger("fashion__ingest")

    until(airflow.pending_approvals, 900, "a question to a person", stack=stack, services=["airflow-worker"])
    alice = AirflowRest(stack.url("AIRFLOW"), username="alice", password=stack.secret("airflow_alice_password"))
    alice.answer("fashion__train", airflow.runs("fashion__train")[0]["dag_run_id"], approve=True, reason="it is good")

    def ended():
        runs = [run["dag_run_id"] for run in airflow.runs("fashion__train")]
        results = {run_id: airflow.result("fashion__train", run_id, "finish") or {} for run_id in runs}
        return next(((run_id, result) for run_id, result in results.items() if result.get("outcome")), None)

    run_id, result = until(ended, 600, "the end of a training run", stack=stack, services=["airflow-worker"])
    assert result["outcome"] == "promoted", result
    log = airflow.log("fashion__train", run_id, "train", 1)  # from the worker, through the api-server
    assert "Could not read" not in log
    assert log.count("\n") > 3
    answer = ask(stack)
    assert answer["label"] in fashion_mnist.CLASSES
    history = json.loads(stack.compose("exec", "-T", "airflow-worker", "dethrone", "history", "fashion", "--json"))[
        "rows"
    ]
    assert answer["model_version"] == history[-1]["champion"]


def test_prometheus_finds_the_gateway_and_the_champion_by_itself(stack):
    def targets():
        text = stack.compose(
            "exec", "-T", "prometheus", "wget", "-q", "-O", "-", "http://127.0.0.1:9090/api/v1/targets?state=active"
        )
        listed = json.loads(text)["data"]["activeTargets"]
        return {target["labels"]["job"]: target for target in listed if target["health"] == "up"}

    up_by_job = until(
        lambda: len(up := targets()) == 3 and up, 120, "three jobs up", stack=stack, services=["prometheus"]
    )
    assert up_by_job["inference"]["labels"]["project"] == "fashion"


def test_nothing_is_lost_and_a_workers_log_outlives_it(stack, airflow):
    assert "Nothing lost, nothing twice" in stack.compose("exec", "-T", "airflow-worker", "dethrone", "verify")
    stack.compose("up", "--detach", "--no-build", "--no-deps", "--force-recreate", "airflow-worker")
    (run,) = [row["dag_run_id"] for row in airflow.runs("fashion__ingest") if row["run_type"] == "manual"]
    assert "Could not read" not in airflow.log("fashion__ingest", run, "ingest", 1)


def test_a_backup_of_it_comes_back_on_an_empty_engine(stack):
    """By docs/operations.md: everything goes but the secrets and the backup."""
    before = ask(stack)
    given = {"DETHRONE_BACKUPS": stack.folder / "backups", "DETHRONE_PROJECTS": stack.folder / "restored"}
    for folder in given.values():
        folder.mkdir(mode=0o700)
        os.chown(folder, 10001, 10001)
    tools = ("--profile", "tools", "run", "--rm", "-T", "tools", "dethrone")
    stack.compose(*tools, "backup", "/backups", "--without-secrets", "--check")
    (manifest,) = (given["DETHRONE_BACKUPS"] / "manifests").glob("*.json")
    assert "label-studio.dump" in json.loads(manifest.read_text())["home"]
    stack.down()
    stack.environment["DETHRONE_PROJECTS"] = str(given["DETHRONE_PROJECTS"])
    stack.compose("up", "--detach", "--no-build", "postgres", "redis", "s3")
    healthy = dict.fromkeys(("postgres", "redis", "s3"), "healthy")
    until(lambda: stack.health() == healthy, 120, "the stores", stack=stack, services=list(healthy))
    assert "Every invariant that held then holds" in stack.compose(*tools, "restore", "/backups")
    stack.up()
    until(lambda: stack.health()["airflow-worker"] == "healthy", 300, "the worker", stack=stack)
    stack.push_serving_base()
    back = ("rollback", "fashion", "--to-version", before["model_version"], "--reason", "restored")
    stack.compose("exec", "-T", "airflow-worker", "dethrone", *back)
    after = ask(stack)
    assert {**after, "prediction_id": ""} == {**before, "prediction_id": ""}
