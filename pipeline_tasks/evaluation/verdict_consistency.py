"""Contradictions between a verdict's row in the catalog and its document. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline_tasks.catalog.verdicts import VerdictRecord


def contradictions(record: VerdictRecord, document: Mapping[str, Any]) -> Iterator[str]:
    """Tell what the row says otherwise than verdict.json; nothing where both speak of the same comparison.

    A row alone must not ship: it could point at the genuine document of another project or another contender.
    """
    ref = record.ref
    try:
        facts = _facts(document, verdict_id=ref.verdict_id)
    except (LookupError, TypeError) as error:
        yield f"verdict.json must hold a question and a decision (got {type(error).__name__}: {error})"
        return
    said = {
        "project": ref.project,
        "answer": ref.answer,
        "contender": ref.contender_version,
        "champion": ref.champion_version,
        "exams": list(record.exam_ids),
        "object_key": ref.object_key.rstrip("/"),
    }
    for name, value in said.items():
        if value != facts[name]:
            yield f"{name}: the catalog says {value!r}, the document {facts[name]!r}"


def judged_weights(data: bytes) -> str | None:
    """Return the SHA-256 of the weights that a verdict.json judged; None if it does not say."""
    try:
        return str(json.loads(data)["question"]["contender"]["digest"])
    except (ValueError, LookupError, TypeError):
        return None


def _facts(document: Mapping[str, Any], *, verdict_id: str) -> dict[str, Any]:
    question = document["question"]
    champion = question["champion"]
    return {
        "project": question["project"],
        "answer": document["decision"]["answer"],
        "contender": question["contender"]["version"],
        "champion": champion["version"] if champion is not None else None,
        "exams": [exam["exam_id"] for exam in question["exams"]],
        "object_key": f"verdicts/{question['project']}/{verdict_id}",
    }
