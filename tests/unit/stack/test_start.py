import datetime as dt
import threading
import time
from pathlib import Path

import httpx
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from pipeline_tasks.adapters import http_health, local_ports
from pipeline_tasks.errors import ServiceUnavailable
from pipeline_tasks.stack import airflow_setup, health, label_studio_setup, processes, s3_setup
from pipeline_tasks.stack import start as stack_start
from pipeline_tasks.stack.addresses import DEFAULT_PORTS
from pipeline_tasks.stack.events import StartCancelled
from pipeline_tasks.stack.layout import StackLayout
from pipeline_tasks.stack.supervisord import ProcessInfo

PARTS = ("s3", "label-studio", *stack_start.AIRFLOW_PROGRAMS, "watchdog", "gateway")


class Supervisor:
    """Programs that run as soon as they are started, unless the test says what becomes of them."""

    def __init__(self, states=()):
        self.started, self.stopped, self.states = [], [], dict(states)

    def start(self, name):
        self.started.append(name)

    def stop(self, name):
        self.stopped.append(name)

    def processes(self):
        return {name: self._info(name) for name in PARTS}

    def _info(self, name):
        if name not in self.started:
            return ProcessInfo(name, "STOPPED", None, 0.0, "Not started")
        state, pid = self.states.get(name, ("RUNNING", 7))
        pid = next(pid) if hasattr(pid, "__next__") else pid
        return ProcessInfo(name, state, pid, 5.0, f"it is {state}")


@pytest.fixture
def world(monkeypatch):
    """Every effect beside the supervisor: what was done, and answers that a test may change."""
    done = []
    answers = {}
    monkeypatch.setattr(stack_start, "POLL_SECONDS", 0.001)
    monkeypatch.setattr(health, "probe", lambda name, **_: answers.get(name, http_health.Health(ok=True, detail="")))
    monkeypatch.setattr(processes, "stack_processes", lambda _: [])
    monkeypatch.setattr(processes, "listeners", lambda _: {port: {"127.0.0.1"} for port in DEFAULT_PORTS.values()})
    monkeypatch.setattr(s3_setup, "check_s3", lambda *_, **__: done.append("s3 checked"))
    monkeypatch.setattr(label_studio_setup, "prepare_database", lambda _: done.append("prepared"))
    monkeypatch.setattr(label_studio_setup, "confirm_token", lambda *_, **__: done.append("token"))
    monkeypatch.setattr(airflow_setup, "migrate", lambda *_, **__: done.append("migrated"))
    monkeypatch.setattr(airflow_setup, "ensure_pools", lambda *_, **__: done.append("pools"))
    return done, answers


def start_with(supervisor, tmp_path, *, events=None, timeout_seconds=5.0):
    return stack_start.Start(
        layout=StackLayout(home=tmp_path, root=tmp_path),
        supervisor=supervisor,
        ports=DEFAULT_PORTS,
        secrets={"airflow_admin_password": "x", "label_studio_token": "t"},
        environment={},
        bin_dir=Path("/v/bin"),
        on_event=(events if events is not None else []).append,
        timeout_seconds=timeout_seconds,
        cancel=threading.Event(),
    )


def test_every_part_is_started_and_timed(world, tmp_path):
    supervisor, events = Supervisor(), []
    seconds = stack_start.start_all(start_with(supervisor, tmp_path, events=events))
    assert sorted(supervisor.started) == sorted(PARTS)
    assert set(seconds) == {"s3", "label-studio", "airflow", "gateway"}
    assert sorted(world[0]) == ["migrated", "pools", "prepared", "s3 checked", "token"]
    assert {event.part for event in events if event.state == "ready"} == set(seconds)


def test_no_database_is_touched_while_its_programs_run(world, tmp_path):
    supervisor = Supervisor()
    supervisor.started += ["airflow-triggerer", "label-studio"]
    stack_start.start_all(start_with(supervisor, tmp_path))
    assert sorted(world[0]) == ["pools", "s3 checked", "token"]


def test_a_part_that_gave_up_fails_the_start_with_its_log_and_stops_the_others_waiting(world, tmp_path):
    world[1]["label-studio"] = http_health.Health(ok=False, detail="")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "s3.log").write_text("disk is full\n")
    start = start_with(Supervisor({"s3": ("FATAL", None)}), tmp_path, timeout_seconds=60)
    began = time.monotonic()
    expected = r"s3 must become healthy \(got FATAL: it is FATAL\)\. Last lines of .*s3\.log:\ndisk is full"
    with pytest.raises(ServiceUnavailable, match=expected):
        stack_start.start_all(start)
    assert time.monotonic() - began < 5


def test_a_part_that_ends_again_and_again_is_not_waited_for(world, tmp_path):
    start = start_with(Supervisor({"s3": ("STARTING", iter(range(1, 99)))}), tmp_path, timeout_seconds=60)
    with pytest.raises(ServiceUnavailable, match=r"got 3 starts that ended by themselves"):
        stack_start.start_all(start)


def test_a_part_that_never_answers_is_given_up_with_what_was_seen(world, tmp_path):
    world[1]["gateway"] = http_health.Health(ok=False, detail="HTTP 503 at http://g")
    start = start_with(Supervisor(), tmp_path, timeout_seconds=0.1)
    with pytest.raises(ServiceUnavailable, match=r"gateway .*got no health after 0 s: HTTP 503 at http://g"):
        stack_start.start_all(start)


