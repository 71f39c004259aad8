"""Machines as people have them: proxies in the shell, odd paths, a POSIX locale."""

import errno
import json
import os
import shlex
import socketserver
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest
from botocore.exceptions import ClientError

from bento_services.gateway.prediction_log import uploader
from bento_services.gateway.prediction_log.store_config import StoreConfig
from pipeline_tasks.adapters.s3 import S3ObjectStore
from pipeline_tasks.catalog import migrate
from pipeline_tasks.cli import main
from pipeline_tasks.core import proxies, settings
from pipeline_tasks.core.atomic_files import replace_file
from pipeline_tasks.errors import ConfigError
from pipeline_tasks.guards.endpoint import proxies_to
from pipeline_tasks.ingest.sources.opening import S3Access
from pipeline_tasks.ingest.sources.s3 import S3Objects
from pipeline_tasks.project.source_schema import S3Source
from pipeline_tasks.stack import bring_up, doctor, programs, supervisor_conf
from pipeline_tasks.stack.layout import StackLayout, check_paths
from tests.reported.commands_case import variables
from tests.reported.test_commands import WORDS

ROOT = Path(__file__).resolve().parents[2]
SOCKS = {"ALL_PROXY": "socks5://127.0.0.1:1080", "all_proxy": "socks5h://127.0.0.1:1080"}
ODD_PATHS = ["a b", "50%", "100%s", "it's", "naïve 日本", "a;b#c", "-x", "a&b", "(1)"]


class _Refuse(socketserver.BaseRequestHandler):
    def handle(self):
        self.server.asked.append(self.request.recv(1000).split(b"\r\n")[0])
        self.request.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


class _Answer(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.recv(1000)
        self.request.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


def serving(handler):
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.asked = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def address(server) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}"


@pytest.fixture
def proxy(monkeypatch):
    """A proxy that answers 502 and counts, set in the shell in every spelling, as is SOCKS."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    server = serving(_Refuse)
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, address(server))
    for name, value in SOCKS.items():
        monkeypatch.setenv(name, value)
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("environment", "listed"),
    [
        ({}, "127.0.0.1,localhost,::1"),
        ({"NO_PROXY": "a.example"}, "a.example,127.0.0.1,localhost,::1"),
        ({"no_proxy": "b.example", "NO_PROXY": "a.example, localhost"}, "a.example,localhost,b.example,127.0.0.1,::1"),
        ({"no_proxy": "*"}, "*"),
    ],
)
def test_f4_loopback_joins_no_proxy_in_both_spellings(environment, listed):
    own = proxies.without_own_services({**environment, "HTTP_PROXY": "http://proxy:3128"})
    assert own == {"HTTP_PROXY": "http://proxy:3128", "NO_PROXY": listed, "no_proxy": listed}


@pytest.mark.parametrize(
    ("value", "used"),
    [
        ("http://proxy:3128", True),
        ("https://u:p@proxy", True),
        ("proxy:3128", True),
        ("", True),
        ("socks5://proxy:1080", False),
        ("socks5h://proxy:1080", False),
        ("socks4://proxy", False),
        ("ftp://proxy", False),
        ("http://[proxy", False),
    ],
)
@pytest.mark.parametrize("name", ["HTTP_PROXY", "https_proxy", "ALL_PROXY"])
def test_f3_a_proxy_that_no_library_here_speaks_is_left_out(name, value, used):
    """With SOCKS in ALL_PROXY every part was ready and no Airflow task ever started."""
    assert (name in proxies.without_own_services({name: value})) is used


def test_f3_what_the_stack_inherits_builds_an_http_client(monkeypatch, tmp_path):
    """The client of Airflow's tasks follows the environment, and refuses a proxy that it cannot speak."""
    layout = StackLayout(home=tmp_path, root=ROOT)
    inherited = programs.base_environment(SOCKS, layout=layout, projects_dir=tmp_path, bin_dir=tmp_path)
    for name, value in SOCKS.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ImportError, match="socksio"):
        httpx.Client()
    for name in SOCKS:
        assert name not in inherited
        monkeypatch.delenv(name)
    httpx.Client().close()


def test_f4_the_own_s3_is_reached_directly(proxy, monkeypatch):
    """`ingest` and `report` asked the shell's proxy for the S3 on loopback."""
    own = serving(_Answer)
    monkeypatch.setattr("sys.argv", ["dethrone"])
    assert main.main(["project", "schema"]) == 0
    store = S3ObjectStore(endpoint=address(own), bucket="b", access_key="k", secret_key="s", region="us-east-1")
    assert store.exists("x") is False
    assert proxy.asked == []
    own.shutdown()
    own.server_close()


