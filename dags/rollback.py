"""<project>__rollback: return to an earlier champion."""

from airflow.sdk import DAG, Param

from pipeline_tasks.orchestration.airflow_operators import (
    StageOperator,
    asset,
    dag_arguments,
    load_valid_projects,
    param,
    triggered_by,
)

DOC = """
### Roll back

Gives the traffic back to an earlier champion: the one before, which is kept running, or a version that you name. No
request fails meanwhile. From a shell: `dethrone rollback <project> --reason "..."`.

**When it fails.** The champion that served keeps serving. `NO_EARLIER_CHAMPION`: there is nothing to return to.
"""

for project in load_valid_projects():
    name = project.name
    with DAG(
        schedule=None,
        params={
            "to_version": Param(None, type=["null", "string"], title="Model version (empty: the champion before)"),
            "reason": Param("by hand", type="string", minLength=3, pattern=r"\S", title="Why (kept in the ledger)"),
        },
        **dag_arguments(project, "rollback", doc=DOC),
    ):
        StageOperator(
            stage="rollback",
            project=name,
            arguments={
                "to_version": param("to_version"),
                "reason": param("reason"),
                "actor": triggered_by(),
            },
            outlets=[asset(name, "champion")],
        )
