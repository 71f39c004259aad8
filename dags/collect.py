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

**When it fails.** `SCHEMA_DRIFT`: labels were collected, and the classes of project.yaml or of Label Studio are no
longer those that they were given with; the message names them.
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
