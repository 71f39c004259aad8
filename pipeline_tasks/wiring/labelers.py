"""The labelers' lines of `dethrone status`: projects that wait for more people than have an account."""

from __future__ import annotations

from pipeline_tasks.annotation.people import missing_people
from pipeline_tasks.assembly import Parts, build_parts
from pipeline_tasks.catalog.labels import LabelRepository
from pipeline_tasks.errors import PipelineError
from pipeline_tasks.project_loader import load_projects


def missing_people_lines(parts: Parts | None = None) -> list[str]:
    """Return one line per project that lacks people; nothing where Label Studio does not answer: status says so."""
    parts = parts or build_parts()
    labels = LabelRepository(parts.database)
    projects, _errors = load_projects(parts.settings.projects_dir)
    try:
        found = [missing_people(project, labels=labels, labeling=parts.labeling) for project in projects]
    except PipelineError:
        return []
    return [line for line in found if line]
