"""Reads what is new in one source and gives it to the writer."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any

from pipeline_tasks.catalog.items import Cursor, ItemRepository
from pipeline_tasks.errors import InputError
from pipeline_tasks.ingest.content import (
    Candidate,
    Refusal,
    examine_file,
    examine_problem,
    examine_row,
    policy_id,
    printable_key,
    refuse_entry,
    source_policy_id,
)
from pipeline_tasks.ingest.folder_source import FolderFiles
from pipeline_tasks.ingest.listing import Entry, FileRead, FileSource, ListingDigest
from pipeline_tasks.ingest.listing_memory import ListingMemory
from pipeline_tasks.ingest.rows import Row, read_rows
from pipeline_tasks.ingest.sql_source import SqlRows, decode_watermark, encode_watermark
from pipeline_tasks.ingest.writer import ItemWriter
from pipeline_tasks.project import FolderSource, Project, S3Source, SqlSource, TableSource

WINDOW_ENTRIES = 2048


@dataclasses.dataclass(frozen=True, slots=True)
class Fed:
    """How much a source listed, and where its cursor goes: None = not all of it could be read, look again."""

    num_seen: int
    cursor: Mapping[str, Any] | None


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


def cursor_name(source: FolderSource | S3Source | TableSource | SqlSource) -> str:
    """Return the name of a source's cursor in the catalog."""
    return f"source/{source.name}"


def feed_files(
    files: FileSource,
    *,
    source: FolderSource | S3Source,
    project: Project,
    items: ItemRepository,
    writer: ItemWriter,
    cursor: Cursor | None,
    now: dt.datetime,
) -> Fed:
    """Give every new or changed file to the writer."""
    policy = _policy(project, source)
    memory = ListingMemory(files, policy_id=policy.both, cursor=cursor, now=now, by_folder=True)
    unchanged = memory.unchanged()
    if unchanged is not None:
        return Fed(*unchanged)
    digest, is_complete = memory.new_digest(), True
    for window in _windows(files.listing(), digest=digest):
        fresh = _fresh(window, files=files, project=project, items=items, policy=policy)
        for entry, read in _read(files, _examine_listed(fresh, writer=writer, project=project, policy=policy)):
            seen_key = printable_key(entry.key)
            if read is None:
                is_complete = False
            elif isinstance(read, InputError):
                writer.refuse(refuse_entry(entry, read))
                is_complete = False
            else:
                outcome = examine_file(entry.key, read.data, project=project, source=source)
                _take(outcome, writer=writer, seen_key=seen_key, fingerprint=read.fingerprint, policy=policy)
    return Fed(digest.count, memory.cursor_value(digest) if is_complete else None)


def feed_tables(
    files: FolderFiles,
    *,
    source: TableSource,
    project: Project,
    items: ItemRepository,
    writer: ItemWriter,
    cursor: Cursor | None,
    now: dt.datetime,
) -> Fed:
    """Give the rows of every new or changed table file to the writer."""
    policy = _policy(project, source)
    memory = ListingMemory(files, policy_id=policy.both, cursor=cursor, now=now, by_folder=False)
    unchanged = memory.unchanged()
    if unchanged is not None:
        return Fed(0, unchanged[1])
    digest, num_rows, is_complete = memory.new_digest(), 0, True
    for window in _windows(files.listing(), digest=digest):
        fresh = _fresh(window, files=files, project=project, items=items, policy=policy)
        for entry in _examine_listed(fresh, writer=writer, project=project, policy=policy, by_row=True):
            before = files.fingerprint_of(entry)
            read, was_read = _feed_table(files, entry, source=source, project=project, writer=writer, policy=policy)
            num_rows += read
            is_complete = is_complete and was_read and before == files.fingerprint_of(entry)
    return Fed(num_rows, memory.cursor_value(digest) if is_complete else None)


def feed_sql(rows: SqlRows, *, source: SqlSource, project: Project, writer: ItemWriter, cursor: Cursor | None) -> Fed:
    """Give the rows of a query from the watermark on to the writer."""
    policy = _policy(project, source)
    is_same = cursor is not None and cursor.value.get("policy") == policy.both
    watermark = decode_watermark(cursor.value["watermark"]) if cursor is not None and is_same else None
    num_rows = 0
    for row in rows.rows(columns=_columns(source), watermark=watermark):
        num_rows += 1
        _give(examine_row(row, file="", project=project, source=source), writer=writer)
    return Fed(num_rows, {"policy": policy.both, "watermark": encode_watermark(rows.watermark)})


def _feed_table(
    files: FolderFiles, entry: Entry, *, source: TableSource, project: Project, writer: ItemWriter, policy: _Policy
) -> tuple[int, bool]:
    """Give one file's rows to the writer; return how many, and whether the file is done with.

    A file that cannot be read on is refused, its rows before that are taken.
    """
    num_rows = 0
    num_refused = sum(writer.reasons.values())
    try:
        for row in _table_rows(files, entry, source=source, project=project):
            num_rows += 1
            _give(examine_row(row, file=entry.key, project=project, source=source), writer=writer)
    except InputError as error:
        writer.refuse(refuse_entry(entry, error))
    except OSError as error:
        message = f"a file must be readable (got {error.strerror}). Check its permissions; the next run tries again."
        writer.refuse(refuse_entry(entry, InputError(message, code="FILE_UNREADABLE")))
        return num_rows, False
    has_refused = sum(writer.reasons.values()) > num_refused
    mark = policy.refused(entry.fingerprint) if has_refused else policy.taken(entry.fingerprint)
    writer.mark_seen({printable_key(entry.key): mark})
    return num_rows, True


def _table_rows(files: FolderFiles, entry: Entry, *, source: TableSource, project: Project) -> Iterator[Row]:
    limit = project.checks.max_item_bytes
    return read_rows(files.path_of(entry), columns=_columns(source), max_line_characters=limit)


def _columns(source: TableSource | SqlSource) -> list[str]:
    optional = [source.label_column, source.group_column]
    return list(dict.fromkeys([source.key_column, *source.content_columns, *(name for name in optional if name)]))


def _policy(project: Project, source: FolderSource | S3Source | TableSource | SqlSource) -> _Policy:
    return _Policy(source=source_policy_id(source, project=project), guards=policy_id(project))


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


def _take(
    outcome: Candidate | Refusal, *, writer: ItemWriter, seen_key: str, fingerprint: str, policy: _Policy
) -> None:
    if isinstance(outcome, Candidate):
        writer.add(outcome, seen={seen_key: policy.taken(fingerprint)})
    else:
        writer.refuse(outcome, seen={seen_key: policy.refused(fingerprint)})


def _give(outcome: Candidate | Refusal, *, writer: ItemWriter) -> None:
    if isinstance(outcome, Candidate):
        writer.add(outcome)
    else:
        writer.refuse(outcome)
