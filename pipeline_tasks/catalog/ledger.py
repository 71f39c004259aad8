"""The ledger's chain: what an entry says, how it hashes, and what is wrong with a chain. Pure.

Each project has one chain. An entry tells of one verdict, approval, release or route (a promotion, a rollback, a step
of a rollout, the start or end of an experiment), or of a look at an open exam's figures. It carries the hash of the
evidence behind it and of the entry before it, and is written in the transaction of the row it speaks of. A seal holds
the marks of the rows of all other tables (`seals.py`). The chain `*` tells of the API keys, issued and revoked.
The hash of verdict.json covers the hash of evidence.parquet, which stands in it. A signature covers an entry's hash.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from pipeline_tasks.contracts import content_id
from pipeline_tasks.errors import InputError

Kind = Literal["verdict", "approval", "release", "route", "key", "seal", "look"]
KINDS: tuple[Kind, ...] = (
    "verdict",
    "approval",
    "release",
    "route",
    "key",
    "seal",
    "look",
)  # the order of rows of one moment
KEYS = "*"  # the chain of the API keys
SHORT = 12

VERDICT_FACTS = (
    "answer",
    "champion_version",
    "contender_version",
    "exam_ids",
    "reasons",
    "policy_id",
    "object_key",
    "run_id",
)
APPROVAL_FACTS = ("verdict_id", "sequence", "decision", "by", "requested_by", "reason")
ROUTE_FACTS = (
    "generation",
    "commit_id",
    "parent_commit_id",
    "attempt",
    "action",
    "champion_version",
    "verdict_id",
    "actor",
    "reason",
)

NOTED_PREFIX = "ledger/"
NOTED = re.compile(rf"{NOTED_PREFIX}([^/]+)/([0-9]{{12}})-([0-9a-f]{{64}})")
RELEASE_FACTS = ("model_version", "verdict_id", "bento_tag", "bento_digest", "object_key", "run_id")
KEY_FACTS = ("project", "name", "sha256", "scopes")

WITHOUT_ROWS = ("seal", "look")  # the kinds whose entry is all that there is
NEVER_ADDED = ("report_digest",)
NO_TEXTS = ("exam_ids", "reasons", "sequence", "generation", "scopes", "tables")
MAY_BE_NONE = (("verdict", "champion_version"), ("approval", "requested_by"), ("route", "parent_commit_id"))


@dataclasses.dataclass(frozen=True, slots=True)
class Draft:
    """The draft of an entry; `evidence_digest` is the SHA-256 of the verdict.json that it stands on."""

    project: str
    kind: Kind
    subject: str
    body: Mapping[str, Any]
    evidence_digest: str | None
    at: dt.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class LedgerEntry(Draft):
    """A link of a project's chain: `entry_hash` covers everything but the signature, which is made of it.

    `previous_hash` is None in the first; `signature` where the stack had no key yet.
    """

    sequence: int
    previous_hash: str | None
    entry_hash: str
    signature: str | None = None


def verdict_draft(row: Mapping[Any, Any]) -> Draft:
    """Return what the ledger says of a row of `verdicts`; those of older releases do not name their report's digest."""
    body = {name: row[name] for name in VERDICT_FACTS}
    if row.get("report_digest") is not None:
        body["report_digest"] = row["report_digest"]
    return Draft(row["project"], "verdict", row["verdict_id"], body, row["digest"], row["created_at"])


def approval_draft(row: Mapping[Any, Any], *, evidence_digest: str | None) -> Draft:
    """Return what the ledger says of a row of `approvals`; the digest is that of the verdict answered to."""
    body = {name: row[name] for name in APPROVAL_FACTS}
    subject = f"{row['verdict_id']}/{row['sequence']}"
    return Draft(row["project"], "approval", subject, body, evidence_digest, row["at"])


def route_draft(row: Mapping[Any, Any], *, evidence_digest: str | None) -> Draft:
    """Return what the ledger says of a row of `routes`; `body_digest` covers the shares and the serving settings.

    `approval` is the project's `approval.when` at that time; older routes do not say it, and keep their hashes.
    """
    body = {name: row[name] for name in ROUTE_FACTS} | {"body_digest": content_id(row["body"])}
    rule = approval_rule_of(row)
    if rule is not None:
        body["approval"] = rule
    return Draft(row["project"], "route", row["commit_id"], body, evidence_digest, row["created_at"])


def release_draft(row: Mapping[Any, Any], *, evidence_digest: str | None) -> Draft:
    """Return what the ledger says of a row of `releases`; the infra check has the hash of the exported bento."""
    body = {name: row[name] for name in RELEASE_FACTS} | {"infra_digest": content_id(row["infra_check"])}
    return Draft(row["project"], "release", row["release_id"], body, evidence_digest, row["created_at"])


