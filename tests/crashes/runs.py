"""Runs of a journey, each step in a process of its own: undisturbed, or with a kill in each step.

The undisturbed run keeps a copy of the installation before each step. So a step can be killed at each of its points
without living through the ones before it again.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import importlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline_tasks.contracts import Attempt
from tests import crash
from tests.crashes.journeys import LOOP, RESTORE, Step
from tests.crashes.state import state_of, violations_of
from tests.crashes.world import NOW, World, be_at, make_world

# What the children would each import anew.
HEAVY = (
    "great_expectations",
    "torch._dynamo",
    "torch.onnx",
    "onnxscript",
    "onnxruntime.quantization",
    "pyarrow.parquet",
    "pyarrow.dataset",
    "pandas",
    "scipy.stats",
    "safetensors.torch",
    "label_studio_sdk.label_interface",
    "data_checks.runner",
)
PLACE = "one place"  # a name of its own in each path: it must be written nowhere


@dataclasses.dataclass(frozen=True, slots=True)
class Calm:
    """The undisturbed run: the points of each step, in order, and what the installation is before and after each."""

    folder: Path
    points: dict[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    states: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    violations: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    def before(self, index: int) -> Path:
        """Return the copy of the installation before a step that is killed."""
        return self.folder / "before" / str(index)


@dataclasses.dataclass(frozen=True, slots=True)
class Left:
    """The state after a step that was killed at a point and run again."""

    step: str
    point: str
    state: dict[str, Any]
    violations: list[str]


def calm_run(folder: Path) -> Calm:
    """Run once to the end."""
    import_heavy()
    calm, place = Calm(folder), folder / PLACE
    make_world(place)
    for index, step in enumerate(LOOP):
        if step.is_killed:
            shutil.copytree(place, calm.before(index))
        passed = crash.points_passed(perform, place, index, 1)
        calm.points[step.name] = passed if step.is_killed else ()
        calm.states[step.name], calm.violations[step.name] = look(place, index)
    return calm


def killed_step(calm: Calm, index: int) -> Iterator[Left]:
    """Kill one step at each of its points and run it again, each time from what was before it."""
    place = calm.folder / PLACE
    for point in calm.points[LOOP[index].name]:
        shutil.rmtree(place)
        shutil.copytree(calm.before(index), place)
        yield _kill_and_retry(place, index, point)


def disturbed_run(folder: Path, calm: Calm) -> Iterator[Left]:
    """Run to the end with a kill in each step, each time at another of its points, and yield what each left."""
    make_world(folder)
    for index, step in enumerate(LOOP):
        if points := calm.points[step.name]:
            yield _kill_and_retry(folder, index, points[index % len(points)])
        else:
            crash.run_in_child(perform, folder, index, 1)


def _kill_and_retry(folder: Path, index: int, point: str) -> Left:
    crash.crash_at(point, perform, folder, index, 1)
    crash.run_in_child(perform, folder, index, 2)
    return Left(LOOP[index].name, point, *look(folder, index))


def perform(folder: Path, index: int, number: int) -> None:
    """Run one try of one step, at its time."""
    step: Step = LOOP[index]
    be_at(NOW + dt.timedelta(minutes=index), folder)  # of every try: what differs is not the time
    run, _, task = step.name.partition("/")
    world = World(folder)
    result = step.act(world, Attempt(run, task, number))
    world.keep_result(step.name, result if isinstance(result, dict) else {})


def look(folder: Path, index: int) -> tuple[dict[str, Any], list[str]]:
    """Return the state, that of the restored installation where there is one, and what `dethrone verify` says."""
    worlds = [World(folder)]
    if LOOP[index].name == RESTORE:
        worlds.append(World(folder / "restored"))
    try:
        state = state_of(worlds[0])
        restored = {f"restored {name}": value for name, value in state_of(worlds[-1]).items()} if worlds[1:] else {}
        return state | restored, violations_of(worlds[0], now=NOW + dt.timedelta(minutes=index + 1))
    finally:
        for world in worlds:
            world.parts.database.engine.dispose()


def import_heavy() -> None:
    """Import once what every child needs; with threads of its own torch would stand still in a forked child."""
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in HEAVY:
        importlib.import_module(name)
    importlib.import_module("torch").set_num_threads(1)


def differences(actual: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """Return in words what is another in two states."""
    told = []
    for name in sorted({*actual, *expected}):
        value, other = actual.get(name), expected.get(name)
        if isinstance(value, dict) and isinstance(other, dict):
            told += [f"{name}.{line}" for line in differences(value, other)]
        elif value != other:
            told.append(f"{name}: {_only(value, other)} in place of {_only(other, value)}")
    return told


def _only(value: Any, other: Any) -> Any:
    if not isinstance(value, list) or not isinstance(other, list):
        return value
    return [entry for entry in value if entry not in other][:3]
