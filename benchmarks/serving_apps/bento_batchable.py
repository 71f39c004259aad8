"""BentoML as its documentation shows it, with adaptive batching."""

import bentoml

from benchmarks.serving_apps.common import MAX_BATCH, from_text, load, predict


@bentoml.service
class Batchable:
    def __init__(self) -> None:
        self.model = load()

    @bentoml.api(batchable=True, max_batch_size=MAX_BATCH)
    def predict(self, items: list[str]) -> list[list[float]]:
        return predict(self.model, [from_text(item) for item in items])
