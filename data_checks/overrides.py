"""A project's own `checks.py`: a function `expectations(stage)` that returns rules or Great Expectations objects."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_checks.rules import Policy, Rule, Stage
from pipeline_tasks.errors import ConfigError

FILE_NAME = "checks.py"
_POLICIES: dict[str, Policy] = {"critical": "stop", "warning": "warn", "info": "warn"}


def project_rules(folder: Path, stage: Stage) -> tuple[Rule, ...]:
    """Return the rules that the project's checks.py adds for a stage; none without the file.

    Raises:
        ConfigError: the file cannot be loaded, has no `expectations`, fails, or returns something else than rules.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        return ()
    function = _load_function(path)
    try:
        rules = list(function(stage))
    except Exception as error:
        raise _bad(path, f"expectations({stage!r}) must return a list", f"{type(error).__name__}: {error}") from error
    return tuple(_as_rule(path, rule) for rule in rules)


def _load_function(path: Path) -> Callable[[str], Any]:
    spec = importlib.util.spec_from_file_location(f"dethrone_project_checks_{path.parent.name}", path)
    if spec is None or spec.loader is None:
        raise _bad(path, "the file must be a Python module", "no loader for it")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise _bad(path, "the file must import without error", f"{type(error).__name__}: {error}") from error
    function = getattr(module, "expectations", None)
    if not callable(function):
        raise _bad(path, "the file must define `expectations(stage)`", "no such function")
    return function  # type: ignore[no-any-return]


def _as_rule(path: Path, rule: Any) -> Rule:
    if isinstance(rule, Rule):
        return rule
    kind = getattr(rule, "expectation_type", None)
    if kind is None:
        raise _bad(path, "expectations must return Rule values or Great Expectations objects", type(rule).__name__)
    meta = dict(getattr(rule, "meta", None) or {})
    column = getattr(rule, "column", None)
    name = str(meta.get("name") or "_".join(part for part in (kind, column) if part)).upper()
    policy = meta.get("policy") or _POLICIES[str(getattr(rule.severity, "value", rule.severity))]
    if policy not in {"quarantine", "warn", "stop"}:
        raise _bad(path, f"meta.policy of {name} must be quarantine, warn or stop", repr(policy))
    expected = str(getattr(rule, "description", None) or f"{kind.replace('_', ' ')} must hold")
    return Rule(name, rule, policy=policy, expected=expected)


def _bad(path: Path, expected: str, got: str) -> ConfigError:
    return ConfigError(f"{path}: {expected} (got {got}). docs/checks.md shows a working file.")
