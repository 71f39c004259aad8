"""A second project beside the first: texts, with a person's approval; then `down` leaves nothing behind."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]
ROOT = Path(__file__).resolve().parents[2]
NUM_TEXTS = 3000


@pytest.fixture(scope="module")
def installation(make_installation):
    installation = make_installation("two-projects")
    fetch = [sys.executable, "projects/newsgroups/fetch.py", "--rows", str(NUM_TEXTS)]
    subprocess.run([*fetch, "--to", str(installation.projects / "newsgroups" / "incoming")], cwd=ROOT, check=True)
    config = installation.projects / "newsgroups" / "project.yaml"
    config.write_text(_with_approval(config.read_text()))
    installation.run("up")
    return installation


def _with_approval(text):
    lines = [line for line in text.splitlines() if not line.startswith("approval:") and not line.startswith("  when:")]
    return "\n".join([*lines, "approval:", "  when: first", ""])


def _airflow(installation):
    from pipeline_tasks.adapters.airflow_rest import AirflowRest

    return AirflowRest(
        installation.stack["airflow_url"], username="admin", password=installation.secret("airflow_admin_password")
    )


def _until(condition, seconds, what):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(1)
    pytest.fail(f"within {seconds} s this must come: {what}")


def test_both_projects_have_their_dags(installation):
    airflow = _airflow(installation)
    expected = {f"{name}__{verb}" for name in ("fashion", "newsgroups") for verb in ("ingest", "train", "rollback")}
    _until(lambda: expected <= airflow.dag_ids(), 120, "the DAGs of both projects")
    assert airflow.import_errors() == []


def test_texts_go_from_a_file_to_a_champion_that_a_person_approved(installation):
    airflow = _airflow(installation)
    dag_id = "newsgroups__ingest"
    assert airflow.watch(dag_id, airflow.trigger(dag_id), timeout_seconds=300) == "success"

    waiting = _until(airflow.pending_approvals, 600, "a request for approval")
    request = waiting[0]["task_instance"]
    assert request["dag_id"] == "newsgroups__train"
    time.sleep(4)  # an answer in the first moments can fail the task (measured); automated approvers wait
    airflow.answer(request["dag_id"], request["dag_run_id"], approve=True, reason="read the report")
    assert airflow.watch("newsgroups__train", request["dag_run_id"], timeout_seconds=600) == "success"
    assert airflow.result("newsgroups__train", request["dag_run_id"], "finish")["outcome"] == "promoted"

    history = installation.json("history", "newsgroups")
    assert [route["action"] for route in history] == ["promote"]


def test_the_champion_answers_texts(installation, tmp_path):
    file = tmp_path / "one.txt"
    file.write_text("The goalie made forty saves and the team won the playoff game in overtime. Hockey, NHL.")
    answer = installation.json("predict", "newsgroups", str(file))
    assert answer["label"] == "rec.sport.hockey"


def test_the_invariants_hold_and_down_leaves_nothing(installation):
    assert "Nothing lost, nothing twice" in installation.run("verify").stdout
    installation.run("down")
    marker = str(installation.home)
    left = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("DETHRONE_HOME") == marker:
                left.append(process.cmdline())
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    assert left == []
