"""The rows of a query on any SQLAlchemy URL, streamed; with a watermark only what is new, its boundary included."""

from __future__ import annotations

import datetime as dt
import decimal
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from pipeline_tasks.errors import ConfigError, InputError, PipelineError, SourceUnavailable
from pipeline_tasks.ingest.rows import Row, check_columns
from pipeline_tasks.project import SqlSource

FETCH_ROWS = 2000
_COLON = re.compile(r":(?=\w)")


class SqlRows:
    """The rows of one SQL source; `watermark` is the greatest value that has been yielded."""

    def __init__(self, *, source: SqlSource, environment: Mapping[str, str], setting: str) -> None:
        self._source = source
        self._setting = setting
        self._url = _parse_url(source, environment=environment, setting=setting)
        self.watermark: Any = None

    def rows(self, *, columns: Sequence[str], watermark: Any = None) -> Iterator[Row]:
        """Yield rows, from the watermark on (inclusive: equal times may have come later), NULLs always.

        Raises:
            SourceUnavailable: the database cannot be reached.
            ConfigError: the driver is missing, the query does not run, or a column is missing.
        """
        self.watermark = watermark
        engine = self._engine()
        try:
            with self._connect(engine) as connection:
                yield from self._execute(connection, columns=columns, watermark=watermark)
        finally:
            engine.dispose()

    def _execute(self, connection: sa.Connection, *, columns: Sequence[str], watermark: Any) -> Iterator[Row]:
        column = self._source.watermark_column
        wanted = [*columns, *([column] if column and column not in columns else [])]
        try:
            result = connection.execution_options(stream_results=True, max_row_buffer=FETCH_ROWS).execute(
                *_statement(self._source, connection, watermark=watermark)
            )
            check_columns(list(result.keys()), wanted=wanted)
            for number, row in enumerate(result.mappings(), start=1):
                if column is not None:
                    self._advance(row[column])
                yield Row(f"row {number}", dict(row))
        except InputError as error:
            raise ConfigError(f"{self._setting}.query: {error}", code="COLUMN_MISSING") from None
        except SQLAlchemyError as error:
            raise self._explained(error) from None

    def _advance(self, value: Any) -> None:
        if value is not None and (self.watermark is None or value > self.watermark):
            self.watermark = value

    def _engine(self) -> sa.Engine:
        try:
            return sa.create_engine(self._url, pool_pre_ping=False)
        except (NoSuchModuleError, ModuleNotFoundError) as error:
            raise ConfigError(
                f"{self._setting}.url_variable must name a URL of an installed SQLAlchemy driver "
                f"(got {self._url.drivername}: {type(error).__name__}). Install the driver for the workers."
            ) from None

    def _connect(self, engine: sa.Engine) -> sa.Connection:
        try:
            return engine.connect()
        except SQLAlchemyError as error:
            raise SourceUnavailable(
                f"{self._setting} must be reachable under the URL in {self._source.url_variable} "
                f"(got {self._cause(error)}). Check that the database runs; the next run tries again."
            ) from None

    def _explained(self, error: SQLAlchemyError) -> PipelineError:
        if isinstance(error, DBAPIError) and error.connection_invalidated:
            return SourceUnavailable(
                f"{self._setting} must stay reachable (got {self._cause(error)}). The next run goes on from here."
            )
        return ConfigError(
            f"{self._setting}.query must run on the database in {self._source.url_variable} "
            f"(got {self._cause(error)}). Try it in the database's own shell; check tables, columns and rights."
        )

    def _cause(self, error: SQLAlchemyError) -> str:
        """Return the driver's words on one line, without the URL's password and without row values."""
        text = " ".join(str(getattr(error, "orig", None) or type(error).__name__).split())[:300]
        return text.replace(str(self._url.password), "***") if self._url.password else text


def encode_watermark(value: Any) -> Any:
    """Return a watermark as JSON that `decode_watermark` turns back into the same value."""
    if isinstance(value, dt.datetime):
        return {"type": "datetime", "value": value.isoformat()}
    if isinstance(value, dt.date):
        return {"type": "date", "value": value.isoformat()}
    if isinstance(value, decimal.Decimal):
        return {"type": "decimal", "value": str(value)}
    if value is None or isinstance(value, str | int | float):
        return {"type": "plain", "value": value}
    raise ConfigError(
        f"watermark_column must hold times, dates, numbers or texts (got {type(value).__name__}). Choose another one."
    )


def decode_watermark(encoded: Any) -> Any:
    """Return the value of an encoded watermark; None for none."""
    if encoded is None:
        return None
    parsers: dict[str, Callable[[Any], Any]] = {
        "datetime": dt.datetime.fromisoformat,
        "date": dt.date.fromisoformat,
        "decimal": decimal.Decimal,
        "plain": lambda value: value,
    }
    return parsers[encoded["type"]](encoded["value"])


def _parse_url(source: SqlSource, *, environment: Mapping[str, str], setting: str) -> sa.URL:
    text = environment.get(source.url_variable)
    if not text:
        raise ConfigError(
            f"{setting}.url_variable must name a variable that is set (got {source.url_variable}: not set). "
            "Set it to a SQLAlchemy URL in the environment of the workers."
        )
    try:
        url = sa.make_url(text)
    except ArgumentError:
        raise ConfigError(
            f"{source.url_variable} must be a SQLAlchemy URL, such as postgresql+psycopg://user:password@host/database "
            "(got other text, not shown here)."
        ) from None
    if url.drivername.startswith("sqlite") and url.database and not Path(url.database).exists():
        raise ConfigError(f"{source.url_variable} must name an existing SQLite file (got {url.database}).")
    return url


def _statement(source: SqlSource, connection: sa.Connection, *, watermark: Any) -> tuple[Any, ...]:
    query = _COLON.sub(r"\\:", source.query.strip().rstrip(";"))
    if source.watermark_column is None or watermark is None:
        return (sa.text(query),)
    column = connection.dialect.identifier_preparer.quote(source.watermark_column)
    text = f"SELECT * FROM ({query}) AS q WHERE q.{column} >= :since OR q.{column} IS NULL"
    return sa.text(text), {"since": watermark}
