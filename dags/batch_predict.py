"""<project>__batch_predict: the champion's answers for many items at once."""

from airflow.sdk import DAG, Param

from pipeline_tasks.orchestration.airflow_operators import (
    ON_GPU,
    StageOperator,
    asset,
    dag_arguments,
    load_valid_projects,
    param,
)

DOC = """
### Predict a batch

Answers every item that was ingested (or one ingest batch) with the champion, offline, and writes one Parquet file.
An item that the model cannot answer has no label in it, and the `problem`.

**When it fails.** Run it again: the output is named by the champion and the items, so it is written once.
"""

for project in load_valid_projects():
    name = project.name
    with DAG(
        schedule=None,
        params={
            "batch_id": Param(None, type=["null", "string"], title="Ingest batch (empty: every item)"),
        },
        **dag_arguments(project, "batch_predict", doc=DOC),
    ):
        StageOperator(
            stage="batch_predict",
            project=name,
            **ON_GPU,
            arguments={"batch_id": param("batch_id")},
            inlets=[asset(name, "champion")],
            outlets=[asset(name, "batch_predictions")],
        )
