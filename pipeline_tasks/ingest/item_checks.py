"""Candidates for items, and refusals with reasons, from a source's files and rows. Pure: values in, values out."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import re
import uuid
from collections.abc import Sequence
from functools import partial
from typing import Any

from pipeline_tasks.contracts import canonical_json, content_id, keyed_item_id, sha256_hex
from pipeline_tasks.errors import InputError, printable
from pipeline_tasks.guards.cells import row_content, spelled
from pipeline_tasks.guards.image import guard_image
from pipeline_tasks.guards.row import CONTROL, guard_row, is_nothing, require_value
from pipeline_tasks.guards.text import decode_text, guard_text
from pipeline_tasks.ingest.column_versions import Columns, Former, former_items, reading_of
from pipeline_tasks.ingest.sources.listing import Entry
from pipeline_tasks.ingest.sources.tables import Row, typed_value
from pipeline_tasks.project.schema import Project
from pipeline_tasks.project.source_schema import FilesSource, RowsSource, SourceBase

GUARDS_VERSION = 2  # raise it when a guard takes what it refused before: refused files are then read again
MAX_KEY_BYTES = 1024
MAX_KEPT_BYTES = 20_000_000
MAX_PRINTED = 300
_PROBLEMS = {
    "PATH_NOT_ALLOWED": "a link must lead to a file inside the source's folder (got one that leads out, to a folder or "
    "nowhere). Copy the file.",
    "FILE_UNREADABLE": "a file must be readable (got one that is not). Check its permissions; the next run tries.",
    "FOLDER_UNREADABLE": "a folder must be readable (got one that is not). Check its permissions; the next run tries.",
    "TYPE_NOT_ALLOWED": "a source's entry must be a file (got a device, a pipe or a socket).",
}
TEXT_MEDIA_TYPE = "text/plain; charset=utf-8"
ROW_MEDIA_TYPE = "application/json"


@dataclasses.dataclass(frozen=True, slots=True)
class Candidate:
    """Checked, canonical bytes that become an item unless their content is known."""

    key: str
    group_key: str
    label: str | None
    data: bytes
    media_type: str
    item_id: str
    content_id: str
    former: tuple[Former, ...] | None = None  # what earlier readings made of the same row; None: no declared columns


@dataclasses.dataclass(frozen=True, slots=True)
class RejectedRow:
    """Something that is not taken, and why; `data` is kept when it is there."""

    key: str
    digest: str
    code: str
    reason: str
    data: bytes | None = None


def policy_id(project: Project) -> str:
    """Return a digest of all that decides on a refusal: when it changes, what was refused gets a second look."""
    checks = project.checks
    limits = [checks.max_item_bytes, checks.max_pixels, checks.min_side_pixels, checks.max_text_characters]
    labels = [project.labels.classes, project.labels.imported]
    return content_id([GUARDS_VERSION, project.modality, limits, labels, *_privacy(project)])[:12]


def examine_problem(entry: Entry, *, project: Project, any_size: bool = False) -> RejectedRow | None:
    """Return why an entry must not even be read, from its listing alone."""
    if entry.problem:
        return _refusal(entry.key, entry.fingerprint, entry.problem, _PROBLEMS[entry.problem])
    limit = project.checks.max_item_bytes
    if not any_size and entry.size_bytes > max(limit, MAX_KEPT_BYTES):
        return _refusal(entry.key, entry.fingerprint, "FILE_TOO_LARGE", _too_large(entry.size_bytes, limit=limit))
    return None


def examine_file(key: str, data: bytes, *, project: Project, source: FilesSource) -> Candidate | RejectedRow:
    """Return the candidate in a file's bytes, or why there is none."""
    deny = project.deny_list
    try:
        deny.require_none(check_key(key), name="a key")
        group_key = check_key(_group(source.group_pattern, key=key, group="group") or key)
        label = check_label(_group(source.label_pattern, key=key, group="label"), project=project)
        content, media_type = canonical_file(data, project=project)
    except InputError as error:
        kept = None if deny and project.modality != "image" else data
        return RejectedRow(printable_key(key), sha256_hex(data), error.code, str(error), kept)
    digest = sha256_hex(content)
    return Candidate(key, group_key, label, content, media_type, digest, digest)


