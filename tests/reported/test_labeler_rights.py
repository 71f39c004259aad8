"""The rights of an ordinary labeler in Label Studio, by the browser's API on the real server."""

import base64
import contextlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from pipeline_tasks.adapters.label_studio import LabelStudio
from pipeline_tasks.annotation.annotation_parser import read_answer
from pipeline_tasks.core.ports import LabelingTask
from pipeline_tasks.demo.scripted_annotators import AnnotatorAccount
from pipeline_tasks.project.labeling_config import parse_labeling
from pipeline_tasks.stack import label_studio_setup, programs
from pipeline_tasks.stack.addresses import DEFAULT_PORTS
from pipeline_tasks.stack.layout import StackLayout
from pipeline_tasks.stack.lifecycle import make_folders
from tests import services
from tests.labeling_case import CLASSES, XML, region

pytestmark = [pytest.mark.integration, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "a-labelers-own"
ANNOTATION = {"result": [region("cat")], "lead_time": 1.5}


class Listener:
    """A server on a loopback port that notes who asked for what."""

    def __init__(self):
        asked = self.asked = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                asked.append(self.path)
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self.send_response(200)
                self.end_headers()

            do_POST = do_PUT = do_HEAD = do_DELETE = do_GET  # noqa: N815 - the names that http.server calls

            def log_message(self, *_arguments):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


class Installation:
    """Label Studio as `dethrone up` runs it, a project with eight tasks, an administrator and two labelers."""

    def __init__(self, home):
        self.layout = StackLayout(home=home, root=ROOT)
        self.secrets = make_folders(self.layout)
        self.inside, self.receiver = Listener(), Listener()
        ports = {**DEFAULT_PORTS, "label_studio": services.free_ports(1)[0], "airflow": self.receiver.port}
        self.url = f"http://127.0.0.1:{ports['label_studio']}"
        label_studio_setup.prepare_database(self.layout)
        program = programs.label_studio_program(self.layout, ports=ports, secrets=self.secrets)
        base = programs.base_environment(
            dict(os.environ), layout=self.layout, projects_dir=home, bin_dir=Path(sys.executable).parent
        )
        with program.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                program.command, env={**base, **program.environment}, cwd=program.directory, stdout=log, stderr=log
            )
        services.wait_until(lambda: services.answers(f"{self.url}/health"), timeout_seconds=250, what="Label Studio")
        self.admin = self._client({"Authorization": f"Token {self.secrets['label_studio_token']}"})
        self.adapter = LabelStudio(self.url, self.secrets["label_studio_token"])
        self.project = self.adapter.create_project(
            mark="[m]", title="pets", description="[m]", label_config=XML, annotators_per_item=2, show_predictions=False
        )
        tasks = [LabelingTask(f"item-{n}", {"image": f"s3://dethrone/items/{n}.png"}, ()) for n in range(8)]
        self.tasks = self.adapter.import_tasks(self.project, tasks)
        self.alice, self.bob = self._enter("alice@example.com"), self._enter("bob@example.com")

    def _client(self, headers):
        return httpx.Client(base_url=self.url, headers=headers, timeout=60, trust_env=False)

    def _enter(self, email):
        account = AnnotatorAccount(self.url, email, PASSWORD)
        account.enter(invite_token=self.admin.get("/api/invite").json()["token"])
        cookies = account._client.cookies
        client = self._client({"X-CSRFToken": cookies["csrftoken"], "Referer": self.url})
        client.cookies = cookies
        client.email, client.user_id = email, client.get("/api/current-user/whoami").json()["id"]
        return client

    def by_token(self, client):
        return self._client({"Authorization": f"Token {client.get('/api/current-user/token').json()['token']}"})

    def submit(self, client, task, **changes):
        return client.post(f"/api/tasks/{task}/annotations/", json={**ANNOTATION, **changes})

    def stored(self, annotation_id):
        return self.admin.get(f"/api/annotations/{annotation_id}/").json()

    def close(self):
        self.process.terminate()
        self.process.wait(30)
        self.inside.close()
        self.receiver.close()


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    with contextlib.closing(Installation(tmp_path_factory.mktemp("labelers"))) as installation:
        yield installation


