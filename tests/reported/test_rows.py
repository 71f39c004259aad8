"""Rows of tables as other people have them: what a cell means, which item a row is."""

from __future__ import annotations

import datetime as dt
import decimal
import json

import pandas as pd
import pytest

from bento_services.gateway import request_validation
from bento_services.gateway.prediction_log.records import to_parts
from bento_services.gateway.routing.routes import ServingSettings
from pipeline_tasks.audit import lineage, lineage_tree
from pipeline_tasks.contracts import Attempt, canonical_json, content_id, keyed_item_id, sha256_hex
from pipeline_tasks.deployment.route_settings import route_config
from pipeline_tasks.errors import GateClosed, InputError
from pipeline_tasks.guards.cells import columns_of, read_cell, row_content
from pipeline_tasks.ingest.item_checks import examine_row
from pipeline_tasks.ingest.item_reader import read_items
from pipeline_tasks.ingest.production_items import ProductionRecord, add_production_items
from pipeline_tasks.ingest.sources.tables import Row
from pipeline_tasks.models.tabular_mlp.preprocess import decode_row, unmatched_categories
from pipeline_tasks.models.tabular_mlp.recipe import RECIPE
from pipeline_tasks.orchestration.composed_projects import shared_limits
from pipeline_tasks.validation.fingerprints import row_fingerprint
from tests.reported.rows_case import COLUMNS, contents, declare, ingest, reasons
from tests.unit.ingest.conftest import NOW, World, without_columns
from tests.unit.monitoring.builders import record

# What a cell means

CELLS = [
    *[pytest.param("number", value, 7, id=f"A2-{value!r}") for value in (7, 7.0, "7", "7.00", " 7 ", "+7", "7e0")],
    pytest.param("number", decimal.Decimal("7.00"), 7, id="A2-decimal"),
    pytest.param("number", 2**53 + 1, 2**53 + 1, id="A4-64-bits"),
    pytest.param("number", "9007199254740993.0", 2**53 + 1, id="A4-64-bits-as-text"),
    pytest.param("number", 2**63 - 1, 2**63 - 1, id="A4-largest"),
    pytest.param("number", 30855932026831432.0, 30855932026831430, id="A4-float-as-its-text"),
    pytest.param("number", "3.085593202683143e+16", 30855932026831430, id="A4-text-of-a-float"),
    pytest.param("number", -0.0, 0, id="A2-minus-zero"),
    pytest.param("number", 1e300, 1e300, id="A2-large"),
    pytest.param("decimal", decimal.Decimal("9007199254740993.010"), "9007199254740993.01", id="A4-decimal"),
    pytest.param("decimal", "9007199254740993.01", "9007199254740993.01", id="A4-decimal-as-text"),
    pytest.param("decimal", 2.50, "2.5", id="A4-decimal-from-float"),
    *[pytest.param("category", text, text, id=f"A3-{text}") for text in ("12E3", "1.10", "2.50", "02134", "1_000")],
    *[pytest.param("category", text, text, id=f"C7-{text}") for text in ("nan", "Inf", "NULL")],
    pytest.param("category", True, "true", id="A2-boolean"),
    *[pytest.param("category", value, "2", id=f"A2-category-{value!r}") for value in (2, 2.0, decimal.Decimal("2.00"))],
    pytest.param("category", dt.datetime(2026, 1, 2), "2026-01-02", id="A2-category-date"),  # noqa: DTZ001
    *[
        pytest.param("boolean", value, True, id=f"A2-{value!r}-is-true")
        for value in (True, "true", "TRUE", 1, 1.0, "yes")
    ],
    *[pytest.param("boolean", value, False, id=f"A2-{value!r}-is-false") for value in (False, "False", 0, "no", "0")],
    pytest.param("date", dt.date(2026, 1, 2), "2026-01-02", id="dates-day"),
    pytest.param("date", dt.datetime(2026, 1, 2), "2026-01-02", id="dates-midnight"),  # noqa: DTZ001
    pytest.param("date", pd.Timestamp("2026-01-02T03:04:05"), "2026-01-02T03:04:05", id="dates-pandas"),
    pytest.param("date", "2026-01-02T03:04:05+02:00", "2026-01-02T01:04:05Z", id="dates-zone"),
    *[
        pytest.param(kind, nothing, None, id=f"A5-{kind}-{nothing!r}")
        for kind in ("number", "decimal", "category", "text", "date", "boolean")
        for nothing in (None, "", "NA", float("nan"), pd.NaT, decimal.Decimal("NaN"))
    ],
    *[pytest.param("number", value, None, id=f"missing-{value!r}") for value in (-999, "-999", "-999.0", -999.0)],
]


