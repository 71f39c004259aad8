"""Personal data on a project's deny-list reaches no log, page, task, message or file.

Canaries go through the real stages: two patterns (an address, a number) and a column (`email`). What stood in
items from before the list is not shown either.
"""

import dataclasses
import io
import json
import types

import numpy as np
import pyarrow.parquet as pq
import pytest

from bento_services.gateway.routing.routes import ProjectRoute, ServingSettings
from pipeline_tasks.contracts import REQUEST, Attempt, Graph, GraphNode, Location, RouteEntry
from pipeline_tasks.deployment.route_settings import route_config
from pipeline_tasks.evaluation.task import _as_shown
from pipeline_tasks.guards.personal import DenyList, deny_list
from pipeline_tasks.ingest.column_proposal import propose
from pipeline_tasks.ingest.item_reader import read_items
from pipeline_tasks.ingest.production_items import ProductionRecord, examine_record
from pipeline_tasks.orchestration import offline_predictions
from pipeline_tasks.orchestration.composed_projects import shared_limits
from pipeline_tasks.orchestration.privacy_status import privacy_line
from pipeline_tasks.project.loader import load_project
from pipeline_tasks.project.privacy_schema import Privacy
from pipeline_tasks.project.yaml_reader import ProjectError
from tests.fakes_labeling import FakeLabelStudio
from tests.labeling_case import Case, codes_of, make_item, make_project, region, texts_of
from tests.reported.sources_case import make_world
from tests.service.conftest import bearer, bench, routes, snapshot_of  # noqa: F401  (a fixture)
from tests.service.servers import CLASSES
from tests.unit.ingest.conftest import World

MAIL, NUMBER = "canary.one@example.com", "490151000042"
CANARIES = (MAIL, "canary", NUMBER, "Ada Canary")
PATTERNS = [r"[\w.]{1,64}@[\w.]{1,64}", r"\d{12}"]
DENY = f"privacy:\n  deny:\n    patterns: ['{PATTERNS[0]}', '{PATTERNS[1]}']\n"
DENY_COLUMNS = f"{DENY}    columns: [email, name]\n"
PRIVACY = Privacy.model_validate({"deny": {"patterns": PATTERNS}})
IN_ROUTE = {"columns": ["email"], "patterns": PATTERNS}


def everything_of(world: World) -> str:
    """Return all that the catalog's quarantine, the items and the object store hold."""
    shown = [repr(dataclasses.asdict(entry)) for entry in world.items.quarantined(world.folder.name)]
    shown += [repr(item) for item in world.all().values()]
    shown += [repr((info.key, world.store.get(info.key))) for info in world.store.list("")]
    return "\n".join(shown)


def assert_none(text: str) -> None:
    assert [canary for canary in CANARIES if canary in text] == []


@pytest.fixture
def texts(tmp_path, database) -> World:
    made = make_world(tmp_path, "text", database)
    made.edit("split:", f"{DENY}split:")
    return made


@pytest.fixture
def rows(world) -> World:
    world.edit("split:", f"{DENY_COLUMNS}checks: {{max_quarantine_share: 1.0}}\nsplit:")
    return world


def test_texts_are_taken_without_it(texts):
    texts.write("a.csv", f"id,text,label\n1,write to {MAIL} or {NUMBER}!,positive\n2,nothing here,\n")
    texts.run()
    data = {item.key: content for item, content in read_items(texts.store, texts.all().values())}
    assert data == {"1": b"write to [removed] or [removed]!", "2": b"nothing here"}
    assert_none(everything_of(texts))


def test_refusals_do_not_tell_it(texts, caplog):
    """In a key, a label, a name of a file, a broken row, a header that is a row, and a whole run's error."""
    texts.write("a.csv", f"id,text,label\n{MAIL},good,\n3,good,{MAIL}\n4,good\n5,{MAIL}\0,\n")
    texts.write(f"{MAIL}.csv", "id,text,label\n6\n")
    texts.write("b.csv", f"{MAIL},a text,positive\n")
    texts.run()
    refused = texts.refused()
    assert sorted(refused.values()) == [
        "CELLS_WRONG", "CELLS_WRONG", "COLUMN_MISSING", "PERSONAL_DATA", "TEXT_CONTROL_CHARACTER", "UNKNOWN_CLASS",
    ]  # fmt: skip
    assert_none(everything_of(texts) + caplog.text)
    texts.edit("max_quarantine_share: 1", "max_quarantine_share: 0.1")
    texts.write("c.csv", f"id,text,label\n7,good,{MAIL}\n8,good,{NUMBER}\n")
    with pytest.raises(Exception, match=r"got '\[removed\]'.*c\.csv") as caught:
        texts.run()
    assert_none(str(caught.value))


