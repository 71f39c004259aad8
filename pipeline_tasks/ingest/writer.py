"""Stores candidates: small ones packed, packs uploaded in parallel, recorded in order, in bounded memory."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Literal, Self

from pipeline_tasks.catalog.items import Chunk, ItemRepository, Quarantined
from pipeline_tasks.contracts import Fence, Item, Location, Split, sha256_hex
from pipeline_tasks.faults import crash_point
from pipeline_tasks.ingest.content import MAX_KEPT_BYTES, Candidate, Refusal
from pipeline_tasks.ports import ObjectStore

SMALL_BYTES = 64 * 1024  # items up to this size go into packs
PACK_BYTES = 16 * 1024 * 1024
CHUNK_BYTES = 32 * 1024 * 1024  # all bytes that one chunk may hold
CHUNK_ROWS = 8192
LOOKUP_ROWS = 1024
UPLOADS = 4
STAGE = "ingest"


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """Where a writer's items belong, and the values that all of them share."""

    project: str
    source: str
    batch_id: str
    now: dt.datetime
    split: Callable[[str], Split]
    origin: Literal["source", "production"] = "source"


@dataclasses.dataclass(slots=True)
class _Draft:
    """A chunk that is being filled."""

    packed: list[Candidate] = dataclasses.field(default_factory=list)
    single: list[Candidate] = dataclasses.field(default_factory=list)
    renewed: list[Candidate] = dataclasses.field(default_factory=list)
    refused: list[Refusal] = dataclasses.field(default_factory=list)
    seen: dict[str, str] = dataclasses.field(default_factory=dict)
    labels: dict[str, str] = dataclasses.field(default_factory=dict)
    pack_bytes: int = 0
    other_bytes: int = 0

    def is_full(self) -> bool:
        rows = max(len(self.packed) + len(self.single), len(self.renewed), len(self.refused), len(self.seen))
        rows = max(rows, len(self.labels))
        return rows >= CHUNK_ROWS or self.pack_bytes >= PACK_BYTES or self.pack_bytes + self.other_bytes >= CHUNK_BYTES

    def is_empty(self) -> bool:
        return not (self.packed or self.single or self.renewed or self.refused or self.seen or self.labels)


