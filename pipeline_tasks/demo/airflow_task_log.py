"""Says each Airflow task of the demo's project as it ends, whoever woke it."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pipeline_tasks.adapters.airflow_rest import AirflowRest
from pipeline_tasks.errors import PipelineError

POLL_SECONDS = 2.0
SHOWN = frozenset({"success", "failed", "up_for_retry", "awaiting_input"})


@contextmanager
def narrate_tasks(
    airflow: AirflowRest, dag_prefix: str, *, say: Callable[[str], None], since: dt.datetime
) -> Iterator[None]:
    """Watch in the background while the block runs; a look that fails is made again at the next turn."""
    stop = threading.Event()
    told: set[tuple[str, str, int, str]] = set()

    def work() -> None:
        while not stop.wait(POLL_SECONDS):
            try:
                for line in new_lines(airflow.tasks_since(dag_prefix, since), told):
                    say(line)
            except (PipelineError, KeyError):
                continue

    thread = threading.Thread(target=work, name="task-narrator", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=30)


def new_lines(tasks: Sequence[Mapping[str, Any]], told: set[tuple[str, str, int, str]]) -> list[str]:
    """Return a line for each task state that is worth telling and was not told yet; adds it to `told`.

    A skipped task had nothing to do and is not told.
    """
    lines = []
    for task in tasks:
        state = str(task["state"])
        key = (f"{task['dag_id']}/{task['dag_run_id']}", str(task["task_id"]), int(task["try_number"]), state)
        if state in SHOWN and key not in told:
            told.add(key)
            took = f" ({task['duration']:.1f} s)" if task.get("duration") and state == "success" else ""
            lines.append(f"Airflow: {task['dag_id']}.{task['task_id']} {state}{took}")
    return lines
