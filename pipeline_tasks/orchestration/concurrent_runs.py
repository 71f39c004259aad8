"""A shell and Airflow at the same work: who waits, and how a run ends that could not go on."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline_tasks.catalog.runs import RunRepository
from pipeline_tasks.contracts import SHELL_RUN, Attempt, RunOutcome
from pipeline_tasks.core.clock import utc_now
from pipeline_tasks.core.crash_points import crash_point
from pipeline_tasks.errors import GateClosed, PipelineError, StaleAttempt
from pipeline_tasks.orchestration.resources import Resources

_ENDED_IN_AIRFLOW = frozenset({"success", "failed"})


def run_of(holder: str) -> str:
    """Return the run of a lease's holder, which is `run/task/number`."""
    return holder.rsplit("/", 2)[0]


def named(run_id: str) -> str:
    """Return what a run is to people."""
    return f"a `dethrone` command ({run_id})" if run_id.startswith(SHELL_RUN) else f"the DAG run {run_id}"


def idle_beside(error: StaleAttempt, *, project: str, stage: str, attempt: Attempt) -> str | None:
    """Return that another run does this work just now, or None: it is a later try of this same run."""
    run_id = run_of(error.holder)
    if not run_id or run_id == attempt.run_id:
        return None
    at_work = f"{named(run_id)} is at `{stage}` of {project} just now, and not done yet"
    return f"{at_work}; the same again afterwards takes what came since"


def training_elsewhere(parts: Resources, project: str, attempt: Attempt) -> str | None:
    """Return who trains a project now, a shell before Airflow's plan and Airflow before a shell's; None: nobody."""
    if not attempt.is_of_a_shell:
        with train_alone(parts, project) as free:
            return None if free else f"`dethrone train {project}` is at work in a shell"
    for run in RunRepository(parts.database).list(project, kind="train", state="open"):
        if not run.run_id.startswith(SHELL_RUN) and _runs_in_airflow(parts, project, run.run_id):
            return f"the DAG run {run.run_id} of {project}__train is at work; wait for it, or stop it in Airflow"
    return None


@contextmanager
def train_alone(parts: Resources, project: str) -> Iterator[bool]:
    """Hold a project's training for one command of this machine; False: another one has it. The kernel frees it."""
    folder = parts.settings.home / "locks"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(folder / f"train-{project}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        free = True
    except BlockingIOError:
        free = False
    try:
        yield free
    finally:
        os.close(descriptor)


def close_run(parts: Resources, project: str, *, run_id: str, error: BaseException) -> None:
    """Close a run that is open with what stopped it; only training opens one."""
    runs = RunRepository(parts.database)
    record = runs.get(project, run_id)
    if record is None or record.state != "open":
        return
    crash_point("run.close.before")
    runs.close(
        project,
        run_id=run_id,
        outcome=_outcome(error),
        reason_code=error.code if isinstance(error, PipelineError) else "STOPPED",
        reason=str(error).strip() or f"{type(error).__name__}; the champion stays",
        at=utc_now(),
    )
    crash_point("run.close.recorded")


def _outcome(error: BaseException) -> RunOutcome:
    if isinstance(error, StaleAttempt) or getattr(error, "code", "") == "STALE_BASELINE":
        return "superseded"
    return "rejected" if isinstance(error, GateClosed) else "failed"


def _runs_in_airflow(parts: Resources, project: str, run_id: str) -> bool:
    try:
        return parts.airflow.run(f"{project}__train", run_id)["state"] not in _ENDED_IN_AIRFLOW
    except (KeyError, PipelineError):
        return False  # Airflow does not know it, or does not run: nobody is at work on it
