"""Rows out of CSV, TSV, JSON-lines and Parquet files, streamed; a row that cannot be read is named by its line."""

from __future__ import annotations

import csv
import json
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TextIO

from pipeline_tasks.errors import InputError, printable
from pipeline_tasks.guards.cells import json_fraction
from pipeline_tasks.guards.encodings import SAMPLE_BYTES, likely_encoding, wide_encoding
from pipeline_tasks.guards.row import cell_value

BATCH_ROWS = 4096
LONG_RECORD_LINES = 1000
MAX_LONG_RECORDS = (
    20  # so many quotes without an end, each looked for in the rest of the file, and the file is given up
)
_BAD_BYTE = re.compile("[\udc80-\udcff]")  # how a byte that is no UTF-8 is read


class Row(NamedTuple):
    """One row: where it stands, and its values or why it has none. CSV cells are text still (`typed` is False)."""

    place: str
    values: Mapping[str, Any]
    error: InputError | None = None
    typed: bool = True
    is_blank: bool = False  # a line without values, as spreadsheets leave them below a table


class UnreadableValue(NamedTuple):
    """A value that its container holds and Python cannot, such as a day of the year 10000."""

    cause: str


def read_rows(
    path: Path, *, columns: Sequence[str], max_line_characters: int, also: Sequence[str] = ()
) -> Iterator[Row]:
    """Yield the rows of a file, by its suffix; `also` are columns that are read where the file has them.

    Raises:
        InputError: the file as a whole cannot be read on: TYPE_NOT_ALLOWED, EMPTY_FILE, COLUMN_MISSING,
            COLUMN_TWICE, CSV_INVALID, TEXT_NOT_UTF8 or PARQUET_INVALID.
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
    yield from reader(path, columns=columns, also=also, max_line_characters=max_line_characters)


def typed_value(row: Row, column: str) -> Any:
    """Return a row's value as JSON would have it."""
    value = row.values[column]
    return value if row.typed or not isinstance(value, str) else cell_value(value)


def typed_row(place: str, values: Mapping[str, Any]) -> Row:
    """Return the row of values that came with their types; one that cannot be read is the row's error."""
    for column, value in values.items():
        if isinstance(value, UnreadableValue):
            message = f"{column} must be readable (got {printable(value.cause)} in {place}). Correct the value."
            return Row(place, {}, InputError(message, code="VALUE_UNREADABLE"))
    return Row(place, values)


def check_columns(columns: Sequence[str], *, wanted: Sequence[str]) -> None:
    """Raise InputError unless every wanted column is there once."""
    missing = [column for column in wanted if column not in columns]
    if missing:
        names = ", ".join(_shown(name) for name in columns[:20]) or "none"
        raise InputError(
            f"a table must have the column {', '.join(missing)} (got the columns {names}). "
            f"{_advice(columns, missing=missing)}",
            code="COLUMN_MISSING",
        )
    twice = sorted({column for column in wanted if list(columns).count(column) > 1})
    if twice:
        raise InputError(f"a table must have the column {', '.join(twice)} once (got it again).", code="COLUMN_TWICE")


def _shown(name: str) -> str:
    text = printable(name, limit=60)
    return text if text == text.strip() else f"'{text}'"


def _advice(columns: Sequence[str], *, missing: Sequence[str]) -> str:
    """Return what to do about missing columns: the separator, a line of a spreadsheet, spaces and case first."""
    if columns and columns[0].lower().startswith("sep="):
        return "Remove the first line: it names the separator, which is a comma here."
    if len(columns) == 1:
        for mark, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
            if mark in columns[0]:
                rename = ", or name it .tsv" if mark == "\t" else ""
                return f"It looks separated by {name}: save it with commas{rename}."
    alike = {name.strip().casefold(): name for name in columns}
    near = [alike[column.strip().casefold()] for column in missing if column.strip().casefold() in alike]
    if near:
        return f"Upper and lower case and spaces count: correct '{printable(near[0], limit=60)}'."
    return "Add it to the file, or correct the column names in project.yaml."


