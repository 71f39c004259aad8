"""Restarts an Airflow scheduler that is alive but stuck."""

from __future__ import annotations

import argparse
import datetime as dt
import logging
import os
import signal
import time
from pathlib import Path

from pipeline_tasks.adapters import http_health
from pipeline_tasks.errors import PipelineError
from pipeline_tasks.stack import addresses, health
from pipeline_tasks.stack.layout import StackLayout, source_root
from pipeline_tasks.stack.supervisord import ProcessInfo, Supervisor

logger = logging.getLogger(__name__)

PROGRAM = "airflow-scheduler"
MAX_HEARTBEAT_AGE_SECONDS = 60.0
POLL_SECONDS = 5.0


def is_stuck(info: ProcessInfo, answer: http_health.Health, *, now: dt.datetime) -> bool:
    """Return whether a running scheduler has given no sign of life for longer than allowed since it started."""
    if info.state != "RUNNING" or answer.heartbeat_at is None or info.uptime_seconds < MAX_HEARTBEAT_AGE_SECONDS:
        return False
    return (now - answer.heartbeat_at).total_seconds() > MAX_HEARTBEAT_AGE_SECONDS


def check_once(supervisor: Supervisor, *, airflow_port: int, now: dt.datetime) -> bool:
    """Kill a stuck scheduler with its workers, so that the supervisor starts a new one; True if one was killed.

    Its workers go with it: a new scheduler would start their tasks a second time beside them.
    """
    info = supervisor.processes()[PROGRAM]
    answer = health.probe(PROGRAM, ports={"airflow": airflow_port})
    if info.pid is None or not is_stuck(info, answer, now=now):
        return False
    logger.warning("the scheduler (pid %d) gave no heartbeat since %s: restarting it", info.pid, answer.heartbeat_at)
    os.killpg(info.pid, signal.SIGKILL)
    return True


def main() -> None:
    """Look every few seconds until the supervisor ends this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    home = parser.parse_args().home
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    layout = StackLayout(home=home, root=source_root())
    while True:
        try:
            port = int(addresses.read_stack(layout.stack_file)["ports"]["airflow"])
            check_once(Supervisor(layout.socket), airflow_port=port, now=dt.datetime.now(dt.UTC))
        except (PipelineError, OSError, KeyError) as error:
            logger.warning("cannot look at the scheduler: %s", error)
        time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    main()
