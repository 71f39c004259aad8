import os
import subprocess
import sys
import time

import psutil
import pytest

from pipeline_tasks.stack import processes
from pipeline_tasks.stack.supervisor_conf import MARKER

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(60)"
PLAIN = "import time; print('on', flush=True); time.sleep(60)"


@pytest.fixture
def spawn():
    started = []

    def start(home, code=PLAIN):
        process = subprocess.Popen(
            [sys.executable, "-c", code], env={**os.environ, MARKER: str(home)}, stdout=subprocess.PIPE
        )
        process.stdout.readline()
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_only_the_processes_of_this_home_are_found(spawn, tmp_path):
    mine, other = spawn(tmp_path / "a"), spawn(tmp_path / "b")
    assert [process.pid for process in processes.stack_processes(tmp_path / "a")] == [mine.pid]
    assert [process.pid for process in processes.stack_processes(tmp_path / "b")] == [other.pid]


def test_the_caller_itself_is_never_found(monkeypatch, tmp_path):
    code = (
        "import sys; from pathlib import Path; from pipeline_tasks.stack import processes; "
        "print(processes.stack_processes(Path(sys.argv[1])))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env={**os.environ, MARKER: str(tmp_path)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"


def test_leftovers_end_and_a_stubborn_one_is_killed(spawn, tmp_path):
    plain, stubborn = spawn(tmp_path), spawn(tmp_path, STUBBORN)
    began = time.monotonic()
    ended = processes.end_leftovers(tmp_path, grace_seconds=0.5)
    assert sorted(ended) == sorted([plain.pid, stubborn.pid])
    assert time.monotonic() - began < 10
    assert processes.stack_processes(tmp_path) == []


def test_nothing_to_end_is_fine(tmp_path):
    assert processes.end_leftovers(tmp_path, grace_seconds=1) == []


def test_listeners_and_owners_are_named(spawn, tmp_path):
    code = (
        "import socket, time; s = socket.create_server(('127.0.0.1', 0)); "
        "print(s.getsockname()[1], flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        port = int(process.stdout.readline())
        assert processes.listeners({process.pid}) == {port: {"127.0.0.1"}}
        assert processes.listeners(set()) == {}
        assert processes.port_owner(port).endswith(f"(pid {process.pid})")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_an_owner_that_cannot_be_seen_is_another_program(monkeypatch, free_port):
    assert processes.port_owner(free_port) == "another program"

    def denied(kind):
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil, "net_connections", denied)
    assert processes.port_owner(free_port) == "another program"
