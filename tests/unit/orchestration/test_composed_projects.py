"""A composed project's graph on its way into the route and the ledger: by champions only, typed, named, replayable."""

import datetime as dt
import json
import types

import pytest

from bento_services.gateway.prediction_log.records import to_parts
from bento_services.gateway.routing.route_follower import SqlCatalog
from pipeline_tasks.audit.lineage import lineage
from pipeline_tasks.audit.lineage_tree import as_json
from pipeline_tasks.backup import restore
from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.ledger_repository import LedgerRepository
from pipeline_tasks.catalog.model_versions import ModelRecord, ModelRepository
from pipeline_tasks.catalog.routes import ServingRepository
from pipeline_tasks.cli import main
from pipeline_tasks.contracts import Attempt, Graph, GraphNode, ModelRef, Route, RouteEntry
from pipeline_tasks.errors import ConfigError, GateClosed
from pipeline_tasks.invariants.check import check
from pipeline_tasks.orchestration import composed_projects, resources
from pipeline_tasks.project.yaml_reader import ProjectError
from tests.ledger_case import Case, minutes
from tests.service.servers import write_model
from tests.unit.monitoring.builders import record
from tests.unit.validation.builders import loaded_project

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
FILE = """\
name: triage
graph:
  nodes:
    router: {project: coarse}
    last: {project: stacked, input: router.probabilities}
  output: [last]
serving: {max_request_bytes: 5000}
"""


class World:
    """Two projects, each with a champion whose manifest is in the store, and the file that composes them."""

    def __init__(self, parts, folder) -> None:
        self.parts, self.folder = parts, folder
        self.serving = ServingRepository(parts.database)
        self.loaded = {}

    def champion(self, name, version, *, classes, recipe, modality, params=None) -> None:
        write_model(self.folder / version, version=version, recipe=recipe, classes=classes, params=params)
        key = f"models/{name}/{version}"
        self.parts.store.put(f"{key}/model.json", (self.folder / version / "model.json").read_bytes())
        ref = ModelRef(name, version, key, "digest", "s1")
        facts = {"recipe": recipe, "params": {}, "metrics": {}, "seed": 0, "lock_hash": "l", "code_revision": "c"}
        record = ModelRecord(ref, version, **facts, tracker={}, run_id="r", created_at=NOW)
        fence = self.parts.database.acquire(f"train/{name}", Attempt("r", "train"), now=NOW)
        ModelRepository(self.parts.database).record(record, fence=fence)
        section = {"name": recipe} | ({"params": params} if params else {})
        labels = {"classes": list(classes)}
        self.loaded[name] = loaded_project(
            self.folder / name, name=name, modality=modality, labels=labels, recipe=section
        )
        Case(self.parts.database, self.parts.store, project=name).move(version)

    def write(self, text=FILE) -> None:
        (self.folder / "triage").mkdir(exist_ok=True)
        (self.folder / "triage" / "project.yaml").write_text(text)

    def apply(self, reason="first try", number=1) -> Route:
        return composed_projects.apply_graph(
            self.parts, "triage", attempt=Attempt("shell", "graph", number), actor="ann", reason=reason
        )


@pytest.fixture
def world(database, object_store, tmp_path):
    settings = types.SimpleNamespace(projects_dir=tmp_path)
    parts = types.SimpleNamespace(database=database, store=object_store, brisk_store=object_store, settings=settings)
    world = World(parts, tmp_path)
    parts.project = world.loaded.__getitem__
    world.write()
    return world


def both(world, columns=("bag", "boot", "coat")):
    world.champion("coarse", "C", classes=("bag", "boot", "coat"), recipe="image_cnn", modality="image")
    params = {"numbers": list(columns), "categories": {}}
    world.champion("stacked", "T", classes=("keep", "return"), recipe="tabular_mlp", modality="tabular", params=params)


def violations(world, project="triage"):
    broken = check(world.parts.database, world.parts.store, now=minutes(1e6))
    return [str(violation) for violation in broken if violation.project == project]


