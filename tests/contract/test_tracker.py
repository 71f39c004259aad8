"""One suite for every tracker, then what is special of W&B: offline, online, and a server that is away.

The real wandb library runs, against no server or against a small stand-in on this machine.
"""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import socket
import time
from pathlib import Path

import pytest

from pipeline_tasks.adapters.wandb_tracker import WandbTracker, worker_environment
from pipeline_tasks.errors import ConfigError
from tests import wandb_server
from tests.fakes_tracking import FakeTracker

RUN = {"project": "pets", "group": "run-1", "job_type": "train", "config": {"width": 2}}
KEY = "0123456789" * 4


@pytest.fixture
def make(tmp_path):
    """Make trackers that are closed at the end; a loaded machine needs patience."""
    made = []

    def make_tracker(mode: str, **options) -> WandbTracker:
        arguments = {"environment": {"PATH": os.defpath}, "finish_seconds": 90.0} | options
        made.append(WandbTracker(directory=tmp_path / "wandb", mode=mode, **arguments))
        return made[-1]

    yield make_tracker
    for tracker in made:
        tracker.close()


@pytest.fixture(params=["fake", "disabled", pytest.param("offline", marks=pytest.mark.integration)])
def tracker(request, make):
    return FakeTracker() if request.param == "fake" else make(request.param)


def test_a_run_takes_values_and_says_where_it_is(tracker):
    run = tracker.start(run_id="pets-1", **RUN)
    for step in range(3):
        run.log({"train/loss": 1.0 / (step + 1)}, step=step)
    run.summary({"accuracy": 0.5, "per_class": {"cat": {"recall": 1.0}}})
    run.finish()
    reference = run.reference()
    assert reference["run_id"] == "pets-1"
    assert all(isinstance(value, str) for value in reference.values())
    assert json.loads(json.dumps(reference)) == reference


def test_nothing_raises_whatever_is_logged(tracker):
    run = tracker.start(run_id="pets-1", **RUN)
    run.log({"bad": math.nan, "worse": math.inf}, step=0)
    run.log({"late": 1.0}, step=5)
    run.log({"early": 1.0}, step=1)
    run.finish(exit_code=1)
    run.log({"after": 1.0}, step=9)
    run.finish()


def test_two_runs_one_after_the_other(tracker):
    for number in (1, 2):
        run = tracker.start(run_id=f"pets-{number}", **RUN)
        run.log({"loss": 1.0}, step=0)
        run.finish()
        assert run.reference()["run_id"] == f"pets-{number}"


def lines(tmp_path: Path, run_id: str) -> list[dict]:
    return [json.loads(line) for line in (tmp_path / "wandb" / "metrics" / f"{run_id}.jsonl").read_text().splitlines()]


def test_the_metrics_file_is_whole_and_valid_json(make, tmp_path):
    run = make("disabled").start(run_id="pets-1", **RUN)
    run.log({"loss": 1.0, "bad": math.nan}, step=3)
    run.summary({"accuracy": 0.5})
    run.finish(exit_code=1)
    assert lines(tmp_path, "pets-1") == [
        {"config": {"width": 2}, "group": "run-1", "job_type": "train"},
        {"step": 3, "values": {"loss": 1.0, "bad": None}},
        {"summary": {"accuracy": 0.5}},
        {"exit_code": 1},
    ]
    assert run.reference()["mode"] == "metrics"


def test_a_full_disk_costs_the_lines_not_the_training(make, tmp_path, caplog):
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "metrics").write_text("a file where the folder should be")
    run = make("disabled").start(run_id="pets-1", **RUN)
    run.log({"loss": 1.0}, step=0)
    run.finish()
    assert len([message for message in caplog.messages if "metrics cannot be written" in message]) == 1


def test_an_unknown_mode_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"WANDB_MODE must be one of online, offline, disabled \(got 'on'\)"):
        WandbTracker(directory=tmp_path, mode="on")


def test_the_library_gets_none_of_our_secrets(tmp_path):
    base = {
        "PATH": "/bin",
        "DETHRONE_S3_SECRET_KEY": "s",
        "WANDB_ENTITY": "team",
        "WANDB_MODE": "online",
        "HOME": "/root",
    }
    environment = worker_environment(base, directory=tmp_path, api_key="k", base_url="http://w")
    assert "DETHRONE_S3_SECRET_KEY" not in environment
    assert "WANDB_MODE" not in environment
    assert environment["HOME"] == str(tmp_path)
    assert (environment["WANDB_ENTITY"], environment["WANDB_API_KEY"]) == ("team", "k")
    assert environment["WANDB_BASE_URL"] == "http://w"
    paths = [environment[f"WANDB_{name}"] for name in ("DIR", "DATA_DIR", "CACHE_DIR", "CONFIG_DIR")]
    assert all(path.startswith(str(tmp_path)) for path in paths)


def records(path: Path):
    """Yield the records of a .wandb file (the LevelDB log format)."""
    import struct

    from wandb.proto import wandb_internal_pb2 as messages

    data, position, chunk = path.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while True:
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        if position + 7 > len(data):
            return
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        piece = data[position + 7 : position + 7 + length]
        if kind == 0 or len(piece) < length:
            return
        position += 7 + length
        chunk += piece
        if kind in {1, 4}:
            record = messages.Record()
            record.ParseFromString(chunk)
            chunk = b""
            yield record


