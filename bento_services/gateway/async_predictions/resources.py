"""Resources of asynchronous predictions: the local store, reviews and callbacks."""

from __future__ import annotations

import dataclasses

import anyio

from bento_services.gateway.async_predictions.callbacks import CallbackClient
from bento_services.gateway.async_predictions.reviews import Reviews
from bento_services.gateway.async_predictions.store import PredictionStore

MAX_REVIEW_LOOKS = 4


@dataclasses.dataclass(frozen=True, slots=True)
class AsyncResources:
    """The parts of reading a prediction later: the local store, what the catalog knows of people's answers, callbacks.

    `looks` keeps threads that a hanging catalog holds apart from those that decode items.
    """

    store: PredictionStore
    reviews: Reviews
    callbacks: CallbackClient
    looks: anyio.CapacityLimiter = dataclasses.field(default_factory=lambda: anyio.CapacityLimiter(MAX_REVIEW_LOOKS))
