"""The train DAG's stages one after the other in one process: `dethrone train`, and what benchmarks compare with."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable
from typing import Any

from pipeline_tasks import entrypoints
from pipeline_tasks.assembly import Parts, build_parts
from pipeline_tasks.contracts import SHELL_RUN, Attempt
from pipeline_tasks.errors import GateClosed, PipelineError
from pipeline_tasks.wiring.at_once import close_run, train_alone
from pipeline_tasks.wiring.shipping import end_abandoned_rollout


def train_to_serve(
    project: str,
    *,
    force: bool = False,
    window: str = "all",
    parts: Parts | None = None,
    on_stage: Callable[[str, float], None] | None = None,
) -> dict[str, Any]:
    """Run plan to finish; `on_stage(name, seconds)` hears how long each took.

    Raises:
        PipelineError: a stage could not go on; the run is closed with that reason, as rejected where a gate said no.
    """
    parts = parts or build_parts()
    run_id = f"{SHELL_RUN}{secrets.token_hex(6)}"

    def call(stage: str, **arguments: Any) -> dict[str, Any]:
        began = time.monotonic()
        attempt = Attempt(run_id=run_id, task=stage)
        result: dict[str, Any] = getattr(entrypoints, stage)(project, attempt=attempt, parts=parts, **arguments)
        if on_stage:
            on_stage(stage, time.monotonic() - began)
        return result

    with train_alone(parts, project) as alone:
        if not alone:
            return {"idle": f"`dethrone train {project}` is at work in another shell"}
        try:
            return _stages(call, project, force=force, window=window)
        except BaseException as error:
            with contextlib.suppress(PipelineError):
                end_abandoned_rollout(parts, project, attempt=Attempt(run_id=run_id, task="finish"))
            close_run(parts, project, run_id=run_id, error=error)
            raise


def _stages(call: Callable[..., dict[str, Any]], project: str, *, force: bool, window: str) -> dict[str, Any]:
    plan = call("plan_training", force=force)
    if plan.get("idle"):
        return plan
    frozen = call("snapshot", window=window)
    model = call("train", snapshot_id=frozen["snapshot_id"])
    verdict = call("judge", version=model["version"], epochs=frozen["epochs"])
    request = call("approval_request", verdict_id=verdict["verdict_id"])
    if request.get("needed"):
        raise GateClosed(
            f"approval.when asks a person before {project} ships; a shell cannot. Trigger {project}__train in Airflow.",
            code="APPROVAL_MISSING",
        )
    if not request.get("idle"):
        built = call("release", verdict_id=verdict["verdict_id"])
        call("ship", release_id=built["release_id"])
    return call("finish", verdict_id=verdict["verdict_id"])
