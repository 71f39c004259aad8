"""The stage `ingest`: reads what is new in every source, refuses what is bad, stores and records the rest."""

from __future__ import annotations

import dataclasses
import datetime as dt
import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal

from pipeline_tasks.catalog.database import Database
from pipeline_tasks.catalog.items import Cursor, ItemRepository
from pipeline_tasks.catalog.schema_versions import SchemaRepository
from pipeline_tasks.contracts import Attempt, Fence, IngestReport, Split
from pipeline_tasks.core.crash_points import crash_point
from pipeline_tasks.core.ports import ObjectStore
from pipeline_tasks.errors import ConfigError, GateClosed, PipelineError, SourceUnavailable
from pipeline_tasks.ingest.column_versions import (
    READING_VERSION,
    Columns,
    earlier_columns,
    next_reading,
    reading_of,
)
from pipeline_tasks.ingest.counts import Counts
from pipeline_tasks.ingest.exam_split import split_of
from pipeline_tasks.ingest.incremental_reader import ReadResult, SourceReading, cursor_name, opened
from pipeline_tasks.ingest.item_writer import ItemWriter, Target
from pipeline_tasks.ingest.source_readers import reader_of
from pipeline_tasks.ingest.sources.opening import S3Access, opening_of
from pipeline_tasks.project.schema import LoadedProject
from pipeline_tasks.project.source_schema import Source

MAX_SHOWN = 10
READING = "reading"  # the cursor that says how rows are read, and were read before
logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class _Context:
    """The parts and values that every source of one run needs."""

    project: LoadedProject
    items: ItemRepository
    store: ObjectStore
    fence: Fence
    environment: Mapping[str, str]
    own_s3: S3Access | None
    batch_id: str
    split_key: str
    now: dt.datetime
    earlier: tuple[Columns, ...] = ()