@pytest.mark.parametrize(("kind", "value", "expected"), CELLS)
def test_a_cell_is_one_value_in_every_container(kind, value, expected):
    """Public reports of data tools: one value, several containers, several meanings."""
    (column,) = columns_of([{"name": "c", "type": kind, "missing": ["NA", "-999"]}])
    got = read_cell(value, column)
    assert (got, type(got)) == (expected, type(expected))
    assert read_cell(got, column) == expected, "the canonical value reads back as itself"


REFUSED = [
    *[
        pytest.param("number", text, id=f"B2-{text}")
        for text in ("NA", "2,5", "$5", "5%", "1_000", "inf", "nan", "1e400")
    ],
    *[pytest.param("number", value, id=f"B2-{type(value).__name__}") for value in (float("inf"), True, b"5", [5], {})],
    pytest.param("decimal", "1e5000", id="A4-too-long"),
    pytest.param("category", b"x", id="A5-bytes"),
    *[pytest.param("date", text, id=f"B4-{text}") for text in ("10000-01-01", "2026-02-30", "1/2/2026")],
    pytest.param("date", dt.datetime(9999, 12, 31, 23, tzinfo=dt.timezone(dt.timedelta(hours=-5))), id="B4-beyond"),
    pytest.param("boolean", "2", id="A2-no-boolean"),
]


@pytest.mark.parametrize(("kind", "value"), REFUSED)
def test_what_is_no_value_of_the_column_is_refused_with_advice(kind, value):
    """The message names column and value and says what to do; it is printable ASCII on one line."""
    (column,) = columns_of([{"name": "c", "type": kind, "unit": "EUR"}])
    with pytest.raises(InputError, match=r"^c must be .* \(got .*\)\. Correct it, or add it to `missing`") as error:
        read_cell(value, column)
    assert str(error.value).isascii()
    assert str(error.value).isprintable()


def test_b2_a_number_that_is_none_is_refused_at_ingest_and_taken_once_it_is_declared_missing(world):
    """f04: `NA` in the column of a number was frozen into the exam; every training failed for ever."""
    declare(world)
    ingest(world, "f04_na_number.csv")
    assert world.all() == {}
    assert "amount must be a finite number, such as 2.5 (got 'NA')" in reasons(world)[0]
    world.edit("{name: amount, type: number}", "{name: amount, type: number, missing: [NA]}")
    world.run()
    assert contents(world) == {"na1": {"amount": None, "country": "DE"}}


def test_a3_codes_stay_as_written_and_words_are_words(world):
    """f05: `12E3` was 12000.0, `1.10` and `1.1` one item with two labels; `nan` and `Inf` were refused."""
    declare(world)
    ingest(world, "f05_codes.csv")
    codes = ["12E3", "1.10", "1.1", "2.50", "02134", "10001", "nan", "Inf"]
    assert {key: row["country"] for key, row in contents(world).items()} == dict(zip("12345678", codes, strict=True))
    assert world.refused() == {}


@pytest.mark.parametrize("kind", ["number", "decimal"])
def test_a4_numbers_beyond_53_bits_are_two_items(world, kind):
    """f06: 9007199254740992 and ...993 in a Parquet decimal were one item, with two labels."""
    declare(world, COLUMNS.replace("number", kind))
    ingest(world, "f06_decimal.parquet")
    assert sorted(str(row["amount"]) for row in contents(world).values()) == ["9007199254740992", "9007199254740993"]


def test_a5_keys_and_groups_are_one_name_or_none(world):
    """f07: Decimal 7.00 and 7; NaN as a key, as a group; bytes."""
    declare(world, group="    group_column: g\n")
    ingest(world, "f07_nan_group.parquet")
    assert {item.group_key for item in world.all().values()} == {"1", "2"}, "no group: the key"
    world.edit("    group_column: g\n", "")
    ingest(world, "f07_decimal_ids.parquet", "f07_nan_id.parquet", "f07_binary_id.parquet")
    assert {"7", "8"} <= world.all().keys()
    assert "id must have a value in each row: it is the key (got none). [f07_nan_id.parquet, row 2]" in reasons(world)
    assert (
        sum("id must be a text, a number, true, false or a date (got bytes)." in reason for reason in reasons(world))
        == 2
    )


