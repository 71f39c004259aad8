import pytest

from pipeline_tasks.contracts import DeploymentRef, Route, RouteEntry
from pipeline_tasks.deployment.route_plan import deployment_id_of, next_route, rollback_target, to_retire
from pipeline_tasks.errors import ConfigError


def deployment(version):
    return DeploymentRef("p", f"p-{version}", f"r-{version}", version, f"http://127.0.0.1/{version}")


def chain(*versions):
    routes: list[Route] = []
    for number, version in enumerate(versions):
        head = routes[-1] if routes else None
        routes.append(next_route(head, deployment(version), reason_id=str(number), attempt="run/ship/1"))
    return routes


def test_the_first_route_has_no_parent_and_all_the_traffic():
    (first,) = chain("a")
    assert (first.generation, first.parent_commit_id, first.champion_version) == (1, None, "a")
    assert first.entries == (RouteEntry("p-a", "a", "http://127.0.0.1/a", 100),)


def test_each_route_names_the_one_before():
    first, second = chain("a", "b")
    assert (second.generation, second.parent_commit_id) == (2, first.commit_id)


def test_the_commit_id_tells_two_attempts_apart():
    ids = {next_route(None, deployment("a"), reason_id="v", attempt=f"run/ship/{n}").commit_id for n in (1, 2)}
    assert len(ids) == 2


def test_rollback_goes_to_the_champion_before():
    assert rollback_target(chain("a", "b", "c")).champion_version == "b"


def test_two_rollbacks_go_two_champions_back():
    assert rollback_target(chain("a", "b", "c", "b")).champion_version == "a"


def test_rollback_to_a_named_version():
    assert rollback_target(chain("a", "b", "c"), to_version="a").generation == 1


@pytest.mark.parametrize(
    ("versions", "to_version", "message"),
    [
        ((), None, "needs a champion"),
        (("a",), None, "needs an earlier champion than a"),
        (("a", "b", "a"), None, "needs an earlier champion than a"),
        (("a", "b"), "b", "must differ from the champion"),
        (("a", "b"), "z", r"must be a former champion \(got z\). Known: b, a"),
    ],
)
def test_an_impossible_rollback_says_what_is_possible(versions, to_version, message):
    with pytest.raises(ConfigError, match=message):
        rollback_target(chain(*versions), to_version=to_version)


@pytest.mark.parametrize(
    ("versions", "keep_previous", "retired"),
    [
        (("a",), True, ["p-x"]),
        (("a", "b"), True, ["p-x"]),
        (("a", "b"), False, ["p-a", "p-x"]),
        (("a", "b", "c"), True, ["p-a", "p-x"]),
        (("a", "b", "a"), True, ["p-x"]),
    ],
)
def test_only_the_champion_and_the_one_before_stay(versions, keep_previous, retired):
    running = {f"p-{version}" for version in versions} | {"p-x"}
    assert to_retire(chain(*versions), running, keep_previous=keep_previous) == retired


def test_without_a_route_nothing_may_run():
    assert to_retire([], {"p-a"}, keep_previous=True) == ["p-a"]


def test_a_release_has_one_deployment_id():
    assert deployment_id_of("my_project", "0123456789abcdef") == "my-project-0123456789ab"
