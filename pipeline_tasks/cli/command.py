"""Commands with their arguments beside what they do, as `main.build_parser` gathers them from the modules."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from types import ModuleType
from typing import Any

Run = Callable[[argparse.Namespace], Any]
Declare = Callable[[Any], object]  # adds to a parser, or to a group of one


@dataclasses.dataclass(frozen=True, slots=True)
class Command:
    """A word after `dethrone`: its help, its arguments, and the function that it calls."""

    name: str
    help: str
    arguments: tuple[Declare, ...]
    run: Run

    def __call__(self, arguments: argparse.Namespace) -> Any:
        return self.run(arguments)


def command(*arguments: Declare) -> Callable[[Run], Command]:
    """Make a command of a function: its name, and the first line of its docstring as the help."""

    def make(run: Run) -> Command:
        first = (run.__doc__ or "").partition("\n")[0].removesuffix(".")
        return Command(run.__name__.replace("_", "-"), f"{first[:1].lower()}{first[1:]}", arguments, run)

    return make


def argument(*names: str, **options: Any) -> Declare:
    """Return an argument as `argparse` takes it."""
    return lambda parser: parser.add_argument(*names, **options)


def one_of(*choices: Declare, required: bool = False) -> Declare:
    """Return arguments of which one at most may be given, and must be where it is required."""

    def declare(parser: Any) -> None:
        group = parser.add_mutually_exclusive_group(required=required)
        for choice in choices:
            choice(group)

    return declare


def commands_of(module: ModuleType) -> list[Command]:
    """Return the commands that a module defines, in its order."""
    return [value for value in vars(module).values() if isinstance(value, Command)]
