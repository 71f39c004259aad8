"""Segments are uploaded to the store by a process of its own, and without one all the same."""

import io
import json
import os
import select
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow.parquet as pq
import pytest

from bento_services.gateway.prediction_log import uploader as uploader_module
from bento_services.gateway.prediction_log.records import to_bytes
from bento_services.gateway.prediction_log.uploader import NICENESS, Uploaded, Uploader, s3_put, upload
from tests.unit.gateway.prediction_log.log_case import record


class Bucket(BaseHTTPRequestHandler):
    """An S3 that takes what is put, or answers as it is told."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self):
        data = self.rfile.read(int(self.headers["Content-Length"]))
        status = self.server.answers.pop(0) if self.server.answers else 200
        self.server.keys.append(self.headers["Authorization"].partition("Credential=")[2].partition("/")[0])
        if status == 200:
            self.server.objects[self.path] = data
        self.send_response(status)
        self.send_header("ETag", '"0"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_): ...


@pytest.fixture
def store(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Bucket)
    server.objects, server.answers, server.keys = {}, [], []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("DETHRONE_S3_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("DETHRONE_S3_ACCESS_KEY", "a")
    monkeypatch.setenv("DETHRONE_S3_SECRET_KEY", "s")
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def uploader(tmp_path, store):
    uploader = Uploader(tmp_path)
    yield uploader
    uploader.close()


@pytest.fixture
def segment(tmp_path):
    path = tmp_path / "1 of\n2.sealed"
    path.write_bytes(b"".join(to_bytes(record(number)) for number in range(3)) + b"torn")
    return path


def ids(store):
    tables = [pq.read_table(io.BytesIO(data)).to_pylist() for data in store.objects.values()]
    return [row["prediction_id"] for table in tables for row in table]


def all_of(segment):
    """Return the result of an upload of the whole segment."""
    return Uploaded(
        num_records=3, num_parts=1, damage=f"it cannot be read behind byte {segment.stat().st_size - len(b'torn')}"
    )


def test_a_process_uploads_one_segment_after_the_other(uploader, segment, store):
    assert uploader.upload(segment) == all_of(segment)
    assert ids(store) == ["p0", "p1", "p2"]
    process = uploader._process
    assert process is not None
    assert uploader.upload(segment) == all_of(segment)
    assert uploader._process is process
    niceness = os.getpriority(os.PRIO_PROCESS, 0) + NICENESS
    assert os.getpriority(os.PRIO_PROCESS, process.pid) == min(niceness, 19)


def test_what_ends_the_gateway_does_not_end_it_before_the_last_segment(uploader, segment, store):
    uploader.upload(segment)
    process = uploader._process
    for number in (signal.SIGTERM, signal.SIGINT):
        process.send_signal(number)
    assert uploader.upload(segment) == all_of(segment)
    assert uploader._process is process


def test_it_ends_when_it_is_closed(uploader, segment):
    uploader.start()
    process = uploader._process
    uploader.close()
    assert process.returncode == 0
    uploader.close()


def test_what_somebody_else_has_uploaded_is_none_of_its_work(uploader, tmp_path):
    assert uploader.upload(tmp_path / "none.sealed") == Uploaded()


def test_what_cannot_be_read_says_so(uploader, tmp_path):
    failure = f"segment {tmp_path.name} cannot be read (Is a directory)"
    assert uploader.upload(tmp_path) == Uploaded(failure=failure)


def test_a_store_that_is_away_is_a_failure_and_the_process_goes_on(uploader, segment, store, monkeypatch):
    monkeypatch.setenv("DETHRONE_S3_ENDPOINT", "http://127.0.0.1:1")
    uploaded = uploader.upload(segment)
    assert uploaded.failure == "the store does not take it (EndpointConnectionError)"
    assert uploader._process.poll() is None


def test_a_segment_that_the_process_was_killed_over_waits_for_another(uploader, segment, store):
    uploader.start()
    first = uploader._process
    first.kill()
    first.wait()
    assert uploader.upload(segment) == Uploaded(failure=f"the process that uploads {segment.name} was killed")
    assert store.objects == {}  # what kills one process would kill the gateway
    assert uploader.upload(segment) == all_of(segment)
    assert uploader._process.pid != first.pid


def test_a_segment_that_the_process_hangs_over_waits_for_another(uploader, segment, monkeypatch):
    monkeypatch.setattr(uploader_module, "ANSWER_SECONDS", 0.3)
    monkeypatch.setattr(uploader_module, "END_SECONDS", 0.1)
    process = uploader._process = stand_in("import time; time.sleep(60)")
    failure = f"the process that uploads {segment.name} gives no answer within 0.3 s"
    assert uploader.upload(segment) == Uploaded(failure=failure)
    assert process.returncode == -signal.SIGKILL


def stand_in(program):
    command = [sys.executable, "-c", program]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_where_no_process_can_be_had_the_gateway_does_it_itself(uploader, segment, store, monkeypatch, caplog):
    def refused(*_, **__):
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(uploader_module.subprocess, "Popen", refused)
    uploader.start()
    assert uploader.upload(segment) == all_of(segment)
    assert ids(store) == ["p0", "p1", "p2"]
    assert "Resource temporarily unavailable" in caplog.text


PARENT = """
import sys, time
from pathlib import Path
from bento_services.gateway.prediction_log.uploader import Uploader
uploader = Uploader(Path(sys.argv[1]))
uploader.upload(Path(sys.argv[2]))
print(uploader._process.pid, flush=True)
time.sleep(60)
"""


def test_it_ends_with_a_gateway_that_is_killed(tmp_path, segment, store):
    command = [sys.executable, "-c", PARENT, str(tmp_path), str(segment)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        child = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
    end = select.poll()
    end.register(child, select.POLLIN)
    ended = end.poll(10_000)
    os.close(child)
    assert ended


def test_a_segment_that_cannot_be_packed_is_not_the_stores_fault(segment, monkeypatch):
    def broken(_):
        raise ValueError("no table")

    monkeypatch.setattr(uploader_module, "to_parts", broken)
    assert upload(segment, put=print).failure == f"segment {segment.name} cannot be packed (ValueError: no table)"


def test_a_store_that_is_not_set_up_says_what_to_do(segment, tmp_path, monkeypatch):
    monkeypatch.delenv("DETHRONE_S3_ENDPOINT", raising=False)
    put = s3_put(uploader_module.store_config_reader(tmp_path))
    assert upload(segment, put=put).failure.startswith("DETHRONE_S3_ENDPOINT must be set, or stack.json must hold")


def test_what_the_store_has_already_is_uploaded(uploader, segment, store):
    store.answers = [412]
    assert uploader.upload(segment) == all_of(segment)


def test_after_a_refusal_the_keys_are_read_again(segment, tmp_path, store):
    (tmp_path / "secrets").mkdir()
    secret = tmp_path / "secrets" / "s3_access_key"
    secret.write_text("old")
    environment = {"DETHRONE_S3_ENDPOINT": f"http://127.0.0.1:{store.server_port}", "DETHRONE_S3_SECRET_KEY": "s"}
    put = s3_put(uploader_module.store_config_reader(tmp_path, environment))
    store.answers = [403]
    assert upload(segment, put=put).failure == "the store does not take it (ClientError)"
    secret.write_text("new")
    assert upload(segment, put=put) == all_of(segment)
    assert store.keys == ["old", "new"]


@pytest.mark.parametrize("program", ["print(7)", "print('{\"unknown\": 1}')", "print('Loading...')", "1 / 0"])
def test_where_the_process_makes_no_sense_the_gateway_does_it_itself(uploader, segment, caplog, program):
    process = uploader._process = stand_in(program)
    process.wait()
    assert uploader.upload(segment) == all_of(segment)
    assert "the gateway does it itself" in caplog.text


def test_what_a_library_prints_is_no_answer(tmp_path, segment, store):
    chatty = f"""
import sys
from bento_services.gateway.prediction_log import uploader
real = uploader.upload
def upload(segment, *, put):
    print("Loading...")
    return real(segment, put=put)
uploader.upload = upload
sys.argv = ["uploader", {str(tmp_path)!r}]
uploader.main()
"""
    line = json.dumps(str(segment)) + "\n"
    done = subprocess.run([sys.executable, "-c", chatty], input=line, capture_output=True, text=True, check=True)
    assert Uploaded(**json.loads(done.stdout)) == all_of(segment)
    assert done.stderr == "Loading...\n"
