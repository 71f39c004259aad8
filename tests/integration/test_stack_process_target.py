"""The process target on a real supervisord, with a tiny HTTP server in place of a bento."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import pytest

from pipeline_tasks.stack import lifecycle, processes, programs, supervisord
from pipeline_tasks.stack.addresses import DEFAULT_PORTS
from pipeline_tasks.stack.layout import StackLayout, source_root
from pipeline_tasks.stack.process_target import ProcessTarget
from tests.target_contract import BROKEN, SERVER, TargetContract, begin, get

pytestmark = pytest.mark.integration


def tiny_server(home):
    """Return a command that serves from a script below the home."""

    def command(bento_tag, port):
        code = BROKEN if bento_tag == "broken" else SERVER
        path = home / f"server-{bento_tag}.py"
        path.write_text(code)
        return (sys.executable, str(path), "127.0.0.1", "--port", str(port))

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


class TestProcessTarget(TargetContract):
    running = "RUNNING"

    def kill(self, target, name):
        os.kill(self.identity(target, name), signal.SIGKILL)

    def identity(self, target, name):
        return target._supervisor.processes()[f"inference-{name}"].pid


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
