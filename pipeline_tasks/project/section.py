"""The strictness that every section of project.yaml shares."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

NAME_PATTERN = r"^[a-z][a-z0-9_]{1,38}[a-z0-9]$"


class Section(BaseModel):
    """A mapping with known keys only, types as written, not changed after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
