"""The train DAG's own tasks from a verdict to the end, with a rollout in steps: Airflow runs them, one after the other.

What costs minutes answers at once (snapshot, training, judging, building); the route, the ledger and the run's ending
are real, and the test says the gateway's accounts. The steps one by one: tests/unit/deployment/test_canary.py.
"""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline_tasks.catalog.runs import RunRepository
from pipeline_tasks.catalog.verdicts import ReleaseRepository, VerdictRecord
from pipeline_tasks.contracts import Attempt, ReleaseRef, VerdictRef, canonical_json, sha256_hex
from pipeline_tasks.core.clock import utc_now
from pipeline_tasks.deployment import canary
from pipeline_tasks.evaluation.verdict import verdict_id_of
from pipeline_tasks.orchestration import airflow_operators, deploy, entrypoints
from pipeline_tasks.orchestration.training_plan import RUN_DEADLINE
from pipeline_tasks.project.loader import load_project
from tests.documents import verdict_document
from tests.ledger_case import Case
from tests.unit.deployment.canary_case import Gateway
from tests.unit.deployment.test_task import Target

ROOT = Path(__file__).resolve().parents[2]
CANARY = "strategy: canary, steps: [10, 50], bake_seconds: 0, min_requests: 50, deadline_seconds: 60"
STEPS, SHADOW = f"{CANARY}, shadow_requests: 0", f"{CANARY}, shadow_requests: 50"
# Airflow's own in-process API.
pytestmark = pytest.mark.filterwarnings("ignore:Using `httpx` with `starlette.testclient`")
FAILS = {"asked": 900, "only_it": 400}
GOOD, BROKEN, OTHER = {"asked": 900}, {"asked": 900, "errors": 400}, {"asked": 900, "disagreed": 800}


@pytest.fixture(scope="module", autouse=True)
def airflow_database():
    """Make the database of this process's own Airflow home (see conftest.py)."""
    from airflow.utils.db import initdb

    initdb()


class Loop:
    """A project with a champion, and a contender that has won: the DAG's run ships it."""

    def __init__(self, folder: Path, database, store, monkeypatch, *, rollout: str) -> None:
        self.folder = folder / "projects" / "fashion"
        shutil.copytree(ROOT / "projects" / "fashion", self.folder, ignore=shutil.ignore_patterns("incoming"))
        path = self.folder / "project.yaml"
        path.write_text(path.read_text().replace("serving:\n", f"serving:\n  rollout: {{{rollout}}}\n"))
        monkeypatch.setenv("DETHRONE_PROJECTS", str(self.folder.parent))
        self.case = Case(database, store)
        self.case.judge("v1", at=1)
        self.case.move("v1", at=2)
        self.gateway = Gateway(self.case.serving)
        self.gateway.said = {"d-v1": {"asked": 4000}, "fashion-r2": GOOD}
        self.runs = RunRepository(database)
        self.target = Target()
        self.parts = SimpleNamespace(
            database=database,
            store=store,
            brisk_store=store,
            gateway=self.gateway,
            target=self.target,
            settings=SimpleNamespace(home=folder, gateway_url="http://gateway", airflow_url="http://airflow"),
            project=lambda _: load_project(self.folder),
            fence=lambda project, stage, attempt: database.acquire(f"{project}/{stage}", attempt, now=utc_now()),
        )
        self.verdict_id = self.judge()

    def judge(self) -> str:
        """Record a verdict whose id is that of its document: shipping computes it anew."""
        document = verdict_document(project="fashion", champion="v1", contender="v2", answer="promote")
        verdict_id, data = verdict_id_of(document), canonical_json(document)
        key = f"verdicts/fashion/{verdict_id}"
        self.parts.store.put(f"{key}/verdict.json", data)
        ref = VerdictRef("fashion", verdict_id, "promote", "v1", "v2", ("it gains 3 points",), key, "GAIN_SHOWN")
        record = VerdictRecord(ref, ("exam2", "exam1"), "policy", sha256_hex(data), "run-1", utc_now())
        fence = self.case.database.acquire("judge", Attempt("run-1", "judge"), now=utc_now())
        return self.case.verdicts.record(record, exam_use=1, fence=fence).ref.verdict_id

    def plan_training(self, project, *, attempt, **_):
        now = utc_now()
        self.runs.open(project, run_id=attempt.run_id, kind="train", deadline_at=now + RUN_DEADLINE, at=now)
        self.run_id = attempt.run_id
        return {"reason": "labels"}

    def release(self, project, *, attempt, verdict_id):
        ref = ReleaseRef(project, "r2", "v2", verdict_id, "dethrone_fashion:r2")
        fence = self.case.database.acquire("release", attempt, now=utc_now())
        facts = {"bento_digest": "d", "object_key": "bentos/fashion/r2.bento", "infra_check": {}}
        ReleaseRepository(self.case.database).record(ref, **facts, fence=fence, run_id=attempt.run_id, now=utc_now())
        return {"release_id": "r2"}

    def train(self):
        """Run the DAG once and return the state of each task."""
        from airflow.dag_processing.dagbag import DagBag

        dag = DagBag(dag_folder=str(ROOT / "dags" / "train.py"), bundle_path=ROOT / "dags").dags["fashion__train"]
        run = dag.test()
        return {instance.task_id: str(instance.state) for instance in run.get_task_instances()}

    @property
    def moves(self):
        return [
            (
                record.action,
                {entry.model_version: entry.weight for entry in (*record.route.entries, *record.route.shadows)},
            )
            for record in self.case.serving.records("fashion")[1:]
        ]


