"""BentoML as its documentation shows it, without batches."""

import bentoml

from benchmarks.serving_apps.common import from_text, load, predict


@bentoml.service
class Stock:
    def __init__(self) -> None:
        self.model = load()

    @bentoml.api
    def predict(self, item: str) -> list[float]:
        return predict(self.model, [from_text(item)])[0]
