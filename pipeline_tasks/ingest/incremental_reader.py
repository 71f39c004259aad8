"""Reads what is new in one source and gives it to the writer."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from pipeline_tasks.catalog.items import Cursor, ItemRepository
from pipeline_tasks.errors import InputError, PipelineError, SourceUnavailable, printable
from pipeline_tasks.ingest.column_versions import Columns
from pipeline_tasks.ingest.item_checks import (
    Candidate,
    RejectedRow,
    examine_file,
    examine_problem,
    examine_row,
    policy_id,
    printable_key,
    refuse_entry,
    source_policy_id,
)
from pipeline_tasks.ingest.item_writer import ItemWriter
from pipeline_tasks.ingest.listing_cursor import ListingMemory
from pipeline_tasks.ingest.sources.folder import FolderFiles
from pipeline_tasks.ingest.sources.listing import Entry, FileRead, FileSource, ListingDigest
from pipeline_tasks.ingest.sources.tables import Row, read_rows
from pipeline_tasks.ingest.sources.watermark import RowSource, SqlCursor
from pipeline_tasks.project.schema import Project
from pipeline_tasks.project.source_schema import FilesSource, RowsSource, SourceBase

WINDOW_ENTRIES = 2048
T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class ReadResult:
    """The size of a source's listing, and its next cursor: None = not all of it could be read, look again.

    `is_whole` says that everything which the source has was read.
    """

    num_seen: int
    cursor: Mapping[str, Any] | None
    num_blank: int = 0
    is_whole: bool = False
    warnings: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class SourceReading:
    """The run in which a source is read: where it stopped last, and what takes its items.

    `earlier` are columns that were declared before.
    """

    project: Project
    items: ItemRepository
    writer: ItemWriter
    cursor: Cursor | None
    now: dt.datetime
    earlier: Sequence[Columns] = ()


@dataclasses.dataclass(slots=True)
class _Count:
    """Rows that were read, and lines without values."""

    num_rows: int = 0
    num_blank: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class _Policy:
    """Digests of the settings that decide how content is read (`source`) and what is refused (`guards`)."""

    source: str
    guards: str

    @property
    def both(self) -> str:
        return f"{self.source}!{self.guards}"

    def taken(self, fingerprint: str) -> str:
        return f"{fingerprint}!{self.source}"

    def refused(self, fingerprint: str) -> str:
        return f"{fingerprint}!{self.source}!{self.guards}"

    def knows(self, entry: Entry, mark: str | None) -> bool:
        return mark is not None and mark in (self.taken(entry.fingerprint), self.refused(entry.fingerprint))


def cursor_name(source: SourceBase) -> str:
    """Return the name of a source's cursor in the catalog."""
    return f"source/{source.name}"


def feed_files(files: FileSource, source: FilesSource, reading: SourceReading) -> ReadResult:
    """Give every new or changed file to the writer."""
    project, items, writer = reading.project, reading.items, reading.writer
    policy = _policy(project, source)
    memory = ListingMemory(files, policy_id=policy.both, cursor=reading.cursor, now=reading.now, by_folder=True)
    unchanged = opened(memory.unchanged, name=source.name)
    if unchanged is not None:
        return ReadResult(*unchanged)
    writer.is_gone = partial(_is_gone, files=files, project=project, source=source)
    digest, is_complete = memory.new_digest(), True
    for window in _windows(shielded(files.listing(), name=files.name), digest=digest):
        fresh = _fresh(window, files=files, project=project, items=items, policy=policy)
        for entry, read in _read(files, _examine_listed(fresh, writer=writer, project=project, policy=policy)):
            seen_key = printable_key(entry.key)
            if read is None:
                is_complete = False
            elif isinstance(read, InputError):
                writer.refuse(refuse_entry(entry, read))
                is_complete = False
            else:
                outcome = _examined(partial(examine_file, entry.key, read.data, project=project, source=source), entry)
                _take(outcome, writer=writer, seen_key=seen_key, fingerprint=read.fingerprint, policy=policy)
    return ReadResult(digest.count, memory.cursor_value(digest) if is_complete else None)


