"""The overview's lines on a champion and on what runs beside it."""

import dataclasses

from pipeline_tasks.catalog.routes import RouteRecord, ServingRepository
from pipeline_tasks.contracts import Route, RouteEntry
from pipeline_tasks.orchestration import overview
from pipeline_tasks.orchestration.overview_page import BesideLine, ProjectLine, RunLine, render_overview
from tests.ledger_case import Case, minutes

CHAMPION, NEXT = RouteEntry("d1", "v1", "http://a", 100), RouteEntry("d2", "v2", "http://b", 0)


def test_a_champion_serves_since_it_became_it_whatever_stood_beside_it(database, object_store):
    assert overview._champion_since([]) is None
    case = Case(database, object_store)
    case.move("v1", at=1)
    case.move("v2", at=2)
    case.move("v2", action="canary_failed", verdict_id="verdict-v2", at=3)
    assert overview._champion_since(ServingRepository(database).records(case.project)) == minutes(2)


def record(action, *, share=None, at, reason="why"):
    """Return a generation under champion v1: with v2 at a share, as a shadow (0), or alone (None)."""
    entries = (dataclasses.replace(CHAMPION, weight=100 - (share or 0)),)
    entries += (dataclasses.replace(NEXT, weight=share),) if share else ()
    shadows = (NEXT,) if share == 0 else ()
    route = Route("fashion", 1, "c", None, "v1", entries, shadows)
    return RouteRecord(route, action, "run/ship/1", "verdict", "gate", reason, {}, minutes(at))


def test_a_rollout_is_shown_from_its_first_step_on():
    before = [record("promote", at=0), record("canary", share=10, at=1), record("canary_failed", at=2)]
    shadow = [*before, record("shadow", share=0, at=5)]
    (line,) = overview._beside(shadow)
    assert (line.kind, line.version, line.deployment_id, line.share) == ("shadow", "v2", "d2", 0)
    (line,) = overview._beside([*shadow, record("canary", share=25, at=9, reason="mirrors passed: 0 of 90 errors")])
    assert (line.kind, line.share, line.said) == ("canary", 25, "mirrors passed: 0 of 90 errors")
    assert (line.since, line.step_since) == (minutes(5), minutes(9))
    assert overview._beside(before) == overview._beside([]) == ()


def test_an_experiment_is_shown_as_one():
    (line,) = overview._beside([record("promote", at=0), record("experiment_start", share=50, at=3)])
    assert (line.kind, line.share, line.since) == ("experiment", 50, minutes(3))


LINE = ProjectLine(
    name="fashion",
    description="shoes",
    champion="v1",
    generation=2,
    champion_since=minutes(0),
    num_items=1,
    num_labels=1,
    num_outstanding=0,
    num_quarantined=0,
    exam_epoch=1,
    exam_items=1,
    live_quality="not known",
    links=(),
    runs=(),
)


def page(*beside):
    return render_overview([dataclasses.replace(LINE, beside=beside)])


def test_the_page_says_what_runs_beside_the_champion_and_trusts_no_word_of_it():
    bad = "<script>alert(1)</script>"
    text = page(BesideLine(bad, bad, bad, 10, minutes(5), minutes(9), bad))
    assert "<script" not in text
    assert text.count("&lt;script&gt;") == 4
    for said in ("10\N{NO-BREAK SPACE}% of the traffic", "2026-01-01 12:05", "2026-01-01 12:09"):
        assert said in text
    assert "mirrored requests" in page(BesideLine("shadow", "v2", "d2", 0, minutes(1), minutes(1), ""))
    assert "Beside the champion" not in page()


def test_no_text_of_the_overview_is_markup():
    bad = "<b onmouseover='alert(1)'>\"&"
    texts = ("name", "description", "champion", "live_quality")
    line = dataclasses.replace(
        LINE,
        **dict.fromkeys(texts, bad),
        links=((bad, bad),),
        runs=(RunLine(minutes(1), bad, bad),),
        alarms=(bad,),
    )
    text = render_overview([line])
    assert "<b o" not in text
    assert text.count("&lt;b onmouseover=&#39;alert(1)&#39;&gt;&#34;&amp;") == len(texts) + 6
