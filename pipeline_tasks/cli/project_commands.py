"""`dethrone project`: validate, list, remove, migrate, columns, and the schema of project.yaml."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

from pipeline_tasks.cli.command import argument, command
from pipeline_tasks.cli.output import Answer
from pipeline_tasks.core.atomic_files import replace_file
from pipeline_tasks.core.settings import process_environment, projects_dir
from pipeline_tasks.errors import ConfigError
from pipeline_tasks.project.composed_project import ComposedProject
from pipeline_tasks.project.schema import LoadedProject, Project


def schema(_arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the JSON schema of project.yaml, for editors."""
    from pipeline_tasks.project.loader import json_schema

    return json_schema()


def list(_arguments: argparse.Namespace) -> Answer:  # noqa: A001 - the action's name
    """Return the projects whose files are right, composed ones too; the others as errors."""
    projects, composed, errors = _all()
    return _answer([*projects, *composed], errors, ())


def validate(arguments: argparse.Namespace) -> Answer:
    """Check the files of one project, or of all, and whether their sources are there."""
    from pipeline_tasks.annotation.label_studio_projects import check_with_label_studio, labeling_config
    from pipeline_tasks.annotation.people import labels_text
    from pipeline_tasks.evaluation.exam_planning import exam_text, exam_warnings
    from pipeline_tasks.ingest.source_check import check_sources
    from pipeline_tasks.orchestration.project_notes import catalog_there, project_notes
    from pipeline_tasks.orchestration.rollout_warnings import rollout_warnings
    from pipeline_tasks.project.loader import is_composed, load_composed, load_project, read_document

    name = arguments.name
    if name and is_composed(read_document(projects_dir() / name)):
        single = load_composed(projects_dir() / name)
        return _answer([single], (), (), f"{name} is valid: {_kind(single)}. `dethrone graph {name} check`.")
    chosen, composed, refused = ([load_project(projects_dir() / name)], [], []) if name else _all()
    findings = [check_sources(checked, environment=process_environment()) for checked in chosen]
    errors = [*refused, *(problem for finding in findings for problem in finding.problems)]
    warnings = [warning for finding in findings for warning in finding.warnings]
    for loaded in chosen if name else ():
        check_with_label_studio(labeling_config(loaded), file=str(loaded.folder / "labeling.xml"))
    warnings += [*(text for checked in chosen for text in exam_warnings(checked.config)), *rollout_warnings(chosen)]
    catalog = catalog_there()
    warnings += project_notes(chosen, catalog) if catalog is not None else []
    valid = ""
    if name and not errors:
        config = chosen[0].config
        valid = f"{name} is valid: {_kind(config)}. {exam_text(config)} {labels_text(config.labels)}"
    return _answer([*chosen, *composed], errors, warnings, valid if name else None)


def _all() -> tuple[Sequence[LoadedProject], Sequence[ComposedProject], Sequence[str]]:
    from pipeline_tasks.project.loader import load_composed_projects, load_projects

    loaded, errors = load_projects(projects_dir())
    composed, more = load_composed_projects(projects_dir())
    return loaded, composed, [str(error) for error in (*errors, *more)]


def remove(arguments: argparse.Namespace) -> Answer:
    """Take a project out: its servers and DAGs go, what it has learned stays."""
    from pipeline_tasks.cli.output import confirmed
    from pipeline_tasks.core.clock import utc_now
    from pipeline_tasks.orchestration import project_removal
    from pipeline_tasks.orchestration.resources import build_resources

    name = arguments.name
    if not name:
        raise ConfigError("name must be given with remove (got none). `dethrone project list` shows them.")
    if not arguments.yes and not sys.stdin.isatty():
        raise ConfigError(f"--yes must be given where nobody can be asked (got none): {name} stops serving.")
    if not confirmed(f"{name} stops serving and leaves Airflow; its data, models and ledger stay.", yes=arguments.yes):
        return Answer({"message": "Nothing was changed."}, ("Nothing was changed.",), code=1)
    removed = project_removal.remove(build_resources(), name, now=utc_now())
    return Answer(dataclasses.asdict(removed), (removed.as_text(),))


def migrate(arguments: argparse.Namespace) -> Answer:
    """Take a changed class list over, with what becomes of the labels of classes that are gone; or take it back."""
    from pipeline_tasks.annotation.class_migration import as_json, as_lines
    from pipeline_tasks.annotation.class_plan import ClassOptions
    from pipeline_tasks.cli.output import confirmed, shell_attempt
    from pipeline_tasks.orchestration import project_classes
    from pipeline_tasks.orchestration.resources import build_resources

    name = arguments.name
    if not name:
        raise ConfigError("name must be given with migrate (got none). `dethrone project list` shows them.")
    parts = build_resources()
    options = ClassOptions(
        renames=tuple(arguments.rename),
        merges=tuple(arguments.merge),
        removed=tuple(arguments.remove),
        move_to=arguments.move_to,
        drop=arguments.drop,
    )
    migration = project_classes.prepare(parts, name, options, undo=arguments.undo)
    lines, data = as_lines(migration), as_json(migration)
    if not migration.plan.is_empty and not arguments.yes:
        print("\n".join(lines), file=sys.stderr)  # noqa: T201
        if not sys.stdin.isatty() or not confirmed("Carry this out?", yes=False):
            text = "Nothing was changed. Give --yes where nobody can be asked."
            return Answer({**data, "message": text}, (text,), code=1)
    migration = project_classes.migrate(parts, name, options, undo=arguments.undo, attempt=shell_attempt("migrate"))
    text = f"{name} has schema version {migration.version.version}. `--undo` takes a migration back."
    return Answer({**data, "message": text}, ("\n".join([*lines, text]),))


