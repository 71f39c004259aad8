"""A hostile prediction log among good records, on SQLite and PostgreSQL; ids of the reports of 2026-11-29.

B5: one record poisoned every later run of the monitor. H11: feedback on no prediction was taken silently.
"""

from __future__ import annotations

import datetime as dt
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bento_services.gateway.prediction_log.records import SCHEMA
from pipeline_tasks.catalog import tables as t
from pipeline_tasks.contracts import sha256_hex
from pipeline_tasks.project.schema import RecipeConfig
from pipeline_tasks.project.source_schema import TableSource
from tests.unit.monitoring.builders import Production, feedback, record

FOLDER = "predictions/pets/2026-03-01"
GOOD = [record(number) for number in range(1, 4)]


@pytest.fixture
def production(any_database, object_store, tmp_path):
    return Production(any_database, object_store, tmp_path, audit_share=1.0)


def milliseconds(*date: int) -> int:
    return int(dt.datetime(*date, tzinfo=dt.UTC).timestamp() * 1000)


def table_of(*records, schema=SCHEMA, **columns) -> pa.Table:
    """Return a part's table; `columns` replace whole columns, with whatever type they have."""
    values = {
        name: pa.array([getattr(entry, name) for entry in records], schema.field(name).type) for name in schema.names
    }
    return pa.table({name: columns.get(name, array) for name, array in values.items()})


def parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def raw_text(*values: bytes) -> pa.Array:
    """Return a column of texts that are not UTF-8."""
    return pa.Array.from_buffers(pa.string(), len(values), pa.array(values, pa.binary()).buffers())


def put(production, name: str, table: pa.Table | bytes) -> str:
    key = f"{FOLDER}/{name}.parquet"
    production.store.objects[key] = table if isinstance(table, bytes) else parquet(table)
    return key


RECORDS = {
    "B5-nul-in-id": {"prediction_id": "p\0x"},
    "B5-long-id": {"prediction_id": "p" * 2000},
    "B5-no-id": {"prediction_id": None},
    "B5-line-break-in-version": {"model_version": "m1\nm2"},
    "B5-no-version": {"model_version": None},
    "B5-nul-in-label": {"label": "c\0at"},
    "B5-no-label": {"label": None},
    "B5-no-confidence": {"confidence": None},
    "B5-confidence-is-no-number": {"confidence": float("nan")},
    "B5-confidence-above-one": {"confidence": 17.0},
    "B5-nul-in-client": {"client": "k\0"},
    "B5-nul-in-user": {"user_key": "u\0"},
    "B5-nul-in-business-key": {"business_key": "b\0"},
    "B5-no-digest": {"payload_sha256": None},
    "B5-digest-of-another-kind": {"payload_sha256": "0x17"},
    "B5-unknown-project": {"project": "cars"},
    "B5-year-2062": {"at_ms": milliseconds(2062, 1, 1)},
    "B5-year-1970": {"at_ms": 0},
    "B5-beyond-the-calendar": {"at_ms": 2**62},
    "B5-no-time": {"at_ms": None},
    "B5-no-status": {"status": None},
    "B5-no-kind": {"kind": None},
}
OTHERS = {
    "B5-payload-changed": {"payload_sha256": sha256_hex(b"another")},
    "B5-payload-no-image": {"payload": b"\x89PNG", "payload_sha256": sha256_hex(b"\x89PNG")},
}


def imported(production) -> set[str]:
    return {row["prediction_id"] for row in production.rows(t.audits)}


def check_others_go_on(production, *, num_refused: int = 1) -> dict:
    """Run twice, with something new between: the good ones are there, the bad one is named, by text that prints."""
    first = production.run()
    production.log(record(9))
    second = production.run("run-2")
    assert (first.num_refused, imported(production)) == (num_refused, {"p00001", "p00002", "p00003", "p00009"})
    assert (second.num_predictions, second.num_audits) == (1, 1)
    rows = production.rows(t.quarantine)
    assert len(rows) == num_refused
    for row in rows:
        assert row["stage"] == "monitor"
        assert row["key"].isprintable()
        assert row["reason"].isprintable()
    return rows[0]


