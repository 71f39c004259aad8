"""Warnings of rollouts before there is one: those that could not end at the traffic of the newest day."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline_tasks.core.clock import utc_now
from pipeline_tasks.deployment.canary_schedule import require_end
from pipeline_tasks.errors import ConfigError, PipelineError
from pipeline_tasks.monitoring.daily_traffic import newest_day
from pipeline_tasks.orchestration.resources import build_resources
from pipeline_tasks.project.schema import LoadedProject


def rollout_warnings(projects: Sequence[LoadedProject]) -> list[str]:
    """Return what `ship` would refuse, with the settings that would do; nothing where no traffic or stack is known."""
    stepwise = [project for project in projects if project.config.serving.rollout.strategy == "canary"]
    try:
        store = build_resources().store if stepwise else None
    except PipelineError:
        return []
    warnings = []
    for project in stepwise:
        traffic = newest_day(store, project.name, now=utc_now()) if store is not None else None
        try:
            if traffic is not None:
                require_end(project.config.serving.rollout, traffic)
        except ConfigError as error:
            warnings.append(f"{project.name}: {error}")
    return warnings
