"""Parquet values and bytes that Python or its readers cannot take: that row or row group by name, all else is read.

Source: bug reports of pyarrow, Spark and DuckDB (dates after 9999, strings that are bytes, broken pages).
"""

import decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.reported.sources_case import add_case, contents, make_world, reasons

YEAR_10000 = 253402300800  # seconds since 1970
TOKYO = pa.timestamp("s", "Asia/Tokyo")


@pytest.fixture
def rows(tmp_path, database):
    world = make_world(tmp_path, "tabular", database)
    world.write("z.csv", "id,amount,country,label\nafter,7,DE,yes\n")
    return world


def latin(values):
    """Return a string column whose bytes are Latin-1, as some writers make it."""
    return pa.array([value.encode("latin-1") for value in values]).view(pa.string())


COLUMNS = [
    ("B4-year-10000", pa.array([1, YEAR_10000], pa.timestamp("s")), "VALUE_UNREADABLE"),
    ("B4-9999-tokyo", pa.array([1, YEAR_10000 - 1], TOKYO), "VALUE_UNREADABLE"),
    ("B4-date-10000", pa.array([1, YEAR_10000 // 86400], pa.date32()), "VALUE_UNREADABLE"),
    ("B4-not-utf8", latin(["fine", "größe"]), "VALUE_UNREADABLE"),
    ("B4-map", pa.array([None, [("a", 1)]], pa.map_(pa.string(), pa.int64())), "VALUE_TYPE"),
    ("B4-list", pa.array([None, [1, 2]], pa.list_(pa.int64())), "VALUE_TYPE"),
    ("B4-struct", pa.array([None, {"a": 1}], pa.struct([("a", pa.int64())])), "VALUE_TYPE"),
    ("B4-duration", pa.array([None, 5], pa.duration("us")), "VALUE_TYPE"),
    ("B4-bytes", pa.array([None, b"\xff"]), "VALUE_TYPE"),
]


@pytest.mark.parametrize(("column", "code"), [case[1:] for case in COLUMNS], ids=[case[0] for case in COLUMNS])
def test_a_value_that_cannot_be_read_refuses_its_row(rows, column, code):
    """The row before it and the file behind it are read; the second run is quiet."""
    table = pa.table({"id": ["good", "bad"], "amount": [1, 2], "country": column, "label": ["yes", "yes"]})
    pq.write_table(table, rows.incoming / "a.parquet")
    report = rows.run()
    assert set(contents(rows)) == {"good", "after"}
    assert report.num_quarantined == 1
    ((key, actual, said),) = reasons(rows)
    assert (key, actual) in (("a.parquet, row 2", "VALUE_UNREADABLE"), ("bad", "VALUE_TYPE"))
    assert actual == code
    assert "country" in said
    assert "row 2" in said
    assert rows.run(batch="second").num_quarantined == 0


def test_a_dictionary_that_is_not_utf8_refuses_its_row_group(rows):
    """The library checks the dictionary of a group as a whole: which row it is cannot be told."""
    country = pa.DictionaryArray.from_arrays([0, 1], latin(["fine", "größe"]))
    table = pa.table({"id": ["a", "b"], "amount": [1, 2], "country": country, "label": ["yes", "yes"]})
    pq.write_table(table, rows.incoming / "a.parquet")
    rows.run()
    assert set(rows.all()) == {"after"}
    assert rows.refused() == {"a.parquet, rows 1 to 2": "PARQUET_INVALID"}


def test_not_utf8_deep_inside(rows):
    """Nested values too, and a column of keys."""
    deep = pa.ListArray.from_arrays([0, 1, 2], latin(["fine", "größe"]))
    table = pa.table({"id": latin(["good", "ü"]), "amount": [1, 2], "country": deep, "label": ["yes", "yes"]})
    pq.write_table(table, rows.incoming / "a.parquet")
    rows.run()
    assert rows.refused() == {"good": "VALUE_TYPE", "a.parquet, row 2": "VALUE_UNREADABLE"}


def test_wide_decimals_are_read(rows):
    """Decimal256 is a number like others."""
    amounts = pa.array([decimal.Decimal("1.25")], pa.decimal256(60, 2))
    table = pa.table({"id": ["d"], "amount": amounts, "country": ["DE"], "label": ["yes"]})
    pq.write_table(table, rows.incoming / "a.parquet")
    rows.run()
    assert set(rows.all()) == {"d", "after"}


@pytest.mark.parametrize("name", ["f02_year_10000", "f02_9999_tokyo", "f02_not_utf8"])
def test_the_reported_files(rows, name):
    """Whatever is refused of them, the file behind is read, and the second run is quiet."""
    add_case(rows, f"{name}.parquet", as_name="a.parquet")
    rows.run()
    assert "after" in rows.all()
    assert len(rows.refused()) >= 1
    assert rows.run(batch="second").num_quarantined == 0


def three_groups(path):
    ids = [f"r{n}" for n in range(30)]
    table = pa.table({"id": ids, "amount": [float(n) for n in range(30)], "country": ids, "label": ["yes"] * 30})
    pq.write_table(table, path, row_group_size=10, compression="snappy", use_dictionary=False)
    return pq.ParquetFile(path).metadata


def test_a_broken_row_group_in_the_middle_is_refused_alone(rows):
    """The groups before and after it are read."""
    path = rows.incoming / "a.parquet"
    column = three_groups(path).row_group(1).column(2)
    data = bytearray(path.read_bytes())
    start = column.data_page_offset
    data[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(data)
    rows.run()
    assert set(rows.all()) == {"after", *(f"r{n}" for n in range(30) if n // 10 != 1)}
    assert rows.refused() == {"a.parquet, rows 11 to 20": "PARQUET_INVALID"}


def test_no_row_group_is_no_row(rows):
    """A file with a schema alone is read, and empty."""
    table = pa.table({name: pa.array([], pa.string()) for name in ("id", "amount", "country", "label")})
    pq.write_table(table, rows.incoming / "a.parquet")
    assert (rows.run().num_seen, rows.refused()) == (1, {})


@pytest.mark.parametrize("footer", [True, False])
def test_an_encrypted_file_says_so(rows, footer):
    """With an encrypted footer, and with a plain one over encrypted columns."""
    from pyarrow.parquet import encryption

    class Kms(encryption.KmsClient):
        def __init__(self, _config):
            super().__init__()

        def wrap_key(self, key, _master):
            return key.hex()

        def unwrap_key(self, wrapped, _master):
            return bytes.fromhex(wrapped)

    factory = encryption.CryptoFactory(Kms)
    columns = ["id", "amount", "country", "label"]
    config = encryption.EncryptionConfiguration(footer_key="k", column_keys={"k": columns}, plaintext_footer=not footer)
    properties = factory.file_encryption_properties(encryption.KmsConnectionConfig(), config)
    table = pa.table({"id": ["a"], "amount": [1], "country": ["DE"], "label": ["yes"]})
    with pq.ParquetWriter(rows.incoming / "a.parquet", table.schema, encryption_properties=properties) as writer:
        writer.write_table(table)
    rows.run()
    assert set(rows.all()) == {"after"}
    ((_, code, said),) = reasons(rows)
    assert code == "PARQUET_INVALID"
    assert "not encrypted" in said


def test_times_of_nanoseconds_are_read_or_named(rows):
    """A timestamp that Python has no name for stops nothing."""
    moments = pa.array([1, 1_000_000_001], pa.timestamp("ns"))
    table = pa.table({"id": ["good", "odd"], "amount": [1, 2], "country": moments, "label": ["yes", "yes"]})
    pq.write_table(table, rows.incoming / "a.parquet")
    rows.run()
    assert "after" in rows.all()
    assert len(rows.all()) + len(rows.refused()) == 3
