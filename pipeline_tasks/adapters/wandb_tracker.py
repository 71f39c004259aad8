"""Weights & Biases: offline by default, online by key or base URL; training never waits for it.

The wandb library runs in a process of its own (`wandb_worker.py`) with an environment made here. Training writes into
a bounded queue and into a metrics file, which is the truth: the tracker may be down, slow or wrong.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline_tasks.errors import ConfigError

logger = logging.getLogger(__name__)

MODES = ("online", "offline", "disabled")
QUEUE_LENGTH = 10_000
JOIN_SECONDS = 5.0
PASSED_ON = frozenset(
    ("PATH", "LANG", "TMPDIR", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")
)
WORKER_PATH = Path(__file__).with_name("wandb_worker.py")


class WandbTracker:
    """Starts runs. `mode` is online, offline or disabled (metrics file only)."""

    def __init__(
        self,
        *,
        directory: Path,
        mode: str,
        api_key: str | None = None,
        base_url: str | None = None,
        environment: Mapping[str, str] | None = None,
        init_seconds: float = 15.0,
        finish_seconds: float = 30.0,
    ) -> None:
        if mode not in MODES:
            raise ConfigError(f"WANDB_MODE must be one of {', '.join(MODES)} (got {mode!r}). Unset it for offline.")
        self._directory = directory
        self._mode = mode
        self._environment = worker_environment(
            environment or {}, directory=directory, api_key=api_key, base_url=base_url
        )
        self._init_seconds = init_seconds
        self._finish_seconds = finish_seconds
        self._worker: _WorkerProcess | None = None

    def start(self, *, project: str, run_id: str, group: str, job_type: str, config: Mapping[str, Any]) -> WandbRun:
        """Open a run without waiting for it; an unreachable server turns it into an offline one."""
        metrics = MetricsFile(self._directory / "metrics" / f"{run_id}.jsonl")
        metrics.write({"config": dict(config), "group": group, "job_type": job_type})
        worker = None if self._mode == "disabled" else self._running_worker()
        run = WandbRun(
            run_id,
            metrics=metrics,
            worker=worker,
            mode=self._mode,
            finish_seconds=self._init_seconds + self._finish_seconds,
        )
        if worker is not None:
            worker.open(run)
            message = {"op": "start", "project": project, "group": group, "job_type": job_type, "mode": self._mode}
            worker.send(run_id, {**message, "config": dict(config), "init_seconds": self._init_seconds})
        return run

    def close(self) -> None:
        """End the worker process; open runs end as killed ones."""
        if self._worker is not None:
            self._worker.stop()
            self._worker = None

    def sync(self, *, timeout_seconds: float = 600.0) -> list[Path]:
        """Upload the offline runs that are not uploaded yet, under their own ids; return their folders.

        Raises:
            ConfigError: the server refuses, or there is no key.
        """
        # An online run's folder never gets the mark of a sync, so only offline ones are looked at.
        runs = [path for path in sorted((self._directory / "wandb").glob("offline-run-*")) if not _is_synced(path)]
        if not runs:
            return []
        command = [sys.executable, "-m", "wandb", "sync", "--yes", *map(str, runs)]
        done = subprocess.run(  # noqa: S603  (our interpreter, our folders)
            command,
            env={**self._environment, "WANDB_MODE": "online", "WANDB_SILENT": "false"},
            cwd=self._directory,
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            check=False,
        )
        left = [path for path in runs if not _is_synced(path)]
        if done.returncode != 0 or left:
            last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no message"]
            raise ConfigError(
                f"WANDB_BASE_URL and WANDB_API_KEY must name a server that takes runs (got: {last[0][:200]}). "
                f"{len(left)} runs wait in {self._directory / 'wandb'}."
            )
        return runs

    def _running_worker(self) -> _WorkerProcess | None:
        if self._worker is None or not self._worker.alive:
            self._worker = _WorkerProcess.spawn(environment=self._environment, directory=self._directory)
        return self._worker


class WandbRun:
    """One run; no method raises, and only `finish` waits, for a bounded time."""

    def __init__(
        self, run_id: str, *, metrics: MetricsFile, worker: _WorkerProcess | None, mode: str, finish_seconds: float
    ) -> None:
        self.run_id = run_id
        self.started = threading.Event()
        self.finished = threading.Event()
        self._metrics = metrics
        self._worker = worker
        self._finish_seconds = finish_seconds
        self._closed = False
        self._facts = {"mode": "metrics" if worker is None else mode}

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        finite = {name: _plain(value) for name, value in values.items()}
        self._metrics.write({"step": step, "values": finite})
        self._send({"op": "log", "step": step, "values": finite})

    def summary(self, values: Mapping[str, Any]) -> None:
        plain = {name: _plain(value) for name, value in values.items()}
        self._metrics.write({"summary": plain})
        self._send({"op": "summary", "values": plain})

    def reference(self) -> Mapping[str, str]:
        """Return mode (online, offline, metrics), run id, metrics file, and directory and url where they exist."""
        return {**self._facts, "run_id": self.run_id, "metrics": str(self._metrics.path)}

    def finish(self, *, exit_code: int = 0) -> None:
        if self._closed:
            return
        self._metrics.write({"exit_code": exit_code})
        self._send({"op": "finish", "exit_code": exit_code})
        self._closed = True
        if self._worker is not None and not self.finished.wait(self._finish_seconds):
            logger.warning(
                "W&B run %s did not finish within %.0f s; its data lie in %s",
                self.run_id,
                self._finish_seconds,
                self._metrics.path,
            )
            self._worker.stop()

    @property
    def metrics_path(self) -> Path:
        return self._metrics.path

    def note_started(self, answer: Mapping[str, Any]) -> None:
        """Take over what the worker says about the run."""
        self._facts["mode"] = str(answer["mode"])
        self._facts.update({name: str(answer[name]) for name in ("url", "directory") if answer.get(name)})
        if answer.get("note"):
            logger.warning(
                "W&B is not reachable (%s): run %s goes on offline; upload it later with `wandb sync --yes %s`",
                answer["note"],
                self.run_id,
                answer["directory"],
            )
        self.started.set()

    def note_lost(self) -> None:
        """The worker is gone: nothing more will come."""
        if not self.finished.is_set():
            self._facts["mode"] = "metrics" if not self.started.is_set() else self._facts["mode"]
        self.started.set()
        self.finished.set()

    def _send(self, message: Mapping[str, Any]) -> None:
        if self._worker is not None and not self._closed:
            self._worker.send(self.run_id, message)


class MetricsFile:
    """One JSON object a line, appended; a full disk costs the lines, not the training."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._failed = False

    def write(self, fields: Mapping[str, Any]) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(fields, default=str, allow_nan=False) + "\n")
        except (OSError, ValueError) as error:
            if not self._failed:
                logger.warning("metrics cannot be written to %s (%s)", self.path, error)
            self._failed = True


