"""Slices of the exam: which item is where, both models on each, and what the rule says of it."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline_tasks.contracts import Location
from pipeline_tasks.core.proportions import NOT_A_NUMBER, wilson_interval
from pipeline_tasks.evaluation import gate_rule
from pipeline_tasks.evaluation import slices as sl
from pipeline_tasks.evaluation import verdict as vd
from pipeline_tasks.evaluation.report import advice, slices
from pipeline_tasks.evaluation.report.markdown import markdown_summary
from pipeline_tasks.evaluation.scoring import ExamItem
from pipeline_tasks.evaluation.task import judge
from pipeline_tasks.project.gate_schema import Gate, Slice
from tests.unit.evaluation import support as s

LABELS = [s.CLASSES[index % 2] for index in range(120)]
BY_CAMERA = {"name": "camera", "by": "key_pattern", "pattern": "^(?P<slice>camera[0-9])/", "min_items": 20}


def declared(**changes):
    return Slice.model_validate({**BY_CAMERA, **changes})


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


def score(value="phone", *, share=0.9, champion=0.9, num_items=100, gain=None, shrunk=None, half=0.06):
    """Return a value's score with one-sided bounds `half` away; shrunk estimates are those that were seen."""
    old = None if champion is None else wilson_interval(round(champion * num_items), num_items)
    return sl.SliceScore(
        value,
        num_items,
        wilson_interval(round(share * num_items), num_items),
        old,
        gain,
        shrunk=share if shrunk is None else shrunk,
        share_low=share - half,
        share_high=share + half,
        shrunk_gain=gain.difference if gain is not None else None,
    )


def found_with(*scores, num_small=0, small=(), without=0):
    return sl.SliceEvidence("camera", tuple(scores), num_small, tuple(small), without)


def decide(*scores, first=False, evidence=None, **changes):
    scored = evidence or found_with(*scores)
    policy = s.policy(slices=[{**BY_CAMERA, **changes}])
    made = s.first_evidence(slices=(scored,)) if first else s.evidence(current=s.exam(slices=(scored,)))
    return gate_rule.decide(policy, made)


def codes(decision):
    return [reason.code for reason in decision.reasons]


FLOOR = {"floors": {"accuracy": 0.8}}


def test_a_slice_below_its_floor_keeps_the_champion_though_the_whole_is_better():
    decision = decide(score(share=0.61, champion=0.85), score("web"), **FLOOR)
    assert (decision.answer, decision.code) == ("keep", "SLICE_FLOOR")
    assert decision.headline == (
        "Keep the champion: accuracy on slice camera = phone must be at least 80.0 % (gate.slices.floors; "
        "got 61.0 % of 100 items, at most 67.0 % at the gate's confidence, where the champion has 85.0 %)."
    )
    assert "GAIN_SHOWN" in codes(decision)


@pytest.mark.parametrize(("share", "expected"), [(0.80, "promote"), (0.79, "inconclusive"), (0.73, "keep")])
def test_a_floor_is_inclusive_and_missed_where_that_is_shown(share, expected):
    assert decide(score(share=share), **FLOOR).answer == expected


def test_a_value_that_is_low_by_chance_is_no_finding():
    assert decide(score(share=0.79, shrunk=0.82), **FLOOR).answer == "promote"


def test_eight_small_slices_of_equal_models_do_not_keep_a_gain_out():
    """Eight values of 50 items; both models are right on 85 %: point estimates kept 63 % of true gains out."""
    random, promoted = np.random.default_rng(0), 0
    chosen = declared(min_items=20, floors={"accuracy": 0.8}, max_loss=0.05)
    values = [f"v{index % 8}" for index in range(400)]
    for _ in range(40):
        right = [random.random(400) < 0.85 for _ in range(2)]
        evidence = sl.score_slices(
            [chosen],
            {"camera": values},
            contender_right_n=right[0],
            champion_right_n=right[1],
            group_n=np.arange(400),
            alpha=0.05,
        )
        policy = s.policy(slices=[chosen.model_dump()])
        promoted += gate_rule.decide(policy, s.evidence(current=s.exam(slices=evidence))).answer == "promote"
    assert promoted >= 25


def test_the_champions_score_does_not_count_for_the_floor():
    assert decide(score(share=0.9, champion=0.1), **FLOOR).answer == "promote"


def test_floors_apply_to_the_first_model():
    assert decide(score(share=0.9, champion=None), first=True, **FLOOR).answer == "promote"
    decision = decide(score(share=0.7, champion=None), first=True, **FLOOR)
    assert (decision.answer, decision.code) == ("keep", "SLICE_FLOOR")
    assert "champion has" not in decision.headline


def test_a_margin_does_not_apply_to_the_first_model():
    assert decide(score(champion=None), first=True, max_loss=0.0).answer == "promote"


def test_no_floor_is_no_demand():
    assert decide(score(share=0.0)).answer == "promote"


