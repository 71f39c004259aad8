"""One item's failure stays that item's."""

import math

import numpy as np
import pytest

from bento_services.inference.isolated_prediction import predict_rows, probe
from bento_services.inference.responses import MODEL_FAILED
from tests.unit.inference.inference_model import Doubles, items


def test_rows_come_in_the_order_of_their_items():
    assert predict_rows(Doubles(), items(0.25, 0.5)) == [[0.75, 0.25], [0.5, 0.5]]


def test_one_poisoned_item_of_many_fails_alone_at_the_cost_of_halves():
    model = Doubles(poison=3.0)
    rows = predict_rows(model, items(*range(8)))
    assert [number for number, row in enumerate(rows) if row is MODEL_FAILED] == [3]
    assert rows[4] == [-3.0, 4.0]
    assert model.batches == [8, 4, 2, 2, 1, 1, 4]


def test_what_does_not_fit_into_memory_is_answered_in_parts():
    model = Doubles(memory=2)
    rows = predict_rows(model, items(*range(8)))
    assert [row[1] for row in rows] == [float(number) for number in range(8)]
    assert model.batches == [8, 4, 2, 2, 4, 2, 2]
    assert model.recoveries == 3


def test_a_failed_pass_holds_nothing_while_its_halves_run():
    alive = []

    class Big:
        def __del__(self):
            alive.remove(id(self))

    class Holding(Doubles):
        def predict(self, batch):
            if len(batch) == 1:
                assert alive == []
                return super().predict(batch)
            held = Big()
            alive.append(id(held))
            raise MemoryError

    assert predict_rows(Holding(), items(0.0, 1.0)) == [[1.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize(
    "answer",
    [
        lambda values: [[math.nan, 1.0]] * len(values),
        lambda values: [[math.inf, 0.0]] * len(values),
        lambda values: [[1.0]] * len(values),
        lambda values: [[0.5, 0.5]] * (len(values) + 1),
        lambda _values: np.zeros((0, 2)),
    ],
)
def test_an_answer_without_sense_is_no_answer(answer):
    assert predict_rows(Doubles(answer=answer), items(0.1)) == [MODEL_FAILED]
    assert probe(Doubles(answer=answer)) is False


def test_readiness_is_a_prediction():
    assert probe(Doubles()) is True
    assert probe(Doubles(poison=0.5)) is False