def _bucket(project, endpoint):
    """Return the order to connect a bucket at an address."""
    keys = {"aws_access_key_id": "x", "aws_secret_access_key": "x"}
    return {"project": project, "bucket": "x", "s3_endpoint": endpoint, **keys}


def _orders(installed):
    """Everything beyond labeling that Label Studio's API and pages offer; `inside` is an address nobody may ask."""
    project, task, inside = installed.project, installed.tasks[7], installed.inside.url
    store = _bucket(project, inside)
    all_tasks = {"selectedItems": {"all": True, "excluded": []}}
    other = installed.alice.user_id
    api = f"/api/projects/{project}"
    return [
        ("POST", f"{api}/import", {"data": {"url": f"{inside}/col/delete?collection=dethrone"}}),
        ("POST", f"{api}/import", {"json": [{"data": {"image": "x"}}]}),
        ("POST", f"{api}/reimport", {"json": {"file_upload_ids": []}}),
        ("POST", f"{api}/tasks/bulk/", {"json": [{"data": {"image": "x"}}]}),
        ("POST", f"{api}/import/predictions", {"json": []}),
        *(("POST", f"/api/storages/{kind}", {"json": store}) for kind in ("s3", "export/s3", "azure", "gcs", "redis")),
        ("POST", "/api/storages/s3/validate", {"json": store}),
        ("POST", "/api/storages/s3/files", {"json": store}),
        ("POST", "/api/storages/s3/1/sync", {}),
        ("GET", f"/api/storages/s3?project={project}", {}),
        ("POST", "/api/webhooks/", {"json": {"url": inside, "project": project}}),
        ("GET", "/api/webhooks/", {}),
        ("POST", "/api/ml/", {"json": {"url": inside, "project": project}}),
        ("PATCH", f"{api}/", {"json": {"label_config": "<View/>"}}),
        ("DELETE", f"{api}/", {}),
        ("POST", "/api/projects/", {"json": {"title": "mine"}}),
        *(("POST", f"/api/dm/actions?id={action}&project={project}", {"json": all_tasks})
          for action in ("delete_tasks", "delete_tasks_annotations", "predictions_to_annotations", "unknown")),
        ("POST", "/api/dm/views/", {"json": {"project": project, "data": {"ordering": ["tasks:annotations_results"]}}}),
        ("PATCH", "/api/dm/views/1/", {"json": {"project": project, "data": {}}}),
        ("DELETE", "/api/dm/views/reset/", {"json": {"project": project}}),
        ("PATCH", f"/api/tasks/{task}/", {"json": {"data": {"item_id": "another"}}}),
        ("DELETE", f"/api/tasks/{task}/", {}),
        ("POST", "/api/tasks/", {"json": {"project": project, "data": {}}}),
        ("GET", f"/api/tasks/{task}/agreement/", {}),
        ("GET", f"{api}/export?exportType=JSON", {}),
        ("POST", f"{api}/exports/", {"json": {}}),
        ("GET", f"{api}/summary/", {}),
        ("GET", f"{api}/tasks/", {}),
        ("POST", "/api/predictions/", {"json": {"task": task, "result": []}}),
        ("POST", "/api/users/", {"json": {"email": "x@example.com"}}),
        ("PATCH", f"/api/users/{other}/", {"json": {"first_name": "Mallory"}}),
        ("DELETE", f"/api/users/{other}/", {}),
        ("GET", "/api/invite", {}),
        ("POST", "/api/invite/reset-token", {}),
        ("PATCH", "/api/organizations/1", {"json": {"title": "mine"}}),
        ("DELETE", f"/api/organizations/1/memberships/{other}/", {}),
        ("POST", "/api/jwt/settings", {"json": {"api_tokens_enabled": True}}),
        ("POST", "/api/labels/bulk", {"json": {}}),
        ("GET", "/data/local-files/?d=etc/passwd", {}),
        ("GET", f"/projects/{project}/resolve/?fileuri=" + _encoded("s3://dethrone/models/secret"), {}),
        ("GET", f"/tasks/{task}/resolve/?fileuri=" + _encoded("s3://dethrone/models/secret"), {}),
        ("GET", "/admin/", {}),
        ("GET", "/django-rq/", {}),
        ("GET", f"/projects/{project}/settings/", {}),
        ("GET", "/organization/", {}),
        ("GET", "/people/", {}),
    ]  # fmt: skip


