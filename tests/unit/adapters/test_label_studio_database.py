import subprocess

import pytest

from pipeline_tasks.adapters import label_studio_database
from pipeline_tasks.adapters.label_studio_database import PostgresqlDump
from pipeline_tasks.errors import ServiceUnavailable


@pytest.mark.parametrize("place", ["ls:p%40ss@db/labels?", "ls@db/labels?password=p%40ss&"])
def test_a_password_is_on_no_command_line_wherever_the_address_has_it(monkeypatch, tmp_path, place):
    calls = []

    def run(command, *, env, **_):
        calls.append((command, env))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(label_studio_database.subprocess, "run", run)
    PostgresqlDump(f"postgresql://{place}sslmode=require", environment={}).dump(tmp_path / "dump")
    ((command, env),) = calls
    assert command[-1] == "postgresql://ls@db/labels?sslmode=require"
    assert env == {"PGPASSWORD": "p@ss"}


def test_a_dump_that_takes_too_long_is_an_error_of_ours(monkeypatch, tmp_path):
    def run(command, *, timeout, **_):
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(label_studio_database.subprocess, "run", run)
    with pytest.raises(ServiceUnavailable, match=r"pg_dump must end within 3600 s \(got: it still ran\)"):
        PostgresqlDump("postgresql://ls@db/labels", environment={}).dump(tmp_path / "dump")
