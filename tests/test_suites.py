"""Folders that `make` gives to pytest for a suite hold every test with the suite's marker."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SUITE = re.compile(r"pytest -m (\w+) (?:\$\(or \$\(FILES\),([\w/ ]+)\)|(tests/\w+))")
FOLDERS = {marker: (given or alone).split() for marker, given, alone in SUITE.findall((ROOT / "Makefile").read_text())}


@pytest.mark.parametrize("marker", ["compose", "docker", "e2e", "gpu"])
def test_no_test_of_a_suite_is_elsewhere(marker):
    marked = [
        path.relative_to(ROOT) for path in (ROOT / "tests").rglob("*.py") if f"pytest.mark.{marker}" in path.read_text()
    ]
    assert marked
    assert [path for path in marked if not any(path.is_relative_to(folder) for folder in FOLDERS[marker])] == []