def _store(installed, address):
    keys = {"aws_access_key_id": "x", "aws_secret_access_key": "x"}
    return {"project": installed.project, "bucket": "x", "s3_endpoint": address, **keys}


def _encoded(address):
    return base64.urlsafe_b64encode(address.encode()).decode()


@pytest.mark.parametrize("way", ["session", "token"])
def test_h2_a_labeler_gives_no_order_but_those_of_labeling(installed, way):
    """An import from an inner address deleted a bucket; every other order is refused at the same door."""
    client = installed.bob if way == "session" else installed.by_token(installed.bob)
    before = installed.admin.get(f"/api/projects/{installed.project}/").json()
    got = {
        f"{method} {path}": client.request(method, path, **sent).status_code
        for method, path, sent in _orders(installed)
    }
    assert {order: status for order, status in got.items() if status != 403} == {}
    after = installed.admin.get(f"/api/projects/{installed.project}/").json()
    assert [after[key] for key in ("label_config", "task_number")] == [before["label_config"], 8]
    assert installed.inside.asked == []


def test_h2_an_order_by_token_in_a_labelers_session_is_judged_by_both(installed):
    mixed = installed.by_token(installed.bob)
    mixed.cookies = installed.admin.cookies
    assert mixed.get("/api/invite").status_code == 403
    by_session = httpx.Client(base_url=installed.url, cookies=installed.bob.cookies, trust_env=False)
    assert by_session.get("/api/invite", headers=dict(installed.admin.headers)).status_code == 403


def test_h2_not_even_an_administrator_sends_label_studio_to_an_inner_address(installed):
    admin, inside, project = installed.admin, installed.inside.url, installed.project
    for address in (
        f"{inside}/col/delete",
        f"http://localhost:{installed.inside.port}/x.json",
        "http://10.1.2.3/x.json",
    ):
        assert admin.post(f"/api/projects/{project}/import", data={"url": address}).status_code == 400, address
    hook = {"project": project, "url": inside, "actions": ["ANNOTATION_CREATED"], "send_for_all_actions": False}
    assert "reserved network address" in admin.post("/api/webhooks/", json=hook).text
    store = _bucket(project, inside)
    assert "reserved network address" in admin.post("/api/storages/s3", json=store).text
    assert admin.get("/api/webhooks/").json() == admin.get("/api/storages/s3", params={"project": project}).json() == []
    assert installed.inside.asked == []


def test_h2_our_webhook_and_our_store_are_reached(installed):
    """The two addresses that it needs, of a network that is otherwise closed."""
    hook = {"project": installed.project, "url": f"{installed.receiver.url}/hook", "actions": ["ANNOTATION_CREATED"],
            "send_for_all_actions": False}  # fmt: skip
    made = installed.admin.post("/api/webhooks/", json=hook)
    assert made.status_code == 201
    store = _store(installed, installed.receiver.url)
    installed.admin.post("/api/storages/s3/validate", json=store)
    assert any("/x" in path for path in installed.receiver.asked)
    assert installed.submit(installed.alice, installed.tasks[6]).status_code == 201
    services.wait_until(lambda: "/hook" in installed.receiver.asked, timeout_seconds=20, what="the webhook")
    installed.admin.delete(f"/api/webhooks/{made.json()['id']}/")


