"""Ports of serving processes, tried as another user of the machine."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from bento_services import serve
from pipeline_tasks.adapters.release_image import ENTRY, LAYERS, BaseImage, build_image
from pipeline_tasks.deployment.bento_builder import source_files
from pipeline_tasks.stack.layout import StackLayout, source_root
from pipeline_tasks.stack.lifecycle import write_programs
from pipeline_tasks.stack.secrets import write_private
from pipeline_tasks.stack.supervisor_conf import Program, render_program
from tests.service.outsider import listening, order
from tests.service.servers import GATEWAY, gateway_environment, serving

OLD = ("/opt/venv/bin/bentoml", "serve", "dethrone_a:r1", "--host", "127.0.0.2", "--port", "3007")


@pytest.fixture
def layout(tmp_path):
    installed = StackLayout(home=tmp_path, root=source_root())
    installed.programs_dir.mkdir(parents=True)
    return installed


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.parametrize("service", [pytest.param(GATEWAY, id="H1")])
def test_a_server_listens_on_its_own_port_and_takes_no_orders(service, tmp_path):
    """Any local user ran commands through the control ports. The inference service: tests/service."""
    home, marks = tmp_path / "home", tmp_path / "marks"
    home.mkdir()
    marks.mkdir()
    with serving(service, home=home, environment=gateway_environment(home), wait=False) as server:
        server.wait_alive()
        ports = listening(server.processes())
        for port in ports:
            order(port, mark=marks / str(port))
        assert list(marks.iterdir()) == []
        assert ports == {server.port}


@pytest.mark.parametrize("row", ["H1"])
def test_up_takes_the_process_manager_out_of_deployments_of_an_earlier_version(layout, row):
    """A deployment's file outlives `down` and an upgrade, and with it the command that opened the ports."""
    path = layout.program_file("inference-d1")
    given = {"directory": layout.home, "log_file": layout.log_file("inference-d1"), "environment": {"A": "1"}}
    old = Program(name="inference-d1", command=OLD, autostart=True, **given)
    new = dataclasses.replace(old, command=(sys.executable, serve.__file__, "dethrone_a:r1", *OLD[3:]))
    write_private(path, render_program(old))
    for _ in range(2):
        write_programs(layout, ())
        assert path.read_text() == render_program(new), row


@pytest.mark.parametrize("row", ["H1"])
def test_a_releases_image_starts_by_its_own_entry(row):
    """Whatever base image it stands on; the image of an older release stays, byte for byte."""
    base = BaseImage("sha256:b", next(iter(LAYERS)), (), {"rootfs": {"diff_ids": []}, "config": {"Cmd": ["serve"]}})

    def told(files):
        config = json.loads(build_image(base, files, labels={}).config)["config"]
        return config.get("Entrypoint"), config["Cmd"]

    bento = "/home/bentoml/bento"
    new = [["python3", f"{bento}/src/bento_services/serve.py"], [bento, "--host", "0.0.0.0", "--port", "3000"]]
    assert [*told({ENTRY: b"", "bento.yaml": b""})] == new, row
    assert told({"bento.yaml": b""}) == (None, ["serve"])
    assert Path(ENTRY.removeprefix("src/")) in source_files()


@pytest.mark.parametrize("row", ["H1"])
def test_the_entry_becomes_the_worker_on_a_bound_port(tmp_path, row):
    """One process, no child; callers are refused until it listens, and a taken port is said in words."""
    bound = serve.bind("127.0.0.1", 0)
    port = bound.getsockname()[1]
    command = serve.worker_command("a:r1", descriptor=7)
    assert command[1:] == ["-P", serve.__file__, "a:r1", "--fd", "7"], row
    left = tmp_path / "metrics" / str(port) / "counter_1.db"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"of the life before")
    given = {"BENTOML_HOME": str(tmp_path), "MALLOC_ARENA_MAX": "2"}
    told = serve.worker_environment(given, port=port)
    assert told == serve.ALLOCATOR | given | {"PROMETHEUS_MULTIPROC_DIR": str(left.parent)}
    assert not left.exists()
    bound.listen()
    entry = [sys.executable, serve.__file__, "a:r1", "--port", str(port)]
    done = subprocess.run(entry, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        1,
        f"port {port} of 127.0.0.1 must be free (got Address already in use).\n",
    )
    bound.close()
