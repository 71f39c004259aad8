"""Credentials out of Airflow's connections, as a shell gives them: AIRFLOW_CONN_<ID>."""

import pytest

from pipeline_tasks.adapters.airflow_connections import registry_credentials
from pipeline_tasks.errors import ConfigError


def test_login_and_password_are_returned(monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_OUR_REGISTRY", "docker://ann:secret@registry.example.org")
    credentials = registry_credentials("our_registry")
    assert (credentials.username, credentials.password) == ("ann", "secret")


def test_a_connection_without_a_password_is_refused(monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_OUR_REGISTRY", "docker://ann@registry.example.org")
    with pytest.raises(ConfigError, match="our_registry must have a login and a password"):
        registry_credentials("our_registry")


def test_a_connection_that_does_not_exist_is_told_with_what_to_do(monkeypatch):
    monkeypatch.delenv("AIRFLOW_CONN_OUR_REGISTRY", raising=False)
    with pytest.raises(ConfigError, match="airflow connections add our_registry") as error:
        registry_credentials("our_registry")
    assert error.value.code == "CONNECTION_UNKNOWN"