def test_columns_are_dropped_and_values_replaced(rows):
    rows.write(
        "a.csv",
        f"id,email,name,amount,country,label\n1,{MAIL},Ada Canary,2,{MAIL},\n2,{MAIL},Ada Canary,{NUMBER},DE,\n"
        f"3,x,Ada Canary,{MAIL},DE,\n",
    )
    rows.run()
    data = {item.key: json.loads(content) for item, content in read_items(rows.store, rows.all().values())}
    assert data == {"1": {"amount": 2, "country": "[removed]"}}
    assert set(rows.refused().values()) == {"VALUE_INVALID"}
    assert_none(everything_of(rows))
    proposals = propose(rows.project, environment={})
    assert_none(repr(proposals))
    assert "email" not in [proposal.name for proposal in proposals]


def test_what_was_taken_is_read_again_once_there_is_a_list(tmp_path, database):
    world = make_world(tmp_path, "text", database)
    world.write("a.csv", f"id,text,label\n1,write to {MAIL},positive\n")
    world.run()
    assert world.run(batch="2").num_new == 0
    world.edit("split:", f"{DENY}split:")
    assert world.run(batch="3").num_new == 1
    assert world.run(batch="4").num_new == 0


def test_the_log_of_before_is_imported_without_it(rows):
    project = rows.project.config
    row = {"amount": 1, "country": MAIL, "email": MAIL, "name": "Ada Canary"}
    examined = examine_record(ProductionRecord("p1", json.dumps(row).encode()), project=project)
    assert json.loads(examined.data) == {"amount": 1, "country": "[removed]"}
    bad = examine_record(ProductionRecord("p1", json.dumps(row | {"amount": MAIL}).encode()), project=project)
    assert (bad.code, bad.data) == ("VALUE_INVALID", None)
    assert_none(bad.reason)
    by_mail = examine_record(ProductionRecord("p1", json.dumps(row).encode(), MAIL), project=project)
    assert by_mail.code == "PERSONAL_DATA"
    assert_none(repr(by_mail))


@pytest.fixture
def guarded(bench):  # noqa: F811
    """A gateway whose projects have a deny-list."""

    def with_list(route):
        settings = route.settings
        return dataclasses.replace(
            route, settings=dataclasses.replace(settings, preprocess={**settings.preprocess, "privacy": IN_ROUTE})
        )

    keys = list(bench.catalog.snapshot.keys.values())
    bench.follow(snapshot_of([with_list(entry) for entry in routes()], keys))
    return bench


def everywhere(bench, caplog) -> str:  # noqa: F811
    asked = [payload for _, payload, _ in bench.models.asked]
    folder = bench.gateway.config.predictions_file.parent
    kept = [path.read_bytes() for path in folder.glob("predictions.db*")]
    return repr((bench.records(), asked, kept)) + caplog.text


@pytest.mark.parametrize(
    "case",
    [
        ("texts", f"write to {MAIL}", 200, b"write to [removed]"),
        ("rows", json.dumps({"a": NUMBER, "b": int(NUMBER), "email": "canary"}), 200,
         b'{"a":"[removed]","b":null}'),
        ("rows", json.dumps({"a": {"email": [MAIL]}}), 422, None),
        ("rows", f'{{"a": "{MAIL}"', 400, None),
        ("texts", f"{MAIL}\x01", 422, None),
    ],
)  # fmt: skip
def test_requests_are_answered_and_logged_without_it(guarded, caplog, case):
    project, body, status, model_sees = case
    media_type = {"texts": "text/plain", "rows": "application/json"}[project]
    headers = bearer("stack") | {"Content-Type": media_type}
    assert guarded.predict(body.encode(), project=project, headers=headers).status_code == status
    field = {"texts": "text", "rows": "row"}[project]
    try:
        batch = json.dumps({"items": [{field: json.loads(body) if field == "row" else body}]})
    except ValueError:
        batch = "{}"
    guarded.client.post(
        f"/v1/projects/{project}/predict:batch", content=batch,
        headers=bearer("stack") | {"Content-Type": "application/json"},
    )  # fmt: skip
    guarded.client.post(f"/v1/projects/{project}/predict:async", content=body, headers=headers)
    guarded.work()
    assert_none(everywhere(guarded, caplog))
    logged = {record.payload for record in guarded.records() if record.status == 200}
    assert logged == ({model_sees} if model_sees else set())
    assert {payload for _, payload, _ in guarded.models.asked} == logged


