"""Stores candidates: small ones packed, packs uploaded in parallel, recorded in order, in bounded memory."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Literal, Self

from pipeline_tasks.catalog.items import Chunk, ItemRepository, KnownItem, Quarantined
from pipeline_tasks.contracts import Fence, Item, Location, Split, keyed_item_id, sha256_hex
from pipeline_tasks.core.crash_points import crash_point
from pipeline_tasks.core.object_keys import ITEMS
from pipeline_tasks.core.ports import ObjectStore
from pipeline_tasks.errors import MAX_MESSAGE, printable
from pipeline_tasks.ingest.counts import Counts
from pipeline_tasks.ingest.item_checks import MAX_KEPT_BYTES, Candidate, RejectedRow, printable_key
from pipeline_tasks.ingest.label_claims import Claim, Claims

SMALL_BYTES = 64 * 1024  # items up to this size go into packs
PACK_BYTES = 16 * 1024 * 1024
CHUNK_BYTES = 32 * 1024 * 1024  # all bytes that one chunk may hold
CHUNK_ROWS = 8192
LOOKUP_ROWS = 1024
UPLOADS = 4
STAGE = "ingest"
MOVED = ""  # the mark of a key whose bytes have another one now: it is read again if it comes back


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """The project, source and batch of a writer's items, and the values that all of them share."""

    project: str
    source: str
    batch_id: str
    now: dt.datetime
    split: Callable[[str], Split]
    origin: Literal["source", "production"] = "source"
    hide: Callable[[str], str] = str
    """Returns a text without the personal data that the project names."""


@dataclasses.dataclass(slots=True)
class _Draft:
    """A chunk that is being filled."""

    packed: list[Candidate] = dataclasses.field(default_factory=list)
    single: list[Candidate] = dataclasses.field(default_factory=list)
    renewed: list[Candidate] = dataclasses.field(default_factory=list)
    refused: list[RejectedRow] = dataclasses.field(default_factory=list)
    seen: dict[str, str] = dataclasses.field(default_factory=dict)
    labels: dict[str, str] = dataclasses.field(default_factory=dict)
    corrected: dict[str, KnownItem] = dataclasses.field(default_factory=dict)
    pack_bytes: int = 0
    other_bytes: int = 0

    def is_full(self) -> bool:
        items = len(self.packed) + len(self.single)
        labels = len(self.labels) + len(self.corrected)
        rows = max(items, len(self.renewed), len(self.refused), len(self.seen), labels)
        return rows >= CHUNK_ROWS or self.pack_bytes >= PACK_BYTES or self.pack_bytes + self.other_bytes >= CHUNK_BYTES

    def is_empty(self) -> bool:
        items = self.packed or self.single or self.renewed
        return not (items or self.refused or self.seen or self.labels or self.corrected)