def test_an_applied_graph_is_a_route_that_the_gateway_follows(world):
    both(world)
    route = world.apply()
    assert (route.generation, route.entries) == (1, ())
    followed = SqlCatalog(str(world.parts.database.engine.url)).read().routes["triage"]
    assert (
        followed.champion_version
        == route.champion_version
        == composed_projects.plan_graph(world.parts, "triage").version
    )
    last = GraphNode("last", "stacked", "router", labels=("bag", "boot", "coat"))
    assert followed.graph == Graph((GraphNode("router", "coarse", "request"), last), ("last",))
    assert (followed.settings.modality, followed.settings.classes) == ("image", ("keep", "return"))
    assert followed.settings.max_request_bytes == 5000
    assert followed.settings.preprocess["max_pixels"] > 0


def test_it_stands_in_the_ledger_with_who_and_why_and_breaks_no_invariant(world):
    both(world)
    route = world.apply()
    (record,) = world.serving.records("triage")
    assert (record.action, record.actor, record.reason) == ("graph", "ann", "first try")
    entry = LedgerRepository(world.parts.database).find("triage", "route", route.commit_id)
    assert entry.body["champion_version"] == route.champion_version
    assert [key for key in world.parts.store.objects if key.startswith("ledger/triage/")] != []
    assert violations(world) == []


def test_the_same_graph_again_is_no_change_and_another_one_is_the_next_generation(world):
    both(world)
    first = world.apply()
    assert world.apply(number=2) == first
    world.write(FILE.replace("max_request_bytes: 5000", "max_request_bytes: 6000"))
    second = world.apply(number=4)
    assert (second.generation, second.parent_commit_id) == (2, first.commit_id)
    world.write()
    assert world.apply(number=5).champion_version == first.champion_version
    assert violations(world) == []


def test_a_node_without_a_champion_closes_the_gate(world):
    world.champion("coarse", "C", classes=("bag", "boot", "coat"), recipe="image_cnn", modality="image")
    with pytest.raises(GateClosed, match=r"must have a champion \(stacked has none\)") as error:
        world.apply()
    assert error.value.code == "NODE_WITHOUT_CHAMPION"
    assert world.serving.head_route("triage") is None


def test_champions_whose_types_do_not_match_are_refused_with_the_line(world):
    both(world, columns=("boot", "bag", "coat"))
    with pytest.raises(ProjectError, match=r"project.yaml:5:30: input must be the columns that stacked was trained on"):
        world.apply()


def commit(world, project, *, nodes=("coarse",), action="graph", entries=()):
    route = Route(project, 1, f"{project}1", None, "graph-x", entries)
    serving = {"graph": {"nodes": [{"project": name} for name in nodes], "output": []}}
    facts = {"attempt": "a", "verdict_id": "", "actor": "ann", "reason": "r", "serving": serving, "at": NOW}
    return world.serving.commit_route(route, action=action, **facts)


def test_the_catalog_itself_refuses_what_is_no_graph_of_champions(world):
    both(world)
    world.apply()
    with pytest.raises(GateClosed, match=r"\(nobody has none\)"):
        commit(world, "other", nodes=("coarse", "nobody"))
    with pytest.raises(GateClosed, match=r"\(triage has none\)"):
        commit(world, "other", nodes=("triage",))
    with pytest.raises(ConfigError, match="entries must be empty"):
        commit(world, "other", entries=(RouteEntry("d", "C", "http://x", 100),))
    with pytest.raises(ConfigError, match="add up to 100"):
        commit(world, "other", action="promote")
    assert world.serving.head_route("other") is None