def test_h2_a_labelers_work_goes_on(installed):
    """Open a project, take a task, keep a draft, submit it, change it, skip one, take it back, withdraw an answer."""
    client, project = installed.alice, installed.project
    for page in (
        "/",
        "/projects/",
        f"/projects/{project}/data",
        f"/projects/{project}/data?labeling=1",
        "/user/account/",
    ):
        assert client.get(page, follow_redirects=True).status_code == 200, page
    of_project = [f"/api/dm/{what}?project={project}" for what in ("project", "columns", "actions", "views")]
    for path in (
        "/api/projects/", f"/api/projects/{project}/", "/api/projects/counts/", "/api/users/", *of_project,
        f"/api/projects/{project}/label-stream-history", "/api/current-user/hotkeys/",
    ):  # fmt: skip
        assert client.get(path).status_code == 200, path
    query = json.dumps({"filters": {"conjunction": "and", "items": []}, "ordering": ["tasks:-id"]})
    listed = client.get("/api/tasks", params={"project": project, "query": query, "fields": "all"})
    assert len(listed.json()["tasks"]) == 8
    task = client.get(f"/api/projects/{project}/next/").json()["id"]
    draft = client.post(f"/api/tasks/{task}/drafts", json={**ANNOTATION, "result": [region("dog")]})
    assert draft.status_code == 201
    kept = client.patch(f"/api/drafts/{draft.json()['id']}/", json=ANNOTATION)
    assert kept.status_code == 200
    made = installed.submit(client, task, draft_id=draft.json()["id"])
    assert made.status_code == 201
    own = f"/api/annotations/{made.json()['id']}/"
    assert client.patch(own, json={"result": [region("owl")]}).json()["result"] == [region("owl")]
    again = client.post(f"/api/tasks/{task}/annotations/{made.json()['id']}/drafts", json=ANNOTATION)
    assert again.status_code == 201
    assert [annotation["id"] for annotation in client.get(f"/api/tasks/{task}/").json()["annotations"]] == [
        made.json()["id"]
    ]
    first_tab = {
        "project": project,
        "data": {"title": "Default", "ordering": [], "filters": {"conjunction": "and", "items": []}},
    }
    assert client.post("/api/dm/views", params={"project": project}, json=first_tab).status_code == 201
    assert client.post("/api/dm/views", params={"project": project}, json=first_tab).status_code == 403
    order = {"selectedItems": {"all": True, "excluded": []}, **first_tab["data"]}
    taken = client.post("/api/dm/actions", params={"id": "next_task", "project": project}, json=order)
    assert taken.json()["data"]["item_id"]
    second = client.get(f"/api/projects/{project}/next/").json()["id"]
    skipped = client.post(f"/api/tasks/{second}/annotations/?was_cancelled=1", json={"result": []})
    assert skipped.json()["was_cancelled"]
    assert client.post(f"/api/annotations/{skipped.json()['id']}/convert-to-draft", json={}).status_code == 201
    assert client.delete(own).status_code == 204
    name = client.patch(f"/api/users/{client.user_id}/", json={"first_name": "Alice"})
    assert name.json()["first_name"] == "Alice"
    file = f"/tasks/{task}/resolve/?fileuri=" + _encoded(client.get(f"/api/tasks/{task}/").json()["data"]["image"])
    assert client.get(file).status_code == 404  # let through: no storage is connected here


