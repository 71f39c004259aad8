"""A proposal for a project's `columns`, from a look at the data of its sources."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from pipeline_tasks.errors import ConfigError
from pipeline_tasks.guards.cells import NUMBER, Column, ColumnType
from pipeline_tasks.guards.row import is_nothing
from pipeline_tasks.ingest.row_samples import fits_float, read_or_none
from pipeline_tasks.ingest.source_readers import reader_of
from pipeline_tasks.ingest.sources.opening import opening_of
from pipeline_tasks.project.schema import LoadedProject

MAX_ROWS = 100_000
MAX_VALUES = 50  # a column with more different texts is no category
NOTHING = frozenset(("na", "n/a", "#n/a", "nan", "null", "none", "nil", "-", "?", "."))
FORMATS = (
    "%d.%m.%Y",
    "%d/%m/%Y",
    "%m/%d/%Y",
    "%Y/%m/%d",
    "%d-%m-%Y",
    "%d.%m.%Y %H:%M",
    "%d/%m/%Y %H:%M",
    "%m/%d/%Y %H:%M",
)
_CODE = re.compile(r"[+-]?0[0-9].*|[0-9]+[eE][0-9]+")
_WORDS = frozenset(("true", "false", "yes", "no", "t", "f", "y", "n"))
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_SECTION = re.compile(r"(?m)^columns:.*\n(?:[ \t-].*\n|\n(?=[ \t-]))*")


@dataclasses.dataclass(frozen=True, slots=True)
class Proposal:
    """A column as it seems to be."""

    name: str
    type: ColumnType
    missing: tuple[str, ...] = ()
    format: str | None = None
    values: tuple[str, ...] = ()

    def as_yaml(self) -> str:
        """Return the column as one line of project.yaml."""
        fields = [f"name: {_quoted(self.name)}", f"type: {self.type}"]
        fields += [f"missing: {_listed(self.missing)}"] if self.missing else []
        fields += [f"format: {json.dumps(self.format)}"] if self.format else []
        fields += [f"values: {_listed(self.values)}"] if self.values else []
        return f"  - {{{', '.join(fields)}}}\n"


def propose(project: LoadedProject, *, environment: Mapping[str, str], max_rows: int = MAX_ROWS) -> list[Proposal]:
    """Return a proposal for every column that is content, from the first rows of the project's sources.

    Raises:
        ConfigError: there are no rows to look at, or a source cannot be read.
    """
    seen: dict[str, list[Any]] = {}
    for values in islice(_rows(project, environment=environment), max_rows):
        for name, value in project.config.deny_list.clean_row(values).items():
            if name:  # a table that pandas wrote begins with the numbers of its rows, without a name
                seen.setdefault(name, []).append(value)
    if not seen:
        raise ConfigError(f"the sources of {project.name} must have rows to look at (got none). Put data there first.")
    return [propose_column(name, values) for name, values in seen.items()]


def propose_column(name: str, values: Sequence[Any]) -> Proposal:
    """Return what a column with these cells seems to be. Pure."""
    cells = [value for value in values if not is_nothing(value) and value != ""]
    texts = [value for value in cells if isinstance(value, str)]
    if cells and not texts:
        return _by_type(name, cells)
    words = {text for text in texts if text.strip() and text.strip().lower() not in NOTHING}
    missing = tuple(sorted({text.strip() for text in texts if text.strip().lower() in NOTHING}))
    if words and not any(_CODE.fullmatch(word.strip()) for word in words) and all(map(_is_number, words)):
        return Proposal(name, "number" if all(map(fits_float, words)) else "decimal", missing)
    if words and {word.strip().lower() for word in words} <= _WORDS:
        return Proposal(name, "boolean", missing)
    for form in (None, *FORMATS):
        if words and all(read_or_none(word, Column(name, "date", format=form)) is not None for word in words):
            return Proposal(name, "date", missing, format=form)
    distinct = sorted(
        {str(value) for cell in cells if (value := read_or_none(cell, Column(name, "category"))) is not None}
    )
    if distinct and len(distinct) <= MAX_VALUES and (len(distinct) < len(cells) or len(cells) == 1):
        return Proposal(name, "category", values=tuple(distinct))
    return Proposal(name, "text")


def with_columns(text: str, proposals: Sequence[Proposal]) -> str:
    """Return the text of project.yaml with these columns in front of the sources, or in the place of those it has."""
    section = "columns:\n" + "".join(proposal.as_yaml() for proposal in proposals)
    if _SECTION.search(text):
        return _SECTION.sub(lambda _: section, text, count=1)
    return re.sub(r"(?m)^sources:", lambda _: f"{section}\nsources:", text, count=1)


def _by_type(name: str, cells: Sequence[Any]) -> Proposal:
    kinds: dict[ColumnType, type | tuple[type, ...]] = {
        "boolean": bool,
        "number": (int, float),
        "decimal": (decimal.Decimal, int, float),
        "date": dt.date,
    }
    for kind, types in kinds.items():
        if all(isinstance(cell, types) and (kind != "number" or fits_float(cell)) for cell in cells):
            return Proposal(name, kind)
    return Proposal(name, "text")


def _is_number(text: str) -> bool:
    return NUMBER.fullmatch(text.strip()) is not None


def _rows(project: LoadedProject, *, environment: Mapping[str, str]) -> Iterator[Mapping[str, Any]]:
    for source in project.config.sources:
        if source.item_columns is not None:
            reader = reader_of(source)
            place = reader.open(source, opening_of(project, source, environment=environment))
            yield from reader.sample(place, source, project.config)


def _quoted(text: str) -> str:
    is_plain = _PLAIN.fullmatch(text) and text.lower() not in _WORDS | {"on", "off", "null"}
    return text if is_plain else _escaped(text)


def _listed(values: Sequence[str]) -> str:
    return f"[{', '.join(map(_escaped, values))}]"


def _escaped(text: str) -> str:
    """Return a text in YAML's quotes, on one line: YAML takes no other than printable signs as they are."""
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(sign if sign.isprintable() else f"\\U{ord(sign):08x}" for sign in quoted)
