"""Names, docstrings and citations of the code: nouns of the field, and nothing cited that is not in the repository."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Folders that are held; models and guards stay byte for byte, since recipes that are stored with models import them.
HELD = (
    *(
        f"pipeline_tasks/{name}"
        for name in (
            *("adapters", "annotation", "audit", "backup", "catalog", "cli", "core", "demo", "deployment"),
            *("evaluation", "ingest", "invariants", "monitoring", "orchestration", "project", "stack"),
            *("training", "validation"),
        )
    ),
    "bento_services",
    "benchmarks",
    "dags",
    "data_checks",
    "requirements",
)
FILES = [path for folder in HELD for path in sorted((ROOT / folder).rglob("*.py"))]
# Of tests and clients, names and docstrings are held; a test may have a class of the name that another one has.
TESTS = [path for folder in ("tests", "clients/python") for path in sorted((ROOT / folder).rglob("*.py"))]
# Code that is imported together. The client is a package of its own, and names answers as the gateway's API does.
PACKAGES = (("bento_services", "dags", "data_checks", "pipeline_tasks"), ("clients/python/src",))
NO_NOUN = {"one", "found"}
COMPONENT = re.compile(r"(Who|What|Whether|Which|How|Where|That|If)\b")
CITED_ID = re.compile(r"\b(?:SEC-[A-Z]\d|(?:reports?|rows?|reliability) [A-Z]\d{1,2}\b)|^[A-H]\d{1,2}: ")


def bound_names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno


def docstrings(tree: ast.AST) -> Iterator[tuple[str, int]]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, kinds) and (text := ast.get_docstring(node)):
            yield text, getattr(node, "lineno", 1)


def test_a_variable_is_named_by_a_noun():
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in (*FILES, *TESTS)
        for name, line in bound_names(ast.parse(path.read_text()))
        if name in NO_NOUN
    ]
    assert wrong == []


def test_a_docstring_begins_with_what_the_thing_is():
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {text[:40]}"
        for path in (*FILES, *TESTS)
        for text, line in docstrings(ast.parse(path.read_text()))
        if COMPONENT.match(text)
    ]
    assert wrong == []


@pytest.mark.parametrize("folders", PACKAGES, ids=" ".join)
def test_no_two_public_classes_of_a_package_have_one_name(folders):
    places: dict[str, list[str]] = {}
    for path in tracked(*(f"{folder}/*.py" for folder in folders)):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.splitlines() if (ROOT / name).is_file()]


def test_no_docstring_cites_the_row_of_a_list_that_is_not_here():
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {text[:60]}"
        for path in tracked("*.py")
        for text, line in docstrings(ast.parse(path.read_text()))
        if CITED_ID.search(text)
    ]
    assert wrong == []


@pytest.mark.parametrize(
    "text", ["H6: requests failed", "as said (reliability B8).", "Source: report H15.", "See SEC-M1"]
)
def test_such_a_row_is_noticed(text):
    assert CITED_ID.search(text)
