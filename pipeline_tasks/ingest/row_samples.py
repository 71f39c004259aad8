"""Rows of a source as they are, for a look at its columns."""

from __future__ import annotations

import datetime as dt
import decimal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline_tasks.errors import ConfigError, InputError
from pipeline_tasks.guards.cells import Cell, Column, read_cell, spelled
from pipeline_tasks.ingest.sources.folder import FolderFiles
from pipeline_tasks.ingest.sources.tables import read_rows
from pipeline_tasks.ingest.sources.watermark import RowSource, SqlCursor
from pipeline_tasks.project.schema import Project
from pipeline_tasks.project.source_schema import FilesSource, RowsSource


def no_rows(files: object, source: FilesSource, project: Project) -> Iterator[Mapping[str, Any]]:
    """Yield nothing: a file has no columns."""
    del files, source, project
    return iter(())


def sample_query(rows: RowSource, source: RowsSource, project: Project) -> Iterator[Mapping[str, Any]]:
    """Yield the content of the rows of a query."""
    del project
    columns, now = source.content_columns, dt.datetime.now(dt.UTC)
    for row in rows.rows(columns=columns, cursor=SqlCursor(), now=now):
        yield _content(row.values, source)


def sample_tables(folder: FolderFiles, source: RowsSource, project: Project) -> Iterator[Mapping[str, Any]]:
    """Yield the content of the rows of each table file.

    Raises:
        ConfigError: a file cannot be read.
    """
    for entry in folder.listing():
        path = folder.path_of(entry)
        is_parquet = path.suffix.lower() == ".parquet"  # its decimals are declared as such
        try:
            columns = source.content_columns or _names_in(path, source)
            for row in read_rows(path, columns=columns, max_line_characters=project.checks.max_item_bytes):
                if row.error is None:
                    values = _content(row.values, source)
                    yield values if is_parquet else {name: _as_float(value) for name, value in values.items()}
        except InputError as error:
            raise ConfigError(f"{entry.key}: {error}") from None


def fits_float(value: Any) -> bool:
    """Tell whether a number is the same as `number` and as `decimal`, as far as the latter can hold it."""
    exact = read_or_none(value, Column("", "decimal"))
    return exact is None or spelled(read_or_none(value, Column("", "number"))) == exact


def read_or_none(cell: Any, column: Column) -> Cell:
    """Return a cell as its column reads it; None where it does not."""
    try:
        return read_cell(cell, column)
    except InputError:
        return None


def _as_float(value: Any) -> Any:
    """Return a fraction of a JSON line, which is read exactly, as the float that it is, where it is one."""
    return float(value) if isinstance(value, decimal.Decimal) and fits_float(value) else value


def _names_in(path: Path, source: RowsSource) -> list[str]:
    if path.suffix.lower() != ".parquet":
        return [source.key_column]
    import pyarrow.parquet as pq

    return list(pq.read_schema(path).names)


def _content(values: Mapping[str, Any], source: RowsSource) -> dict[str, Any]:
    """Return the content of a row: what project.yaml names, else all but key, label, group and watermark."""
    wanted, others = source.content_columns, source.used_columns().values()
    return {name: value for name, value in values.items() if (name in wanted if wanted else name not in others)}
