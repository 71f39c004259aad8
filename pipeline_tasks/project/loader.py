"""Loads projects: project.yaml and labeling.xml into one checked value, or errors that say file, line, key and fix.

Without a labeling.xml the project has the stock one of its modality.
"""

from __future__ import annotations

import difflib
import typing
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pipeline_tasks.errors import ConfigError
from pipeline_tasks.project.checks import check_project
from pipeline_tasks.project.composed_project import ComposedProject, shape_problems
from pipeline_tasks.project.declared_columns import complete
from pipeline_tasks.project.labeling_config import LABELING_FILE, parse_labeling, stock_labeling
from pipeline_tasks.project.schema import SCHEMA_VERSION, LoadedProject, Modality, Project
from pipeline_tasks.project.yaml_reader import (
    Document,
    Path_,
    Problem,
    ProjectError,
    decode_utf8,
    dotted,
    parse_yaml,
    read_limited,
    shown,
)

PROJECT_FILE = "project.yaml"
_NO_VALUE = object()
Kind = typing.TypeVar("Kind", bound=BaseModel)
_EXPECTED = {
    "missing": "set",
    "string_type": "text",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "float_type": "a number",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "literal_error": "{expected}",
    "greater_than": "greater than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "too_short": "a list of at least {min_length}",
    "too_long": "a list of at most {max_length}",
    "string_pattern_mismatch": "text that matches {pattern}",
    "union_tag_not_found": "a mapping with a `type`: folder, s3, table or sql",
    "union_tag_invalid": "of a `type` out of {expected_tags}",
}
_ADVICE = {
    "string_type": "Put it into quotes.",
    "bool_type": "Write true or false without quotes (yes and no are text).",
    "int_type": "Write it without quotes and without a point.",
    "float_type": "Write it without quotes.",
    "missing": "Add it.",
}


def load_project(folder: Path) -> LoadedProject:
    """Read and check one project's folder.

    Raises:
        ProjectError: project.yaml is missing, or it or labeling.xml is wrong; names file, line, column, key and value.
    """
    document = read_document(folder)
    if is_composed(document):
        message = (
            f"{folder.name} must have data and a model of its own here (got a graph of other projects). "
            f"See `dethrone graph {folder.name} check`."
        )
        raise ProjectError([document.problem(("graph",), message)])
    return _load(folder, document)


def load_draft(folder: Path) -> LoadedProject:
    """Read a project's settings without checking them against each other: what `project columns` completes.

    Raises:
        ProjectError: project.yaml is missing, no YAML, or a value is of a wrong type.
    """
    config = _typed(read_document(folder), Project)
    return LoadedProject(config=config, folder=folder.resolve(), labeling_xml="")


def load_composed(folder: Path) -> ComposedProject:
    """Read and check the file of one composed project, but for what only the other projects can say.

    Raises:
        ProjectError: it is missing or wrong, or has no graph.
    """
    document = read_document(folder)
    if not is_composed(document):
        message = "graph must be set: this project has a model of its own. See docs/graph.md."
        raise ProjectError([document.problem(("graph",), message)])
    config = _typed(document, ComposedProject)
    problems = [document.problem(key, message) for key, message in shape_problems(config.graph)]
    if problems := problems + _name_problems(config.name, document, folder=folder):
        raise ProjectError(problems)
    return config


def read_document(folder: Path) -> Document:
    """Return a project's file as values with positions; ProjectError when it is missing or no YAML."""
    path = folder / PROJECT_FILE
    data = read_limited(path, what=str(path), advice="Write one with `dethrone init <name>`.")
    return parse_yaml(data, file=str(path))


def is_composed(document: Document) -> bool:
    """Tell whether a file is that of a composed project."""
    return isinstance(document.value, dict) and "graph" in document.value


def _name_problems(name: str, document: Document, *, folder: Path) -> list[Problem]:
    expected = folder.resolve().name
    if name == expected:
        return []
    return [document.problem(("name",), f"name must be the name of the project's folder, {expected!r} (got {name!r}).")]


def _load(folder: Path, document: Document) -> LoadedProject:
    config = complete(_typed(document, Project))
    problems = [document.problem(key, message) for key, message in check_project(config, folder=folder)]
    problems += _name_problems(config.name, document, folder=folder)
    labeling_path = folder / LABELING_FILE
    labeling_xml = ""
    try:
        labeling_xml = _labeling_text(labeling_path, modality=config.modality)
        classes = config.labels.classes
        parse_labeling(labeling_xml, modality=config.modality, classes=classes, file=str(labeling_path))
    except ProjectError as error:
        problems += error.problems
    if problems:
        raise ProjectError(problems)
    return LoadedProject(config=config, folder=folder.resolve(), labeling_xml=labeling_xml)


def _labeling_text(path: Path, *, modality: Modality) -> str:
    if not path.exists():
        return stock_labeling(modality)
    return decode_utf8(read_limited(path, what=str(path), advice="Write it again, or delete it."), file=str(path))


