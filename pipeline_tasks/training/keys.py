"""The training key: everything that decides which weights come out. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from pipeline_tasks.contracts import Runtime, content_id

VERSION_DIGITS = 16


@dataclasses.dataclass(frozen=True, slots=True)
class TrainingKey:
    """The same key, the same training: a second request adopts the first one's model version.

    `recipe_digest` covers the recipe's code; `tune` is None without trials; the thread count belongs to it because
    another count gives other weights.
    """

    project: str
    snapshot_id: str
    classes: tuple[str, ...]
    recipe: str
    recipe_digest: str
    params: Mapping[str, Any]
    tune: Mapping[str, Any] | None
    seed: int
    threads: int
    lock_hash: str
    warm_start: str | None
    runtime: Runtime = "eager"

    @property
    def digest(self) -> str:
        return content_id(dataclasses.asdict(self))

    @property
    def version(self) -> str:
        return self.digest[:VERSION_DIGITS]
