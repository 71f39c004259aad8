"""Outcomes that callers tell: kept by prediction or business key, or refused with their field."""

from __future__ import annotations

import pytest

from tests.service.conftest import bearer, snapshot, token_of
from tests.service.test_gateway_http import error_of


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"prediction_id": "p1", "label": "boot"}, ("p1", None)),
        ({"business_key": "order 7", "label": "boot", "project": "fashion"}, (None, "order 7")),
    ],
)
@pytest.mark.parametrize("path", ["/feedback", "/v1/projects/fashion/feedback"])
def test_feedback_is_logged_by_prediction_or_business_key(bench, path, body, fields):
    response = bench.client.post(path, json=body, headers={"Authorization": f"Bearer {token_of('shop')}"})
    assert (response.status_code, response.json()["accepted"]) == (202, True)
    (record,) = bench.records()
    assert (record.kind, record.project, record.outcome_label) == ("feedback", "fashion", "boot")
    assert (record.prediction_id, record.business_key) == fields
    assert bench.counts() == (0, 0, 0)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"label": "boot"}, (422, "FIELD_MISSING", "prediction_id")),
        ({"prediction_id": "p"}, (422, "FIELD_INVALID", "label")),
        ({"prediction_id": "p", "label": "Boot"}, (422, "UNKNOWN_CLASS", "label")),
        ({"prediction_id": "p", "label": "boot "}, (422, "UNKNOWN_CLASS", "label")),
        ({"prediction_id": "p", "label": ["boot"]}, (422, "FIELD_INVALID", "label")),
        ({"prediction_id": "p" * 201, "label": "boot"}, (422, "FIELD_INVALID", "prediction_id")),
        ({"prediction_id": "p\n", "label": "boot"}, (422, "FIELD_INVALID", "prediction_id")),
        ({"prediction_id": "p", "label": "boot", "x": 1}, (422, "FIELD_UNKNOWN", "x")),
        ({"prediction_id": "p", "label": "boot", "project": "texts"}, (403, "PROJECT_FORBIDDEN", "Authorization")),
        ({"prediction_id": "p", "label": "boot", "project": "../x"}, (404, "PROJECT_UNKNOWN", "project")),
        ([], (400, "JSON_INVALID", "body")),
    ],
)
def test_unusable_feedback_is_refused_with_its_field(bench, body, expected):
    response = bench.client.post("/feedback", json=body, headers=bearer())
    assert error_of(response) == expected
    assert bench.records() == []


def test_an_outcome_may_be_a_class_that_only_the_model_beside_the_champion_learned(bench):
    bench.follow(snapshot(beside_classes=("boot", "clog")))
    for label, status in (("clog", 202), ("Boot", 422)):
        body = {"prediction_id": "p", "label": label}
        assert bench.client.post("/feedback", json=body, headers=bearer()).status_code == status


def test_feedback_with_a_key_for_every_project_must_name_one(bench):
    body = {"prediction_id": "p", "label": "boot"}
    assert error_of(bench.client.post("/feedback", json=body, headers=bearer("stack"))) == (
        422,
        "FIELD_MISSING",
        "project",
    )
    conflict = bench.client.post(
        "/v1/projects/texts/feedback", json=body | {"project": "rows"}, headers=bearer("stack")
    )
    assert error_of(conflict) == (422, "FIELD_INVALID", "project")


def test_feedback_that_cannot_be_kept_is_not_accepted(bench):
    bench.spool._limit_bytes = 0
    response = bench.client.post("/feedback", json={"prediction_id": "p", "label": "boot"}, headers=bearer())
    assert error_of(response)[:2] == (503, "LOG_FULL")
    assert response.headers["retry-after"] == "30"
