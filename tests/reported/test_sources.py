"""Tables and labels as other people write them: read right, or refused by name, and the rest is read.

Source: public bug reports of data tools, and tables of public data sets (see README.md here).
"""

import datetime as dt
import json

import pytest

from pipeline_tasks.ingest.sources import tables as rows_module
from tests.reported.sources_case import add_case, contents, reasons

HEAD = "id,amount,country,label\n"
GOOD = HEAD + "".join(f"g{n},{n},DE,\n" for n in range(5))


TSV = [
    ("A8-lone", 'id\ttext\tlabel\n1\t5" screen\tpositive\n2\tgood "film\tnegative\n3\tplain\t\n'),
    ("A8-first", 'id\ttext\tlabel\n1\t"never closed\tpositive\n2\tsecond\tnegative\n'),
    ("A8-quoted", 'id\ttext\tlabel\n1\t"as a cell"\tpositive\n'),
]


@pytest.mark.parametrize("table", [case[1] for case in TSV], ids=[case[0] for case in TSV])
def test_a_tsv_file_has_no_quotes(texts, table):
    """A tab separates, a quote is a character: nothing is read as one row that is two."""
    texts.write("a.tsv", table)
    texts.run()
    lines = [line.split("\t") for line in table.splitlines()[1:]]
    assert contents(texts) == {key: text.encode() for key, text, _ in lines}
    assert {key: item.source_label or "" for key, item in texts.all().items()} == {
        key: label for key, _, label in lines
    }


INSIDE = {"line 7": "CSV_INVALID", "line 8": "LINE_TOO_LONG", "line 9": "CSV_INVALID"}
CSV_CASES = [
    ("A8-unclosed", GOOD + 'x,1,"never closed,\ny,2,US,\nz,3,FR,\n', ["y", "z"], {"line 7": "CSV_INVALID"}),
    ("A8-unclosed-last", GOOD + 'x,1,"never closed,\n', [], {"line 7": "CSV_INVALID"}),
    ("A8-swallowed", GOOD + 'x,1,"open,\ny,2,US,\nz,3,closed",\nw,4,FR,\n', ["y", "z", "w"], {"line 7": "CSV_INVALID"}),
    ("A8-inner", GOOD + 'x,1,"a"b,\ny,2,US,\n', ["y"], {"line 7": "CSV_INVALID"}),
    ("A8-multi-line", GOOD + 'x,1,"two\nlines, and\nmore",\ny,2,US,\n', ["x", "y"], {}),
    ("A8-cr", (GOOD + "y,2,US,\n").replace("\n", "\r"), ["y"], {}),
    ("A8-bom", "\ufeff" + GOOD + "y,2,US,\n", ["y"], {}),
    ("C7-blank", GOOD + ",,,\n\n , ,,\n,\ny,2,US,\n,,,\n", ["y"], {}),
    ("C7-above", "\n,,,\n" + GOOD + "y,2,US,\n", ["y"], {}),
    ("B-long", GOOD + f"x,1,{'x' * 200_000},\ny,2,US,\n", ["y"], {"line 7": "LINE_TOO_LONG"}),
    ("B-long-inside", GOOD + f'x,1,"a\n{"x" * 200_000}\n",\ny,2,US,\n', ["y"], INSIDE),
]


@pytest.mark.parametrize(
    ("table", "good", "bad"), [case[1:] for case in CSV_CASES], ids=[case[0] for case in CSV_CASES]
)
def test_a_bad_row_of_a_csv_file_stops_no_other(rows, table, good, bad):
    """A line that is no row is named by the line where it begins; the lines below it are read."""
    rows.write("a.csv", table)
    rows.run()
    assert set(rows.all()) == {"g0", "g1", "g2", "g3", "g4", *good}
    assert rows.refused() == {f"a.csv, {place}": code for place, code in bad.items()}
    assert rows.run(batch="second").num_quarantined == 0


def test_blank_rows_of_a_spreadsheet_are_skipped_and_counted(rows):
    """`,,,` below a table is nothing."""
    add_case(rows, "f14_excel_blank_rows.csv")
    report = rows.run()
    assert (report.num_seen, report.num_new, report.num_quarantined, report.num_blank) == (1, 1, 0, 3)


def test_many_quotes_without_an_end_do_not_take_for_ever(rows, monkeypatch):
    """Each is looked for in the rest of the file, up to a limit; then the file is refused, what was read stays."""
    monkeypatch.setattr(rows_module, "LONG_RECORD_LINES", 5)
    monkeypatch.setattr(rows_module, "MAX_LONG_RECORDS", 2)
    rows.write("a.csv", GOOD + ('x,1,"open\n' + "y,1,US,\n" * 6) * 4)
    rows.run()
    assert rows.refused() == dict.fromkeys(
        ["a.csv", "a.csv, line 7", "a.csv, line 14", "a.csv, line 21"], "CSV_INVALID"
    )
    assert len(rows.all()) == 6


