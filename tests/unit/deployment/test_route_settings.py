"""The settings of a route: one list of keys for project.yaml, the route and the gateway."""

import dataclasses
import json

import pytest

from bento_services.gateway.routing.routes import parse_route
from pipeline_tasks.contracts import RouteEntry, ServingSettings
from pipeline_tasks.deployment.route_settings import route_config
from pipeline_tasks.project.composed_project import ComposedServing
from pipeline_tasks.project.schema import RecipeConfig
from pipeline_tasks.project.serving_schema import Serving
from tests.unit.validation.builders import loaded_project

# A route's `serving` as version 0.1 wrote it, key by key.
OF_BEFORE = {
    "abstain_below": 0.2,
    "approval": "never",
    "business_labels": {"cat": "Cat"},
    "classes": ["cat", "dog"],
    "max_request_bytes": 10_000_000,
    "modality": "image",
    "preprocess": {"max_pixels": 25_000_000, "max_text_characters": 100_000},
    "recipe": "image_cnn",
    "requests_per_second": 500.0,
    "review_below": 0.5,
    "thresholds": {"cat": 0.9},
    "top_k": 2,
}
OF_BEFORE_BESIDE = {
    "beside_approval": "always",
    "beside_classes": ["cat", "dog", "cow"],
    "experiment": {"experiment_id": "e"},
    "rollout": {"confidence": 0.95},
    "standby": {"deployment_id": "d0", "model_version": "m0", "address": "http://d0", "weight": 0},
}


def row(serving):
    body = {"entries": [dataclasses.asdict(RouteEntry("d", "m", "http://d", 100))], "serving": serving}
    return {"project": "pets", "generation": 1, "commit_id": "c", "champion_version": "m", "body": json.dumps(body)}


def test_a_promotion_writes_what_the_version_before_wrote(tmp_path):
    serving = {"abstain_below": 0.2, "business_labels": {"cat": "Cat"}, "thresholds": {"cat": 0.9}, "top_k": 2}
    project = loaded_project(tmp_path / "pets", serving=serving)
    assert isinstance(project.config.recipe, RecipeConfig)
    expected = OF_BEFORE | {"classes": list(project.config.labels.classes), "recipe": project.config.recipe.name}
    assert json.loads(json.dumps(route_config(project))) == expected


def test_a_row_of_the_version_before_is_read():
    settings = parse_route(row(OF_BEFORE | OF_BEFORE_BESIDE)).settings
    assert (settings.top_k, settings.thresholds, settings.classes) == (2, {"cat": 0.9}, ("cat", "dog"))
    assert settings.standby == RouteEntry("d0", "m0", "http://d0", 0)
    assert settings.beside_classes == ("cat", "dog", "cow")
    assert ServingSettings.parse(json.loads(json.dumps(settings.as_promoted()))) == settings


def test_a_row_without_settings_has_the_defaults():
    assert parse_route(row({})).settings == ServingSettings()


@pytest.mark.parametrize("section", [Serving, ComposedServing])
def test_keys_of_project_yaml_have_the_defaults_of_the_contract(section):
    routed = {field.name for field in dataclasses.fields(ServingSettings)} & section.model_fields.keys()
    assert len(routed) == {Serving: 7, ComposedServing: 2}[section]
    assert {name: getattr(section(), name) for name in routed} == {
        name: getattr(ServingSettings(), name) for name in routed
    }


@pytest.mark.parametrize(
    ("privacy", "denied"),
    [
        (None, {}),
        ({"columns": [], "patterns": []}, {}),
        ({"columns": ["a"], "patterns": []}, {"columns": ["a"]}),
    ],
)
def test_an_empty_deny_list_denies_nothing(privacy, denied):
    preprocess = {} if privacy is None else {"privacy": privacy}
    assert ServingSettings(preprocess=preprocess).deny == denied


def test_a_model_that_is_older_than_a_class_serves_the_classes_that_it_learned(tmp_path):
    project = loaded_project(tmp_path / "pets")
    learned = project.config.labels.classes[:-1]
    assert route_config(project, learned=learned)["classes"] == list(learned)