class _Lines:
    """The lines of a file, one after the other; `taken` are those since the last row, which can be given back."""

    def __init__(self, handle: TextIO, *, limit: int) -> None:
        self._handle = handle
        self._limit = limit
        self._again: deque[str] = deque()
        self._size = 0
        self.taken: list[str] = []
        self.number = 1  # of the first line in `taken`

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else self._read()
        if not line:
            raise StopIteration
        self.taken.append(line)
        self._size += len(line)
        if self._size > self._limit:
            raise csv.Error("too many characters")
        return line

    def begin_row(self) -> None:
        """Let the next line be the first of a row."""
        self.number += len(self.taken)
        self.taken, self._size = [], 0

    def give_up(self) -> None:
        """Give up the first line that was taken; the row begins again with the one below it."""
        self._again.extendleft(reversed(self.taken[1:]))
        self.taken = self.taken[:1]
        self.begin_row()

    def is_too_long(self) -> bool:
        """Tell whether the first line alone has too many characters."""
        return bool(self.taken) and len(self.taken[0]) > self._limit

    def _read(self) -> str:
        """Return the next line; of one that is too long, its beginning, and the rest is not held."""
        line = rest = self._handle.readline(self._limit + 1)
        while len(rest) > self._limit and not rest.endswith(("\n", "\r")):
            rest = self._handle.readline(self._limit + 1)
        return line

    def too_long(self) -> InputError:
        return InputError(
            f"a line must have at most {self._limit:,} characters (got more in line {self.number}). "
            "Split it, or raise checks.max_item_bytes.",
            code="LINE_TOO_LONG",
        )


def _read_csv(path: Path, *, columns: Sequence[str], also: Sequence[str], max_line_characters: int) -> Iterator[Row]:
    """Yield the rows of a CSV file, or of a TSV file: there a tab separates, and a quote is a character like others.

    Source: RFC 4180; IANA's text/tab-separated-values.
    """
    del also  # a row has all its cells
    # The limit is the csv module's only one and belongs to the process: it is raised, never lowered.
    csv.field_size_limit(max(csv.field_size_limit(), max_line_characters))
    _refuse_other_encoding(path, has_header=True)
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as handle:
        lines = _Lines(handle, limit=max_line_characters)
        rows = _records(lines, is_tsv=path.suffix.lower() == ".tsv")
        header: Sequence[str] = []
        for cells in rows:
            if isinstance(cells, InputError):
                raise cells
            if any(cells):
                header = cells
                break
        check_columns(header, wanted=columns)
        for cells in rows:
            place = f"line {lines.number}"
            if isinstance(cells, InputError):
                yield Row(place, {}, cells)
            else:
                yield _csv_row(header, cells, lines=lines, place=place, columns=columns)


def _records(lines: _Lines, *, is_tsv: bool) -> Iterator[list[str] | InputError]:
    """Yield the cells of each row; after one that is not well-formed, go on with the line below its first."""
    num_long = 0
    width = 0
    while True:
        reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE) if is_tsv else csv.reader(lines, strict=True)
        while True:
            lines.begin_row()
            try:
                cells = next(reader, None)
            except csv.Error as error:
                cause = str(error)
                break
            if cells is None:
                return
            width = width or len(cells)
            if _swallowed_rows(lines.taken, width=width):
                cause = "a cell with whole rows in it"
                break
            yield cells
        yield lines.too_long() if lines.is_too_long() else _not_well_formed(cause, lines=lines)
        num_long += len(lines.taken) > LONG_RECORD_LINES
        if num_long > MAX_LONG_RECORDS:
            raise _not_well_formed("too many quotes without an end", lines=lines)
        lines.give_up()


def _swallowed_rows(taken: Sequence[str], *, width: int) -> bool:
    """Tell whether a row of several lines is several rows: three lines and more, each with every separator of a row."""
    return len(taken) > 2 and width > 2 and all(line.count(",") == width - 1 for line in taken)


def _not_well_formed(cause: str, *, lines: _Lines) -> InputError:
    return InputError(
        f"a CSV file must be well-formed (got: {cause}, in the row that begins in line {lines.number}). "
        "Check the quotes there.",
        code="CSV_INVALID",
    )


def _csv_row(header: Sequence[str], cells: Sequence[str], *, lines: _Lines, place: str, columns: Sequence[str]) -> Row:
    if not any(cell and not cell.isspace() for cell in cells):
        return Row(place, {}, is_blank=True)
    values = dict(zip(header, cells, strict=False))
    used = [values.get(column, "") for column in columns] if len(cells) == len(header) else cells
    if not all(line.isascii() for line in lines.taken) and any(_BAD_BYTE.search(cell) for cell in used):
        return Row(place, {}, _other_encoding("".join(lines.taken), place=place))
    if len(cells) != len(header):
        message = f"a row must have {len(header)} cells (got {len(cells)} in {place})."
        return Row(place, {}, InputError(message, code="CELLS_WRONG"))
    return Row(place, values, typed=False)


def _other_encoding(text: str, *, place: str) -> InputError:
    got = likely_encoding(text.encode("utf-8", "surrogateescape"))
    return InputError(f"a row must be UTF-8 (got {got} in {place}). Convert the file to UTF-8.", code="TEXT_NOT_UTF8")


