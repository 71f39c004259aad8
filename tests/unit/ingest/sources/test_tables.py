"""Rows of CSV, JSON-lines and Parquet files and of SQL queries."""

import datetime as dt
import decimal
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from pipeline_tasks.errors import ConfigError, GateClosed, InputError, SourceUnavailable
from pipeline_tasks.ingest.item_reader import read_items
from pipeline_tasks.ingest.sources import tables as rows_module
from pipeline_tasks.ingest.sources.tables import read_rows
from pipeline_tasks.ingest.sources.watermark import decode_watermark, encode_watermark, kind_of
from tests.unit.ingest.conftest import NOW

NAIVE = dt.datetime(2026, 1, 2)  # noqa: DTZ001  (databases and Parquet give such times)
CSV = "id,amount,country,label\n1,1.5,DE,yes\n2,,FR,\n3,007,=1+1,no\n"
GOOD = "id,amount,country,label\n" + "".join(f"g{n},{n},DE,\n" for n in range(20))


def contents(world):
    return {item.key: json.loads(data) for item, data in read_items(world.store, world.all().values())}


def test_csv_rows_become_items(rows):
    rows.write("data.csv", CSV)
    report = rows.run()
    assert (report.num_seen, report.num_new, report.num_labeled_at_source) == (3, 3, 2)
    assert contents(rows) == {
        "1": {"amount": 1.5, "country": "DE"},
        "2": {"amount": None, "country": "FR"},
        "3": {"amount": "007", "country": "=1+1"},
    }
    items = rows.all()
    assert {key: item.source_label for key, item in items.items()} == {"1": "yes", "2": None, "3": "no"}
    assert items["1"].media_type == "application/json"


def test_a_byte_order_mark_windows_lines_and_tabs_are_fine(rows):
    rows.write("a.csv", b"\xef\xbb\xbf" + CSV.replace("\n", "\r\n").encode())
    rows.write("b.tsv", "id\tamount\tcountry\tlabel\n9\t9\tUS\tyes\n")
    assert rows.run().num_new == 4


def test_quoted_cells_may_hold_lines(texts):
    texts.write("a.csv", 'id,text,label\n1,"two\nlines",positive\n2,one,\n')
    texts.run()
    assert {data for _, data in read_items(texts.store, texts.all().values())} == {b"two\nlines", b"one"}


def test_an_unchanged_table_is_not_read_again(rows, monkeypatch):
    rows.write("data.csv", CSV)
    rows.run()
    monkeypatch.setattr(rows_module, "READERS", {})
    assert rows.run(batch="second").num_new == 0


def test_appended_rows_are_new_and_the_others_known(rows):
    rows.write("data.csv", CSV)
    rows.run()
    rows.write("data.csv", CSV + "4,4,US,\n")
    report = rows.run(batch="second")
    assert (report.num_seen, report.num_new, report.num_known) == (4, 1, 3)


def test_other_columns_make_other_items(rows):
    rows.write("data.csv", CSV)
    rows.run()
    rows.edit("content_columns: [amount, country]", "content_columns: [amount, country, id]")
    assert rows.run(batch="second").num_new == 3


def test_groups_come_from_a_column(rows):
    rows.edit("    # group_column: customer", "    group_column: customer")
    rows.write("data.jsonl", '{"id": 1, "amount": 1, "country": "DE", "label": null, "customer": 7.0}\n')
    rows.run()
    assert rows.all()["1"].group_key == "7"


