"""The process in which the wandb library runs, so that nothing of it can hold up or break a training.

Reads one JSON object a line on standard input, answers on standard output; ends when the input does.
Imports nothing of this project: it is started by its path.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import wandb

ORPHAN_SECONDS = 30.0


class _Worker:
    """The open runs, and what to do with each message."""

    def __init__(self, answers: TextIO) -> None:
        self._answers = answers
        self._runs: dict[str, Any] = {}
        self._online = True

    def handle(self, message: Mapping[str, Any]) -> None:
        """Do what a message says; a failure of the library costs that message."""
        try:
            self._handle(message)
        except Exception as error:  # noqa: BLE001  (the next message may succeed)
            self._answer(event="failed", run=message["run"], op=message["op"], note=_in_words(error))

    def _handle(self, message: Mapping[str, Any]) -> None:
        run_id = message["run"]
        if message["op"] == "start":
            self._start(message)
        elif run_id not in self._runs:
            raise LookupError(f"{run_id} is not open")
        elif message["op"] == "log":
            self._runs[run_id].log(message["values"], step=message["step"])
        elif message["op"] == "summary":
            self._runs[run_id].summary.update(message["values"])
        elif message["op"] == "finish":
            self._runs.pop(run_id).finish(exit_code=message["exit_code"])
            self._answer(event="finished", run=run_id)

    def end(self) -> None:
        """Close the runs that the parent left open: it died."""
        for run in self._runs.values():
            run.finish(exit_code=255)

    def _start(self, message: Mapping[str, Any]) -> None:
        note = ""
        if message["mode"] == "online" and self._online:
            try:
                run = _init(message, mode="online")
            except Exception as error:  # noqa: BLE001  (whatever the failure is, the run goes on offline)
                note = _in_words(error)
                # Not tried again: each of many trials would wait for the time limit. The teardown frees the run's id.
                self._online = False
                wandb.teardown()
                run = _init(message, mode="offline")
        else:
            run = _init(message, mode="offline")
        self._runs[message["run"]] = run
        self._answer(
            event="started",
            run=message["run"],
            mode="offline" if run.offline else "online",
            url=run.url or "",
            directory=str(Path(run.dir).parent),
            note=note,
        )

    def _answer(self, **fields: Any) -> None:
        self._answers.write(json.dumps(fields) + "\n")
        self._answers.flush()


def _in_words(error: Exception) -> str:
    first_line = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {first_line[:200]}"


def _init(message: Mapping[str, Any], *, mode: str) -> Any:
    return wandb.init(
        mode=mode,  # type: ignore[arg-type]
        project=message["project"],
        id=message["run"],
        name=message["run"],
        group=message["group"],
        job_type=message["job_type"],
        config=message["config"],
        resume="allow",
        reinit="create_new",
        settings=wandb.Settings(
            init_timeout=message["init_seconds"],
            login_timeout=message["init_seconds"],
            x_disable_stats=True,
            x_disable_meta=True,
        ),
    )


def main() -> None:
    """Serve until standard input ends, then leave within a bounded time."""
    # The library may print; what the parent reads must be ours alone.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    worker = _Worker(answers)
    for line in sys.stdin:
        worker.handle(json.loads(line))
    watchdog = threading.Timer(ORPHAN_SECONDS, os._exit, args=(1,))
    watchdog.daemon = True
    watchdog.start()
    worker.end()


if __name__ == "__main__":
    main()
