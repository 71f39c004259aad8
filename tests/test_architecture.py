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

# Each may import what stands lower and itself, never what stands beside or above; imports within functions count too.
LAYERS = (
    ("dags", "pipeline_tasks.cli"),
    ("pipeline_tasks.demo", "pipeline_tasks.backup"),
    ("pipeline_tasks.orchestration", "pipeline_tasks.audit", "pipeline_tasks.invariants"),
    ("pipeline_tasks.monitoring", "pipeline_tasks.evaluation"),
    ("pipeline_tasks.validation", "pipeline_tasks.training", "pipeline_tasks.stack"),
    (
        "pipeline_tasks.ingest",
        "pipeline_tasks.annotation",
        "pipeline_tasks.deployment",
        "pipeline_tasks.adapters",
        "data_checks",
    ),
    ("pipeline_tasks.project", "bento_services"),
    ("pipeline_tasks.models", "pipeline_tasks.catalog"),
    ("pipeline_tasks.guards", "pipeline_tasks.core"),
    ("pipeline_tasks.contracts", "pipeline_tasks.errors"),
)
RANKS = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
# Narrower than its layer, with the reason; `pipeline_tasks.` stands before each name but `data_checks`.
ONLY = {
    "dags": {"orchestration"},  # parsed every few seconds
    "bento_services": {"models", "guards", "contracts", "errors"},  # a release's image holds nothing else of ours
    "data_checks": {"project", "core", "contracts", "errors"},
    "pipeline_tasks.models": {"guards", "contracts", "errors"},  # as above
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
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def ours(names: set[str]) -> set[str]:
    return {name for name in names if name.split(".")[0] in PACKAGES}


def room_of(module: str) -> str:
    """Return the name in the layers that a module belongs to."""
    (room,) = [name for name in RANKS if module == name or module.startswith(f"{name}.")]
    return room


def imported_modules(path: Path) -> set[str]:
    """Return the modules of ours that a file imports anywhere; of a name within one, that one."""
    return ours(imports_of(path)) & MODULES.keys()


MODULES = {module_of(path): path for path in FILES if path.name != "__init__.py"}


def test_there_is_something_to_check():
    assert len(FILES) > 60


@pytest.mark.parametrize(("module", "path"), MODULES.items(), ids=MODULES)
def test_imports_go_down_only(module, path):
    room = room_of(module)
    others = {name: room_of(name) for name in imported_modules(path) if room_of(name) != room}
    assert {name for name, other in others.items() if RANKS[other] <= RANKS[room]} == set()
    if room in ONLY:
        assert {other.removeprefix("pipeline_tasks.") for other in others.values()} <= ONLY[room]


def test_a_dag_file_imports_the_operators_and_nothing_else_of_ours():
    names = {name for module, path in MODULES.items() if room_of(module) == "dags" for name in imported_modules(path)}
    assert names == {"pipeline_tasks.orchestration.airflow_operators"}


def test_no_imports_in_a_circle():
    left = {module: imported_modules(path) for module, path in MODULES.items()}
    while done := {module for module, names in left.items() if not names & left.keys()}:
        left = {module: names for module, names in left.items() if module not in done}
    assert {module: names & left.keys() for module, names in left.items()} == {}


def test_the_package_has_its_stages_side_by_side():
    folders = {path.name for path in (ROOT / "pipeline_tasks").iterdir() if (path / "__init__.py").is_file()}
    assert folders == {name.removeprefix("pipeline_tasks.") for name in RANKS if "." in name} - {"contracts", "errors"}
    assert {path.name for path in (ROOT / "pipeline_tasks").glob("*.py")} == {
        "__init__.py",
        "contracts.py",
        "errors.py",
    }


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
    assert not reads, "core/settings.py is the only reader of the environment"


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


# One flat list of tables, or of values between stages, reads better in one place.
LONG_ON_PURPOSE = {"pipeline_tasks.catalog.tables", "pipeline_tasks.contracts"}


@pytest.mark.parametrize("path", [path for path in FILES if module_of(path) not in LONG_ON_PURPOSE], ids=module_of)
def test_files_stay_short(path):
    assert len(path.read_text().splitlines()) <= 400