def feed_tables(files: FolderFiles, source: RowsSource, reading: SourceReading) -> ReadResult:
    """Give the rows of every new or changed table file to the writer."""
    project, writer, earlier = reading.project, reading.writer, reading.earlier
    policy = _policy(project, source)
    memory = ListingMemory(files, policy_id=policy.both, cursor=reading.cursor, now=reading.now, by_folder=False)
    unchanged = opened(memory.unchanged, name=source.name)
    if unchanged is not None:
        return ReadResult(0, unchanged[1])
    digest, count, is_complete, is_whole = memory.new_digest(), _Count(), True, True
    for window in _windows(shielded(files.listing(), name=files.name), digest=digest):
        fresh = _fresh(window, files=files, project=project, items=reading.items, policy=policy)
        is_whole = is_whole and len(fresh) == len(window)
        for entry in _examine_listed(fresh, writer=writer, project=project, policy=policy, by_row=True):
            before = files.fingerprint_of(entry)
            rows = _table_rows(files, entry, source=source, project=project, also=_names(earlier))
            examine = partial(examine_row, file=entry.key, project=project, source=source, earlier=earlier)
            was_read = _feed_table(rows, entry, examine=examine, writer=writer, policy=policy, count=count)
            is_complete = is_complete and was_read and before == files.fingerprint_of(entry)
    cursor_value = memory.cursor_value(digest) if is_complete else None
    return ReadResult(count.num_rows, cursor_value, count.num_blank, is_whole=is_whole and is_complete)


def feed_rows(rows: RowSource, source: RowsSource, reading: SourceReading) -> ReadResult:
    """Give the rows of a query from the watermark on to the writer."""
    project, cursor, earlier = reading.project, reading.cursor, reading.earlier
    policy = _policy(project, source)
    is_same = cursor is not None and cursor.value.get("policy") == policy.both
    place = SqlCursor.parse(cursor.value) if cursor is not None and is_same else SqlCursor()
    count = _Count()
    examine = partial(examine_row, file="", project=project, source=source, earlier=earlier)
    new_rows = rows.rows(columns=_columns(source), also=_names(earlier), cursor=place, now=reading.now)
    for row in shielded(new_rows, name=source.name):
        _give(row, file="", examine=examine, writer=reading.writer, count=count)
    cursor_value = {"policy": policy.both, **rows.cursor.as_json()}
    return ReadResult(count.num_rows, cursor_value, is_whole=rows.is_whole, warnings=tuple(rows.warnings))


def shielded(values: Iterator[T], *, name: str) -> Iterator[T]:
    """Yield what a source gives; an error that nobody foresaw ends this source alone."""
    with _this_source_alone(name):
        yield from values


def opened(opening: Callable[[], T], *, name: str) -> T:
    """Return an opened source; an error that nobody foresaw ends this source alone."""
    with _this_source_alone(name):
        return opening()


@contextmanager
def _this_source_alone(name: str) -> Iterator[None]:
    try:
        yield
    except (PipelineError, MemoryError):
        raise
    except Exception as error:
        raise SourceUnavailable(
            f"the source {name} must be readable (got {_named(error)}). The others are read; the next run tries again.",
            code="SOURCE_UNREADABLE",
        ) from error


def _feed_table(
    rows: Iterator[Row],
    entry: Entry,
    *,
    examine: Callable[[Row], Candidate | RejectedRow],
    writer: ItemWriter,
    policy: _Policy,
    count: _Count,
) -> bool:
    """Give one file's rows to the writer; return whether the file is done with.

    A file that cannot be read on is refused, its rows before that are taken.
    """
    num_refused = writer.counts.num_refused
    try:
        for row in rows:
            _give(row, file=entry.key, examine=examine, writer=writer, count=count)
    except InputError as error:
        writer.refuse(refuse_entry(entry, error))
        if error.code == "FILE_UNREADABLE":
            return False
    mark = policy.refused if writer.counts.num_refused > num_refused else policy.taken
    writer.mark_seen({printable_key(entry.key): mark(entry.fingerprint)})
    return True


def _table_rows(
    files: FolderFiles, entry: Entry, *, source: RowsSource, project: Project, also: Sequence[str]
) -> Iterator[Row]:
    """Yield a file's rows.

    Raises:
        InputError: the file cannot be read on, for whatever reason.
    """
    limit = project.checks.max_item_bytes
    try:
        path = files.path_of(entry)
        yield from read_rows(path, columns=_columns(source), also=also, max_line_characters=limit)
    except (PipelineError, MemoryError):
        raise
    except OSError as error:
        message = f"a file must be readable (got {error.strerror}). Check its permissions; the next run tries again."
        raise InputError(message, code="FILE_UNREADABLE") from error
    except Exception as error:
        raise _unforeseen(error) from error


def _columns(source: RowsSource) -> list[str]:
    optional = [source.label_column, source.group_column]
    return list(dict.fromkeys([source.key_column, *source.content_columns, *(name for name in optional if name)]))


def _names(earlier: Sequence[Columns]) -> list[str]:
    """Return the names of columns that were declared before: what they held says which item a row was."""
    return list(dict.fromkeys(column.name for columns in earlier for column in columns))


