import configparser
import importlib.util
import json
import os
import sqlite3
import threading
from pathlib import Path

import httpx
import pytest
import yaml

from pipeline_tasks.errors import ConfigError, ServiceUnavailable
from pipeline_tasks.stack import airflow_setup
from pipeline_tasks.stack.airflow_database import CONNECT_ARGS
from pipeline_tasks.stack.events import StartCancelled
from pipeline_tasks.stack.layout import StackLayout, source_root
from pipeline_tasks.stack.secrets import ensure_secrets

TEMPLATE = source_root() / "airflow.cfg.template"


def rendered(home=Path("/srv/dethrone"), **changes):
    layout = StackLayout(home=home, root=source_root())
    options = {"layout": layout, "port": 8082, "num_cpus": 2} | changes
    text = airflow_setup.render_airflow_cfg(TEMPLATE.read_text(), **options)
    parser = configparser.ConfigParser()
    parser.read_string(text)
    return {section: dict(parser[section]) for section in parser.sections()}


def airflow_options():
    folder = Path(importlib.util.find_spec("airflow").origin).parent
    document = yaml.safe_load((folder / "config_templates" / "config.yml").read_text())
    return {section: set(body["options"]) for section, body in document.items()}


def test_every_option_of_the_template_exists_in_the_installed_airflow():
    known = airflow_options()
    named = {(section, option.removesuffix("_cmd")) for section, options in rendered().items() for option in options}
    assert [(section, option) for section, option in named if option not in known[section]] == []


def test_the_measured_settings_are_set():
    settings = rendered()
    assert settings["core"]["parallelism"] == "4"
    assert settings["core"]["simple_auth_manager_users"] == "admin:admin,alice:user,ops:op,viewer:viewer"
    assert settings["api"]["base_url"] == "http://127.0.0.1:8082"
    assert settings["api"]["host"] == "127.0.0.1"
    assert settings["workers"]["min_heartbeat_interval"] == "1"
    assert settings["scheduler"]["task_instance_heartbeat_timeout"] == "60"
    assert settings["scheduler"]["orphaned_tasks_check_interval"] == "30"
    assert settings["core"]["fernet_key_cmd"] == "cat /srv/dethrone/secrets/airflow_fernet_key"


@pytest.mark.parametrize(("num_cpus", "parallelism"), [(1, "4"), (2, "4"), (3, "6"), (64, "8")])
def test_parallelism_follows_the_machine_within_its_bounds(num_cpus, parallelism):
    assert rendered(num_cpus=num_cpus)["core"]["parallelism"] == parallelism


def test_a_home_with_a_percent_and_a_space_is_read_back_whole():
    settings = rendered(Path("/srv/a b 50%"))
    assert settings["core"]["plugins_folder"] == "/srv/a b 50%/airflow/plugins"
    assert settings["core"]["fernet_key_cmd"] == "cat '/srv/a b 50%/secrets/airflow_fernet_key'"


def test_an_unknown_name_in_the_template_is_refused():
    layout = StackLayout(home=Path("/h"), root=Path("/r"))
    with pytest.raises(ConfigError, match=r"airflow.cfg.template must use only airflow_home, .*\(got 'typo'\)"):
        airflow_setup.render_airflow_cfg("a = $typo", layout=layout, port=1, num_cpus=1)


def test_sqlite_waits_half_a_minute_for_the_lock():
    assert CONNECT_ARGS == {"timeout": 30.0}


def test_the_written_files_are_private_and_hold_no_secret_but_the_passwords(tmp_path):
    layout = StackLayout(home=tmp_path, root=source_root())
    layout.airflow_home.mkdir()
    secrets = ensure_secrets(layout.secrets_dir)
    airflow_setup.write_airflow_files(layout, port=8082, secrets=secrets)
    text = layout.airflow_cfg.read_text()
    assert not [name for name, value in secrets.items() if value in text]
    assert json.loads(layout.passwords_file.read_text())["alice"] == secrets["airflow_alice_password"]
    assert layout.airflow_cfg.stat().st_mode & 0o777 == 0o600
    assert layout.passwords_file.stat().st_mode & 0o777 == 0o600


@pytest.fixture
def layout(tmp_path):
    installed = StackLayout(home=tmp_path, root=source_root())
    installed.airflow_home.mkdir()
    installed.logs_dir.mkdir()
    return installed


