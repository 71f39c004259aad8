"""A composed project: which nodes are asked, what they are given, what the caller gets and what is logged of it."""

from __future__ import annotations

import asyncio
import dataclasses
import json

import numpy as np
import pytest
from starlette.testclient import TestClient

from bento_services.gateway.api.app import build_app
from bento_services.gateway.async_predictions.reviews import Audited, Review
from bento_services.gateway.routing.dispatcher import Dispatcher
from bento_services.gateway.routing.inference_client import SAFETENSORS, Failed, InferenceClient, Rejected, Scores
from bento_services.gateway.routing.routes import ProjectRoute, ServingSettings, parse_snapshot, snapshot_of
from bento_services.inference.responses import Answers
from pipeline_tasks.contracts import REQUEST, Graph, GraphNode, RouteEntry, sha256_hex
from pipeline_tasks.deployment.bento_builder import build_bento
from pipeline_tasks.models.artifact import load
from tests.service.conftest import bearer, png, snapshot
from tests.service.servers import serving, write_model
from tests.service.test_gateway_http import error_of
from tests.service.test_gateway_openapi import keys

COARSE, SHOES, STACKED = ("bag", "boot", "coat"), ("hiking boot", "rain boot"), ("keep", "return")
ROUTER = GraphNode("router", "coarse", REQUEST)
SPECIALIST = GraphNode("specialist", "shoes", REQUEST, when="router", label_in=("boot",))
UNSURE = dataclasses.replace(SPECIALIST, label_in=(), confidence_below=0.8)
LAST = GraphNode("last", "stacked", "router", labels=COARSE)
CASCADE = Graph((ROUTER, SPECIALIST), ("specialist", "router"))
CHAIN = Graph((ROUTER, LAST), ("last",))
VERSION = "graph-0123456789ab"


def project(name, *, classes, version="M", modality="image", shadows=(), **settings) -> ProjectRoute:
    fields = {"classes": classes, "modality": modality, "requests_per_second": 1e6, **settings}
    entries = (RouteEntry(f"{name}-1", version, f"http://{name}", 100),)
    return ProjectRoute(name, 1, f"{name}1", version, entries, shadows, ServingSettings(**fields))


def composed(graph: Graph) -> ProjectRoute:
    limits = {"requests_per_second": 1e6, "max_request_bytes": 100_000, "preprocess": {"max_pixels": 1_000_000}}
    settings = ServingSettings(classes=(*SHOES, *COARSE), modality="image", **limits)
    return ProjectRoute("triage", 1, "t1", VERSION, (), (), settings, graph)


def with_graph(graph: Graph, **shoes):
    routes = [
        project("coarse", classes=COARSE, version="C"),
        project("shoes", classes=SHOES, version="S", review_below=0.0, **shoes),
        project("stacked", classes=STACKED, version="T", modality="tabular", review_below=0.95),
        composed(graph),
    ]
    return snapshot_of(routes, list(snapshot().keys.values()))


class Models:
    """Answers by project; notes what each was given. `tensors` are the very bytes that were answered with."""

    def __init__(self) -> None:
        self.probabilities = {"coarse": (0.1, 0.7, 0.2), "shoes": (0.25, 0.75), "stacked": (0.9, 0.1)}
        self.classes = {"coarse": COARSE, "shoes": SHOES, "stacked": STACKED}
        self.replies = {}
        self.asked = []
        self.tensors = {}

    async def ask(self, entry, payload, *, media_type, classes):
        name = entry.deployment_id.rpartition("-")[0]
        self.asked.append((name, payload, media_type))
        return self.replies.get(name, Scores(self.classes[name], self.probabilities[name], {"model": 0.001}))

    async def ask_tensor(self, entry, payload, *, media_type, classes):
        reply = await self.ask(entry, payload, media_type=media_type, classes=classes)
        if not isinstance(reply, Scores):
            return reply
        name = entry.deployment_id.rpartition("-")[0]
        self.tensors[name] = Answers(version=entry.model_version, labels=reply.labels).tensor(reply.probabilities)
        return dataclasses.replace(reply, tensor=self.tensors[name])