@pytest.fixture
def loop_of(tmp_path, database, object_store, monkeypatch):
    def make(rollout: str) -> Loop:
        loop = Loop(tmp_path, database, object_store, monkeypatch, rollout=rollout)
        answers = {"snapshot": {"snapshot_id": "s", "epochs": [1]}, "train": {"version": "v2"}}
        answers["judge"] = {"verdict_id": loop.verdict_id}
        for name, answer in answers.items():
            monkeypatch.setattr(entrypoints, name, lambda *_, answer=answer, **__: answer)
        monkeypatch.setattr(entrypoints, "plan_training", loop.plan_training)
        monkeypatch.setattr(entrypoints, "release", loop.release)
        monkeypatch.setattr(entrypoints, "build_resources", lambda: loop.parts)
        monkeypatch.setattr(airflow_operators, "die_with_parent", lambda: None)
        monkeypatch.setattr(deploy, "restore_bento", lambda *_: None)
        monkeypatch.setattr(deploy, "check_answers", lambda *_: None)
        monkeypatch.setattr(deploy, "learned_classes", lambda *_: ("cat", "dog"))
        monkeypatch.setattr(canary, "LOOK_SECONDS", 0.01)
        return loop

    return make


DONE = dict.fromkeys(("plan", "snapshot", "train", "judge", "approve", "release", "ship", "finish"), "success")


@pytest.mark.parametrize(
    ("rollout", "first"),
    [
        pytest.param(STEPS, [], id="G9-canary"),
        pytest.param(SHADOW, [("shadow", {"v1": 100, "v2": 0})], id="G9-shadow"),
        pytest.param(CANARY, [("shadow", {"v1": 100, "v2": 0})], id="mirrors-by-default"),
    ],
)
def test_a_contender_goes_through_the_steps_to_its_promotion(loop_of, rollout, first):
    loop = loop_of(rollout)
    assert loop.train() == DONE
    steps = [("canary", {"v1": 90, "v2": 10}), ("canary", {"v1": 50, "v2": 50}), ("promote", {"v2": 100})]
    assert loop.moves == [*first, *steps]
    record = loop.runs.get("fashion", loop.run_id)
    assert (record.outcome, record.reason_code) == ("promoted", "PROMOTED")


@pytest.mark.parametrize(
    ("rollout", "account", "numbers", "tried"),
    [
        pytest.param(
            STEPS, BROKEN, "10 % to v2 failed: 44.4% of 900 failed", ("canary", {"v1": 90, "v2": 10}), id="G9-canary"
        ),
        pytest.param(SHADOW, OTHER, "mirrors to v2 failed", ("shadow", {"v1": 100, "v2": 0}), id="G9-shadow"),
        pytest.param(
            CANARY,
            FAILS,
            "400 of 900 mirrors failed here only",
            ("shadow", {"v1": 100, "v2": 0}),
            id="mirrors-by-default",
        ),
    ],
)
def test_a_contender_that_is_worse_is_refused_and_the_champion_stays(loop_of, rollout, account, numbers, tried):
    loop = loop_of(rollout)
    loop.gateway.said["fashion-r2"] = account
    assert loop.train() == DONE | {"ship": "failed"}
    assert loop.moves == [tried, ("canary_failed", {"v1": 100})]
    assert loop.target.running == {}, "the contender's server is stopped"
    record = loop.runs.get("fashion", loop.run_id)
    assert (record.outcome, record.reason_code) == ("rejected", "CANARY_FAILED")
    assert numbers in record.reason
