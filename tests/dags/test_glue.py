"""Parameters, results and people's answers in the glue, through Airflow's own rendering and operator."""

import datetime as dt
import json
from types import SimpleNamespace

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from pipeline_tasks.errors import GateClosed
from pipeline_tasks.orchestration import airflow_operators as glue
from pipeline_tasks.orchestration import entrypoints
from tests.unit.evaluation import support as s

ANSWERED_AT = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
ALICE = {"id": "2", "name": "alice"}


class Instance(SimpleNamespace):
    def xcom_pull(self, *, task_ids):
        return self.results.get(task_ids)


@pytest.fixture
def dag():
    return DAG(dag_id="x", start_date=dt.datetime(2026, 1, 1, tzinfo=dt.UTC), schedule=None)


def context(*, results=None, params=None, user="bob"):
    instance = Instance(task_id="t", try_number=2, results=results or {}, xcom_push=lambda **_: None)
    run = SimpleNamespace(triggering_user_name=user)
    return {"ti": instance, "task_instance": instance, "run_id": "run-1", "params": params or {}, "dag_run": run}


@pytest.fixture
def called(monkeypatch):
    """Replace the stages by one that remembers, and let nothing be killed with a parent."""
    calls = []

    def stage(name, answer):
        def remember(project, *, attempt, **arguments):
            calls.append((name, project, attempt, arguments))
            return answer

        monkeypatch.setattr(entrypoints, name, remember)

    monkeypatch.setattr(glue, "die_with_parent", lambda: None)
    stage("rollback", {"generation": 3, "links": {"Service": "http://x"}})
    stage("record_approval", {})
    stage("approval_request", {"needed": False, "links": {}})
    return SimpleNamespace(calls=calls, stage=stage)


def rendered(dag, task, values):
    task.arguments = task.render_template(task.arguments, values, dag.get_template_env())
    return task


@pytest.mark.parametrize("text", ["1234", "None", "[1, 2]", "12345678901e3456", "True", "say \"no\" {{ 1 }} 'now' <b>"])
def test_a_text_stays_a_text(dag, called, text):
    arguments = {
        "reason": glue.param("reason"),
        "actor": glue.triggered_by(),
        "to_version": glue.result("train", "version"),
    }
    task = glue.StageOperator(stage="rollback", project="p", arguments=arguments, dag=dag)
    values = context(results={"train": {"version": text}}, params={"reason": text}, user=text)
    rendered(dag, task, values).execute(values)
    assert called.calls[0][3] == {"reason": text, "actor": text, "to_version": text}


def test_what_is_no_text_keeps_its_type(dag, called):
    arguments = {
        "force": glue.param("force"),
        "seed": glue.param("seed"),
        "epochs": glue.result("snapshot", "epochs"),
        "nothing": glue.result("judge", "verdict_id"),
        "started": glue.ran("snapshot"),
        "stopped": glue.ran("judge"),
    }
    task = glue.StageOperator(stage="rollback", project="p", arguments=arguments, dag=dag)
    values = context(results={"snapshot": {"epochs": [2, 1]}}, params={"force": True, "seed": None})
    rendered(dag, task, values).execute(values)
    expected = {"force": True, "seed": None, "epochs": [2, 1], "nothing": None, "started": True, "stopped": False}
    assert called.calls[0][3] == expected
    assert (called.calls[0][2].run_id, called.calls[0][2].number) == ("run-1", 2)
    assert task.links == {"Service": "http://x"}


def test_an_idle_stage_is_skipped(dag, called):
    called.stage("rollback", {"idle": "nothing to do"})
    task = glue.StageOperator(stage="rollback", project="p", dag=dag)
    with pytest.raises(AirflowSkipException, match="nothing to do"):
        task.execute(context())


@pytest.fixture
def approval(dag, monkeypatch):
    task = glue.PromotionApproval(task_id="approve", project="p", verdict_id=json.dumps("v1"), dag=dag)
    after = glue.StageOperator(stage="rollback", project="p", dag=dag)
    task >> after
    skipped = []
    monkeypatch.setattr(task, "skip", lambda *, ti, tasks: skipped.extend(row.task_id for row in tasks))  # noqa: ARG005
    monkeypatch.setattr(task, "validate_params_input", lambda _: None)
    return SimpleNamespace(task=task, skipped=skipped)


def event(option, *, user=ALICE, reason="because"):
    return {
        "chosen_options": [option],
        "params_input": {"reason": reason},
        "responded_by_user": user,
        "responded_at": ANSWERED_AT,
    }


@pytest.mark.parametrize(
    ("answer", "expected", "skips"),
    [
        (event("Approve"), ("approve", "alice"), False),
        (event("Reject"), ("reject", "alice"), True),
        (event("Reject", user=None, reason=None), ("expired", "nobody"), True),
    ],
)
def test_an_answer_is_kept_before_anything_goes_on(approval, called, answer, expected, skips):
    decision, by = expected
    approval.task.execute_complete({**context(), "task": approval.task}, answer)
    ((name, project, _attempt, arguments),) = called.calls
    assert (name, project) == ("record_approval", "p")
    assert arguments == {
        "verdict_id": "v1",
        "decision": decision,
        "by": by,
        "requested_by": "bob",
        "reason": answer["params_input"]["reason"] or "",
        "at": ANSWERED_AT,
    }
    assert approval.skipped == (["rollback"] if skips else [])


def test_an_answer_that_may_not_count_fails_the_task(approval, monkeypatch, called):
    def refuse(*_, **__):
        raise GateClosed("[SELF_APPROVAL] somebody else must approve it", code="SELF_APPROVAL")

    monkeypatch.setattr(entrypoints, "record_approval", refuse)
    with pytest.raises(AirflowFailException, match=r"^\[SELF_APPROVAL\] somebody else"):
        approval.task.execute_complete(context(user="alice"), event("Approve"))


def test_an_error_is_no_answer(approval, called):
    with pytest.raises(Exception, match="broken"):
        approval.task.execute_complete(context(), {"error": "broken", "error_type": "unknown"})
    assert called.calls == []


def test_where_nobody_is_asked_the_run_goes_on(approval, called):
    assert approval.task.execute(context()) == {"verdict_id": "v1", "needed": False}


@pytest.mark.parametrize(("strategy", "minutes"), [("all_at_once", 15), ("canary", 75)])
def test_shipping_may_take_as_long_as_a_rollout(strategy, minutes):
    config = s.project(serving={"rollout": {"strategy": strategy, "deadline_seconds": 3600}}).config
    assert glue.rollout_timeout(config) == dt.timedelta(minutes=minutes)
