"""Stored verdicts replay byte for byte: promoted, kept and open ones, as former versions wrote them.

Those of rule 5 are from before a verdict told of its exam's labels.
"""

import json
from pathlib import Path

import pytest

from pipeline_tasks.evaluation import verdict as vd
from pipeline_tasks.evaluation.report.page import markdown_summary

DATA = Path(__file__).parent / "data"
STORED = sorted(path for rule in (3, 4, 5) for path in (DATA / f"verdict_rule_{rule}").glob("*.json"))


@pytest.mark.parametrize("path", STORED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_verdict_of_a_former_version_replays_byte_for_byte(path):
    stored = path.read_bytes()
    again = vd.replay(json.loads(stored), path.with_suffix(".parquet").read_bytes())
    assert vd.document_bytes(again) == stored
    assert vd.verdict_id_of(again) == vd.verdict_id_of(json.loads(stored))
    assert json.loads(stored)["decision"]["headline"].split(":")[0] in markdown_summary(again)


def test_every_answer_is_among_them():
    answers = {json.loads(path.read_bytes())["decision"]["answer"] for path in STORED}
    assert answers == {"promote", "keep", "inconclusive"}
