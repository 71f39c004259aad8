"""Annotate, scripted annotators and collect on a real Label Studio, with a network that loses answers."""

import threading

import httpx
import pytest

from pipeline_tasks.adapters.label_studio import LabelStudio
from pipeline_tasks.annotation.label_studio_projects import labeling_config
from pipeline_tasks.demo.scripted_annotators import Annotator, answer_all
from pipeline_tasks.errors import PermanentError, ServiceUnavailable
from tests.labeling_case import CLASSES, NAME, Case, make_project
from tests.labeling_server import Api

pytestmark = pytest.mark.integration
TEAM = [Annotator("one@dethrone.test", 0.0), Annotator("two@dethrone.test", 0.0), Annotator("three@dethrone.test", 1.0)]


class LosesAnswers(httpx.HTTPTransport):
    """Lets the server carry out the first import and loses its answer, as a proxy's 504 does."""

    def __init__(self) -> None:
        super().__init__()
        self.lost = 0

    def handle_request(self, request):
        response = super().handle_request(request)
        if request.method == "POST" and request.url.path.endswith("/import") and not self.lost:
            self.lost += 1
            response.read()
            response.close()
            raise httpx.ReadTimeout("answer lost", request=request)
        return response


@pytest.fixture
def case(database, label_studio_server):
    """A project of its own on the server, removed at the end."""
    tool = LabelStudio(label_studio_server.url, label_studio_server.token)
    case = Case(database, tool)
    case.server = label_studio_server
    yield case
    registered = case.labels.registration(NAME)
    for project_id in registered[2].values() if registered else ():
        tool._sdk.projects.delete(project_id)


def answer(case, queue, people, truth, team=TEAM, **more):
    return answer_all(
        case.labeling,
        url=case.server.url,
        admin_token=case.server.token,
        password_secret=case.server.password,
        project_id=case.ls_project(queue),
        annotators=team,
        people_per_item=people,
        config=labeling_config(case.project),
        truth=truth,
        similar={"cat": ["owl"]},
        **more,
    )


def test_two_hundred_tasks_are_two_hundred_after_a_lost_answer(case):
    items = case.add_numbers(range(200))
    transport = LosesAnswers()
    case.labeling = LabelStudio(case.server.url, case.server.token, transport=transport)
    with pytest.raises(ServiceUnavailable, match=r"must answer POST /api/projects/\d+/import \(got ReadTimeout\)"):
        case.annotate(chunk_items=70)
    report = case.annotate(chunk_items=70)
    assert (transport.lost, report.num_adopted, report.num_pushed) == (1, 70, 130)
    assert case.labeling.task_count(case.ls_project()) == 200
    assert case.tasks_per_item() == dict.fromkeys(items, 1)


def test_scripted_annotators_answer_each_item_with_as_many_people_as_asked(case):
    train = case.add_numbers(range(9))
    exam = case.add_numbers(range(9, 12), split="exam")
    case.annotate()
    truth = dict.fromkeys([*train, *exam], CLASSES[0])
    first = answer(case, "label", 1, truth)
    assert (first.num_answers, first.num_answered_before) == (9, 0)
    assert answer(case, "label", 1, truth).num_answers == 0
    assert answer(case, "exam", 2, truth, TEAM[:2]).num_answers == 6
    report = case.collect()
    assert (report.num_annotations, report.num_decided, report.num_disputed) == (15, 12, 0)
    decided = case.labels.decisions(NAME, exam)
    assert {(decision.label, decision.annotators) for decision in decided.values()} == {
        ("cat", ("one@dethrone.test", "two@dethrone.test"))
    }
    labels = [case.label_of(item_id)[2] for item_id in train]
    assert labels.count("owl") == first.num_wrong
    assert set(labels) == {"cat", "owl"}


def test_an_account_that_the_server_does_not_know_is_refused_without_an_invitation(label_studio_server):
    from pipeline_tasks.demo.scripted_annotators import AnnotatorAccount

    with pytest.raises(PermanentError, match=r"must let stranger@dethrone.test in by password or invitation"):
        AnnotatorAccount(label_studio_server.url, "stranger@dethrone.test", "x" * 20).enter(invite_token="wrong")


def test_a_label_studio_that_is_killed_while_people_answer_loses_and_doubles_nothing(case):
    items = case.add_numbers(range(24))
    case.annotate()

    answered = threading.Event()

    def kill_and_start():
        answered.wait(60)
        case.server.kill()
        case.server.start()

    thread = threading.Thread(target=kill_and_start)
    thread.start()
    try:
        report = answer(
            case,
            "label",
            1,
            dict.fromkeys(items, "cat"),
            TEAM[:2],
            progress=lambda done, _total: answered.set() if done == 5 else None,
        )
    finally:
        thread.join()
    assert report.num_answers == 24
    collected = case.collect()
    assert (collected.num_annotations, collected.num_decided) == (24, 24)


class People:
    """The administrator's account, as a browser uses it."""

    def __init__(self, case) -> None:
        self.case = case
        self.http = Api(case.server.url, case.server.token)

    def task_of(self, item_id, queue="label"):
        return self.case.labeling.task_ids(self.case.ls_project(queue), [item_id])[item_id][0]

    def submit(self, item_id, *regions, queue="label", **more):
        path = f"/api/tasks/{self.task_of(item_id, queue)}/annotations/"
        return self.http.post(path, {"result": list(regions), "lead_time": 1.0, **more})["id"]

    def is_open(self, item_id):
        return not self.http.get(f"/api/tasks/{self.task_of(item_id)}/")["is_labeled"]


