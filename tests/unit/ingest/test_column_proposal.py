"""`dethrone project columns`: what columns seem to be, and where they go in project.yaml."""

import datetime as dt
import decimal
import sqlite3

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline_tasks.cli.main import main
from pipeline_tasks.errors import ConfigError
from pipeline_tasks.ingest.column_proposal import propose, propose_column, with_columns
from pipeline_tasks.project.loader import load_draft, load_project


@pytest.mark.parametrize(
    ("cells", "line"),
    [
        (["1", "2.5", "", "NA"], '{name: c, type: number, missing: ["NA"]}'),
        (["1e-05", "2"], "{name: c, type: number}"),
        (["02134", "10001", "02134"], '{name: c, type: category, values: ["02134", "10001"]}'),
        (["12E3", "12E3"], '{name: c, type: category, values: ["12E3"]}'),
        (["yes", "No", "null"], '{name: c, type: boolean, missing: ["null"]}'),
        (["2026-01-31", "2026-01-31T10:00:00Z"], "{name: c, type: date}"),
        (["31.01.2026", "-"], '{name: c, type: date, missing: ["-"], format: "%d.%m.%Y"}'),
        (["01/31/2026", "01/02/2026"], '{name: c, type: date, format: "%m/%d/%Y"}'),
        (["no", "yes", "off", "no"], '{name: c, type: category, values: ["no", "off", "yes"]}'),
        ([f"text {number}" for number in range(60)], "{name: c, type: text}"),
        (["NA", "NA"], '{name: c, type: category, values: ["NA"]}'),
        ([None, ""], "{name: c, type: text}"),
        ([True, None], "{name: c, type: boolean}"),
        ([1, 2.0, float("nan")], "{name: c, type: number}"),
        ([decimal.Decimal("1.50")], "{name: c, type: decimal}"),
        ([dt.date(2026, 1, 1)], "{name: c, type: date}"),
        ([b"x"], "{name: c, type: text}"),
    ],
)
def test_what_a_column_seems_to_be(cells, line):
    assert propose_column("c", cells).as_yaml() == f"  - {line}\n"


def test_a_name_that_yaml_takes_for_something_else_is_quoted():
    assert propose_column("no", [1]).as_yaml() == '  - {name: "no", type: number}\n'
    assert propose_column("größe: m", [1]).as_yaml() == '  - {name: "größe: m", type: number}\n'


def test_all_sources_are_looked_at(rows, tmp_path):
    """A file with other columns than the content, a Parquet file and a database."""
    path = rows.folder / "project.yaml"
    database = tmp_path / "shop.db"
    connection = sqlite3.connect(database)
    connection.execute("CREATE TABLE t (id, amount, country, label)")
    connection.execute("INSERT INTO t VALUES (1, 2.5, 'US', 'yes')")
    connection.commit()
    connection.close()
    sql = (
        "  - {type: sql, name: shop, url_variable: URL, query: SELECT * FROM t, key_column: id, label_column: label}\n"
    )
    text = path.read_text().replace("    content_columns: [amount, country]\n", "")
    path.write_text(text.replace("\nlabels:\n", f"{sql}\nlabels:\n", 1))
    rows.write("a.csv", "id,amount,country,label\n1,NA,DE,yes\n2,3,FR,\n")
    pq.write_table(
        pa.table({"id": [1], "amount": [5.5], "country": ["DE"], "label": ["yes"]}), rows.incoming / "b.parquet"
    )
    environment = {"URL": f"sqlite:///{database}"}
    proposals = propose(load_draft(rows.folder), environment=environment)
    assert [proposal.as_yaml() for proposal in proposals] == [
        '  - {name: amount, type: number, missing: ["NA"]}\n',
        '  - {name: country, type: category, values: ["DE", "FR", "US"]}\n',
    ]


def test_nothing_to_look_at_is_said(rows):
    with pytest.raises(ConfigError, match=r"the sources of some_tabular must have rows to look at \(got none\)"):
        propose(load_draft(rows.folder), environment={})


def test_write_keeps_comments_and_the_rest(rows, monkeypatch, capsys):
    monkeypatch.setenv("DETHRONE_PROJECTS", str(rows.folder.parent))
    rows.write("a.csv", "id,amount,country,label\n1,2,DE,yes\n2,3,DE,\n")
    before = (rows.folder / "project.yaml").read_text()
    assert main(["project", "columns", "some_tabular"]) == 0
    printed = capsys.readouterr().out
    assert printed == (
        'columns:\n  - {name: amount, type: number}\n  - {name: country, type: category, values: ["DE"]}\n'
    )
    assert main(["project", "columns", "some_tabular", "--write"]) == 0
    assert (rows.folder / "project.yaml").read_text() == before.replace("sources:\n", f"{printed}\nsources:\n", 1)
    assert [column.name for column in load_project(rows.folder).config.columns] == ["amount", "country"]
    assert main(["project", "columns"]) == 2


def test_write_names_the_columns_that_a_model_will_not_see(rows, monkeypatch, capsys):
    """A column of more values than a category is proposed with becomes a text, which the stock recipe leaves out."""
    monkeypatch.setenv("DETHRONE_PROJECTS", str(rows.folder.parent))
    cells = "".join(f"{number},{number},model {number},yes\n" for number in range(60))
    rows.write("a.csv", f"id,amount,country,label\n{cells}")
    assert main(["project", "columns", "some_tabular", "--write"]) == 0
    assert "A text is no input of tabular_mlp (country); a category" in capsys.readouterr().out


def test_columns_that_are_there_are_replaced(world_of):
    folder = world_of("tabular").folder
    text = (folder / "project.yaml").read_text()
    written = with_columns(text, [propose_column("amount", [1])])
    assert written.count("columns:\n") == 1
    assert "columns:\n  - {name: amount, type: number}\n\nsources:\n" in written
    assert written.endswith(text[text.index("sources:") :])
