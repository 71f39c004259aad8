"""Odd cells, columns, watermarks and label conflicts, tried on the merged work.

Source: a second reading of 2026-11-29 with data that no one here wrote: a public table of customers that has a blank
for "no value", CSV files with a blank after each comma, files that pandas writes with its row numbers, texts that were
decoded twice, a SQLite column that holds Latin-1.
"""

import datetime as dt
import decimal
import io
import json
import sqlite3
import struct
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from bento_services.gateway import request_validation
from bento_services.gateway.routing.routes import ServingSettings
from pipeline_tasks.cli.main import main
from pipeline_tasks.contracts import content_id
from pipeline_tasks.errors import ConfigError, InputError
from pipeline_tasks.guards.cells import columns_of, read_cell
from pipeline_tasks.guards.image import guard_image
from pipeline_tasks.guards.row import guard_row
from pipeline_tasks.ingest.column_proposal import propose, propose_column, with_columns
from pipeline_tasks.orchestration import item_retirement
from pipeline_tasks.project.loader import load_project
from tests.reported.sources_case import SQL, make_world, reasons
from tests.unit.ingest.conftest import NOW

MINUTE = dt.timedelta(minutes=1)
BEFORE_1 = dt.datetime(1, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=5)))


def column(kind: str, **fields):
    return columns_of([{"name": "c", "type": kind, **fields}])[0]


@pytest.mark.parametrize(
    ("cells", "kind", "missing"),
    [
        pytest.param(["29.85", " ", "108.15"], "number", None, id="blank-is-nothing"),
        pytest.param(["1", " NA", " 3"], "number", ["NA"], id="blank-before-missing"),
        pytest.param(["yes", " n/a ", "no"], "boolean", ["n/a"], id="boolean"),
        pytest.param(["31.01.2026", " - "], "date", ["-"], id="date"),
    ],
)
def test_a_proposed_column_reads_the_cells_it_was_made_from(cells, kind, missing):
    proposed = yaml.safe_load(propose_column("c", cells).as_yaml())[0]
    assert (proposed["type"], proposed.get("missing")) == (kind, missing)
    assert [read_cell(cell, columns_of([proposed])[0]) is None for cell in cells] == [
        not cell.strip() or cell.strip() in (missing or []) for cell in cells
    ]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
@pytest.mark.parametrize(
    ("numbers", "kind"),
    [
        pytest.param(["0.1", "2", "1e-7", "0.30000000000000004"], "number", id="A4-fractions-are-floats"),
        pytest.param(["1.5e300", "9007199254740993"], "number", id="A4-whole-numbers-of-64-bits"),
        pytest.param(["0.1", "9007199254740993.01"], "decimal", id="A4-more-digits-than-a-float"),
        pytest.param(["1", "9223372036854775809"], "decimal", id="A4-more-than-64-bits"),
    ],
)
def test_numbers_of_a_file_are_decimals_where_a_float_says_another_number(tmp_path, database, name, numbers, kind):
    """Every JSON line with a fraction was proposed as `decimal`, the same table as CSV as `number`."""
    world = make_world(tmp_path, "tabular", database)
    world.edit("  - {name: country, type: category, values: [DE, FR, US]}\n", "")
    rows = enumerate(numbers)
    lines = [
        f"{n},{amount},yes" if name == "a.csv" else f'{{"id": {n}, "amount": {amount}, "label": "yes"}}'
        for n, amount in rows
    ]
    world.write(name, "\n".join(["id,amount,label", *lines][name != "a.csv" :]))
    assert [(proposal.name, proposal.type) for proposal in propose(world.project, environment={})] == [("amount", kind)]


def test_a_column_that_parquet_declares_as_decimal_is_one(tmp_path, database):
    world = make_world(tmp_path, "tabular", database)
    world.edit("  - {name: country, type: category, values: [DE, FR, US]}\n", "")
    values = {"id": [1, 2], "amount": [decimal.Decimal("0.10"), decimal.Decimal("2.50")], "label": ["yes", "no"]}
    pq.write_table(pa.table(values), world.incoming / "a.parquet")
    assert [(proposal.name, proposal.type) for proposal in propose(world.project, environment={})] == [
        ("amount", "decimal")
    ]


@pytest.mark.parametrize(
    "text", ["Don\x92t", "a\x7fb", "a\x85b", "a\u2028b", "\ufeffa", "a\x92\U0001f600", "a\r\nb", "é"]
)
def test_a_proposal_is_yaml_whatever_the_texts_are(text):
    proposal = propose_column(text, [text, text, "\ud800", "\0"])
    columns = yaml.safe_load(with_columns("sources: []\n", [proposal]))["columns"]
    assert columns == [{"name": text, "type": "category", "values": [text]}]


def test_a_column_without_a_name_is_not_proposed(tmp_path, database, monkeypatch, capsys):
    world = make_world(tmp_path, "tabular", database)
    monkeypatch.setenv("DETHRONE_PROJECTS", str(world.folder.parent))
    world.write("a.csv", ",id,amount,country,label\n0,1,2,DE,yes\n1,2,3,DE,no\n")
    assert main(["project", "columns", world.folder.name, "--write"]) == 0
    assert [declared.name for declared in load_project(world.folder).config.columns] == ["amount", "country"]
    capsys.readouterr()


