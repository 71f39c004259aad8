"""Any row, in any container, is one content and one vector."""

from __future__ import annotations

import csv
import datetime as dt
import decimal
import json
import sqlite3
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bento_services.gateway import request_validation
from pipeline_tasks.contracts import canonical_json, content_id
from pipeline_tasks.guards.cells import columns_of, row_content
from pipeline_tasks.ingest.sources.sql import SqlRows
from pipeline_tasks.ingest.sources.tables import Row, read_rows
from pipeline_tasks.ingest.sources.watermark import SqlCursor
from pipeline_tasks.models.tabular_mlp.preprocess import decode_row
from pipeline_tasks.models.tabular_mlp.recipe import RECIPE
from pipeline_tasks.project.source_schema import SqlSource

# Any table, any container

TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=8)
CATEGORIES = st.one_of(st.sampled_from(["12E3", "1.10", "02134", "true", "nan", "Inf", "-0", "x,y", 'a"b']), TEXTS)
WHOLE = st.integers(-(2**62), 2**62)
FRACTIONS = st.floats(allow_nan=False, allow_infinity=False, width=64)
DECIMALS = st.decimals(allow_nan=False, allow_infinity=False, places=2, min_value=-(10**15), max_value=10**15)
DATES = st.datetimes(dt.datetime(1900, 1, 1), dt.datetime(2200, 1, 1)).map(lambda moment: moment.replace(microsecond=0))  # noqa: DTZ001
ROW = st.fixed_dictionaries(
    {
        "whole": st.none() | WHOLE,
        "fraction": FRACTIONS,
        "price": st.none() | DECIMALS,
        "code": st.none() | CATEGORIES,
        "note": st.none() | TEXTS,
        "day": st.none() | DATES,
        "member": st.none() | st.booleans(),
    }
)
TABLE = [
    {"name": "whole", "type": "number"},
    {"name": "fraction", "type": "number"},
    {"name": "price", "type": "decimal"},
    {"name": "code", "type": "category"},
    {"name": "note", "type": "text"},
    {"name": "day", "type": "date"},
    {"name": "member", "type": "boolean"},
]
INPUTS = RECIPE.preprocessing(
    RECIPE.resolve(
        {
            "numbers": ["whole", "fraction", "price"],
            "dates": ["day"],
            "categories": {"member": ["false", "true"], "code": ["12E3", "1.10", "02134", "true"]},
        }
    )
)
NAMES = [column["name"] for column in TABLE]


def as_text(value) -> str:
    return "" if value is None else value.isoformat() if isinstance(value, dt.datetime) else str(value)


def as_json(value):
    return value if isinstance(value, bool | int | float | None) else as_text(value)


def containers(rows: list[dict], folder: Path) -> dict[str, list[Row]]:
    with (folder / "a.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([NAMES, *([as_text(row[name]) for name in NAMES] for row in rows)])
    lines = [json.dumps({name: as_json(value) for name, value in row.items()}) for row in rows]
    (folder / "a.jsonl").write_text("\n".join(lines) + "\n")
    typed = {"price": pa.decimal128(20, 2), "day": pa.timestamp("us"), "code": pa.string(), "note": pa.string()}
    typed |= {"whole": pa.int64(), "fraction": pa.float64(), "member": pa.bool_()}
    pq.write_table(
        pa.table({name: pa.array([row[name] for row in rows], typed[name]) for name in NAMES}), folder / "a.parquet"
    )
    frame = pd.DataFrame(rows, columns=NAMES)
    frame["whole"] = pd.array([row["whole"] for row in rows], dtype="Int64")  # without a way through floats
    frame.to_parquet(folder / "frame.parquet")
    database = folder / "a.db"
    database.unlink(missing_ok=True)
    connection = sqlite3.connect(database)
    connection.execute(f"CREATE TABLE t (number INTEGER, {', '.join(NAMES)})")
    plain = {dt.datetime: as_text, decimal.Decimal: as_text}
    stored = [
        [number, *(plain.get(type(row[name]), lambda value: value)(row[name]) for name in NAMES)]
        for number, row in enumerate(rows)
    ]
    connection.executemany(f"INSERT INTO t VALUES ({', '.join('?' * (len(NAMES) + 1))})", stored)
    connection.commit()
    connection.close()
    source = SqlSource.model_validate(
        {
            "type": "sql",
            "url_variable": "URL",
            "query": f"SELECT {', '.join(NAMES)} FROM t ORDER BY number",
            "key_column": "whole",
        }
    )
    sql = SqlRows(source=source, environment={"URL": f"sqlite:///{database}"}, setting="sources[0]")
    sources = {
        name: list(read_rows(folder / name, columns=NAMES, max_line_characters=10_000))
        for name in ("a.csv", "a.jsonl", "a.parquet", "frame.parquet")
    }
    return sources | {"sqlite": list(sql.rows(columns=NAMES, cursor=SqlCursor(), now=dt.datetime.now(dt.UTC)))}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(ROW, min_size=1, max_size=4))
def test_any_row_has_one_content_and_one_vector_in_every_container(rows, tmp_path):
    columns = columns_of(TABLE)
    expected = [row_content(row, columns=columns, max_characters=1000) for row in rows]
    for name, read in containers(rows, tmp_path).items():
        assert [record.error for record in read] == [None] * len(rows), name
        assert [row_content(record.values, columns=columns, max_characters=1000) for record in read] == expected, name
    for row, content in zip(rows, expected, strict=True):
        body = json.dumps({"order_id": 1, **{name: as_json(value) for name, value in row.items()}}).encode()
        got = request_validation.GUARDS["tabular"](body, {"columns": TABLE})
        assert got == content
        assert row_content(json.loads(got), columns=columns, max_characters=1000) == content
        if all(abs(float(row[name] or 0)) < 3e38 for name in ("whole", "fraction")):
            vectors = [decode_row(content_of, preprocessing=INPUTS) for content_of in (got, content)]
            np.testing.assert_array_equal(*vectors)


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(st.sampled_from("abcdef"), st.lists(TEXTS, min_size=1, max_size=3, unique=True), min_size=1),
    st.randoms(),
)
def test_any_order_of_keys_is_one_preprocessing_one_vector_one_training_key(categories, random):
    keys = list(categories)
    random.shuffle(keys)
    first, other = (
        RECIPE.resolve({"categories": {key: categories[key] for key in order}}) for order in (categories, keys)
    )
    row = canonical_json({key: values[-1] for key, values in categories.items()})
    assert canonical_json(RECIPE.preprocessing(first)) == canonical_json(RECIPE.preprocessing(other))
    assert content_id(first) == content_id(other)
    vectors = [
        RECIPE.decode(row, preprocessing=pre)
        for pre in (RECIPE.preprocessing(first), json.loads(canonical_json(RECIPE.preprocessing(other))))
    ]
    np.testing.assert_array_equal(*vectors)
    assert vectors[0].sum() == len(categories)
