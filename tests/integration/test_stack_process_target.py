"""The process target on a real supervisord, with a tiny HTTP server in place of a bento."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx
import pytest

from pipeline_tasks.adapters.process_target import ProcessTarget
from pipeline_tasks.errors import ServiceUnavailable
from pipeline_tasks.stack import lifecycle, processes, programs, supervisord
from pipeline_tasks.stack.addresses import DEFAULT_PORTS, port_is_free
from pipeline_tasks.stack.layout import StackLayout, source_root

pytestmark = pytest.mark.integration

SERVER = """
import http.server, os, sys, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/slow":
            time.sleep(2)
        self.send_response(200); self.end_headers(); self.wfile.write(os.environ.get("ANSWER", "").encode())
    def log_message(self, *a): pass
import signal, threading
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Handler)
server.daemon_threads = False
signal.signal(signal.SIGTERM, lambda *a: threading.Thread(target=server.shutdown).start())
server.serve_forever(); server.server_close()
"""


def tiny_server(home):
    """Return a command that serves from a script below the home."""

    def command(bento_tag, port):
        code = "import sys; print('broken bento'); sys.exit(3)" if bento_tag == "broken" else SERVER
        path = home / f"server-{bento_tag}.py"
        path.write_text(code)
        return (sys.executable, str(path), "--port", str(port))

    return command


@pytest.fixture
def home():
    folder = Path(tempfile.mkdtemp(prefix="dethrone-target-")).resolve()
    layout = StackLayout(home=folder, root=source_root())
    start_supervisor(layout)
    yield folder
    lifecycle.down(folder)
    left = processes.stack_processes(folder)
    shutil.rmtree(folder)
    assert left == []


def start_supervisor(layout):
    lifecycle.make_folders(layout)
    lifecycle.write_programs(layout, ())
    bin_dir = Path(sys.executable).parent
    environment = programs.base_environment(
        os.environ, layout=layout, projects_dir=layout.home / "projects", bin_dir=bin_dir
    )
    supervisord.start_daemon(layout, python=bin_dir / "python", environment=environment)


@pytest.fixture
def target(home):
    return ProcessTarget(home, command=tiny_server(home))


def begin(target, name, tag="tag", **environment):
    handle = target.start(deployment_id=name, bento_tag=tag, environment=environment)
    target.wait_ready(name, timeout_seconds=30)
    return handle


def get(handle, path="/"):
    return httpx.get(handle.address + path, trust_env=False, timeout=10).text


def test_a_deployment_answers_with_its_own_environment(target):
    one, two = begin(target, "d1", ANSWER="one"), begin(target, "d2", ANSWER="two")
    assert (get(one), get(two)) == ("one", "two")
    assert target.list() == {"d1": "RUNNING", "d2": "RUNNING"}


def test_a_second_start_adopts_the_running_server(target, home):
    first = begin(target, "d1", ANSWER="one")
    pid = supervisord.Supervisor(StackLayout(home=home, root=home).socket).processes()["inference-d1"].pid
    assert begin(target, "d1", ANSWER="another") == first
    assert supervisord.Supervisor(StackLayout(home=home, root=home).socket).processes()["inference-d1"].pid == pid
    assert get(first) == "one"


def test_starts_at_once_get_ports_of_their_own(target):
    handles = []
    threads = [
        threading.Thread(target=lambda n=n: handles.append(begin(target, f"d{n}", ANSWER=f"{n}"))) for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(get(handle) for handle in handles) == ["0", "1", "2", "3"]


def test_stop_lets_the_request_in_flight_end_and_removes_the_server(target):
    handle = begin(target, "d1", ANSWER="whole")
    answers = []
    request = threading.Thread(target=lambda: answers.append(get(handle, "/slow")))
    request.start()
    time.sleep(0.5)
    target.stop("d1")
    request.join()
    assert answers == ["whole"]
    assert target.list() == {}
    assert port_is_free(int(handle.address.rpartition(":")[2]))
    target.stop("d1")


def test_a_killed_server_comes_back_on_its_port(target, home):
    handle = begin(target, "d1", ANSWER="one")
    supervisor = supervisord.Supervisor(StackLayout(home=home, root=home).socket)
    os.kill(supervisor.processes()["inference-d1"].pid, 9)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            assert get(handle) == "one"
        except httpx.HTTPError:
            time.sleep(0.1)
        else:
            return
    pytest.fail("the killed server did not come back")


def test_a_server_that_cannot_start_is_told_with_its_log(target):
    target.start(deployment_id="bad", bento_tag="broken", environment={})
    began = time.monotonic()
    with pytest.raises(ServiceUnavailable, match=r"deployment bad must become ready[\s\S]*broken bento"):
        target.wait_ready("bad", timeout_seconds=60)
    assert time.monotonic() - began < 30
    target.stop("bad")
    assert target.list() == {}


def test_deployments_come_back_after_the_supervisor_was_ended_and_started(target, home):
    handle = begin(target, "d1", ANSWER="one")
    begin(target, "d2", ANSWER="two")
    target.stop("d2")
    lifecycle.down(home)
    start_supervisor(StackLayout(home=home, root=source_root()))
    target.wait_ready("d1", timeout_seconds=30)
    assert get(handle) == "one"
    assert target.list() == {"d1": "RUNNING"}


def test_deployments_and_the_stack_do_not_want_the_same_ports(target):
    port = int(begin(target, "d1").address.rpartition(":")[2])
    assert port not in DEFAULT_PORTS.values()
