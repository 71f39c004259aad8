"""Runs of a journey, each step in a process of its own: undisturbed, or with a kill in each step."""

from __future__ import annotations

import dataclasses
import datetime as dt
import importlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline_tasks.contracts import Attempt
from tests import crash
from tests.crashes.journeys import LOOP, RESTORE, Step
from tests.crashes.state import state_of, violations_of
from tests.crashes.world import NOW, World, be_at, make_world

# What the children would each import anew.
HEAVY = ("great_expectations", "torch", "pyarrow.parquet", "pandas", "scipy.stats", "data_checks.runner")


@dataclasses.dataclass(frozen=True, slots=True)
class Calm:
    """The undisturbed run: the points of each step, in order, and what the installation is after each step."""

    points: Mapping[str, Sequence[str]]
    states: Mapping[str, dict[str, Any]]
    violations: Mapping[str, list[str]]

    @property
    def num_rounds(self) -> int:
        """How many disturbed runs it takes until every step was killed at each of its points."""
        return max(map(len, self.points.values()))


@dataclasses.dataclass(frozen=True, slots=True)
class Left:
    """What a step left that was killed at a point and run again."""

    step: str
    point: str
    state: dict[str, Any]
    violations: list[str]


Choose = Callable[[int, Sequence[str]], str | None]


def calm_run(folder: Path) -> Calm:
    """Run once to the end."""
    import_heavy()
    make_world(folder)
    calm = Calm({}, {}, {})
    for index, step in enumerate(LOOP):
        passed = crash.points_passed(perform, folder, index, 1)
        calm.points[step.name] = passed if step.is_killed else ()
        calm.states[step.name], calm.violations[step.name] = look(folder, index)
    return calm


def nth(number: int) -> Choose:
    """Choose the `number`-th point of each step."""
    return lambda _index, points: points[number] if number < len(points) else None


def spread(index: int, points: Sequence[str]) -> str | None:
    """Choose one point of each step, each time another moment of it."""
    return points[index % len(points)] if points else None


def disturbed_run(folder: Path, calm: Calm, *, choose: Choose) -> Iterator[Left]:
    """Run to the end with a kill in each step for which a point is chosen, and yield what each left after its retry."""
    import_heavy()
    make_world(folder)
    for index, step in enumerate(LOOP):
        point = choose(index, calm.points[step.name])
        if point is None:
            crash.run_in_child(perform, folder, index, 1)
            continue
        crash.crash_at(point, perform, folder, index, 1)
        crash.run_in_child(perform, folder, index, 2)
        yield Left(step.name, point, *look(folder, index))


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
        restored = {f"restored {name}": one for name, one in state_of(worlds[-1]).items()} if worlds[1:] else {}
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


def differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """Return in words what is another in two states."""
    told = []
    for name in sorted({*found, *expected}):
        one, other = found.get(name), expected.get(name)
        if isinstance(one, dict) and isinstance(other, dict):
            told += [f"{name}.{line}" for line in differences(one, other)]
        elif one != other:
            told.append(f"{name}: {_only(one, other)} in place of {_only(other, one)}")
    return told


def _only(one: Any, other: Any) -> Any:
    if not isinstance(one, list) or not isinstance(other, list):
        return one
    return [entry for entry in one if entry not in other][:3]
