"""Checks of the section `privacy` of project.yaml."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pipeline_tasks.guards.personal import REMOVED, deny_list
from pipeline_tasks.project.yaml_reader import Finding, finding, shown

if TYPE_CHECKING:
    from pipeline_tasks.project.schema import Project


MAX_PATTERNS, MAX_PATTERN_LENGTH, MAX_REPEATS = 50, 300, 256
_REPEATS = frozenset(("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"))


def check_privacy(project: Project) -> Iterator[Finding]:
    """Yield what contradicts the deny-list, as (path of the key, message)."""
    deny = project.privacy.deny
    used = _used_columns(project)
    if deny.columns and all(source.item_columns is None for source in project.sources):
        text = "must be left out where no source has rows (got some): a file has no fields. Use patterns."
        yield finding("privacy.deny.columns", text)
    for index, name in enumerate(deny.columns):
        if name in used:
            text = f"must be used for nothing else (got {shown(name)}, named in {used[name]}): it is dropped before"
            yield finding(f"privacy.deny.columns[{index}]", f"{text} anything reads it. Take it out of one of the two.")
    bad = False
    if len(deny.patterns) > MAX_PATTERNS:
        yield finding("privacy.deny.patterns", f"must be a list of at most {MAX_PATTERNS} (got {len(deny.patterns)}).")
        bad = True
    for index, pattern in enumerate(deny.patterns):
        for message in _pattern_problems(pattern):
            yield finding(f"privacy.deny.patterns[{index}]", message)
            bad = True
    if not bad:
        yield from _check_values(project)


def _used_columns(project: Project) -> dict[str, str]:
    used: dict[str, str] = {}
    for index, source in enumerate(project.sources):
        for key, name in source.used_columns().items():
            used[name] = f"sources[{index}].{key}"
        for name in source.item_columns or ():
            used[name] = f"sources[{index}].content_columns"
    return used | {column.name: "columns" for column in project.columns}


def _pattern_problems(pattern: str) -> Iterator[str]:
    if not 1 <= len(pattern) <= MAX_PATTERN_LENGTH:
        yield f"must have 1 to {MAX_PATTERN_LENGTH} characters (got {len(pattern)})."
        return
    try:
        compiled = re.compile(pattern)
        depth, most = _repeats(re._parser.parse(pattern))  # type: ignore[attr-defined]  # noqa: SLF001
    except (re.error, RecursionError, OverflowError) as error:
        yield f"must be a regular expression (got {shown(pattern)}: {error}). Write it between single quotes."
        return
    if compiled.search(""):
        yield f"must not match the empty text (got {shown(pattern)})."
    if compiled.search(REMOVED):
        yield f"must not match {REMOVED}, which stands in place of what it matches (got {shown(pattern)})."
    if depth > 1 or most > MAX_REPEATS:
        yield (
            f"must have repeats of at most {MAX_REPEATS}, none within another (got {shown(pattern)}): any text has to "
            "be searched quickly. Write {1,64} in place of +."
        )


def _repeats(parsed: Any) -> tuple[int, int]:
    """Return how deep repeats of more than one stand within each other, and the greatest bound of one."""
    depth = most = 0
    for code, argument in parsed:
        mine, inner = 0, argument
        if str(code) in _REPEATS:
            mine, inner = int(int(argument[1]) > 1), argument[2]
            most = max(most, int(argument[1]))
        for part in _parts(inner):
            deeper, more = _repeats(part)
            depth, most = max(depth, mine + deeper), max(most, more)
        depth = max(depth, mine)
    return depth, most


def _parts(argument: Any) -> Iterator[Any]:
    """Yield the parsed expressions within an argument of one."""
    if hasattr(argument, "getwidth"):
        yield argument
    elif isinstance(argument, list | tuple):
        for part in argument:
            yield from _parts(part)


def _check_values(project: Project) -> Iterator[Finding]:
    """Check that no class and no value of a column has a match: it would match nothing any more."""
    deny = deny_list(project.privacy.deny.model_dump())
    for index, name in enumerate(project.labels.classes):
        if deny.is_in(name):
            text = f"must match none of privacy.deny.patterns (got {shown(name)})."
            yield finding(f"labels.classes[{index}]", text)
    if deny.clean(project.recipe.params) != project.recipe.params:
        text = "must have no value that privacy.deny names (got one). It would never be met."
        yield finding("recipe.params", text)
    for index, column in enumerate(project.columns):
        if deny.clean(column.values or []) != (column.values or []):
            text = "must match none of privacy.deny.patterns (got one that does)."
            yield finding(f"columns[{index}].values", text)