def test_a_share_that_is_not_a_number_keeps_the_champion():
    broken = dataclasses.replace(score(), contender=NOT_A_NUMBER)
    assert decide(dataclasses.replace(broken, share_high=float("nan")), **FLOOR).code == "METRIC_INVALID"
    assert decide(dataclasses.replace(broken, shrunk=None), **FLOOR).code == "METRIC_INVALID"


@pytest.mark.parametrize(
    ("difference", "low", "high", "expected"),
    [
        (0.0, -0.02, 0.02, ("promote", "GAIN_SHOWN")),
        (0.0, -0.0201, 0.02, ("promote", "GAIN_SHOWN")),  # noted: SLICE_NOT_SHOWN
        (-0.0201, -0.05, -0.02, ("inconclusive", "SLICE_UNCERTAIN")),
        (-0.03, -0.05, -0.0201, ("keep", "SLICE_WORSE")),
        (0.05, 0.01, 0.09, ("promote", "GAIN_SHOWN")),
    ],
)
def test_the_margin_against_the_champion(difference, low, high, expected):
    decision = decide(score(gain=s.gain(difference, low=low, high=high, alpha=0.05)), max_loss=0.02)
    assert (decision.answer, decision.code) == expected
    assert ("SLICE_NOT_SHOWN" in codes(decision)) == (low == -0.0201)


def test_the_margins_words():
    decision = decide(score(gain=s.gain(-0.05, low=-0.08, high=-0.03, alpha=0.05)), max_loss=0.02)
    assert decision.headline == (
        "Keep the champion: on slice camera = phone of 100 items the contender is 5.0 points worse than the champion, "
        "at least 3.0 points worse with 95.0 % confidence; a loss of 2.0 points is allowed (gate.slices.max_loss)."
    )
    decision = decide(score(gain=s.gain(-0.03, low=-0.06, high=0.01, alpha=0.05)), max_loss=0.02)
    assert decision.headline == (
        "Inconclusive: on slice camera = phone of 100 items the contender is 3.0 points worse than the champion, but "
        "it may be 6.0 points worse with 95.0 % confidence; a loss of 2.0 points is allowed (gate.slices.max_loss). "
        "Drawn to the other values by as much as it is noise it is 3.0 points worse than the champion. More of its "
        "items decide."
    )


def test_a_margin_that_cannot_be_computed_keeps_the_champion():
    assert decide(score(gain=None), max_loss=0.02).code == "METRIC_INVALID"
    assert decide(score(gain=s.gain(float("nan"))), max_loss=0.02).code == "METRIC_INVALID"


def test_a_declared_slice_without_evidence_keeps_the_champion():
    policy = s.policy(slices=[BY_CAMERA])
    assert gate_rule.decide(policy, s.evidence()).code == "METRIC_INVALID"


def test_small_values_are_listed_and_not_judged():
    decision = decide(evidence=found_with(score(), num_small=12, small=[("web", 7), ("tv", 3)]), **FLOOR)
    assert decision.answer == "promote"
    assert decision.reasons[-1].text == (
        "slice camera is not judged where it has fewer than 20 items: web (7), tv (3) and 10 more."
    )
    assert decision.reasons[-1].code == "SLICE_SMALL"


def test_a_slice_that_no_item_has_leaves_the_matter_open_where_the_rule_speaks_of_it():
    decision = decide(evidence=found_with(without=1000), **FLOOR)
    assert (decision.answer, decision.code) == ("inconclusive", "SLICE_MISSING")
    assert decide(evidence=found_with(without=1000)).answer == "promote"


def test_the_worst_of_at_most_ten_comes_first():
    scores = [score(f"v{index:02d}", share=0.73 - index / 100) for index in range(12)]
    decision = decide(*scores, **FLOOR)
    against = [reason.text for reason in decision.reasons if reason.stand == "against"]
    assert len(against) == 10
    assert "v11" in against[0]
    assert "v10" in against[1]
    more = next(reason for reason in decision.reasons if reason.code == "SLICES_MORE")
    assert more.text == "2 more findings on slices are in the report's table."


def test_what_is_sure_comes_before_what_is_open():
    unsure = [score(f"v{index}", gain=s.gain(-0.03, low=-0.5, alpha=0.05)) for index in range(10)]
    low = score("low", share=0.73, gain=s.gain(0.0, low=0.0, alpha=0.05))
    assert decide(*unsure, low, max_loss=0.02, **FLOOR).code == "SLICE_FLOOR"


def test_slices_that_hold_are_said_to_hold():
    decision = decide(score(), score("web"), **FLOOR)
    assert "every slice that was judged holds: 2 of them." in [reason.text for reason in decision.reasons]
    assert "SLICES" not in codes(decide(score()))


@pytest.fixture
def run(database, object_store):
    """Judge for real; the contender is better on the whole and wrong where `wrong` says."""

    def call(*, wrong, gate, champion=True):
        exams = [s.put_exam(object_store, epoch=2, labels=LABELS)]
        old = s.answers(1, LABELS) | s.answers(2, LABELS, wrong=[index for index in range(120) if index % 3][:45])
        new = s.answers(1, LABELS) | s.answers(2, LABELS, wrong=wrong)
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
