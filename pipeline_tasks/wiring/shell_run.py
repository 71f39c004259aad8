"""The train DAG's stages one after the other in one process: `dethrone train`, and what benchmarks compare with."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Any

from pipeline_tasks import entrypoints
from pipeline_tasks.assembly import Parts, build_parts
from pipeline_tasks.contracts import Attempt
from pipeline_tasks.errors import GateClosed


def train_to_serve(
    project: str,
    *,
    force: bool = False,
    window: str = "all",
    run_id: str | None = None,
    parts: Parts | None = None,
    on_stage: Callable[[str, float], None] | None = None,
) -> dict[str, Any]:
    """Run plan to finish; `on_stage(name, seconds)` hears how long each took.

    Raises:
        GateClosed: a gate said no; the run is closed as rejected.
    """
    parts = parts or build_parts()
    run_id = run_id or f"shell__{secrets.token_hex(6)}"

    def call(stage: str, **arguments: Any) -> dict[str, Any]:
        began = time.monotonic()
        attempt = Attempt(run_id=run_id, task=stage)
        result: dict[str, Any] = getattr(entrypoints, stage)(project, attempt=attempt, parts=parts, **arguments)
        if on_stage:
            on_stage(stage, time.monotonic() - began)
        return result

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
