"""Inputs of judging: exams, items and models, whole and in the order of their places, or a clear error."""

import dataclasses
import itertools
import json

import pytest

from pipeline_tasks.contracts import sha256_hex
from pipeline_tasks.errors import DataCorrupt, InputError, PermanentError
from pipeline_tasks.evaluation import scoring
from tests.unit.evaluation import support as s


def test_no_exam_is_a_clear_error(run):
    with pytest.raises(InputError, match=r"exams must hold at least one frozen exam \(got none\)") as caught:
        run(exams=[])
    assert caught.value.code == "EXAM_MISSING"


def test_a_missing_exam_is_a_clear_error(run, world, object_store):
    object_store.delete([world.exams[1].object_key])
    with pytest.raises(DataCorrupt, match=r"must hold the exam of epoch 2 \(got nothing\)"):
        run()


def test_an_exam_that_was_changed_is_refused(run, world, object_store):
    other = s.put_exam(object_store, epoch=2, labels=[*s.LABELS[:-1], "shirt"])
    object_store.put(world.exams[1].object_key, object_store.get(other.object_key))
    with pytest.raises(DataCorrupt, match="It was changed after it was frozen"):
        run()


def test_an_item_that_was_changed_is_refused(run, object_store):
    item_id = sha256_hex(s.payload(2, 5))
    key = f"items/fashion/{item_id[:2]}/{item_id}"
    object_store.corrupt(key)
    with pytest.raises(DataCorrupt, match=f"{key} must hold exam item {item_id} at offset 0"):
        run()


def test_an_exam_of_another_size_is_refused(run, world):
    lying = dataclasses.replace(world.exams[1], num_items=119)
    with pytest.raises(DataCorrupt, match="must hold the 119 items and labels of exam"):
        run(exams=[world.exams[0], lying])


def test_an_exam_item_that_a_model_cannot_decode_is_named(run, world, monkeypatch):
    def refuse(data):
        if data == s.payload(2, 3):
            raise InputError("truncated", code="IMAGE_TRUNCATED")
        return data

    monkeypatch.setattr(world.models["old"], "decode", refuse)
    document = json.loads(world.store.get(f"{run().object_key}/verdict.json"))
    (left_out,) = document["question"]["left_out"]
    assert left_out == {
        "exam_id": world.exams[1].exam_id,
        "item_id": sha256_hex(s.payload(2, 3)),
        "code": "UNDECODABLE",
        "reason": "IMAGE_TRUNCATED: truncated",
    }


def test_scoring_goes_batch_by_batch_and_reads_each_item_once(world):
    exam = scoring.read_exam(world.store, world.exams[1])
    reads = []

    def read(locations):
        reads.append(len(locations))
        return world.read(locations)

    models = [world.models["new"], world.models["old"]]
    answers = scoring.answer_items(exam.items, read=read, models=models, batch_size=50).answers
    assert reads == [50, 50, 20]
    assert [model.batches for model in models] == [[50, 50, 20], [50, 50, 20]]
    assert [answer.shape for answer in answers] == [(120, 2), (120, 2)]


def test_scoring_reads_in_the_order_of_places(world):
    items = scoring.read_exam(world.store, world.exams[1]).items[::-1]
    asked = []

    def read(locations):
        asked.extend(locations)
        return world.read(locations)

    (answers,) = scoring.answer_items(items, read=read, models=[world.models["old"]], batch_size=50).answers
    by_item = dict(zip([item.item_id for item in items], answers.argmax(axis=1), strict=True))
    assert [location.object_key for location in asked] == sorted(item.location.object_key for item in items)
    for data, answer in s.answers(2, s.LABELS, wrong=range(24)).items():
        assert by_item[sha256_hex(data)] == answer


@pytest.mark.parametrize(("same", "expected"), [(True, (120, 0)), (False, (120, 120))])
def test_models_that_decode_alike_share_the_decoding(world, monkeypatch, same, expected):
    exam = scoring.read_exam(world.store, world.exams[1])
    models = [world.models["new"], world.models["old"]]
    decoded = [[], []]
    for model, seen in zip(models, decoded, strict=True):
        monkeypatch.setattr(model, "decode", lambda data, seen=seen: seen.append(data) or data)
    if same:
        models[1].decoding = models[0].decoding
    answers = scoring.answer_items(exam.items, read=world.read, models=models).answers
    assert tuple(len(seen) for seen in decoded) == expected
    labels = [s.CLASSES.index(item.label) for item in exam.items]
    assert [float((answer.argmax(axis=1) == labels).mean()) for answer in answers] == [1.0, 0.8]


def test_latency_leaves_the_warm_up_out():
    timed = itertools.chain.from_iterable((0.0, 0.001 * tick) for tick in range(1, 101))
    # During the warm-up only the start is read.
    starts = [0.0] * scoring.NUM_WARM_UP
    ticks = itertools.chain(starts, timed)
    model = s.TableModel({b"item 1": 0})
    latency = measured({"contender": model}, timer=lambda: next(ticks))["contender"]
    assert (latency.latency_p50_ms, latency.latency_p99_ms, latency.repeats, latency.load) == (50.5, 99.01, 1, 0.5)


def measured(models, *, is_enough=lambda _: True, timer, payloads=(b"item 1",)):
    return scoring.measure_latency(models, payloads, is_enough=is_enough, timer=timer, load=lambda: 0.5, num_timed=100)


def test_the_models_are_timed_in_turn_and_again_before_a_no():
    order, clock = [], itertools.count()

    class Named(s.TableModel):
        def decode(self, data):
            order.append(self.name)
            return data

    models = {}
    for name in ("contender", "champion"):
        models[name] = Named({b"item 1": 0})
        models[name].name = name
    latencies = measured(models, is_enough=lambda _: False, timer=lambda: next(clock) / 1000)
    assert order[:4] == ["contender", "champion"] * 2
    assert {latency.repeats for latency in latencies.values()} == {scoring.MAX_MEASUREMENTS}


def test_the_quickest_measurement_counts():
    slow_then_quick = itertools.chain(
        [0.0] * 10, *([0.0, took] for took in [0.02] * 100), [0.0] * 10, *([0.0, 0.01],) * 100
    )
    ticks = itertools.chain(slow_then_quick)
    latencies = measured(
        {"contender": s.TableModel({b"item 1": 0})},
        is_enough=lambda latencies: latencies["contender"].latency_p99_ms <= 15,
        timer=lambda: next(ticks),
    )
    assert (latencies["contender"].latency_p99_ms, latencies["contender"].repeats) == (10.0, 2)


def test_latency_of_nothing_is_not_a_number():
    latency = measured({"contender": s.TableModel({})}, timer=lambda: 0.0, payloads=[])["contender"]
    assert latency.latency_p99_ms != latency.latency_p99_ms


def test_a_programming_error_in_a_model_is_not_hidden():
    class Broken(s.TableModel):
        def predict(self, inputs):
            raise PermanentError("no such thing", code="OTHER")

    with pytest.raises(PermanentError, match="no such thing"):
        scoring.predict(Broken({}), [b"item"])
