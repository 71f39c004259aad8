"""<project>__ingest: read what is new at the sources into the catalog."""

from airflow.sdk import DAG

from pipeline_tasks.orchestration.airflow_operators import (
    StageOperator,
    asset,
    dag_arguments,
    load_valid_projects,
    wake_on,
)

DOC = """
### Ingest new data

Reads what is new at the project's sources, checks every item, stores it once (by the hash of its bytes), and puts
what is broken into quarantine with a reason. Runs on a schedule, by hand, and when somebody writes the asset.

**When it fails.** `SOURCE_UNAVAILABLE`: the source is down or refuses; it is retried, then fix the source and run
again. `QUARANTINE_SHARE`: too many items of the batch are broken; `dethrone quarantine <project>` lists them. Nothing
is lost and nothing is counted twice: run it as often as you like.
"""

for project in load_valid_projects():
    name = project.name
    with DAG(
        schedule=wake_on(project.schedules.ingest, asset(name, "arrivals")),
        **dag_arguments(project, "ingest", doc=DOC),
    ):
        StageOperator(stage="ingest", project=name, outlets=[asset(name, "items")])