OWN = [
    "http://127.0.0.1:8333", "http://127.8.8.8:8333", "http://[::1]:8333", "http://localhost:8333", "http://10.0.0.5:9000",
    "http://192.168.1.20", "http://198.18.0.1:8333", "http://s3:8333", "http://s3.localhost", "http://minio.data.svc:9000",
    "http://minio.data.svc.cluster.local", "http://nas.local", "http://s3.dethrone.internal.:8333",
]  # fmt: skip
OUTSIDE = [
    "",
    "https://s3.eu-central-1.amazonaws.com",
    "https://s3.example.com:9000",
    "http://8.8.8.8",
    "http://[2600::1]",
]


@pytest.mark.parametrize("url", OWN)
def test_f4_a_service_of_this_machine_or_network_has_no_proxy(url):
    assert proxies_to(url) == {}


@pytest.mark.parametrize("url", OUTSIDE)
def test_f4_a_service_outside_may_have_the_shells_proxy(url):
    assert proxies_to(url) is None


def _own_store(url):
    return S3ObjectStore(endpoint=url, bucket="b", access_key="k", secret_key="s", region="us-east-1")._client


def _source(url):
    return S3Objects(
        source=S3Source(type="s3", bucket="b"), access=S3Access(url, "k", "s"), setting="sources[0]"
    )._client


def _log_shipper(url):
    return uploader._s3_client(StoreConfig(url, bucket="b", region="us-east-1", access_key="k", secret_key="s"))


@pytest.mark.parametrize("make", [_own_store, _source, _log_shipper])
def test_f4_each_s3_client_of_ours_decides_by_the_address(proxy, make):
    """Without NO_PROXY, as a program has it that no `dethrone up` started: the address alone decides."""
    own = serving(_Answer)
    with pytest.raises(ClientError, match="404"):
        make(address(own)).head_object(Bucket="b", Key="x")
    assert proxy.asked == []
    with pytest.raises(ClientError, match="502"):
        make("http://s3.example.com").head_object(Bucket="b", Key="x")
    assert set(proxy.asked) == {b"HEAD http://s3.example.com/b/x HTTP/1.1"}
    own.shutdown()
    own.server_close()


def test_f4_doctor_says_what_it_saw_and_no_password():
    finding = doctor.check_proxies({"HTTP_PROXY": "http://me:hunter2@proxy:3128", **SOCKS})
    assert finding.ok
    used, dropped = finding.detail.split("; ")
    assert used == "HTTP_PROXY: for outside services only"
    assert dropped == "ALL_PROXY, all_proxy: not used, the stack speaks HTTP proxies and no SOCKS"
    assert doctor.check_proxies({}).detail == "none"


@pytest.mark.parametrize("name", ODD_PATHS)
def test_f5_the_supervisor_reads_what_stands_below_an_odd_path(tmp_path, name):
    """A blank in the state folder's path ended `up` with a misleading message."""
    from supervisor.options import ServerOptions

    layout = StackLayout(home=tmp_path / name, root=ROOT)
    check_paths(layout)
    for folder in (layout.programs_dir, layout.logs_dir, layout.runtime_dir, layout.airflow_home):
        folder.mkdir(parents=True)
    layout.supervisor_conf.write_text(supervisor_conf.render_supervisord(layout, user=None))
    secrets = {f"s3_jwt_{part}_{right}": "x" for part in ("volume", "filer") for right in ("write", "read")}
    for folder in (layout.s3_dir, layout.label_studio_dir):
        folder.mkdir()
    wanted = programs.s3_program(layout, ports=_Ports(), secrets=secrets, weed=tmp_path / name / "weed")
    layout.program_file("s3").write_text(supervisor_conf.render_program(wanted))
    options = ServerOptions()
    options.realize(["-c", str(layout.supervisor_conf)])
    (group,) = options.process_group_configs
    (process,) = group.process_configs
    assert tuple(shlex.split(process.command)) == wanted.command
    assert (process.directory, process.stdout_logfile) == (str(layout.s3_dir), str(layout.log_file("s3")))


class _Ports(dict):
    def __missing__(self, key):
        return 1


@pytest.mark.parametrize("name", ["a,b", "$HOME", "what?", "a*b", "[x]"])
def test_f5_a_path_that_a_part_cannot_read_is_refused_before_anything(tmp_path, monkeypatch, name, capsys):
    home = tmp_path / name / "state"
    monkeypatch.setenv("DETHRONE_HOME", str(home))
    assert main.main(["up"]) == 2
    assert "DETHRONE_HOME must have no " in capsys.readouterr().err
    assert not home.exists()


def test_f5_a_checkout_below_a_dollar_sign_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="the checkout's path must have no"):
        check_paths(StackLayout(home=tmp_path, root=tmp_path / "$x"))


SMALL = {"status": 1, "project": 0, "history": 0, "keys": 0, "quarantine": 0, "init": 0}


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """An installation with texts of another script, below a path of that script."""
    folder = tmp_path_factory.mktemp("machine") / "état 日本"
    home, projects = folder / "home", folder / "projects"
    home.mkdir(parents=True)
    migrate.upgrade(f"sqlite:///{home / 'catalog.db'}")
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C", **variables(home, projects)}
    shell(environment, "init", "pet_photos", code=0)
    file = projects / "pet_photos" / "project.yaml"
    file.write_text(file.read_text(encoding="utf-8").replace("owner: ml", "owner: 山田"), encoding="utf-8")
    return environment


