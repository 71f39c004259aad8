"""The section `privacy` of project.yaml, and its checks."""

from __future__ import annotations

from pydantic import Field

from pipeline_tasks.project.section import Section


class Deny(Section):
    """Personal data that is dropped where it comes in, at ingest and at the gateway."""

    columns: list[str] = Field(
        default_factory=list,
        description="Fields of a row, at any depth, that are dropped: of sources' rows and of requests.",
    )
    patterns: list[str] = Field(
        default_factory=list,
        description="Regular expressions; each match in a text or a row's value becomes [removed], and a key that has "
        "one is refused. Repeats have a bound, {1,64} in place of +.",
    )


class Privacy(Section):
    """Parts of the data that must not be kept."""

    deny: Deny = Deny()