@pytest.mark.parametrize(
    ("value", "name"), [(7, "7"), (7.0, "7"), ("7", "7"), (decimal.Decimal("7.00"), "7"), (2.5, "2.5")]
)
def test_a5_a_key_has_one_spelling(world, value, name):
    outcome = examine(world, {"id": value, "amount": 1, "country": "DE", "label": float("nan")})
    assert (outcome.key, outcome.group_key, outcome.label) == (name, name, None)


def test_c7_a_line_without_the_optional_label_has_none(world):
    """f14: JSON lines leave out what they have no value for."""
    declare(world)
    ingest(world, "f14_missing_label_key.jsonl")
    assert {key: item.source_label for key, item in world.all().items()} == {"1": "yes", "2": None}


# Which item a row is


def examine(world: World, values: dict, *, project=None):
    project = project or world.project.config
    return examine_row(Row("row 1", values), file="x.parquet", project=project, source=project.sources[0])


def test_a7_equal_rows_of_different_people_are_items_of_their_own(world):
    """6,341 of 69,000 rows of a table of persons were in quarantine as LABEL_CONFLICT."""
    declare(world)
    world.write("a.csv", "id,amount,country,label\n1,5,DE,yes\n2,5.0,DE,no\n")
    world.run()
    first, two = world.all()["1"], world.all()["2"]
    assert (first.source_label, two.source_label, world.refused()) == ("yes", "no", {})
    content = sha256_hex(canonical_json({"amount": 5, "country": "DE"}))
    assert (first.content_id, two.content_id) == (content, content)
    assert (first.item_id, two.item_id) == (keyed_item_id("1", content), keyed_item_id("2", content))
    assert world.run(batch="again").num_new == 0


def monitor(world: World, *bodies: str):
    fence = world.items.database.acquire("p/monitor", Attempt("r", "monitor"), now=NOW)
    return add_production_items(
        world.project.config,
        records=[ProductionRecord(f"p{number}", body.encode()) for number, body in enumerate(bodies)],
        items=world.items,
        store=world.store,
        fence=fence,
        split_key="secret",
        batch_id="monitor",
        now=NOW,
    )


MORE = '{"amount": 5, "country": "DE", "order_id": "c-17"}'


def test_a6_a_request_with_one_more_field_is_the_item_of_the_source(world):
    """53 of 58 exam rows that came as requests with an `order_id` went to training."""
    declare(world)
    world.edit("exam_share: 0.2", "exam_share: 0.999999")
    world.write("a.csv", "id,amount,country,label\n1,5,DE,yes\n")
    world.run()
    item = world.all()["1"]
    assert item.split == "exam"
    assert {read.item_id for read in monitor(world, MORE, '{"country": "DE", "amount": "5.00"}').values()} == {
        item.item_id
    }
    settings = serving(world)
    assert {
        request_validation.item_id(request_validation.GUARDS["tabular"](MORE.encode(), settings.preprocess), settings)
    } == {item.content_id}
    new = monitor(world, '{"amount": 6, "country": "DE", "order_id": 1}')["p0"]
    assert (new.item_id, new.origin) == (sha256_hex(b'{"amount":6,"country":"DE"}'), "production")


def test_a6_a_project_without_columns_knows_its_rows_too(world):
    without_columns(world.folder)
    world.write("a.csv", "id,amount,country,label\n1,5,DE,yes\n")
    world.run()
    assert monitor(world, MORE)["p0"].key == "1"
    settings = serving(world)
    assert request_validation.item_id(MORE.encode(), settings) == world.all()["1"].item_id


def test_an_exam_item_goes_before_others_of_the_same_content(world):
    declare(world)
    world.edit("exam_share: 0.2", "exam_share: 0.5")
    world.write("a.csv", "id,amount,country,label\n" + "".join(f"{key},5,DE,yes\n" for key in range(20)))
    world.run()
    assert {item.split for item in world.all().values()} == {"train", "exam"}
    assert monitor(world, MORE)["p0"].split == "exam"


