"""Every key of project.yaml, setting, form field and flag is read by some code: one without an effect is a defect.

Docs are looked through, too: a file that is cited is there.
"""

import argparse
import ast
import dataclasses
import inspect
import re
import subprocess
import typing
from pathlib import Path

import pytest
from pydantic import BaseModel

from bento_services.gateway.config import GatewayConfig
from bento_services.gateway.prediction_log.store_config import StoreConfig
from pipeline_tasks.cli import main as cli_main
from pipeline_tasks.core.settings import Settings
from pipeline_tasks.orchestration import entrypoints
from pipeline_tasks.project.composed_project import ComposedProject
from pipeline_tasks.project.schema import Project

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("dags", "pipeline_tasks", "bento_services", "data_checks")
SOURCES = {path: ast.parse(path.read_text()) for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
SCHEMA_FILES = {"schema.py", "serving_schema.py", "section.py"}
# What is read otherwise than by its name, each with the place.
READ_ELSEWHERE = {
    "type": "pydantic chooses the source's kind by it",
    "version": "project.loader compares it before anything is typed",
}
FLAGS_READ_ELSEWHERE = {
    "json": "cli/main.py looks for the word itself, so that it holds for a wrong usage too",
    "verbose": "cli/main.py sets up the log with it before the command is known",
}


def attributes_read(*, leaving_out: set[str]) -> set[str]:
    return {
        node.attr
        for path, tree in SOURCES.items()
        if path.name not in leaving_out
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }


def models_of(kind: type[BaseModel], seen: set[type[BaseModel]] | None = None) -> set[type[BaseModel]]:
    seen = set() if seen is None else seen
    if kind not in seen:
        seen.add(kind)
        for field in kind.model_fields.values():
            for model in models_in(field.annotation):
                models_of(model, seen)
    return seen


def models_in(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and typing.get_origin(annotation) is None:
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [model for argument in typing.get_args(annotation) for model in models_in(argument)]


PROJECT_KEYS = sorted(
    {
        (model.__name__.strip("_"), key)
        for root in (Project, ComposedProject)
        for model in models_of(root)
        for key in model.model_fields
    }
)


def test_the_schema_has_keys_to_look_for():
    assert len(PROJECT_KEYS) > 80


@pytest.mark.parametrize(("model", "key"), PROJECT_KEYS, ids=lambda value: value)
def test_a_key_of_project_yaml_is_read(model, key):
    assert key in READ_ELSEWHERE or key in attributes_read(leaving_out=SCHEMA_FILES), f"{model}.{key}"


@pytest.mark.parametrize("kind", [Settings, GatewayConfig, StoreConfig], ids=lambda kind: kind.__name__)
def test_a_setting_is_read(kind):
    home = {Path(inspect.getfile(kind)).name}
    names = {field.name for field in dataclasses.fields(kind)}
    names |= {name for name, value in vars(kind).items() if isinstance(value, property)}
    assert names
    assert names - attributes_read(leaving_out=home) == set()


def test_a_variable_of_the_settings_page_is_read():
    table = (ROOT / "docs" / "settings.md").read_text()
    named = set(re.findall(r"\b(?:DETHRONE|WANDB)_[A-Z0-9_]+", table))
    texts = [node.value for tree in SOURCES.values() for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    code = "\n".join(text for text in texts if isinstance(text, str))
    secrets = {f"DETHRONE_{name.upper()}" for name in re.findall(r'_secret\("(\w+)"\)', inspect.getsource(Settings))}
    assert len(named) > 12
    assert {name for name in named - secrets if name not in code} == set()


def calls_of(tree: ast.AST, name: str) -> list[ast.Call]:
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == name]


def keywords(call: ast.Call) -> dict[str, ast.expr]:
    return {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}


DAGS = sorted(path for path in SOURCES if path.parent.name == "dags")


@pytest.mark.parametrize("path", DAGS, ids=lambda path: path.stem)
def test_a_field_of_a_dags_form_reaches_a_stage(path):
    tree = SOURCES[path]
    for dag in calls_of(tree, "DAG"):
        fields = keywords(dag).get("params")
        named = {key.value for key in fields.keys} if fields else set()
        assert named == {call.args[0].value for call in calls_of(tree, "param")}


@pytest.mark.parametrize("path", DAGS, ids=lambda path: path.stem)
def test_an_argument_of_a_stage_is_used_by_it(path):
    for call in calls_of(SOURCES[path], "StageOperator"):
        given = keywords(call)
        stage = getattr(entrypoints, given["stage"].value).__wrapped__
        (body,) = ast.parse(inspect.getsource(stage)).body
        loaded = {node.id for node in ast.walk(body) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
        for key in given["arguments"].keys if "arguments" in given else []:
            assert key.value in inspect.signature(stage).parameters
            assert key.value in loaded


def test_the_approvals_form_is_read():
    tree = SOURCES[ROOT / "pipeline_tasks" / "orchestration" / "airflow_operators.py"]
    (form,) = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "approval_form"]
    fields = {key.value for node in ast.walk(form) if isinstance(node, ast.Dict) for key in node.keys}
    reads = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    read = {
        call.args[0].value
        for call in reads
        if call.func.attr == "get" and call.args and isinstance(call.args[0], ast.Constant)
    }
    assert fields == {"reason"}
    assert fields <= read


def flags() -> list[tuple[str, str, str]]:
    (actions,) = [
        action for action in cli_main.build_parser()._actions if isinstance(action, argparse._SubParsersAction)
    ]
    return [
        (name, action.dest, inspect.getmodule(parser.get_default("command")).__name__)
        for name, parser in actions.choices.items()
        for action in parser._actions
        if action.dest not in {"help", *FLAGS_READ_ELSEWHERE}
    ]


@pytest.mark.parametrize(("command", "flag", "module"), flags(), ids=lambda value: value)
def test_a_flag_is_read_by_the_commands_module(command, flag, module):
    read = {
        node.attr
        for node in ast.walk(SOURCES[ROOT.joinpath(*module.split(".")).with_suffix(".py")])
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in {"arguments", "parsed"}
    }
    assert flag in read, f"dethrone {command}: {flag}"


def test_what_is_read_elsewhere_is_still_read_there():
    main = inspect.getsource(cli_main.main)
    assert {f"--{name}" for name in FLAGS_READ_ELSEWHERE} <= set(re.findall(r'"(--\w+)"', main))
    assert 'document.value.get("version"' in (ROOT / "pipeline_tasks" / "project" / "loader.py").read_text()


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    kept = (".md", ".py", ".toml", ".template", ".yml", ".yaml", ".ts")
    return [ROOT / name for name in listed.splitlines() if name.endswith(kept) and (ROOT / name).is_file()]


def test_a_document_that_is_cited_is_there():
    """`docs/adr/0013` means the one file that begins so."""
    missing = set()
    for path in tracked():
        for name in re.findall(
            r"(?<![\w/.-])docs/(?:adr/\d{4}[\w-]*|[\w/-]+\.(?:md|json|py|png))", path.read_text(encoding="utf-8")
        ):
            places = [*ROOT.glob(f"{name}*"), *path.parent.glob(f"{name}*")]
            if not places:
                missing.add(f"{path.relative_to(ROOT)}: {name}")
    assert missing == set()


def test_a_page_that_is_named_is_there():
    """A bare name is one of the root or of docs/, or stands beside what names it."""
    missing = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in tracked()
        for name in re.findall(r"(?<![\w/.{}*-])[\w/-]+\.md\b", path.read_text(encoding="utf-8"))
        if not any((folder / name).is_file() for folder in (ROOT, ROOT / "docs", ROOT / "docs" / "adr", path.parent))
    }
    assert missing == set()
