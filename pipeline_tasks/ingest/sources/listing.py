"""Entries of a source of files or objects, and one number for a whole listing."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

_MODULUS = 2**128


class Entry(NamedTuple):
    """One file or object; the fingerprint changes when its bytes do. `problem` is a code that forbids reading it."""

    key: str
    fingerprint: str
    size_bytes: int
    problem: str = ""


class FileRead(NamedTuple):
    """The bytes of an entry, and the fingerprint that it had when they were read."""

    data: bytes
    fingerprint: str


class FileSource(Protocol):
    """A place with files or objects. Listing and reading raise ConfigError and SourceUnavailable."""

    name: str
    parallel_reads: int
    newest_ns: int  # the latest change that the last listing met; 0: not known

    def listing(self) -> Iterator[Entry]: ...

    def read(self, entry: Entry) -> FileRead | None:
        """Return the bytes; None if it is gone, or changes while it is read: a later run will see."""

    def folders_digest(self) -> str | None:
        """Return a fingerprint of the folders alone, cheaper than a listing; None where there are none. OSError."""


class ListingDigest:
    """A fingerprint of a listing that does not depend on its order and needs no memory."""

    def __init__(self, policy_id: str) -> None:
        self._policy_id = policy_id
        self._sum = 0
        self.count = 0

    def add(self, entry: Entry) -> None:
        text = f"{entry.key}\0{entry.fingerprint}".encode("utf-8", "surrogateescape")
        self._sum += int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), "big")
        self.count += 1

    def value(self) -> str:
        return f"{self._policy_id}:{self.count}:{self._sum % _MODULUS:032x}"


def digest_of(entries: Iterable[Entry], *, into: ListingDigest) -> ListingDigest:
    """Add all entries to a digest and return it."""
    add = into.add
    for entry in entries:
        add(entry)
    return into


def glob_regex(pattern: str) -> re.Pattern[str]:
    """Return the regular expression of a glob on keys: `**/` = any folders, `*` and `?` stay inside one folder."""
    text = ""
    position = 0
    while position < len(pattern):
        if pattern.startswith("**/", position):
            text += "(?:.*/)?"
            position += 3
        elif pattern.startswith("**", position):
            text += ".*"
            position += 2
        else:
            text += {"*": "[^/]*", "?": "[^/]"}.get(pattern[position], re.escape(pattern[position]))
            position += 1
    return re.compile(f"{text}\\Z", re.DOTALL)
