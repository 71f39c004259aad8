"""Readers of the types of sources: how each is opened, read for new items, and looked at for its columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from pipeline_tasks.ingest.incremental_reader import ReadResult, SourceReading, feed_files, feed_rows, feed_tables
from pipeline_tasks.ingest.row_samples import no_rows, sample_query, sample_tables
from pipeline_tasks.ingest.sources.folder import open_folder
from pipeline_tasks.ingest.sources.opening import Opening
from pipeline_tasks.ingest.sources.s3 import open_s3
from pipeline_tasks.ingest.sources.sql import open_sql
from pipeline_tasks.project.schema import Project
from pipeline_tasks.project.source_schema import FolderSource, S3Source, Source, SourceBase, SqlSource, TableSource


class Reader(NamedTuple):
    """The functions of one type of source: `feed` gives what is new to the writer, `sample` yields rows of it."""

    open: Callable[[Any, Opening], Any]
    feed: Callable[[Any, Any, SourceReading], ReadResult]
    sample: Callable[[Any, Any, Project], Iterator[Mapping[str, Any]]]


READERS: Mapping[type[SourceBase], Reader] = {
    FolderSource: Reader(open_folder, feed_files, no_rows),
    S3Source: Reader(open_s3, feed_files, no_rows),
    TableSource: Reader(open_folder, feed_tables, sample_tables),
    SqlSource: Reader(open_sql, feed_rows, sample_query),
}


def reader_of(source: Source) -> Reader:
    """Return the reader of a source's type."""
    return READERS[type(source)]
