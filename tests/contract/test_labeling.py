"""The contract of a LabelingTool, the fake and Label Studio alike."""

import base64
import contextlib
import dataclasses
import datetime as dt
import itertools

import httpx
import pytest

from pipeline_tasks.core.ports import LabelingProject, LabelingTask
from pipeline_tasks.demo.scripted_annotators import AnnotatorAccount, password_for
from pipeline_tasks.errors import PermanentError, ServiceUnavailable
from pipeline_tasks.stack.layout import StackLayout, source_root
from pipeline_tasks.stack.lifecycle import make_folders
from tests.fakes_labeling import FakeLabelStudio
from tests.labeling_case import XML
from tests.labeling_server import Api
from tests.reported.test_store_ports import store

TITLES = (f"contract {number}" for number in itertools.count(1))


@pytest.fixture
def server(label_studio_server):
    return label_studio_server


class Real:
    """The adapter on a real server, with what the tests need of people."""

    def __init__(self, server):
        from pipeline_tasks.adapters.label_studio import LabelStudio

        self.tool = LabelStudio(server.url, server.token)
        self.http = Api(server.url, server.token)
        self.url = server.url

    def shown(self, project_id, person):
        """Return the item that Label Studio gives a person to label next; ann@x is the administrator, who answers."""
        path = f"/api/projects/{project_id}/next"
        if person == "ann@x":
            with contextlib.suppress(KeyError):
                return [self.http.get(path)["data"]["item_id"]]
            return []
        account = AnnotatorAccount(self.url, f"{person}.test", password_for(person, "secret"))
        account.enter(invite_token=self.http.get("/api/invite")["token"])
        with contextlib.suppress(KeyError):
            return [account._client.get(path).json()["data"]["item_id"]]
        return []

    def answer(self, project_id, item_id, label, *, by=None):
        (task_id, *_) = self.tool.task_ids(project_id, [item_id])[item_id]
        region = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [label]}}
        body = {"result": [], "was_cancelled": True} if label is None else {"result": [region], "lead_time": 1.0}
        return self.http.post(f"/api/tasks/{task_id}/annotations/", body)["id"]

    def edit(self, annotation_id, label):
        region = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [label]}}
        self.http.call("PATCH", f"/api/annotations/{annotation_id}/", json={"result": [region]})

    def delete_annotation(self, annotation_id):
        self.http.call("DELETE", f"/api/annotations/{annotation_id}/")


class Fake:
    def __init__(self):
        self.tool = FakeLabelStudio()
        self.answer, self.edit, self.shown = self.tool.answer, self.tool.edit, self.tool.shown_to
        self.delete_annotation = self.tool.delete_annotation


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.integration)])
def people(request):
    return Fake() if request.param == "fake" else Real(request.getfixturevalue("server"))


@pytest.fixture
def tool(people):
    return people.tool


@pytest.fixture
def project_id(tool):
    return ensure(tool, next(TITLES))


def ensure(tool, title, *, xml=XML, people=1, show=True):
    settings = {
        "description": f"note [{title}]",
        "label_config": xml,
        "annotators_per_item": people,
        "show_predictions": show,
    }
    project_id = tool.create_project(mark=f"[{title}]", title=title, **settings)
    tool.update_project(project_id, hook=title.removesuffix(" exam"), **settings)
    return project_id


def tasks(*item_ids, **more):
    return [LabelingTask(item_id, {"image": "data:image/png;base64,AA=="}, **more) for item_id in item_ids]


def test_a_project_is_made_once_and_brought_up_to_date(tool):
    title = next(TITLES)
    project_id = ensure(tool, title)
    assert ensure(tool, title) == project_id
    assert tool.project(project_id) == LabelingProject(project_id, title, f"note [{title}]", XML)
    changed = XML.replace("<View>", '<View><Header value="Which?"/>')
    assert ensure(tool, title, xml=changed, people=2, show=False) == project_id
    assert tool.project(project_id).label_config == changed
    assert ensure(tool, f"{title} exam") != project_id
    assert str(project_id) in tool.url(project_id)


def test_a_project_is_found_by_the_mark_in_its_description_and_by_no_title(tool):
    title = next(TITLES)
    assert tool.find_project(f"[{title}]") is None
    other = tool.create_project(
        mark="[other]", title=title, description="[other]", label_config=XML, annotators_per_item=1,
        show_predictions=True,
    )  # fmt: skip
    assert tool.find_project(f"[{title}]") is None
    project_id = ensure(tool, title)
    assert project_id != other
    assert tool.find_project(f"[{title}]").project_id == project_id


