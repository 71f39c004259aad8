"""The answer of a command: one JSON object for programs, text or tables for people, and the exit code."""

from __future__ import annotations

import dataclasses
import json
import secrets
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from pipeline_tasks.core.settings import home_from, process_environment


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
    terminal = Console(highlight=False, soft_wrap=True)
    return terminal if terminal.is_terminal else Console(highlight=False, width=140)


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


def home_folder() -> Path:
    """Return the state folder of this installation."""
    return home_from(process_environment())


def confirmed(question: str, *, yes: bool) -> bool:
    """Ask a person for a yes on standard error; `yes` answers for them."""
    if yes:
        return True
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)  # noqa: T201
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def media_type_of(path: Path) -> str:
    """Return what to call a file's content, by its ending."""
    import mimetypes

    return mimetypes.guess_type(path.name)[0] or "application/octet-stream"


def shell_attempt(task: str) -> Any:
    """Return an attempt of its own for a command."""
    from pipeline_tasks.contracts import SHELL_RUN, Attempt

    return Attempt(run_id=f"{SHELL_RUN}{secrets.token_hex(6)}", task=task)
