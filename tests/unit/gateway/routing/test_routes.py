import dataclasses
import json
from collections import Counter

import pytest

from bento_services.gateway.routing.routes import (
    KeyInfo,
    ProjectRoute,
    ServingSettings,
    choose,
    choose_other,
    parse_key,
    parse_route,
    parse_snapshot,
    snapshot_of,
)
from pipeline_tasks.contracts import RouteEntry

A1 = RouteEntry("a1", "A", "http://a1", 60)
A2 = RouteEntry("a2", "A", "http://a2", 20)
B = RouteEntry("b", "B", "http://b", 20)
SHADOW = RouteEntry("s", "S", "http://s", 0)


def route(*entries: RouteEntry, champion: str = "A", shadows: tuple[RouteEntry, ...] = ()) -> ProjectRoute:
    return ProjectRoute("fashion", 3, "c3", champion, entries, shadows, ServingSettings())


def test_shares_follow_the_weights():
    counts = Counter(choose(route(A1, A2, B), sticky_key=f"p/{n}", version=None).deployment_id for n in range(20_000))
    assert counts["a1"] / 20_000 == pytest.approx(0.6, abs=0.01)
    assert counts["a2"] / 20_000 == pytest.approx(0.2, abs=0.01)


def test_a_user_stays_while_the_weights_stay():
    assert len({choose(route(A1, A2, B), sticky_key="p/alice", version=None) for _ in range(100)}) == 1


def on_candidate(version: str, *, share: int) -> set[int]:
    entries = (RouteEntry("a", "A", "http://a", 100 - share), RouteEntry(version, version, f"http://{version}", share))
    users = range(4000)
    return {n for n in users if choose(route(*entries), sticky_key=f"p/{n}", version=None).model_version == version}


def test_each_candidate_is_tried_on_users_of_its_own_and_keeps_them_while_its_share_grows():
    first, second = on_candidate("B", share=10), on_candidate("C", share=10)
    assert first < on_candidate("B", share=50)
    assert (len(first) / 4000, len(second) / 4000) == pytest.approx((0.1, 0.1), abs=0.02)
    assert len(first & second) / len(first) == pytest.approx(0.1, abs=0.05)


def test_weight_zero_gets_no_traffic_but_can_be_named():
    zero = dataclasses.replace(B, weight=0)
    full = dataclasses.replace(A1, weight=100)
    assert {choose(route(full, zero), sticky_key=str(n), version=None) for n in range(1000)} == {full}
    assert choose(route(full, zero), sticky_key="x", version="B") == zero
    assert choose(route(full, shadows=(SHADOW,)), sticky_key="x", version="S") == SHADOW


def test_an_unknown_version_or_an_empty_route_gives_nothing():
    assert choose(route(A1), sticky_key="x", version="Z") is None
    assert choose(route(), sticky_key="x", version=None) is None


def test_a_suspect_is_passed_over_only_while_another_is_left():
    assert {choose(route(A1, B), sticky_key=str(n), version=None, avoid={"a1"}) for n in range(50)} == {B}
    assert choose(route(A1), sticky_key="x", version=None, avoid={"a1"}) == A1


@pytest.mark.parametrize(
    ("entries", "failed", "version", "expected"),
    [
        ((A1, A2, B), A1, None, A2),
        ((A1, B), A1, None, B),
        ((A1, B), B, None, A1),
        ((A1, B), B, "B", B),
        ((A1, A2, B), A1, "A", A2),
        ((A1,), A1, None, A1),
        ((B,), A1, None, B),
    ],
)
def test_a_replay_goes_to_a_replica_then_the_champion_then_the_same_again(entries, failed, version, expected):
    assert choose_other(route(*entries), failed, version=version) == expected


def test_a_replay_avoids_suspects_while_another_is_left():
    assert choose_other(route(A1, A2, B), A1, version=None, avoid={"a2"}) == B


def test_a_row_is_read_alike_as_text_and_as_parsed_json():
    body = {
        "entries": [dataclasses.asdict(A1)],
        "shadows": [dataclasses.asdict(SHADOW)],
        "serving": {"top_k": 5, "classes": ["x", "y"], "preprocess": {"max_pixels": 9}, "later_addition": 1},
    }
    row = {"project": "fashion", "generation": 3, "commit_id": "c3", "champion_version": "A", "body": body}
    parsed = parse_route(row)
    assert parsed == parse_route(row | {"body": json.dumps(body)})
    assert (parsed.entries, parsed.shadows) == ((A1,), (SHADOW,))
    assert parsed.settings == ServingSettings(top_k=5, classes=("x", "y"), preprocess={"max_pixels": 9})


def test_the_local_copy_reads_back_as_it_was():
    settings = ServingSettings(classes=("x",), preprocess={"max_pixels": 9})
    full = dataclasses.replace(route(A1, shadows=(SHADOW,)), settings=settings)
    key = parse_key({"key_id": "k", "project": "*", "sha256": "d", "scopes": '["predict", "admin"]'})
    snapshot = snapshot_of([full], [key], projects=["fashion", "texts"])

    assert key == KeyInfo("k", "*", "d", frozenset({"predict", "admin"}))
    assert parse_snapshot(snapshot.to_json()) == snapshot
    assert parse_snapshot(snapshot.to_json()).to_json() == snapshot.to_json()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"projects": [], "routes": [{}], "keys": []}', "\x00"])
def test_a_damaged_local_copy_is_refused(text):
    with pytest.raises(ValueError, match=r"routes\.json must be a copy|Expecting value"):
        parse_snapshot(text)
