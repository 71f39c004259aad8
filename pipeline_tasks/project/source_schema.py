"""Types of sources in project.yaml: one class each, and `Source`, the list of them.

A new type is a class here with its name in `Source`, a reader in `ingest/sources/`, and a line in
`ingest/source_readers.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Annotated, ClassVar, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import Field

from pipeline_tasks.project.section import Section
from pipeline_tasks.project.yaml_reader import shown

KeyMessage = tuple[str, str]
_VARIABLE = re.compile(r"^[A-Z][A-Z0-9_]*$")


class SourceBase(Section):
    """The part that all sources share. A setting of `PLACE` says where the data lies, not how it is read."""

    PLACE: ClassVar[frozenset[str]] = frozenset()
    IS_ON_DISK: ClassVar[bool] = False  # at `path`, so that a look at it asks nothing outside this machine

    type: str
    name: str

    @property
    def item_columns(self) -> list[str] | None:
        """The columns that make an item; None: an item is a file."""
        return None

    def with_content(self, names: list[str]) -> Self:
        """Return the source with these columns as its content, where it has rows and names none itself."""
        del names
        return self

    def used_columns(self) -> dict[str, str]:
        """Return the columns that are read for something else than content, by the key that names them."""
        return {}

    def variables(self) -> dict[str, list[str]]:
        """Return the environment variables that the source needs, by the key that names them."""
        return {}

    def problems(self, modality: str) -> Iterator[KeyMessage]:
        """Yield what contradicts the modality or itself, as (key, message)."""
        raise NotImplementedError


class FilesSource(SourceBase):
    """A place with files; each is one item."""

    label_pattern: str | None = None
    group_pattern: str | None = None

    def problems(self, modality: str) -> Iterator[KeyMessage]:
        if modality == "tabular":
            types = _types_of(RowsSource)
            yield "type", f"must be {types} for the modality tabular (got {self.type!r}): an item is a row."
        yield from check_pattern("label_pattern", self.label_pattern, group="label")
        yield from check_pattern("group_pattern", self.group_pattern, group="group")


class RowsSource(SourceBase):
    """A place with rows; each is one item."""

    key_column: str
    content_columns: list[str] = Field(
        default_factory=list,
        description="The columns that make an item: one for text, the features for tabular; without it the names in "
        "`columns`.",
    )
    label_column: str | None = None
    group_column: str | None = None

    @property
    def item_columns(self) -> list[str] | None:
        return self.content_columns

    def with_content(self, names: list[str]) -> Self:
        return self if self.content_columns else self.model_copy(update={"content_columns": names})

    def used_columns(self) -> dict[str, str]:
        names = {"label_column": self.label_column, "group_column": self.group_column}
        return {"key_column": self.key_column, **{key: name for key, name in names.items() if name is not None}}

    def problems(self, modality: str) -> Iterator[KeyMessage]:
        if modality == "image":
            types = _types_of(FilesSource)
            yield "type", f"must be {types} for the modality image (got {self.type!r}): an item is a file."
        elif modality == "text" and len(self.content_columns) != 1:
            yield "content_columns", f"must be one column for the modality text (got {len(self.content_columns)})."


class FolderSource(FilesSource):
    """Files below a folder (relative paths start at the project's folder); each file is one item."""

    PLACE = frozenset({"path", "pattern"})
    IS_ON_DISK = True

    type: Literal["folder"]
    name: str = "folder"
    path: str
    pattern: str = Field("**/*", description="Glob of the files to read.")
    label_pattern: str | None = Field(
        None,
        description="Regular expression on the key (path below the folder) with a group `label`; no match = unlabeled.",
    )
    group_pattern: str | None = Field(
        None,
        description="Regular expression on the key with a group `group` (patient, user, session); no match = the key.",
    )

    def problems(self, modality: str) -> Iterator[KeyMessage]:
        yield from super().problems(modality)
        yield from _check_paths(self.path, self.pattern)


class S3Source(FilesSource):
    """Objects below a prefix of any S3 bucket; each object is one item."""

    PLACE = frozenset({"bucket", "prefix", "endpoint_url", "credentials"})

    type: Literal["s3"]
    name: str = "s3"
    bucket: str
    prefix: str = Field("", description="Folder of the bucket, with or without a slash at its end; empty = all of it.")
    endpoint_url: str | None = Field(None, description="Empty = the stack's own S3.")
    credentials: str | None = Field(
        None,
        description="Prefix of the environment variables with the keys: <PREFIX>_ACCESS_KEY and <PREFIX>_SECRET_KEY.",
    )

    def variables(self) -> dict[str, list[str]]:
        prefix = self.credentials
        return {"credentials": [f"{prefix}_ACCESS_KEY", f"{prefix}_SECRET_KEY"]} if prefix else {}

    def problems(self, modality: str) -> Iterator[KeyMessage]:
        yield from super().problems(modality)
        if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", self.bucket):
            yield "bucket", f"must be an S3 bucket's name, 3 to 63 of a-z, 0-9, . and - (got {shown(self.bucket)})."
        if self.endpoint_url is not None:
            url = urlsplit(self.endpoint_url)
            if url.scheme not in ("http", "https") or not url.hostname or "@" in url.netloc:
                text = "must be http(s)://host[:port] without user and password. Use `credentials` for keys."
                yield "endpoint_url", text
            if self.credentials is None:
                yield "credentials", "must be set where endpoint_url is (got nothing): whose keys are to be used there?"
        if self.credentials is not None:
            yield from _check_variable("credentials", self.credentials, example="PARTNER_S3")


class TableSource(RowsSource):
    """CSV, Parquet or JSON-lines files; each row is one item."""

    PLACE = frozenset({"path", "pattern"})
    IS_ON_DISK = True

    type: Literal["table"]
    name: str = "table"
    path: str
    pattern: str = "**/*"

    def problems(self, modality: str) -> Iterator[KeyMessage]:
        yield from super().problems(modality)
        yield from _check_paths(self.path, self.pattern)


class SqlSource(RowsSource):
    """The rows of a query on any SQLAlchemy URL; each row is one item."""

    PLACE = frozenset({"url_variable", "query"})

    type: Literal["sql"]
    name: str = "sql"
    url_variable: str = Field(
        description="Environment variable that holds the SQLAlchemy URL (it may hold a password)."
    )
    query: str
    watermark_column: str | None = Field(
        None,
        description="Column that grows: rows are read from a little before its greatest value on, daily all of them.",
    )

    def used_columns(self) -> dict[str, str]:
        column = self.watermark_column
        return {**super().used_columns(), **({} if column is None else {"watermark_column": column})}

    def variables(self) -> dict[str, list[str]]:
        return {"url_variable": [self.url_variable]}

    def problems(self, modality: str) -> Iterator[KeyMessage]:
        yield from super().problems(modality)
        yield from _check_variable("url_variable", self.url_variable, example="SHOP_DATABASE_URL")


Source = Annotated[FolderSource | S3Source | TableSource | SqlSource, Field(discriminator="type")]
SOURCES: tuple[type[SourceBase], ...] = get_args(get_args(Source)[0])


def check_pattern(key: str, pattern: str | None, *, group: str) -> Iterator[KeyMessage]:
    """Yield what is wrong with a regular expression that must have a named group."""
    if pattern is None:
        return
    try:
        groups = re.compile(pattern).groupindex
    except re.error as error:
        yield key, f"must be a regular expression (got {shown(pattern)}: {error}). Write it between single quotes."
        return
    if group not in groups:
        yield key, f"must have a group (?P<{group}>...) (got {shown(pattern)})."


def _types_of(base: type[SourceBase]) -> str:
    """Return the types that derive from a class, in words."""
    return " or ".join(
        get_args(source.model_fields["type"].annotation)[0] for source in SOURCES if issubclass(source, base)
    )


def _check_paths(path: str, pattern: str) -> Iterator[KeyMessage]:
    for key, value in (("path", path), ("pattern", pattern)):
        if ".." in PurePosixPath(value).parts or value.startswith("~") or "\0" in value:
            yield key, f"must not contain `..` or `~` (got {shown(value)}): PATH_NOT_ALLOWED. Use an absolute path."
        if not value:
            yield key, "must name a place below the project's folder, or an absolute one (got '')."


def _check_variable(key: str, name: str, *, example: str) -> Iterator[KeyMessage]:
    # The value is not shown: a common mistake is to write the secret itself here.
    if not _VARIABLE.match(name):
        yield key, f"must be the name of environment variables, such as {example} (got other text, not shown here)."
