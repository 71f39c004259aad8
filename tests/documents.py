"""Verdict documents as far as the catalog's rows repeat them; a judged one has much more in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline_tasks.contracts import sha256_hex


def verdict_document(
    *,
    project: str = "fashion",
    contender: str = "new",
    champion: str | None = "old",
    exam_ids: Sequence[str] = ("exam2", "exam1"),
    answer: str = "promote",
    evidence: bytes = b"answers",
    weights: str = "digest",
    classes: Sequence[str] = (),
) -> dict[str, Any]:
    """Return a document that a row with these facts does not contradict."""
    return {
        "question": {
            "project": project,
            **({"project_classes": list(classes)} if classes else {}),
            "contender": {"version": contender, "digest": weights},
            "champion": None if champion is None else {"version": champion},
            "exams": [{"exam_id": exam_id} for exam_id in exam_ids],
        },
        "measured": {},
        "evidence": {"digest": sha256_hex(evidence)},
        "decision": {"answer": answer},
    }
