"""Routes, deployments and API keys, on SQLite and PostgreSQL alike."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from pipeline_tasks.catalog import tables
from pipeline_tasks.catalog.database import Database, create_engine
from pipeline_tasks.catalog.routes import ServingRepository, new_token
from pipeline_tasks.contracts import Attempt, DeploymentRef, Route, RouteEntry
from pipeline_tasks.errors import ConfigError, GateClosed, InputError, LostRace, ServiceUnavailable, StaleAttempt

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
PROMOTERS = 8
ROUNDS = 50


@pytest.fixture
def serving(database) -> ServingRepository:
    return ServingRepository(database)


def child_of(head: Route | None, *, version: str, commit_id: str) -> Route:
    return Route(
        project="fashion",
        generation=head.generation + 1 if head else 1,
        commit_id=commit_id,
        parent_commit_id=head.commit_id if head else None,
        champion_version=version,
        entries=(RouteEntry(f"d-{version}", version, "http://127.0.0.1:1", 100),),
    )


def commit(serving: ServingRepository, route: Route, **changes) -> Route:
    facts = {
        "action": "promote",
        "attempt": "run-1/ship/1",
        "verdict_id": "v1",
        "actor": "gate",
        "reason": "won",
        "serving": {"top_k": 3},
        "at": NOW,
    }
    return serving.commit_route(route, **(facts | changes))


def test_the_head_is_the_newest_generation_and_the_history_is_oldest_first(serving):
    assert serving.head_route("fashion") is None
    first = commit(serving, child_of(None, version="a", commit_id="c1"))
    second = commit(serving, child_of(first, version="b", commit_id="c2"))

    assert serving.head_route("fashion") == second
    assert serving.history("fashion") == [first, second]
    assert serving.head_route("texts") is None


def test_a_generation_keeps_who_moved_it_why_and_its_settings(serving):
    route = dataclasses.replace(
        child_of(None, version="a", commit_id="c1"), shadows=(RouteEntry("s", "a", "http://127.0.0.1:2", 0),)
    )
    commit(serving, route, action="rollback", actor="ops", reason="bad day", verdict_id="v9")

    (record,) = serving.records("fashion")
    assert record.route == route
    assert (record.action, record.actor, record.reason, record.created_at) == ("rollback", "ops", "bad day", NOW)
    assert serving.verdict_of("fashion", 1) == "v9"
    assert serving.route_config("fashion", 1) == {"top_k": 3}
    assert serving.records("fashion")[0].attempt == "run-1/ship/1"


def test_asking_for_a_generation_that_is_not_there_names_it(serving):
    with pytest.raises(ConfigError, match=r"generation must be one of fashion's \(got 7\)"):
        serving.verdict_of("fashion", 7)


def test_committing_the_same_route_again_is_a_success_even_when_the_head_moved_on(serving):
    first = child_of(None, version="a", commit_id="c1")
    commit(serving, first)
    commit(serving, first)
    second = commit(serving, child_of(first, version="b", commit_id="c2"))
    commit(serving, first)

    assert serving.history("fashion") == [first, second]


def test_a_route_loses_the_race_when_its_generation_is_taken(serving):
    first = commit(serving, child_of(None, version="a", commit_id="c1"))
    with pytest.raises(LostRace, match=r"generation 1 of fashion must follow None \(got: c1 came first\)"):
        commit(serving, child_of(None, version="b", commit_id="c2"))
    assert serving.history("fashion") == [first]


def test_a_route_with_another_parent_than_the_head_is_refused(serving):
    first = commit(serving, child_of(None, version="a", commit_id="c1"))
    stranger = dataclasses.replace(child_of(first, version="b", commit_id="c2"), parent_commit_id="c0")
    with pytest.raises(LostRace, match="generation 2 of fashion must follow c0"):
        commit(serving, stranger)
    ahead = dataclasses.replace(child_of(first, version="b", commit_id="c2"), generation=5)
    with pytest.raises(LostRace, match="generation 5 of fashion"):
        commit(serving, ahead)
    assert serving.history("fashion") == [first]


@pytest.mark.parametrize("weights", [(60, 30), (120, -20), ()])
def test_weights_that_do_not_add_up_are_refused(serving, weights):
    entries = tuple(RouteEntry(f"d{n}", "a", "http://127.0.0.1:1", weight) for n, weight in enumerate(weights))
    route = dataclasses.replace(child_of(None, version="a", commit_id="c1"), entries=entries)
    with pytest.raises(ConfigError, match="weights must be 0 or more and add up to 100"):
        commit(serving, route)
    assert serving.head_route("fashion") is None


def with_beside(route: Route, version: str, *, weight: int, shadow: bool) -> Route:
    entry = RouteEntry("d-beside", version, "http://127.0.0.1:2", weight)
    if shadow:
        return dataclasses.replace(route, shadows=(entry,))
    own = dataclasses.replace(route.entries[0], weight=100 - weight)
    return dataclasses.replace(route, entries=(own, entry))


def record_verdict(database, *, project="fashion", contender, answer="promote") -> None:
    row = {"project": project, "verdict_id": f"v-{contender}", "answer": answer, "contender_version": contender}
    row |= {"champion_version": None, "exam_ids": ["e"], "reasons": {"code": "C", "texts": []}, "policy_id": "p"}
    with database.write() as connection:
        row |= {"object_key": "k", "digest": "d", "run_id": "r", "created_at": NOW}
        connection.execute(tables.verdicts.insert(), row)


@pytest.mark.parametrize(("weight", "shadow"), [(99, False), (0, False), (0, True)])
def test_a_model_beside_the_champion_that_no_verdict_let_through_is_refused(serving, database, weight, shadow):
    first = commit(serving, child_of(None, version="a", commit_id="c1"))
    record_verdict(database, contender="kept", answer="keep")
    record_verdict(database, contender="foreign", project="shoes")
    for version in ("evil", "kept", "foreign"):
        route = child_of(first, version="a", commit_id="c2")
        with pytest.raises(GateClosed, match=rf"entries of a route of fashion must be .* \(got {version}\)"):
            commit(serving, with_beside(route, version, weight=weight, shadow=shadow))
    assert serving.history("fashion") == [first]


@pytest.mark.parametrize(("weight", "shadow"), [(99, False), (0, False), (0, True)])
def test_a_former_champion_and_a_promoted_contender_may_stand_beside_it(serving, database, weight, shadow):
    head = commit(serving, child_of(None, version="a", commit_id="c1"))
    record_verdict(database, contender="new")
    for number, beside in enumerate(("a", "new"), start=2):
        route = child_of(head, version="b", commit_id=f"c{number}")
        head = commit(serving, with_beside(route, beside, weight=weight, shadow=shadow))
    assert serving.head_route("fashion") == head


@pytest.mark.parametrize("name", ["actor", "reason", "verdict_id", "attempt", "action"])
@pytest.mark.parametrize("value", [None, 5, True, b"x"])
def test_what_must_be_text_is_text(serving, name, value):
    """SQLite would keep 5 as "5", and the entry of the ledger would look forged for ever."""
    with pytest.raises(InputError, match=rf"{name} of the route must be text \(got "):
        commit(serving, child_of(None, version="a", commit_id="c1"), **{name: value})
    route = child_of(None, version="a", commit_id="c1")
    with pytest.raises(InputError, match="champion_version of the route must be text"):
        commit(serving, dataclasses.replace(route, champion_version=value))
    assert serving.head_route("fashion") is None


def test_a_stale_fence_writes_nothing(serving, database):
    old = database.acquire("ship/fashion", Attempt("run-1", "ship", 1), now=NOW)
    database.acquire("ship/fashion", Attempt("run-1", "ship", 2), now=NOW)
    with pytest.raises(StaleAttempt, match="must hold the lease ship/fashion"):
        commit(serving, child_of(None, version="a", commit_id="c1"), fence=old)
    with pytest.raises(StaleAttempt):
        serving.record_deployment(deployment(), target="process", now=NOW, fence=old)
    assert serving.head_route("fashion") is None
    assert serving.deployments("fashion") == []


class _LostAnswer(Database):
    """A database whose next commit happens, or not, and then fails."""

    def __init__(self, engine: sa.Engine, *, written: bool) -> None:
        super().__init__(engine)
        self._written = written

    def write(self, fence=None):
        return _Failing(super().write(fence), written=self._written)


class _Failing:
    def __init__(self, inner, *, written: bool) -> None:
        self._inner = inner
        self._written = written

    def __enter__(self):
        return self._inner.__enter__()

    def __exit__(self, *_: object) -> None:
        error = ServiceUnavailable("connection lost")
        self._inner.__exit__(*((None, None) if self._written else (type(error), error)), None)
        raise error


def test_a_commit_whose_answer_is_lost_counts_when_it_was_written(serving, database):
    route = child_of(None, version="a", commit_id="c1")
    assert commit(ServingRepository(_LostAnswer(database.engine, written=True)), route) == route
    assert serving.history("fashion") == [route]


def test_a_commit_that_failed_for_good_says_that_trying_again_is_safe(serving, database):
    route = child_of(None, version="a", commit_id="c1")
    with pytest.raises(ServiceUnavailable, match=r"must take generation 1 of fashion \(got: connection lost\)"):
        commit(ServingRepository(_LostAnswer(database.engine, written=False)), route)
    assert serving.head_route("fashion") is None


def test_eight_racing_promoters_build_one_linear_chain(serving, database):
    barrier = threading.Barrier(PROMOTERS)
    won: list[str] = []

    def promote(name: int) -> None:
        repository = ServingRepository(database)
        for number in range(ROUNDS):
            barrier.wait()
            route = child_of(repository.head_route("fashion"), version=f"{name}", commit_id=f"c-{number}-{name}")
            try:
                commit(repository, route, attempt=f"run/{name}/{number}")
            except LostRace:
                continue
            won.append(route.commit_id)

    with ThreadPoolExecutor(PROMOTERS) as pool:
        list(pool.map(promote, range(PROMOTERS)))

    history = serving.history("fashion")
    assert [route.generation for route in history] == list(range(1, len(history) + 1))
    assert [route.parent_commit_id for route in history] == [None, *[route.commit_id for route in history[:-1]]]
    assert sorted(won) == sorted(route.commit_id for route in history)
    assert len(history) >= ROUNDS


def _promote_in_a_process(url: str, name: int) -> list[str]:
    engine = create_engine(url)
    repository = ServingRepository(Database(engine))
    won = []
    for number in range(10):
        route = child_of(repository.head_route("fashion"), version=f"{name}", commit_id=f"p-{number}-{name}")
        try:
            commit(repository, route)
        except LostRace:
            continue
        won.append(route.commit_id)
    engine.dispose()
    return won


@pytest.mark.slow
def test_racing_processes_lose_no_update(serving, catalog_url):
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        won = pool.starmap(_promote_in_a_process, [(catalog_url, name) for name in range(4)])
    history = serving.history("fashion")
    assert sorted(commit_id for mine in won for commit_id in mine) == sorted(route.commit_id for route in history)
    assert [route.generation for route in history] == list(range(1, len(history) + 1))


def deployment(**changes) -> DeploymentRef:
    facts = {"project": "fashion", "deployment_id": "d1", "release_id": "r1", "model_version": "a"}
    return DeploymentRef(**(facts | {"address": "http://127.0.0.1:1"} | changes))


def test_the_first_record_of_a_deployment_stays(serving):
    serving.record_deployment(deployment(), target="process", now=NOW)
    serving.record_deployment(deployment(address="http://127.0.0.1:2"), target="process", now=NOW)
    serving.record_deployment(deployment(deployment_id="d2"), target="process", now=NOW + dt.timedelta(1))

    assert serving.deployments("fashion") == [deployment(), deployment(deployment_id="d2")]
    assert serving.deployments("texts") == []


def test_a_key_is_kept_as_its_digest_only(serving, database):
    token = new_token()
    key = serving.issue_key("fashion", name="shop", scopes=["predict", "feedback"], token=token, at=NOW)

    with database.read() as connection:
        row = connection.execute(sa.select(tables.api_keys)).mappings().one()
    assert token not in str(dict(row))
    assert row["sha256"] == hashlib.sha256(token.encode()).hexdigest()
    assert (key.key_id, key.project, key.name) == (row["sha256"][:12], "fashion", "shop")
    assert (key.scopes, key.created_at, key.revoked_at) == (("predict", "feedback"), NOW, None)


def test_issuing_the_same_token_again_changes_nothing(serving):
    first = serving.issue_key("*", name="stack", scopes=["admin"], token="t" * 64, at=NOW)
    second = serving.issue_key("*", name="other", scopes=["predict"], token="t" * 64, at=NOW)
    assert first == second
    assert serving.api_keys() == [first]


def test_a_revoked_key_stays_revoked_at_its_first_time(serving):
    key = serving.issue_key("fashion", name="shop", scopes=["predict"], token=new_token(), at=NOW)
    serving.revoke_key(key.key_id, at=NOW + dt.timedelta(hours=1))
    serving.revoke_key(key.key_id, at=NOW + dt.timedelta(hours=2))
    assert serving.api_keys() == [dataclasses.replace(key, revoked_at=NOW + dt.timedelta(hours=1))]


def test_revoking_an_unknown_key_says_where_to_look(serving):
    with pytest.raises(ConfigError, match=r"key_id must be a known key \(got 'nope'\)"):
        serving.revoke_key("nope", at=NOW)


@pytest.mark.parametrize(
    ("scopes", "token", "message"),
    [
        (["root"], "t" * 64, r"scopes must be one or more of predict, feedback, admin \(got \['root'\]\)"),
        ([], "t" * 64, r"scopes must be .* \(got none\)"),
        (["predict"], "short", r"token must have 32 or more characters \(got 5\)"),
    ],
)
def test_a_weak_token_or_an_unknown_scope_is_refused(serving, scopes, token, message):
    with pytest.raises(ConfigError, match=message):
        serving.issue_key("fashion", name="x", scopes=scopes, token=token, at=NOW)


def test_tokens_are_long_and_differ():
    assert len({new_token() for _ in range(100)}) == 100
    assert len(new_token()) == 43