def examine_row(
    row: Row, *, file: str, project: Project, source: RowsSource, earlier: Sequence[Columns] = ()
) -> Candidate | RejectedRow:
    """Return the candidate in a row, or why there is none; `earlier` are columns that were declared before."""
    place = f"{file}, {row.place}" if file else row.place
    key = place
    if row.error is not None:
        return _refusal(key, "", row.error.code, f"{row.error} [{place}]")
    deny = project.deny_list
    if deny:
        names = frozenset(name for name in (source.key_column, source.group_column) if name)
        row = row._replace(values=deny.clean_row(row.values, keys=names))
    try:
        key = deny.require_none(_row_key(row, source.key_column), name=source.key_column)
        group_key = check_key((_name(row, source.group_column) if source.group_column else None) or key)
        deny.require_none(group_key, name=source.group_column or source.key_column)
        label_text = _name(row, source.label_column) if source.label_column else None
        label = check_label(label_text, project=project)
        content, media_type = _canonical_row(row, project=project, source=source)
    except InputError as error:
        reason = f"{error} [{place}]"
        return _refusal(key, repr(sorted(row.values.items(), key=lambda pair: str(pair[0]))), error.code, reason)
    digest = sha256_hex(content)
    if not project.row_columns:
        return Candidate(key, group_key, label, content, media_type, digest, digest)
    first = [column.name for column in (*earlier, project.row_columns)[0]]
    guessed = partial(_guessed_content, row, names=first, project=project)
    limit = project.checks.max_text_characters
    former = former_items(row.values, key=key, guessed=guessed, earlier=earlier, max_characters=limit)
    return Candidate(key, group_key, label, content, media_type, keyed_item_id(key, digest), digest, former)


def canonical_file(data: bytes, *, project: Project) -> tuple[bytes, str]:
    """Return a file's canonical bytes and media type: an image as it is, a text in its normal form.

    Raises:
        InputError: the modality's guard refuses it.
    """
    checks = project.checks
    if len(data) > checks.max_item_bytes:
        raise InputError(_too_large(len(data), limit=checks.max_item_bytes), code="FILE_TOO_LARGE")
    if project.modality == "image":
        image = guard_image(data, max_pixels=checks.max_pixels, min_side_pixels=checks.min_side_pixels)
        return data, image.media_type
    text = guard_text(decode_text(data), max_characters=checks.max_text_characters)
    return project.deny_list.hide(text).encode(), TEXT_MEDIA_TYPE


def check_key(key: str) -> str:
    """Return the key.

    Raises:
        InputError: KEY_INVALID: empty, longer than 1,024 bytes, control characters or not Unicode.
    """
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise InputError("a key must be valid UTF-8 (got other bytes). Rename it.", code="KEY_INVALID") from None
    if not 0 < size <= MAX_KEY_BYTES:
        raise InputError(f"a key must have 1 to {MAX_KEY_BYTES} bytes (got {size}).", code="KEY_INVALID")
    if CONTROL.search(key):
        raise InputError("a key must have no control characters (got one). Rename it.", code="KEY_INVALID")
    return key


def check_label(label: str | None, *, project: Project) -> str | None:
    """Return a label from the source, None where there is none or labels are not taken from it.

    Raises:
        InputError: UNKNOWN_CLASS.
    """
    if label is None or label == "" or project.labels.imported == "ignore":
        return None
    if label not in project.labels.classes:
        allowed = ", ".join(project.labels.classes[:50])
        raise InputError(
            f"a label must be one of labels.classes: {allowed} (got {label[:60]!r}). "
            "Upper and lower case and spaces count. Correct the label, or add the class.",
            code="UNKNOWN_CLASS",
        )
    return label


