import json
import socket

import pytest

from pipeline_tasks.adapters import local_ports
from pipeline_tasks.core.settings import load_settings
from pipeline_tasks.errors import ConfigError
from pipeline_tasks.stack import addresses
from pipeline_tasks.stack.secrets import ensure_secrets


def all_free(port):
    return True


def none_free(port):
    return False


def test_the_first_start_gets_the_usual_ports():
    choice = addresses.choose_ports({}, held=[], is_free=all_free)
    assert choice.ports == addresses.DEFAULT_PORTS
    assert choice.moved == {}


def test_a_taken_port_moves_to_the_next_one_that_no_other_part_wants():
    choice = addresses.choose_ports({}, held=[], is_free=lambda port: port != 8080)
    assert choice.ports["airflow"] == 8082  # 8081 is Label Studio's
    assert choice.moved == {"airflow": (8080, 8082)}


def test_a_remembered_port_is_kept_while_it_is_free():
    choice = addresses.choose_ports({"airflow": 8090}, held=[], is_free=all_free)
    assert choice.ports["airflow"] == 8090
    assert choice.moved == {}


def test_a_port_that_our_own_running_part_holds_is_kept_though_it_is_busy():
    choice = addresses.choose_ports({"airflow": 8090}, held=["airflow"], is_free=lambda port: port != 8090)
    assert choice.ports["airflow"] == 8090
    assert choice.moved == {}


def test_no_two_parts_share_a_port():
    taken = {8080, 8081, 8082, 8000, 8333}
    ports = addresses.choose_ports({}, held=[], is_free=lambda port: port not in taken).ports
    assert len(set(ports.values())) == len(addresses.DEFAULT_PORTS)
    assert not taken & set(ports.values())


def test_a_new_part_does_not_get_the_port_that_a_running_one_holds():
    ports = addresses.choose_ports(
        {"label_studio": 8080}, held=["label_studio"], is_free=lambda port: port != 8080
    ).ports
    assert ports["label_studio"] == 8080
    assert ports["airflow"] == 8082


def test_the_maintenance_port_needs_the_one_ten_thousand_above_it():
    ports = addresses.choose_ports({}, held=[], is_free=lambda port: port != 23646).ports
    assert ports["s3_admin"] == 13647


def test_no_free_port_is_an_error_that_names_the_range():
    with pytest.raises(ConfigError, match=r"port must be a free one from 32760 to 32767 \(got none\)"):
        local_ports.next_free_port(32760, avoid=[], is_free=none_free)


def test_port_is_free_sees_a_listener():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        assert not local_ports.port_is_free(port)
    assert local_ports.port_is_free(port)


def test_port_is_free_sees_a_listener_on_all_interfaces():
    with socket.socket() as server:
        server.bind(("0.0.0.0", 0))
        server.listen()
        assert not local_ports.port_is_free(server.getsockname()[1])


def test_port_is_free_looks_at_the_address_that_is_asked_for():
    with socket.socket() as server:
        server.bind(("127.0.0.2", 0))
        server.listen()
        port = server.getsockname()[1]
        assert not local_ports.port_is_free(port, host="127.0.0.2")
        assert local_ports.port_is_free(port)


def test_the_stack_file_is_private_and_read_back(tmp_path):
    path = tmp_path / "stack.json"
    document = addresses.stack_document(addresses.DEFAULT_PORTS, projects_dir=tmp_path / "projects", home=tmp_path)
    addresses.write_stack(path, document)
    assert path.stat().st_mode & 0o777 == 0o600
    assert addresses.read_stack(path) == {
        "schema": 1,
        "home": str(tmp_path),
        "projects_dir": str(tmp_path / "projects"),
        "s3_endpoint": "http://127.0.0.1:8333",
        "label_studio_url": "http://127.0.0.1:8081",
        "airflow_url": "http://127.0.0.1:8080",
        "gateway_url": "http://127.0.0.1:8000",
        "ports": dict(addresses.DEFAULT_PORTS),
    }


def test_no_stack_file_means_nothing_remembered(tmp_path):
    assert addresses.read_stack(tmp_path / "stack.json") == {}


