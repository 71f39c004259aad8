"""Protections of the product: what each promises, the fragment that is it, and the tests that fail without it."""

from __future__ import annotations

import ast
import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True, slots=True)
class Protection:
    """A fragment of a source file that keeps a promise, and what takes its place to switch it off.

    Each of `tests` (a file and a function, of which one parameter suffices) passes with it and fails without it.
    `served`: they start real services, which takes longer; a sample leaves such a protection out.
    """

    name: str
    promise: str
    file: str
    original: str
    off: str
    tests: tuple[str, ...]
    served: bool = False

    def switched_off(self, source: str) -> str:
        """Return the file's text without the protection."""
        return source.replace(self.original, self.off)


def faults(protection: Protection, *, root: Path = ROOT) -> Iterator[str]:
    """Tell what of a protection's row does not fit the tree any more; runs nothing."""
    path = root / protection.file
    count = path.read_text().count(protection.original) if path.is_file() else 0
    if count != 1:
        yield f"its text must stand exactly once in {protection.file} (got it {count} times). Write the row anew."
    if protection.original == protection.off:
        yield "its text must be changed (got the same). Write the row anew."
    if not protection.tests:
        yield "it must have a test that fails without it (got none). Write one."
    for test in protection.tests:
        file, _, name = test.partition("::")
        if name.partition("[")[0] not in _tests_in(root / file):
            yield f"{test} must be a test (got no such function). Name the one that fails without it."


@functools.cache
def _tests_in(path: Path) -> frozenset[str]:
    """Return the tests of a file: functions, and `Class::method`."""
    if not path.is_file():
        return frozenset()
    tests = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            tests |= {
                f"{node.name}::{function.name}" for function in node.body if isinstance(function, ast.FunctionDef)
            }
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            tests.add(node.name)
    return frozenset(tests)
