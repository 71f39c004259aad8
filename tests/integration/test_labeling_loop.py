"""Annotate, scripted annotators and collect on a real Label Studio, with a network that loses answers."""

import threading

import httpx
import pytest

from pipeline_tasks.adapters.label_studio import LabelStudio
from pipeline_tasks.annotation.projects import labeling_config
from pipeline_tasks.demo.annotators import Annotator, answer_all
from pipeline_tasks.errors import PermanentError, ServiceUnavailable
from tests.labeling_case import CLASSES, NAME, Case

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
        tool._http.call("DELETE", f"/api/projects/{project_id}/")


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
    assert {(one.label, one.annotators) for one in decided.values()} == {
        ("cat", ("one@dethrone.test", "two@dethrone.test"))
    }
    labels = [case.label_of(item_id)[2] for item_id in train]
    assert labels.count("owl") == first.num_wrong
    assert set(labels) == {"cat", "owl"}


def test_an_account_that_the_server_does_not_know_is_refused_without_an_invitation(label_studio_server):
    from pipeline_tasks.demo.annotators import Account

    with pytest.raises(PermanentError, match=r"must let stranger@dethrone.test in by password or invitation"):
        Account(label_studio_server.url, "stranger@dethrone.test", "x" * 20).enter(invite_token="wrong")


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
