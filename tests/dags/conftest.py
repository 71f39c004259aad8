"""An Airflow home of its own, set before anything imports airflow."""

import os
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_HOME = tempfile.mkdtemp(prefix="dethrone-dags-")
os.environ.update(
    AIRFLOW_HOME=_HOME,
    AIRFLOW__CORE__LOAD_EXAMPLES="False",
    AIRFLOW__CORE__DAGS_FOLDER=str(ROOT / "dags"),
    AIRFLOW__CORE__UNIT_TEST_MODE="False",
    AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=f"sqlite:///{_HOME}/airflow.db",
    DETHRONE_PROJECTS=str(ROOT / "projects"),
)