def run(
    project: LoadedProject,
    *,
    items: ItemRepository,
    store: ObjectStore,
    attempt: Attempt,
    split_key: str,
    environment: Mapping[str, str],
    batch_id: str,
    now: dt.datetime,
    own_s3: S3Access | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> IngestReport:
    """Ingest everything that is new; one source that fails does not keep the others from being read.

    Raises:
        SourceUnavailable: a source cannot be reached now; all others were read and recorded.
        ConfigError: a source's settings are wrong; all others were read and recorded.
        GateClosed: TOO_MANY_BAD_ITEMS, after good and bad ones were recorded.
        StaleAttempt: a newer attempt took over.
        ServiceUnavailable: the object store does not answer.
    """
    started = clock()
    fence = items.database.acquire(f"{project.name}/ingest", attempt, now=now)
    project = _with_names_told(project, items.database)
    context = _Context(project, items, store, fence, environment, own_s3, batch_id, split_key, now)
    context, news = _begin_reading(context)
    tally = Counts()
    errors: list[PipelineError] = []
    for source in project.config.sources:
        try:
            _ingest_source(source, context=context, tally=tally)
        except (SourceUnavailable, ConfigError) as error:
            logger.warning("%s: %s", source.name, error)
            errors.append(error)
    if errors:
        raise _one_error(errors)
    told = _told(news, tally=tally, project=project.name)
    _check_share(tally, project=project)
    return IngestReport(
        project=project.name,
        batch_id=batch_id,
        num_seen=tally.num_seen,
        num_new=items.count(project.name, batch_id=batch_id),
        num_known=tally.num_known,
        num_quarantined=sum(tally.reasons.values()),
        num_labeled_at_source=tally.num_labeled,
        seconds=round(clock() - started, 3),
        num_labels_corrected=tally.num_corrected,
        num_blank=tally.num_blank,
        warnings=tuple(tally.warnings),
        reading=told,
    )


def _with_names_told(project: LoadedProject, database: Database) -> LoadedProject:
    """Return the project as a source may speak of it: with the former names of its classes."""
    labels = project.config.labels
    told = SchemaRepository(database).names_told(project.name, labels.classes)
    config = project.config.model_copy(update={"labels": labels.model_copy(update={"classes": told})})
    return project if told == labels.classes else project.model_copy(update={"config": config})


def _begin_reading(context: _Context) -> tuple[_Context, Literal["first", "changed"] | None]:
    """Write down how rows are read, before one is, and return the columns of before and what is new."""
    project = context.project.config
    if not project.columns:
        return context, None
    cursor = context.items.cursor(project.name, READING)
    value = next_reading(None if cursor is None else cursor.value, reading_of(project))
    context = dataclasses.replace(context, earlier=earlier_columns(value))
    if cursor is not None and cursor.value == value:
        return context, None
    context.items.move_cursor(
        context.fence, project=project.name, name=READING, value=value, after=cursor, now=context.now
    )
    return context, "first" if cursor is None else "changed"


def _told(news: Literal["first", "changed"] | None, *, tally: Counts, project: str) -> str | None:
    """Return what there is to say about the reading of rows: that it is another, or that items got bytes by it."""
    if news != "changed" and not tally.num_renewed and not (news and tally.num_reread):
        return None
    told = f"rows are read by the declared columns, version {READING_VERSION}; {tally.num_reread} items keep their ids"
    if news == "changed":
        told += "; `columns` changed"
    logger.info("%s: %s", project, told)
    return told


def _ingest_source(source: Source, *, context: _Context, tally: Counts) -> None:
    """Read one source; whatever was read before an error is recorded too, and the cursor moves last."""
    project, name = context.project.config, cursor_name(source)
    cursor = context.items.cursor(project.name, name)
    split = partial(_split, project=context.project, split_key=context.split_key)
    hide = project.deny_list.hide
    target = Target(project.name, source.name, context.batch_id, context.now, split, hide=hide)
    fed: ReadResult | None = None
    failure: PipelineError | None = None
    with ItemWriter(target, items=context.items, store=context.store, fence=context.fence, counts=tally) as writer:
        try:
            fed = _feed(source, context=context, writer=writer, cursor=cursor)
        except (SourceUnavailable, ConfigError) as error:
            failure = type(error)(hide(str(error)), code=error.code)
        writer.close(is_whole=fed is not None and fed.is_whole)
    if failure is not None:
        raise failure
    if fed is not None:
        tally.num_seen += fed.num_seen
        tally.num_blank += fed.num_blank
        for warning in fed.warnings:
            logger.warning("%s", warning)
        tally.warnings += fed.warnings
        _move_cursor(fed, name=name, cursor=cursor, context=context)


def _feed(source: Source, *, context: _Context, writer: ItemWriter, cursor: Cursor | None) -> ReadResult:
    reader = reader_of(source)
    opening = opening_of(context.project, source, environment=context.environment, own_s3=context.own_s3)
    place = opened(partial(reader.open, source, opening), name=source.name)
    reading = SourceReading(context.project.config, context.items, writer, cursor, context.now, context.earlier)
    return reader.feed(place, source, reading)


def _move_cursor(fed: ReadResult, *, name: str, cursor: Cursor | None, context: _Context) -> None:
    if fed.cursor is None or (cursor is not None and fed.cursor == cursor.value):
        return
    crash_point("ingest.cursor.before")
    context.items.move_cursor(
        context.fence, project=context.project.name, name=name, value=fed.cursor, after=cursor, now=context.now
    )
    crash_point("ingest.cursor.recorded")


def _split(group_key: str, *, project: LoadedProject, split_key: str) -> Split:
    share = project.config.split.exam_share
    return split_of(group_key, project=project.name, split_key=split_key, exam_share=share)


def _one_error(errors: list[PipelineError]) -> PipelineError:
    """Return the errors of several sources as one: a retry helps if any of them may go away."""
    if len(errors) == 1:
        return errors[0]
    text = "\n".join(str(error) for error in errors[:MAX_SHOWN])
    transient = any(isinstance(error, SourceUnavailable) for error in errors)
    return SourceUnavailable(text) if transient else ConfigError(text)


def _check_share(tally: Counts, *, project: LoadedProject) -> None:
    """Stop the run when too much of what was new is bad; everything is recorded by then."""
    num_bad = sum(tally.reasons.values())
    total = num_bad + tally.num_new + tally.num_known
    limit = project.config.checks.max_quarantine_share
    if not total or num_bad / total <= limit:
        return
    lines = [
        f"  {count} x {code}, such as {tally.examples[code].key}: {tally.examples[code].reason}"
        for code, count in tally.reasons.most_common(MAX_SHOWN)
    ]
    raise GateClosed(
        f"the share of refused items must be at most checks.max_quarantine_share = {limit:g} "
        f"(got {num_bad} of {total}). Good items were taken. Correct the source, or raise the limit:\n"
        + "\n".join(lines),
        code="TOO_MANY_BAD_ITEMS",
    )
