"""The golden requests of a release on this machine: a rollback needs them while the object store is away."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
import logging
from collections.abc import Sequence
from pathlib import Path

from pipeline_tasks.contracts import ReleaseRef, canonical_json, sha256_hex
from pipeline_tasks.core.crash_points import crash_point
from pipeline_tasks.deployment.golden_requests import GoldenAnswer
from pipeline_tasks.deployment.release import GoldenItem
from pipeline_tasks.stack.secrets import write_private

logger = logging.getLogger(__name__)


def keep_golden(home: Path, release: ReleaseRef, items: Sequence[GoldenItem]) -> None:
    """Write the requests and the answers that a release was checked with into the home, with their digest."""
    document = [
        {**dataclasses.asdict(item), "payload": base64.b64encode(item.payload).decode("ascii")} for item in items
    ]
    body = canonical_json(document).decode()
    path = _path(home, release)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        crash_point("ship.golden.before")
        write_private(path, f"{sha256_hex(body.encode())}\n{body}")
        crash_point("ship.golden.after")
    except OSError as error:  # the object store has them: a full disk must not stop a release
        logger.warning("the golden requests of %s are not kept here: %s", release.bento_tag, error)


def kept_golden(home: Path, release: ReleaseRef) -> list[GoldenItem] | None:
    """Return what was kept of a release; None if it is not there, or not whole."""
    try:
        digest, _, body = _path(home, release).read_text().partition("\n")
        if sha256_hex(body.encode()) != digest:
            return None
        return [_item(row) for row in json.loads(body)]
    except (OSError, ValueError, TypeError, KeyError, binascii.Error):
        return None


def _item(fields: dict[str, object]) -> GoldenItem:
    expected = GoldenAnswer(**fields["expected"])  # type: ignore[arg-type]
    return GoldenItem(base64.b64decode(str(fields["payload"])), str(fields["media_type"]), expected)


def _path(home: Path, release: ReleaseRef) -> Path:
    return home / "serving" / "golden" / release.project / f"{release.release_id}.json"