def printable_key(key: str) -> str:
    """Return a key that every database and terminal takes; a shortened one ends with its digest."""
    return printable(key, limit=MAX_PRINTED)


def refuse_entry(entry: Entry, error: InputError) -> RejectedRow:
    """Return the refusal of an entry whose bytes are not at hand."""
    return _refusal(entry.key, entry.fingerprint, error.code, str(error))


def source_policy_id(source: SourceBase, *, project: Project) -> str:
    """Return a digest of how a source's content is read, not of where it is: when it changes, all is read again."""
    policy: Any = source.model_dump(mode="json", exclude=set(source.PLACE))
    more = [*([reading_of(project)] if project.columns else []), *_privacy(project)]
    return content_id([policy, *more] if more else policy)[:12]


def _privacy(project: Project) -> list[Any]:
    """Return what decides on what is removed; nothing where nothing is, as before there was such a list."""
    return [project.privacy.model_dump()] if project.deny_list else []


def _refusal(key: str, identity: str, code: str, reason: str) -> RejectedRow:
    name = printable_key(key)
    digest = sha256_hex(f"{name}\0{identity}".encode("utf-8", "backslashreplace"))
    return RejectedRow(name, digest, code, reason)


def _too_large(size_bytes: int, *, limit: int) -> str:
    return f"an item must have at most {limit:,} bytes (got {size_bytes:,}). Shrink it, or raise checks.max_item_bytes."


def _canonical_row(row: Row, *, project: Project, source: RowsSource) -> tuple[bytes, str]:
    limit = project.checks.max_text_characters
    if project.modality == "text":
        value = require_value(row.values, source.content_columns[0])
        if is_nothing(value):
            raise InputError(f"{source.content_columns[0]} must have a text (got nothing).", code="TEXT_EMPTY")
        if not isinstance(value, str):
            got = type(value).__name__
            raise InputError(f"{source.content_columns[0]} must be a text (got {got}).", code="VALUE_TYPE")
        return project.deny_list.hide(guard_text(value, max_characters=limit)).encode(), TEXT_MEDIA_TYPE
    if project.row_columns:
        content = row_content(row.values, columns=project.row_columns, max_characters=limit)
    else:
        content = _guessed_content(row, names=source.content_columns, project=project)
    if len(content) > project.checks.max_item_bytes:
        raise InputError(_too_large(len(content), limit=project.checks.max_item_bytes), code="ROW_TOO_LONG")
    return content, ROW_MEDIA_TYPE


def _guessed_content(row: Row, *, names: Sequence[str], project: Project) -> bytes:
    """Return a row's content by reading version 1, without declared columns: a CSV cell's type is guessed."""
    present = [column for column in names if column in row.values]
    values = {column: typed_value(row, column) for column in present}
    limit = project.checks.max_text_characters
    return canonical_json(guard_row(values, columns=names, max_characters=limit))


def _row_key(row: Row, column: str) -> str:
    name = _name(row, column) if column in row.values else require_value(row.values, column)
    if not name:
        raise InputError(f"{column} must have a value in each row: it is the key (got none).", code="KEY_INVALID")
    return check_key(name)


def _name(row: Row, column: str) -> str | None:
    """Return a key, group or class as text, None for none: 7, 7.0, Decimal("7.00") and "7" are the same name.

    Raises:
        InputError: VALUE_TYPE: a list, a mapping or bytes are no name.
    """
    value = row.values.get(column)  # a JSON line may leave out what it has no value for
    if is_nothing(value) or isinstance(value, str):
        return value if isinstance(value, str) else None
    if isinstance(value, bool | int | float | decimal.Decimal):
        return spelled(value)
    if isinstance(value, dt.datetime | dt.date | dt.time | uuid.UUID):
        return str(value)
    got = type(value).__name__
    raise InputError(f"{column} must be a text, a number, true, false or a date (got {got}).", code="VALUE_TYPE")


def _group(pattern: str | None, *, key: str, group: str) -> str | None:
    if pattern is None:
        return None
    match = re.search(pattern, key)
    return match.group(group) if match else None
