"""The whole prediction log: counted once each, searched by the beginning of an id."""

from bento_services.gateway.prediction_log.records import to_parts
from pipeline_tasks.catalog.monitoring import ImportedCounts
from pipeline_tasks.monitoring.log_scan import LogCounts, count_predictions, find_predictions
from tests.unit.monitoring.builders import Production, feedback, record

NONE = ImportedCounts(frozenset(), {})


def ship(store, *records) -> None:
    for key, data in to_parts(records).items():
        store.put(key, data)


def test_answers_are_counted_once_by_version(object_store):
    ship(object_store, record(1), record(2), record(3, model_version="m2"), feedback(1, "dog"))
    ship(object_store, record(2), record(4), record(5, status=503, prediction_id=None))
    assert count_predictions(object_store, "pets", imported=NONE) == LogCounts({"m1": 3, "m2": 1}, 2)


def test_more_parts_than_are_read_at_once(object_store):
    for number in range(50):
        ship(object_store, record(number))
    assert count_predictions(object_store, "pets", imported=NONE) == LogCounts({"m1": 50}, 50)
    assert [match.prediction_id for match in find_predictions(object_store, "pets", "p0000", limit=3)] == [
        "p00000",
        "p00001",
        "p00002",
    ]


def test_what_the_monitor_counted_is_not_read_again(database, object_store, tmp_path):
    production = Production(database, object_store, tmp_path)
    production.log(record(1), record(2), record(3, model_version="m2"), record(4, status=503, prediction_id=None))
    production.run("run-1")
    production.log(record(5), record(6))
    production.run("run-2")
    imported = production.monitoring.imported_counts("pets")
    assert imported.by_version == {"m1": 4, "m2": 1}
    assert len(imported.object_keys) == 2

    production.log(record(7, model_version="m2"))
    before = object_store.calls["get"]
    assert count_predictions(object_store, "pets", imported=imported) == LogCounts({"m1": 4, "m2": 2}, 3)
    assert object_store.calls["get"] == before + 1


def test_a_search_begins_with_the_newest_day_and_ends_with_the_whole_id(object_store):
    day = 24 * 3600 * 1000
    for number in range(60):
        ship(object_store, record(number, at_ms=record(0).at_ms + number * day))
    before = object_store.calls["get"]
    (match,) = find_predictions(object_store, "pets", "p00059", limit=3)
    assert match.prediction_id == "p00059"
    assert object_store.calls["get"] - before <= 17


def test_an_empty_log_has_no_answers(object_store):
    assert count_predictions(object_store, "pets", imported=NONE) == LogCounts({}, 0)
    assert find_predictions(object_store, "pets", "p", limit=3) == []


def test_a_whole_id_wins_over_longer_ones(object_store):
    ship(object_store, record(1), record(2, prediction_id="p00001x"))
    (match,) = find_predictions(object_store, "pets", "p00001", limit=3)
    assert (match.prediction_id, match.model_version, match.deployment_id) == ("p00001", "m1", "d1")
    assert (match.label, match.confidence, match.at.year) == ("cat", 0.9, 2026)


def test_feedback_is_no_prediction(object_store):
    ship(object_store, feedback(1, "dog"))
    assert find_predictions(object_store, "pets", "p00001", limit=3) == []


def test_a_damaged_part_is_named_and_the_others_are_read(object_store, caplog):
    ship(object_store, record(1))
    object_store.objects["predictions/pets/2026-03-01/x.parquet"] = b"no parquet"
    assert count_predictions(object_store, "pets", imported=NONE) == LogCounts({"m1": 1}, 1)
    assert [match.prediction_id for match in find_predictions(object_store, "pets", "p0", limit=3)] == ["p00001"]
    assert caplog.text.count("predictions/pets/2026-03-01/x.parquet must be a Parquet part") == 2
