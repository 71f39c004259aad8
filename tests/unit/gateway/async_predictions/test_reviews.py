"""The catalog's answer about a prediction that people were asked about, read from the real tables."""

import datetime as dt

import pytest
import sqlalchemy as sa

from bento_services.gateway.async_predictions.reviews import Audited, Review, SqlReviews
from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.database import create_engine

NOW = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)


@pytest.fixture
def catalog(catalog_url):
    engine = create_engine(catalog_url)
    t.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(t.audits.insert(), audit("p1", "i1"))
    yield engine
    engine.dispose()


@pytest.fixture
def reviews(catalog_url, catalog):
    return SqlReviews(catalog_url)


def audit(prediction_id, item_id, project="fashion"):
    return {
        "project": project,
        "prediction_id": prediction_id,
        "item_id": item_id,
        "model_version": "A",
        "predicted_label": "bag",
        "confidence": 0.4,
        "kind": "uncertain",
        "predicted_at": NOW,
        "picked_at": NOW,
    }


def decide(engine: sa.Engine, *, version=1, status="decided", label="boot", method="single", item_id="i1"):
    values = {
        "project": "fashion",
        "item_id": item_id,
        "version": version,
        "status": status,
        "label": label,
        "method": method,
        "annotation_ids": [1],
        "annotators": ["ann"],
        "agreement": 1.0,
        "schema_version": 1,
        "decided_at": NOW,
    }
    with engine.begin() as connection:
        connection.execute(t.label_decisions.insert(), values)


def test_a_prediction_that_nobody_was_asked_about_is_not_known(reviews):
    assert reviews.find("p0") is None
    assert reviews.find("p1", project="texts", item_id="i1") is None


def test_asked_then_answered_then_corrected_then_withdrawn(reviews, catalog):
    assert reviews.find("p1") == Audited("fashion", Review("asked"))
    decide(catalog)
    answered = Review("answered", "boot", "2026-01-02T03:04:05+00:00")
    assert reviews.find("p1") == Audited("fashion", answered)
    decide(catalog, version=2, label="coat")
    assert reviews.find("p1").review.label == "coat"
    decide(catalog, version=3, status="disputed", label=None)
    assert reviews.find("p1").review == Review("disputed")
    decide(catalog, version=4, status="withdrawn", label=None)
    assert reviews.find("p1").review == Review("asked")


def test_a_disputed_item_that_a_further_person_is_asked_of_is_asked(reviews, catalog):
    decide(catalog, status="disputed", label=None, method="consensus")
    task = {"project": "fashion", "item_id": "i1", "queue": "exam", "reason": "audit", "priority": 1.0}
    for state, expected in (("pushed", "asked"), ("done", "disputed")):
        with catalog.begin() as connection:
            connection.execute(t.labeling_tasks.delete())
            connection.execute(t.labeling_tasks.insert(), task | {"state": state, "requested_at": NOW})
        assert reviews.find("p1").review == Review(expected)


def test_a_label_that_came_with_the_data_is_no_persons_answer(reviews, catalog):
    decide(catalog, method="imported")
    assert reviews.find("p1").review == Review("asked")


def test_the_same_content_was_asked_about_under_another_prediction(reviews, catalog):
    decide(catalog)
    assert reviews.find("p2", project="fashion", item_id="i1").review.label == "boot"
    assert reviews.find("p2", project="texts", item_id="i1") is None


def test_an_item_that_was_never_asked_about_for_production_is_not_told(reviews, catalog):
    decide(catalog, item_id="exam-item")
    assert reviews.find("p3", project="fashion", item_id="exam-item") is None


def test_a_catalog_that_is_away_raises(tmp_path):
    with pytest.raises(sa.exc.OperationalError, match="unable to open"):
        SqlReviews(f"sqlite:///{tmp_path / 'nowhere.db'}").find("p1")