def region(value, *, name="label", kind="choices", key="choices"):
    return {"from_name": name, "to_name": "image", "type": kind, "value": {key: [value]}}


def test_a_renamed_project_a_foreign_one_and_one_that_is_deleted(case):
    items = case.add_numbers(range(3))
    people = People(case)
    theirs = people.http.post("/api/projects/", {"title": NAME, "label_config": case.project.labeling_xml})["id"]
    case.annotate()
    before = case.ls_project()
    people.http.call("PATCH", f"/api/projects/{before}/", json={"title": "Renamed", "description": ""})
    people.submit(items[0], region("cat"))
    assert case.collect().num_decided == 1
    assert case.annotate().num_pushed == 0
    assert case.ls_project() == before != theirs
    assert people.http.get(f"/api/projects/{before}/")["title"] == "Renamed"
    people.http.call("DELETE", f"/api/projects/{before}/")
    report = case.collect()
    assert (report.num_deleted, case.label_of(items[0])) == (0, (1, "decided", "cat"))
    assert case.annotate().num_pushed == 2
    untouched = people.http.get(f"/api/projects/{theirs}/")
    assert (untouched["task_number"], untouched["description"]) == (0, "")
    people.http.call("DELETE", f"/api/projects/{theirs}/")


def test_a_class_list_without_labels_is_taken_although_somebody_began_to_answer(case):
    items = case.add_numbers(range(3))
    case.annotate()
    people = People(case)
    draft = {"result": [region("cat")], "lead_time": 1.0}
    people.http.post(f"/api/tasks/{people.task_of(items[0])}/drafts", draft)
    people.submit(items[1], was_cancelled=True)
    case.collect()
    classes = ["boot", "dog"]
    xml = case.project.labeling_xml.replace('<Choice value="owl"/>', "").replace('"cat"', '"boot"')
    case.project = make_project(classes=classes, xml=xml)
    case.annotate()
    assert case.labels.registration(NAME)[0] == classes
    people.submit(items[2], region("boot"))
    assert case.collect().num_decided == 1


def test_notes_an_empty_submit_and_hostile_results_on_the_real_server(case):
    extra = '<TextArea name="note" toName="image"/><Rating name="sure" toName="image"/></View>'
    case.project = make_project(xml=case.project.labeling_xml.replace("</View>", extra))
    noted, empty, drafted, changed, wrong, alone, *_ = items = case.add_numbers(range(7))
    case.annotate()
    people = People(case)
    people.submit(noted, region("dog"), region("<b>a\U0001f431</b>", name="note", kind="textarea", key="text"))
    people.submit(empty)
    assert not people.is_open(empty)
    people.http.post(f"/api/tasks/{people.task_of(drafted)}/drafts", {"result": [region("cat")], "lead_time": 1.0})
    people.submit(changed, region("cat"))
    task_id = people.task_of(changed)
    data = people.http.get(f"/api/tasks/{task_id}/")["data"]
    people.http.call("PATCH", f"/api/tasks/{task_id}/", json={"data": {**data, "item_id": {"a": [1]}}})
    people.submit(wrong, {"from_name": "label", "to_name": "image", "type": "choices", "value": {}})
    people.submit(alone, region("a\u0001b", name="note", kind="textarea", key="text"))
    people.http.post(f"/api/projects/{case.ls_project()}/import", [{"data": {"image": "x"}}])
    report = case.collect()
    assert (report.num_decided, report.num_empty, report.num_refused) == (1, 1, 3)
    codes = {entry.digest: entry.code for entry in case.items.quarantined(NAME)}
    assert codes == {
        empty: "NO_ANSWER", changed: "ITEM_CHANGED", wrong: "SCHEMA_MISMATCH", alone: "NO_CLASS",
    }  # fmt: skip
    (row,) = case.labels.annotations(NAME, [noted])[noted]
    assert row.result[1]["value"] == {"text": ["<b>a\U0001f431</b>"]}
    assert people.is_open(empty)
    case.annotate()
    assert sorted(case.labeling.task_ids(case.ls_project())) == sorted([*items, ""])
    people.submit(empty, region("owl"))
    assert case.collect().num_decided == 2
    assert (case.label_of(empty)[2], case.label_of(changed)[2]) == ("owl", "cat")


def test_one_account_finishes_a_project_that_asks_for_one(case):
    train, exam = case.add_numbers(range(3)), case.add_numbers(range(3, 6), split="exam")
    alone = len(case.labeling.accounts()) == 1
    assert ("wait for 2 people each" in case.annotate().note) == alone
    case.project = make_project(exam_annotators=1)
    people = People(case)
    for queue, items in (("label", train), ("exam", exam)):
        for item_id in items:
            people.submit(item_id, region("cat"), queue=queue)
    report = case.collect()
    assert (report.num_decided, report.note) == (6, "")
    assert sum(counts.outstanding for counts in case.labels.counts(NAME).values()) == 0
