"""The whole stack with its real parts: started, asked, broken in every way, and gone at the end."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx
import psutil
import pytest

from pipeline_tasks.catalog import migrate
from pipeline_tasks.stack import addresses, lifecycle, processes, s3_setup
from pipeline_tasks.stack.doctor import doctor
from pipeline_tasks.stack.layout import StackLayout, source_root
from pipeline_tasks.stack.programs import LABEL_STUDIO_USER
from pipeline_tasks.stack.status import logs, status
from pipeline_tasks.stack.supervisord import Supervisor

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(900)]

CORE = ["s3", "label-studio", "airflow-api-server", "airflow-scheduler", "airflow-dag-processor", "airflow-triggerer"]


class Stack:
    """A home of its own, and what the tests ask about it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.layout = StackLayout(home=home, root=source_root())
        self.projects_dir = home / "projects"

    def up(self, **options):
        migrate.upgrade(f"sqlite:///{self.home / 'catalog.db'}")  # without it the gateway has no routes to follow
        return lifecycle.up(self.home, projects_dir=self.projects_dir, environment=dict(os.environ), **options)

    def down(self):
        return lifecycle.down(self.home)

    def secrets(self) -> dict[str, str]:
        return {path.name: path.read_text().strip() for path in self.layout.secrets_dir.iterdir()}

    def ports(self) -> dict[str, int]:
        return addresses.read_stack(self.layout.stack_file)["ports"]

    def pids(self) -> dict[str, int]:
        return {name: info.pid for name, info in Supervisor(self.layout.socket).processes().items()}

    def processes(self) -> list[psutil.Process]:
        return processes.stack_processes(self.home)

    def s3(self):
        return s3_setup.make_client(self.ports()["s3"], secrets=self.secrets())


@pytest.fixture(scope="module")
def stack():
    if not (source_root() / ".venv-label-studio" / "bin" / "label-studio").exists():
        pytest.skip("Label Studio's environment is not installed (make install)")
    home = Path(tempfile.mkdtemp(prefix="dethrone-stack-")).resolve()
    started = Stack(home)
    started.projects_dir.mkdir()
    try:
        started.up()
        yield started
    finally:
        started.down()
        left = started.processes()
        shutil.rmtree(home)
        assert left == []


@pytest.fixture
def running(stack):
    """The stack, up again whatever the test before did to it."""
    stack.up()
    return stack


@pytest.fixture
def stopped(stack):
    """The stack, down whatever the test before did to it: after a test that left it down, nothing is started twice."""
    stack.down()
    return stack


def test_every_part_is_healthy(running):
    state = status(running.home)
    assert state.healthy, state
    assert [part.name for part in state.parts][:6] == CORE
    assert all(part.pid and part.uptime_seconds >= 0 for part in state.parts)


def test_a_second_up_changes_nothing_and_is_quick(running):
    before, began = running.pids(), time.monotonic()
    report = running.up()
    assert time.monotonic() - began < 10
    assert running.pids() == before
    assert report.moved == {}


def test_no_secret_is_in_a_process_list_or_a_log_or_the_settings(running):
    secrets = running.secrets()
    texts = {f"command line of {p.pid}": " ".join(p.cmdline()) for p in running.processes()}
    files = [*running.layout.logs_dir.rglob("*"), running.layout.stack_file, running.layout.airflow_cfg]
    texts |= {str(path): path.read_text(errors="replace") for path in files if path.is_file()}
    hits = [(name, where) for name, value in secrets.items() for where, text in texts.items() if value in text]
    assert hits == []
    assert len(texts) > 20


def test_files_with_secrets_are_for_their_owner_only(running):
    layout = running.layout
    files = [*layout.secrets_dir.iterdir(), *layout.programs_dir.iterdir(), layout.supervisor_conf]
    files += [layout.airflow_cfg, layout.passwords_file, layout.stack_file, layout.s3_identities_file]
    assert {oct(path.stat().st_mode & 0o777) for path in files} == {"0o600"}
    assert oct(layout.socket.stat().st_mode & 0o777) == "0o700"
    assert oct(running.home.stat().st_mode & 0o777) == "0o700"


def test_nothing_listens_beyond_loopback(running):
    listening = processes.listeners({process.pid for process in running.processes()})
    assert set().union(*listening.values()) == {"127.0.0.1"}
    assert set(running.ports().values()) <= set(listening)


def test_s3_refuses_strangers_on_every_port_and_unknown_buckets(running):
    from botocore.exceptions import ClientError

    running.s3().put_object(Bucket="dethrone", Key="probe/secret", Body=b"1")
    ports = running.ports()
    assert httpx.get(f"http://127.0.0.1:{ports['s3']}/dethrone/probe/secret", trust_env=False).status_code == 403
    for name in sorted(set(ports) - {"s3"}):
        if name.startswith("s3_"):  # tests/reported/test_store_ports.py tries the others' gRPC too
            with pytest.raises(httpx.RequestError):
                httpx.get(f"https://127.0.0.1:{ports[name]}/", trust_env=False, verify=False)
    with pytest.raises(ClientError, match="NoSuchBucket"):
        running.s3().put_object(Bucket="dethrone-typo", Key="probe", Body=b"1")


def test_label_studio_takes_the_token_and_no_new_users(running):
    secrets, base = running.secrets(), f"http://127.0.0.1:{running.ports()['label_studio']}"
    token = {"Authorization": f"Token {secrets['label_studio_token']}"}
    with httpx.Client(base_url=base, trust_env=False) as client:
        assert client.get("/api/current-user/whoami", headers=token).json()["email"] == LABEL_STUDIO_USER
        assert client.get("/api/projects").status_code == 401
        page = client.get("/user/login/")
        form = {
            "email": "new@example.com",
            "password": "longenough1",
            "csrfmiddlewaretoken": client.cookies["csrftoken"],
        }
        assert page.status_code == 200
        assert client.post("/user/signup/", data=form, headers={"Referer": base}).status_code == 403
        assert client.get("/data/local-files/?d=etc/passwd").status_code in {302, 401, 403, 404}