def shell(environment, *words, code):
    done = subprocess.run(
        [sys.executable, "-m", "pipeline_tasks.cli.main", *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=120,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.mark.parametrize("json_flag", [[], ["--json"]], ids=["text", "json"])
@pytest.mark.parametrize("name", SMALL)
def test_a_posix_locale_without_a_home_prints_other_scripts(foreign, name, json_flag):
    """No LANG, no HOME, no USER: what a service manager or a container gives a process."""
    words = [f"second_{len(json_flag)}"] if name == "init" else WORDS[name]
    out = shell(foreign, name, *words, *json_flag, code=SMALL[name])
    if json_flag:
        assert isinstance(json.loads(out), dict)


@pytest.mark.parametrize("name", ["up", "init", "status", "doctor"])
def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch, capsys, name):
    """A read-only home, a file in its place: one sentence with the path, no traceback."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DETHRONE_HOME", str(tmp_path / "file" / "state"))
    monkeypatch.setenv("DETHRONE_PROJECTS", str(tmp_path / "file" / "projects"))
    code = main.main([name, *WORDS[name]])
    assert code == 1
    if name in {"up", "init"}:
        assert f"{tmp_path / 'file'}" in capsys.readouterr().err


def test_a_user_that_the_machine_has_no_name_for_gives_commands(monkeypatch):
    monkeypatch.setattr("getpass.getuser", lambda: {}["no such uid"])
    assert settings.user_name() == f"uid {os.getuid()}"


@pytest.mark.parametrize("error", ["ENOSPC", "EDQUOT", "EROFS"])
def test_a_file_that_cannot_be_written_stays_as_it_was_and_is_named(tmp_path, monkeypatch, error):
    """A full disk left an empty `installed_at`, with which no DAG loaded, and half a project.yaml."""
    path = tmp_path / "project.yaml"
    path.write_text("before")

    def fail(_descriptor):
        raise OSError(getattr(errno, error), "no")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fail)
        with pytest.raises(OSError, match="no") as caught:
            replace_file(path, b"after")
    assert (caught.value.errno, caught.value.filename) == (getattr(errno, error), str(path))
    assert [file.read_text() for file in tmp_path.iterdir()] == ["before"]
    path.chmod(0o640)
    replace_file(path, b"after")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("after", 0o640)


@pytest.mark.parametrize(
    ("error", "code", "advice"),
    [
        ("ENOSPC", "DISK_FULL", "Free space on its disk, then give the same command again."),
        ("EROFS", "FILE_ACCESS", "Mount its disk for writing, or set DETHRONE_HOME to another folder."),
        ("ENAMETOOLONG", "FILE_ACCESS", "Use a shorter path."),
        ("EACCES", "FILE_ACCESS", "Check its owner and mode, or name another place (DETHRONE_HOME is one)."),
    ],
)
def test_a_place_that_cannot_be_written_is_named_with_what_to_do(monkeypatch, capsys, error, code, advice):
    def fail(*_arguments, **_options):
        raise OSError(getattr(errno, error), "so", "/from", None, "/to")

    monkeypatch.setattr("pipeline_tasks.project.scaffold.init_project", fail)
    assert main.main(["init", "pet_photos"]) == 1
    said = capsys.readouterr().err
    assert f"error [{code}]: /to must be usable by {settings.user_name()} (got so). {advice}" in said


def test_an_empty_note_of_the_first_start_is_written_again(tmp_path, monkeypatch):
    monkeypatch.setenv("DETHRONE_HOME", str(tmp_path))
    note = tmp_path / settings.INSTALLED_AT
    note.touch()
    assert settings.installed_at() is None
    bring_up._remember_start(tmp_path)
    first = settings.installed_at()
    assert first is not None
    bring_up._remember_start(tmp_path)
    assert settings.installed_at() == first


def test_sockets_find_a_short_folder_or_the_user_is_told(tmp_path, monkeypatch):
    """A unix socket's path may have 107 bytes; the supervisor and S3 have theirs below the home, or in TMPDIR."""
    layout = StackLayout(home=tmp_path / ("x" * 200), root=ROOT)
    monkeypatch.setattr("tempfile.tempdir", "/tmp")
    check_paths(layout)
    assert layout.runtime_dir.parent == Path("/tmp")
    monkeypatch.setattr("tempfile.tempdir", f"/tmp/{'y' * 90}")
    with pytest.raises(ConfigError, match=r"temporary files must have a shorter path .* Set TMPDIR=/tmp"):
        check_paths(layout)
    check_paths(StackLayout(home=Path("/srv/short"), root=ROOT))
