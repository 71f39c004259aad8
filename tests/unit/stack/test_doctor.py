import os
import types
from pathlib import Path

import pytest

from pipeline_tasks.adapters import local_ports
from pipeline_tasks.errors import ServiceUnavailable
from pipeline_tasks.stack import doctor, processes
from pipeline_tasks.stack.layout import StackLayout, source_root
from pipeline_tasks.stack.secrets import ensure_secrets


@pytest.fixture
def layout(tmp_path):
    return StackLayout(home=tmp_path, root=source_root())


def test_python_of_another_minor_version_is_refused():
    assert doctor.check_python((3, 11, 2)) == doctor.Check("python", True, "3.11.2")
    assert not doctor.check_python((3, 12, 0)).ok


def test_versions_below_the_floor_are_named():
    good = dict.fromkeys(doctor.MIN_VERSIONS, "99.0")
    assert doctor.check_versions(good).ok
    check = doctor.check_versions(good | {"bentoml": "1.4.2", "torch": "2.5.1+cpu", "supervisor": None})
    assert not check.ok
    assert check.detail == "bentoml 1.4.2 (needs 1.4.39), supervisor missing (needs 4.3), torch 2.5.1+cpu (needs 2.13)"
    assert check.advice == "Run `make install`."


def test_a_local_version_tag_does_not_count():
    assert doctor.check_versions({"torch": "2.13.0+cpu"}).ok


@pytest.mark.parametrize(("gib", "ok"), [(4.9, False), (5.0, True)])
def test_space_needs_five_gib(gib, ok):
    check = doctor.check_space(int(gib * 1024**3))
    assert check.ok is ok
    assert check.detail == f"{gib} GiB free"
    assert bool(check.advice) is not ok


@pytest.mark.parametrize(("gib", "ok"), [(3.9, False), (4.0, True)])
def test_memory_needs_four_gib(gib, ok):
    assert doctor.check_memory(int(gib * 1024**3)).ok is ok


def test_a_missing_environment_is_named(tmp_path):
    check = doctor.check_environments(StackLayout(home=tmp_path, root=tmp_path))
    assert not check.ok
    assert str(tmp_path / ".venv-label-studio" / "bin" / "label-studio") in check.detail
    assert check.advice == "Run `make install`."


def test_secrets_before_the_first_start_are_no_problem(layout):
    assert doctor.check_secret_files(layout) == doctor.Check("secrets", True, "none yet: `dethrone up` writes them")


def test_secrets_that_others_can_read_or_that_are_gone_are_named_but_not_shown(layout):
    values = ensure_secrets(layout.secrets_dir)
    assert doctor.check_secret_files(layout).ok
    (layout.secrets_dir / "split_key").chmod(0o640)
    (layout.secrets_dir / "webhook_secret").write_text("")
    (layout.secrets_dir / "label_studio_token").unlink()
    check = doctor.check_secret_files(layout)
    assert not check.ok
    assert set(check.detail.split("; ")) == {
        "readable by others: split_key", "missing or empty: webhook_secret", "missing or empty: label_studio_token",
    }  # fmt: skip
    assert not [name for name, value in values.items() if value in check.detail]


def test_h13_what_others_can_reach_in_the_home_is_listed(tmp_path):
    home = tmp_path / "home"
    assert doctor.check_open_files(home).ok
    (home / "secrets").mkdir(parents=True)
    (home / "secrets" / "split_key").write_text("s")
    (home / "open" / "deep").mkdir(parents=True)
    for name in ("catalog.db", "private", "open/log", "open/deep/page"):
        (home / name).write_text("x")
        (home / name).chmod(0o644)
    (home / "private").chmod(0o600)
    (home / "secrets").chmod(0o700)  # so that its file, though 644, cannot be reached
    (home / "link").symlink_to("private")
    for folder in (home, home / "open", home / "open" / "deep"):
        folder.chmod(0o755)
    check = doctor.check_open_files(home)
    assert (check.ok, check.advice) == (False, f"chmod 700 {home}")
    assert check.detail == "open to others: 3: catalog.db, open/deep/page, open/log"
    (home / "open" / "deep").chmod(0o777)
    assert "open/deep, open/deep/page" in doctor.check_open_files(home).detail
    home.chmod(0o700)
    assert doctor.check_open_files(home) == doctor.Check("files", True, f"{home} is its owner's only")


def test_settings_older_than_the_template_are_told(layout):
    assert doctor.check_airflow_settings(layout).ok
    layout.airflow_home.mkdir()
    layout.airflow_cfg.touch()
    assert doctor.check_airflow_settings(layout).ok
    os.utime(layout.airflow_cfg, (0, 0))
    check = doctor.check_airflow_settings(layout)
    assert not check.ok
    assert "the template is newer" in check.advice


def test_the_taken_port_of_a_model_is_fatal(layout, monkeypatch):
    layout.programs_dir.mkdir(parents=True)
    command = "/v/python /v/serve.py dethrone_a:r1 --host 127.0.0.1 --port 3001"
    layout.program_file("inference-a-r1").write_text(f"[program:inference-a-r1]\ncommand={command}\n")
    monkeypatch.setattr(local_ports, "port_is_free", lambda port: port != 3001)
    check = doctor.check_ports(layout)
    assert not check.ok
    assert check.detail.startswith("inference-a-r1 3001 is taken by ")
    assert "Stop what listens on 3001" in check.advice


def test_taken_ports_are_named_though_not_fatal(layout, monkeypatch):
    monkeypatch.setattr(local_ports, "port_is_free", lambda port: port != 8080)
    check = doctor.check_ports(layout)
    assert check.ok
    assert check.detail.startswith("airflow 8080 is taken by ")
    assert check.advice == "`dethrone up` uses others."


def test_processes_without_a_supervisor_are_a_problem(layout, monkeypatch):
    assert doctor.check_leftovers(layout).ok
    monkeypatch.setattr(processes, "stack_processes", lambda _: [types.SimpleNamespace(pid=7)])
    assert doctor.check_leftovers(layout) == doctor.Check(
        "leftovers", False, "processes [7] without a supervisor", "Run `dethrone down`."
    )


def test_a_listener_on_all_interfaces_is_a_problem():
    assert doctor.check_listeners({8080: {"127.0.0.1"}, 8081: {"::1"}}).detail == "2 ports, loopback only"
    check = doctor.check_listeners({8080: {"127.0.0.1"}, 8793: {"0.0.0.0"}, 8794: {"::"}})
    assert not check.ok
    assert check.detail == "ports [8793, 8794] answer on all interfaces"


@pytest.mark.parametrize(("skew", "ok"), [(0, True), (-5, True), (6, False), (-900, False)])
def test_clocks_may_differ_by_five_seconds(skew, ok):
    assert doctor.check_clock(skew).ok is ok


def test_a_check_that_cannot_run_is_a_finding_not_a_crash():
    def fails():
        raise ServiceUnavailable("S3 must answer (got nothing).")

    check = doctor.guarded("clock", fails)
    assert check == doctor.Check(
        "clock", False, "S3 must answer (got nothing).", "See `dethrone status` and `dethrone logs`."
    )


def test_with_the_stack_down_every_file_check_runs(layout):
    names = [check.name for check in doctor.doctor(layout.home)]
    assert names == [
        "python", "versions", "known holes", "disk space", "memory", "environments", "secrets", "files",
        "airflow settings", "ports", "leftovers",
    ]  # fmt: skip


def test_the_home_need_not_exist_yet(tmp_path):
    assert doctor.doctor(tmp_path / "a" / "b")[3].name == "disk space"
    assert not Path(tmp_path / "a").exists()
