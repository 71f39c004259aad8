"""kill -9 at every crash point, from the first image to the third champion: the same champion, the same chain.

Each step of the loop is killed at each of its points and run again, and what it leaves is compared with what the
undisturbed run left there, to the last row. One more run has a kill in every step, so that what a kill leaves unseen
meets the steps after it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import bento_services
import pipeline_tasks
from pipeline_tasks.adapters.kubernetes_manifests import KINDS
from pipeline_tasks.core.crash_points import all_points
from tests import crash
from tests.crashes.journeys import LOOP, RESTORE
from tests.crashes.runs import Calm, Left, calm_run, differences, disturbed_run, killed_step
from tests.docker.test_ship_on_docker import POINTS as ON_DOCKER  # killed there, on a real engine

SOURCES = [Path(module.__file__).parent for module in (pipeline_tasks, bento_services)]
ON_KUBERNETES = (
    "ship.service.after",
    "ship.apply.after",
    "ship.delete.after",
)  # killed below, on an API server in memory
pytestmark = pytest.mark.timeout(7200)


@pytest.fixture(scope="module")
def calm(tmp_path_factory) -> Calm:
    """The undisturbed run."""
    return calm_run(tmp_path_factory.mktemp("calm"))


@pytest.mark.crashes
def test_every_point_of_the_source_is_passed_or_killed_elsewhere(calm):
    """A point that no list has would be one that nobody is killed at."""
    passed = {point for points in calm.points.values() for point in points}
    assert passed | {*ON_DOCKER, *ON_KUBERNETES} == set(all_points(SOURCES))


@pytest.mark.crashes
def test_the_undisturbed_run_ends_whole(calm):
    troubled = {name for name, lines in calm.violations.items() if any(line.startswith("I") for line in lines)}
    assert troubled == {"people/trouble", "i2/ingest"}  # until the next annotate
    assert calm.violations[RESTORE] == []
    end = calm.states[RESTORE]
    assert len([kind for _, kind, _ in end["chain"] if kind == "route"]) == len(end["rows"]["routes"]) == 11
    assert {name: rows for name, rows in end["restored rows"].items() if rows != end["rows"][name]} == {}
    assert end["restored weights"] == end["weights"]


@pytest.mark.crashes
def test_a_kill_in_every_step_changes_nothing(calm, tmp_path):
    num_kills = 0
    for left in disturbed_run(tmp_path / "disturbed", calm):
        assert told(left, calm) == [], f"{left.step}, killed at {left.point}"
        num_kills += 1
    assert num_kills == sum(1 for points in calm.points.values() if points)


@pytest.mark.crashes
@pytest.mark.parametrize("name", [step.name for step in LOOP if step.is_killed])
def test_a_kill_at_every_point_of_a_step_changes_nothing(calm, name):
    """A step without a point has no effect, or another one's."""
    index = [step.name for step in LOOP].index(name)
    changes = {left.point: told(left, calm) for left in killed_step(calm, index)}
    assert list(changes) == list(calm.points[name])
    assert {point: lines for point, lines in changes.items() if lines} == {}


def told(left: Left, calm: Calm) -> list[str]:
    """Return in words what is another than after the undisturbed step."""
    changes = differences(left.state, calm.states[left.step])
    if left.violations != calm.violations[left.step]:
        changes.append(f"verify: {left.violations} in place of {calm.violations[left.step]}")
    return changes


@pytest.mark.slow
@pytest.mark.parametrize("point", ON_KUBERNETES)
def test_a_kill_on_kubernetes_leaves_what_the_next_try_completes(point):
    pytest.importorskip("kubernetes", reason="the Kubernetes client is not installed (requirements/cluster.lock)")
    pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed (requirements/dev.lock)")
    from tests.kubernetes_server import running_cluster

    with running_cluster() as (cluster, url):
        act = _stop if point == "ship.delete.after" else _start
        if act is _stop:
            crash.run_in_child(_start, url)
        crash.crash_at(point, act, url)
        crash.run_in_child(act, url)
        assert len(cluster.objects) == (0 if act is _stop else len(KINDS))


def _target(url: str):
    from tests.contract.test_deployment_target import OnKubernetes

    return OnKubernetes(None, url).target


def _start(url: str) -> None:
    _target(url).start(deployment_id="stripes-1", bento_tag="dethrone_stripes:r1", environment={})


def _stop(url: str) -> None:
    _target(url).stop("stripes-1")
