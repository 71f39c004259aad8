import fcntl
import os
import shutil
import stat
from pathlib import Path

import pytest

from pipeline_tasks.adapters import local_ports
from pipeline_tasks.errors import ConfigError, ServiceUnavailable
from pipeline_tasks.stack import addresses, lifecycle
from pipeline_tasks.stack import processes as stack_processes
from pipeline_tasks.stack.layout import StackLayout, source_root
from pipeline_tasks.stack.start import PortTaken
from pipeline_tasks.stack.supervisor_conf import Program, render_program
from pipeline_tasks.stack.supervisord import ProcessInfo


@pytest.fixture
def layout(tmp_path):
    installed = StackLayout(home=tmp_path, root=source_root())
    lifecycle.make_folders(installed)
    yield installed
    shutil.rmtree(installed.runtime_dir, ignore_errors=True)  # outside tmp_path where that is long


def program(name):
    return Program(name=name, command=("/bin/true",), environment={}, directory=Path("/"), log_file=Path("/dev/null"))


def test_every_folder_is_for_the_owner_only(layout):
    modes = {stat.S_IMODE(path.stat().st_mode) for path in layout.home.rglob("*") if path.is_dir()}
    assert modes == {0o700}


def test_a_socket_folder_of_somebody_else_is_refused(layout, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(ConfigError, match=r"must belong to you \(got user id \d+\)\. Set DETHRONE_HOME to a shorter"):
        lifecycle.make_folders(layout)


def test_programs_that_no_longer_exist_lose_their_file_and_deployments_keep_theirs(layout):
    lifecycle.write_programs(layout, (program("old"), program("kept")))
    layout.program_file("inference-d1").write_text("[program:inference-d1]\n")
    lifecycle.write_programs(layout, (program("kept"), program("new")))
    names = sorted(path.name for path in layout.programs_dir.iterdir())
    assert names == ["inference-d1.conf", "kept.conf", "new.conf"]
    assert {stat.S_IMODE(layout.program_file(name).stat().st_mode) for name in ("kept", "new")} == {0o600}


class Supervisor:
    def __init__(self, infos):
        self.infos = infos

    def is_up(self):
        return True

    def processes(self):
        return {name: ProcessInfo(name, state, 1, 1.0, "") for name, state in self.infos.items()}


def test_the_ports_of_running_parts_are_kept_and_those_of_stopped_ones_tried_again(layout, monkeypatch):
    addresses.write_stack(layout.stack_file, {"ports": {"airflow": 8090, "label_studio": 8091}})
    monkeypatch.setattr(local_ports, "port_is_free", lambda port: port not in {8090, 8091})
    monkeypatch.setattr(stack_processes, "port_owner", lambda _: "another program")
    events = []
    supervisor = Supervisor({"airflow-api-server": "RUNNING", "label-studio": "STOPPED"})
    choice = lifecycle.choose_ports(layout, supervisor, on_event=events.append)
    assert choice.ports["airflow"] == 8090
    assert choice.ports["label_studio"] == 8092
    assert [event.detail for event in events] == ["port 8091 is taken by another program: using 8092"]


def test_another_program_on_a_models_port_is_not_asked_in_its_place(layout, monkeypatch):
    """The server of another installation on that port would answer the gateway's requests."""
    served = Program(
        name="inference-d1", command=("serve", "--port", "3000"), environment={}, directory=Path("/"),
        log_file=Path("/dev/null"),
    )  # fmt: skip
    layout.program_file("inference-d1").write_text(render_program(served))
    monkeypatch.setattr(local_ports, "port_is_free", lambda port: port != 3000)
    monkeypatch.setattr(stack_processes, "port_owner", lambda _: "python (pid 7)")
    with pytest.raises(ServiceUnavailable, match=r"port 3000 must be free for inference-d1, .* \(got python \(pid 7\)"):
        lifecycle.require_model_ports(layout, Supervisor({}))
    lifecycle.require_model_ports(layout, Supervisor({"inference-d1": "RUNNING"}))
    monkeypatch.setattr(local_ports, "port_is_free", lambda _: True)
    lifecycle.require_model_ports(layout, Supervisor({}))


def test_a_second_caller_is_told_and_gives_up_in_the_end(layout):
    events = []
    with layout.lock_file.open("w") as held:
        held.write("4321")
        held.flush()
        fcntl.flock(held, fcntl.LOCK_EX)
        with (
            pytest.raises(ServiceUnavailable, match=r"up\.lock must become free \(got pid 4321 holding it for 0 s\)"),
            lifecycle.exclusive(layout, on_event=events.append, timeout_seconds=0.3),
        ):
            pytest.fail("two callers at once")
    assert [event.detail for event in events] == ["another dethrone up or down is at work (pid 4321): waiting"]


def test_the_lock_is_free_again_after_its_holder(layout):
    for _ in range(2):
        with lifecycle.exclusive(layout, on_event=lifecycle.ignore_event):
            assert layout.lock_file.read_text() == str(os.getpid())


def no_prepare(*_, **__):
    return None, {}, []


def run_up(tmp_path, events):
    return lifecycle.up(tmp_path, projects_dir=tmp_path, environment={}, on_event=events.append)


def test_a_port_that_was_taken_meanwhile_gets_another_choice(layout, monkeypatch):
    outcomes = iter([PortTaken("port 8333 must stay free."), {"s3": 1.0}])

    def start_all(_):
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(lifecycle, "_prepare", no_prepare)
    monkeypatch.setattr(lifecycle, "start_all", start_all)
    events = []
    assert run_up(layout.home, events).seconds == {"s3": 1.0}
    assert [event.detail for event in events] == ["trying other ports: port 8333 must stay free."]


def test_a_port_that_is_taken_again_and_again_is_an_error(layout, monkeypatch):
    def start_all(_):
        raise PortTaken("port 8333 must stay free.")

    monkeypatch.setattr(lifecycle, "_prepare", no_prepare)
    monkeypatch.setattr(lifecycle, "start_all", start_all)
    events = []
    with pytest.raises(PortTaken, match="port 8333 must stay free"):
        run_up(layout.home, events)
    assert len(events) == 2


def test_down_without_a_home_does_nothing(tmp_path):
    assert lifecycle.down(tmp_path / "none") == []
    assert not (tmp_path / "none").exists()


def test_down_of_what_is_down_is_fine(layout):
    assert lifecycle.down(layout.home) == []
    assert not layout.runtime_dir.exists()