@pytest.mark.parametrize("name", ["X-User-Key", "X-Business-Key", "X-Request-Id"])
def test_a_key_with_it_is_refused(guarded, caplog, name):
    value = NUMBER if name == "X-Request-Id" else MAIL
    for path in ("predict", "predict:async"):
        response = guarded.client.post(
            f"/v1/projects/texts/{path}", content="good",
            headers=bearer("stack") | {"Content-Type": "text/plain", name: value},
        )  # fmt: skip
        assert (response.status_code, response.json()["error"]["code"]) == (422, "PERSONAL_DATA")
    told = {"label": "bag", "business_key": MAIL}
    headers = bearer("stack") | {"Content-Type": "application/json"}
    response = guarded.client.post("/v1/projects/texts/feedback", json=told, headers=headers)
    assert (response.status_code, response.json()["error"]["code"]) == (422, "PERSONAL_DATA")
    batch = {"items": [{"text": "good", "user_key": MAIL}, {"text": "good"}]}
    response = guarded.client.post("/v1/projects/texts/predict:batch", json=batch, headers=headers)
    assert [result["status"] for result in response.json()["results"]] == [422, 200]
    assert_none(everywhere(guarded, caplog))


def test_a_node_of_a_composed_project_keeps_to_its_own_list(bench, caplog):  # noqa: F811
    """The graph was applied before the node's project had one."""
    shared = {"classes": CLASSES, "modality": "text", "requests_per_second": 1e6, "max_request_bytes": 1000}
    entry = RouteEntry("coarse-1", "M", "http://coarse", 100)
    denying = ServingSettings(**shared, preprocess={"privacy": IN_ROUTE})
    node = ProjectRoute("coarse", 1, "c1", "M", (entry,), (), denying)
    graph = Graph((GraphNode("router", "coarse", REQUEST),), ("router",))
    whole = ProjectRoute("triage", 1, "t1", "graph-1", (), (), ServingSettings(**shared), graph)
    bench.follow(snapshot_of([node, whole], list(bench.catalog.snapshot.keys.values())))
    headers = bearer("stack") | {"Content-Type": "text/plain"}
    assert bench.predict(f"write to {MAIL}".encode(), project="triage", headers=headers).status_code == 200
    assert {record.payload for record in bench.records()} == {b"write to [removed]", None}
    assert_none(everywhere(bench, caplog))


def test_without_a_list_nothing_changes(bench):  # noqa: F811
    headers = bearer("stack") | {"Content-Type": "application/json", "X-User-Key": MAIL}
    body = json.dumps({"a": MAIL, "email": 1.50}).encode()
    assert bench.predict(body, project="rows", headers=headers).status_code == 200
    (record,) = bench.records()
    assert (record.payload, record.user_key) == (body, MAIL)


def test_the_route_carries_the_list(rows):
    rows.write("a.csv", "id,amount,country,label\n")
    privacy = route_config(rows.project)["preprocess"]["privacy"]
    assert privacy == {"columns": ["email", "name"], "patterns": PATTERNS}
    assert privacy_line(rows.project.config, route_config(rows.project)) == ""
    assert "next promotion" in privacy_line(rows.project.config, {"preprocess": {}})
    both = shared_limits([{"max_pixels": 1, "privacy": privacy}, {"max_pixels": 2}])
    assert both["privacy"] == {"columns": ["email", "name"], "patterns": sorted(PATTERNS)}
    assert "privacy" not in shared_limits([{"max_pixels": 1}])


def test_items_of_before_the_list_are_not_shown(database, object_store):
    """A labeling task, a page with examples, and a labeler's own note."""
    project = make_project(modality="text", xml='<View><Text name="text" value="$text"/><Choices name="label" '
                           'toName="text"/></View>')  # fmt: skip
    config = project.config.model_copy(update={"privacy": PRIVACY})
    case = Case(database, FakeLabelStudio(), project=project.model_copy(update={"config": config}), store=object_store)
    item = make_item(1, content=f"write to {MAIL}".encode(), media_type="text/plain")
    case.store.put(item.location.object_key, f"write to {MAIL}".encode())
    case.add(item)
    case.annotate()
    assert "write to [removed]" in repr(vars(case.labeling))
    assert_none(repr([vars(value) if hasattr(value, "__dict__") else value for value in vars(case.labeling).values()]))
    read = _as_shown(lambda locations: [case.store.get(place.object_key) for place in locations], case.project)
    assert read([Location(item.location.object_key, 0, 1)]) == [b"write to [removed]"]


