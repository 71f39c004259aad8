import datetime as dt

import pytest

from tests import retried

DAY = dt.date(2026, 11, 30)
CAUSE = "the port of the first start is still taken"


def test_every_entry_of_the_list_has_a_file_a_day_and_a_cause():
    assert list(retried.faults(retried.entries())) == []


@pytest.mark.parametrize(
    ("name", "entry", "message"),
    [
        (
            "tests/unit/test_gone.py",
            {"seen": DAY, "cause": CAUSE},
            "tests/unit/test_gone.py must be a file of the tests",
        ),
        ("tests/conftest.py", {"cause": CAUSE}, "tests/conftest.py: seen must be the day"),
        ("tests/conftest.py", {"seen": DAY, "cause": " flaky "}, "tests/conftest.py: cause must say why"),
        ("tests/conftest.py", {"seen": DAY}, "tests/conftest.py: cause must say why"),
    ],
)
def test_an_entry_without_its_parts_is_a_fault(name, entry, message):
    (fault,) = retried.faults({name: entry})
    assert fault.startswith(message)


def test_a_retried_file_without_an_entry_is_a_defect_once():
    lines = retried.unlisted(["tests/b.py", "tests/a.py", "tests/b.py"], {"tests/a.py": {"seen": DAY, "cause": CAUSE}})
    assert [line.split(" passed ")[0] for line in lines] == ["DEFECT: tests/b.py"]