@pytest.mark.parametrize("changes", (RECORDS | OTHERS).values(), ids=RECORDS | OTHERS)
def test_one_bad_record_is_named_and_the_others_are_imported(production, changes):
    put(production, "part", table_of(*GOOD, record(7, **changes)))
    row = check_others_go_on(production)
    expected = "p00007" if changes.get("prediction_id", "p00007") == "p00007" else row["key"]
    assert row["key"] == expected
    assert row["code"] in {"RECORD_INVALID", "RECORD_AHEAD", "PAYLOAD_CHANGED", "IMAGE_TRUNCATED", "NOT_AN_IMAGE"}


def test_a_record_whose_text_is_not_utf8_is_named_and_the_others_are_imported(production):
    labels = raw_text(b"cat", b"cat", b"c\xff\xfe", b"cat")
    put(production, "part", table_of(GOOD[0], GOOD[1], record(7), GOOD[2], label=labels))
    assert check_others_go_on(production)["key"] == "p00007"


def test_an_id_that_is_not_utf8_does_not_hide_the_inputs_of_the_others(production):
    ids = raw_text(b"p00001", b"\xc3\x28", b"p00002", b"p00003")
    put(production, "part", table_of(GOOD[0], record(7), GOOD[1], GOOD[2], prediction_id=ids))
    assert check_others_go_on(production)["key"] == "r00007"


PARTS = {
    "B5-no-parquet": b"no parquet",
    "B5-empty": b"",
    "B5-cut-short": parquet(table_of(*GOOD))[:-100],
    "B5-bit-flip": parquet(table_of(*GOOD)).replace(b"PAR1", b"PAR0"),
    "B5-missing-column": parquet(table_of(record(7)).drop_columns(["confidence"])),
    "B5-another-table": parquet(pa.table({"x": [1]})),
}


@pytest.mark.parametrize("data", PARTS.values(), ids=PARTS)
def test_one_bad_part_is_named_and_the_others_are_imported(production, data):
    key = put(production, "a", data)
    production.log(*GOOD)
    row = check_others_go_on(production)
    assert (row["key"], row["code"]) == (key, "PART_CORRUPT")


def test_a_part_that_is_ahead_of_the_clock_waits_for_it(production):
    """Of a gateway's clock and this machine's one is wrong; a part has one day, so all of it is ahead."""
    production.log(*GOOD, record(7, at_ms=milliseconds(2062, 1, 1)))
    row = check_others_go_on(production)
    assert (row["key"].split("/")[2], row["code"]) == ("2062-01-01", "PART_AHEAD")
    report = production.run("run-3", at=dt.datetime(2062, 1, 1, tzinfo=dt.UTC))
    assert (report.num_predictions, report.num_refused) == (1, 0)


def test_a_part_that_is_whole_again_is_imported(production):
    put(production, "a", b"torn")
    assert production.run().num_refused == 1
    put(production, "a", table_of(*GOOD))
    report = production.run("run-2")
    assert (report.num_refused, report.num_predictions) == (0, 3)


@pytest.mark.parametrize(
    "columns",
    [
        {"confidence": pa.array(["0.9"])},
        {"at_ms": pa.array(["2026"])},
        {"status": pa.array(["200"])},
        {"needs_review": pa.array(["no"])},
        {"label": pa.array([1])},
        {"payload_sha256": pa.array([b"\xff"])},
        {"prediction_id": pa.array([17])},
        {"user_key": pa.array([{"a": 1}])},
    ],
    ids=lambda columns: next(iter(columns)),
)
def test_a_record_of_another_type_is_named(production, columns):
    put(production, "a", table_of(record(7), **columns))
    production.log(*GOOD)
    check_others_go_on(production)


def test_a_version_that_nobody_knows_counts_for_itself(production):
    production.crown("m1")
    production.log(*GOOD[:2], record(3, model_version="nobody's"))
    report = production.run()
    assert (report.num_refused, imported(production)) == (0, {"p00001", "p00002", "p00003"})
    (window,) = production.monitoring.windows("pets", "import")
    assert sorted(window.statistics["histograms"]) == ["m1", "nobody's"]


ROWS = {
    "B5-half-a-pair": rb'{"amount": 5, "note\ud800": "x"}',
    "B5-cut-short": b'{"amount": 5, "no',
    "B5-no-object": b"[1, 2]",
    "B5-deep": b"[" * 100_000,
    "B5-huge-number": b'{"amount": 1%s}' % (b"0" * 5000),
    "B5-not-utf8": b'{"amount": "\xff"}',
    "B5-empty": b"{}",
    "B5-nul": rb'{"amount": 5, "a\u0000b": "x"}',
}


