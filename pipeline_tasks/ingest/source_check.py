"""A project's sources as they are now, for `dethrone project validate`.

Loading a project does not look: a source that is away for an hour takes no DAG down.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from pipeline_tasks.errors import PipelineError
from pipeline_tasks.ingest.source_readers import reader_of
from pipeline_tasks.ingest.sources.opening import Opening, opening_of
from pipeline_tasks.project.schema import LoadedProject
from pipeline_tasks.project.source_schema import Source, SourceBase


@dataclasses.dataclass(frozen=True, slots=True)
class SourceFindings:
    """Faults of the sources, and oddities; each names key and path."""

    problems: tuple[str, ...]
    warnings: tuple[str, ...]


def check_sources(project: LoadedProject, *, environment: Mapping[str, str]) -> SourceFindings:
    """Look whether each source is there; nothing is read, and nothing outside this machine is asked."""
    problems, warnings = [], []
    for source in project.config.sources:
        opening = opening_of(project, source, environment=environment)
        warnings += _unset(source, opening=opening)
        if source.IS_ON_DISK:
            try:
                warnings += _unmatched(source, opening=opening)
            except PipelineError as error:
                problems.append(str(error))
    return SourceFindings(tuple(problems), tuple(warnings))


def _unmatched(source: Source, *, opening: Opening) -> list[str]:
    files = reader_of(source).open(source, opening)
    if next(files.listing(), None) is not None:
        return []
    pattern, root = source.model_dump()["pattern"], files.root
    return [f"{opening.setting}.pattern should match files (got {pattern!r}: none below {root})."]


def _unset(source: SourceBase, *, opening: Opening) -> list[str]:
    warnings = []
    for key, names in source.variables().items():
        if missing := [name for name in names if not opening.environment.get(name)]:
            got = f"{' and '.join(missing)}, not set in this shell"
            advice = "Set it where `dethrone up` or the workers start."
            warnings.append(f"{opening.setting}.{key} should name what is set (got {got}). {advice}")
    return warnings
