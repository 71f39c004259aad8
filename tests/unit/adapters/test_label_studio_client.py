"""The SDK on our HTTP client: what is sent, how often, and which error comes back."""

import subprocess
import sys
import time

import httpx
import jwt
import pytest

from pipeline_tasks.adapters.label_studio import LabelStudio
from pipeline_tasks.adapters.label_studio_client import LabelStudioAccount
from pipeline_tasks.core.ports import LabelingTask
from pipeline_tasks.errors import PermanentError, ServiceUnavailable

URL = "http://ls.test/below"


class Server:
    """Answers with what a test plans and notes what it was asked."""

    def __init__(self, answer):
        self.answer, self.requests = answer, []

    def __call__(self, request):
        self.requests.append(request)
        reply = self.answer(request)
        if isinstance(reply, Exception):
            raise reply
        return reply

    @property
    def paths(self):
        return [request.url.path for request in self.requests]


def tool(server, token="0" * 40):
    return LabelStudio(URL, token, transport=httpx.MockTransport(server))


def personal_token(*, lives_seconds=3600.0):
    return jwt.encode({"exp": time.time() + lives_seconds, "token_type": "refresh"}, "k" * 32, algorithm="HS256")


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (httpx.Response(500, json={"detail": "boom"}), r"with 2xx \(got 500: boom\)"),
        (httpx.Response(503, text="busy"), r"with 2xx \(got 503: no JSON, 4 bytes\)"),
        (httpx.Response(429, headers={"Retry-After": "1"}, json={}), r"with 2xx \(got 429"),
        (
            httpx.Response(200, text="<html>", headers={"content-type": "text/html"}),
            r"with JSON \(got 200, text/html\)",
        ),
        (httpx.ConnectError("refused"), r"\(got ConnectError\)"),
        (httpx.RemoteProtocolError("closed"), r"\(got RemoteProtocolError\)"),
        (httpx.ReadTimeout("lost"), r"\(got ReadTimeout\)"),
    ],
    ids=["500", "503", "429", "a page", "no connection", "closed", "lost"],
)
def test_an_import_whose_answer_is_lost_is_sent_once(failure, message):
    """The SDK alone sends it three times: on 5xx, 408, 409, 429 and closed connections."""
    server = Server(lambda _request: failure)
    with pytest.raises(ServiceUnavailable, match=r"must answer POST /below/api/projects/7/import " + message):
        tool(server).import_tasks(7, [LabelingTask("a", {"text": "x"})])
    assert len(server.requests) == 1
    assert server.requests[0].extensions["timeout"]["read"] == 120


@pytest.mark.parametrize("status", [400, 408, 409, 422])
def test_what_label_studio_refuses_is_said_and_sent_once(status):
    answer = {"detail": "Validation error", "validation_errors": {"label_config": ["no"]}}
    server = Server(lambda _request: httpx.Response(status, json=answer))
    with pytest.raises(PermanentError, match=rf"POST .*/import \(got {status}: Validation error .*no") as caught:
        tool(server).import_tasks(7, [LabelingTask("a", {"text": "x"})])
    assert (caught.value.code, len(server.requests)) == ("LS_REFUSED", 1)


@pytest.mark.parametrize(
    ("token", "reason", "todo"),
    [
        ("0" * 40, "Invalid token.", "a token of an administrator"),
        ("0" * 40, "legacy token authentication has been disabled", "Turn on legacy tokens"),
    ],
)
def test_a_refused_token_says_which_setting_to_change(token, reason, todo):
    server = Server(lambda _request: httpx.Response(401, json={"detail": reason}))
    with pytest.raises(PermanentError, match=f"DETHRONE_LABEL_STUDIO_TOKEN must be .*{reason}.*{todo}") as caught:
        tool(server, token).task_count(1)
    assert caught.value.code == "LS_AUTH"


def exchanging(request):
    """A server that knows personal access tokens."""
    if request.url.path.endswith("/api/token/refresh/"):
        return httpx.Response(200, json={"access": personal_token(lives_seconds=300)})
    return httpx.Response(200, json={"id": 1, "title": "t", "task_number": 3})


def test_a_personal_access_token_is_exchanged_once_in_four_minutes():
    now = [0.0]
    server = Server(exchanging)
    account = LabelStudioAccount(
        URL, personal_token(), timeout_seconds=1, transport=httpx.MockTransport(server), clock=lambda: now[0]
    )
    for seconds, exchanges in ((0, 1), (239, 1), (241, 2), (242, 2)):
        now[0] = seconds
        assert account.sdk.projects.get(1).task_number == 3
        assert server.paths.count("/below/api/token/refresh/") == exchanges
    assert server.requests[-1].headers["Authorization"].startswith("Bearer ")


def test_a_personal_access_token_that_has_expired_says_what_to_do():
    server = Server(exchanging)
    with pytest.raises(PermanentError, match=r"expired.*Create a new personal access token") as caught:
        tool(server, personal_token(lives_seconds=-60)).task_count(1)
    assert (caught.value.code, server.requests) == ("LS_AUTH", [])


def test_a_mark_is_looked_for_in_every_page_of_projects_and_no_further():
    def answer(request):
        number = int(request.url.params["page"])
        projects = [{"id": 3 - number, "title": "t", "description": "[mark]" if number == 2 else None}]
        return httpx.Response(200, json={"next": "there" if number < 2 else None, "results": projects})

    server = Server(answer)
    assert tool(server).find_project("[mark]").project_id == 1
    assert [request.url.params["page"] for request in server.requests] == ["1", "2"]


@pytest.mark.parametrize("annotators", [[], [1]], ids=["as the SDK declares it", "as the server says it"])
def test_a_task_is_read_whichever_of_its_classes_the_sdk_takes(annotators):
    """The server says `annotators: [1]`, which fits no class of the SDK but the last; there times stay text."""
    annotation = {
        "id": 4, "completed_by": 2, "result": {"odd": 1}, "was_cancelled": False, "lead_time": None,
        "created_at": "2026-01-01T00:00:00.000001Z", "updated_at": "2026-01-01T00:00:02Z",
    }  # fmt: skip
    task = {
        "id": 1, "data": {"item_id": 7, "row": {"a": None}}, "updated_at": "2026-01-01T00:00:00.000003Z",
        "annotators": annotators, "annotations": [annotation], "predictions": [{"score": None}],
    }  # fmt: skip

    def answer(request):
        path = request.url.path
        return httpx.Response(200, json=[{"id": 2, "email": "a@x"}] if "users" in path else {"tasks": [task]})

    (read,) = tool(Server(answer)).annotations(1)
    assert (read.item_id, read.annotator, read.result) == ("7", "a@x", ({"odd": 1},))
    assert read.annotation_id == "4@20260101T000000000001"
    assert tool(Server(answer)).task_data(1, 1) == task["data"]


def test_the_sdk_is_loaded_by_the_first_call_and_without_pandas():
    """`label_studio_sdk.LabelStudio` takes 0.9 s and 134 MB more, for exports as pandas tables."""
    code = (
        "import sys, pipeline_tasks.adapters.label_studio as tool\n"
        "print('label_studio_sdk' in sys.modules)\n"
        "account = tool.LabelStudio('http://x', 't')._sdk\n"
        "account.projects, account.tasks, account.webhooks, account.import_storage.s3, account.users\n"
        "print('pandas' in sys.modules, 'numpy' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.split() == ["False", "False", "False"]
