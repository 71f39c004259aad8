"""Rows out of CSV, JSON-lines and Parquet files, streamed; errors name the line."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TextIO

from pipeline_tasks.errors import InputError
from pipeline_tasks.guards.cells import json_fraction
from pipeline_tasks.guards.row import cell_value

BATCH_ROWS = 4096


class Row(NamedTuple):
    """One row: where it stands, and its values or why it has none. CSV cells are text still (`typed` is False)."""

    place: str
    values: Mapping[str, Any]
    error: InputError | None = None
    typed: bool = True


def read_rows(path: Path, *, columns: Sequence[str], max_line_characters: int) -> Iterator[Row]:
    """Yield the rows of a file, by its suffix.

    Raises:
        InputError: the file as a whole cannot be read on: TYPE_NOT_ALLOWED, EMPTY_FILE, COLUMN_MISSING,
            COLUMN_TWICE, CSV_INVALID, LINE_TOO_LONG, TEXT_NOT_UTF8 or PARQUET_INVALID.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(
            f"a table file must end with {', '.join(READERS)} (got {path.suffix or 'no suffix'}). "
            "Rename it, or narrow `pattern` in project.yaml.",
            code="TYPE_NOT_ALLOWED",
        )
    if path.stat().st_size == 0:
        raise InputError("a table file must have rows (got an empty file).", code="EMPTY_FILE")
    yield from reader(path, columns=columns, max_line_characters=max_line_characters)


def typed_value(row: Row, column: str) -> Any:
    """Return a row's value as JSON would have it."""
    value = row.values[column]
    return value if row.typed or not isinstance(value, str) else cell_value(value)


def check_columns(found: Sequence[str], *, wanted: Sequence[str]) -> None:
    """Raise InputError unless every wanted column is there once."""
    missing = [column for column in wanted if column not in found]
    if missing:
        names = ", ".join(found[:20]) or "none"
        raise InputError(
            f"a table must have the column {', '.join(missing)} (got the columns {names}). "
            "Add it to the file, or correct the column names in project.yaml.",
            code="COLUMN_MISSING",
        )
    twice = sorted({column for column in wanted if list(found).count(column) > 1})
    if twice:
        raise InputError(f"a table must have the column {', '.join(twice)} once (got it again).", code="COLUMN_TWICE")


def _read_csv(path: Path, *, columns: Sequence[str], max_line_characters: int) -> Iterator[Row]:
    # The limit is the csv module's only one and belongs to the process: it is raised, never lowered.
    csv.field_size_limit(max(csv.field_size_limit(), max_line_characters))
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as handle:
        _refuse_utf16(path)
        lines = _lines(handle, limit=max_line_characters)
        delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        start = 1
        try:
            header = next(reader, [])
            check_columns(header, wanted=columns)
            while True:
                start = reader.line_num + 1
                cells = next(reader, None)
                if cells is None:
                    return
                if cells:
                    yield _csv_row(header, cells, place=f"line {start}")
        except csv.Error as error:
            raise InputError(
                f"a CSV file must be well-formed (got: {error}, in the row that begins in line {start}). "
                "Check the quotes there.",
                code="CSV_INVALID",
            ) from None


def _csv_row(header: Sequence[str], cells: Sequence[str], *, place: str) -> Row:
    if len(cells) != len(header):
        message = f"a row must have {len(header)} cells (got {len(cells)} in {place})."
        return Row(place, {}, InputError(message, code="CELLS_WRONG"))
    return Row(place, dict(zip(header, cells, strict=True)), typed=False)


def _read_json_lines(path: Path, *, columns: Sequence[str], max_line_characters: int) -> Iterator[Row]:
    del columns  # each line has its own keys: a missing one is that row's error
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="\n") as handle:
        _refuse_utf16(path)
        for number, line in enumerate(_lines(handle, limit=max_line_characters), start=1):
            if not line.isspace():
                yield _json_row(line, place=f"line {number}")


def _json_row(line: str, *, place: str) -> Row:
    try:
        value = json.loads(
            line, object_pairs_hook=_no_duplicates, parse_constant=_no_constant, parse_float=json_fraction
        )
    except (ValueError, RecursionError) as error:
        got = error.msg if isinstance(error, json.JSONDecodeError) else type(error).__name__
        message = f"a line must be a JSON object with unique keys and finite numbers (got {got} in {place})."
        return Row(place, {}, InputError(message, code="ROW_NOT_JSON"))
    if not isinstance(value, dict):
        message = f"a line must be a JSON object (got {type(value).__name__} in {place})."
        return Row(place, {}, InputError(message, code="ROW_NOT_JSON"))
    return Row(place, value)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key stands twice")
    return values


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _read_parquet(path: Path, *, columns: Sequence[str], max_line_characters: int) -> Iterator[Row]:
    del max_line_characters
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as table:
            check_columns(table.schema_arrow.names, wanted=columns)
            for batch in table.iter_batches(batch_size=BATCH_ROWS, columns=list(columns)):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(f"row {number}", values)
    except (pa.ArrowException, OSError) as error:
        got = " ".join(str(error).split())[:120]
        raise InputError(
            f"a Parquet file must be whole (got: {got}, after row {number}). Write it again.", code="PARQUET_INVALID"
        ) from None


def _lines(handle: TextIO, *, limit: int) -> Iterator[str]:
    """Yield lines; one that is too long stops, before it fills the memory."""
    number = 0
    while line := handle.readline(limit + 1):
        number += 1
        if len(line) > limit:
            raise InputError(
                f"a line must have at most {limit:,} characters (got more in line {number}). "
                "Split the file, or raise checks.max_item_bytes.",
                code="LINE_TOO_LONG",
            )
        yield line


def _refuse_utf16(path: Path) -> None:
    with path.open("rb") as handle:
        if handle.read(2) in (b"\xff\xfe", b"\xfe\xff"):
            raise InputError("a table file must be UTF-8 (got UTF-16). Save it as UTF-8.", code="TEXT_NOT_UTF8")


READERS: dict[str, Callable[..., Iterator[Row]]] = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".parquet": _read_parquet,
}
