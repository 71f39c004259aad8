"""The section `columns` of project.yaml: what a table's columns are called, and how their cells are read."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from pipeline_tasks.guards.cells import ColumnType
from pipeline_tasks.project.section import Section


class ColumnConfig(Section):
    """One column of a table; its cells are read alike from every file, database and request."""

    name: str = Field(min_length=1)
    type: ColumnType = Field(
        description="number: 64 bits; decimal: exact; category: one of a few texts; text: any text; date: a day or a "
        "time; boolean: true or false. A category or a text stays as written: 02134, 1.10, 12E3."
    )
    unit: str | None = Field(None, description="Of the number, such as EUR or kg; named where a value is refused.")
    missing: list[str] = Field(
        default_factory=list,
        description="Texts that mean that there is no value, such as NA; the empty text always does.",
    )
    format: str | None = Field(
        None, description="How dates are written (strptime), such as %d.%m.%Y; ISO dates are read without."
    )
    values: list[str] | None = Field(
        None, description="The values of a category that the model tells apart; any other counts as none of them."
    )

    def as_json(self) -> dict[str, Any]:
        """Return what decides how a cell is read, without what is empty."""
        given = {"missing": sorted(self.missing), "format": self.format, "unit": self.unit}
        return {"name": self.name, "type": self.type} | {key: value for key, value in given.items() if value}