class _WorkerProcess:
    """The child with the library, one thread that feeds it and one that listens."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._outbox: queue.Queue[str | None] = queue.Queue(QUEUE_LENGTH)
        self._runs: dict[str, WandbRun] = {}
        self._dropped = 0
        self._listener = threading.Thread(target=self._listen, name="wandb-listen", daemon=True)
        self._feeder = threading.Thread(target=self._feed, name="wandb-feed", daemon=True)
        self._listener.start()
        self._feeder.start()

    @classmethod
    def spawn(cls, *, environment: Mapping[str, str], directory: Path) -> _WorkerProcess | None:
        """Start the process; None, and one line in the log, if that is not possible."""
        try:
            directory.mkdir(parents=True, exist_ok=True)
            with (directory / "worker.log").open("ab") as log:
                process = subprocess.Popen(  # noqa: S603  (our interpreter, our file)
                    [sys.executable, "-P", str(WORKER_PATH)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    env=dict(environment),
                    cwd=directory,
                    start_new_session=True,
                )
        except OSError as error:
            logger.warning("W&B cannot be started (%s): metrics go to the metrics file only", error)
            return None
        return cls(process)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def open(self, run: WandbRun) -> None:
        self._runs[run.run_id] = run

    def send(self, run_id: str, message: Mapping[str, Any]) -> None:
        """Queue a message; a full queue drops it (the metrics file has it)."""
        try:
            self._outbox.put_nowait(json.dumps({**message, "run": run_id}, default=str) + "\n")
        except queue.Full:
            self._dropped += 1
            if self._dropped == 1:
                logger.warning("W&B does not keep up: values are left out there, and are whole in the metrics file")

    def stop(self) -> None:
        """Kill the process and its children; what they wrote to disk stays, and no run waits any more."""
        open_runs = [self._runs.pop(run_id) for run_id in list(self._runs)]
        if self.alive:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._listener.join(JOIN_SECONDS)
        for run in open_runs:
            run.note_lost()

    def _feed(self) -> None:
        pipe = self._process.stdin
        while pipe is not None:
            line = self._outbox.get()
            if line is None:
                return
            try:
                pipe.write(line)
                pipe.flush()
            except (OSError, ValueError):
                return

    def _listen(self) -> None:
        self._take_answers()
        with contextlib.suppress(queue.Full):
            self._outbox.put_nowait(None)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError, ValueError):
                pipe.close()  # type: ignore[union-attr]
        for run in list(self._runs.values()):
            logger.warning("the W&B process ended early: run %s is in its metrics file", run.run_id)
            run.note_lost()

    def _take_answers(self) -> None:
        for line in self._process.stdout or ():
            answer = json.loads(line)
            run = self._runs.get(answer["run"])
            if run is None:
                continue
            if answer["event"] == "started":
                run.note_started(answer)
            elif answer["event"] == "finished":
                run.finished.set()
                self._runs.pop(run.run_id, None)
            elif answer["event"] == "failed":
                logger.warning("W&B refused to %s (%s): see %s", answer["op"], answer["note"], run.metrics_path)
                if answer["op"] in {"start", "finish"}:
                    run.note_lost()
                    self._runs.pop(run.run_id, None)


def worker_environment(
    base: Mapping[str, str], *, directory: Path, api_key: str | None, base_url: str | None
) -> dict[str, str]:
    """Return the environment of the library's process: none of our secrets, and all it writes below the directory."""
    directory = directory.resolve()
    result = {
        "PATH": os.defpath,
        **{name: value for name, value in base.items() if name.upper() in PASSED_ON or name.startswith("WANDB_")},
        "HOME": str(directory),
        "WANDB_DIR": str(directory),
        "WANDB_DATA_DIR": str(directory / "data"),
        "WANDB_CACHE_DIR": str(directory / "cache"),
        "WANDB_CONFIG_DIR": str(directory / "config"),
        "WANDB_SILENT": "true",
        "WANDB_CONSOLE": "off",
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_DISABLE_CODE": "true",
        "WANDB_DISABLE_GIT": "true",
    }
    # Each start names its own mode; an inherited one would win over it.
    result.pop("WANDB_MODE", None)
    if api_key:
        result["WANDB_API_KEY"] = api_key
    if base_url:
        result["WANDB_BASE_URL"] = base_url
    return result


def _is_synced(path: Path) -> bool:
    return any(path.glob("*.wandb.synced"))


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
