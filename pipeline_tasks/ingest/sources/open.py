"""From a source's settings to the place that is read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pipeline_tasks.ingest.sources.folder import FolderFiles
from pipeline_tasks.ingest.sources.listing import FileSource
from pipeline_tasks.ingest.sources.s3 import S3Access, S3Objects, resolve_access
from pipeline_tasks.ingest.sources.sql import SqlRows
from pipeline_tasks.project.schema import FolderSource, LoadedProject, S3Source, SqlSource, TableSource


def setting_of(project: LoadedProject, source: FolderSource | S3Source | TableSource | SqlSource) -> str:
    """Return how messages name a source: the project, and the place in project.yaml."""
    return f"{project.name}: sources[{project.config.sources.index(source)}] ({source.name})"


def open_files(
    project: LoadedProject, source: FolderSource | S3Source, *, environment: Mapping[str, str], own_s3: S3Access | None
) -> FileSource:
    """Return the files or objects of a source; raises ConfigError when its keys are missing."""
    setting = setting_of(project, source)
    if isinstance(source, S3Source):
        access = resolve_access(source, setting=setting, environment=environment, own=own_s3)
        return S3Objects(source=source, access=access, setting=setting)
    return open_folder(project, source)


def open_folder(project: LoadedProject, source: FolderSource | TableSource) -> FolderFiles:
    """Return the files of a source on disk; a relative path starts at the project's folder."""
    root = project.folder / Path(source.path)
    setting = f"{setting_of(project, source)}.path"
    return FolderFiles(name=source.name, root=root, pattern=source.pattern, setting=setting)


def open_sql(project: LoadedProject, source: SqlSource, *, environment: Mapping[str, str]) -> SqlRows:
    """Return the rows of a query; raises ConfigError when its URL is missing."""
    return SqlRows(source=source, environment=environment, setting=setting_of(project, source))