def test_people_have_accounts(tool):
    assert all("@" in account for account in tool.accounts())


def test_a_tasks_data_is_read_and_set(tool, project_id):
    (task_id,) = tool.import_tasks(project_id, tasks("a"))
    data = tool.task_data(project_id, task_id)
    assert data == {"image": "data:image/png;base64,AA==", "item_id": "a"}
    tool.set_task_data(task_id, {**data, "item_id": "b"})
    assert tool.task_ids(project_id) == {"b": [task_id]}
    assert tool.task_data(project_id, 999_999) == {}


def test_one_annotation_is_removed_and_its_task_is_open_again(tool, people, project_id):
    tool.import_tasks(project_id, tasks("a"))
    people.answer(project_id, "a", "dog")
    (annotation,) = tool.annotations(project_id)
    number = annotation.annotation_id.partition("@")[0]
    tool.delete_annotation(f"{number}@20000101T000000000000")  # the number, from another server
    assert [row.annotation_id for row in tool.annotations(project_id)] == [annotation.annotation_id]
    tool.delete_annotation(annotation.annotation_id)
    tool.delete_annotation(annotation.annotation_id)
    assert list(tool.annotations(project_id)) == []
    assert tool.annotated_tasks(project_id) == []


@pytest.mark.parametrize(
    "call",
    [
        lambda tool: tool.project(999_999),
        lambda tool: tool.task_count(999_999),
        lambda tool: tool.annotation_count(999_999),
        lambda tool: tool.task_ids(999_999),
        lambda tool: tool.import_tasks(999_999, tasks("a")),
        lambda tool: list(tool.annotations(999_999)),
        lambda tool: tool.annotated_tasks(999_999),
    ],
)
def test_an_unknown_project_is_a_key_error(tool, call):
    with pytest.raises(KeyError):
        call(tool)


def test_a_project_without_tasks_has_nothing(tool, project_id):
    assert tool.task_count(project_id) == 0
    assert tool.annotation_count(project_id).num_annotations == 0
    assert tool.task_ids(project_id) == {}
    assert list(tool.annotations(project_id)) == []
    assert list(tool.annotations(project_id, task_ids=[1])) == []
    assert tool.annotated_tasks(project_id) == []


def test_tasks_are_imported_in_order_and_never_merged(tool, project_id):
    first = tool.import_tasks(project_id, tasks("a", "b", "c"))
    second = tool.import_tasks(project_id, tasks("b"))
    assert first == sorted(first)
    assert tool.task_count(project_id) == 4
    assert tool.task_ids(project_id) == {"a": [first[0]], "b": [first[1], second[0]], "c": [first[2]]}
    assert tool.task_ids(project_id, ["c", "nobody"]) == {"c": [first[2]]}
    assert tool.task_ids(project_id, []) == {}


def test_tasks_are_deleted_with_no_error_for_those_that_are_gone(tool, project_id):
    ids = tool.import_tasks(project_id, tasks("a", "b", "c"))
    tool.delete_tasks(project_id, ids[:2])
    tool.delete_tasks(project_id, ids[:2])
    tool.delete_tasks(project_id, [])
    assert tool.task_ids(project_id) == {"c": [ids[2]]}


def test_annotations_come_with_item_person_and_times(tool, people, project_id):
    ids = tool.import_tasks(project_id, tasks("a", "b", "c"))
    people.answer(project_id, "b", "dog")
    people.answer(project_id, "c", None)
    annotations = list(tool.annotations(project_id))
    assert [(row.item_id, row.task_id, row.cancelled) for row in annotations] == [
        ("b", ids[1], False),
        ("c", ids[2], True),
    ]
    (answer, skip) = annotations
    assert answer.result[0]["value"] == {"choices": ["dog"]}
    assert "@" in answer.annotator
    assert answer.lead_time_seconds == 1.0
    assert answer.updated_at >= answer.created_at
    assert answer.created_at.utcoffset() == dt.timedelta(0)
    assert skip.result == ()
    assert [(task.task_id, task.item_id, task.num_annotations) for task in tool.annotated_tasks(project_id)] == [
        (ids[1], "b", 1),
        (ids[2], "c", 1),
    ]