@pytest.mark.parametrize(
    ("cell", "code"),
    [
        ("5,nan,DE,", "NOT_FINITE"),
        ("5,1e999,DE,", "NOT_FINITE"),
        ("5,1,DE,maybe", "UNKNOWN_CLASS"),
        ("5,1,DE,Yes", "UNKNOWN_CLASS"),
        ("5,1,DE", "CELLS_WRONG"),
        ("5,1,DE,yes,more", "CELLS_WRONG"),
        (",1,DE,", "KEY_INVALID"),
        ("5,,,", "ROW_EMPTY"),
        ("5,1,D\0E,", "TEXT_CONTROL_CHARACTER"),
        ("5,1,D\udcffE,", "TEXT_NOT_UTF8"),
        ('5,1,"D,', "CSV_INVALID"),
        ('5,1,"D"E,', "CSV_INVALID"),
        (f"5,1,{'D' * 2000},", "LINE_TOO_LONG"),
    ],
)
def test_a_bad_row_is_refused_with_its_line_and_the_others_go_on(rows, cell, code):
    rows.edit("split:", "checks:\n  max_item_bytes: 1000\nsplit:")
    more = "after,99,DE,\n"
    rows.write("data.csv", (GOOD + cell + "\n" + more).encode("utf-8", "surrogateescape"))
    report = rows.run()
    assert (report.num_new, report.num_quarantined) == (21, 1)
    (entry,) = rows.items.quarantined("some_tabular")
    assert entry.code == code
    assert entry.reason.endswith(".") or "[data.csv, line 22]" in entry.reason
    assert "line 22" in entry.reason
    rows.edit('["no", "yes"]', '["yes", "no"]')
    report = rows.run(batch="second")
    assert (report.num_seen, report.num_known) == (22, 21), "with other classes a file with refused rows is read again"


HEAD = "id,amount,country,label\n"
FILES = [
    (
        "no column",
        "data.csv",
        "id,amount,label\n1,2,\n",
        "COLUMN_MISSING",
        "country (got the columns id, amount, label)",
    ),
    ("column twice", "data.csv", "id,amount,amount,country,label\n", "COLUMN_TWICE", "the column amount once"),
    ("utf-16", "data.csv", CSV.encode("utf-16"), "TEXT_NOT_UTF8", "got UTF-16"),
    ("empty", "data.csv", "", "EMPTY_FILE", "got an empty file"),
    (
        "suffix",
        "data.xlsx",
        "PK",
        "TYPE_NOT_ALLOWED",
        "must end with .csv, .tsv, .jsonl, .ndjson, .parquet (got .xlsx)",
    ),
    ("parquet", "data.parquet", "PAR1 no", "PARQUET_INVALID", "in its footer"),
]


@pytest.mark.parametrize(
    ("name", "text", "code", "message"), [case[1:] for case in FILES], ids=[case[0] for case in FILES]
)
def test_a_bad_table_is_refused_and_the_others_go_on(rows, name, text, code, message):
    rows.edit("split:", "checks:\n  max_item_bytes: 1000\nsplit:")
    rows.write("good.csv", GOOD)
    rows.write(name, text)
    report = rows.run()
    assert (report.num_new, report.num_quarantined) == (20, 1)
    (entry,) = rows.items.quarantined("some_tabular")
    assert (entry.key, entry.code) == (name, code)
    assert message in entry.reason
    assert rows.run(batch="second").num_quarantined == 0


def test_a_missing_column_in_the_only_file_stops_with_its_name(rows):
    rows.write("data.csv", "id,amount,label\n1,2,\n")
    with pytest.raises(GateClosed, match=r"(?s)COLUMN_MISSING, such as data.csv: a table must have the column country"):
        rows.run()


def test_rows_before_an_unclosed_quote_are_taken(rows):
    rows.write("data.csv", GOOD + 'x,1,"never closed,\n')
    report = rows.run()
    assert (report.num_new, report.num_quarantined) == (20, 1)


def test_an_unreadable_table_is_tried_again(rows, monkeypatch):
    rows.write("a.csv", GOOD)
    rows.write("b.csv", CSV)

    def deny(path, **_):
        if path.name == "b.csv":
            raise PermissionError(13, "Permission denied")
        return read_rows(path, **_)

    with monkeypatch.context() as patch:
        patch.setattr("pipeline_tasks.ingest.incremental_reader.read_rows", deny)
        assert rows.run().num_quarantined == 1
    assert rows.refused() == {"b.csv": "FILE_UNREADABLE"}
    assert rows.run(batch="second").num_new == 3


@pytest.mark.parametrize(
    "line",
    ['{"id": 1', "[1]", '{"id": 1, "id": 2}', '{"id": NaN}', "[" * 100_000, '{"id": ' + "9" * 5000 + "}", "\0"],
    ids=["cut", "list", "twice", "nan", "deep", "digits", "nul"],
)
def test_bad_json_lines(rows, line):
    good = "".join(json.dumps({"id": n, "amount": n, "country": "DE", "label": ""}) + "\n" for n in range(3))
    rows.write("data.jsonl", good + "\n" + line + "\n")
    report = rows.run()
    assert (report.num_new, report.num_quarantined) == (3, 1)
    assert rows.refused() == {"data.jsonl, line 5": "ROW_NOT_JSON"}


