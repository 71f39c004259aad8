"""Consequences of a project's declared columns: the content of its sources, the inputs of its recipe, and checks."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline_tasks.project.columns_schema import ColumnConfig
from pipeline_tasks.project.schema import Project
from pipeline_tasks.project.yaml_reader import Finding, finding, shown

INPUTS = {
    "numbers": ("number", "decimal"),
    "dates": ("date",),
    "categories": ("category", "text", "boolean"),
}
# A day and a time that are another date when day and month, or day and year, change places.
_PROBES = (dt.datetime(2003, 2, 1), dt.datetime(2003, 2, 1, 4, 5, 6))  # noqa: DTZ001  (as written, without a zone)


def complete(project: Project) -> Project:
    """Return the project with what its columns say filled in where the file leaves it out.

    Sources get the columns as their content; the stock recipe for rows gets its inputs, so that training records them.
    """
    if not project.columns:
        return project
    names = [column.name for column in project.columns]
    sources = [source.with_content(names) for source in project.sources]
    recipe = project.recipe
    if recipe.reads_columns and not INPUTS.keys() & recipe.params.keys():
        recipe = recipe.model_copy(update={"params": {**recipe.params, **recipe_inputs(project.columns)}})
    return project.model_copy(update={"sources": sources, "recipe": recipe})


def recipe_inputs(columns: list[ColumnConfig]) -> dict[str, Any]:
    """Return the inputs that the columns are to a recipe for rows: all but texts, in the order of the columns."""
    numbers = [column.name for column in columns if column.type in INPUTS["numbers"]]
    dates = [column.name for column in columns if column.type == "date"]
    categories = {
        column.name: ["false", "true"] if column.type == "boolean" else list(column.values or [])
        for column in columns
        if column.type in ("category", "boolean")
    }
    inputs = {"numbers": numbers, "dates": dates, "categories": categories}
    return {name: value for name, value in inputs.items() if value}


def check_columns(project: Project) -> Iterator[Finding]:
    """Yield what contradicts the declared columns, as (path of the key, message)."""
    if project.columns and project.modality != "tabular":
        text = f"must be left out for the modality {project.modality} (got some): they are those of rows."
        yield finding("columns", text)
        return
    counts = Counter(column.name for column in project.columns)
    for index, column in enumerate(project.columns):
        for key, message in _check_column(column, count=counts[column.name]):
            yield finding(f"columns[{index}].{key}", message)
    yield from _check_sources(project)
    yield from _check_inputs(project)


def _check_column(column: ColumnConfig, *, count: int) -> Iterator[tuple[str, str]]:
    if count > 1:
        yield "name", f"must be unique (got {shown(column.name)} {count} times)."
    if not column.name.isprintable() or len(column.name) > 200:
        yield "name", f"must be 1 to 200 printable characters (got {shown(column.name)})."
    if column.format is not None:
        yield from _check_format(column)
    if column.unit is not None and column.type not in INPUTS["numbers"]:
        yield "unit", f"must be left out where type is {column.type} (got {shown(column.unit)}): only numbers have one."
    if column.values is not None and column.type != "category":
        yield "values", f"must be left out where type is {column.type} (got some): they are those of a category."
    for value, times in Counter(column.values or ()).items():
        if times > 1 or value == "" or value in column.missing:
            yield "values", f"must name each value once, and none that stands in missing (got {shown(value)})."


def _check_format(column: ColumnConfig) -> Iterator[tuple[str, str]]:
    form = column.format or ""
    if column.type != "date":
        yield "format", f"must be left out where type is {column.type} (got {shown(form)})."
        return
    try:
        written = _PROBES[1].replace(tzinfo=dt.UTC).strftime(form)
        dt.datetime.strptime(written, form)  # noqa: DTZ007
    except ValueError as error:
        yield "format", f"must be a format of strptime, such as %d.%m.%Y (got {shown(form)}: {error})."
        return
    for probe in _PROBES:
        text = probe.isoformat().removesuffix("T00:00:00")
        try:
            is_other = dt.datetime.strptime(text, form) != probe  # noqa: DTZ007
        except (ValueError, TypeError):
            continue
        if is_other:
            yield "format", f"must not read ISO dates as other dates (got {shown(form)}). Write the dates another way."


def _check_sources(project: Project) -> Iterator[Finding]:
    declared = {column.name for column in project.columns}
    for index, source in enumerate(project.sources):
        if source.item_columns is None:
            continue
        key, got = f"sources[{index}].content_columns", set(source.item_columns)
        if not got:
            advice = "Name them, or declare `columns` (docs/tables.md)."
            yield finding(key, f"must be a list of at least 1 column (got none). {advice}")
        elif declared and got != declared:
            more = ", ".join(sorted(got ^ declared)[:10])
            text = f"must be the names in columns (got a difference: {more}). Leave content_columns out."
            yield finding(key, text)


def _check_inputs(project: Project) -> Iterator[Finding]:
    """Check that the inputs of the stock recipe for rows have fitting types."""
    if not project.recipe.reads_columns or not project.columns:
        return
    types = {column.name: column.type for column in project.columns}
    for param, fitting in INPUTS.items():
        for name in _names(project.recipe.params.get(param)):
            if name in types and types[name] not in fitting:
                yield finding(
                    f"recipe.params.{param}",
                    f"must name columns of the type {' or '.join(fitting)} "
                    f"(got {shown(name)}, declared as {types[name]}).",
                )
    for index, column in enumerate(project.columns):
        if column.type == "category" and not column.values and _is_derived(project, column.name):
            yield finding(
                f"columns[{index}].values",
                "must list the values that the model tells apart (got none). "
                f"`dethrone project columns {project.name}` shows those in the data.",
            )


def _is_derived(project: Project, name: str) -> bool:
    categories = project.recipe.params.get("categories")
    return isinstance(categories, Mapping) and categories.get(name) == []


def _names(value: Any) -> list[str]:
    return [name for name in value if isinstance(name, str)] if isinstance(value, list | dict) else []