def test_annotations_are_counted_with_skips_and_by_the_clock_of_their_times(tool, people, project_id):
    ids = tool.import_tasks(project_id, tasks("a", "b", "c"))
    first = people.answer(project_id, "a", "dog")
    people.answer(project_id, "a", "cat")
    people.answer(project_id, "b", None)
    counted = tool.annotation_count(project_id)
    assert counted.num_annotations == 3
    newest = max(annotation.updated_at for annotation in tool.annotations(project_id))
    assert abs(counted.at - newest) < dt.timedelta(seconds=60)
    assert abs(counted.ahead_seconds) < 60
    people.delete_annotation(first)
    assert tool.annotation_count(project_id).num_annotations == 2
    assert [task.task_id for task in tool.annotated_tasks(project_id, ids[1:])] == [ids[1]]
    assert tool.annotated_tasks(project_id, []) == []


def test_annotations_are_read_from_a_time_on_oldest_change_first(tool, people, project_id):
    tool.import_tasks(project_id, tasks("a", "b", "c"))
    first = people.answer(project_id, "a", "dog")
    people.answer(project_id, "b", "dog")
    people.answer(project_id, "c", "owl")
    everything = list(tool.annotations(project_id))
    assert [row.item_id for row in everything] == ["a", "b", "c"]
    since = everything[1].updated_at
    assert [row.item_id for row in tool.annotations(project_id, updated_since=since)] == ["b", "c"]
    people.edit(first, "cat")
    again = list(tool.annotations(project_id, updated_since=since))
    assert [row.item_id for row in again] == ["b", "c", "a"]
    assert again[2].result[0]["value"] == {"choices": ["cat"]}
    assert again[2].annotation_id == everything[0].annotation_id
    assert again[2].updated_at > everything[0].updated_at


def test_annotations_of_named_tasks_and_of_none(tool, people, project_id):
    ids = tool.import_tasks(project_id, tasks("a", "b"))
    people.answer(project_id, "a", "dog")
    people.answer(project_id, "b", "dog")
    assert [row.item_id for row in tool.annotations(project_id, task_ids=ids[1:])] == ["b"]
    assert list(tool.annotations(project_id, task_ids=[999_999])) == []


def test_a_task_is_shown_to_one_more_person_who_has_not_answered(tool, people):
    project_id = ensure(tool, next(TITLES), people=1)
    first, _ = tool.import_tasks(project_id, tasks("a", "b"))
    for item_id in ("a", "b"):
        people.answer(project_id, item_id, "dog")
    assert people.shown(project_id, "ben@x") == []
    tool.ask_people(first, 2)
    tool.ask_people(first, 2)
    assert [task.num_people for task in tool.annotated_tasks(project_id)] == [2, 1]
    assert people.shown(project_id, "ben@x") == ["a"]
    assert people.shown(project_id, "ann@x") == []


def test_a_deleted_annotation_is_gone(tool, people, project_id):
    ids = tool.import_tasks(project_id, tasks("a"))
    first = people.answer(project_id, "a", "dog")
    people.answer(project_id, "a", "cat")
    people.delete_annotation(first)
    (left,) = tool.annotations(project_id, task_ids=ids)
    assert left.result[0]["value"] == {"choices": ["cat"]}
    assert [task.num_annotations for task in tool.annotated_tasks(project_id)] == [1]


def test_suggestions_are_taken(tool, project_id):
    region = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": ["dog"]}}
    tool.import_tasks(project_id, tasks("a", predictions=({"score": 0.4, "result": [region]},)))
    assert tool.task_count(project_id) == 1


@pytest.mark.integration
def test_pages_are_walked_to_the_end_and_an_item_query_to_its_last_part(server, monkeypatch):
    from pipeline_tasks.adapters import label_studio

    monkeypatch.setattr(label_studio, "PAGE_SIZE", 3)
    monkeypatch.setattr(label_studio, "ITEMS_PER_QUERY", 2)
    real = Real(server)
    project_id = ensure(real.tool, next(TITLES))
    names = [f"{number:064x}" for number in range(8)]
    ids = real.tool.import_tasks(project_id, tasks(*names))
    for name in names[:7]:
        real.answer(project_id, name, "dog")
    assert list(real.tool.task_ids(project_id).values()) == [[task_id] for task_id in ids]
    assert sorted(real.tool.task_ids(project_id, names[2:7])) == names[2:7]
    assert [row.item_id for row in real.tool.annotations(project_id)] == names[:7]
    assert len(real.tool.annotated_tasks(project_id)) == 7