def test_airflow_takes_the_generated_password_only_and_has_the_pool(running):
    base = f"http://127.0.0.1:{running.ports()['airflow']}"
    with httpx.Client(base_url=base, trust_env=False) as client:
        for password in ("admin", "airflow", ""):
            login = client.post("/auth/token", json={"username": "admin", "password": password})
            assert login.status_code in {400, 401}
        password = running.secrets()["airflow_admin_password"]
        token = client.post("/auth/token", json={"username": "admin", "password": password}).json()["access_token"]
        pool = client.get("/api/v2/pools/gpu", headers={"Authorization": f"Bearer {token}"}).json()
        assert pool["slots"] == 1
        assert client.get("/api/v2/pools/gpu").status_code == 401


def test_the_doctor_finds_nothing_wrong(running):
    wrong = [check for check in doctor(running.home) if not check.ok]
    assert wrong == []


def test_logs_shows_the_end_of_each_part(running):
    ends = logs(running.home, num_lines=5)
    assert set(CORE) <= set(ends)
    assert all(len(lines) <= 5 for lines in ends.values())


def test_down_leaves_no_process(running):
    pids = [process.pid for process in running.processes()]
    running.down()
    assert not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids)
    assert running.processes() == []
    assert not status(running.home).running


def test_a_taken_port_is_named_and_another_is_used_and_kept(stopped):
    wanted = stopped.ports()["label_studio"]
    events = []
    with socket.socket() as other:
        other.bind(("127.0.0.1", wanted))
        other.listen()
        report = stopped.up(on_event=events.append)
    chosen = report.stack["ports"]["label_studio"]
    assert report.moved == {"label_studio": (wanted, chosen)}
    assert any(f"port {wanted} is taken by" in event.detail and f"using {chosen}" in event.detail for event in events)
    assert stopped.up().stack["ports"]["label_studio"] == chosen
    assert status(stopped.home).healthy


def test_down_after_the_supervisor_was_killed_leaves_nothing(running):
    os.kill(int(running.layout.supervisor_pid_file.read_text()), signal.SIGKILL)
    running.down()
    assert running.processes() == []


def test_two_ups_at_once_both_end_well(stopped):
    reports, events = [], []
    threads = [threading.Thread(target=lambda: reports.append(stopped.up(on_event=events.append))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reports) == 2
    assert any("another dethrone up or down is at work" in event.detail for event in events)
    assert status(stopped.home).healthy


@pytest.mark.parametrize("program", ["s3", "label-studio", "airflow-api-server", "airflow-scheduler"])
def test_a_killed_part_comes_back_by_itself(running, program):
    pid = running.pids()[program]
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 240  # 20 s on two idle cores; a busy machine takes minutes for the api-server
    while time.monotonic() < deadline:
        if running.pids()[program] not in {pid, None, 0} and status(running.home).healthy:
            return
        time.sleep(0.5)
    pytest.fail(f"{program} did not come back: {status(running.home)}")


def test_up_after_the_supervisor_was_killed(running):
    running.s3().put_object(Bucket="dethrone", Key="probe/kept", Body=b"before the kill")
    os.kill(int(running.layout.supervisor_pid_file.read_text()), signal.SIGKILL)
    assert not status(running.home).running
    report = running.up()
    assert len(report.leftovers_ended) >= len(CORE)
    assert status(running.home).healthy
    assert running.s3().get_object(Bucket="dethrone", Key="probe/kept")["Body"].read() == b"before the kill"


def test_up_after_everything_was_killed_at_once(running):
    running.s3().put_object(Bucket="dethrone", Key="probe/power-cut", Body=b"acknowledged")
    for process in running.processes():
        process.kill()
    running.up()
    assert status(running.home).healthy
    assert running.s3().get_object(Bucket="dethrone", Key="probe/power-cut")["Body"].read() == b"acknowledged"


def test_a_first_up_that_is_interrupted_again_and_again_goes_on():
    home = Path(tempfile.mkdtemp(prefix="dethrone-cut-")).resolve()
    cut = Stack(home)
    code = (
        "import os, signal, sys; from pathlib import Path; from pipeline_tasks.stack import lifecycle\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job inherits that it is ignored\n"
        "lifecycle.up(Path(sys.argv[1]), projects_dir=Path(sys.argv[1]) / 'projects', environment=dict(os.environ))"
    )
    try:
        for how, after_seconds in ((signal.SIGKILL, 0.5), (signal.SIGINT, 3.0), (signal.SIGKILL, 8.0)):
            with subprocess.Popen([sys.executable, "-c", code, str(home)], stderr=subprocess.DEVNULL) as first:
                try:
                    time.sleep(after_seconds)
                    first.send_signal(how)
                    first.wait(timeout=30)
                finally:
                    first.kill()
        cut.up()
        assert status(home).healthy
    finally:
        cut.down()
        left = cut.processes()
        shutil.rmtree(home)
        assert left == []


def test_the_watchdog_restarts_a_stuck_scheduler(running):
    pid = running.pids()["airflow-scheduler"]
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    while running.pids()["airflow-scheduler"] == pid:
        assert time.monotonic() - began < 100, "the stuck scheduler still runs"
        time.sleep(1)
    while not status(running.home).healthy:
        assert time.monotonic() - began < 120, status(running.home)
        time.sleep(1)
