"""The seam between Airflow and the stages: operators, assets, schedules. Only `dags/` imports this.

Nothing heavy is imported here: each DAG file is parsed every few seconds, and once more in every task process.
"""

from __future__ import annotations

import ctypes
import datetime as dt
import json
import logging
import signal
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs
from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import Asset, AssetOrTimeSchedule, BaseOperator, BaseOperatorLink, Context, CronTriggerTimetable, Param
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from pipeline_tasks.contracts import Attempt
from pipeline_tasks.core.settings import gpu_pod_template, installed_at
from pipeline_tasks.errors import PermanentError
from pipeline_tasks.project.schema import Project

logger = logging.getLogger(__name__)

# A schedule with `catchup` off still makes up the last tick before its first parse, for every sweep at once: on a new
# installation that is a crowd of runs with nothing to do. So schedules begin when the installation did.
START = installed_at() or dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
PR_SET_PDEATHSIG = 1

TASK_TIMEOUT = dt.timedelta(minutes=15)
RETRY_ARGUMENTS: dict[str, Any] = {
    # Together with the S3 client's own 90 s these outlast a restart of any service.
    "retries": 3,
    "retry_delay": dt.timedelta(seconds=10),
    "retry_exponential_backoff": 2.0,
    "max_retry_delay": dt.timedelta(minutes=5),
    "execution_timeout": TASK_TIMEOUT,
}


# For a task that wants the accelerator: its pool everywhere, Celery's queue of that name, Kubernetes' GPU node pool.
ON_GPU: dict[str, Any] = {
    "pool": "gpu",
    "queue": "gpu",
    **({"executor_config": {"pod_template_file": template}} if (template := gpu_pod_template()) else {}),
}


def load_valid_projects() -> Iterator[Project]:
    """Yield the valid projects; broken ones are reported by `dags/broken_projects.py` and take nobody down."""
    projects, _errors = _load()
    yield from (loaded.config for loaded in projects)


def project_errors() -> list[str]:
    """Return one message per broken project folder."""
    return [str(error) for error in _load()[1]]


def _load() -> tuple[list[Any], list[Any]]:
    from pipeline_tasks.core.settings import projects_dir
    from pipeline_tasks.project.loader import load_projects

    return load_projects(projects_dir())


def asset(project: str, kind: str) -> Asset:
    """Return the asset that means "new <kind> of this project": a wake-up, never data."""
    return Asset(name=f"{project}_{kind}", uri=f"dethrone://{project}/{kind}")


def wake_on(cron: str | None, *assets: Asset) -> Any:
    """Return the schedule "any of these assets, and a sweep by cron", since an asset event can be lost."""
    any_of: Any = None
    for watched in assets:
        any_of = watched if any_of is None else any_of | watched
    if any_of is None:
        return CronTriggerTimetable(cron, timezone="UTC") if cron else None
    if cron is None:
        return [any_of] if len(assets) == 1 else any_of
    return AssetOrTimeSchedule(timetable=CronTriggerTimetable(cron, timezone="UTC"), assets=any_of)


def dag_arguments(project: Project, verb: str, *, doc: str) -> dict[str, Any]:
    """Return what every DAG of a project has in common."""
    return {
        "dag_id": f"{project.name}__{verb}",
        "start_date": START,
        "catchup": False,
        "max_active_runs": 1,
        "tags": ["dethrone", project.name, project.modality],
        "default_args": {"owner": project.owner, **RETRY_ARGUMENTS},
        "doc_md": doc,
        "description": f"{verb} of {project.name}",
        "dagrun_timeout": dt.timedelta(days=7) if verb == "train" else dt.timedelta(hours=6),
    }


def rollout_timeout(project: Project) -> dt.timedelta:
    """Return how long shipping may take: starting and stopping as any task, and a canary up to its deadline.

    The task waits in its worker slot: a rollout is one transaction, and a retry adopts its steps.
    """
    rollout = project.serving.rollout
    watching = rollout.deadline_seconds if rollout.strategy == "canary" else 0
    return TASK_TIMEOUT + dt.timedelta(seconds=watching)


def param(name: str) -> str:
    """Return the template of a run's parameter, as JSON: a reason that is a number stays a text."""
    return f"{{{{ params.{name} | tojson }}}}"


def result(task_id: str, key: str) -> str:
    """Return the template of what an earlier task returned under `key`, as JSON; null where it returned nothing."""
    return f"{{{{ (ti.xcom_pull(task_ids='{task_id}') or {{}}).get('{key}') | tojson }}}}"


def ran(task_id: str) -> str:
    """Return the template of whether an earlier task returned anything, as JSON."""
    return f"{{{{ (ti.xcom_pull(task_ids='{task_id}') is not none) | tojson }}}}"


def triggered_by() -> str:
    """Return the template of who started the run, as JSON."""
    return "{{ (dag_run.triggering_user_name or 'airflow') | tojson }}"