@pytest.mark.integration
def test_a_wrong_token_says_which_setting_to_change(server):
    from pipeline_tasks.adapters.label_studio import LabelStudio

    with pytest.raises(
        PermanentError, match=r"DETHRONE_LABEL_STUDIO_TOKEN must be .* \(got HTTP 401: Invalid token"
    ) as caught:
        LabelStudio(server.url, "0" * 40).task_count(1)
    assert caught.value.code == "LS_AUTH"


@pytest.mark.integration
def test_a_personal_access_token_is_exchanged(server):
    real = Real(server)
    made = real.http.post("/api/token/", {})
    from pipeline_tasks.adapters.label_studio import LabelStudio

    assert ensure(LabelStudio(server.url, made["token"]), next(TITLES)) > 0


@pytest.mark.integration
def test_a_webhook_is_made_once_with_its_secret(server):
    from pipeline_tasks.adapters.label_studio import LabelStudio, Webhook

    real, title = Real(server), "hooked"
    for secret in ("one", "one", "two"):
        hook = Webhook("http://127.0.0.1:1/hooks/{title}", secret)
        project_id = ensure(LabelStudio(server.url, server.token, webhook=hook), f"{title} exam")
    (webhook,) = real.http.get("/api/webhooks/", {"project": project_id})
    assert (webhook["url"], webhook["headers"]) == (f"http://127.0.0.1:1/hooks/{title}", {"X-Dethrone-Secret": "two"})
    assert sorted(webhook["actions"]) == ["ANNOTATIONS_DELETED", "ANNOTATION_CREATED", "ANNOTATION_UPDATED"]


@pytest.mark.integration
def test_a_project_shows_items_by_a_key_that_reads_nothing_else(server, tmp_path):
    """A project that was connected by an earlier version, with the key to the whole bucket, gets the other one."""
    from pipeline_tasks.adapters.label_studio import LabelStudio, ObjectStorage

    real, title = Real(server), next(TITLES)
    project_id = ensure(real.tool, title)
    layout = StackLayout(home=tmp_path, root=source_root())
    with store(layout) as (client, ports, _listening):
        secrets = make_folders(layout)
        for key in ("items/p/ab/1", "models/m1"):
            client.put_object(Bucket="dethrone", Key=key, Body=b"the bytes")
        given = {"bucket": "dethrone", "endpoint": f"http://127.0.0.1:{ports['s3']}", "region": "us-east-1"}
        whole, least = (
            ObjectStorage(**given, access_key=secrets[f"{name}_access_key"], secret_key=secrets[f"{name}_secret_key"])
            for name in ("s3", "label_studio_s3")
        )
        shown = [LabelingTask(key, {"image": f"s3://dethrone/{key}"}, ()) for key in ("items/p/ab/1", "models/m1")]
        ids = real.tool.import_tasks(
            project_id, [dataclasses.replace(task, item_id=f"{n:064x}") for n, task in enumerate(shown)]
        )

        def seen():
            """Return the bytes that Label Studio resolves each task's address to, for an administrator."""
            client = httpx.Client(base_url=server.url, headers={"Authorization": f"Token {server.token}"})
            uris = [base64.urlsafe_b64encode(task.data["image"].encode()).decode() for task in shown]
            return [
                client.get(f"/tasks/{task}/resolve/?fileuri={uri}").text for task, uri in zip(ids, uris, strict=True)
            ]

        for storage, other in ((whole, True), (least, False), (least, False)):
            LabelStudio(server.url, server.token, storage=storage).connect_objects(project_id)
            item, model = seen()
            assert item == "the bytes"
            assert (model == "the bytes") is other
        (connected,) = real.http.get("/api/storages/s3", {"project": project_id})
        assert (connected["title"], connected["prefix"]) == ("dethrone", "items/")


@pytest.mark.integration
def test_a_server_that_is_away_is_unavailable(free_port):
    from pipeline_tasks.adapters.label_studio import LabelStudio

    with pytest.raises(ServiceUnavailable, match=r"must answer GET /api/projects/1/ \(got ConnectError\)"):
        LabelStudio(f"http://127.0.0.1:{free_port}", "0" * 40).task_count(1)