def _read_json_lines(
    path: Path, *, columns: Sequence[str], also: Sequence[str], max_line_characters: int
) -> Iterator[Row]:
    del also  # a line has all its fields
    _refuse_other_encoding(path, has_header=False)
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="\n") as handle:
        lines = _Lines(handle, limit=max_line_characters)
        while True:
            lines.begin_row()
            try:
                line = next(lines, None)
            except csv.Error:
                yield Row(f"line {lines.number}", {}, lines.too_long())
                continue
            if line is None:
                return
            if not line.isspace():
                yield _json_row(line, place=f"line {lines.number}", columns=columns)


def _json_row(line: str, *, place: str, columns: Sequence[str]) -> Row:
    try:
        value = json.loads(
            line, object_pairs_hook=_no_duplicates, parse_constant=_no_constant, parse_float=json_fraction
        )
    except (ValueError, RecursionError) as error:
        if not line.isascii() and _BAD_BYTE.search(line):
            return Row(place, {}, _other_encoding(line, place=place))
        got = error.msg if isinstance(error, json.JSONDecodeError) else type(error).__name__
        message = f"a line must be a JSON object with unique keys and finite numbers (got {got} in {place})."
        return Row(place, {}, InputError(message, code="ROW_NOT_JSON"))
    if not isinstance(value, dict):
        message = f"a line must be a JSON object (got {type(value).__name__} in {place})."
        return Row(place, {}, InputError(message, code="ROW_NOT_JSON"))
    texts = (value.get(column) for column in columns)
    if not line.isascii() and any(isinstance(text, str) and _BAD_BYTE.search(text) for text in texts):
        return Row(place, {}, _other_encoding(line, place=place))
    return Row(place, value)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key stands twice")
    return values


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _read_parquet(
    path: Path, *, columns: Sequence[str], also: Sequence[str], max_line_characters: int
) -> Iterator[Row]:
    """Yield the rows of a Parquet file; a row group that cannot be read is refused alone."""
    del max_line_characters
    import pyarrow.parquet as pq

    with path.open("rb"):  # a file that must not be read says so here: the library takes it for a broken one
        pass
    try:
        table = pq.ParquetFile(path, page_checksum_verification=True)
        names, num_groups = table.schema_arrow.names, table.num_row_groups
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001  (the library raises what it likes on broken bytes)
        raise _not_whole(error, place="its footer") from None
    with table:
        check_columns(names, wanted=columns)
        read = list(dict.fromkeys((*columns, *(name for name in also if names.count(name) == 1))))
        end = 0
        for group in range(num_groups):
            start, end = end, end + table.metadata.row_group(group).num_rows
            number = start
            try:
                for batch in table.iter_batches(BATCH_ROWS, row_groups=[group], columns=read):
                    for values in _batch_values(batch):
                        number += 1
                        yield typed_row(f"row {number}", values)
            except MemoryError:
                raise
            except Exception as error:  # noqa: BLE001  (as above)
                place = f"rows {number + 1} to {end}"
                yield Row(place, {}, _not_whole(error, place=place))


def _batch_values(batch: Any) -> list[dict[str, Any]]:
    """Return a batch's rows; where one value cannot be one of Python's, cell by cell."""
    try:
        return batch.to_pylist()  # type: ignore[no-any-return]
    except (ValueError, OverflowError, TypeError, ArithmeticError):
        columns = [[_cell(value) for value in column] for column in batch.columns]
        return [dict(zip(batch.schema.names, values, strict=True)) for values in zip(*columns, strict=True)]


def _cell(value: Any) -> Any:
    try:
        return value.as_py()
    except (ValueError, OverflowError, TypeError, ArithmeticError) as error:
        return UnreadableValue(f"{type(error).__name__}: {error}")


def _not_whole(error: Exception, *, place: str) -> InputError:
    return InputError(
        f"a Parquet file must be whole and not encrypted (got {type(error).__name__}: {printable(error)}, in {place}). "
        "Write it again.",
        code="PARQUET_INVALID",
    )


def _refuse_other_encoding(path: Path, *, has_header: bool) -> None:
    """Raise InputError for a file that as a whole is not UTF-8: its header is not, or most of its first lines are not.

    A single row in another encoding is refused alone, further on.
    """
    with path.open("rb") as handle:
        sample = handle.read(SAMPLE_BYTES)
    lines = sample.splitlines()
    if len(sample) == SAMPLE_BYTES and len(lines) > 1:
        del lines[-1]  # cut, perhaps within a letter
    bad = [line for line in lines if not _is_utf8(line)]
    whole = wide_encoding(sample) is not None or (has_header and bad and not _is_utf8(lines[0]))
    if whole or (len(bad) > 1 and len(bad) > len(lines) / 2):
        raise InputError(
            f"a table file must be UTF-8 (got {likely_encoding(sample)}, by the look of it). Convert it to UTF-8.",
            code="TEXT_NOT_UTF8",
        )


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


READERS: dict[str, Callable[..., Iterator[Row]]] = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".parquet": _read_parquet,
}