def test_the_heartbeat_of_the_process_before_is_not_health(world, tmp_path):
    old = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=20)  # the fake runs for 5 s
    world[1]["airflow-scheduler"] = http_health.Health(ok=True, detail="scheduler healthy", heartbeat_at=old)
    with pytest.raises(ServiceUnavailable, match="airflow-scheduler must become healthy"):
        stack_start.start_all(start_with(Supervisor(), tmp_path, timeout_seconds=0.1))


@pytest.mark.parametrize("state", ["RUNNING", "FATAL"])
def test_another_program_on_one_of_our_ports_is_named_and_ours_is_stopped(world, tmp_path, monkeypatch, state):
    monkeypatch.setattr(local_ports, "port_is_free", lambda port: port != DEFAULT_PORTS["s3_filer"])
    monkeypatch.setattr(processes, "listeners", lambda _: {DEFAULT_PORTS["s3"]: {"127.0.0.1"}})
    monkeypatch.setattr(processes, "port_owner", lambda _: "nginx (pid 9)")
    supervisor = Supervisor({"s3": (state, 7)})
    with pytest.raises(
        stack_start.PortTaken, match=r"port 8888 must stay free for s3 \(got nginx \(pid 9\), which took it"
    ):
        stack_start.start_all(start_with(supervisor, tmp_path))
    assert supervisor.stopped == ["s3"]


def test_a_stranger_on_the_port_is_seen_long_before_the_time_is_over(world, tmp_path, monkeypatch):
    world[1]["label-studio"] = http_health.Health(ok=False, detail="HTTP 404")
    monkeypatch.setattr(stack_start, "PORT_CHECK_SECONDS", 0.05)
    monkeypatch.setattr(local_ports, "port_is_free", lambda port: port != DEFAULT_PORTS["label_studio"])
    monkeypatch.setattr(processes, "listeners", lambda _: {})
    began = time.monotonic()
    with pytest.raises(stack_start.PortTaken, match="port 8081 must stay free for label-studio"):
        stack_start.start_all(start_with(Supervisor(), tmp_path, timeout_seconds=60))
    assert time.monotonic() - began < 5


def test_a_cancelled_wait_is_no_failure_of_the_part(world, tmp_path):
    world[1]["s3"] = http_health.Health(ok=False, detail="")
    start = start_with(Supervisor(), tmp_path)
    start.supervisor.start("s3")
    start.cancel.set()
    with pytest.raises(StartCancelled):
        stack_start.wait_healthy(start, "s3")


def test_a_checkout_without_a_gateway_starts_without_one(world, tmp_path, monkeypatch):
    supervisor, events = Supervisor(), []
    monkeypatch.setattr(supervisor, "processes", lambda: {n: supervisor._info(n) for n in PARTS if n != "gateway"})
    stack_start.start_all(start_with(supervisor, tmp_path, events=events))
    assert "gateway" not in supervisor.started
    assert next(event.detail for event in events if event.part == "gateway") == "not part of this checkout"


def refused(status):
    request = httpx.Request("POST", "http://127.0.0.1/api/v2/pools")
    error = ServiceUnavailable("Airflow must create the pools")
    error.__cause__ = httpx.HTTPStatusError("no", request=request, response=httpx.Response(status, request=request))
    return error


def lost_connection():
    error = ServiceUnavailable("Airflow must create the pools")
    error.__cause__ = httpx.RemoteProtocolError("Server disconnected without sending a response.")
    return error


def setup_step(monkeypatch, *errors):
    """A setup step of Airflow that fails with each of the errors in turn, then passes; and its calls."""
    monkeypatch.setattr(stack_start, "SETUP_PAUSE_SECONDS", 0.001)
    calls, left = [], list(errors)

    def ensure_pools(port, **_):
        calls.append(port)
        if left:
            raise left.pop(0)

    monkeypatch.setattr(airflow_setup, "ensure_pools", ensure_pools)
    return calls


@pytest.mark.parametrize(
    "error",
    [
        refused(500),
        refused(503),
        lost_connection(),
        EndpointConnectionError(endpoint_url="http://s3"),
        ClientError({"Error": {"Code": "InternalError"}, "ResponseMetadata": {"HTTPStatusCode": 500}}, "PutObject"),
    ],
)
def test_a_program_that_restarts_during_its_setup_is_asked_again(world, monkeypatch, tmp_path, error):
    calls = setup_step(monkeypatch, error, error)
    stack_start.start_all(start_with(Supervisor(), tmp_path))
    assert len(calls) == 3


def test_a_setup_that_is_refused_ends_the_start_at_once(world, monkeypatch, tmp_path):
    calls = setup_step(monkeypatch, refused(401), refused(401))
    with pytest.raises(ServiceUnavailable, match="must create the pools"):
        stack_start.start_all(start_with(Supervisor(), tmp_path))
    assert len(calls) == 1


def test_a_setup_that_never_passes_ends_with_its_own_error_in_time(world, monkeypatch, tmp_path):
    calls = setup_step(monkeypatch, *[refused(500)] * 10_000)
    with pytest.raises(ServiceUnavailable, match="must create the pools"):
        stack_start.start_all(start_with(Supervisor(), tmp_path, timeout_seconds=0.2))
    assert len(calls) > 1


def test_a_setup_that_is_cancelled_between_two_tries_says_so(monkeypatch, tmp_path):
    start = start_with(Supervisor(), tmp_path)

    def step():
        start.cancel.set()
        raise lost_connection()

    with pytest.raises(StartCancelled):
        stack_start.despite_restarts(start, step)
