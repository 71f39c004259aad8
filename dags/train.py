"""<project>__train: snapshot, train, judge, ask, build, ship."""

import datetime as dt

from airflow.sdk import DAG, Param, TriggerRule

from pipeline_tasks.orchestration.airflow_operators import (
    ON_GPU,
    PromotionApproval,
    StageOperator,
    approval_form,
    asset,
    dag_arguments,
    load_valid_projects,
    param,
    ran,
    result,
    rollout_timeout,
    wake_on,
)

DOC = """
### Train a contender and let it fight the champion

`plan` decides whether there is something to train on: `train.min_new_labels` new labels, a quarter of them after an
alarm, or another recipe than at the last run (name, parameters, search, code, runtime). While people are answering
tasks that are a twentieth or more of what there is, it waits for them, for two hours at most. While an alarm of live
quality stands, it waits for the exam items from after it (`gate.after_alarm`).

`snapshot` freezes the labels (and opens a new exam epoch when enough exam items are labeled) and checks them. `train`
tunes and trains on the pool `gpu`. `judge` scores champion and contender on the same frozen exams. `approve` waits for
a person where the project asks for one. `release` builds the bento and checks it in its real server. `ship` moves the
traffic, at once or judged on mirrors and in steps (`serving.rollout`), and keeps the old champion ready. `finish`
records how the run ended: promoted, rejected(reason), failed(reason) or superseded.

**When it fails.** Look at `finish` for the reason and at `judge` for the report. The champion keeps serving whatever
happens here. `CANARY_FAILED` and `CANARY_INCONCLUSIVE` say with which numbers a rollout went back to the champion;
`EXAM_AWAITED`: an alarm came up during the run; label the exam items, the next run judges what was trained.
`EXPERIMENT_RUNNING`: stop the experiment, then clear `ship`. `ROLLOUT_CANNOT_END`: take settings that the message
proposes into project.yaml, then clear `ship`. Clearing a failed task goes on from there; a whole new run adopts what
was already trained.
"""

SCALES_WITH_DATA = dt.timedelta(hours=12)

for project in load_valid_projects():
    name = project.name
    with DAG(
        schedule=wake_on(project.schedules.train, asset(name, "labels"), asset(name, "alarms")),
        params={
            "force": Param(default=False, type="boolean", title="Train although there are not enough new labels"),
            "window": Param(
                "all",
                enum=["all", "newest"],
                title="Labels to train on",
                description_md="`newest`: only what the champion was not trained on (it tends to forget the old).",
            ),
            "seed": Param(None, type=["null", "integer"], title="Seed (empty: the project's)"),
        },
        **dag_arguments(project, "train", doc=DOC),
    ):
        verdict_id = result("judge", "verdict_id")
        plan = StageOperator(
            stage="plan_training",
            task_id="plan",
            project=name,
            arguments={"force": param("force")},
            inlets=[asset(name, "labels"), asset(name, "alarms")],
        )
        snapshot = StageOperator(
            stage="snapshot",
            project=name,
            execution_timeout=SCALES_WITH_DATA,
            arguments={"window": param("window")},
            outlets=[asset(name, "snapshots")],
        )
        train = StageOperator(
            stage="train",
            project=name,
            **ON_GPU,
            execution_timeout=SCALES_WITH_DATA,
            arguments={
                "snapshot_id": result("snapshot", "snapshot_id"),
                "seed": param("seed"),
            },
            outlets=[asset(name, "models")],
        )
        judge = StageOperator(
            stage="judge",
            project=name,
            **ON_GPU,
            execution_timeout=SCALES_WITH_DATA,
            arguments={
                "version": result("train", "version"),
                "epochs": result("snapshot", "epochs"),
            },
            outlets=[asset(name, "verdicts")],
        )
        approve = PromotionApproval(
            task_id="approve",
            project=name,
            verdict_id=verdict_id,
            params=approval_form(),
            response_timeout=dt.timedelta(hours=project.approval.deadline_hours),
            execution_timeout=None,
        )
        release = StageOperator(stage="release", project=name, arguments={"verdict_id": verdict_id})
        ship = StageOperator(
            stage="ship",
            project=name,
            execution_timeout=rollout_timeout(project),
            arguments={"release_id": result("release", "release_id")},
            outlets=[asset(name, "champion")],
        )
        finish = StageOperator(
            stage="finish",
            project=name,
            arguments={"started": ran("plan"), "verdict_id": verdict_id},
            trigger_rule=TriggerRule.ALL_DONE,
        )
        plan >> snapshot >> train >> judge >> approve >> release >> ship >> finish