@pytest.mark.parametrize(
    ("kind", "fields", "cells"),
    [
        pytest.param(
            "date",
            {"missing": ["01.01.1900"], "format": "%d.%m.%Y"},
            ["01.01.1900", "1900-01-01", dt.date(1900, 1, 1), dt.datetime(1900, 1, 1)],  # noqa: DTZ001
            id="date",
        ),
        pytest.param("number", {"missing": [" -999"]}, [" -999", "-999.0", -999, -999.0], id="number-blank"),
        pytest.param("number", {"missing": ["1e999", "-1"]}, [-1, "-1"], id="number-too-large"),
        pytest.param("decimal", {"missing": ["1e999", "-1"]}, [-1, "-1.0"], id="decimal-too-large"),
    ],
)
def test_a2_a_missing_value_is_missing_in_every_container(kind, fields, cells):
    assert [read_cell(cell, column(kind, **fields)) for cell in cells] == [None] * len(cells)


@pytest.mark.parametrize("kind", ["category", "text", "boolean", "date", "number"])
def test_b4_a_time_before_the_first_year_is_refused_as_that(kind):
    with pytest.raises(InputError) as caught:
        read_cell(BEFORE_1, column(kind))
    assert caught.value.code == "VALUE_INVALID"
    assert "got 0001-01-01 00:00:00+05:00" in str(caught.value)


@pytest.mark.parametrize("at", [b"\xff", b"z\0z"], ids=["latin-1", "nul"])
def test_c1_a_watermark_that_cannot_be_asked_for_stops_no_later_reading(at, tmp_path, database):
    world = make_world(tmp_path, "tabular", database)
    shop = sqlite3.connect(tmp_path / "shop.db")
    shop.execute("CREATE TABLE orders (id int, amount int, country text, label text, at text)")
    shop.execute("INSERT INTO orders VALUES (1, 1, 'DE', 'yes', CAST(? AS TEXT)), (2, 2, 'DE', 'no', 'b')", [at])
    shop.commit()
    world.edit("labels:\n", SQL.format(query="SELECT * FROM orders") + "labels:\n")
    world.environment = {"SHOP_URL": f"sqlite:///{tmp_path / 'shop.db'}"}
    assert world.run(batch="one").num_new == 2
    assert world.items.cursor(world.folder.name, "source/shop").value["watermark"] == {"type": "plain", "value": "b"}
    shop.execute("INSERT INTO orders VALUES (3, 3, 'DE', 'no', 'c')")
    shop.commit()
    shop.close()
    assert world.run(batch="two", now=NOW + MINUTE).num_new == 1


def test_c2_the_advice_on_two_labels_of_rows_can_be_followed(tmp_path, database):
    """A row that is removed makes nobody read the other file; the label in the first one does."""
    world = make_world(tmp_path, "tabular", database)
    world.write("a.csv", "id,amount,country,label\n1,5,DE,yes\n")
    world.write("b.csv", "id,amount,country,label\n1,5,DE,no\n")
    world.run(batch="one")
    [(_, code, reason)] = reasons(world)
    assert code == "LABEL_CONFLICT"
    assert reason.endswith("Decide which one is right and give both rows that label.")
    world.write("a.csv", "id,amount,country,label\n1,5,DE,no\n")
    assert world.run(batch="two", now=NOW + MINUTE).num_labels_corrected == 1
    assert [item.source_label for item in world.all().values()] == ["no"]


@pytest.mark.parametrize("body", [{"amount": -0.0, "country": "DE"}, {"amount": 0.0, "country": "DE"}])
def test_a6_zero_has_one_identity_without_columns_too(body):
    names = ["amount", "country"]
    settings = ServingSettings(modality="tabular", preprocess={"content_columns": names})
    row = guard_row(body, columns=names, max_characters=9)
    assert request_validation.item_id(json.dumps(body).encode(), settings) == content_id(row)


def test_an_id_of_other_bytes_is_no_item(tmp_path, database):
    world = make_world(tmp_path, "tabular", database)
    world.write("a.csv", "id,amount,country,label\n1,5,DE,yes\n")
    world.run()
    with pytest.raises(ConfigError, match=r"got \\udcff\\udcfe"):
        item_retirement.retire(database, world.folder.name, "\udcff\udcfe", reason="x", by="me", now=NOW)


def test_a9_transparent_grey_of_16_bits_is_on_white():
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + struct.pack(">4H", 0, 1, 0xFF00, 0xFFFF) for _ in range(4))
    data = io.BytesIO(b"\x89PNG\r\n\x1a\n")
    data.seek(0, io.SEEK_END)
    data.write(chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, 0, 0, 0, 0)) + chunk(b"tRNS", b"\0\0"))
    data.write(chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    image = guard_image(data.getvalue(), max_pixels=16).image
    assert image.mode == "L"
    assert np.asarray(image)[0].tolist() == [255, 0, 255, 255]
