"""The contract of a deployment target, on a tiny HTTP server in place of a bento; one subclass per target."""

from __future__ import annotations

import threading
import time

import httpx
import pytest

from pipeline_tasks.adapters.local_ports import port_is_free
from pipeline_tasks.errors import ServiceUnavailable

SERVER = """
import http.server, os, sys, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/slow":
            time.sleep(2)
        self.send_response(200); self.end_headers(); self.wfile.write(os.environ.get("ANSWER", "").encode())
    def log_message(self, *a): pass
import signal, threading
server = http.server.ThreadingHTTPServer((sys.argv[1], int(sys.argv[-1])), Handler)
server.daemon_threads = False
signal.signal(signal.SIGTERM, lambda *a: threading.Thread(target=server.shutdown).start())
server.serve_forever(); server.server_close()
"""
BROKEN = "import sys; print('broken bento', flush=True); sys.exit(3)"


def begin(target, name, tag="tag", **environment):
    handle = target.start(deployment_id=name, bento_tag=tag, environment=environment)
    target.wait_ready(name, timeout_seconds=30)
    return handle


def get(handle, path="/"):
    return httpx.get(handle.address + path, trust_env=False, timeout=10).text


class TargetContract:
    """A subclass gives the fixture `target` and `kill`, the state that running has, and where a server was adopted."""

    running = ""

    def kill(self, target, name):
        """End the server's process as kill -9 does."""
        raise NotImplementedError

    def identity(self, target, name):
        """Return what is another when the server was started anew."""
        raise NotImplementedError

    def test_a_deployment_answers_with_its_own_environment(self, target):
        first, second = begin(target, "d1", ANSWER="one"), begin(target, "d2", ANSWER="two")
        assert (get(first), get(second)) == ("one", "two")
        assert target.list() == {"d1": self.running, "d2": self.running}

    def test_a_second_start_adopts_the_running_server(self, target):
        first = begin(target, "d1", ANSWER="one")
        before = self.identity(target, "d1")
        assert begin(target, "d1", ANSWER="another") == first
        assert self.identity(target, "d1") == before
        assert get(first) == "one"

    def test_starts_at_once_get_ports_of_their_own(self, target):
        handles = []
        threads = [
            threading.Thread(target=lambda n=n: handles.append(begin(target, f"d{n}", ANSWER=f"{n}"))) for n in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(get(handle) for handle in handles) == ["0", "1", "2", "3"]

    def test_stop_lets_the_request_in_flight_end_and_removes_the_server(self, target):
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

    def test_a_killed_server_comes_back_on_its_port(self, target):
        handle = begin(target, "d1", ANSWER="one")
        self.kill(target, "d1")
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                assert get(handle) == "one"
            except httpx.HTTPError:
                time.sleep(0.1)
            else:
                return
        pytest.fail("the killed server did not come back")

    def test_a_server_that_cannot_start_is_told_with_its_log(self, target):
        target.start(deployment_id="bad", bento_tag="broken", environment={})
        began = time.monotonic()
        with pytest.raises(ServiceUnavailable, match=r"deployment bad must become ready[\s\S]*broken bento"):
            target.wait_ready("bad", timeout_seconds=60)
        assert time.monotonic() - began < 30
        assert "broken bento" in target.describe("bad")
        target.stop("bad")
        assert target.list() == {}
