import pytest

from pipeline_tasks.adapters import http_health, local_ports
from pipeline_tasks.errors import ConfigError, ServiceUnavailable
from pipeline_tasks.stack.layout import StackLayout, source_root
from pipeline_tasks.stack.process_target import ProcessTarget
from pipeline_tasks.stack.supervisord import ProcessInfo


class Supervisor:
    """The calls of the target, and states that the test sets."""

    def __init__(self):
        self.calls, self.states = [], {}

    def reread(self):
        self.calls.append("reread")

    def add(self, name):
        self.calls.append(f"add {name}")
        self.states.setdefault(name, iter(()))

    def start(self, name):
        self.calls.append(f"start {name}")

    def remove(self, name):
        self.calls.append(f"remove {name}")
        self.states.pop(name, None)

    def processes(self):
        listed = {name: next(states, ("RUNNING", 1)) for name, states in self.states.items()}
        return {name: ProcessInfo(name, state, pid, 1.0, f"it is {state}") for name, (state, pid) in listed.items()}


@pytest.fixture
def layout(tmp_path):
    return StackLayout(home=tmp_path, root=source_root())


@pytest.fixture
def supervisor():
    return Supervisor()


@pytest.fixture
def target(layout, supervisor, monkeypatch):
    monkeypatch.setattr(local_ports, "port_is_free", lambda _port, **_: True)
    return ProcessTarget(layout.home, supervisor=supervisor, poll_seconds=0.001)


def start(target, deployment_id, **environment):
    return target.start(deployment_id=deployment_id, bento_tag="dethrone_a:r1", environment=environment)


def test_a_start_writes_a_private_file_and_hands_it_to_the_supervisor(target, layout, supervisor):
    handle = start(target, "d1", DETHRONE_PROJECT="fashion")
    path = layout.program_file("inference-d1")
    assert handle.address == "http://127.0.0.1:3000"
    assert path.stat().st_mode & 0o777 == 0o600
    text = path.read_text()
    assert "/bento_services/serve.py dethrone_a:r1 --host 127.0.0.1 --port 3000\n" in text
    assert 'DETHRONE_PROJECT="fashion"' in text
    assert f'BENTOML_HOME="{layout.bentoml_home}"' in text
    assert 'OMP_NUM_THREADS="1"' in text
    assert "autostart=true\n" in text
    assert "stopwaitsecs=40\n" in text
    assert supervisor.calls == ["reread", "add inference-d1", "start inference-d1"]


def test_every_server_is_told_what_the_installation_says(layout, supervisor, monkeypatch):
    monkeypatch.setattr(local_ports, "port_is_free", lambda _port, **_: True)
    told = {"DETHRONE_INFERENCE_KEY_SHA256": "a" * 64}
    target = ProcessTarget(layout.home, supervisor=supervisor, told=lambda: told, poll_seconds=0.001)
    start(target, "d1")
    target.remember(deployment_id="d2", bento_tag="dethrone_a:r2", port=3001, environment={})
    for name in ("inference-d1", "inference-d2"):
        assert f'DETHRONE_INFERENCE_KEY_SHA256="{"a" * 64}"' in layout.program_file(name).read_text()


def test_servers_of_a_worker_listen_on_its_own_address(layout, supervisor, monkeypatch):
    monkeypatch.setattr(local_ports, "port_is_free", lambda _port, *, host: host == "127.0.0.2")
    target = ProcessTarget(layout.home, host="127.0.0.2", supervisor=supervisor, poll_seconds=0.001)
    address = start(target, "d1").address
    assert (address, target.address("d1")) == ("http://127.0.0.2:3000",) * 2
    assert "--host 127.0.0.2 --port 3000\n" in layout.program_file("inference-d1").read_text()


def test_a_second_start_adopts_the_deployment_with_its_port(target, layout):
    first = start(target, "d1")
    before = layout.program_file("inference-d1").read_text()
    assert start(target, "d1") == first
    assert layout.program_file("inference-d1").read_text() == before


def test_deployments_get_ports_of_their_own(target):
    assert [start(target, name).address[-4:] for name in ("d1", "d2", "d3")] == ["3000", "3001", "3002"]
    assert target.address("d2") == "http://127.0.0.1:3001"


def test_a_stopped_deployment_is_removed_with_its_file_and_its_port_is_free_again(target, layout, supervisor):
    start(target, "d1")
    start(target, "d2")
    target.stop("d1")
    assert not layout.program_file("inference-d1").exists()
    assert target.list() == {"d2": "RUNNING"}
    assert supervisor.calls[-1] == "remove inference-d1"
    assert start(target, "d3").address == "http://127.0.0.1:3000"


def test_stopping_what_is_gone_is_no_error(target):
    target.stop("never-was")


def test_list_shows_deployments_only(target, supervisor):
    supervisor.states["gateway"] = iter(())
    start(target, "d1")
    assert target.list() == {"d1": "RUNNING"}


@pytest.mark.parametrize("name", ["", "../etc", "a b", "a\nb", "x" * 101, "-d", "a/b", "a]"])
def test_an_id_that_cannot_name_a_program_is_refused(target, name):
    with pytest.raises(ConfigError, match="deployment_id must be 1 to 100 letters, digits"):
        start(target, name)


def test_a_server_that_gave_up_is_told_at_once_with_its_log(target, layout, supervisor):
    start(target, "d1")
    layout.logs_dir.mkdir()
    layout.log_file("inference-d1").write_text("no such bento\n")
    supervisor.states["inference-d1"] = iter([("STARTING", 1), ("FATAL", None)])
    expected = r"deployment d1 must become ready \(got FATAL: it is FATAL\). Its last log lines:\nno such bento"
    with pytest.raises(ServiceUnavailable, match=expected) as raised:
        target.wait_ready("d1", timeout_seconds=60)
    assert raised.value.code == "DEPLOYMENT_NOT_READY"


def test_a_server_that_ends_again_and_again_is_not_waited_for(target, supervisor):
    start(target, "d1")
    supervisor.states["inference-d1"] = iter([("STARTING", pid) for pid in range(1, 9)])
    with pytest.raises(ServiceUnavailable, match=r"\(got 3 starts that ended by themselves\)"):
        target.wait_ready("d1", timeout_seconds=60)


def test_a_server_that_never_answers_is_given_up(target, monkeypatch):
    monkeypatch.setattr(
        http_health, "http_health", lambda *_, **__: http_health.Health(ok=False, detail="ConnectError")
    )
    start(target, "d1")
    with pytest.raises(ServiceUnavailable, match=r"\(got no answer in 0 s\)[\s\S]*\(no log yet\)"):
        target.wait_ready("d1", timeout_seconds=0.05)


def test_a_program_that_the_supervisor_lost_is_told(target, supervisor):
    start(target, "d1")
    supervisor.states.clear()
    with pytest.raises(ServiceUnavailable, match=r"\(got no such program\)"):
        target.wait_ready("d1", timeout_seconds=60)


def test_an_unknown_deployment_has_no_address(target):
    with pytest.raises(ConfigError, match=r"inference-none\.conf must name a port"):
        target.address("none")


def test_without_a_stack_the_message_says_what_to_run(tmp_path):
    target = ProcessTarget(tmp_path)
    with pytest.raises(ServiceUnavailable, match=r"the supervisor must answer on .* Run `dethrone up`"):
        target.list()