def key_drafts(row: Mapping[Any, Any]) -> Iterator[Draft]:
    """Yield what the ledger says of a row of `api_keys`: that it was issued, and where it was, that it was revoked."""
    yield Draft(KEYS, "key", row["key_id"], {name: row[name] for name in KEY_FACTS}, None, row["created_at"])
    if row["revoked_at"] is not None:
        yield Draft(KEYS, "key", f"{row['key_id']}/revoked", {}, None, row["revoked_at"])


def check_texts(draft: Draft) -> None:
    """Do nothing if what must be text is text: a database may keep another type as text, and then the hash differs.

    Raises:
        InputError: a fact, such as the reason of a rollback, is something else.
    """
    for name, value in draft.body.items():
        absent = value is None and (draft.kind, name) in MAY_BE_NONE
        if name not in NO_TEXTS and not absent and not isinstance(value, str):
            raise InputError(f"{name} of the {draft.kind} must be text (got {value!r}). Give it as a string.")


def approval_rule_of(row: Mapping[Any, Any]) -> str | None:
    """Return what a row of `routes` says of the project's `approval.when` at its time; None in older rows."""
    serving = row["body"].get("serving") if isinstance(row["body"], Mapping) else None
    rule = serving.get("approval") if isinstance(serving, Mapping) else None
    return None if rule is None else str(rule)


def link(draft: Draft, head: LedgerEntry | None) -> LedgerEntry:
    """Return the entry that follows the head of a chain."""
    facts = {field.name: getattr(draft, field.name) for field in dataclasses.fields(Draft)}
    unsealed = LedgerEntry(
        **facts,
        sequence=head.sequence + 1 if head else 1,
        previous_hash=head.entry_hash if head else None,
        entry_hash="",
    )
    return dataclasses.replace(unsealed, entry_hash=hash_of(unsealed))


def entry_json(entry: LedgerEntry) -> dict[str, Any]:
    """Return an entry as JSON values, without a signature where it has none: what `dethrone history` prints."""
    facts = {field.name: getattr(entry, field.name) for field in dataclasses.fields(LedgerEntry)}
    facts |= {"body": dict(entry.body), "at": _time(entry.at)}
    return {name: value for name, value in facts.items() if (name, value) != ("signature", None)}


def hash_of(entry: LedgerEntry) -> str:
    """Return the SHA-256 of the canonical JSON of all that an entry says but its own hash and signature."""
    return hash_of_json(entry_json(entry))


def hash_of_json(facts: Mapping[str, Any]) -> str:
    """Return what `hash_of` does, of an entry's JSON values."""
    return content_id({name: value for name, value in facts.items() if name not in {"entry_hash", "signature"}})


def in_order(drafts: Iterable[Draft]) -> list[Draft]:
    """Return drafts in the order of their time; those of one moment as verdict, approval, route, by number and id."""

    def key(draft: Draft) -> tuple[dt.datetime, int, int, str]:
        number = draft.body.get("generation", draft.body.get("sequence", 0))
        return draft.at, KINDS.index(draft.kind), number, draft.subject

    return sorted(drafts, key=key)


def chain(drafts: Iterable[Draft]) -> list[LedgerEntry]:
    """Return the chain of a project's drafts, from its first entry on."""
    entries: list[LedgerEntry] = []
    for draft in drafts:
        entries.append(link(draft, entries[-1] if entries else None))
    return entries


def noted_key(entry: LedgerEntry) -> str:
    """Return where an entry is noted down in the object store: its key says all that a comparison needs."""
    return f"{NOTED_PREFIX}{entry.project}/{entry.sequence:012d}-{entry.entry_hash}"


def noted_in(keys: Iterable[str]) -> dict[str, list[tuple[int, str]]]:
    """Return (sequence, hash) by project of the entries that the keys of objects note down."""
    noted: dict[str, list[tuple[int, str]]] = {}
    for match in map(NOTED.fullmatch, keys):
        if match is not None:
            noted.setdefault(match[1], []).append((int(match[2]), match[3]))
    return noted


def name_of(entry: Draft) -> str:
    """Return how an entry, or a row that is told of, is called in messages."""
    name = f"{entry.kind} {_short_subject(entry)}"
    return f"entry {entry.sequence} ({name})" if isinstance(entry, LedgerEntry) else name


