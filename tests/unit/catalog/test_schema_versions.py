"""Class names of every schema version, and what they stand for now."""

import datetime as dt

import pytest

from pipeline_tasks.catalog.schema_versions import SchemaVersion, counts_now, names_now

NOW = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)


def history(*versions):
    return [SchemaVersion(number, tuple(classes), NOW, dict(to)) for number, (classes, to) in enumerate(versions, 1)]


FIRST = (["cat", "dog", "owl"], {})
PET, NO_OWL = (["pet", "owl"], {"cat": "pet", "dog": "pet"}), (["cat", "dog"], {"owl": None})


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        ([], {}),
        ([FIRST], {}),
        ([FIRST, (["cat", "dog", "owl", "bat"], {})], {}),
        ([FIRST, (["cat", "dog", "eagle"], {"owl": "eagle"})], {"owl": "eagle"}),
        ([FIRST, (["cat", "dog", "eagle"], {"owl": "eagle"}), (["cat", "dog", "bird"], {"eagle": "bird"})],
         {"owl": "bird", "eagle": "bird"}),
        ([FIRST, PET], {"cat": "pet", "dog": "pet"}),
        ([FIRST, PET, FIRST], {}),  # undone, and what was labeled `pet` meanwhile stands for nothing
        ([FIRST, PET, (FIRST[0], {"pet": "cat"})], {"pet": "cat"}),
        ([FIRST, (["cat", "owl"], {"dog": "cat"})], {"dog": "cat"}),
        ([FIRST, NO_OWL], {"owl": None}),
        ([FIRST, NO_OWL, FIRST], {}),  # back again
        ([FIRST, (["cat", "dog", "eagle"], {"owl": "eagle"}), (["cat", "dog"], {"eagle": None})],
         {"owl": None, "eagle": None}),
        ([FIRST, (["boot", "shoe"], {})], {}),  # a list that was taken before there was a label
    ],
)  # fmt: skip
def test_each_name_is_read_by_what_the_versions_after_it_made_of_it(versions, expected):
    assert names_now(history(*versions)) == expected


def test_counts_by_class_are_added_up_under_the_names_of_now():
    former = {"cat": "pet", "dog": "pet", "owl": None}
    assert counts_now({"cat": 2, "dog": 3, "owl": 4, "bat": 5}, former) == {"pet": 5, "bat": 5}