class ItemWriter:
    """Takes candidates and refusals of one source; `close` returns when everything is stored and recorded.

    Chunks are recorded in the order in which they were filled, and only when their bytes are stored: after a crash
    the rest fills the same chunks again.
    """

    def __init__(self, target: Target, *, items: ItemRepository, store: ObjectStore, fence: Fence) -> None:
        self._target = target
        self._items = items
        self._store = store
        self._fence = fence
        self._pool = ThreadPoolExecutor(UPLOADS, thread_name_prefix="ingest-upload")
        self._in_flight: deque[tuple[Future[Chunk], _Draft]] = deque()
        self._pending: dict[str, str | None] = {}
        self._waiting: list[tuple[Candidate, dict[str, str]]] = []
        self._draft = _Draft()
        self.num_new = 0
        self.num_known = 0
        self.num_labeled = 0
        self.num_reread = 0
        self.reasons: Counter[str] = Counter()
        self.examples: dict[str, Refusal] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def add(self, candidate: Candidate, *, seen: dict[str, str] | None = None) -> None:
        """Take a candidate; `seen` (key -> fingerprint) is recorded together with it."""
        self._waiting.append((candidate, seen or {}))
        if len(self._waiting) >= LOOKUP_ROWS:
            self._place_waiting()

    def refuse(self, refusal: Refusal, *, seen: dict[str, str] | None = None) -> None:
        """Take a refusal; its bytes are kept when they are there and not too many."""
        self.reasons[refusal.code] += 1
        self.examples.setdefault(refusal.code, refusal)
        kept = refusal.data if refusal.data and len(refusal.data) <= MAX_KEPT_BYTES else None
        self._draft.refused.append(dataclasses.replace(refusal, data=kept))
        self._draft.other_bytes += len(kept or b"")
        self._draft.seen.update(seen or {})
        self._send_if_full()

    def mark_seen(self, seen: dict[str, str]) -> None:
        """Record, after everything that was taken before, at which fingerprints these keys were read."""
        self._place_waiting()
        self._draft.seen.update(seen)
        self._send_if_full()

    def close(self) -> None:
        """Store and record everything that was taken."""
        self._place_waiting()
        self._send()
        while self._in_flight:
            self._record_first()

    def _place_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        waiting = self._as_before(waiting)
        known = self._items.source_labels(self._target.project, [candidate.item_id for candidate, _ in waiting])
        for candidate, seen in waiting:
            if candidate.item_id in self._pending:
                self._place_known(candidate, self._pending[candidate.item_id], seen=seen)
            elif candidate.item_id in known:
                self._place_known(candidate, known[candidate.item_id], seen=seen)
            else:
                self._place_new(candidate, seen=seen)
            self._send_if_full()

    def _as_before(self, waiting: Sequence[tuple[Candidate, dict[str, str]]]) -> list[tuple[Candidate, dict[str, str]]]:
        """Return the candidates; a row that reading version 1 made an item of, under the same key, is that item still.

        Its bytes are stored anew, as the declared columns read them; what was frozen with the old ones keeps those.
        """
        former = [one.former_id for one, _ in waiting if one.former_id is not None]
        items = self._items.get(self._target.project, former) if former else {}
        found = []
        for candidate, seen in waiting:
            before = items.get(candidate.former_id or "")
            if before is not None and (before.key, before.origin) == (candidate.key, "source"):
                self.num_reread += 1
                candidate = dataclasses.replace(candidate, item_id=before.item_id)  # noqa: PLW2901
                if before.content_id != candidate.content_id:
                    self._draft.renewed.append(candidate)
                    self._draft.other_bytes += len(candidate.data)
            found.append((candidate, seen))
        return found

    def _place_new(self, candidate: Candidate, *, seen: dict[str, str]) -> None:
        draft = self._draft
        if len(candidate.data) <= SMALL_BYTES:
            draft.packed.append(candidate)
            draft.pack_bytes += len(candidate.data)
        else:
            draft.single.append(candidate)
            draft.other_bytes += len(candidate.data)
        draft.seen.update(seen)
        self._pending[candidate.item_id] = candidate.label
        self.num_labeled += candidate.label is not None

    def _place_known(self, candidate: Candidate, label: str | None, *, seen: dict[str, str]) -> None:
        if candidate.label is not None and label is not None and candidate.label != label:
            reason = (
                f"equal bytes must have one label (got {candidate.label!r}; {candidate.item_id[:12]} has {label!r}). "
                "Decide which one is right and remove the other file or row."
            )
            self.refuse(Refusal(candidate.key, candidate.item_id, "LABEL_CONFLICT", reason), seen=seen)
            return
        self.num_known += 1
        self._draft.seen.update(seen)
        if candidate.label is not None and label is None:
            self._draft.labels[candidate.item_id] = candidate.label
            self._pending[candidate.item_id] = candidate.label
            self.num_labeled += 1

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
        self.num_new += self._items.record(self._fence, chunk)
        if chunk.items:
            crash_point("ingest.put.recorded")
        if chunk.quarantined:
            crash_point("ingest.quarantine.recorded")
        for candidate in (*draft.packed, *draft.single):
            self._pending.pop(candidate.item_id, None)
        for item_id in draft.labels:
            self._pending.pop(item_id, None)


def _store(draft: _Draft, *, target: Target, store: ObjectStore) -> Chunk:
    """Store a chunk's bytes and return what to record."""
    items: list[Item] = []
    renewed: list[Item] = []
    if draft.renewed:
        crash_point("ingest.put.before")
        renewed = _put_pack(draft.renewed, target=target, store=store)
    if draft.packed or draft.single:
        crash_point("ingest.put.before")
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
    object_key = f"items/{target.project}/{candidate.content_id[:2]}/{candidate.content_id}"
    store.put(object_key, candidate.data, content_type=candidate.media_type)
    return _item(candidate, Location(object_key, 0, len(candidate.data)), target=target)


def _put_refused(refused: Sequence[Refusal], *, target: Target, store: ObjectStore) -> list[Quarantined]:
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