@pytest.mark.parametrize("num_rows", [0, 1, 3])
def test_a6_lineage_finds_the_rows_of_a_prediction_that_nobody_picked(world, num_rows):
    """It looked for an item whose id is the hash of the input; a row's id is of its key, too."""
    declare(world)
    world.edit("exam_share: 0.2", "exam_share: 0.5")
    rows = "".join(f"k{key},5,DE,yes\n" for key in range(num_rows))
    world.write("a.csv", f"id,amount,country,label\nother,6,DE,yes\n{rows}")
    world.run()
    asked = request_validation.GUARDS["tabular"](MORE.encode(), serving(world).preprocess)
    log = record(1, project="some_rows", payload=asked, media_type="application/json", at_ms=1_790_000_000_000)
    for key, data in to_parts([log]).items():
        world.store.put(key, data)
    tree = lineage.lineage(world.items.database, world.store, "prediction:p00001", project="some_rows")
    told = lineage_tree.as_text(tree)
    equal = [item for item in world.all().values() if item.key != "other"]
    if equal:
        first = min(equal, key=lambda item: (item.split != "exam", item.item_id))
        assert f"its input was not audited, and is the content of {lineage_tree.count(num_rows, 'item')}" in told
        assert first.key in told
    else:
        assert "its input was not audited and is no item (SHA-256 " in told


def serving(world: World) -> ServingSettings:
    config = route_config(world.project)
    return ServingSettings(modality="tabular", preprocess=json.loads(json.dumps(config["preprocess"])))


NUMBER, TEXT = {"name": "a", "type": "number"}, {"name": "b", "type": "text"}


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ([{"columns": [NUMBER]}, {"columns": [NUMBER, TEXT]}], {"columns": [NUMBER, TEXT]}),
        ([{"columns": [NUMBER]}, {"content_columns": ["b"]}], {"content_columns": ["a", "b"]}),
        ([{}, {}], {}),
    ],
    ids=["all-declare", "one-guesses", "no-rows"],
)
def test_a_graph_reads_a_row_as_all_its_projects_do(limits, expected):
    limits = [{"max_pixels": number, **limit} for number, limit in enumerate(limits, start=5)]
    assert shared_limits(limits) == {"max_pixels": 5, **expected}


def test_a_graph_whose_projects_read_a_column_in_two_ways_is_refused():
    limits = [{"columns": [NUMBER]}, {"columns": [{"name": "a", "type": "decimal"}]}]
    with pytest.raises(GateClosed, match=r"must declare a column alike \(got a in two ways\)") as error:
        shared_limits(limits)
    assert error.value.code == "COLUMNS_DIFFER"


# A project of the time before columns goes on


def test_a_project_that_declares_columns_keeps_its_items(world):
    """Same ids, nothing twice, labels kept, the bytes read anew; told once and recorded."""
    without_columns(world.folder)
    world.write("a.csv", "id,amount,country,label\n1,5.0,12E3,yes\n2,7,DE,no\n3,7,DE,yes\n")
    world.run()
    before = world.all()
    assert set(world.refused().values()) == {"LABEL_CONFLICT"}
    old_bytes = dict(read_items(world.store, before.values()))
    path = world.folder / "project.yaml"
    path.write_text(path.read_text().replace("sources:\n", f"columns: {COLUMNS}\nsources:\n", 1))
    report = world.run(batch="columns")
    after = world.all()
    assert report.reading == "rows are read by the declared columns, version 2; 2 items keep their ids"
    assert {key: after[key].item_id for key in before} == {key: item.item_id for key, item in before.items()}
    assert {key: item.source_label for key, item in after.items()} == {"1": "yes", "2": "no", "3": "yes"}
    assert contents(world)["1"] == {"amount": 5, "country": "12E3"}
    assert dict(read_items(world.store, old_bytes)) == old_bytes, "what is frozen stays readable"
    assert world.items.cursor("some_rows", "reading").value["version"] == 2
    again = world.run(batch="again")
    assert (again.num_new, again.reading, len(world.all())) == (0, None, 3)
    assert monitor(world, '{"amount": 5, "country": "12E3"}')["p0"].item_id == before["1"].item_id


def test_without_columns_ids_are_what_they_were(world):
    """The id of a row that every version before had."""
    without_columns(world.folder)
    outcome = examine(world, {"id": 1, "amount": 5.0, "country": "DE", "label": "yes"})
    assert outcome.item_id == outcome.content_id == content_id({"amount": 5.0, "country": "DE"})


# What the model sees


