import datetime as dt
import os
import signal

import pytest

from pipeline_tasks.adapters import http_health
from pipeline_tasks.stack import health, watchdog
from pipeline_tasks.stack.supervisord import ProcessInfo

NOW = dt.datetime(2026, 11, 21, 9, 0, tzinfo=dt.UTC)


def info(state="RUNNING", uptime_seconds=300.0, pid=4321):
    return ProcessInfo("airflow-scheduler", state, pid, uptime_seconds, "")


def answer(age_seconds):
    heartbeat = None if age_seconds is None else NOW - dt.timedelta(seconds=age_seconds)
    return http_health.Health(ok=False, detail="", heartbeat_at=heartbeat)


@pytest.mark.parametrize(
    ("process", "age_seconds", "stuck"),
    [
        (info(), 61, True),
        (info(), 60, False),
        (info(), 1, False),
        (info(), None, False),  # the api-server is away: nothing is known
        (info(uptime_seconds=59), 300, False),  # the old heartbeat of the one before it
        (info(state="STARTING"), 300, False),
        (info(state="STOPPED", pid=None), 300, False),
    ],
)
def test_a_scheduler_is_stuck_after_a_minute_without_a_heartbeat(process, age_seconds, stuck):
    assert watchdog.is_stuck(process, answer(age_seconds), now=NOW) is stuck


class OneProgram:
    def __init__(self, process):
        self.process = process

    def processes(self):
        return {"airflow-scheduler": self.process}


@pytest.fixture
def kills(monkeypatch):
    seen = []
    monkeypatch.setattr(os, "killpg", lambda group, number: seen.append((group, number)))
    return seen


def test_a_stuck_scheduler_is_killed_with_its_workers(kills, monkeypatch):
    monkeypatch.setattr(health, "probe", lambda *_, **__: answer(90))
    assert watchdog.check_once(OneProgram(info()), airflow_port=1, now=NOW) is True
    assert kills == [(4321, signal.SIGKILL)]


def test_a_live_scheduler_is_left_alone(kills, monkeypatch):
    monkeypatch.setattr(health, "probe", lambda *_, **__: answer(2))
    assert watchdog.check_once(OneProgram(info()), airflow_port=1, now=NOW) is False
    assert kills == []
