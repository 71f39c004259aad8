"""The stack as a container beside it sees it, tried on loopback."""

import argparse
import json
import socket
import sys

import pytest

from pipeline_tasks.cli import stack_commands
from pipeline_tasks.stack import doctor, outside_containers
from pipeline_tasks.stack.outside import OpenPort, PortAnswer


def listening(*ports):
    return [socket.create_server(("127.0.0.1", port)) for port in ports or (0,)]


def test_the_ports_that_take_a_connection_are_found_among_all(free_port):
    (server,) = listening()
    with server:
        port = server.getsockname()[1]
        assert outside_containers.open_ports("127.0.0.1", [port, free_port]) == [port]
        assert port in outside_containers.open_ports("127.0.0.1", range(port - outside_containers.BATCH - 7, port + 1))
    assert outside_containers.open_ports("127.0.0.1", [port]) == []


def test_an_address_that_says_not_even_no_is_left_after_the_first_ports(monkeypatch):
    tried = []
    monkeypatch.setattr(outside_containers, "_connect", lambda _ip, ports: tried.append(len(ports)) or ([], False))
    assert outside_containers.open_ports("192.0.2.1") == []
    assert tried == [outside_containers.BATCH]


def test_every_port_of_a_service_is_asked(monkeypatch):
    monkeypatch.setattr(outside_containers, "open_ports", lambda _ip: [1, 2])
    said = {1: PortAnswer("closed"), 2: PortAnswer("Redis")}
    monkeypatch.setattr(outside_containers, "ask", lambda listener: said[listener.port])
    assert outside_containers.findings({"redis": ("10.0.0.1",), "gone": ()}) == (
        2,
        ["redis on 10.0.0.1:2 speaks Redis with everybody"],
    )
    assert next(iter(outside_containers.seen({"redis": ("10.0.0.1",)}))) == (
        OpenPort("redis", "10.0.0.1", 1),
        PortAnswer("closed"),
    )


def test_names_without_an_address_are_left_out():
    assert outside_containers.addresses(("localhost", "no-such-service.invalid")) == {"localhost": ("127.0.0.1",)}


def test_it_tells_what_it_sees_as_json(monkeypatch, capsys):
    monkeypatch.setattr(
        outside_containers, "addresses", lambda names: {name: ("10.0.0.1",) for name in names if name == "mine"}
    )
    monkeypatch.setattr(outside_containers, "open_ports", lambda _ip: [3000])
    monkeypatch.setattr(outside_containers, "ask", lambda _: PortAnswer("HTTP", {"/": 404}))
    monkeypatch.setattr(sys, "argv", ["beside", "mine"])
    assert outside_containers.main() == 0
    port = {"program": "mine", "ip": "10.0.0.1", "port": 3000, "protocol": "HTTP", "statuses": {"/": 404}}
    assert json.loads(capsys.readouterr().out) == {"services": {"mine": ["10.0.0.1"]}, "ports": [port]}


def test_the_doctor_says_what_it_tried_and_what_it_does_not_see():
    check = doctor.check_from_beside(["postgres", "redis"], 2, [])
    assert check.ok
    tried, _, unseen = check.detail.partition("; not seen from here: ")
    assert tried == "2 ports of postgres, redis ask for a key"
    assert unseen.split(", ") == [name for name in outside_containers.SERVICES if name not in {"postgres", "redis"}]
    assert not doctor.check_from_beside(["redis"], 1, ["redis on 10.0.0.1:6379 speaks Redis with everybody"]).ok
    assert doctor.check_from_beside([], 0, []).detail.startswith("not tried: no service of docker-compose.yml")


def test_the_doctor_of_a_container_looks_at_what_a_container_has(tmp_path, monkeypatch):
    monkeypatch.setattr(outside_containers, "addresses", lambda _names: {"s3": ("10.0.0.1",)})
    monkeypatch.setattr(outside_containers, "findings", lambda _services: (10, []))
    monkeypatch.setattr(doctor, "_skew_seconds", lambda url: 0.0 if url == "http://s3:8333" else 60.0)
    checks = doctor.doctor_of_container(home=tmp_path, s3_endpoint="http://s3:8333")
    assert [check.name for check in checks] == ["python", "versions", "disk space", "memory", "from beside", "clock"]
    assert checks[-1].ok


@pytest.mark.parametrize("executor", ["", "CeleryExecutor"])
def test_dethrone_doctor_in_a_container_is_the_containers(tmp_path, monkeypatch, executor):
    environment = {f"DETHRONE_{name}_URL": "http://a" for name in ("LABEL_STUDIO", "AIRFLOW", "GATEWAY")}
    environment |= {"DETHRONE_HOME": str(tmp_path), "DETHRONE_S3_ENDPOINT": "http://s3:8333"}
    for name, value in {**environment, "DETHRONE_EXECUTOR": executor}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(doctor, "doctor_of_container", lambda **given: (doctor.Check("container", True, str(given)),))
    monkeypatch.setattr(doctor, "doctor", lambda home: (doctor.Check("machine", True, str(home)),))
    answer = stack_commands.doctor(argparse.Namespace(shell={}))
    given = {"home": tmp_path, "s3_endpoint": "http://s3:8333"}
    wanted = ("container", str(given)) if executor else ("machine", str(tmp_path))
    assert (answer.data[0]["name"], answer.data[0]["detail"]) == wanted
    assert answer.code == 0


def test_every_service_of_the_file_that_listens_is_looked_for():
    import yaml

    from pipeline_tasks.stack.layout import source_root

    services = yaml.safe_load((source_root() / "docker-compose.yml").read_text())["services"]
    assert set(outside_containers.SERVICES) == set(services) - {"migrate", "tools"}
