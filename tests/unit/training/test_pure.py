"""The pure parts of training: inner split, weights, schedule, metrics, keys, tuning spaces."""

import dataclasses
import json

import numpy as np
import optuna
import pyarrow as pa
import pytest
import torch

from pipeline_tasks.contracts import Location
from pipeline_tasks.errors import DataCorrupt, GateClosed
from pipeline_tasks.models.base import Choice, FloatRange, IntRange
from pipeline_tasks.training.dataset import class_indices, inner_split, loss_weights, rows_of
from pipeline_tasks.training.decoded_inputs import batches_of
from pipeline_tasks.training.lr_schedule import one_cycle
from pipeline_tasks.training.metrics import validation_metrics
from pipeline_tasks.training.training_key import TrainingKey
from pipeline_tasks.training.tuning import LOG_NAME, choose_params, distribution_of

ROW = {
    "item_id": "b",
    "label": "cat",
    "split": "train",
    "group_key": "g",
    "object_key": "packs/p",
    "offset": 3,
    "size_bytes": 4,
}


def test_rows_are_the_training_rows_in_the_order_of_their_ids():
    table = pa.Table.from_pylist(
        [ROW | {"weight": None}, ROW | {"item_id": "a", "weight": 0.5}, ROW | {"item_id": "c", "split": "exam"}]
    )
    rows = rows_of(table)
    assert [(row.item_id, row.weight) for row in rows] == [("a", 0.5), ("b", 1.0)]
    assert rows[0].location == Location("packs/p", 3, 4)


def test_a_manifest_without_a_column_names_it():
    table = pa.Table.from_pylist([{key: value for key, value in ROW.items() if key not in {"label", "offset"}}])
    with pytest.raises(DataCorrupt, match=r"got none named label, offset"):
        rows_of(table)


def test_classes_are_positions():
    rows = rows_of(pa.Table.from_pylist([ROW, ROW | {"item_id": "c", "label": "dog"}]))
    assert class_indices(rows, ("dog", "cat")).tolist() == [1, 0]


def test_a_group_is_never_on_both_sides_and_never_changes_sides():
    groups = [f"g{number // 3}" for number in range(600)]
    split = inner_split(groups, share=0.2)
    sides = [{groups[row] for row in side} for side in (split.train, split.validation)]
    assert not sides[0] & sides[1]
    assert len(split.train) + len(split.validation) == 600
    assert 0.1 < len(split.validation) / 600 < 0.3
    grown = inner_split([*groups, *(f"new{number}" for number in range(300))], share=0.2)
    assert [row for row in grown.validation if row < 600] == split.validation.tolist()


@pytest.mark.parametrize("share", [1e-9, 1 - 1e-9])
def test_both_sides_have_at_least_one_group(share):
    split = inner_split(["a", "a", "b"], share=share)
    assert len(split.train) > 0
    assert len(split.validation) > 0


def test_one_group_cannot_be_divided():
    with pytest.raises(GateClosed, match=r"at least 2 groups \(got 1\)") as caught:
        inner_split(["a", "a"], share=0.5)
    assert caught.value.code == "TOO_FEW_GROUPS"


def test_balanced_weights_give_each_class_the_same_sum():
    targets = np.array([0, 0, 0, 1])
    ones = np.ones(4, np.float32)
    weights = loss_weights(targets, ones, num_classes=3, balanced=True)
    assert weights.tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2.0])
    assert loss_weights(targets, ones, num_classes=3, balanced=False) is ones


def test_batches_are_even():
    assert [len(batch) for batch in batches_of(np.arange(450), batch_size=64)] == [57, 57, 56, 56, 56, 56, 56, 56]
    assert [batch.tolist() for batch in batches_of(np.arange(2), batch_size=64)] == [[0, 1]]


@pytest.mark.parametrize("num_steps", [10, 90, 1000])
def test_the_schedule_is_torchs_one_cycle(num_steps):
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([parameter], lr=0.1)
    reference = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=num_steps)
    for step in range(num_steps):
        rate, beta = one_cycle(step, num_steps=num_steps, peak=0.1)
        group = optimizer.param_groups[0]
        assert rate == pytest.approx(group["lr"], rel=1e-6)
        assert beta == pytest.approx(group["betas"][0], rel=1e-6)
        optimizer.step()
        if step < num_steps - 1:
            reference.step()


@pytest.mark.parametrize("num_steps", [1, 2, 3])
def test_the_schedule_stands_few_steps(num_steps):
    assert all(0 < one_cycle(step, num_steps=num_steps, peak=1.0)[0] <= 1.0 for step in range(num_steps))


