"""No DAG: shows a project whose files are wrong as an import error, without taking the other projects down."""

from pipeline_tasks.orchestration.airflow_operators import project_errors

if errors := project_errors():
    raise ImportError("These projects are not loaded until their files are mended:\n\n" + "\n\n".join(errors))