@pytest.fixture
def models(bench):
    models = Models()
    bench.answer_by(models)
    return models


def ask(bench, graph=CASCADE, body=None, **headers):
    bench.follow(with_graph(graph))
    return bench.predict(body, project="triage", name="stack", **headers)


def by_project(bench):
    return {record.project: record for record in bench.records()}


def test_a_specialist_answers_for_what_the_router_sends_it(bench, models):
    answer = ask(bench).json()
    assert set(answer) == keys("Prediction")
    assert set(answer["nodes"][0]) == keys("NodeAnswer")
    assert [name for name, _, _ in models.asked] == ["coarse", "shoes"]
    assert {payload for _, payload, _ in models.asked} == {png()}
    assert {key: answer[key] for key in ("model_version", "label", "confidence", "answered_by", "needs_review")} == {
        "model_version": VERSION,
        "label": "rain boot",
        "confidence": 0.75,
        "answered_by": "specialist",
        "needs_review": False,
    }
    assert answer["nodes"] == [
        {"node": "router", "project": "coarse", "model_version": "C", "label": "boot", "confidence": 0.7},
        {"node": "specialist", "project": "shoes", "model_version": "S", "label": "rain boot", "confidence": 0.75},
    ]


def test_what_is_not_for_the_specialist_is_answered_by_the_router(bench, models):
    models.probabilities["coarse"] = (0.6, 0.2, 0.2)
    answer = ask(bench).json()
    assert [name for name, _, _ in models.asked] == ["coarse"]
    assert (answer["answered_by"], answer["label"], len(answer["nodes"])) == ("router", "bag", 1)


@pytest.mark.parametrize(("confidence", "names"), [(0.79, ["coarse", "shoes"]), (0.8, ["coarse"])])
def test_a_cascade_asks_on_only_where_the_first_is_unsure(bench, models, confidence, names):
    models.probabilities["coarse"] = (confidence, 1 - confidence, 0.0)
    ask(bench, Graph((ROUTER, UNSURE), ("specialist", "router")))
    assert [name for name, _, _ in models.asked] == names


def test_what_follows_a_node_that_did_not_run_does_not_run(bench, models):
    behind = GraphNode("behind", "stacked", "specialist", labels=SHOES)
    also = dataclasses.replace(behind, name="also", source=REQUEST, when="specialist", labels=(), label_in=SHOES)
    models.probabilities["coarse"] = (0.6, 0.2, 0.2)
    for node in (behind, also):
        answer = ask(bench, Graph((ROUTER, SPECIALIST, node), (node.name, "router"))).json()
        assert (answer["answered_by"], len(answer["nodes"])) == ("router", 1)


def test_a_tensor_goes_on_as_the_very_bytes_that_came(bench, models):
    answer = ask(bench, CHAIN).json()
    assert (answer["answered_by"], answer["label"]) == ("last", "keep")
    (_, first, _), (name, second, media_type) = models.asked
    assert (name, media_type, first) == ("stacked", SAFETENSORS, png())
    assert second is models.tensors["coarse"], "not a copy, not encoded again"
    assert set(models.tensors) == {"coarse"}, "only where somebody takes it"


