"""The list of what Prometheus scrapes."""

import pytest

from bento_services.gateway.api.scrape_targets import scrape_targets
from bento_services.gateway.routing.routes import KeyInfo, ProjectRoute, ServingSettings, snapshot_of
from pipeline_tasks.contracts import RouteEntry


def route(project, *entries, shadows=()):
    return ProjectRoute(project, 1, "c1", "A", entries, shadows, ServingSettings())


CHAMPION = RouteEntry("d1", "A", "http://dethrone-1-d1:3000", 90)
CANARY = RouteEntry("d2", "B", "http://dethrone-1-d2:3000", 10)
SHADOW = RouteEntry("d0", "C", "https://inference.example.org", 0)
SNAPSHOT = snapshot_of([route("texts", CANARY), route("fashion", CHAMPION, shadows=(SHADOW,))], [], projects=["empty"])


def seen(project):
    return [
        (target["labels"]["deployment"], *target["targets"])
        for target in scrape_targets(SNAPSHOT, KeyInfo("k", project, "", frozenset()))
    ]


def test_every_deployment_is_listed_with_what_its_series_are_called():
    (target, *_) = scrape_targets(snapshot_of([route("fashion", CHAMPION)], []), KeyInfo("k", "*", "", frozenset()))
    labels = {"__scheme__": "http", "project": "fashion", "deployment": "d1", "model_version": "A"}
    assert target == {"targets": ["dethrone-1-d1:3000"], "labels": labels}


@pytest.mark.parametrize(
    ("project", "expected"),
    [
        ("*", [("d0", "inference.example.org:443"), ("d1", "dethrone-1-d1:3000"), ("d2", "dethrone-1-d2:3000")]),
        ("texts", [("d2", "dethrone-1-d2:3000")]),
        ("empty", []),
    ],
)
def test_a_key_sees_the_deployments_of_its_projects(project, expected):
    assert seen(project) == expected