def columns(arguments: argparse.Namespace) -> Answer:
    """Return the columns that a project's data seem to have, as YAML; --write puts them into its project.yaml."""
    from pipeline_tasks.ingest.column_proposal import propose, with_columns
    from pipeline_tasks.project.loader import PROJECT_FILE, load_draft, load_project

    if not arguments.name:
        raise ConfigError("a project must be named (got none). See `dethrone project list`.")
    folder = projects_dir() / arguments.name
    proposals = propose(load_draft(folder), environment=process_environment())
    if not arguments.write:
        text = "columns:\n" + "".join(column.as_yaml() for column in proposals).rstrip("\n")
        return Answer({"columns": text}, (text,))
    path = folder / PROJECT_FILE
    before = path.read_text(encoding="utf-8")
    replace_file(path, with_columns(before, proposals).encode())
    try:
        load_project(folder)
    except ConfigError:
        replace_file(path, before.encode())
        raise
    text = f"Wrote {len(proposals)} columns into {path}. Look through them: a guess is no declaration."
    if texts := [column.name for column in proposals if column.type == "text"]:
        text += f" A text is no input of tabular_mlp ({', '.join(texts)}); a category, with the values that matter, is."
    return Answer({"message": text}, (text,))


def _answer(
    loaded: Sequence[LoadedProject | ComposedProject],
    errors: Sequence[str],
    warnings: Sequence[str],
    text: str | None = None,
) -> Answer:
    for error in errors:
        print(f"error [CONFIG_INVALID]: {error}", file=sys.stderr)  # noqa: T201
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)  # noqa: T201
    configs = [listed if isinstance(listed, ComposedProject) else listed.config for listed in loaded]
    lines = [f"{config.name} ({config.owner}): {_kind(config)}. {config.description}".rstrip() for config in configs]
    data = {
        "projects": [config.model_dump(mode="json") for config in configs],
        "errors": [*errors],
        "warnings": [*warnings],
    }
    return Answer(data, ("\n".join(lines) if text is None else text,), code=2 if errors else 0)


def _kind(project: Project | ComposedProject) -> str:
    if isinstance(project, ComposedProject):
        return f"a graph of {len(project.graph.nodes)} nodes"
    return f"{project.modality}, {len(project.labels.classes)} classes"


@command(
    argument("name"),
    argument("--template", default="image-classification"),
    argument("--classes", default="", help="the labels, with commas between them (empty: the template's)"),
    argument(
        "--labels", type=int, default=1000, help="about how many labels you will have: sizes of exams (default 1000)"
    ),
)
def init(arguments: argparse.Namespace) -> str:
    """Write a working start of a new project."""
    from pipeline_tasks.project.scaffold import init_project

    classes = [label.strip() for label in arguments.classes.split(",")] if arguments.classes else []
    folder = init_project(
        projects_dir(), name=arguments.name, template=arguments.template, classes=classes, labels=arguments.labels
    )
    columns = f"`dethrone project columns {arguments.name} --write`, " if arguments.template == "tabular" else ""
    return (
        f"Wrote {folder}. Next: put data where its project.yaml says, {columns}look through the file, then "
        f"`dethrone project validate {arguments.name}`. Airflow shows it within half a minute."
    )


@command(
    argument("action", choices=["validate", "list", "schema", "remove", "columns", "migrate"]),
    argument("name", nargs="?"),
    argument("--yes", action="store_true", help="remove, migrate: do not ask"),
    argument("--rename", action="append", default=[], metavar="OLD=NEW", help="migrate: a class with another name"),
    argument("--merge", action="append", default=[], metavar="A,B=NEW", help="migrate: classes that become one"),
    argument("--remove", action="append", default=[], metavar="CLASS", help="migrate: with --move-to or --drop"),
    argument("--move-to", metavar="CLASS", help="migrate: what the labels of removed classes become"),
    argument("--drop", action="store_true", help="migrate: items of removed classes have no label any more"),
    argument("--undo", action="store_true", help="migrate: back to the schema version before"),
    argument("--write", action="store_true", help="columns: put them into project.yaml"),
)
def project(arguments: argparse.Namespace) -> Any:
    """Validate, list or remove projects, change their classes or the columns of their tables.

    Or print the JSON schema of project.yaml.
    """
    return globals()[arguments.action](arguments)
