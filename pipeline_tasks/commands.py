"""What each `dethrone` command does; `cli.py` has their names and arguments."""

from __future__ import annotations

import argparse
import dataclasses
import json
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from pipeline_tasks.errors import ConfigError
from pipeline_tasks.settings import home_from, load_settings, process_environment, projects_dir


def _console() -> Console:
    """Return a console that is wide enough for tables where the output goes to a file."""
    console = Console(highlight=False, soft_wrap=True)
    return console if console.is_terminal else Console(highlight=False, width=140)


def _home() -> Path:
    return home_from(process_environment())


def up(arguments: argparse.Namespace) -> Any:
    """Start the stack."""
    from pipeline_tasks.stack import render
    from pipeline_tasks.wiring.stack_up import start_stack

    console = _console()
    with render.progress(console) as on_event:
        report = start_stack(_home(), projects_dir=projects_dir(), environment=process_environment(), on_event=on_event)
    if arguments.json:
        return dataclasses.asdict(report)
    console.print(render.up_table(report))
    console.print(f"Passwords are in {_home() / 'secrets'} (airflow_admin_password, label_studio_password).")
    return None


def down(_arguments: argparse.Namespace) -> None:
    """Stop the stack."""
    from pipeline_tasks.stack import lifecycle, render

    with render.progress(_console()) as on_event:
        lifecycle.down(_home(), on_event=on_event)


def status(arguments: argparse.Namespace) -> Any:
    """Show the parts; exit code 0 only when all are healthy."""
    from pipeline_tasks.stack import render
    from pipeline_tasks.stack import status as stack_status

    found = stack_status.status(_home())
    if arguments.json:
        _write_json(dataclasses.asdict(found))
    else:
        _console().print(render.status_table(found))
        if not found.running:
            _console().print("The stack is not running. `dethrone up` starts it.")
    return 0 if found.healthy else 1


def logs(arguments: argparse.Namespace) -> Any:
    """Print the ends of logs."""
    from pipeline_tasks.stack import status as stack_status

    found = stack_status.logs(_home(), part=arguments.part, num_lines=arguments.lines)
    if arguments.json:
        return found
    return "\n\n".join(f"== {name}\n" + "\n".join(lines) for name, lines in found.items())


def doctor(arguments: argparse.Namespace) -> Any:
    """Look for what would break."""
    from pipeline_tasks.stack import doctor as stack_doctor
    from pipeline_tasks.stack import render

    checks = stack_doctor.doctor(_home())
    if arguments.json:
        _write_json([dataclasses.asdict(check) for check in checks])
    else:
        _console().print(render.doctor_table(checks))
    return 0 if all(check.ok for check in checks) else 1


def demo(arguments: argparse.Namespace) -> Any:
    """Run the whole loop."""
    from pipeline_tasks.demo.story import tell

    return tell(_home(), labeler=arguments.labeler, size=arguments.size, rounds=arguments.rounds)


def init(arguments: argparse.Namespace) -> str:
    """Write a new project."""
    from pipeline_tasks.project_init import init_project

    folder = init_project(projects_dir(), name=arguments.name, template=arguments.template)
    return (
        f"Wrote {folder}. Next: put data where its project.yaml says, look through the file, then "
        f"`dethrone project validate {arguments.name}`. Airflow shows it within half a minute."
    )


def project(arguments: argparse.Namespace) -> Any:
    """Validate or list projects, or print the JSON schema of project.yaml."""
    from pipeline_tasks.project_checks import deprecations
    from pipeline_tasks.project_loader import (
        is_composed,
        json_schema,
        load_composed,
        load_project,
        load_projects,
        read_document,
    )

    if arguments.action == "schema":
        return json_schema()
    if arguments.action == "validate" and arguments.name:
        folder = projects_dir() / arguments.name
        if is_composed(read_document(folder)):
            nodes = load_composed(folder).graph.nodes
            return f"{arguments.name} is valid: a graph of {len(nodes)} nodes. `dethrone graph {arguments.name} check`."
        loaded = load_project(folder)
        valid = f"{loaded.name} is valid: {loaded.config.modality}, {len(loaded.config.labels.classes)} classes."
        return "\n".join([valid, *deprecations(loaded.config)])
    found, errors = load_projects(projects_dir())
    for error in errors:
        print(f"error [{error.code}]: {error}", file=sys.stderr)  # noqa: T201
    if arguments.json:
        _write_json([loaded.config.model_dump(mode="json") for loaded in found])
    else:
        for loaded in found:
            print(f"{loaded.name}: {loaded.config.description or loaded.config.modality}")  # noqa: T201
    return 2 if errors else 0


