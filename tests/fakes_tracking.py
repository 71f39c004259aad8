"""A tracker in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass
class FakeRun:
    """The calls of a stage to the tracker, of one run."""

    run_id: str
    project: str
    group: str
    job_type: str
    config: dict[str, Any]
    logged: list[tuple[int, dict[str, float]]] = dataclasses.field(default_factory=list)
    summaries: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    exit_codes: list[int] = dataclasses.field(default_factory=list)

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        self.logged.append((step, dict(values)))

    def summary(self, values: Mapping[str, Any]) -> None:
        self.summaries.append(dict(values))

    def reference(self) -> Mapping[str, str]:
        return {"mode": "fake", "run_id": self.run_id}

    def finish(self, *, exit_code: int = 0) -> None:
        if not self.exit_codes:
            self.exit_codes.append(exit_code)


class FakeTracker:
    """A Tracker that keeps everything."""

    def __init__(self) -> None:
        self.runs: list[FakeRun] = []

    def start(self, *, project: str, run_id: str, group: str, job_type: str, config: Mapping[str, Any]) -> FakeRun:
        run = FakeRun(run_id, project, group, job_type, dict(config))
        self.runs.append(run)
        return run
