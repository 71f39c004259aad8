import sqlite3
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pipeline_tasks.errors import ServiceUnavailable
from pipeline_tasks.stack import label_studio_setup
from pipeline_tasks.stack.layout import StackLayout


@pytest.fixture
def layout(tmp_path):
    installed = StackLayout(home=tmp_path / "home", root=tmp_path / "root")
    installed.label_studio_dir.mkdir(parents=True)
    return installed


@pytest.fixture
def template(layout):
    layout.label_studio_template.parent.mkdir(parents=True)
    make_database(layout.label_studio_template, num_projects=0)
    return layout.label_studio_template


def make_database(path, *, num_projects):
    connection = sqlite3.connect(path)
    connection.execute("create table project (id integer)")
    connection.executemany("insert into project values (?)", [(n,) for n in range(num_projects)])
    connection.commit()
    connection.close()


def database(layout):
    return layout.label_studio_dir / "label_studio.sqlite3"


def test_a_first_start_gets_the_migrated_database_for_its_owner_only(layout, template):
    assert label_studio_setup.prepare_database(layout) is True
    assert database(layout).read_bytes() == template.read_bytes()
    assert database(layout).stat().st_mode & 0o777 == 0o600
    assert [path.name for path in layout.label_studio_dir.iterdir()] == ["label_studio.sqlite3"]


def test_without_a_template_label_studio_migrates_by_itself(layout):
    assert label_studio_setup.prepare_database(layout) is False
    assert not database(layout).exists()


@pytest.mark.parametrize("content", [b"", b"not a database", None])
def test_what_a_cut_first_start_left_is_thrown_away(layout, template, content):
    if content is None:
        make_database(database(layout), num_projects=0)
    else:
        database(layout).write_bytes(content)
    (layout.label_studio_dir / "label_studio.sqlite3-journal").touch()
    assert label_studio_setup.prepare_database(layout) is True
    assert not (layout.label_studio_dir / "label_studio.sqlite3-journal").exists()


def test_a_database_with_a_project_is_never_touched(layout, template):
    make_database(database(layout), num_projects=1)
    before = database(layout).read_bytes()
    assert label_studio_setup.prepare_database(layout) is False
    assert database(layout).read_bytes() == before


def test_a_database_whose_first_start_ended_well_is_never_touched(layout, template):
    make_database(database(layout), num_projects=0)
    before = database(layout).read_bytes()
    layout.label_studio_stamp.touch()
    assert label_studio_setup.prepare_database(layout) is False
    assert database(layout).read_bytes() == before


@pytest.fixture
def server():
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.headers["Authorization"] == "Token good" else 401)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    http_server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http_server.serve_forever, daemon=True).start()
    yield http_server.server_port
    http_server.shutdown()
    http_server.server_close()


def test_a_token_that_is_let_in_ends_the_first_start(layout, server):
    label_studio_setup.confirm_token(layout, port=server, token="good")
    assert layout.label_studio_stamp.exists()
    label_studio_setup.confirm_token(layout, port=server, token="good")


def test_a_refused_token_does_not_and_is_not_shown(layout, server):
    expected = r"Label Studio must let the token of this installation in \(got HTTPStatusError at "
    with pytest.raises(ServiceUnavailable, match=expected) as raised:
        label_studio_setup.confirm_token(layout, port=server, token="c0ffee")
    assert "c0ffee" not in str(raised.value)
    assert not layout.label_studio_stamp.exists()
