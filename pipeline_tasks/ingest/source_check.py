"""A project's sources as they are now, for `dethrone project validate`.

Loading a project does not look: a source that is away for an hour takes no DAG down.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from pipeline_tasks.errors import PipelineError
from pipeline_tasks.ingest.sources.open import open_folder, setting_of
from pipeline_tasks.project.schema import FolderSource, LoadedProject, S3Source, SqlSource, TableSource


@dataclasses.dataclass(frozen=True, slots=True)
class SourceFindings:
    """Faults of the sources, and oddities; each names key and path."""

    problems: tuple[str, ...]
    warnings: tuple[str, ...]


def check_sources(project: LoadedProject, *, environment: Mapping[str, str]) -> SourceFindings:
    """Look whether each source is there; nothing is read, and nothing outside this machine is asked."""
    problems, warnings = [], []
    for source in project.config.sources:
        setting = setting_of(project, source)
        if isinstance(source, FolderSource | TableSource):
            files = open_folder(project, source)
            try:
                if next(files.listing(), None) is None:
                    warnings.append(
                        f"{setting}.pattern should match files (got {source.pattern!r}: none below {files.root})."
                    )
            except PipelineError as error:
                problems.append(str(error))
        else:
            warnings += _unset(source, setting=setting, environment=environment)
    return SourceFindings(tuple(problems), tuple(warnings))


def _unset(source: S3Source | SqlSource, *, setting: str, environment: Mapping[str, str]) -> list[str]:
    if isinstance(source, SqlSource):
        key, names = "url_variable", [source.url_variable]
    else:
        prefix = source.credentials
        key, names = "credentials", [f"{prefix}_ACCESS_KEY", f"{prefix}_SECRET_KEY"] if prefix else []
    missing = [name for name in names if not environment.get(name)]
    if not missing:
        return []
    got = f"{' and '.join(missing)}, not set in this shell"
    return [f"{setting}.{key} should name what is set (got {got}). Set it where `dethrone up` or the workers start."]
