"""The installation's secrets: generated once into files that only the owner can read."""

from __future__ import annotations

import base64
import datetime as dt
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path

from pipeline_tasks.core.atomic_files import replace_file
from pipeline_tasks.stack.store_identity import new_identity

AIRFLOW_ROLES: Mapping[str, str] = {"admin": "admin", "alice": "user", "ops": "op", "viewer": "viewer"}

_BYTES = 32


def _hex_token() -> str:
    return secrets.token_hex(20)


def _password() -> str:
    return secrets.token_urlsafe(18).replace("-", "a").replace("_", "b")


def _signing_key() -> str:
    from pipeline_tasks.catalog.signatures import new_key

    return new_key(dt.datetime.now(dt.UTC))


def _fernet_key() -> str:
    return base64.urlsafe_b64encode(secrets.token_bytes(_BYTES)).decode()


GENERATORS: Mapping[str, Callable[[], str]] = {
    **{f"{user}_access_key": lambda: secrets.token_hex(10) for user in ("s3", "label_studio_s3")},
    **{f"{user}_secret_key": _hex_token for user in ("s3", "label_studio_s3")},
    **{f"s3_jwt_{part}_{right}": _hex_token for part in ("volume", "filer") for right in ("write", "read")},
    "s3_identity": new_identity,
    "label_studio_password": _password,
    "label_studio_token": _hex_token,
    "label_studio_secret_key": lambda: secrets.token_hex(_BYTES),
    "airflow_fernet_key": _fernet_key,
    "airflow_api_secret": lambda: secrets.token_hex(_BYTES),
    "airflow_jwt_secret": lambda: secrets.token_hex(_BYTES),
    "webhook_secret": lambda: secrets.token_hex(_BYTES),
    "signing_key": _signing_key,
    "split_key": lambda: secrets.token_hex(_BYTES),
    "inference_key": lambda: secrets.token_hex(_BYTES),
    "gateway_api_key": lambda: secrets.token_hex(_BYTES),
    "gateway_admin_key": lambda: secrets.token_hex(_BYTES),
    **{f"airflow_{user}_password": _password for user in AIRFLOW_ROLES},
}


def ensure_secrets(directory: Path) -> dict[str, str]:
    """Return every secret of the stack by name, generating those that have no file yet (mode 600)."""
    return {name: ensure_secret(directory, name) for name in GENERATORS}


def ensure_secret(directory: Path, name: str) -> str:
    """Return one secret, generated at the first call; unknown names (an annotator's password) get a password."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / name
    try:
        return _read(path)
    except FileNotFoundError:
        return _create(path, GENERATORS.get(name, _password)())


def write_private(path: Path, text: str) -> None:
    """Replace a file in one step with text that only the owner can read."""
    replace_file(path, text.encode(), mode=0o600)


def _read(path: Path) -> str:
    text = path.read_text().strip()
    if not text:  # a box that died before the bytes reached the disk
        path.unlink()
        raise FileNotFoundError(path)
    return text


def _create(path: Path, value: str) -> str:
    """Write the secret whole or not at all; the first of two writers wins."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    write_private(temporary, f"{value}\n")
    try:
        os.link(temporary, path)
    except FileExistsError:
        return _read(path)
    else:
        return value
    finally:
        temporary.unlink()