def test_a_labelers_note_is_kept_without_it(database, object_store):
    project = make_project()
    config = project.config.model_copy(update={"privacy": PRIVACY})
    case = Case(database, FakeLabelStudio(), project=project.model_copy(update={"config": config}), store=object_store)
    (item_id, other) = case.add_numbers([1, 2])
    queue = case.annotate().ls_project_ids["label"]
    note = region([f"ask {MAIL}"], name="note", kind="textarea", key="text")
    case.labeling.answer(queue, item_id, None, result=[region(), note])
    case.labeling.answer(queue, other, MAIL)
    case.collect()
    ((row,),) = [rows for owner, rows in case.labels.annotations(project.name, [item_id]).items()]
    assert row.result[1]["value"]["text"] == ["ask [removed]"]
    assert codes_of(case) == ["UNKNOWN_CLASS"]
    assert_none(repr((row, texts_of(case))))


def test_batch_answers_are_without_it(world, database, object_store, tmp_path, monkeypatch):
    """The items came in before the list."""
    world.write("a.csv", f"id,amount,country,label\n{NUMBER},1,DE,\n2,1,{MAIL},\n")
    world.run()
    world.edit("split:", f"{DENY}split:")

    class Model:
        classes = ("no", "yes")

        def decode(self, data):
            if MAIL.encode() in data:
                raise offline_predictions.InputError(f"country must be known (got {MAIL!r}).", code="VALUE_INVALID")
            return data

        def predict(self, inputs):
            return np.array([[0.25, 0.75]] * len(inputs), np.float32)

    monkeypatch.setattr(offline_predictions, "champion_of", lambda *_: types.SimpleNamespace(version="v1"))
    monkeypatch.setattr(offline_predictions, "load_stored", lambda _: lambda _: Model())
    settings = types.SimpleNamespace(scratch_dir=tmp_path / "scratch")
    parts = types.SimpleNamespace(database=database, store=object_store, settings=settings)
    parts.project = lambda _: world.project
    report = offline_predictions.predict_batch(parts, "some_rows", attempt=Attempt("r", "t", 1), batch_id=None)
    records = pq.read_table(io.BytesIO(object_store.get(report["object_key"]))).to_pylist()
    assert sorted(row["key"] for row in records) == ["2", "[removed]"]
    assert_none(repr(records))


BAD_SETTINGS = {
    "a column that is content": ("columns: [amount]", "must be used for nothing else (got 'amount', named in columns)"),
    "the key": ("columns: [id]", "named in sources[0].key_column"),
    "no expression": ("patterns: ['(']", "must be a regular expression (got '('"),
    "the empty text": ("patterns: ['x{0,3}']", "must not match the empty text"),
    "the sign in its place": ("patterns: ['remove']", "must not match [removed]"),
    "a repeat without a bound": ("patterns: ['x@[a-z]+']", "must have repeats of at most 256"),
    "a repeat in a repeat": ("patterns: ['(x{1,9}y){1,9}@']", "none within another"),
    "an empty pattern": ("patterns: ['']", "must have 1 to 300 characters (got 0)"),
    "a value that is never met": ("patterns: ['DE']", "columns[1].values must match none"),
    "a class": ("patterns: ['yes']", "labels.classes[1] must match none of privacy.deny.patterns (got 'yes')"),
}


@pytest.mark.parametrize(("setting", "message"), BAD_SETTINGS.values(), ids=BAD_SETTINGS)
def test_a_setting_that_cannot_work_is_refused(world, setting, message):
    world.edit("split:", f"privacy:\n  deny:\n    {setting}\nsplit:")
    with pytest.raises(ProjectError) as caught:
        load_project(world.folder)
    assert message in str(caught.value)


def test_columns_of_files_are_refused(tmp_path, database):
    world = make_world(tmp_path, "image", database)
    world.edit("split:", "privacy: {deny: {columns: [email]}}\nsplit:")
    with pytest.raises(ProjectError, match="a file has no fields"):
        load_project(world.folder)


def test_an_empty_list_is_none():
    assert not DenyList()
    assert not deny_list({})
    assert deny_list(IN_ROUTE).clean({"email": 1, "a": [True, None, 1.5, int(NUMBER), MAIL]}) == {
        "a": [True, None, 1.5, None, "[removed]"]
    }
    assert deny_list(IN_ROUTE).shown(b"{broken", media_type="application/json") == b"{broken"
