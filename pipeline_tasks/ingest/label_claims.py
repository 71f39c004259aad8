"""Labels that a source gives to items which have another one: corrections, or two labels for one thing."""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Literal

from pipeline_tasks.catalog.items import KnownItem
from pipeline_tasks.ingest.item_checks import Candidate

MARK_BYTES = 8  # of an item's id, for each row with a label
READ_BYTES = MARK_BYTES * 8192
SPOOL_BYTES = 1024 * 1024
Answer = Literal["same", "claimed", "conflict"]


@dataclasses.dataclass(slots=True)
class Claim:
    """A label that stands against the one an item has; it counts unless the same reading says otherwise."""

    digest: bytes
    key: str
    label: str
    known_key: str
    known_label: str | None
    needs_whole: bool
    is_contradicted: bool = False
    seen: dict[str, str] | None = None

    @property
    def item_id(self) -> str:
        return self.digest.hex()

    @property
    def known(self) -> KnownItem:
        return KnownItem(self.known_label, "", self.known_key)


class Claims:
    """The corrections of one reading of a source. The newest label of a key counts.

    Files: another key counts when the old one no longer holds the bytes. Rows: when no row of the same reading gives
    the item the label that it has; a row with another key counts only in a reading of everything. To know the rows that
    were read, 8 bytes of each labeled one go into a temporary file: memory grows with the corrections alone.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._claims: dict[bytes, Claim] = {}
        self._confirmed = tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES)  # noqa: SIM115  (closed by `close`)

    def __len__(self) -> int:
        return len(self._claims)

    def close(self) -> None:
        self._confirmed.close()

    def confirm(self, candidate: Candidate) -> None:
        """Note that this reading gives an item the label that it has."""
        if candidate.label is not None:
            self._confirmed.write(_mark(candidate.item_id))

    def judge(
        self,
        candidate: Candidate,
        known: KnownItem,
        *,
        seen: dict[str, str],
        is_gone: Callable[[str, str], bool] | None = None,
    ) -> Answer:
        """Say what a label is for an item that has one: the same, a claim that `settle` answers, or a conflict."""
        claim = self._claims.get(_mark(candidate.item_id))
        if candidate.label is None or candidate.label == known.label:
            self.confirm(candidate)
            if claim is not None and candidate.label is not None:
                claim.is_contradicted = True
            return "same"
        if claim is None:
            is_same_key = known.key == candidate.key
            if known.source != self._source or not (
                is_same_key or is_gone is None or is_gone(known.key, candidate.item_id)
            ):
                return "conflict"
            needs_whole = not is_same_key and is_gone is None
            # A million of these may wait for the end: texts that are the same are kept once.
            label, known_label = sys.intern(candidate.label), None if known.label is None else sys.intern(known.label)
            known_key = candidate.key if is_same_key else known.key
            digest = bytes.fromhex(candidate.item_id)
            claim = Claim(digest, candidate.key, label, known_key, known_label, needs_whole)
            self._claims[digest[:MARK_BYTES]] = claim
        claim.is_contradicted = claim.is_contradicted or claim.label != candidate.label
        if claim.is_contradicted:
            return "conflict"
        if seen:
            claim.seen = {**(claim.seen or {}), **seen}
        return "claimed"

    def settle(self, *, is_whole: bool) -> Iterator[tuple[Claim, bool]]:
        """Yield every claim with whether it is granted, and begin anew."""
        claims, self._claims = self._claims, {}
        for mark in self._marks() if claims else ():
            if mark in claims:
                claims[mark].is_contradicted = True
        for claim in claims.values():
            yield claim, not claim.is_contradicted and (is_whole or not claim.needs_whole)

    def _marks(self) -> Iterator[bytes]:
        self._confirmed.seek(0)
        while block := self._confirmed.read(READ_BYTES):
            for start in range(0, len(block), MARK_BYTES):
                yield block[start : start + MARK_BYTES]


def _mark(item_id: str) -> bytes:
    return bytes.fromhex(item_id[: 2 * MARK_BYTES])