def test_every_node_is_logged_in_its_project_under_the_one_id(bench, models):
    answer = ask(bench, CHAIN, **{"X-User-Key": "u1", "X-Business-Key": "order 7"}).json()
    records = by_project(bench)
    assert {
        name: (record.model_version, record.deployment_id, record.label, record.status)
        for name, record in records.items()
    } == {
        "coarse": ("C", "coarse-1", "boot", 200),
        "stacked": ("T", "stacked-1", "keep", 200),
        "triage": (VERSION, "stacked-1", "keep", 200),
    }
    assert {record.prediction_id for record in records.values()} == {answer["prediction_id"]}
    assert {record.user_key for record in records.values()} == {"u1"}
    assert {record.business_key for record in records.values()} == {"order 7"}
    assert {name: record.payload for name, record in records.items()} == {
        "coarse": png(),
        "stacked": None,
        "triage": None,
    }
    assert records["stacked"].payload_sha256 == sha256_hex(models.tensors["coarse"])
    assert records["triage"].payload_sha256 == sha256_hex(png()) == records["coarse"].payload_sha256
    assert json.loads(records["triage"].scores) == {"keep": 0.9, "return": 0.1}
    assert (bench.counts(), bench.failed()) == ((3, 3, 0), 0)


def test_thresholds_business_labels_and_review_are_those_of_the_project_that_answers(bench, models):
    bench.follow(with_graph(CASCADE, thresholds={"rain boot": 0.9}, business_labels={"hiking boot": "H"}))
    answer = bench.predict(project="triage", name="stack").json()
    assert (answer["label"], answer["business_label"], answer["confidence"]) == ("hiking boot", "H", 0.25)


@pytest.mark.parametrize(
    ("case", "expected", "logged"),
    [
        (
            (CASCADE, "shoes", Failed("timeout")),
            ((503, "MODEL_FAILED", None), "specialist (shoes)"),
            {"coarse": 200, "shoes": 503},
        ),
        (
            (CASCADE, "shoes", Failed("overloaded")),
            ((503, "OVERLOADED", None), "specialist (shoes)"),
            {"coarse": 200, "shoes": 503},
        ),
        (
            (CASCADE, "coarse", Rejected(422, "IMAGE_CORRUPT", "m")),
            ((422, "IMAGE_CORRUPT", "body"), "router (coarse)"),
            {"coarse": 422},
        ),
        (
            (CHAIN, "stacked", Rejected(422, "TENSOR_INVALID", "m")),
            ((503, "NODE_FAILED", None), "last (stacked)"),
            {"coarse": 200, "stacked": 422},
        ),
        (
            (CHAIN, "coarse", Scores(COARSE[::-1], (0.1, 0.7, 0.2))),
            ((503, "GRAPH_OUTDATED", None), "last (stacked)"),
            {"coarse": 200, "stacked": 503},
        ),
    ],
)
def test_a_nodes_error_names_the_node_and_what_had_answered_is_logged(bench, models, case, expected, logged):
    (graph, name, reply), (error, node) = case, expected
    models.replies[name] = reply
    response = ask(bench, graph)
    assert error_of(response) == error
    assert response.json()["error"]["message"].startswith(f"node {node}: ")
    records = by_project(bench)
    assert {project: record.status for project, record in records.items()} == logged | {"triage": error[0]}
    whole = records["triage"]
    assert (whole.error_code, whole.payload, whole.prediction_id) == (error[1], png(), None)
    assert bench.counts() == (len(records), len(records), 0)


def test_a_node_whose_project_is_gone_is_an_outage_and_no_404(bench, models):
    known = with_graph(CASCADE)
    routes = [route for name, route in known.routes.items() if name != "shoes"]
    bench.follower.snapshot = snapshot_of(routes, list(known.keys.values()))
    response = bench.predict(project="triage", name="stack")
    assert error_of(response)[:2] == (503, "NODE_FAILED")
    assert "node specialist (shoes)" in response.json()["error"]["message"]
    assert response.headers["retry-after"] == "5"


def test_the_version_of_a_composed_project_is_that_of_its_graph(bench, models):
    assert ask(bench, **{"X-Model-Version": VERSION}).status_code == 200
    response = ask(bench, **{"X-Model-Version": "C"})
    assert error_of(response) == (404, "MODEL_VERSION_UNKNOWN", "X-Model-Version")


