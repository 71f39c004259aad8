"""The client of Airflow's REST API, against answers as Airflow gives them while it is killed and started again."""

import json

import httpx
import pytest

from pipeline_tasks.adapters.airflow_rest import AirflowRest
from pipeline_tasks.errors import PermanentError, ServiceUnavailable

KILLED = httpx.RemoteProtocolError("server disconnected")
DOWN = httpx.ConnectError("connection refused")


@pytest.fixture
def airflow(monkeypatch):
    """Return a client that gets these answers one after the other, then the last one, and a list of what it asked."""

    def make(*answers, patience_seconds=30.0):
        left, asked = list(answers), []

        def answer(request):
            if request.url.path == "/auth/token":
                return httpx.Response(201, json={"access_token": "t"})
            asked.append((request.method, request.url.path, json.loads(request.content or b"null")))
            reply = left.pop(0) if len(left) > 1 else left[0]
            if isinstance(reply, Exception):
                raise reply
            return httpx.Response(reply[0], json=reply[1])

        client = AirflowRest(
            "http://airflow", username="a", password="x", patience_seconds=patience_seconds, sleep=lambda _seconds: None
        )
        monkeypatch.setattr(client, "_client", httpx.Client(transport=httpx.MockTransport(answer)))
        return client, asked

    return make


def test_a_server_that_is_killed_and_comes_back_is_asked_again(airflow):
    client, asked = airflow(KILLED, DOWN, (503, {}), (200, {"state": "success"}))
    assert client.run("d", "r")["state"] == "success"
    assert asked == [("GET", "/api/v2/dags/d/dagRuns/r", None)] * 4


def test_a_run_whose_answer_was_lost_is_not_started_twice(airflow):
    client, asked = airflow(KILLED, (409, {"detail": "already exists"}))
    run_id = client.trigger("d", {"a": 1})
    body = {"dag_run_id": run_id, "logical_date": None, "conf": {"a": 1}}
    assert asked == [("POST", "/api/v2/dags/d/dagRuns", body)] * 2


def test_a_conflict_at_once_is_an_error(airflow):
    client, asked = airflow((409, {"detail": "the task was answered already"}))
    with pytest.raises(PermanentError, match=r"got 409: .*answered already"):
        client.answer("d", "r", approve=True, reason="fine")
    assert len(asked) == 1


@pytest.mark.parametrize(("answer", "got"), [((503, {}), "HTTP 503"), (DOWN, "ConnectError")])
def test_who_stays_away_is_named_with_what_was_asked(airflow, answer, got):
    client, asked = airflow(answer, patience_seconds=0.05)
    with pytest.raises(ServiceUnavailable, match=rf"Airflow must answer GET /dags/d/dagRuns/r \(got {got}"):
        client.run("d", "r")
    assert len(asked) > 1
