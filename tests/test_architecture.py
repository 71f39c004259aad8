"""Imports go down only; importing has no effect; nothing unpickles; every `__init__.py` is empty."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("dags", "pipeline_tasks", "bento_services", "data_checks")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

AIRFLOW_FILES = {
    "pipeline_tasks/orchestration/airflow_operators.py",
    "pipeline_tasks/orchestration/airflow_plugin.py",
    "pipeline_tasks/adapters/airflow_connections.py",
}
ENVIRONMENT_FILES = {
    "pipeline_tasks/core/settings.py",
    "bento_services/gateway/config.py",
    "bento_services/inference/config.py",
}
HEAVY = {
    "torch",
    "onnx",
    "onnxruntime",
    "great_expectations",
    "wandb",
    "bentoml",
    "pandas",
    "optuna",
    "label_studio_sdk",
    "boto3",
    "scipy",
}

# layer -> what it may import of ours. Longest matching prefix wins.
ALLOWED = {
    "dags": ("pipeline_tasks.orchestration.airflow_operators",),
    "bento_services": (
        "bento_services",
        "pipeline_tasks.models",
        "pipeline_tasks.guards",
        "pipeline_tasks.contracts",
        "pipeline_tasks.errors",
    ),
    "data_checks": (
        "data_checks",
        "pipeline_tasks.contracts",
        "pipeline_tasks.errors",
        "pipeline_tasks.project.schema",
    ),
    "pipeline_tasks.contracts": (),
    "pipeline_tasks.errors": (),
    "pipeline_tasks.guards": ("pipeline_tasks.guards", "pipeline_tasks.errors", "pipeline_tasks.contracts"),
    "pipeline_tasks.models": (
        "pipeline_tasks.models",
        "pipeline_tasks.guards",
        "pipeline_tasks.errors",
        "pipeline_tasks.contracts",
    ),
    "pipeline_tasks.core.ports": ("pipeline_tasks.contracts", "pipeline_tasks.errors"),
}
FORBIDDEN_CALLS = {
    "pickle",
    "cloudpickle",
    "dill",
    "joblib",
    "shelve",
    "marshal",
}


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path, *, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def ours(names: set[str]) -> set[str]:
    return {name for name in names if name.split(".")[0] in PACKAGES}


def allowed_for(module: str) -> tuple[str, ...] | None:
    matches = [prefix for prefix in ALLOWED if module == prefix or module.startswith(f"{prefix}.")]
    return ALLOWED[max(matches, key=len)] if matches else None


def test_there_is_something_to_check():
    assert len(FILES) > 60


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_go_down_only(path):
    allowed = allowed_for(module_of(path))
    names = ours(imports_of(path))
    if allowed is not None:
        wrong = {
            name
            for name in names
            if not any(
                name == prefix or name.startswith(f"{prefix}.") or prefix.startswith(f"{name}.") for prefix in allowed
            )
        }
        assert not wrong, f"{module_of(path)} may import {allowed} of ours"
    assert not {name for name in names if name.split(".")[0] == "dags"}, "nothing imports a DAG file"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_only_the_glue_knows_airflow(path):
    relative = path.relative_to(ROOT).as_posix()
    if relative.startswith("dags/") or relative in AIRFLOW_FILES:
        return
    assert not {name for name in imports_of(path) if name.split(".")[0] == "airflow"}


@pytest.mark.parametrize(
    "path", [path for path in FILES if module_of(path).startswith("pipeline_tasks")], ids=module_of
)
def test_stages_do_not_read_the_environment(path):
    if path.relative_to(ROOT).as_posix() in ENVIRONMENT_FILES:
        return
    reads = [
        node.attr
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and node.attr in {"environ", "getenv"}
        and isinstance(node.value, ast.Name)
        and node.value.id == "os"
    ]
    assert not reads, "settings.py is the only reader of the environment"


@pytest.mark.parametrize(
    "path",
    [
        ROOT / "pipeline_tasks" / "orchestration" / "airflow_operators.py",
        ROOT / "pipeline_tasks" / "orchestration" / "airflow_plugin.py",
        *sorted((ROOT / "dags").glob("*.py")),
    ],
    ids=lambda path: path.name,
)
def test_what_every_airflow_process_parses_is_light(path):
    assert not {name.split(".")[0] for name in imports_of(path, top_level_only=True)} & HEAVY


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_nothing_unpickles(path):
    assert not {name.split(".")[0] for name in imports_of(path)} & FORBIDDEN_CALLS


# Of these, torch's read pickles or programs; a model here is safetensors and ONNX.
LOADERS = ("torch.load", "torch.jit.load", "torch.export.load", "torch.package.PackageImporter", "torch.hub.load")
LOADERS += ("yaml.load", "yaml.unsafe_load", "yaml.full_load", "pandas.read_pickle", "pd.read_pickle")


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_nothing_calls_a_library_that_unpickles(path):
    called = [ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    assert [name for name in called if name in LOADERS] == []


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_no_assert_outside_tests(path):
    assert not [node.lineno for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Assert)]


@pytest.mark.parametrize("path", [path for path in FILES if path.name == "__init__.py"], ids=module_of)
def test_init_files_are_empty(path):
    assert not ast.parse(path.read_text()).body


LONG_ON_PURPOSE = {"pipeline_tasks.catalog.tables"}  # one flat list of tables reads better in one place


@pytest.mark.parametrize("path", [path for path in FILES if module_of(path) not in LONG_ON_PURPOSE], ids=module_of)
def test_files_stay_short(path):
    assert len(path.read_text().splitlines()) <= 400