def test_a_bad_item_is_refused_before_any_node_is_asked(bench, models):
    assert error_of(ask(bench, body=png()[:-30]))[:2] == (422, "IMAGE_TRUNCATED")
    assert models.asked == []
    assert bench.counts() == (1, 1, 0)


def test_batches_and_later_predictions_are_composed_too(bench, models):
    import base64

    bench.follow(with_graph(CHAIN))
    items = [{"base64": base64.b64encode(png(seed)).decode()} for seed in range(3)]
    headers = bearer("stack") | {"Content-Type": "application/json"}
    response = bench.client.post("/v1/projects/triage/predict:batch", json={"items": items}, headers=headers)
    assert [row["prediction"]["answered_by"] for row in response.json()["results"]] == ["last"] * 3
    taken = bench.client.post("/v1/projects/triage/predict:async", content=png(9), headers=bearer("stack"))
    bench.work()
    status = bench.client.get(taken.headers["location"], headers=bearer("stack")).json()
    assert (status["status"], status["prediction"]["answered_by"]) == ("done", "last")
    ids = [record.prediction_id for record in bench.records()]
    assert [ids.count(prediction_id) for prediction_id in set(ids)] == [3] * 4
    assert bench.counts() == (12, 12, 0)


def test_the_same_request_again_is_answered_and_logged_once(bench, models):
    answers = [ask(bench, **{"X-Request-Id": "r1"}).json() for _ in range(2)]
    assert answers[0] == answers[1]
    assert bench.counts() == (3, 3, 0)


def test_what_a_person_said_is_looked_up_in_the_project_that_answered(bench, models):
    models.probabilities["coarse"] = (0.4, 0.3, 0.3)  # below the half that needs a person
    answer = ask(bench).json()
    assert (answer["needs_review"], answer["answered_by"]) == (True, "router")
    asked = []

    def find(prediction_id, *, project="", item_id=""):
        asked.append((prediction_id, project, item_id))
        return Audited("coarse", Review("answered", "bag", "2026-01-01T00:00:00+00:00"))

    bench.reviews.find = find
    status = bench.client.get(f"/v1/predictions/{answer['prediction_id']}", headers=bearer("stack")).json()
    assert (status["project"], status["review"]["label"]) == ("triage", "bag")
    assert asked == [(answer["prediction_id"], "coarse", sha256_hex(png()))]


def test_what_serves_is_told_and_survives_in_the_local_copy(bench, models):
    ask(bench)
    told = bench.client.get("/v1/projects/triage", headers=bearer("stack")).json()
    assert (told["champion_version"], told["deployments"]) == (VERSION, [])
    assert [node["project"] for node in told["graph"]["nodes"]] == ["coarse", "shoes"]
    assert told["graph"]["output"] == ["specialist", "router"]
    assert (set(told), set(told["graph"])) == (keys("ProjectStatus"), keys("Graph"))
    assert set(told["graph"]["nodes"][0]) == keys("GraphNode")
    copied = parse_snapshot(bench.follower._local_copy.read_text())
    assert copied == bench.follower.snapshot
    assert copied.routes["triage"].graph == CASCADE


