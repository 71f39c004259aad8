"""The table of protections fits the tree; `make test-protections` switches each off and sees its tests fail."""

import dataclasses
from collections import Counter

import pytest

from tests.protections import forks, run
from tests.protections.protection import ROOT, Protection, faults
from tests.protections.table import PROTECTIONS

ONE = Protection("a", "b", "pyproject.toml", 'name = "dethrone"', "", ("tests/unit/test_protections.py::test_it",))


@pytest.mark.parametrize("protection", PROTECTIONS, ids=lambda protection: protection.name)
def test_its_text_stands_once_and_its_tests_are_there(protection):
    assert list(faults(protection)) == []


def test_there_are_many_with_names_of_their_own():
    assert len(PROTECTIONS) >= 100
    assert [name for name, count in Counter(protection.name for protection in PROTECTIONS).items() if count > 1] == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"original": "no such text"}, r"stand exactly once in pyproject.toml (got it 0 times)"),
        ({"original": "dethrone"}, r"stand exactly once in pyproject.toml (got it "),
        ({"file": "gone.py"}, r"stand exactly once in gone.py (got it 0 times)"),
        ({"off": 'name = "dethrone"'}, "must be changed"),
        ({"tests": ()}, "must have a test that fails without it (got none)"),
        ({"tests": ("tests/unit/test_protections.py::test_gone",)}, "must be a test (got no such function)"),
        ({"tests": ("tests/unit/gone.py::test_it",)}, "must be a test (got no such function)"),
    ],
)
def test_a_row_that_no_longer_fits_is_told(changes, said):
    assert [text for text in faults(dataclasses.replace(ONE, **changes)) if said in text]


OUTPUT = "FAILED tests/a.py::test_one[x] - assert 1\nERROR tests/a.py::test_two - broken\n1 failed in 1 s"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (1, ["tests/a.py::test_two must fail when it is off (it did not)."]),
        (2, ["its tests must run when it is off (got exit code 2)."]),
        (forks.TIMED_OUT, ["its tests must run when it is off (got exit code 124)."]),
        (0, ["tests/a.py::test_two must fail when it is off (it did not)."]),
    ],
)
def test_only_a_test_that_fails_notices(code, said):
    """An error, as of a module that does not load, is none: the test has not looked."""
    unnoticed = list(run.unnoticed(["tests/a.py::test_one", "tests/a.py::test_two"], code=code, output=OUTPUT))
    assert unnoticed == said


def test_a_sample_is_the_same_each_time_and_quick():
    chosen = run.choose(PROTECTIONS, names=[], sample=8)
    assert chosen == run.choose(PROTECTIONS, names=[], sample=8)
    assert len({protection.name for protection in chosen}) == 8
    assert len({protection.file.split("/")[1] for protection in chosen}) >= 4
    assert not [protection for protection in chosen if protection.served]
    assert run.choose(PROTECTIONS, names=[], sample=None) == PROTECTIONS
    assert run.choose(PROTECTIONS, names=["four eyes"], sample=None)[0].name == "four eyes"
    with pytest.raises(SystemExit, match=r"names must be among .* \(got no such\)"):
        run.choose(PROTECTIONS, names=["no such"], sample=None)


def test_the_tree_itself_is_never_changed(tmp_path):
    protection = PROTECTIONS[0]
    before = (ROOT / protection.file).read_bytes()
    (tmp_path / protection.file).parent.mkdir(parents=True)
    (tmp_path / protection.file).write_bytes(before)
    work = run._work(protection, 3)
    work.before(tmp_path)
    changed = (tmp_path / protection.file).read_text()
    assert protection.original not in changed
    assert protection.off in changed
    assert (tmp_path / protection.file).stat().st_mtime == run.MTIME + 3
    work.after(tmp_path)
    assert (tmp_path / protection.file).read_bytes() == (ROOT / protection.file).read_bytes() == before