def fake_airflow(tmp_path, *, script):
    path = tmp_path / "airflow-command"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


CREATE = (
    'python3 - <<"E"\nimport os, sqlite3\n'
    'path = os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].removeprefix("sqlite:///")\n'
    'c = sqlite3.connect(path); c.execute("create table if not exists t (n)")\n'
    'c.execute("insert into t values (1)"); c.commit()\nE'
)


def migrate(layout, airflow, cancel=None):
    return airflow_setup.migrate(
        layout, airflow=airflow, environment={"PATH": os.environ["PATH"]}, cancel=cancel or threading.Event()
    )


def rows(layout):
    with sqlite3.connect(layout.airflow_home / "airflow.db") as connection:
        return connection.execute("select count(*) from t").fetchone()[0]


def test_migration_runs_once_per_version(layout, tmp_path):
    airflow = fake_airflow(tmp_path, script=CREATE)
    assert migrate(layout, airflow) is True
    assert migrate(layout, airflow) is False
    assert rows(layout) == 1
    assert not list(layout.airflow_home.glob("airflow.db.*"))


def test_another_version_migrates_a_copy_of_what_is_there(layout, tmp_path):
    airflow = fake_airflow(tmp_path, script=CREATE)
    migrate(layout, airflow)
    (layout.airflow_home / "migrated").write_text("3.2.0")
    assert migrate(layout, airflow) is True
    assert rows(layout) == 2


def test_a_failed_migration_leaves_the_old_database_and_says_why(layout, tmp_path):
    migrate(layout, fake_airflow(tmp_path, script=CREATE))
    (layout.airflow_home / "migrated").write_text("3.2.0")
    with pytest.raises(ServiceUnavailable, match=r"airflow db migrate must end with 0 \(got 3\)[\s\S]*no such column"):
        migrate(layout, fake_airflow(tmp_path, script="echo no such column; exit 3"))
    assert rows(layout) == 1


def test_a_half_made_copy_of_a_killed_start_is_thrown_away(layout, tmp_path):
    (layout.airflow_home / "airflow.db.migrating-1").write_bytes(b"half")
    (layout.airflow_home / "airflow.db.migrating-1-journal").touch()
    assert migrate(layout, fake_airflow(tmp_path, script=CREATE)) is True
    assert rows(layout) == 1
    assert not list(layout.airflow_home.glob("airflow.db.*"))


def test_the_migration_of_a_killed_start_may_still_be_at_work(layout, tmp_path):
    with sqlite3.connect(layout.airflow_home / "airflow.db.migrating-1") as orphan:
        orphan.execute("create table t (n)")
        orphan.execute("begin exclusive")
        assert migrate(layout, fake_airflow(tmp_path, script=CREATE)) is True
    assert rows(layout) == 1


def test_a_cancelled_migration_ends_its_process(layout, tmp_path):
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(StartCancelled):
        migrate(layout, fake_airflow(tmp_path, script="exec sleep 60"), cancel)
    assert not (layout.airflow_home / "airflow.db").exists()


def pools_client(pool_status, post_status):
    seen = []

    def answer(request):
        seen.append((request.method, request.url.path))
        if request.method == "GET":
            return httpx.Response(pool_status)
        return httpx.Response(post_status)

    return httpx.Client(base_url="http://test", transport=httpx.MockTransport(answer)), seen


def test_a_missing_pool_is_created():
    client, seen = pools_client(404, 201)
    assert airflow_setup.create_pool(client, "gpu") is True
    assert seen == [("GET", "/api/v2/pools/gpu"), ("POST", "/api/v2/pools")]


def test_a_pool_that_a_person_changed_is_left_alone():
    client, seen = pools_client(200, 500)
    assert airflow_setup.create_pool(client, "gpu") is False
    assert seen == [("GET", "/api/v2/pools/gpu")]


def test_a_pool_that_another_start_created_meanwhile_is_fine():
    assert airflow_setup.create_pool(pools_client(404, 409)[0], "gpu") is False


def test_pools_without_an_api_server_say_where_to_look(free_port):
    with pytest.raises(ServiceUnavailable, match=r"Airflow must create the pools gpu \(got ConnectError"):
        airflow_setup.ensure_pools(free_port, username="admin", password="x")
