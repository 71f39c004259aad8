"""Notes of `dethrone validate`, `status` and `train` on values that a project's columns do not declare."""

from types import SimpleNamespace

import pytest

from pipeline_tasks.orchestration.project_notes import unknown_values_line


@pytest.mark.parametrize("metrics", [None, {}, {"inputs": None}, {"inputs": {"unmatched": {}}}])
def test_nothing_is_said_where_every_value_is_known(metrics):
    newest = None if metrics is None else SimpleNamespace(metrics=metrics)
    assert unknown_values_line("flights", newest) == ""


def test_values_that_no_column_declares_are_named_with_their_rows():
    """A source that began to write letters for words: 333 of 1,401 rows were trained on without their best column."""
    unmatched = {"state": {"'E'": 1140, "'V'": 79}, "zone": {f"'{n}'": 9 - n for n in range(8)}}
    text = unknown_values_line("flights", SimpleNamespace(metrics={"inputs": {"unmatched": unmatched}}))
    assert "state ('E' 1,140, 'V' 79); zone ('0' 9, '1' 8, '2' 7, '3' 6, '4' 5, '5' 4). Add them" in text
