"""The counts of one ingest run."""

from __future__ import annotations

import dataclasses
from collections import Counter

from pipeline_tasks.ingest.item_checks import RejectedRow


@dataclasses.dataclass(slots=True)
class Counts:
    """Numbers of what was taken and of what was not; `reasons` counts the refusals that were not in quarantine before.

    `num_reread` rows are an item of an earlier reading, of which `num_renewed` had bytes of another content.
    """

    num_seen: int = 0
    num_new: int = 0
    num_known: int = 0
    num_labeled: int = 0
    num_corrected: int = 0
    num_refused: int = 0
    num_blank: int = 0
    num_reread: int = 0
    num_renewed: int = 0
    warnings: list[str] = dataclasses.field(default_factory=list)
    reasons: Counter[str] = dataclasses.field(default_factory=Counter)
    examples: dict[str, RejectedRow] = dataclasses.field(default_factory=dict)