def test_a1_the_order_of_keys_decides_nothing():
    """0.809 in validation, 0.500 on the exam: model.json sorted what training had in the order of the file."""
    params = RECIPE.resolve({"categories": {"b": ["x", "y"], "a": ["z"]}})
    turned = RECIPE.resolve({"categories": {"a": ["z"], "b": ["x", "y"]}})
    preprocessing = RECIPE.preprocessing(params)
    stored = json.loads(canonical_json(preprocessing))
    row = b'{"a":"z","b":"y"}'
    assert preprocessing == stored == RECIPE.preprocessing(turned)
    assert RECIPE.decode(row, preprocessing=preprocessing).tolist() == [1, 0, 1]
    assert content_id(params) == content_id(turned), "one training key"


def test_a1_a_stored_version_decodes_as_it_was_stored():
    old = {"numbers": ["n"], "categories": {"a": ["z"], "b": ["x", "y"]}}
    assert decode_row(b'{"n":2,"a":"z","b":"y"}', preprocessing=old).tolist() == [2, 1, 0, 1]
    assert decode_row(b'{"n":2,"a":true,"b":2.0}', preprocessing=old | {"categories": {"a": ["true"]}}).tolist() == [
        2,
        0,
    ]


PRE = {"numbers": ["amount"], "categories": [["code", ["1", "2"]], ["member", ["true", "false"]]]}
SAME = [
    '{"amount": 50.5, "member": "true", "code": 2}',
    '{"amount": 50.5, "member": "true", "code": 2, "customer": "c-17"}',
    '{"amount": 50.5, "member": true, "code": 2}',
    '{"amount": 50.5, "member": "true", "code": 2.0}',
    '{"amount": 50.5, "member": "true", "code": "2"}',
    '{"amount": "50.5", "member": true, "code": "2"}',
]
IDENTITY = [
    {"name": "amount", "type": "number"},
    {"name": "code", "type": "category"},
    {"name": "member", "type": "boolean"},
]


@pytest.mark.parametrize("body", SAME)
def test_a2_a_request_is_the_row_of_the_table(body):
    """serving/row_identity.py: extra fields, JSON true against CSV true, 2.0 against 2."""
    cells = {"amount": "50.5", "member": "true", "code": "2"}
    columns = columns_of(IDENTITY)
    source = row_content(cells, columns=columns, max_characters=1000)
    settings = ServingSettings(modality="tabular", preprocess={"columns": IDENTITY})
    got = request_validation.GUARDS["tabular"](body.encode(), settings.preprocess)
    assert (got, request_validation.item_id(got, settings)) == (source, sha256_hex(source))
    assert row_fingerprint(json.loads(got), digits=4) == row_fingerprint(json.loads(source), digits=4)
    assert decode_row(got, preprocessing=PRE).tolist() == [50.5, 0, 1, 1, 0]
    assert decode_row(body.encode(), preprocessing=PRE).tolist() == [50.5, 0, 1, 1, 0], "without columns too"


def test_a2_what_is_no_known_value_is_counted_and_named():
    rows = [b'{"code":"3","member":null}', b'{"code":3,"member":true}', b'{"code":"1","member":"x"}', b"no row"]
    unmatched = unmatched_categories(rows, preprocessing=PRE)
    assert {name: dict(counts) for name, counts in unmatched.items()} == {
        "code": {"'3'": 1, "3": 1},
        "member": {"'x'": 1},
    }


@pytest.mark.parametrize("preprocess", [{}, {"columns": IDENTITY}], ids=["B5-guessed", "B5-declared"])
@pytest.mark.parametrize("name", ["\\ud800", "\\u0000", "a\\nb"])
def test_b5_a_name_that_no_store_takes_is_refused(preprocess, name):
    """serving/surrogate_key.py: 500 after it was logged as 200; then every monitor run failed."""
    body = f'{{"amount": 1, "code": "2", "member": true, "{name}": 1}}'.encode()
    settings = ServingSettings(modality="tabular", preprocess=preprocess)
    with pytest.raises(InputError, match="a column's name must be UTF-8 text") as error:
        request_validation.GUARDS["tabular"](body, settings.preprocess)
    assert (error.value.code, str(error.value).isascii(), str(error.value).isprintable()) == (
        "COLUMN_NAME_INVALID",
        True,
        True,
    )


@pytest.mark.parametrize("data", [b'{"\\ud800": 1, "amount": 1, "country": "DE"}', b'{"\\u0000": 1}'])
def test_b5_such_a_record_in_the_log_stops_nothing(world, data):
    assert monitor(world, data.decode(), '{"amount": 1, "country": "DE"}').keys() == {"p1"}
    assert world.refused() == {"p0": "COLUMN_NAME_INVALID"}