def test_a_key_that_a_json_line_does_not_have(rows):
    rows.write("data.jsonl", '{"id": 1, "amount": 1, "country": "DE", "label": "yes"}\n{"id": 2, "label": "yes"}\n')
    rows.run()
    assert rows.refused() == {"2": "COLUMN_MISSING"}


def test_parquet_rows_keep_their_types(rows):
    table = pa.table(
        {
            "id": [1, 2],
            "amount": pa.array([decimal.Decimal("1.25"), None], pa.decimal128(5, 2)),
            "country": pa.array([NAIVE, None], pa.timestamp("us")),
            "label": pa.array([True, None]),
            "more": [b"x", b"y"],
        }
    )
    rows.edit('["no", "yes"]', '["true", "false"]')
    pq.write_table(table, rows.incoming / "data.parquet")
    assert rows.run().num_quarantined == 1
    assert rows.refused() == {"2": "ROW_EMPTY"}
    assert contents(rows) == {"1": {"amount": 1.25, "country": "2026-01-02T00:00:00"}}
    assert rows.all()["1"].source_label == "true"


def test_a_cut_parquet_file(tmp_path):
    pq.write_table(pa.table({"a": [1, 2]}), tmp_path / "x.parquet")
    data = (tmp_path / "x.parquet").read_bytes()
    (tmp_path / "x.parquet").write_bytes(data[:-5])
    with pytest.raises(InputError, match="a Parquet file must be whole"):
        list(read_rows(tmp_path / "x.parquet", columns=["a"], max_line_characters=100))


@pytest.mark.parametrize(("value", "code"), [(None, "TEXT_EMPTY"), (5, "VALUE_TYPE"), ("  ", "TEXT_EMPTY")])
def test_a_text_must_be_a_text(texts, value, code):
    lines = [json.dumps({"id": n, "text": f"text {n}", "label": None}) for n in range(3)]
    texts.write("data.jsonl", "\n".join([*lines, json.dumps({"id": 9, "text": value, "label": None})]))
    texts.run()
    assert texts.refused() == {"9": code}


def test_texts_are_stored_in_one_form(texts):
    texts.write("data.jsonl", json.dumps({"id": 1, "text": "Cafe\u0301\r\n", "label": None}) + "\n")
    texts.run()
    assert [data for _, data in read_items(texts.store, texts.all().values())] == ["Caf\u00e9\n".encode()]


def test_text_files_are_items_too(texts):
    folder = "  - type: folder\n    name: files\n    path: files\n"
    texts.edit("labels:\n", folder + "labels:\n")
    (texts.folder / "files").mkdir()
    (texts.folder / "files" / "a.txt").write_text("hello")
    (texts.folder / "files" / "b.txt").write_bytes(b"\xff")
    texts.run()
    assert list(texts.all()) == ["a.txt"]
    assert texts.refused() == {"b.txt": "TEXT_NOT_UTF8"}


SQL = """  - type: sql
    name: shop
    url_variable: SHOP_URL
    query: {query}
    watermark_column: {watermark}
    key_column: id
    content_columns: [amount, country]
    label_column: label
"""


@pytest.fixture
def shop(rows, tmp_path):
    """A project that reads a SQLite database with the table `orders`."""
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'shop.db'}")
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE orders (id, amount, country, label, at)")
    rows.edit("labels:\n", SQL.format(query="SELECT * FROM orders;", watermark="at") + "labels:\n")
    rows.environment = {"SHOP_URL": f"sqlite:///{tmp_path / 'shop.db'}"}
    rows.engine = engine
    return rows


def insert(world, *orders):
    with world.engine.begin() as connection:
        connection.execute(
            sa.text("INSERT INTO orders VALUES (:a, :b, 'DE', 'yes', :c)"),
            [dict(zip("abc", o, strict=True)) for o in orders],
        )


