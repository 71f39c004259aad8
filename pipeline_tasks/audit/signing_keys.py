"""The keys that sign the ledger: the stack's own, and those that somebody trusts beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline_tasks.catalog.ledger import LedgerEntry
from pipeline_tasks.catalog.signatures import PublicKey, num_unsigned, parse_key, parse_public_keys
from pipeline_tasks.core.settings import Settings
from pipeline_tasks.errors import ConfigError

TRUSTED_KEYS = "trusted_keys.pem"  # in the home: public keys of before, where the secrets were lost or replaced


def known_keys(settings: Settings, file: Path | None) -> list[PublicKey]:
    """Return the keys of a file, or without one the stack's own and those of TRUSTED_KEYS.

    Raises:
        ConfigError: the file is not there, or holds no key.
    """
    trusted = settings.home / TRUSTED_KEYS
    if file is not None:
        return read_keys(file)
    own = [parse_key(settings.signing_key).public] if settings.signing_key else []
    return [*own, *(parse_public_keys(trusted.read_text()) if trusted.is_file() else ())]


def read_keys(file: Path) -> list[PublicKey]:
    """Return the public keys of a file; ConfigError where it is not there, or holds none."""
    if not file.is_file():
        raise ConfigError(f"--public-key must be a file (got {file}, which is none).")
    return parse_public_keys(file.read_text())


def save_public_key(settings: Settings, file: Path) -> PublicKey:
    """Write the public part of the stack's own key into a file; ConfigError where there is no key."""
    if settings.signing_key is None:
        raise ConfigError("the stack must have a signing key (got none). `dethrone up` makes one.")
    public = parse_key(settings.signing_key).public
    file.write_text(public.as_text())
    return public


def signatures_text(entries: Sequence[LedgerEntry], keys: Sequence[PublicKey]) -> str:
    """Return in words how much of the ledgers is signed."""
    if not keys:
        return "Signatures were not checked: there is no key. `dethrone up` makes one, or give --public-key FILE."
    unsigned = num_unsigned(entries)
    signed = f"{len(entries) - unsigned} of {len(entries)} entries of the ledgers are signed"
    return f"{signed}; {unsigned} are from before the stack had a key." if unsigned else f"{signed}."
