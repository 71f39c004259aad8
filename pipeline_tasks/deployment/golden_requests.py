"""Golden requests: the built server must answer as the offline path does. Pure comparison."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline_tasks.contracts import Item, Location, canonical_json
from pipeline_tasks.errors import printable

NUM_GOLDEN = 8
TOLERANCE = 1e-4
AMP_TOLERANCE = 0.02  # bfloat16 has 8 bits, and a GPU sums in another order for another batch size


@dataclasses.dataclass(frozen=True, slots=True)
class GoldenAnswer:
    """One item's probabilities, computed offline with the stored model version and its runtime; by class."""

    item_id: str
    probabilities: Mapping[str, float]
    tolerance: float = TOLERANCE
    asked: tuple[str, int, int, str] | None = None
    """Object key, offset, size and SHA-256 of the bytes: an item's are stored anew when its columns change."""


@dataclasses.dataclass(frozen=True, slots=True)
class InfraCheck:
    """The result of the check: how many requests, the largest difference, and each failure in words."""

    num_requests: int
    max_difference: float
    tolerance: float
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return self.num_requests > 0 and not self.failures


def tolerance_of(runtime: str) -> float:
    """Return how far a server's probabilities may lie from the offline ones of the same runtime."""
    return AMP_TOLERANCE if runtime == "amp" else TOLERANCE


def spread_over(item_ids: Sequence[str]) -> list[str]:
    """Return the items of an exam that are asked, from all over it."""
    return list(item_ids[:: max(1, len(item_ids) // NUM_GOLDEN)][:NUM_GOLDEN])


def as_asked(item: Item, answer: GoldenAnswer) -> Item:
    """Return an item with the bytes that it had when its answer was computed."""
    if answer.asked is None:
        return item
    object_key, offset, size_bytes, content = answer.asked
    return dataclasses.replace(item, location=Location(object_key, offset, size_bytes), content_id=content)


def golden_bytes(answers: Sequence[GoldenAnswer]) -> bytes:
    """Return the answers as they are stored with a release."""
    return canonical_json([dataclasses.asdict(answer) for answer in answers])


def golden_answers(data: bytes) -> list[GoldenAnswer]:
    """Return what `golden_bytes` wrote."""
    return [
        GoldenAnswer(**answer | ({"asked": tuple(answer["asked"])} if answer.get("asked") else {}))
        for answer in json.loads(data)
    ]


def compare_golden(
    expected: Sequence[GoldenAnswer], served: Mapping[str, Mapping[str, Any] | str], *, model_version: str
) -> InfraCheck:
    """Compare served answers with offline ones, field by field.

    `served` maps an item id to the server's JSON body, or to an error text where it did not answer 200.
    """
    failures: list[str] = []
    worst = 0.0
    for golden in expected:
        body = served.get(golden.item_id, "no answer")
        if isinstance(body, str):
            failures.append(f"{golden.item_id[:12]}: {body}")
            continue
        difference, problem = _differences(golden, body, model_version=model_version)
        worst = max(worst, difference)
        if problem:
            failures.append(f"{golden.item_id[:12]}: {problem}")
    tolerance = max((golden.tolerance for golden in expected), default=TOLERANCE)
    return InfraCheck(len(expected), worst, tolerance, tuple(failures))


def _differences(golden: GoldenAnswer, body: Mapping[str, Any], *, model_version: str) -> tuple[float, str | None]:
    if body.get("model_version") != model_version:
        return 0.0, f"model_version must be {model_version} (got {printable(body.get('model_version'))})"
    try:
        got = dict(zip(body.get("labels", ()), map(float, body.get("probabilities", ())), strict=False))
    except (TypeError, ValueError):
        return 0.0, "labels and probabilities must be lists of texts and numbers (got others)"
    if set(got) != set(golden.probabilities):
        return 0.0, f"labels must be {sorted(golden.probabilities)} (got {printable(list(got))})"
    differences = [abs(got[label] - value) for label, value in golden.probabilities.items()]
    if not all(math.isfinite(value) for value in differences):
        return 0.0, "probabilities must be finite"
    worst = max(differences)
    allowed = golden.tolerance
    return worst, None if worst <= allowed else f"probabilities must agree within {allowed} (got {worst:.2g})"
