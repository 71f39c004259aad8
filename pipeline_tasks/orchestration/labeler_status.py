"""The labelers' lines of `dethrone status`: who is missing, and who is shown to be worse than the others."""

from __future__ import annotations

from pipeline_tasks.annotation.people import missing_people
from pipeline_tasks.catalog.datasets import CheckRecord, DatasetRepository
from pipeline_tasks.catalog.labels import LabelRepository
from pipeline_tasks.errors import PipelineError
from pipeline_tasks.orchestration.resources import Resources, build_resources
from pipeline_tasks.project.loader import load_projects
from pipeline_tasks.validation.labeler_check import LABELER_DISAGREES


def missing_people_lines(parts: Resources | None = None) -> list[str]:
    """Return one line per project that lacks people; nothing where Label Studio does not answer: status says so."""
    parts = parts or build_resources()
    labels = LabelRepository(parts.database)
    projects, _errors = load_projects(parts.settings.projects_dir)
    try:
        missing = [missing_people(project, labels=labels, labeling=parts.labeling) for project in projects]
    except PipelineError:
        return []
    return [line for line in missing if line]


def disagreeing_lines(parts: Resources | None = None) -> list[str]:
    """Return one line per project of which the newest check of labels named labelers."""
    parts = parts or build_resources()
    datasets = DatasetRepository(parts.database)
    projects, _errors = load_projects(parts.settings.projects_dir)
    lines = (disagreeing_line(project.name, datasets.check_of(project.name, stage="labels")) for project in projects)
    return [line for line in lines if line]


def disagreeing_line(project: str, check: CheckRecord | None) -> str:
    """Return the line on the labelers that a check named, or nothing."""
    said = [
        failure["observed"] for failure in (check.failures if check else ()) if failure["rule"] == LABELER_DISAGREES
    ]
    if not said:
        return ""
    return (
        f"Labels of {project}: {said[0]}. Whose answers count is yours to say: docs/labeling.md, People who are wrong."
    )
