"""Crash points: places where a test kills the process, three per side effect.

Names are `<stage>.<effect>.<moment>` with moment `before`, `after` (the effect) or `recorded`. Each name is a literal
in the source, so that a test can list them all and fail when one is never hit.
"""

from __future__ import annotations

import ast
import os
import re
import signal
from collections.abc import Iterable, Mapping
from pathlib import Path

from pipeline_tasks.errors import ConfigError

VARIABLE = "DETHRONE_CRASH_POINT"
TRACE_VARIABLE = "DETHRONE_CRASH_TRACE"
NAME = re.compile(r"^[a-z_]+\.[a-z_]+\.(?:before|after|recorded)$")

_state: dict[str, str | None] = {"armed": None, "trace": None}


def arm(name: str | None, *, trace_path: str | None = None) -> None:
    """Choose the one point that kills; with a trace file, each point that is passed appends its name."""
    _state.update(armed=name, trace=trace_path)


def arm_from(environment: Mapping[str, str]) -> None:
    """Arm what the settings' environment names; an entrypoint calls this once, at the start of a process.

    Raises:
        ConfigError: the name is no crash point's; a typo would make a test that cannot fail.
    """
    name = environment.get(VARIABLE) or None
    if name is not None and name not in all_points([Path(__file__).parents[1]]):
        raise ConfigError(f"{VARIABLE} must name a crash point in the source (got {name!r}). List them: all_points().")
    arm(name, trace_path=environment.get(TRACE_VARIABLE) or None)


def crash_point(name: str) -> None:
    """Die here, as from kill -9, when this point is armed; otherwise do nothing."""
    if _state["trace"] is not None:
        descriptor = os.open(_state["trace"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(descriptor, f"{name}\n".encode())
        os.close(descriptor)
    if _state["armed"] == name:
        os.kill(os.getpid(), signal.SIGKILL)


def all_points(roots: Iterable[Path]) -> dict[str, str]:
    """Return each crash point in the Python files below the folders, with the `file:line` where it stands.

    Raises:
        ValueError: a name is not a literal, is not `<stage>.<effect>.<moment>`, or stands in two places.
    """
    points: dict[str, str] = {}
    for path in sorted(path for root in roots for path in root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes(), filename=str(path))):
            if isinstance(node, ast.Call) and _called(node) == "crash_point":
                name, place = _name(node), f"{path}:{node.lineno}"
                if name is None:
                    raise ValueError(
                        f"{place}: a crash point must be one literal <stage>.<effect>.<before|after|recorded> "
                        f"(got {ast.unparse(node)})."
                    )
                if name in points:
                    raise ValueError(
                        f"{place}: a crash point must stand in one place ({name} is at {points[name]} too)."
                    )
                points[name] = place
    return points


def _called(call: ast.Call) -> str | None:
    if isinstance(call.func, ast.Attribute):
        return call.func.attr
    return call.func.id if isinstance(call.func, ast.Name) else None


def _name(call: ast.Call) -> str | None:
    if len(call.args) != 1 or call.keywords or not isinstance(call.args[0], ast.Constant):
        return None
    value = call.args[0].value
    return value if isinstance(value, str) and NAME.match(value) else None