@attrs.define()
class StageLink(BaseOperatorLink):
    """A button on the task's page; its address is what the stage returned under `links`."""

    label: str = "Report"

    @property
    def name(self) -> str:
        return self.label

    @property
    def xcom_key(self) -> str:
        return f"link_{self.label.lower().replace(' ', '_').replace('&', 'and')}"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:  # noqa: ARG002 - Airflow's signature
        return str(getattr(operator, "links", {}).get(self.label, ""))


LINKS = ("Report", "Data Docs", "Label Studio", "W&B run", "Service")


class StageOperator(BaseOperator):
    """Runs one stage through its entry point: `entrypoints.<stage>(project, attempt=..., **arguments)`.

    The arguments are templates that render to JSON (`param`, `result`): rendering to native objects would make a
    number of an id such as 12345678901e3456. A stage's result is a JSON dictionary of ids. `links` in it become
    buttons; `idle` (a sentence) means that there was nothing to do: the task is skipped, so that no asset event wakes
    anybody.
    """

    template_fields = ("arguments",)
    operator_extra_links = tuple(StageLink(label=label) for label in LINKS)
    ui_color = "#e8f0fe"

    def __init__(self, *, stage: str, project: str, arguments: Mapping[str, str] | None = None, **kwargs: Any) -> None:
        super().__init__(task_id=kwargs.pop("task_id", stage), **kwargs)
        self.stage = stage
        self.project = project
        self.arguments = dict(arguments or {})

    def execute(self, context: Context) -> dict[str, Any]:
        """Run the stage; a permanent error fails the task at once, a transient one is retried."""
        from pipeline_tasks.orchestration import entrypoints

        die_with_parent()
        arguments = {name: json.loads(text) for name, text in self.arguments.items()}
        outcome = call(getattr(entrypoints, self.stage), self.project, context, **arguments)
        self.links = dict(outcome.get("links", {}))
        if outcome.get("idle"):
            raise AirflowSkipException(str(outcome["idle"]))
        return outcome


def approval_form() -> dict[str, Param]:
    """Return the fields of the approval form."""
    return {"reason": Param(None, type=["null", "string"], title="Why (kept in the ledger)")}


class PromotionApproval(ApprovalOperator):
    """Asks a person where the project says so; no answer in time keeps the champion.

    Skipped unless the verdict is `promote`. Where no approval is asked for it passes at once. A yes or a no is
    recorded with who gave it and why before anything ships; a no skips every shipping task.
    """

    template_fields = (*ApprovalOperator.template_fields, "verdict_id")
    operator_extra_links = (StageLink(label="Report"),)

    def __init__(self, *, project: str, verdict_id: str, **kwargs: Any) -> None:
        super().__init__(
            subject=f"Promote the contender of {project}?",
            defaults=self.REJECT,
            **kwargs,
        )
        self.project = project
        self.verdict_id = verdict_id

    def execute(self, context: Context) -> Any:
        """Wait for an answer only when the verdict says promote and the project wants one."""
        from pipeline_tasks.orchestration import entrypoints

        die_with_parent()
        verdict_id = json.loads(self.verdict_id)
        request = call(entrypoints.approval_request, self.project, context, verdict_id=verdict_id)
        self.links = dict(request.get("links", {}))
        if request.get("idle"):
            raise AirflowSkipException(str(request["idle"]))
        if not request["needed"]:
            return {"verdict_id": verdict_id, "needed": False}
        self.body = request["body"]
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Record the answer, then let Airflow go on or skip; an error is no answer and fails the task."""
        if "error" not in event:
            self._record(context, event)
        return super().execute_complete(context, event)

    def _record(self, context: Context, event: Mapping[str, Any]) -> None:
        from pipeline_tasks.orchestration import entrypoints

        user = event.get("responded_by_user") or {}
        approved = event.get("chosen_options") == [self.APPROVE]
        call(
            entrypoints.record_approval,
            self.project,
            context,
            verdict_id=json.loads(self.verdict_id),
            decision="approve" if approved else ("reject" if user else "expired"),
            by=str(user.get("name") or "nobody"),
            requested_by=context["dag_run"].triggering_user_name,
            reason=str((event.get("params_input") or {}).get("reason") or ""),
            at=event["responded_at"],
        )


def call(stage: Callable[..., dict[str, Any]], project: str, context: Context, **arguments: Any) -> dict[str, Any]:
    """Call an entry point for this task attempt and translate its errors."""
    instance = context["ti"]
    attempt = Attempt(run_id=str(context["run_id"]), task=instance.task_id, number=int(instance.try_number))
    try:
        return stage(project, attempt=attempt, **arguments)
    except PermanentError as error:
        code = f"[{error.code}] "
        raise AirflowFailException(code + str(error).removeprefix(code)) from error


def die_with_parent() -> None:
    """Ask the kernel to kill this task when its supervisor dies (measured: else it runs on beside the retry)."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
