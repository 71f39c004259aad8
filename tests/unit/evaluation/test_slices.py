"""Slices of the exam: the place of each item, both models on each value, and the page of a real judgement."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline_tasks.contracts import Location
from pipeline_tasks.core.proportions import wilson_interval
from pipeline_tasks.evaluation import slices as sl
from pipeline_tasks.evaluation import verdict as vd
from pipeline_tasks.evaluation.report import advice, slices
from pipeline_tasks.evaluation.report.markdown import markdown_summary
from pipeline_tasks.evaluation.scoring import ExamItem
from pipeline_tasks.evaluation.task import judge
from pipeline_tasks.project.gate_schema import Gate
from tests.unit.evaluation import support as s
from tests.unit.evaluation.slices_case import BY_CAMERA, declared


def item(name, *, source="shop", origin="source", media_type="text/plain"):
    return ExamItem(name, "shirt", media_type, source, origin, Location("items/x", 0, 1), name, name)


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("source", ("shop", "web")),
        ("origin", ("source", "production")),
        ("media_type", ("text/plain", "text/html")),
    ],
)
def test_a_value_is_a_field_of_the_item(by, expected):
    items = [item("a"), item("b", source="web", origin="production", media_type="text/html")]
    assert sl.values_of(items, [declared(by=by, pattern=None)], keys={}) == {"camera": expected}


@pytest.mark.parametrize(
    ("key", "expected"),
    [("camera1/x.png", "camera1"), ("more/camera1/x.png", None), ("x.png", None)],
)
def test_a_value_is_what_the_pattern_finds_in_the_key(key, expected):
    assert sl.values_of([item("a")], [declared()], keys={"a": key}) == {"camera": (expected,)}


def test_an_empty_or_unmatched_group_is_no_value():
    chosen = declared(pattern="^(?P<slice>[a-z]*)(?P<rest>x)?")
    assert sl.values_of([item("a")], [chosen], keys={"a": "1/x"}) == {"camera": (None,)}
    chosen = declared(pattern="^(?P<slice>z)?")
    assert sl.values_of([item("a")], [chosen], keys={"a": "1/x"}) == {"camera": (None,)}


def evidence_of(values, *, contender, champion, **changes):
    right = [None if answers is None else np.array(answers, dtype=bool) for answers in (contender, champion)]
    (evidence,) = sl.score_slices(
        [declared(**changes)], {"camera": values}, contender_right_n=right[0], champion_right_n=right[1], alpha=0.05
    )
    return evidence


def test_each_value_is_scored_on_its_own_items_for_both_models():
    values = ["a", "b", "a", None, "b", "a"]
    evidence = evidence_of(values, contender=[1, 0, 1, 1, 0, 0], champion=[1, 1, 0, 0, 1, 0], min_items=2, max_loss=0.1)
    assert [(value_score.value, value_score.num_items) for value_score in evidence.scores] == [("a", 3), ("b", 2)]
    assert [value_score.contender for value_score in evidence.scores] == [wilson_interval(2, 3), wilson_interval(0, 2)]
    assert [value_score.champion for value_score in evidence.scores] == [wilson_interval(1, 3), wilson_interval(2, 2)]
    assert [(value_score.gain.num_wins, value_score.gain.num_losses) for value_score in evidence.scores] == [
        (1, 0),
        (0, 2),
    ]
    assert (evidence.num_small, evidence.small, evidence.num_without_value) == (0, (), 1)


def test_values_with_too_few_items_are_only_named():
    evidence = evidence_of(["a"] * 3 + ["b"] * 2 + ["c"] * 2, contender=[0] * 7, champion=None, min_items=3)
    assert [value_score.value for value_score in evidence.scores] == ["a"]
    assert (evidence.num_small, evidence.small) == (2, (("b", 2), ("c", 2)))
    assert evidence.scores[0].champion is None


def test_of_many_small_values_the_largest_ten_are_named():
    values = [f"v{index:02d}" for index in range(12) for _ in range(1 + index)]
    evidence = evidence_of(values, contender=[1] * len(values), champion=None, min_items=50)
    assert evidence.num_small == 12
    assert evidence.small[0] == ("v11", 12)
    assert len(evidence.small) == 10


def test_a_gain_is_computed_only_where_a_margin_is_asked_for():
    assert evidence_of(["a"], contender=[1], champion=[1], min_items=1).scores[0].gain is None


@pytest.fixture
def run(database, object_store):
    """Judge for real; the contender is better on the whole and wrong where `wrong` says."""

    def call(*, wrong, gate, champion=True):
        exams = [s.put_exam(object_store, epoch=2, labels=s.LABELS)]
        old = s.answers(1, s.LABELS) | s.answers(2, s.LABELS, wrong=[index for index in range(120) if index % 3][:45])
        new = s.answers(1, s.LABELS) | s.answers(2, s.LABELS, wrong=wrong)
        world = s.World(object_store, {"old": s.TableModel(old), "new": s.TableModel(new)}, exams)
        old_model = s.put_model(object_store, "old") if champion else None
        project, new_model = s.project(gate={"exam": {"min_items": 10}, **gate}), s.put_model(object_store, "new")
        ref = judge(project, new_model, exams, champion=old_model, context=world.context(database))
        prefix = ref.object_key
        stored = [object_store.get(f"{prefix}/{name}") for name in ("verdict.json", "evidence.parquet", "report.html")]
        return ref, world, *stored

    return call


CAMERA_0 = range(0, 30, 3)  # ten of the forty items that camera0 took
GATE = {"slices": [{**BY_CAMERA, "floors": {"accuracy": 0.9}}]}


def test_a_contender_that_is_better_on_the_whole_is_kept_by_a_slice(run):
    ref, world, stored, _evidence, page = run(wrong=CAMERA_0, gate=GATE)
    assert (ref.answer, ref.code) == ("keep", "SLICE_FLOOR")
    assert world.lookups == 1
    current = json.loads(stored)["evidence"]["current"]
    assert current["contender"]["accuracy"]["estimate"] > current["champion"]["accuracy"]["estimate"]
    scores = current["slices"][0]["scores"]
    assert [
        (value_score["value"], value_score["contender"]["estimate"], value_score["num_items"]) for value_score in scores
    ] == [
        ("camera0", 0.75, 40),
        ("camera1", 1.0, 40),
        ("camera2", 1.0, 40),
    ]
    assert [value_score["champion"]["estimate"] for value_score in scores] == [1.0, 0.425, 0.45]
    assert b"Slices, worst first" in page
    assert run(wrong=CAMERA_0, gate={})[0].answer == "promote"


def test_the_floor_of_a_first_model_is_judged(run):
    assert run(wrong=CAMERA_0, gate=GATE, champion=False)[0].code == "SLICE_FLOOR"


def test_keys_are_asked_for_only_where_a_pattern_needs_them(run):
    by_source = {"slices": [{"name": "source", "by": "source"}]}
    assert run(wrong=[], gate=by_source)[1].lookups == 0


@pytest.mark.parametrize("wrong", [CAMERA_0, range(0, 3, 3)])
def test_replay_needs_nothing_but_the_evidence(run, wrong):
    gate = {"slices": [{**GATE["slices"][0], "max_loss": 0.05}, {"name": "source", "by": "source"}]}
    ref, _world, stored, evidence, _page = run(wrong=wrong, gate=gate)
    again = vd.replay(json.loads(stored), evidence)
    assert vd.document_bytes(again) == stored
    assert vd.verdict_id_of(again) == ref.verdict_id


def table_of(page):
    """Return the page's section of slices, with plain blanks."""
    section = page.decode().partition("<h2>Slices, worst first</h2>")[2].partition("</section>")[0]
    return section.replace("\N{NO-BREAK SPACE}", " ")


