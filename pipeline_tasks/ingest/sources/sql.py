"""The rows of a query on any SQLAlchemy URL, streamed; with a watermark column what is new, and daily everything."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from pipeline_tasks.errors import ConfigError, InputError, PipelineError, SourceUnavailable, printable
from pipeline_tasks.ingest.sources.opening import Opening
from pipeline_tasks.ingest.sources.tables import Row, UnreadableValue, check_columns, typed_row
from pipeline_tasks.ingest.sources.watermark import Greatest, KindChangedError, SqlCursor, as_utc
from pipeline_tasks.project.source_schema import SqlSource

FETCH_ROWS = 2000
MAX_WITHOUT_ORDER = 20  # so many values without an order before the first one that has one: it is no watermark column
# A text, a quoted name, a comment, or one sign of anything else.
_TOKEN = re.compile(
    r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|`[^`]*`|\$(\w*)\$.*?\$\1\$|(?P<none>--[^\n]*|/\*.*?\*/|\s+)|.""", re.DOTALL
)


def open_sql(source: SqlSource, opening: Opening) -> SqlRows:
    """Return the rows of a query; raises ConfigError when its URL is missing."""
    return SqlRows(source=source, environment=opening.environment, setting=opening.setting)


class SqlRows:
    """The rows of one SQL source; after them `cursor` says where the next reading begins."""

    def __init__(self, *, source: SqlSource, environment: Mapping[str, str], setting: str) -> None:
        self._source = source
        self._setting = setting
        self._url = _parse_url(source, environment=environment, setting=setting)
        self.cursor = SqlCursor()
        self._also: tuple[str, ...] = ()
        self.is_whole = False
        self.warnings: list[str] = []

    def rows(
        self, *, columns: Sequence[str], cursor: SqlCursor, now: dt.datetime, also: Sequence[str] = ()
    ) -> Iterator[Row]:
        """Yield rows with these columns (none named: all), and those of `also` that there are.

        Everything when that is due, else from a little before the watermark on, and NULLs always.

        Raises:
            SourceUnavailable: the database cannot be reached.
            ConfigError: the driver is missing, the query does not run, or a column is missing.
        """
        engine = self._engine()
        self._also = tuple(also)
        try:
            with self._connect(engine) as connection:
                yield from self._due_rows(connection, columns=columns, cursor=cursor, now=now)
        finally:
            engine.dispose()

    def _due_rows(
        self, connection: sa.Connection, *, columns: Sequence[str], cursor: SqlCursor, now: dt.datetime
    ) -> Iterator[Row]:
        source_now = _source_now(connection, otherwise=now)
        if cursor.watermark is not None and cursor.is_ahead(source_now):
            self._warn("the database's clock is before the last watermark: everything is read")
        elif self._source.watermark_column is not None and not cursor.is_due(now):
            greatest = Greatest(source_now, start=cursor.watermark)
            try:
                yield from self._execute(connection, columns=columns, greatest=greatest, since=cursor.since())
            except (KindChangedError, DBAPIError) as error:
                if isinstance(error, DBAPIError) and error.connection_invalidated:
                    raise self._explained(error) from None
                connection.rollback()
                self._warn("watermark_column cannot be compared with the last watermark: everything is read")
            else:
                self.cursor = SqlCursor(greatest.value, cursor.swept_at)
                self._warn_of(greatest)
                return
        yield from self._everything(connection, columns=columns, greatest=Greatest(source_now), now=now)

    def _everything(
        self, connection: sa.Connection, *, columns: Sequence[str], greatest: Greatest, now: dt.datetime
    ) -> Iterator[Row]:
        try:
            yield from self._execute(connection, columns=columns, greatest=greatest)
        except SQLAlchemyError as error:
            raise self._explained(error) from None
        self.is_whole = True
        self.cursor = SqlCursor(None if greatest.is_mixed else greatest.value, now)
        self._warn_of(greatest)

    def _execute(
        self, connection: sa.Connection, *, columns: Sequence[str], greatest: Greatest, since: Any = None
    ) -> Iterator[Row]:
        column, key = self._source.watermark_column, self._source.key_column
        wanted = [*columns, *([column] if column and column not in columns else [])]
        statement = _statement(self._source, connection, since=since)
        result = connection.execution_options(stream_results=True, max_row_buffer=FETCH_ROWS).execute(*statement)
        try:
            check_columns(list(result.keys()), wanted=wanted)
        except InputError as error:
            raise ConfigError(f"{self._setting}.query: {error}", code="COLUMN_MISSING") from None
        names = list(result.keys())
        names = list(dict.fromkeys((*columns, *(name for name in self._also if name in names)))) if columns else names
        rows = (
            (row, typed_row(f"{key}={printable(row[key], limit=100)}", {name: row[name] for name in names}))
            for row in result.mappings()
        )
        if column is None:
            yield from (typed for _, typed in rows)
        else:
            yield from self._watermarked(((row[column], typed) for row, typed in rows), greatest=greatest)

    def _watermarked(self, rows: Iterable[tuple[Any, Row]], *, greatest: Greatest) -> Iterator[Row]:
        """Yield rows; one whose watermark has no order is refused alone, unless none of them has one."""
        held: list[Row] = []
        error: InputError | None = None
        for value, row in rows:
            checked = row
            try:
                greatest.add(value)
            except InputError as bad:
                error = bad
                checked = Row(row.place, {}, bad)
                if greatest.is_empty:
                    held.append(checked)
                    if len(held) == MAX_WITHOUT_ORDER:
                        break
                    continue
            if held and not greatest.is_empty:
                yield from held
                held = []
            yield checked
        if held:
            raise ConfigError(f"{self._setting}.{error}", code="WATERMARK_INVALID")

    def _warn_of(self, greatest: Greatest) -> None:
        if greatest.num_ahead:
            self._warn(f"{greatest.num_ahead} rows are later than the database's now: read, and the watermark stays")
        if greatest.is_mixed:
            self._warn("watermark_column holds several kinds of values: everything is read each time")
        elif greatest.is_word:
            self._warn("watermark_column holds texts that are no ISO times: they are compared as texts")

    def _warn(self, text: str) -> None:
        self.warnings.append(f"{self._setting}: {text}.")

    def _engine(self) -> sa.Engine:
        try:
            engine = sa.create_engine(self._url, pool_pre_ping=False)
        except (NoSuchModuleError, ModuleNotFoundError) as error:
            raise ConfigError(
                f"{self._setting}.url_variable must name a URL of an installed SQLAlchemy driver "
                f"(got {self._url.drivername}: {type(error).__name__}). Install the driver for the workers."
            ) from None
        sa.event.listen(engine, "connect", _keep_unreadable_values)
        return engine

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
        text = printable(" ".join(str(getattr(error, "orig", None) or type(error).__name__).split()), limit=300)
        return text.replace(str(self._url.password), "***") if self._url.password else text


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