def _policy(project: Project, source: SourceBase) -> _Policy:
    # What was taken without its label is read again when labels are accepted.
    labels = "-without-labels" if project.labels.imported == "ignore" else ""
    return _Policy(source=source_policy_id(source, project=project) + labels, guards=policy_id(project))


def _windows(entries: Iterable[Entry], *, digest: ListingDigest) -> Iterator[list[Entry]]:
    iterator = iter(entries)
    while window := list(islice(iterator, WINDOW_ENTRIES)):
        for entry in window:
            digest.add(entry)
        yield window


def _fresh(
    window: Sequence[Entry], *, files: FileSource, project: Project, items: ItemRepository, policy: _Policy
) -> list[Entry]:
    """Return the entries that are new, changed, or refused under other settings."""
    keys = [printable_key(entry.key) for entry in window]
    marks = items.seen(project.name, files.name, keys)
    return [entry for entry, key in zip(window, keys, strict=True) if not policy.knows(entry, marks.get(key))]


def _examine_listed(
    entries: Iterable[Entry], *, writer: ItemWriter, project: Project, policy: _Policy, by_row: bool = False
) -> Iterator[Entry]:
    """Refuse what must not be read and yield the rest. A table file may be of any size: its rows are limited."""
    for entry in entries:
        refusal = examine_problem(entry, project=project, any_size=by_row)
        if refusal is None:
            yield entry
        else:
            writer.refuse(refusal, seen={printable_key(entry.key): policy.refused(entry.fingerprint)})


def _read(files: FileSource, entries: Iterable[Entry]) -> Iterator[tuple[Entry, FileRead | InputError | None]]:
    """Yield entries with their bytes in the same order, a few reads ahead where reading means waiting."""
    if files.parallel_reads == 1:
        for entry in entries:
            yield entry, _read_one(files, entry)
        return
    ahead: deque[tuple[Entry, Future[FileRead | InputError | None]]] = deque()
    with ThreadPoolExecutor(files.parallel_reads, thread_name_prefix="ingest-read") as pool:
        for entry in entries:
            ahead.append((entry, pool.submit(_read_one, files, entry)))
            if len(ahead) > files.parallel_reads:
                first, future = ahead.popleft()
                yield first, future.result()
        for first, future in ahead:
            yield first, future.result()


def _read_one(files: FileSource, entry: Entry) -> FileRead | InputError | None:
    try:
        return files.read(entry)
    except InputError as error:
        return error
    except (PipelineError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001  (one file that breaks its reader stops no other)
        return _unforeseen(error)


def _is_gone(key: str, item_id: str, *, files: FileSource, project: Project, source: FilesSource) -> bool:
    """Tell whether a key no longer holds the bytes of an item: it was moved, removed or written over."""
    read = _read_one(files, Entry(key, "", 0))
    if read is None:
        return True
    if isinstance(read, InputError):
        return False
    outcome = _examined(partial(examine_file, key, read.data, project=project, source=source), Entry(key, "", 0))
    return not isinstance(outcome, Candidate) or outcome.item_id != item_id


def _examined(examine: Callable[[], Candidate | RejectedRow], entry: Entry) -> Candidate | RejectedRow:
    """Return what an examination says; an error that nobody foresaw refuses this one thing."""
    try:
        return examine()
    except (PipelineError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001  (one value that breaks a guard stops no other)
        return refuse_entry(entry, _unforeseen(error))


def _unforeseen(error: Exception) -> InputError:
    return InputError(
        f"an input must be readable (got {_named(error)}). Take it out, and report it as a fault with that input.",
        code="UNREADABLE",
    )


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {printable(error)}"


def _take(
    outcome: Candidate | RejectedRow, *, writer: ItemWriter, seen_key: str, fingerprint: str, policy: _Policy
) -> None:
    if isinstance(outcome, Candidate):
        writer.add(outcome, seen={seen_key: policy.taken(fingerprint)})
    else:
        writer.refuse(outcome, seen={seen_key: policy.refused(fingerprint)})


def _give(
    row: Row, *, file: str, examine: Callable[[Row], Candidate | RejectedRow], writer: ItemWriter, count: _Count
) -> None:
    if row.is_blank:
        count.num_blank += 1
        return
    count.num_rows += 1
    place = f"{file}, {row.place}" if file else row.place
    outcome = _examined(partial(examine, row), Entry(place, "", 0))
    if isinstance(outcome, Candidate):
        writer.add(outcome)
    else:
        writer.refuse(outcome)
