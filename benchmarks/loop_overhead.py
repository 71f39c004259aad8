"""Cost of Airflow: one train-to-serve run as a DAG, beside the same functions in one plain Python process.

Two projects with the same photos and settings; each trains, judges, releases and ships its first champion, one by
`train_to_serve` in a script, one by its train DAG. Starts a stack of its own; needs `make install`.

    .venv/bin/python benchmarks/loop_overhead.py --epochs 30
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = """
import json, sys
from pipeline_tasks.orchestration.local_pipeline import train_to_serve
took = {}
result = train_to_serve(sys.argv[1], force=True, on_stage=lambda name, seconds: took.__setitem__(name, seconds))
print("RESULT " + json.dumps({"result": result, "took": took}))
"""
STAGE_OF_TASK = {"plan": "plan_training", "approve": "approval_request"}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--epochs", type=int, default=30)
    arguments.add_argument("--rounds", type=int, default=1)
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="dethrone-bench-") as folder:
        home, projects = Path(folder) / "home", Path(folder) / "projects"
        names = [(f"script{number}", f"dag{number}") for number in range(chosen.rounds)]
        _write_projects(projects, [name for pair in names for name in pair], epochs=chosen.epochs)
        os.environ.update(DETHRONE_HOME=str(home), DETHRONE_PROJECTS=str(projects))
        try:
            _dethrone("up")
            _feed([name for pair in names for name in pair])
            rounds = [_round(*pair, first=number % 2) for number, pair in enumerate(names)]
        finally:
            _dethrone("down")
    _print(rounds, epochs=chosen.epochs)


def _round(script_project: str, dag_project: str, *, first: int) -> dict:
    """Run both, the order alternating, and return seconds by stage."""
    if first == 0:
        script = _run_script(script_project)
        return {"script": script, "dag": _run_dag(dag_project)}
    dag = _run_dag(dag_project)
    return {"script": _run_script(script_project), "dag": dag}


def _run_script(project: str) -> dict:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, project], cwd=ROOT, capture_output=True, text=True, check=False
    )
    wall = time.monotonic() - began
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode != 0 or not lines:
        raise SystemExit(f"the script run failed:\n{done.stdout}\n{done.stderr}")
    answer = json.loads(lines[-1].removeprefix("RESULT "))
    if answer["result"].get("outcome") != "promoted":
        raise SystemExit(f"the script run must promote (got {answer['result']})")
    return {"wall": wall, "took": answer["took"]}


def _run_dag(project: str) -> dict:
    airflow = _airflow()
    dag_id = f"{project}__train"
    began = time.monotonic()
    run_id = airflow.trigger(dag_id, {"force": True})
    state = airflow.watch(dag_id, run_id, timeout_seconds=1800, interval_seconds=0.5)
    wall = time.monotonic() - began
    outcome = airflow.result(dag_id, run_id, "finish")
    if state != "success" or not outcome or outcome["outcome"] != "promoted":
        raise SystemExit(f"the DAG run must promote (got {state}, {outcome})")
    tasks = airflow.tasks(dag_id, run_id)
    return {"wall": wall, "took": {STAGE_OF_TASK.get(t["task_id"], t["task_id"]): t["duration"] or 0.0 for t in tasks}}


def _airflow():
    from pipeline_tasks.adapters.airflow_rest import AirflowRest
    from pipeline_tasks.core.settings import load_settings

    settings = load_settings()
    password = (settings.home / "secrets" / "airflow_admin_password").read_text().strip()
    return AirflowRest(settings.airflow_url, username="admin", password=password)


def _feed(projects: list[str]) -> None:
    """Ingest the photos and take over their labels, without Airflow, so that only training is left."""
    from pipeline_tasks.contracts import Attempt
    from pipeline_tasks.orchestration import entrypoints

    for project in projects:
        for stage in ("ingest", "annotate"):
            getattr(entrypoints, stage)(project, attempt=Attempt(run_id=f"feed-{project}", task=stage))


def _write_projects(folder: Path, names: list[str], *, epochs: int) -> None:
    from pipeline_tasks.demo import dataset

    photos = Path(folder) / "photos"
    dataset.write_arrivals(dataset.load_material("small"), photos)
    document = yaml.safe_load((ROOT / "projects" / "fashion" / "project.yaml").read_text())
    document["sources"][0]["path"] = str(photos)
    document["recipe"]["params"]["epochs"] = epochs
    document["schedules"] = dict.fromkeys(("ingest", "annotate", "collect", "train", "monitor"))
    for name in names:
        project = folder / name
        project.mkdir(parents=True)
        (project / "project.yaml").write_text(yaml.safe_dump(document | {"name": name}, sort_keys=False))
        (project / "labeling.xml").write_text((ROOT / "projects" / "fashion" / "labeling.xml").read_text())


def _dethrone(command: str) -> None:
    subprocess.run([str(Path(sys.executable).with_name("dethrone")), command], cwd=ROOT, check=True)


def _print(rounds: list[dict], *, epochs: int) -> None:
    stages = list(rounds[0]["script"]["took"])
    print(
        f"\nloop overhead, {epochs} epochs, {os.cpu_count()} cores, {platform.machine()}, {time.strftime('%Y-%m-%d')}"
    )
    print(f"{'stage':<20}{'script s':>10}{'DAG task s':>12}")
    last = rounds[-1]
    for stage in stages:
        print(f"{stage:<20}{last['script']['took'][stage]:>10.1f}{last['dag']['took'].get(stage, 0.0):>12.1f}")
    for number, each_round in enumerate(rounds):
        script, dag = each_round["script"]["wall"], each_round["dag"]["wall"]
        between = dag - sum(each_round["dag"]["took"].values())
        print(
            f"round {number + 1}: script {script:.1f} s, DAG {dag:.1f} s, difference {dag - script:.1f} s "
            f"(between tasks {between:.1f} s), ratio {dag / script:.2f}"
        )


if __name__ == "__main__":
    main()
