import shlex
from pathlib import Path

import pytest

from pipeline_tasks.errors import ConfigError
from pipeline_tasks.stack import supervisor_conf
from pipeline_tasks.stack.layout import StackLayout
from pipeline_tasks.stack.supervisor_conf import Program


def program(**changes):
    values = {
        "name": "one",
        "command": ("/bin/serve", "--port", "3001"),
        "environment": {},
        "directory": Path("/home/me"),
        "log_file": Path("/home/me/logs/one.log"),
    }
    return Program(**(values | changes))


def read_by_supervisor(tmp_path, *programs):
    """Return name -> config as the supervisor itself parses our files."""
    from supervisor.options import ServerOptions

    layout = StackLayout(home=tmp_path, root=tmp_path)
    layout.programs_dir.mkdir(parents=True)
    layout.logs_dir.mkdir()
    layout.supervisor_conf.write_text(supervisor_conf.render_supervisord(layout, user=None))
    for listed in programs:
        (layout.programs_dir / f"{listed.name}.conf").write_text(supervisor_conf.render_program(listed))
    options = ServerOptions()
    options.realize(["-c", str(layout.supervisor_conf)])
    return {group.name: group.process_configs[0] for group in options.process_group_configs}


def test_the_supervisor_reads_what_was_written(tmp_path):
    environment = {"PLAIN": "abc", "JSON": '{"a": 1}', "SPACED": "two words, and=more", "PERCENT": "100%", "EMPTY": ""}
    folder = tmp_path / "a b 50%"
    folder.mkdir()
    processes = read_by_supervisor(
        tmp_path,
        program(
            command=(str(folder / "serve"), "--name", "it's 100%"),
            environment=environment,
            directory=folder,
            log_file=tmp_path / "logs" / "one.log",
            stop_wait_seconds=40,
            autostart=True,
        ),
    )["one"]
    assert processes.environment == environment
    assert processes.directory == str(folder)
    assert processes.stopwaitsecs == 40
    assert processes.stopasgroup is True
    assert processes.killasgroup is True
    assert processes.autostart is True
    assert processes.redirect_stderr is True
    assert shlex.split(processes.command) == [str(folder / "serve"), "--name", "it's 100%"]


@pytest.mark.parametrize("value", ["two\nlines", "a ;comment", "a #comment", "both ' and \"", '"quoted"'])
def test_a_value_that_the_format_cannot_hold_is_refused_without_showing_it(value):
    with pytest.raises(
        ConfigError, match=r"KEY must have no line break, .* \(got a value of \d+ characters\)"
    ) as raised:
        supervisor_conf.render_program(program(environment={"KEY": value}))
    assert value not in str(raised.value)


def test_a_path_that_the_format_cannot_hold_is_refused():
    with pytest.raises(ConfigError, match=r"directory must have no line break and no ` ;` or ` #` \(got '/a #b'\)"):
        supervisor_conf.render_program(program(directory=Path("/a #b")))


def test_the_environment_stays_out_of_repr():
    assert "hunter2" not in repr(program(environment={"PASSWORD": "hunter2"}))


def test_read_port_finds_the_port_of_a_written_program(tmp_path):
    path = tmp_path / "one.conf"
    path.write_text(supervisor_conf.render_program(program()))
    assert supervisor_conf.read_port(path) == 3001


@pytest.mark.parametrize("command", [("/bin/serve",), ("/bin/serve", "--port"), ("/bin/serve", "--port", "x")])
def test_a_program_without_a_port_is_refused(tmp_path, command):
    path = tmp_path / "one.conf"
    path.write_text(supervisor_conf.render_program(program(command=command)))
    with pytest.raises(ConfigError, match="must name a port after --port"):
        supervisor_conf.read_port(path)


def test_a_missing_program_has_no_port(tmp_path):
    with pytest.raises(ConfigError, match=r"must name a port after --port \(got ''\)"):
        supervisor_conf.read_port(tmp_path / "none.conf")


def test_a_supervisor_started_by_root_keeps_the_account_that_it_is_told():
    layout = StackLayout(home=Path("/h"), root=Path("/r"))
    assert "user=root\n" in supervisor_conf.render_supervisord(layout, user="root")
    assert "user=" not in supervisor_conf.render_supervisord(layout, user=None)


def test_the_socket_is_for_the_owner_only_and_there_is_no_port():
    text = supervisor_conf.render_supervisord(StackLayout(home=Path("/h"), root=Path("/r")), user=None)
    assert "file=/h/supervisor/run/supervisor.sock\nchmod=0700\n" in text
    assert "inet_http_server" not in text
    assert "umask=077\n" in text
