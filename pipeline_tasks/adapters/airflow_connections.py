"""Airflow's connections: where the credentials of outside systems lie. Airflow masks them in its logs."""

from __future__ import annotations

from pipeline_tasks.adapters.container_registry import Credentials
from pipeline_tasks.errors import ConfigError


def registry_credentials(connection_id: str) -> Credentials:
    """Return login and password of a connection, from any of Airflow's places (in a shell: AIRFLOW_CONN_<ID>).

    Raises:
        ConfigError: there is no such connection, or it lacks one of the two.
    """
    from airflow.sdk import Connection
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        connection = Connection.get(connection_id)
    except AirflowNotFoundException as error:
        raise ConfigError(
            f"serving.docker.connection must be an Airflow connection (got {connection_id}, which does not exist). "
            f"Add it: airflow connections add {connection_id} --conn-type docker --conn-login ... --conn-password ..., "
            f"or set AIRFLOW_CONN_{connection_id.upper()}.",
            code="CONNECTION_UNKNOWN",
        ) from error
    if not connection.login or not connection.password:
        raise ConfigError(
            f"the Airflow connection {connection_id} must have a login and a password (got one empty).",
            code="CONNECTION_UNKNOWN",
        )
    return Credentials(username=connection.login, password=connection.password)
