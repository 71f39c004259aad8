"""The answer of a command: one JSON object for programs, text or tables for people, and the exit code."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from rich.console import Console


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """`data` is the JSON; `shown` are texts and tables, printed in their order (nothing: the JSON)."""

    data: Any
    shown: tuple[Any, ...] = ()
    code: int = 0


def as_answer(result: Any) -> Answer:
    """Return what a command returned as an answer: a sentence, values, or an exit code alone."""
    if isinstance(result, Answer):
        return result
    if isinstance(result, str):
        return Answer({"message": result}, (result,))
    if result is None or (isinstance(result, int) and not isinstance(result, bool)):
        return Answer({"exit_code": result or 0}, ("",), code=result or 0)
    return Answer(result)


def document(data: Any) -> str:
    """Return the one JSON object of an answer: a list stands under `rows`."""
    return json.dumps(data if isinstance(data, dict) else {"rows": data}, indent=2, default=str)


def console() -> Console:
    """Return a console that is wide enough for tables where the output goes to a file."""
    found = Console(highlight=False, soft_wrap=True)
    return found if found.is_terminal else Console(highlight=False, width=140)


def print_answer(answer: Answer, *, as_json: bool) -> None:
    """Print an answer on standard output."""
    if as_json:
        print(document(answer.data))  # noqa: T201
    elif not answer.shown:
        print(json.dumps(answer.data, indent=2, default=str))  # noqa: T201
    for part in () if as_json else answer.shown:
        if not isinstance(part, str):
            console().print(part)
        elif part:
            print(part)  # noqa: T201