def test_a_broken_stack_file_is_refused_with_what_to_do(tmp_path):
    (tmp_path / "stack.json").write_text("{")
    with pytest.raises(ConfigError, match=r"stack.json must be JSON \(got something else\). Delete it"):
        addresses.read_stack(tmp_path / "stack.json")


@pytest.fixture
def started(tmp_path):
    """A home after its first start, and its secrets."""
    secrets = ensure_secrets(tmp_path / "secrets")
    document = addresses.stack_document(addresses.DEFAULT_PORTS, projects_dir=tmp_path / "projects", home=tmp_path)
    (tmp_path / "stack.json").write_text(json.dumps(document))
    return secrets


def test_the_settings_read_what_the_stack_writes(tmp_path, started):
    settings = load_settings({"DETHRONE_HOME": str(tmp_path)})
    assert settings.s3_endpoint == "http://127.0.0.1:8333"
    assert settings.projects_dir == tmp_path / "projects"
    assert settings.label_studio_token == started["label_studio_token"]
    assert settings.serving_host == "127.0.0.1"


def test_servers_of_a_worker_may_have_its_own_address(tmp_path, started):
    environment = {"DETHRONE_HOME": str(tmp_path), "DETHRONE_SERVING_HOST": "10.0.0.7"}
    assert load_settings(environment).serving_host == "10.0.0.7"


@pytest.mark.parametrize("host", ["0.0.0.0", "worker-1", "::1", "10.0.0.7:3000"])
def test_where_nobody_can_be_reached_is_no_address_of_servers(tmp_path, started, host):
    with pytest.raises(ConfigError, match=rf"DETHRONE_SERVING_HOST must be an IPv4 address .*\(got {host}\)"):
        load_settings({"DETHRONE_HOME": str(tmp_path), "DETHRONE_SERVING_HOST": host})


def test_a_process_without_a_secret_runs_until_it_wants_it(tmp_path):
    addresses_of = {f"DETHRONE_{name}_URL": "http://a" for name in ("LABEL_STUDIO", "AIRFLOW", "GATEWAY")}
    environment = {**addresses_of, "DETHRONE_HOME": str(tmp_path), "DETHRONE_S3_ENDPOINT": "http://s3"}
    (tmp_path / "split").write_text("key\n")
    settings = load_settings({**environment, "DETHRONE_SPLIT_KEY_FILE": str(tmp_path / "split")})
    assert settings.split_key == "key"
    with pytest.raises(ConfigError, match=r"DETHRONE_WEBHOOK_SECRET must be set, or the file .*/webhook_secret must"):
        _ = settings.webhook_secret
    assert load_settings({**environment, "DETHRONE_WEBHOOK_SECRET": "word"}).webhook_secret == "word"


@pytest.mark.parametrize(
    ("given", "files", "wanted"),
    [
        ({}, True, ("file label_studio_s3", "file label_studio_s3")),
        ({}, False, ("file s3", "file s3")),  # of a home that no `up` of this version has seen
        ({"DETHRONE_S3_ACCESS_KEY": "a", "DETHRONE_S3_SECRET_KEY": "b"}, True, ("a", "b")),  # another store than ours
        (
            {
                "DETHRONE_S3_ACCESS_KEY": "a",
                "DETHRONE_LABEL_STUDIO_S3_ACCESS_KEY": "c",
                "DETHRONE_LABEL_STUDIO_S3_SECRET_KEY": "d",
            },
            False,
            ("c", "d"),
        ),
    ],
    ids=["own", "older", "another store", "another store with a user for it"],
)
def test_label_studio_gets_the_key_that_reads_items_where_the_store_has_one(tmp_path, given, files, wanted):
    addresses_of = {f"DETHRONE_{name}_URL": "http://a" for name in ("LABEL_STUDIO", "AIRFLOW", "GATEWAY")}
    (tmp_path / "secrets").mkdir()
    for user in ("s3", "label_studio_s3") if files else ("s3",):
        for kind in ("access", "secret"):
            (tmp_path / "secrets" / f"{user}_{kind}_key").write_text(f"file {user}\n")
    environment = {**addresses_of, "DETHRONE_HOME": str(tmp_path), "DETHRONE_S3_ENDPOINT": "http://s3", **given}
    assert load_settings(environment).label_studio_s3_keys == wanted