class ItemWriter:
    """Takes candidates and refusals of one source; `close` returns when everything is stored and recorded.

    Chunks are recorded in the order in which they were filled, and only when their bytes are stored: after a crash
    the rest fills the same chunks again.
    """

    def __init__(
        self,
        target: Target,
        *,
        items: ItemRepository,
        store: ObjectStore,
        fence: Fence,
        counts: Counts | None = None,
    ) -> None:
        self.counts = counts or Counts()
        self._target = target
        self._items = items
        self._store = store
        self._fence = fence
        self._pool = ThreadPoolExecutor(UPLOADS, thread_name_prefix="ingest-upload")
        self._in_flight: deque[tuple[Future[Chunk], _Draft]] = deque()
        self._pending: dict[str, KnownItem] = {}
        self._renewing: dict[str, str] = {}  # item id -> content id, of bytes that are not recorded yet
        self._waiting: list[tuple[Candidate, dict[str, str]]] = []
        self._draft = _Draft()
        self._claims = Claims(target.source)
        self._held_seen: dict[str, str] = {}
        self.is_gone: Callable[[str, str], bool] | None = None
        """Tells whether a key no longer holds the bytes of an item; None for rows: only a whole reading tells."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._claims.close()

    def add(self, candidate: Candidate, *, seen: dict[str, str] | None = None) -> None:
        """Take a candidate; `seen` (key -> fingerprint) is recorded together with it."""
        self._waiting.append((candidate, seen or {}))
        if len(self._waiting) >= LOOKUP_ROWS:
            self._place_waiting()

    def refuse(self, refusal: RejectedRow, *, seen: dict[str, str] | None = None) -> None:
        """Take a refusal; its bytes are kept when they are there and not too many."""
        self.counts.num_refused += 1
        kept = refusal.data if refusal.data and len(refusal.data) <= MAX_KEPT_BYTES else None
        key = printable_key(self._target.hide(refusal.key))
        reason = printable(self._target.hide(refusal.reason), limit=MAX_MESSAGE)
        self._draft.refused.append(dataclasses.replace(refusal, key=key, reason=reason, data=kept))
        self._draft.other_bytes += len(kept or b"")
        self._draft.seen.update(seen or {})
        self._send_if_full()

    def mark_seen(self, seen: dict[str, str]) -> None:
        """Record, after everything that was taken before, at which fingerprints these keys were read."""
        self._place_waiting()
        if self._claims:
            self._held_seen.update(seen)  # what is marked is not read again: corrected labels are recorded before
            return
        self._draft.seen.update(seen)
        self._send_if_full()

    def close(self, *, is_whole: bool = False) -> None:
        """Store and record everything that was taken; `is_whole` says that it is all that the source has."""
        self._place_waiting()
        self._settle(is_whole=is_whole)
        self._send()
        while self._in_flight:
            self._record_first()

    def _place_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        waiting = self._as_before(waiting)
        ids = [candidate.item_id for candidate, _ in waiting]
        known = self._items.known(self._target.project, ids)
        # All at one moment: what is recorded while the candidates are placed is no longer pending then.
        known.update((item_id, self._pending[item_id]) for item_id in ids if item_id in self._pending)
        for candidate, seen in waiting:
            recorded = known.get(candidate.item_id)
            if recorded is None:
                self._place_new(candidate, seen=seen)
            else:
                self._place_known(candidate, recorded, seen=seen)
            if candidate.item_id in self._pending:
                known[candidate.item_id] = self._pending[candidate.item_id]
            self._send_if_full()

    def _as_before(self, waiting: Sequence[tuple[Candidate, dict[str, str]]]) -> list[tuple[Candidate, dict[str, str]]]:
        """Return the candidates; a row that an earlier reading made an item of, under the same key, is that item still.

        Its bytes are stored anew, as the declared columns read them; what was frozen with the old ones keeps those.
        """
        ids = [
            item_id
            for candidate, _ in waiting
            if candidate.former is not None
            for item_id in (candidate.item_id, *(former.item_id for former in candidate.former))
        ]
        items = self._items.get(self._target.project, ids) if ids else {}
        return [
            (candidate if candidate.former is None else self._as_item(candidate, items), seen)
            for candidate, seen in waiting
        ]

    def _as_item(self, candidate: Candidate, items: Mapping[str, Item]) -> Candidate:
        """Return a row as the item that it is: of its key, with content that this or an earlier reading gives it."""
        contents = {candidate.content_id, *(former.content_id for former in candidate.former or ())}
        for item_id in (candidate.item_id, *(former.item_id for former in candidate.former or ())):
            before = items.get(item_id)
            if before is None or (before.key, before.origin) != (candidate.key, "source"):
                continue
            content = self._renewing.get(item_id, before.content_id)
            if content in contents:
                self.counts.num_reread += item_id != candidate.item_id
                reread = dataclasses.replace(candidate, item_id=item_id)
                if content != candidate.content_id:
                    self._renew(reread)
                return reread
        if (
            candidate.item_id in items
        ):  # it holds another row now, which an earlier reading could not tell from this one
            return dataclasses.replace(candidate, item_id=keyed_item_id(candidate.key, candidate.item_id))
        return candidate

    def _renew(self, candidate: Candidate) -> None:
        self._draft.renewed.append(candidate)
        self._draft.other_bytes += len(candidate.data)
        self._renewing[candidate.item_id] = candidate.content_id
        self.counts.num_renewed += 1

    def _place_new(self, candidate: Candidate, *, seen: dict[str, str]) -> None:
        draft = self._draft
        if len(candidate.data) <= SMALL_BYTES:
            draft.packed.append(candidate)
            draft.pack_bytes += len(candidate.data)
        else:
            draft.single.append(candidate)
            draft.other_bytes += len(candidate.data)
        draft.seen.update(seen)
        self._pending[candidate.item_id] = KnownItem(candidate.label, self._target.source, candidate.key)
        self.counts.num_labeled += candidate.label is not None
        self._claims.confirm(candidate)

    def _place_known(self, candidate: Candidate, known: KnownItem, *, seen: dict[str, str]) -> None:
        if candidate.label is None or known.label is None:
            self._place_same(candidate, known, seen=seen)
            return
        answer = self._claims.judge(candidate, known, seen=seen, is_gone=self.is_gone)
        if answer == "same":
            self._place_same(candidate, known, seen=seen)
        elif answer == "claimed":
            self.counts.num_known += 1
        else:
            self._refuse_label(candidate, known, seen=seen)

    def _place_same(self, candidate: Candidate, known: KnownItem, *, seen: dict[str, str]) -> None:
        self.counts.num_known += 1
        self._draft.seen.update(seen)
        if candidate.label is not None and known.label is None:
            self._draft.labels[candidate.item_id] = candidate.label
            self._pending[candidate.item_id] = known._replace(label=candidate.label)
            self.counts.num_labeled += 1
            self._claims.confirm(candidate)

    def _settle(self, *, is_whole: bool) -> None:
        """Take over the labels that their source corrected, then mark what was held back for them."""
        for claim, is_granted in self._claims.settle(is_whole=is_whole):
            if is_granted:
                self._draft.corrected[claim.item_id] = KnownItem(claim.label, self._target.source, claim.key)
                if self.is_gone:
                    self._draft.seen[printable_key(claim.known_key)] = MOVED
                self._held_seen.update(claim.seen or {})
                self.counts.num_corrected += 1
            else:
                self.counts.num_known -= 1
                self._refuse_label(claim, claim.known, seen=claim.seen or {})
            self._send_if_full()
        self._draft.seen.update(self._held_seen)
        self._held_seen = {}

    def _refuse_label(self, refused: Candidate | Claim, known: KnownItem, *, seen: dict[str, str]) -> None:
        """Refuse a second label.

        A file is not marked as seen: when the other one is removed, it counts. A table is, and is not read again when a
        row of another one is gone.
        """
        advice = "remove the other file" if self.is_gone else "give both rows that label"
        reason = (
            f"equal bytes must have one label (got {refused.label!r}; {refused.item_id[:12]} has {known.label!r} from "
            f"{printable_key(known.key)}). Decide which one is right and {advice}."
        )
        refusal = RejectedRow(refused.key, refused.item_id, "LABEL_CONFLICT", reason)
        self.refuse(refusal, seen={} if self.is_gone else seen)

    def _send_if_full(self) -> None:
        if self._draft.is_full():
            self._send()

    def _send(self) -> None:
        if self._draft.is_empty():
            return
        draft, self._draft = self._draft, _Draft()
        self._in_flight.append((self._pool.submit(_store, draft, target=self._target, store=self._store), draft))
        while len(self._in_flight) > UPLOADS:
            self._record_first()

    def _record_first(self) -> None:
        future, draft = self._in_flight.popleft()
        chunk = future.result()
        self._count_refused(chunk.quarantined)
        self.counts.num_new += self._items.record(self._fence, chunk)
        if chunk.items:
            crash_point("ingest.put.recorded")
        if chunk.quarantined:
            crash_point("ingest.quarantine.recorded")
        for candidate in (*draft.packed, *draft.single):
            self._pending.pop(candidate.item_id, None)
        for item_id in draft.labels:
            self._pending.pop(item_id, None)
        for candidate in draft.renewed:
            if self._renewing.get(candidate.item_id) == candidate.content_id:
                del self._renewing[candidate.item_id]

    def _count_refused(self, refused: Sequence[Quarantined]) -> None:
        """Count what was not in quarantine before: the rest is read again, not new."""
        if not refused:
            return
        target = self._target
        known = self._items.known_refusals(target.project, target.source, [entry.digest for entry in refused])
        for entry in refused:
            if (entry.key, entry.digest, entry.code) not in known:
                known.add((entry.key, entry.digest, entry.code))
                self.counts.reasons[entry.code] += 1
                self.counts.examples.setdefault(
                    entry.code, RejectedRow(entry.key, entry.digest, entry.code, entry.reason)
                )


def _store(draft: _Draft, *, target: Target, store: ObjectStore) -> Chunk:
    """Store a chunk's bytes and return what to record."""
    items: list[Item] = []
    renewed: list[Item] = []
    if draft.packed or draft.single or draft.renewed:
        crash_point("ingest.put.before")
        renewed = _put_pack(draft.renewed, target=target, store=store)
        items = [*_put_pack(draft.packed, target=target, store=store)]
        items += [_put_single(candidate, target=target, store=store) for candidate in draft.single]
        crash_point("ingest.put.after")
    return Chunk(
        project=target.project,
        source=target.source,
        batch_id=target.batch_id,
        items=items,
        seen=draft.seen,
        quarantined=_put_refused(draft.refused, target=target, store=store),
        labels=draft.labels,
        corrected=draft.corrected,
        renewed=renewed,
    )