def stage(name: str) -> Callable[[argparse.Namespace], Any]:
    """Return the command that runs one stage of a project by its entry point."""

    def run(arguments: argparse.Namespace) -> Any:
        from pipeline_tasks import entrypoints

        return getattr(entrypoints, name)(arguments.project, attempt=shell_attempt(name))

    return run


def train(arguments: argparse.Namespace) -> Any:
    """Run the train DAG's stages one after the other in this process."""
    from pipeline_tasks.wiring.shell_run import closing_lines, shown_progress, train_to_serve

    with shown_progress():
        found = train_to_serve(arguments.project, force=arguments.force, window=arguments.window)
    return found if arguments.json else closing_lines(arguments.project, found)


def wandb(arguments: argparse.Namespace) -> str:  # noqa: ARG001 - `sync` is the only action
    """Upload the runs that were recorded while no W&B server could be reached."""
    from pipeline_tasks.assembly import build_parts

    synced = build_parts().tracker.sync()
    return f"{len(synced)} runs uploaded." if synced else "No offline run waits."


def rollback(arguments: argparse.Namespace) -> Any:
    """Return to an earlier champion."""
    import getpass

    from pipeline_tasks import entrypoints

    return entrypoints.rollback(
        arguments.project,
        attempt=shell_attempt("rollback"),
        to_version=arguments.to_version,
        reason=arguments.reason,
        actor=getpass.getuser(),
    )


def predict(arguments: argparse.Namespace) -> Any:
    """Send one file to the gateway."""
    import httpx

    settings = load_settings()
    if not arguments.file.is_file():
        raise ConfigError(f"file must exist (got {arguments.file}).")
    key = (settings.home / "secrets" / "gateway_api_key").read_text().strip()
    answer = httpx.post(
        f"{settings.gateway_url}/v1/projects/{arguments.project}/predict",
        content=arguments.file.read_bytes(),
        headers={"Authorization": f"Bearer {key}", "Content-Type": media_type_of(arguments.file)},
        timeout=30,
        trust_env=False,
    )
    _write_json(answer.json())
    return 0 if answer.status_code == 200 else 1


def media_type_of(path: Path) -> str:
    """Return what to call a file's content, by its ending."""
    import mimetypes

    return mimetypes.guess_type(path.name)[0] or "application/octet-stream"


def keys(arguments: argparse.Namespace) -> Any:
    """Issue, list or revoke API keys."""
    from pipeline_tasks.assembly import build_parts, utc_now
    from pipeline_tasks.catalog.serving import ServingRepository, new_token

    serving = ServingRepository(build_parts().database)
    if arguments.action == "list":
        return [dataclasses.asdict(key) for key in serving.api_keys()]
    if arguments.action == "revoke":
        if not arguments.key_id:
            raise ConfigError("--key-id must be given with revoke (got none). `dethrone keys list` shows them.")
        serving.revoke_key(arguments.key_id, at=utc_now())
        return f"{arguments.key_id} is refused from now on."
    token = new_token()
    scopes = arguments.scope or ["predict", "feedback"]
    key = serving.issue_key(arguments.project, name=arguments.name, scopes=scopes, token=token, at=utc_now())
    return {**dataclasses.asdict(key), "token": token, "note": "the token is shown this once"}


def report(arguments: argparse.Namespace) -> Any:
    """Write a verdict's report to a file."""
    from pipeline_tasks.wiring import views

    return views.save_report(arguments.project, verdict=arguments.verdict, output=arguments.output)


def quarantine(arguments: argparse.Namespace) -> Any:
    """List what was not accepted."""
    from pipeline_tasks.wiring import views

    return views.quarantine(arguments.project, as_json=arguments.json)


def shell_attempt(task: str) -> Any:
    """Return an attempt of its own for a command."""
    from pipeline_tasks.contracts import Attempt

    return Attempt(run_id=f"shell__{secrets.token_hex(6)}", task=task)


def _write_json(value: Any) -> None:
    print(json.dumps(value, indent=2, default=str))  # noqa: T201