def chain_faults(entries: Sequence[LedgerEntry]) -> Iterator[str]:
    """Tell what was changed, removed, inserted or moved inside a chain; `entries` are ordered by sequence.

    A removed end leaves a sound chain: `row_faults` sees it, by the rows that have lost their entries; `noted_faults`
    does where the rows are gone too.
    """
    head: LedgerEntry | None = None
    told: dict[tuple[str, str], int] = {}
    for entry in entries:
        expected = head.sequence + 1 if head else 1
        if entry.sequence != expected:
            yield f"{name_of(entry)} must be entry {expected}: what stood between was removed"
        previous = head.entry_hash if head else None
        if entry.previous_hash != previous:
            after = name_of(head) if head else "nothing"
            yield (
                f"{name_of(entry)} must follow {after} with the hash {_short(previous)} "
                f"(got {_short(entry.previous_hash)}): one of the two was changed, removed, inserted or moved"
            )
        if hash_of(entry) != entry.entry_hash:
            yield (
                f"{name_of(entry)} must hash to {_short(entry.entry_hash)} (got {_short(hash_of(entry))}): "
                "it was changed"
            )
        first = told.setdefault((entry.kind, entry.subject), entry.sequence)
        if first != entry.sequence:
            yield f"{name_of(entry)} must be told once (got it in entry {first} too)"
        head = entry


def row_faults(entries: Sequence[LedgerEntry], drafts: Sequence[Draft]) -> Iterator[str]:
    """Tell where the ledger and the rows differ; `drafts` are what the rows would say today."""
    told = {(entry.kind, entry.subject): entry for entry in entries if entry.kind not in WITHOUT_ROWS}
    rows = {(draft.kind, draft.subject): draft for draft in drafts}
    for key, draft in rows.items():
        if key not in told:
            yield f"{_unwritten(draft)}: it was written past the ledger, or its entry was removed"
    for key, entry in told.items():
        if key not in rows:
            yield f"{name_of(entry)} must have its row in the catalog (got none): the row was removed or never there"
            continue
        for name, said, difference in _differences(entry, rows[key]):
            yield f"{name_of(entry)} says {name} {said!r}, its row says {difference!r}: one of the two was changed"


def anchor_faults(entries: Sequence[LedgerEntry], *, sequence: int, entry_hash: str) -> Iterator[str]:
    """Tell if a chain no longer holds an entry that was noted down elsewhere: all of it was written anew."""
    held = next((entry.entry_hash for entry in entries if entry.sequence == sequence), None)
    if held != entry_hash:
        yield (
            f"entry {sequence} must have the hash {entry_hash} that was noted down (got {held or 'no such entry'}): "
            "the ledger was rewritten or cut"
        )


def seals(entries: Iterable[LedgerEntry]) -> list[LedgerEntry]:
    """Return the seals of a chain, oldest first."""
    return [entry for entry in entries if entry.kind == "seal"]


def noted_faults(entries: Sequence[LedgerEntry], noted: Iterable[tuple[int, str]]) -> Iterator[str]:
    """Tell if entries that were noted down in the object store are not in the chain: its end, or all of it, is gone."""
    gone = sorted(set(noted) - {(entry.sequence, entry.entry_hash) for entry in entries})
    if gone:
        sequence, entry_hash = gone[0]
        yield (
            f"{len(gone)} of what the object store has noted down must be in the ledger (got none of it; first entry "
            f"{sequence}, {sequence:012d}-{entry_hash}): the ledger was rewritten or cut"
        )


def _unwritten(draft: Draft) -> str:
    subject = _short_subject(draft)
    if draft.kind != "route":
        return f"{draft.kind} {subject} must have an entry in the ledger (got none)"
    moved = f"generation {draft.body['generation']} (commit {subject}) made {draft.body['champion_version']} champion"
    return f"{moved} otherwise than by promote or rollback, without an entry in the ledger"


def _differences(entry: LedgerEntry, draft: Draft) -> Iterator[tuple[str, Any, Any]]:
    # Only what the entry tells: an entry that an older release wrote may tell less than this one would.
    # Its report's digest is no such thing: rows of older releases have none, and get none later.
    for name in (*entry.body, *(name for name in NEVER_ADDED if name in draft.body and name not in entry.body)):
        said = entry.body.get(name)
        if said != draft.body.get(name):
            yield name, said, draft.body.get(name)
    if entry.evidence_digest != draft.evidence_digest:
        yield "evidence", entry.evidence_digest, draft.evidence_digest
    if entry.at != draft.at:
        yield "time", _time(entry.at), _time(draft.at)


def _short_subject(draft: Draft) -> str:
    head, slash, number = draft.subject.partition("/")
    return f"{head[:SHORT]}{slash}{number}"


def _short(value: str | None) -> str:
    return value[:SHORT] if value else "none"


def _time(at: dt.datetime) -> str:
    return at.astimezone(dt.UTC).isoformat(timespec="microseconds")
