"""Signatures of ledger entries: Ed25519 over a DSSE envelope that holds an in-toto statement. Pure.

Source: github.com/secure-systems-lab/dsse (PAE), github.com/in-toto/attestation (Statement v1).
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import datetime as dt
import re
from collections.abc import Iterator, Sequence

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from pipeline_tasks.catalog.ledger import LedgerEntry, entry_json, name_of
from pipeline_tasks.contracts import canonical_json, sha256_hex
from pipeline_tasks.errors import ConfigError

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:dethrone:ledger-entry:1"
_PEM = re.compile(
    r"^# since (\S+)\n(-----BEGIN PUBLIC KEY-----\n.*?\n-----END PUBLIC KEY-----)$", re.MULTILINE | re.DOTALL
)


@dataclasses.dataclass(frozen=True, slots=True)
class PublicKey:
    """Verifier of signatures; entries from `since` on must have one."""

    key: Ed25519PublicKey
    since: dt.datetime

    @property
    def key_id(self) -> str:
        return sha256_hex(self.key.public_bytes_raw())[:16]

    def as_text(self) -> str:
        """Return the key as PEM, below a line that says since when it signs."""
        pem = self.key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        return f"# since {self.since.isoformat()}\n{pem.decode()}"


@dataclasses.dataclass(frozen=True, slots=True)
class Signer:
    """Signer of entries: the content of the secret file `signing_key`."""

    key: Ed25519PrivateKey = dataclasses.field(repr=False)
    since: dt.datetime

    @property
    def public(self) -> PublicKey:
        return PublicKey(self.key.public_key(), self.since)

    def __call__(self, entry: LedgerEntry) -> str:
        """Return `key id:signature`."""
        return f"{self.public.key_id}:{base64.b64encode(self.key.sign(_envelope(entry))).decode()}"


def new_key(now: dt.datetime) -> str:
    """Return the text of a new secret: since when it signs (seconds of the epoch), `k`, and the key in hexadecimal."""
    return f"{int(now.timestamp())}k{Ed25519PrivateKey.generate().private_bytes_raw().hex()}"


def parse_key(text: str) -> Signer:
    """Return what a secret's text signs with; ConfigError if it is none."""
    try:
        since, key = text.split("k")
        at = dt.datetime.fromtimestamp(int(since), dt.UTC)
        signer = Signer(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(key)), at)
    except (ValueError, OverflowError, OSError):
        raise ConfigError(
            "the secret signing_key must be a time and an Ed25519 key (got something else). Restore it from "
            "a backup, or remove it: `dethrone up` makes another one."
        ) from None
    return signer


def parse_public_keys(text: str) -> list[PublicKey]:
    """Return the keys of a file that `dethrone verify --save-public-key` wrote; several may stand one below another."""
    keys = []
    for since, pem in _PEM.findall(text):
        try:
            key = serialization.load_pem_public_key(pem.encode())
            at = dt.datetime.fromisoformat(since)
        except ValueError:
            continue
        if isinstance(key, Ed25519PublicKey) and at.tzinfo is not None:
            keys.append(PublicKey(key, at))
    if not keys:
        raise ConfigError(
            "--public-key must be a file with a line `# since TIME` and an Ed25519 key in PEM below it (got none). "
            "`dethrone verify --save-public-key FILE` writes it where the stack runs."
        )
    return keys


def signature_faults(entries: Sequence[LedgerEntry], keys: Sequence[PublicKey]) -> Iterator[str]:
    """Tell which entries of a chain do not have the signature that they must have; nothing without a key.

    An entry from before the stack had a key has none. From the first signed one on, and from the key's own time on, all
    must: one without was written past the stack.
    """
    by_id = {key.key_id: key for key in keys}
    since = min((key.since for key in keys), default=None)
    signed = False
    for entry in entries if since is not None else ():
        key_id, _, signature = (entry.signature or "").partition(":")
        if entry.signature is None:
            if signed or (since is not None and entry.at >= since):
                yield f"{name_of(entry)} must be signed (got no signature): it was written past the stack"
        elif key_id not in by_id:
            yield f"{name_of(entry)} must be signed by {', '.join(by_id)} (got {key_id}): another key wrote it"
        elif not _fits(by_id[key_id], entry, signature):
            yield f"{name_of(entry)} must have a signature that fits (got another): one of the two was changed"
        signed = signed or entry.signature is not None


def num_unsigned(entries: Sequence[LedgerEntry]) -> int:
    """Return how many entries have no signature: those from before the stack had a key."""
    return sum(entry.signature is None for entry in entries)


def _fits(public: PublicKey, entry: LedgerEntry, signature: str) -> bool:
    try:
        public.key.verify(base64.b64decode(signature, validate=True), _envelope(entry))
    except (InvalidSignature, binascii.Error):
        return False
    return True


def _envelope(entry: LedgerEntry) -> bytes:
    """Return what is signed: DSSE's pre-authentication encoding of a statement about the entry's hash."""
    facts = {name: value for name, value in entry_json(entry).items() if name != "signature"}
    subject = {"name": f"ledger/{entry.project}/{entry.sequence}", "digest": {"sha256": entry.entry_hash}}
    payload = canonical_json(
        {"_type": STATEMENT_TYPE, "subject": [subject], "predicateType": PREDICATE_TYPE, "predicate": facts}
    )
    return b"DSSEv1 %d %b %d %b" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)
