"""From a model's probabilities to the answer that the business gets: pure functions of the route's settings."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from bento_services.gateway.routing.inference_client import Scores
from pipeline_tasks.contracts import ServingSettings

if TYPE_CHECKING:
    from bento_services.gateway.api.schemas import PredictionBody

DIGITS = 6


@dataclasses.dataclass(frozen=True, slots=True)
class Finished:
    """An answer, and beside it what the model alone would have said: live quality is measured on that."""

    model_label: str
    model_confidence: float
    label: str | None  # None: abstained
    confidence: float
    business_label: str | None
    top: tuple[tuple[str, float], ...]
    needs_review: bool

    def answer(self, prediction_id: str, model_version: str) -> PredictionBody:
        """Return what the caller gets."""
        return {
            "prediction_id": prediction_id,
            "model_version": model_version,
            "label": self.label,
            "confidence": self.confidence,
            "business_label": self.business_label,
            "abstained": self.label is None,
            "top": [{"label": name, "confidence": value} for name, value in self.top],
            "needs_review": self.needs_review,
        }


def finish(scores: Scores, settings: ServingSettings) -> Finished:
    """Return the most probable class that reaches its threshold, or none: then a person looks.

    The confidence is the chosen class's probability, 0 to 1, or the best class's where none is chosen. Equal
    probabilities are ordered by name, so that an answer does not depend on the order of the classes.
    """
    # The model's sum is 1 but for rounding: a probability may lie a little above 1.
    shares = [min(value, 1.0) for value in scores.probabilities]
    ranked = sorted(zip(shares, scores.labels, strict=True), key=lambda pair: (-pair[0], pair[1]))
    fitting = [pair for pair in ranked if pair[0] >= max(settings.thresholds.get(pair[1], 0.0), settings.abstain_below)]
    confidence, label = fitting[0] if fitting else (ranked[0][0], None)
    return Finished(
        model_label=ranked[0][1],
        model_confidence=round(ranked[0][0], DIGITS),
        label=label,
        confidence=round(confidence, DIGITS),
        business_label=None if label is None else settings.business_labels.get(label, label),
        top=tuple((name, round(value, DIGITS)) for value, name in ranked[: settings.top_k]),
        needs_review=label is None or confidence < settings.review_below,
    )