def history_of(directory: str) -> list[dict]:
    (path,) = Path(directory).glob("*.wandb")
    return [
        {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in records(path)
        if record.WhichOneof("record_type") == "history"
    ]


@pytest.mark.integration
def test_an_offline_run_can_be_read_back(make, tmp_path):
    tracker = make("offline")
    run = tracker.start(run_id="pets-1", **RUN)
    for step in (5, 10):
        run.log({"train/loss": step / 10}, step=step)
    run.finish()
    reference = run.reference()
    assert reference["mode"] == "offline"
    assert "url" not in reference
    assert reference["directory"].startswith(str(tmp_path))
    history = history_of(reference["directory"])
    assert [(entry["_step"], entry["train/loss"]) for entry in history] == [(5, 0.5), (10, 1.0)]
    (path,) = Path(reference["directory"]).glob("*.wandb")
    assert [record.exit.exit_code for record in records(path) if record.WhichOneof("record_type") == "exit"] == [0]


@pytest.mark.integration
def test_an_online_run_arrives_at_its_server(make):
    with wandb_server.running(wandb_server.WandbServer()) as server:
        run = make("online", api_key=KEY, base_url=server.url, init_seconds=60).start(run_id="pets-1", **RUN)
        run.log({"train/loss": 0.5}, step=5)
        run.finish()
        reference = run.reference()
        assert reference["mode"] == "online", server.operations
        assert reference["url"].endswith("/pets/runs/pets-1")
        assert [(entry["_step"], entry["train/loss"]) for entry in server.history["pets-1"]] == [(5, 0.5)]


def blackhole() -> socket.socket:
    """Return a listening socket that answers nothing."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(64)
    return listener


@pytest.mark.integration
def test_a_server_that_is_away_never_holds_up_training_and_gets_the_run_later(make, caplog, tmp_path):
    listener = blackhole()
    port = listener.getsockname()[1]
    tracker = make("online", api_key=KEY, base_url=f"http://127.0.0.1:{port}", init_seconds=4)
    begun = time.monotonic()
    run = tracker.start(run_id="pets-1", **RUN)
    for step in range(100):
        run.log({"train/loss": 1.0}, step=step)
    assert time.monotonic() - begun < 2
    with caplog.at_level(logging.WARNING):
        run.finish()
    assert run.reference()["mode"] == "offline"
    assert len([message for message in caplog.messages if "W&B is not reachable" in message]) == 1
    assert len(lines(tmp_path, "pets-1")) == 102

    # A second run is offline at once: no trial waits for the limit again.
    begun = time.monotonic()
    second = tracker.start(run_id="pets-2", **RUN)
    second.log({"train/loss": 1.0}, step=0)
    second.finish()
    assert second.reference()["mode"] == "offline"

    listener.close()
    server = wandb_server.WandbServer()
    server.port = port
    with wandb_server.running(server):
        synced = tracker.sync(timeout_seconds=120)
        assert len(synced) == 2
        assert [entry["_step"] for entry in server.history["pets-1"]] == list(range(100))
        assert tracker.sync() == []


@pytest.mark.integration
def test_a_wrong_key_falls_back_to_offline(make, caplog):
    with wandb_server.running(wandb_server.WandbServer(unauthorized=True)) as server, caplog.at_level(logging.WARNING):
        tracker = make("online", api_key=KEY, base_url=server.url, init_seconds=6)
        run = tracker.start(run_id="pets-1", **RUN)
        run.log({"train/loss": 1.0}, step=0)
        run.finish()
        assert run.reference()["mode"] == "offline"
        assert KEY not in caplog.text
        with pytest.raises(ConfigError, match="must name a server that takes runs"):
            tracker.sync(timeout_seconds=120)


@pytest.mark.integration
def test_a_killed_worker_costs_neither_the_run_nor_the_next_one(make, tmp_path, caplog):
    tracker = make("offline")
    run = tracker.start(run_id="pets-1", **RUN)
    assert run.started.wait(60)
    os.killpg(tracker._worker._process.pid, signal.SIGKILL)
    run.log({"train/loss": 1.0}, step=0)
    with caplog.at_level(logging.WARNING):
        run.finish()
    assert {"step": 0, "values": {"train/loss": 1.0}} in lines(tmp_path, "pets-1")
    assert "the W&B process ended early" in caplog.text
    second = tracker.start(run_id="pets-2", **RUN)
    second.finish()
    assert second.reference()["mode"] == "offline"


@pytest.mark.integration
def test_a_worker_that_hangs_is_left_after_a_bounded_time(make, caplog):
    tracker = make("offline", init_seconds=1, finish_seconds=1)
    run = tracker.start(run_id="pets-1", **RUN)
    os.kill(tracker._worker._process.pid, signal.SIGSTOP)
    begun = time.monotonic()
    with caplog.at_level(logging.WARNING):
        run.finish()
    assert time.monotonic() - begun < 10
    assert "did not finish within 2 s" in caplog.text


@pytest.mark.integration
def test_the_worker_leaves_when_its_parent_closes_the_pipe(make):
    tracker = make("offline")
    run = tracker.start(run_id="pets-1", **RUN)
    run.finish()
    process = tracker._worker._process
    process.stdin.close()
    assert process.wait(60) == 0