def test_a_nodes_shadow_is_asked_what_the_node_was(bench, models):
    known = with_graph(CHAIN)
    shadow = RouteEntry("stacked-2", "T2", "http://t2", 0)
    shadowed = dataclasses.replace(known.routes["stacked"], shadows=(shadow,))
    bench.follow(snapshot_of([*(known.routes | {"stacked": shadowed}).values()], list(known.keys.values())))

    async def run():
        import httpx

        transport = httpx.ASGITransport(app=bench.client.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway", headers=bearer("stack")) as client:
            assert (await client.post("/v1/projects/triage/predict", content=png())).status_code == 200
        await bench.gateway.mirror.stop()

    asyncio.run(run())
    assert [payload for name, payload, _ in models.asked if name == "stacked"] == [models.tensors["coarse"]] * 2
    assert [record.model_version for record in bench.records() if record.kind == "shadow"] == ["T2"]


class Wire(InferenceClient):
    """The real client; notes what went out and what came back."""

    def __init__(self) -> None:
        super().__init__(timeout_seconds=20)
        self.sent, self.got = [], []

    async def ask(self, entry, payload, *, media_type, classes):
        self.sent.append((entry.model_version, media_type, payload))
        return await super().ask(entry, payload, media_type=media_type, classes=classes)

    async def ask_tensor(self, entry, payload, *, media_type, classes):
        self.sent.append((entry.model_version, media_type, payload))
        reply = await super().ask_tensor(entry, payload, media_type=media_type, classes=classes)
        self.got.append(reply.tensor)
        return reply


@pytest.mark.integration
@pytest.mark.slow
def test_two_real_services_answer_as_their_models_do_one_after_the_other_offline(bench, tmp_path):
    params = {"numbers": list(COARSE), "categories": {}}
    write_model(tmp_path / "first", version="C", classes=COARSE)
    write_model(tmp_path / "second", version="T", recipe="tabular_mlp", classes=STACKED, params=params, seed=3)
    home = tmp_path / "bentoml"
    for name in ("first", "second"):
        build_bento(tmp_path / name, tag=f"dethrone_{name}:r1", labels={}, bentoml_home=home)
    environment = {"BENTOML_HOME": str(home)}
    first, second = load(tmp_path / "first"), load(tmp_path / "second")
    images = [png(seed) for seed in range(25)]
    halves = first.predict([first.decode(image) for image in images])
    expected = second.predict(list(halves.astype(np.float32)))
    with (
        serving("dethrone_first:r1", home=tmp_path, environment=environment, cwd=tmp_path) as coarse_server,
        serving("dethrone_second:r1", home=tmp_path, environment=environment, cwd=tmp_path) as stacked_server,
    ):
        known = with_graph(CHAIN)
        for name, server in (("coarse", coarse_server), ("stacked", stacked_server)):
            route = known.routes[name]
            entries = (dataclasses.replace(route.entries[0], address=server.url),)
            known.routes[name] = dataclasses.replace(route, entries=entries)
        bench.follow(known)
        wire = Wire()
        bench.gateway.dispatcher = Dispatcher(wire)
        with TestClient(build_app(bench.gateway)) as client:
            answers = [
                client.post("/v1/projects/triage/predict", content=image, headers=bearer("stack")).json()
                for image in images
            ]
            client.portal.call(wire.close)
    for answer, probabilities in zip(answers, expected, strict=True):
        assert answer["label"] == STACKED[int(probabilities.argmax())]
        assert {candidate["label"]: candidate["confidence"] for candidate in answer["top"]} == {
            label: pytest.approx(float(value), abs=1e-5) for label, value in zip(STACKED, probabilities, strict=True)
        }
        assert [node["model_version"] for node in answer["nodes"]] == ["C", "T"]
    # One encoding by the first service, one reading by the second: in between the same object, byte for byte.
    given = [payload for version, media_type, payload in wire.sent if version == "T" and media_type == SAFETENSORS]
    assert len(given) == len(wire.got) == len(images)
    assert all(left is right for left, right in zip(given, wire.got, strict=True))
    assert bench.counts() == (75, 75, 0)


def test_an_experiment_on_a_nodes_project_sees_whom_the_graph_exposed(bench, models):
    ask(bench, **{"X-User-Key": "ann"})
    drawn = {name: (record.generation, record.assigned) for name, record in by_project(bench).items()}
    assert drawn == {"coarse": (1, "coarse-1"), "shoes": (1, "shoes-1"), "triage": (None, None)}


def test_a_node_that_fails_was_drawn_all_the_same(bench, models):
    models.replies["shoes"] = Failed("timeout")
    ask(bench)
    record = by_project(bench)["shoes"]
    assert (record.status, record.generation, record.assigned) == (503, 1, "shoes-1")
