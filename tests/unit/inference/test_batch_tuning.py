"""The size of a pass comes from measurements."""

import json

import pytest

from bento_services.inference.batch_tuning import (
    TUNING_NAME,
    Tuning,
    choose,
    load_tuning,
    measure,
    save_tuning,
    warm_sizes,
)
from tests.unit.inference.inference_model import Doubles


class Timed(Doubles):
    """A model on a clock of its own: a pass takes `fixed` and `each` per item."""

    def __init__(self, *, fixed, each):
        super().__init__()
        self.fixed, self.each, self.now = fixed, each, 0.0

    def predict(self, batch):
        self.now += self.fixed + self.each * len(batch)
        return super().predict(batch)


def measured(**times):
    model = Timed(**times)
    return measure(model, clock=lambda: model.now)


def test_times_are_per_size_up_to_the_budget():
    assert measured(fixed=0.01, each=0.001) == pytest.approx(
        {1: 0.011, 2: 0.012, 4: 0.014, 8: 0.018, 16: 0.026, 32: 0.042, 64: 0.074}
    )
    assert list(measured(fixed=0.0, each=0.02)) == [1, 2, 4, 8]


@pytest.mark.parametrize(
    ("times", "size", "queue"),
    [
        ({"fixed": 0.01, "each": 0.001}, 64, 864),
        ({"fixed": 0.001, "each": 0.005}, 4, 190),  # 8 would bring 2 % more
        ({"fixed": 0.0, "each": 2**-10}, 1, 1024),
        ({"fixed": 0.5, "each": 0.1}, 1, 128),  # nothing fits the budget
        ({"fixed": 0.001, "each": 1e-6}, 64, 4096),
    ],
)
def test_the_smallest_size_near_the_best_throughput_is_chosen(times, size, queue):
    tuning = choose(measured(**times))
    assert (tuning.max_batch_size, tuning.max_queue) == (size, queue)


def test_a_size_that_is_slower_per_item_is_not_chosen():
    assert choose({16: 0.012, 32: 0.022, 64: 0.09}).max_batch_size == 32


def test_a_tuning_is_kept_beside_the_model(tmp_path):
    tuning = choose(measured(fixed=0.01, each=0.001))
    save_tuning(tuning, tmp_path)
    assert load_tuning(tmp_path) == tuning


@pytest.mark.parametrize(
    "change",
    [
        {"max_batch_size": 0},
        {"max_batch_size": 10**9},
        {"max_queue": 3},
        {"max_queue": None},
        {"format_version": 2},
        {"seconds_by_size": []},
    ],
)
def test_a_missing_or_senseless_tuning_is_the_default(tmp_path, change):
    assert load_tuning(tmp_path) == Tuning()
    save_tuning(Tuning(8, 64, {8: 0.1}), tmp_path)
    document = json.loads((tmp_path / TUNING_NAME).read_text())
    (tmp_path / TUNING_NAME).write_text(json.dumps(document | change))
    assert load_tuning(tmp_path) == Tuning()
    (tmp_path / TUNING_NAME).write_text("{")
    assert load_tuning(tmp_path) == Tuning()


def test_every_size_that_can_occur_is_warmed():
    assert warm_sizes(5) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(("times", "here"), [({1: 0.002}, True), ({1: 0.02}, False), ({}, False)])
def test_a_lone_item_is_predicted_in_the_event_loop_only_where_it_is_quick(times, here):
    assert Tuning(seconds_by_size=times).lone_here is here


def test_a_tuning_of_an_earlier_version_is_read(tmp_path):
    """It named how long a pass waits for those who come again."""
    save_tuning(Tuning(8, 64, {8: 0.1}), tmp_path)
    document = json.loads((tmp_path / TUNING_NAME).read_text()) | {"linger_seconds": 0.002}
    assert load_tuning(tmp_path, text=json.dumps(document)) == Tuning(8, 64, {8: 0.1})
