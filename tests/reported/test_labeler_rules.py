"""The rules of what labelers may do, and whose an answer is, without a server."""

import datetime as dt
import importlib.util
import json
import sys
import types
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from pipeline_tasks.adapters.label_studio import LabelStudio
from pipeline_tasks.annotation.annotation_parser import read_answer, received
from pipeline_tasks.core.ports import LabelingAnnotation
from pipeline_tasks.project.labeling_config import parse_labeling
from tests.labeling_case import CLASSES, XML, region

SERVER = Path(__file__).resolve().parents[2] / "pipeline_tasks" / "stack" / "label_studio_server"
NOW = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
CONFIG = parse_labeling(XML, modality="image", classes=CLASSES, file="labeling.xml")


def _module(name):
    """Return a module of the other environment; this one has neither Django nor Label Studio's server."""
    spec = importlib.util.spec_from_file_location(name, SERVER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


access, reach = _module("dethrone_access"), _module("dethrone_reach")


def filtered(name, **more):
    return {"filters": {"items": [{"filter": name, "operator": "contains", "value": "cat", **more}]}}


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE"])
def test_h2_a_route_that_nobody_looked_at_is_closed(method):
    assert not access.may_call("data_import:api-projects:project-import", method)
    assert not access.may_call("a:route-of-tomorrow", method)


def test_h2_a_route_is_open_for_the_methods_of_labeling_alone():
    asked = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE")
    assert [method for method in asked if access.may_call("projects:api:project-detail", method)] == [
        "GET",
        "HEAD",
        "OPTIONS",
    ]
    assert [method for method in asked if access.may_call("tasks:api:task-detail", method)] == [
        "GET",
        "HEAD",
        "OPTIONS",
    ]
    own = [method for method in asked if access.may_call("tasks:api-annotations:annotation-detail", method)]
    assert own == [method for method in asked if method != "POST"]


@pytest.mark.parametrize(
    ("query", "allowed"),
    [
        ("", True),
        ("{}", True),
        (json.dumps({"ordering": ["tasks:-id"], "filters": None}), True),
        (json.dumps({"ordering": ["-tasks:data.size"]}), True),
        (json.dumps(filtered("filter:tasks:total_annotations")), True),
        (quote(json.dumps(filtered("filter:tasks:id"))), True),
        (json.dumps(filtered("filter:tasks:annotations_results")), False),
        (json.dumps(filtered("filter:tasks:id", child_filter={"filter": "filter:tasks:annotations_results"})), False),
        (json.dumps(filtered("filter:tasks:annotations__result")), False),
        (json.dumps(filtered("filter:tasks:data.x__y")), False),
        (json.dumps({"ordering": ["tasks:annotations_results"]}), False),
        (quote(json.dumps({"ordering": ["tasks:-annotations_results"]})), False),
        ('{"ordering": ["tasks:data.x%22, %22tasks:annotations_results"]}', False),
        ("[]", False),
        ('"text"', False),
        ("{", False),
        ("[" * 100_000, False),
    ],
)  # fmt: skip
def test_h4_no_filter_and_no_order_tells_what_others_answered(query, allowed):
    assert access.may_query(query) is allowed


def test_h4_an_answer_of_the_api_holds_own_annotations_alone():
    mine, theirs = {"id": 1, "completed_by": 7, "result": [1]}, {"id": 2, "completed_by": 8}
    expanded = {"id": 3, "completed_by": {"id": 8, "email": "bob@x"}}
    task = {"id": 5, "annotations": [mine, theirs, expanded], "annotations_results": "cat, dog", "data": {"a": [1]}}
    own = {"id": 5, "annotations": [mine], "annotations_results": "", "data": {"a": [1]}}
    assert access.own_answers({"tasks": [task], "total": 1}, 7) == {"tasks": [own], "total": 1}
    assert access.own_answers([theirs, mine], 7) == [mine]


def test_h2_a_task_gives_the_files_that_it_shows_and_no_other():
    data = {"image": "s3://dethrone/items/a.png", "page": {"html": "<img src='s3://dethrone/items/b.png'>"}, "n": 3}
    assert access.shows(data, "s3://dethrone/items/a.png")
    assert access.shows(data, "s3://dethrone/items/b.png")
    assert not access.shows(data, "s3://dethrone/models/a.safetensors")
    assert not access.shows(data, "")


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("http://127.0.0.1:8333", ("127.0.0.1", 8333)),
        ("http://airflow.dethrone.internal:8080/hook", ("airflow.dethrone.internal", 8080)),
        ("https://s3.example.com", ("s3.example.com", 443)),
        ("http://127.0.0.1:8333@10.0.0.1/", ("10.0.0.1", 80)),
        ("http://127.0.0.1:99999", None),
    ],
)
def test_h2_an_address_is_open_by_its_host_and_port(address, place):
    assert reach.place(address) == place


