"""A broken invariant and its message."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

MAX_NAMED = 10
Row: TypeAlias = Mapping[Any, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Violation:
    """One thing that is not as it must be; `invariant` is I1 to I9 of the reliability guide, I10 or I11.

    I10 is the ledger, I11 the evidence of tables and objects.
    """

    invariant: str
    project: str
    message: str

    def __str__(self) -> str:
        return f"{self.invariant} {self.project}: {self.message}"


def listed(invariant: str, project: str, what: str, names: Iterable[str]) -> Iterator[Violation]:
    """Yield one violation that counts the names and gives the first ten, or nothing if there are none."""
    ordered = sorted(names)
    if ordered:
        more = ", ..." if len(ordered) > MAX_NAMED else ""
        yield Violation(invariant, project, f"{len(ordered)} {what}: {', '.join(ordered[:MAX_NAMED])}{more}")