def _statement(source: SqlSource, connection: sa.Connection, *, since: Any) -> tuple[Any, ...]:
    query = _without_end(source.query)
    # Escaped, a colon is no parameter's: SQLAlchemy takes the backslash away. Each, also in `12:30:45` and `::date`.
    query = query.replace(":", "\\:")
    if source.watermark_column is None:
        return (sa.text(query),)
    # From the first reading on in the form of the later ones, so that a query which does not fit says so at once. The
    # line ends keep a comment at the query's end from the bracket.
    text = f"SELECT * FROM (\n{query}\n) AS q"
    if since is None:
        return (sa.text(text),)
    column = connection.dialect.identifier_preparer.quote(source.watermark_column)
    return sa.text(f"{text} WHERE q.{column} >= :since OR q.{column} IS NULL"), {"since": since}


def _without_end(query: str) -> str:
    """Return a query without the semicolons at its end, and what comments come after them."""
    end = None
    for token in _TOKEN.finditer(query):
        if token.group() == ";":
            end = token.start() if end is None else end
        elif token.lastgroup != "none":
            end = None
    return query[:end]


def _source_now(connection: sa.Connection, *, otherwise: dt.datetime) -> dt.datetime:
    """Return the database's time in UTC, or ours if it does not tell."""
    try:
        answer = connection.execute(sa.select(sa.func.now())).scalar_one()
    except SQLAlchemyError:
        connection.rollback()
        answer = otherwise
    return as_utc(answer if isinstance(answer, dt.datetime) else otherwise)


def _keep_unreadable_values(connection: Any, _record: Any) -> None:
    """Let a value that Python cannot hold be that row's trouble, not the query's: known for SQLite and psycopg."""
    kind = type(connection).__module__.partition(".")[0]
    if kind == "sqlite3":
        connection.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
    elif kind == "psycopg":
        import psycopg
        from psycopg.types import datetime as loaders

        def lenient(base: Any) -> Any:
            class Lenient(base):  # type: ignore[misc]
                def load(self, data: Any) -> Any:
                    try:
                        return super().load(data)
                    except (psycopg.DataError, ValueError, OverflowError) as error:
                        return UnreadableValue(f"{bytes(data).decode(errors='replace')}: {error}")

            return Lenient

        for name, base in (
            ("date", loaders.DateLoader),
            ("time", loaders.TimeLoader),
            ("timetz", loaders.TimetzLoader),
            ("timestamp", loaders.TimestampLoader),
            ("timestamptz", loaders.TimestamptzLoader),
            ("interval", loaders.IntervalLoader),
        ):
            connection.adapters.register_loader(name, lenient(base))