def test_the_page_shows_both_models_on_each_value_worst_first(run):
    *_, stored, _evidence, page = run(wrong=CAMERA_0, gate=GATE)
    document, table = json.loads(stored), table_of(page)
    assert table.index("camera0") < table.index("camera1")
    low, high = (document["evidence"]["current"]["slices"][0]["scores"][0]["contender"][end] for end in ("low", "high"))
    assert "75.0 % <span" in table
    assert f"{100 * low:.1f} to {100 * high:.1f}" in table
    assert "-25.0" in table
    assert "at least 90.0 %" in table
    assert [score["value"] for _, score in slices.slice_rows(document)] == ["camera0", "camera1", "camera2"]


def test_the_page_names_what_was_left_out(run):
    chosen = {**BY_CAMERA, "pattern": "^(?P<slice>camera[01])/", "min_items": 50}
    table = table_of(run(wrong=[], gate={"slices": [chosen]})[-1])
    assert "camera: too few items in camera0 (40), camera1 (40); 40 items have no value." in table


def test_the_advice_says_how_many_more_right_answers_would_do(run):
    document = json.loads(run(wrong=CAMERA_0, gate=GATE)[2])
    lines = advice.what_would_change(document)
    assert "Slice camera = camera0: 6 more of its 40 items right would meet the floor." in lines


def test_the_summary_names_the_weakest_slices(run):
    document = json.loads(run(wrong=CAMERA_0, gate=GATE)[2])
    assert "Weakest slices of the contender (accuracy): camera camera0 75.0 %" in markdown_summary(document)


def test_the_documented_slices_are_valid():
    document = (Path(__file__).resolve().parents[3] / "docs" / "gate.md").read_text()
    block = next(part for part in document.split("```yaml\n")[1:] if "slices:" in part).split("```")[0]
    camera, shop = Gate.model_validate(yaml.safe_load(block)["gate"]).slices
    assert (camera.floors.accuracy, camera.max_loss, shop.max_loss) == (0.8, None, 0.05)
    assert sl.values_of([item("a")], [camera], keys={"a": "camera12/x.png"}) == {"camera": ("camera12",)}


def test_a_verdict_from_before_there_were_slices_has_none(run):
    document = json.loads(run(wrong=[], gate={})[2])
    del document["question"]["policy"]["slices"]
    del document["evidence"]["current"]["slices"]
    assert slices.slice_rows(document) == []
