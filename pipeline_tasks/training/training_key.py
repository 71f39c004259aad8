"""The training key: everything that decides which weights come out. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from pipeline_tasks.contracts import Runtime, content_id

VERSION_DIGITS = 16
DEFAULT_METRIC = "accuracy"


@dataclasses.dataclass(frozen=True, slots=True)
class TrainingKey:
    """The same key, the same training: a second request adopts the first one's model version.

    `recipe_digest` covers the recipe's code; `tune` is None without trials; the thread count belongs to it because
    another count gives other weights. `metric` is what a search chooses by; where it is the default it is left out of
    the digest, as in keys from before there was a choice. `warm_start` is part of older keys, and always None.
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
    runtime: Runtime = "eager"
    metric: str = DEFAULT_METRIC
    warm_start: None = None

    @property
    def digest(self) -> str:
        fields = dataclasses.asdict(self)
        return content_id(
            {name: value for name, value in fields.items() if (name, value) != ("metric", DEFAULT_METRIC)}
        )

    @property
    def version(self) -> str:
        return self.digest[:VERSION_DIGITS]