def load_projects(folder: Path) -> tuple[list[LoadedProject], list[ConfigError]]:
    """Read every project below a folder; a broken one becomes an error and leaves the others alone.

    Composed projects are left out: they have nothing to ingest, label or train.
    """
    projects: list[LoadedProject] = []
    errors: list[ConfigError] = []
    try:
        children = sorted(child for child in folder.iterdir() if child.is_dir() and child.name[0] not in "._")
    except OSError as error:
        advice = "Set DETHRONE_PROJECTS to the folder that holds your projects."
        return [], [ConfigError(f"{folder} must be a readable folder (got {error.strerror}). {advice}")]
    for child in children:
        try:
            document = read_document(child)
            if not is_composed(document):
                projects.append(_load(child, document))
        except ConfigError as error:
            errors.append(error)
    return projects, errors


def load_composed_projects(folder: Path) -> tuple[list[ComposedProject], list[ConfigError]]:
    """Read every composed project below a folder; a broken one becomes an error.

    A file that is no YAML is neither: `load_projects` tells of it.
    """
    projects: list[ComposedProject] = []
    errors: list[ConfigError] = []
    for path in sorted(folder.glob(f"[!._]*/{PROJECT_FILE}")):
        try:
            if not is_composed(read_document(path.parent)):
                continue
        except ConfigError:
            continue
        try:
            projects.append(load_composed(path.parent))
        except ConfigError as error:
            errors.append(error)
    return projects, errors


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of project.yaml, for editors."""
    ref_template = "#/$defs/{model}"
    kinds = [kind.model_json_schema(ref_template=ref_template) for kind in (Project, ComposedProject)]
    definitions = {name: value for kind in kinds for name, value in kind.pop("$defs").items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Dethrone project.yaml",
        "$defs": definitions | {kind["title"]: kind for kind in kinds},
        "if": {"required": ["graph"]},
        "then": {"$ref": "#/$defs/ComposedProject"},
        "else": {"$ref": "#/$defs/Project"},
    }


def _typed(document: Document, kind: type[Kind]) -> Kind:
    """Return the typed project of a parsed file; raises ProjectError with every problem that pydantic finds."""
    if not isinstance(document.value, dict):
        got = "nothing" if document.value is None else shown(document.value)
        message = f"{PROJECT_FILE} must be a mapping with name, modality, sources, labels and recipe (got {got})."
        raise ProjectError([document.problem((), message)])
    version = document.value.get("version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION or isinstance(version, bool):
        message = (
            f"version must be {SCHEMA_VERSION} (got {shown(version)}). "
            f"This release reads version {SCHEMA_VERSION}; CHANGELOG.md says how to change files of other versions."
        )
        raise ProjectError([document.problem(("version",), message)])
    try:
        return kind.model_validate(document.value)
    except ValidationError as error:
        raise ProjectError([_problem(detail, document=document, kind=kind) for detail in error.errors()]) from None


def _problem(detail: ErrorDetails, *, document: Document, kind: type[BaseModel]) -> Problem:
    path = _path_in_file(detail["loc"], value=document.value)
    key, error = dotted(path), detail["type"]
    if error == "extra_forbidden":
        known = _known_keys(detail["loc"][:-1], root=kind)
        close = difflib.get_close_matches(str(path[-1]), known, n=1)
        hint = f"Did you mean {close[0]}?" if close else f"Known here: {', '.join(known)}."
        return document.problem(path, f"{key} must be a known key (got an unknown one). {hint}")
    got = "nothing" if error == "missing" else shown(_value_at(document.value, path))
    expected = _EXPECTED.get(error, "valid: {message}").format_map({"message": detail["msg"], **detail.get("ctx", {})})
    advice = _ADVICE.get(error, "See docs/project.schema.json.")
    return document.problem(path, f"{key} must be {expected} (got {got}). {advice}")


def _path_in_file(location: tuple[int | str, ...], *, value: Any) -> Path_:
    """Return pydantic's location without the union tags, which the file does not have: nothing lies below a scalar."""
    path: list[int | str] = []
    for index, part in enumerate(location):
        is_tag = isinstance(value, dict) and value.get("type") == part and index < len(location) - 1
        if (is_tag and path and isinstance(path[-1], int)) or (value is not _NO_VALUE and not _holds_keys(value)):
            continue
        path.append(part)
        value = _value_at(value, (part,))
    return tuple(path)


def _holds_keys(value: Any) -> bool:
    return isinstance(value, dict | list)


def _value_at(value: Any, path: Path_) -> Any:
    for part in path:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return _NO_VALUE
    return None if value is _NO_VALUE else value


def _known_keys(location: tuple[int | str, ...], *, root: type[BaseModel]) -> list[str]:
    """Return the keys that the schema knows at pydantic's location."""
    kinds: list[Any] = [root]
    for part in location:
        if isinstance(part, int) or all(
            "type" not in kind.model_fields and part not in kind.model_fields for kind in kinds
        ):
            continue  # a place in a list, or a name that the user chose
        models = [kind for kind in kinds if part in kind.model_fields]
        if models:
            kinds = [m for kind in models for m in _models_in(kind.model_fields[part].annotation)]
        else:
            kinds = [kind for kind in kinds if part in typing.get_args(kind.model_fields["type"].annotation)]
    return sorted({key for kind in kinds for key in kind.model_fields})


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and typing.get_origin(annotation) is None and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in typing.get_args(annotation) for model in _models_in(argument)]
