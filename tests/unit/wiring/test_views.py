"""What the overview says of a champion."""

from pipeline_tasks.catalog.serving import ServingRepository
from pipeline_tasks.wiring import views
from tests.ledger_case import Case, minutes


def test_a_champion_serves_since_it_became_it_whatever_stood_beside_it(database, object_store):
    assert views._champion_since([]) is None
    case = Case(database, object_store)
    case.move("v1", at=1)
    case.move("v2", at=2)
    case.move("v2", action="canary_failed", verdict_id="verdict-v2", at=3)
    assert views._champion_since(ServingRepository(database).records(case.project)) == minutes(2)
