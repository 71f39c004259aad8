"""<project>__annotate: put items without a label into Label Studio, once."""

from airflow.sdk import DAG

from pipeline_tasks.orchestration.airflow_operators import (
    StageOperator,
    asset,
    dag_arguments,
    load_valid_projects,
    wake_on,
)

DOC = """
### Send items to the labelers

Accepts labels that came with the source (where `labels.imported` says so) and pushes every other item to Label Studio
once: training items with the champion's suggestion, exam items without and to more people.

A project without an item is left alone. What this run cannot push is in quarantine with its reason.

**When it fails.** `SERVICE_UNAVAILABLE`: Label Studio is away; it is retried, and what was pushed is found again by
item id. `LS_AUTH`: the token was refused; see `dethrone doctor`. `SCHEMA_DRIFT`: as in collect.
"""

for project in load_valid_projects():
    name = project.name
    with DAG(
        schedule=wake_on(project.schedules.annotate, asset(name, "items"), asset(name, "review")),
        **dag_arguments(project, "annotate", doc=DOC),
    ):
        StageOperator(
            stage="annotate",
            project=name,
            inlets=[asset(name, "items"), asset(name, "review")],
            outlets=[asset(name, "tasks"), asset(name, "labels")],
        )
