"""1,000 real items have the same answers in training, at the gate, from the gateway and in batch predictions."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline_tasks.catalog import tables
from pipeline_tasks.catalog.database import Database, create_engine
from pipeline_tasks.catalog.routes import ServingRepository
from pipeline_tasks.deployment.bento_builder import build_bento
from pipeline_tasks.deployment.golden_requests import TOLERANCE
from pipeline_tasks.deployment.release import fetch_model
from tests.fakes import FakeObjectStore
from tests.service.same_answers_case import NOW, NUM_ITEMS, TOKEN, Case, largest_difference
from tests.service.servers import GATEWAY, gateway_environment, serving

pytestmark = [pytest.mark.integration, pytest.mark.slow]
CASES = (("image", "eager"), ("image", "onnx"), ("text", "onnx"))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("same-answers")


@pytest.fixture(scope="module")
def served(home):
    """The cases by name, and the address of a gateway in front of an inference server for each."""
    engine = create_engine(f"sqlite:///{home / 'catalog.db'}")
    tables.metadata.create_all(engine)
    database, store = Database(engine), FakeObjectStore()
    ServingRepository(database).issue_key("*", name="t", scopes=["predict"], token=TOKEN, at=NOW)
    cases = [Case(kind, runtime, database, store, home) for kind, runtime in CASES]
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(len(cases)) as pool:
        list(pool.map(lambda case: build(case, home), cases))
        environment = {"BENTOML_HOME": str(home / "bentoml")}
        servers = [
            stack.enter_context(serving(tag_of(case), home=home, environment=environment, wait=False)) for case in cases
        ]
        gateway = stack.enter_context(serving(GATEWAY, home=home, environment=gateway_environment(home), wait=False))
        for case, server in zip(cases, servers, strict=True):
            server.wait_ready()
            case.ship(server.url)
        gateway.wait_ready()
        yield {case.name: case for case in cases}, gateway.url


def tag_of(case: Case) -> str:
    return f"dethrone_{case.name}:r1"


def build(case: Case, home) -> None:
    folder = fetch_model(case.store, case.model, into=home / f"model-{case.name}")
    build_bento(folder, tag=tag_of(case), labels={}, bentoml_home=home / "bentoml")


@pytest.mark.parametrize("name", [f"{kind}_{runtime}" for kind, runtime in CASES])
def test_the_same_thousand_items_have_the_same_answers_everywhere(served, name, record_property):
    cases, gateway = served
    case = cases[name]
    trained = case.as_in_training()
    assert len(trained) == NUM_ITEMS
    answers_by_way = {
        "gate": case.as_in_the_gate(),
        "served": case.as_served(gateway),
        "batch": case.as_batch_prediction(),
    }
    differences = {
        way: largest_difference(trained, answers, ids=list(trained)) for way, answers in answers_by_way.items()
    }
    print(f"{name}: largest difference to training, {NUM_ITEMS} items: {differences}")
    assert {len(answers) for answers in answers_by_way.values()} == {NUM_ITEMS}
    assert max(differences.values()) <= TOLERANCE
    spread = max(float(row.max()) for row in trained.values()) - min(float(row.max()) for row in trained.values())
    assert spread > 0.1  # a model that says the same of everything would pass anything