def test_h2_a_store_and_an_airflow_of_the_operators_are_reached_too():
    environment = {
        "DETHRONE_LABEL_STUDIO_REACHES": "http://a:1 http://b:2",
        "DETHRONE_S3_ENDPOINT": "http://s3.lan:9000",
    }
    assert reach.ours(environment.get) == ["http://a:1", "http://b:2", "http://s3.lan:9000"]


class Connection:
    def __init__(self, host, port):
        self.host, self.port = host, port

    def _new_conn(self):
        return "connected"


def test_h2_every_other_inner_address_stays_refused(monkeypatch):
    class Guard(Connection):
        """As Label Studio's: refuses inner addresses."""

        def _new_conn(self):
            raise PermissionError(self.host)

    def refuse(url, **_):
        raise PermissionError(url)

    io, user = types.ModuleType("io_of_label_studio"), types.ModuleType("user_of_it")
    io._SsrfGuardedConnectionMixin, io.validate_url_for_ssrf, user.validate_url_for_ssrf = Guard, refuse, refuse
    monkeypatch.setitem(sys.modules, user.__name__, user)
    reach._open(io, {("s3", 8333)})
    user.validate_url_for_ssrf("http://s3:8333/bucket")
    assert Guard("s3", 8333)._new_conn() == "connected"
    for host, port in (("s3", 9333), ("127.0.0.1", 8333)):
        with pytest.raises(PermissionError):
            user.validate_url_for_ssrf(f"http://{host}:{port}/")
        with pytest.raises(PermissionError):
            Guard(host, port)._new_conn()


def answered(**changes):
    fields = {
        "annotation_id": "7", "task_id": 3, "item_id": "i", "annotator": "a@x", "result": (region("cat"),),
        "cancelled": False, "lead_time_seconds": 1.0, "created_at": NOW, "updated_at": NOW,
    }  # fmt: skip
    return LabelingAnnotation(**(fields | changes))


@pytest.mark.parametrize(
    "changes", [{}, {"cancelled": True, "result": ()}, {"result": ()}], ids=["answer", "skip", "empty"]
)
def test_h4_what_another_account_wrote_is_in_quarantine_by_name(changes):
    reading = read_answer(answered(written_by="mallory@x", **changes), CONFIG)
    assert (reading.label, reading.code) == (None, "OTHER_AUTHOR")
    assert reading.reason == (
        "the last writer of annotation 7 of task 3 by a@x must be a@x (got 'mallory@x'). "
        "Its author has to submit it again in Label Studio; the next collect reads it again."
    )


@pytest.mark.parametrize("writer", [None, "a@x"], ids=["a tool that does not say", "its author"])
def test_h4_what_its_author_wrote_counts(writer):
    assert read_answer(answered(written_by=writer), CONFIG).label == "cat"


def test_h4_a_writer_with_a_name_that_no_database_takes_is_quarantined_all_the_same():
    annotation = received(answered(written_by="mal\0lory\ud800@x"))
    assert annotation.written_by.encode()
    assert read_answer(annotation, CONFIG).code == "OTHER_AUTHOR"


@pytest.mark.parametrize(("updated_by", "writer"), [(2, "ana@x"), (3, "bob@x"), (9, "user 9"), (None, None)])
def test_h4_the_adapter_takes_the_writer_from_what_the_server_recorded(updated_by, writer):
    """`completed_by` is a field of the request; `updated_by` is set by the server."""
    annotation = {
        "id": 4, "completed_by": 2, "updated_by": updated_by, "result": [], "was_cancelled": False, "lead_time": 1.0,
        "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    task = {"id": 1, "data": {"item_id": "i"}, "updated_at": "2026-01-01T00:00:00Z", "annotations": [annotation]}

    def answer(request):
        users = [{"id": 2, "email": "ana@x"}, {"id": 3, "email": "bob@x"}]
        return httpx.Response(200, json=users if request.url.path == "/api/users/" else {"tasks": [task]})

    adapter = LabelStudio("http://ls.test", "token", transport=httpx.MockTransport(answer))
    (read,) = adapter.annotations(1, task_ids=[1])
    assert (read.annotator, read.written_by) == ("ana@x", writer)