@pytest.mark.parametrize("payload", ROWS.values(), ids=ROWS)
def test_a_row_that_an_older_gateway_let_in_is_named_and_the_others_are_asked_about(production, payload):
    """Half a surrogate pair in a key, logged as answered, ended every later run with a UnicodeEncodeError."""
    rows = {"type": "table", "path": "incoming", "key_column": "id", "content_columns": ["amount"]}
    recipe = RecipeConfig(name="tabular_mlp", params={"numbers": ["amount"]})
    tabular = {"modality": "tabular", "sources": [TableSource.model_validate(rows)], "recipe": recipe}
    config = production.project.config.model_copy(update=tabular)
    object.__setattr__(production.project, "config", config)

    def row(number: int, data: bytes):
        return record(number, payload=data, media_type="application/json")

    good = [row(number, json.dumps({"amount": number}).encode()) for number in range(1, 4)]
    production.log(*good, row(7, payload))
    report = production.run()
    assert (report.num_refused, imported(production)) == (1, {"p00001", "p00002", "p00003"})
    (refused,) = production.rows(t.quarantine)
    assert (refused["key"], refused["stage"]) == ("p00007", "monitor")
    assert refused["reason"].isprintable()
    assert production.store.get(refused["object_key"]) == payload


TOLD = {
    "B5-nul-in-label": {"outcome_label": "c\0at"},
    "B5-no-label": {"outcome_label": None},
    "B5-nul-in-business-key": {"business_key": "b\0"},
    "B5-about-nothing": {"prediction_id": None, "business_key": None},
    "B5-year-2062": {"at_ms": milliseconds(2062, 1, 1)},
}


@pytest.mark.parametrize("changes", TOLD.values(), ids=TOLD)
def test_one_bad_feedback_is_named_and_the_others_count(production, changes):
    put(production, "part", table_of(*GOOD, feedback(1, "dog"), feedback(2, "cat", **changes)))
    report = production.run()
    assert (report.num_predictions, report.num_feedback, report.num_refused) == (3, 1, 1)
    assert [row["label"] for row in production.rows(t.outcomes)] == ["dog"]
    assert [row["code"] for row in production.rows(t.quarantine)] in (["RECORD_INVALID"], ["RECORD_AHEAD"])


def test_h11_feedback_on_no_prediction_is_counted_and_said(production, caplog):
    """Found are predictions of this run and of earlier ones, by id and by business key."""
    production.log(record(1), record(2, business_key="order-2"), record(3, status=503, prediction_id=None))
    production.log(feedback(1, "dog"))
    assert production.run().num_unmatched == 0
    production.log(
        feedback(1, "cat"),
        feedback(2, "dog", prediction_id=None, business_key="order-2"),
        feedback(8, "dog"),
        feedback(9, "dog", prediction_id=None, business_key="order-9"),
        feedback(10, "dog", prediction_id="order-2"),
        record(4, business_key="order-4"),
        feedback(4, "dog", prediction_id=None, business_key="order-4"),
    )
    caplog.clear()
    report = production.run("run-2")
    assert (report.num_feedback, report.num_unmatched, report.num_refused) == (6, 3, 0)
    assert "3 outcomes are about no prediction of the log" in caplog.text
    newest = production.monitoring.windows("pets", "import")[-1]
    assert newest.statistics["num_unmatched"] == 3


def test_the_hostile_set_whole(production):
    """All of it at once, in many parts: what is good arrives, and the next run reads no record of it again."""
    for number, changes in enumerate(RECORDS.values()):
        put(production, f"record-{number}", table_of(record(100 + number), record(200 + number, **changes)))
    for number, data in enumerate(PARTS.values()):
        put(production, f"part-{number}", data)
    report = production.run()
    assert report.num_predictions == len(RECORDS)
    assert report.num_refused == len(RECORDS) + len(PARTS)
    again = production.run("run-2")
    assert (again.num_predictions, again.num_refused) == (0, len(PARTS))
    assert len(production.rows(t.quarantine)) == len(RECORDS) + len(PARTS)