def test_sql_rows_are_read_from_a_little_before_the_watermark_on(shop):
    insert(shop, (1, 10, "2026-01-01"), (2, 20, "2026-01-02"))
    assert shop.run().num_new == 2
    insert(shop, (3, 30, "2026-01-02"), (4, 40, "2026-01-03"), (5, 50, "2025-01-01"), (6, 60, None))
    report = shop.run(batch="second")
    assert (report.num_seen, report.num_new, report.num_known) == (5, 3, 2), "a text of a day: from the day before on"
    assert sorted(shop.all()) == ["1", "2", "3", "4", "6"]
    assert shop.items.cursor("some_tabular", "source/shop").value["watermark"] == {
        "type": "plain",
        "value": "2026-01-03",
    }


def test_sql_without_a_watermark_reads_everything_and_takes_what_is_new(shop):
    shop.edit("    watermark_column: at\n", "")
    insert(shop, (1, 10, None))
    shop.run()
    insert(shop, (2, 20, None))
    report = shop.run(batch="second")
    assert (report.num_new, report.num_known) == (1, 1)


def test_colons_and_quotes_in_a_query_are_text(shop):
    shop.edit(
        "SELECT * FROM orders;",
        "\"SELECT id, amount, ':country' AS country, label, at FROM orders WHERE 'a:b' = 'a:b'\"",
    )
    insert(shop, (1, 10, "x"))
    shop.run()
    assert contents(shop) == {"1": {"amount": 10, "country": ":country"}}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "SELECT * FROM orders;",
            "SELECT * FROM no_table",
            r"shop\)\.query must run on the database in SHOP_URL \(got no such table: no_table\)",
        ),
        (
            "SELECT * FROM orders;",
            "SELECT id FROM orders",
            r"query: a table must have the column amount, country, label, at \(got the columns id\)",
        ),
        ("watermark_column: at", "watermark_column: when", "must have the column when"),
        (
            "url_variable: SHOP_URL",
            "url_variable: OTHER_URL",
            r"url_variable must name a variable that is set \(got OTHER_URL: not set\)",
        ),
    ],
)
def test_wrong_sql_settings(shop, old, new, message):
    insert(shop, (1, 10, "x"))
    shop.edit(old, new)
    with pytest.raises(ConfigError, match=message):
        shop.run()


@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        ("no url", ConfigError, r"must be a SQLAlchemy URL.*\(got other text, not shown here\)"),
        ("sqlite:////nowhere/shop.db", ConfigError, r"must name an existing SQLite file \(got /nowhere/shop.db\)"),
        ("oracle+nothing://u:hunter2@h/d", ConfigError, "must name a URL of an installed SQLAlchemy driver"),
        (
            "postgresql+psycopg://u:hunter2@127.0.0.1:1/d?connect_timeout=2",
            SourceUnavailable,
            "must be reachable under the URL in SHOP_URL",
        ),
    ],
)
def test_a_database_that_cannot_be_reached(shop, url, error, message):
    shop.environment = {"SHOP_URL": url}
    with pytest.raises(error, match=message) as caught:
        shop.run()
    assert "hunter2" not in str(caught.value)


def test_a_connection_that_breaks_is_tried_again(shop, monkeypatch):
    from sqlalchemy.exc import OperationalError

    from pipeline_tasks.ingest.sources import sql

    insert(shop, (1, 10, "2026-01-01"))

    def broken(*_, **__):
        raise OperationalError("SELECT", {}, Exception("server closed the connection"), connection_invalidated=True)

    monkeypatch.setattr(sql, "_statement", broken)
    with pytest.raises(SourceUnavailable, match=r"must stay reachable \(got server closed the connection\)"):
        shop.run()
    assert shop.items.cursor("some_tabular", "source/shop") is None


def test_new_classes_read_the_whole_query_again(shop):
    insert(shop, (1, 10, "2026-01-01"), (2, 20, "2026-01-02"))
    shop.run()
    shop.edit('["no", "yes"]', '["yes", "no"]')
    assert shop.run(batch="second").num_seen == 2


@pytest.mark.parametrize("value", [None, 5, 1.5, "x", NOW, dt.date(2026, 1, 2), NAIVE, decimal.Decimal("1.10")])
def test_watermarks_survive_json(value):
    assert decode_watermark(json.loads(json.dumps(encode_watermark(value)))) == value


def test_a_watermark_of_another_type_is_refused():
    with pytest.raises(InputError, match=r"watermark_column must hold times, dates, numbers or texts \(got bytes\)"):
        kind_of(b"x")
    assert decode_watermark(None) is None
