"""The surroundings of a source that its settings do not hold: where it stands, and whose keys there are."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from pipeline_tasks.project.schema import LoadedProject
from pipeline_tasks.project.source_schema import SourceBase


@dataclasses.dataclass(frozen=True, slots=True)
class S3Access:
    """An S3 server and the keys to it; the keys are kept out of `repr`."""

    endpoint_url: str
    access_key: str = dataclasses.field(repr=False)
    secret_key: str = dataclasses.field(repr=False)
    region: str = "us-east-1"


@dataclasses.dataclass(frozen=True, slots=True)
class Opening:
    """The project's folder, the environment and the stack's own S3; `setting` is how messages name the source."""

    setting: str
    folder: Path
    environment: Mapping[str, str]
    own_s3: S3Access | None = None


def opening_of(
    project: LoadedProject,
    source: SourceBase,
    *,
    environment: Mapping[str, str],
    own_s3: S3Access | None = None,
) -> Opening:
    """Return what a source of a project is opened with."""
    number = [id(other) for other in project.config.sources].index(id(source))
    return Opening(f"{project.name}: sources[{number}] ({source.name})", project.folder, environment, own_s3)