HEADERS = [
    ("A8-semicolons", "id;amount;country;label\n1;2,5;DE;yes\n", "It looks separated by semicolons"),
    (
        "A8-tabs",
        "id\tamount\tcountry\tlabel\n1\t2\tDE\tyes\n",
        "It looks separated by tabs: save it with commas, or name",
    ),
    ("A8-sep", "sep=;\nid;amount;country;label\n", "Remove the first line"),
    (
        "A8-spaces",
        "id, amount,country,label\n1,2,DE,yes\n",
        "(got the columns id, ' amount', country, label). Upper and",
    ),
    ("A8-case", "id,Amount,country,label\n", "count: correct 'Amount'."),
    ("A8-twice", "id,amount,amount,country,label\n", "the column amount once"),
]


@pytest.mark.parametrize(("table", "reason"), [case[1:] for case in HEADERS], ids=[case[0] for case in HEADERS])
def test_a_header_that_does_not_fit_says_what_to_do(rows, table, reason):
    """The separator, spaces and case of a header are said."""
    rows.write("a.csv", table)
    rows.run()
    ((key, code, said),) = reasons(rows)
    assert (key, code) == ("a.csv", "COLUMN_TWICE" if "once" in reason else "COLUMN_MISSING")
    assert reason in said


CHINESE = "id,text,label\n1,这部电影很好看我非常喜欢,positive\n2,不好看的一部电影,negative\n"
ENCODINGS = [
    ("E11-gb18030", CHINESE.encode("gb18030"), "GB18030"),
    ("E11-gb18030-header", CHINESE.replace("label", "标签").encode("gb18030"), "GB18030"),
    ("E11-big5", "id,text,label\n1,這部電影很好看我非常喜歡,x\n2,這部電影不好看,y\n".encode("big5"), "Big5"),
    ("E11-shift-jis", "id,text,label\n1,この映画はとても良かった,x\n2,よくない,y\n".encode("shift_jis"), "Shift JIS"),
    ("E11-windows-1251", "id,текст,label\n1,хорошо,x\n".encode("cp1251"), "Windows-1251"),
    ("B3-latin-1", "id;größe;text\n1;2;café\n".encode("latin-1"), "Windows-1252 or Latin-1"),
    ("B3-utf-16", CHINESE.encode("utf-16"), "UTF-16"),
    ("B3-utf-16-be", CHINESE.encode("utf-16-be"), "UTF-16 (big endian)"),
    ("B3-utf-32", CHINESE.encode("utf-32"), "UTF-32"),
]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
@pytest.mark.parametrize(("data", "looks"), [case[1:] for case in ENCODINGS], ids=[case[0] for case in ENCODINGS])
def test_a_table_in_another_encoding_is_refused_as_that(texts, data, looks, suffix):
    """Not as an unknown class or a missing column; the look of it is said, where it can be told."""
    texts.write(f"a.{suffix}", data)
    texts.write("good.csv", "id,text,label\n1,fine,positive\n")
    texts.run()
    assert list(contents(texts).values()) == [b"fine"]
    told = reasons(texts)
    assert {code for _, code, _ in told} == {"TEXT_NOT_UTF8"}
    assert all(looks in said and "Convert" in said and "to UTF-8" in said for _, _, said in told)


def test_one_row_in_another_encoding_is_refused_alone(texts):
    """The encoding is the reason, also where the label is the trouble, or the number of cells."""
    good = "".join(f"{n},text {n},\n" for n in range(9))
    bad = "x,fine,grün\ny,fine,grün,more\n".encode("latin-1")
    texts.write("a.csv", b"id,text,label\n" + good.encode() + bad)
    texts.write("b.jsonl", b'{"id": "z", "text": "a", "label": "gr\xfcn"}\n{"id": "j", "text": "b", "label": null}\n')
    texts.run()
    assert len(texts.all()) == 10
    assert texts.refused() == dict.fromkeys(["a.csv, line 11", "a.csv, line 12", "b.jsonl, line 1"], "TEXT_NOT_UTF8")


