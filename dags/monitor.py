"""<project>__monitor: look at what the champion answers in production."""

from airflow.sdk import DAG

from pipeline_tasks.orchestration.airflow_operators import (
    StageOperator,
    asset,
    dag_arguments,
    load_valid_projects,
    result,
    wake_on,
)

DOC = """
### Watch production

Reads the prediction log, sends a random audit sample and the least confident answers to the labelers, measures the
live model's quality on audited answers, and wakes training when it has dropped.

**When it fails.** Nothing is lost: the log's parts stay where they are and the next run reads them. `Report` shows
the window's page: state, alarms, live quality with its intervals, drift of the answers. The state is ALARM whenever
there is an alarm of any kind; WATCH (the newest audits alone look low) wakes nobody; INSUFFICIENT_DATA means neither an
alarm nor an all-clear.
"""

for project in load_valid_projects():
    name = project.name
    with DAG(schedule=wake_on(project.schedules.monitor), **dag_arguments(project, "monitor", doc=DOC)):
        watch = StageOperator(
            stage="monitor", project=name, inlets=[asset(name, "champion")], outlets=[asset(name, "review")]
        )
        alarm = StageOperator(
            stage="alarm",
            project=name,
            arguments={"window_id": result("monitor", "window_id")},
            outlets=[asset(name, "alarms")],
        )
        watch >> alarm