def test_metrics_by_hand():
    probabilities = np.array([[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.2, 0.7, 0.1]], np.float32)
    metrics = validation_metrics(probabilities, np.array([0, 1, 1, 1]), ("a", "b", "c"))
    assert (metrics["num_items"], metrics["accuracy"]) == (4, 0.75)
    assert metrics["per_class"]["b"] | {"recall_interval": []} == {
        "num_items": 3,
        "precision": 1.0,
        "recall": 0.666667,
        "recall_interval": [],
        "f1": 0.8,
    }
    assert metrics["per_class"]["a"]["precision"] == 0.5
    assert metrics["per_class"]["c"]["num_items"] == 0
    assert metrics["per_class"]["c"]["recall_interval"] == [0.0, 1.0]
    assert metrics["accuracy_interval"] == pytest.approx([0.3006, 0.9544], abs=5e-5)
    assert metrics["macro_f1"] == pytest.approx((0.8 + 2 / 3) / 2, abs=1e-6)
    assert metrics["log_loss"] == pytest.approx(-np.log([0.8, 0.3, 0.8, 0.7]).mean(), abs=1e-6)


KEY = TrainingKey(
    project="p",
    snapshot_id="s",
    classes=("a", "b"),
    recipe="image_cnn",
    recipe_digest="d",
    params={"width": 2},
    tune=None,
    seed=0,
    threads=2,
    lock_hash="l",
    warm_start=None,
)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(TrainingKey)])
def test_every_field_of_the_key_makes_another_version(field):
    changed = {"classes": ("b", "a"), "params": {"width": 3}, "tune": {"trials": 1}, "seed": 1, "threads": 1}
    other = dataclasses.replace(KEY, **{field: changed.get(field, "other")})
    assert other.version != KEY.version
    assert len(KEY.version) == 16


def test_a_space_is_widened_to_hold_the_projects_value():
    distributions = optuna.distributions
    wide = distribution_of(FloatRange(0.1, 1.0, log=True), default=5.0)
    assert wide == distributions.FloatDistribution(0.1, 5.0, log=True)
    assert distribution_of(FloatRange(0.1, 1.0, log=True), default=0.0) == distributions.FloatDistribution(0.0, 1.0)
    assert distribution_of(IntRange(8, 32, log=True), default=4) == distributions.IntDistribution(4, 32, log=True)
    assert distribution_of(Choice((1, 2)), default=3) == distributions.CategoricalDistribution((1, 2, 3))
    with pytest.raises(TypeError, match="got tuple"):
        distribution_of((0, 1), default=0)


SPACE = {"x": FloatRange(0.0, 1.0)}


def search(folder, *, trials=6, stop_after=None, seen=None):
    """Look for x = 0.7 from the default 0.0; `stop_after` dies inside a trial."""

    def score(number, params, report):
        if number == stop_after:
            raise KeyboardInterrupt
        if seen is not None:
            seen.append(params["x"])
        value = 1 - abs(params["x"] - 0.7)
        for epoch in (1, 2):
            report(epoch, value)
        return value

    return choose_params(SPACE, {"x": 0.0, "y": "kept"}, trials=trials, seed=1, folder=folder, score=score)


def test_tuning_finds_better_than_the_default_and_keeps_the_rest(tmp_path):
    params, records = search(tmp_path)
    assert records[0].params == {"x": 0.0}
    assert abs(params["x"] - 0.7) < 0.3
    assert params["y"] == "kept"
    assert len(records) == 6


def test_a_killed_search_ends_with_the_same_choice(tmp_path):
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole = search(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "killed", stop_after=4)
    assert len(json.loads((tmp_path / "killed" / LOG_NAME).read_text())) == 4
    seen = []
    assert search(tmp_path / "killed", seen=seen) == whole
    assert len(seen) == 2


def test_a_trial_below_the_median_is_pruned(tmp_path):
    values = [0.9, 0.8, 0.85, 0.1]

    def score(number, _params, report):
        report(1, values[number])
        report(2, values[number])
        return values[number]

    _, records = choose_params(SPACE, {"x": 0.5}, trials=4, seed=0, folder=tmp_path, score=score)
    assert [record.state for record in records] == ["complete", "complete", "complete", "pruned"]


def test_trials_that_all_explode_close_the_gate(tmp_path):
    def score(_number, _params, _report):
        raise GateClosed("no", code="NON_FINITE")

    with pytest.raises(GateClosed, match="at least one of 2 trials") as caught:
        choose_params(SPACE, {"x": 0.5}, trials=2, seed=0, folder=tmp_path, score=score)
    assert caught.value.code == "NON_FINITE"