def test_a_text_file_in_utf16_says_so(texts):
    """A sibling of the other encodings: an ASCII text in UTF-16 without a mark is valid UTF-8, of every other NUL."""
    folder = "  - type: folder\n    name: files\n    path: files\n"
    texts.edit("labels:\n", folder + "labels:\n")
    (texts.folder / "files").mkdir()
    (texts.folder / "files" / "a.txt").write_bytes("good film\n".encode("utf-16-le"))
    (texts.folder / "files" / "b.txt").write_bytes("größer\n".encode("latin-1"))
    texts.run()
    told = {key: said for key, _, said in reasons(texts)}
    assert "got UTF-16 (little endian)" in told["a.txt"]
    assert "got Windows-1252 or Latin-1 in line 1" in told["b.txt"]


def test_a_bad_row_that_is_read_again_is_not_counted_again(rows):
    """A run of good news only is not stopped for what was refused days ago."""
    rows.edit("max_quarantine_share: 1", "max_quarantine_share: 0.5")
    rows.write("a.csv", GOOD + "b1,1,DE,maybe\nb2,1,DE,maybe\n")
    assert rows.run().num_quarantined == 2
    rows.write("a.csv", HEAD + "b1,1,DE,maybe\nb2,1,DE,maybe\n")
    assert rows.run(batch="second").num_quarantined == 0


def test_a_source_that_breaks_in_a_way_nobody_foresaw_stops_no_other(texts, monkeypatch):
    """One source that fails stops no other: the others are read, the error names the source and its kind."""
    from pipeline_tasks.errors import SourceUnavailable
    from pipeline_tasks.ingest.sources.folder import FolderFiles

    texts.edit("labels:\n", "  - type: folder\n    name: files\n    path: files\nlabels:\n")
    (texts.folder / "files").mkdir()
    (texts.folder / "files" / "a.txt").write_text("hello")
    listing = FolderFiles.listing

    def broken(self):
        if self.name == "incoming":
            raise RecursionError("deep \0")
        yield from listing(self)

    monkeypatch.setattr(FolderFiles, "listing", broken)
    with pytest.raises(SourceUnavailable, match=r"source incoming must be readable \(got RecursionError: deep \\x00\)"):
        texts.run()
    assert list(texts.all()) == ["a.txt"]


def test_an_error_that_nobody_foresaw_refuses_one_row(rows, monkeypatch):
    """The class of the error is the reason; our own errors go through."""
    from pipeline_tasks.ingest import incremental_reader

    examine = incremental_reader.examine_row

    def broken(row, **options):
        if row.values.get("id") == "g2":
            raise ZeroDivisionError("of \ud800")
        return examine(row, **options)

    monkeypatch.setattr(incremental_reader, "examine_row", broken)
    rows.write("a.csv", GOOD)
    report = rows.run()
    assert (report.num_new, report.num_quarantined) == (4, 1)
    ((key, code, said),) = reasons(rows)
    assert (key, code) == ("a.csv, line 4", "UNREADABLE")
    assert r"got ZeroDivisionError: of \ud800" in said
    monkeypatch.setattr(incremental_reader, "examine_row", lambda *_, **__: (_ for _ in ()).throw(MemoryError()))
    rows.write("b.csv", GOOD)
    with pytest.raises(MemoryError):
        rows.run(batch="second")


def test_quarantine_says_how_much_there_is(rows, monkeypatch, capsys):
    """1,234 rows are 1,234, in pages, and on the overview."""
    from types import SimpleNamespace

    from pipeline_tasks.cli import views as cli_views

    rows.write("a.csv", HEAD + "".join(f"{n},1,DE,maybe\n" for n in range(1234)))
    rows.run()
    monkeypatch.setattr(cli_views, "build_resources", lambda: SimpleNamespace(database=rows.items.database))
    view = cli_views.quarantine("some_tabular", limit=100, page=13, as_json=True)
    assert (view["total"], view["page"], len(view["rows"])) == (1234, 13, 34)
    text = cli_views.quarantine("some_tabular", limit=100, page=2, as_json=False).splitlines()
    assert (len(text), text[-1]) == (101, "101 to 200 of 1,234; the next ones: --page 3")
    assert (
        cli_views.quarantine("some_tabular", limit=100, page=13, as_json=False).splitlines()[-1]
        == "1,201 to 1,234 of 1,234"
    )
    assert cli_views.quarantine("some_tabular", limit=100, page=14, as_json=False) == (
        "Page 14 is empty: some_tabular has 1,234 in quarantine."
    )
    pages = [cli_views.quarantine("some_tabular", limit=500, page=n, as_json=True)["rows"] for n in (1, 2, 3)]
    assert len({row["key"] for page in pages for row in page}) == 1234
    json.dumps(view, default=dt.datetime.isoformat)
