"""The side of train and exam that a group of items is on: fixed for ever by a keyed hash."""

from __future__ import annotations

import hmac

from pipeline_tasks.contracts import Split


def split_of(group_key: str, *, project: str, split_key: str, exam_share: float) -> Split:
    """Return `exam` for about `exam_share` of all group keys, always the same answer for the same one.

    Without the key nobody who sends data can choose the side.
    """
    message = f"{project}\0{group_key}".encode()
    digest = hmac.digest(split_key.encode(), message, "sha256")
    return "exam" if int.from_bytes(digest[:8], "big") < exam_share * 2**64 else "train"