def test_a_project_is_composed_or_has_models_never_both(world):
    both(world)
    world.apply()
    with pytest.raises(GateClosed, match="triage must stay what it is") as error:
        Case(world.parts.database, world.parts.store, project="triage").move("m1")
    assert error.value.code == "PROJECT_HAS_MODELS"
    (world.folder / "coarse").mkdir(exist_ok=True)
    (world.folder / "coarse" / "project.yaml").write_text(
        "name: coarse\ngraph:\n  nodes: {a: {project: stacked}}\n  output: [a]\n"
    )
    with pytest.raises(GateClosed, match="coarse must stay what it is"):
        composed_projects.apply_graph(world.parts, "coarse", attempt=Attempt("shell", "graph"), actor="ann", reason="r")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"champion_version": "graph-000000000000"}, "must be named after its graph"),
        ({"action": "promote"}, "I3|I6"),
        ({"created_at": NOW - dt.timedelta(days=400)}, "asks coarse, which had no champion"),
        ({"parent_commit_id": "x"}, "must be generation 1 after None"),
    ],
)
def test_a_changed_row_is_seen(world, values, message):
    both(world)
    world.apply()
    mine = t.routes.c.project == "triage"
    case = Case(world.parts.database, world.parts.store)
    case.tamper(t.routes, t.routes.update().where(mine).values(**values))
    text = "\n".join(violations(world))
    assert any(part in text for part in message.split("|")), text


def test_the_command_checks_applies_and_shows(world, monkeypatch, capsys):
    both(world)
    monkeypatch.setattr(resources, "build_resources", lambda: world.parts)

    def run(*arguments):
        code = main.main(["graph", "triage", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    version = composed_projects.plan_graph(world.parts, "triage").version
    code, out, _ = run("check")
    assert (code, out.splitlines()) == (
        0,
        [
            f"triage: {version}, answers keep, return",
            "  router: coarse C, given the request",
            "  last: stacked T, given the probabilities of router",
            "  answers: last",
        ],
    )
    assert run("show")[1] == "triage has no route yet.\n"
    code, _, error = run("apply")
    assert (code, "reason must say why" in error) == (2, True)
    code, out, _ = run("apply", "--reason", "launch")
    assert (code, json.loads(out)) == (0, {"project": "triage", "generation": 1, "version": version})
    assert [node["name"] for node in json.loads(run("show")[1])["nodes"]] == ["router", "last"]
    assert json.loads(run("check", "--json")[1])["version"] == version
    assert main.main(["history", "triage"]) == 0
    assert "graph      generation 1" in capsys.readouterr().out
    now = dt.datetime.now(dt.UTC).isoformat()
    assert main.main(["history", "triage", "--at", now]) == 0
    told = capsys.readouterr().out
    assert (version in told, "launch" in told, "None" in told) == (True, True, False), told


def test_the_lineage_of_a_composed_prediction_leads_on_into_its_nodes(world):
    both(world)
    version = world.apply().champion_version
    at = int(dt.datetime.now(dt.UTC).timestamp() * 1000) + 1000
    for name, model, label in (("coarse", "C", "boot"), ("stacked", "T", "keep"), ("triage", version, "keep")):
        changes = {"project": name, "model_version": model, "label": label, "deployment_id": f"d-{model}", "at_ms": at}
        for key, data in to_parts([record(7, **changes)]).items():
            world.parts.store.put(key, data)
    tree = as_json(lineage(world.parts.database, world.parts.store, "p00007"))
    came_from = tree["children"][0]["children"]
    assert (tree["project"], [node["kind"] for node in came_from]) == ("triage", ["route", "node", "node"])
    assert [(node["name"], node["project"]) for node in came_from[1:]] == [("router", "coarse"), ("last", "stacked")]
    assert [node["children"][0]["version"] for node in came_from[1:]] == ["C", "T"]
    (of_node,) = [
        node
        for node in as_json(lineage(world.parts.database, world.parts.store, "p00007", project="coarse"))["children"]
        if node["kind"] == "came_from"
    ]
    assert of_node["children"][0]["version"] == "C"


def test_a_restore_has_no_server_of_a_composed_project_to_start(world, tmp_path):
    both(world)
    world.apply()
    (tmp_path / "restored" / "triage").mkdir(parents=True)
    (tmp_path / "restored" / "triage" / "project.yaml").write_text(FILE)
    world.parts.settings.projects_dir = tmp_path / "restored"
    assert restore._remember_servers(world.parts) == ([], [])