def test_h4_a_labeler_neither_changes_nor_reads_anothers_answer(installed):
    """One labeler PATCHed another's annotation, and the catalog had a consensus of two people."""
    task = installed.tasks[5]
    made = installed.submit(installed.alice, task).json()
    path = f"/api/annotations/{made['id']}/"
    before = installed.stored(made["id"])
    for client in (installed.bob, installed.by_token(installed.bob)):
        for method in ("GET", "PATCH", "PUT", "DELETE"):
            assert client.request(method, path, json={"result": [region("dog")]}).status_code == 403, method
        assert client.post(f"{path}convert-to-draft", json={}).status_code == 403
        assert client.post(f"/api/tasks/{task}/annotations/{made['id']}/drafts", json=ANNOTATION).status_code == 403
    assert installed.stored(made["id"]) == before
    draft = installed.alice.post(f"/api/tasks/{task}/drafts", json=ANNOTATION).json()["id"]
    for method in ("GET", "PATCH", "DELETE"):
        assert installed.bob.request(method, f"/api/drafts/{draft}/", json={"result": []}).status_code == 403
    seen = installed.bob.get(f"/api/tasks/{task}/").json()
    assert (seen["annotations"], seen["drafts"]) == ([], [])
    assert installed.bob.get(f"/api/tasks/{task}/annotations/").json() == []
    listed = installed.bob.get("/api/tasks", params={"project": installed.project, "fields": "all"}).json()["tasks"]
    assert all(
        annotation["completed_by"] == installed.bob.user_id for each in listed for annotation in each["annotations"]
    )
    assert {each["annotations_results"] for each in listed} == {""}
    told = {"filter": "filter:tasks:annotations_results", "operator": "contains", "type": "String", "value": "cat"}
    for query in ({"filters": {"conjunction": "and", "items": [told]}}, {"ordering": ["tasks:annotations_results"]}):
        text, of_project = json.dumps(query), {"project": installed.project}
        for twice in (text, quote(text)):
            assert installed.bob.get("/api/tasks", params={**of_project, "query": twice}).status_code == 403
        assert installed.bob.request("GET", "/api/tasks", params=of_project, json=query).status_code == 403
        next_one = {**of_project, "id": "next_task"}
        assert installed.bob.post("/api/dm/actions", params=next_one, json=query).status_code == 403


def test_h4_an_answer_is_by_who_sent_it_whatever_the_request_says(installed):
    task, alice, bob = installed.tasks[4], installed.alice, installed.bob
    made = installed.submit(bob, task, completed_by=alice.user_id)
    assert made.json()["completed_by"] == bob.user_id
    form = {"result": json.dumps([region("dog")]), "completed_by": str(alice.user_id)}
    by_form = bob.post(f"/api/tasks/{task}/annotations/", data=form)
    assert by_form.json()["completed_by"] == bob.user_id
    path = f"/api/annotations/{made.json()['id']}/"
    assert bob.patch(path, json={"completed_by": alice.user_id}).json()["completed_by"] == bob.user_id
    assert bob.patch(path, json={"task": installed.tasks[3]}).status_code == 403
    by_admin = installed.submit(installed.admin, task, completed_by=alice.user_id).json()
    assert by_admin["completed_by"] not in {alice.user_id, bob.user_id}
    annotations = list(installed.adapter.annotations(installed.project, task_ids=[task]))
    assert {annotation.annotator for annotation in annotations} == {bob.email, programs.LABEL_STUDIO_USER}
    assert {(annotation.annotator, annotation.written_by) for annotation in annotations} == {
        (annotation.annotator, annotation.annotator) for annotation in annotations
    }


def test_h4_what_an_administrator_changes_is_nobodys_answer(installed):
    """The adapter's own look, which also holds for a Label Studio that is not ours."""
    task = installed.tasks[3]
    made = installed.submit(installed.alice, task).json()
    installed.admin.patch(f"/api/annotations/{made['id']}/", json={"result": [region("dog")]})
    (annotation,) = installed.adapter.annotations(installed.project, task_ids=[task])
    assert (annotation.annotator, annotation.written_by) == (installed.alice.email, programs.LABEL_STUDIO_USER)
    reading = read_answer(annotation, parse_labeling(XML, modality="image", classes=CLASSES, file="labeling.xml"))
    assert (reading.label, reading.code) == (None, "OTHER_AUTHOR")
    assert f"must be {installed.alice.email} (got {programs.LABEL_STUDIO_USER!r})" in reading.reason