def _put_pack(candidates: Sequence[Candidate], *, target: Target, store: ObjectStore) -> list[Item]:
    if not candidates:
        return []
    pack = b"".join(candidate.data for candidate in candidates)
    digest = sha256_hex(pack)
    object_key = f"packs/{target.project}/{digest[:2]}/{digest}.pack"
    store.put(object_key, pack)
    items, offset = [], 0
    for candidate in candidates:
        items.append(_item(candidate, Location(object_key, offset, len(candidate.data)), target=target))
        offset += len(candidate.data)
    return items


def _put_single(candidate: Candidate, *, target: Target, store: ObjectStore) -> Item:
    object_key = f"{ITEMS}{target.project}/{candidate.content_id[:2]}/{candidate.content_id}"
    store.put(object_key, candidate.data, content_type=candidate.media_type)
    return _item(candidate, Location(object_key, 0, len(candidate.data)), target=target)


def _put_refused(refused: Sequence[RejectedRow], *, target: Target, store: ObjectStore) -> list[Quarantined]:
    if not refused:
        return []
    crash_point("ingest.quarantine.before")
    entries = []
    for refusal in refused:
        object_key = f"quarantine/{target.project}/{refusal.digest}" if refusal.data else None
        if object_key is not None:
            store.put(object_key, refusal.data or b"")
        where = (STAGE, target.source, refusal.key, refusal.digest)
        entries.append(Quarantined(*where, refusal.code, refusal.reason, object_key, target.now))
    crash_point("ingest.quarantine.after")
    return entries


def _item(candidate: Candidate, location: Location, *, target: Target) -> Item:
    return Item(
        project=target.project,
        item_id=candidate.item_id,
        source=target.source,
        key=candidate.key,
        group_key=candidate.group_key,
        media_type=candidate.media_type,
        location=location,
        arrived_at=target.now,
        split=target.split(candidate.group_key),
        origin=target.origin,
        source_label=candidate.label,
        content_id=candidate.content_id,
    )
