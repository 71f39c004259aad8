"""<project>__collect: bring the labelers' answers back."""

from airflow.sdk import DAG

from pipeline_tasks.orchestration.airflow_operators import (
    StageOperator,
    asset,
    dag_arguments,
    load_valid_projects,
    wake_on,
)

DOC = """
### Collect annotations

Reads what changed in Label Studio since the last run, decides each item's label from all its annotators, and keeps
the history. Label Studio's webhook wakes it, and so does a start of the api-server, which was away for some; the
schedule sweeps what a lost webhook missed.

**When it fails.** `SCHEMA_DRIFT`: a class is gone from project.yaml that labels may have, or somebody has changed the
classes in Label Studio; the message names them, and `dethrone project migrate` says what may become of them.
Everything else is retried; nothing is read twice.
"""

for project in load_valid_projects():
    name = project.name
    with DAG(
        schedule=wake_on(project.schedules.collect, asset(name, "annotations")),
        **dag_arguments(project, "collect", doc=DOC),
    ):
        StageOperator(
            stage="collect", project=name, inlets=[asset(name, "annotations")], outlets=[asset(name, "labels")]
        )
