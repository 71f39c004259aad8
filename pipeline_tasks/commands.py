"""The `dethrone` commands; `cli.py` has their names and arguments."""

from __future__ import annotations

import argparse
import dataclasses
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline_tasks.command_answer import Answer, console
from pipeline_tasks.errors import ConfigError
from pipeline_tasks.settings import home_from, load_settings, process_environment, projects_dir, user_name

if TYPE_CHECKING:
    from pipeline_tasks.stack.status import StackStatus


def _home() -> Path:
    return home_from(process_environment())


def up(_arguments: argparse.Namespace) -> Answer:
    """Start the stack."""
    from pipeline_tasks.project_loader import load_projects
    from pipeline_tasks.stack import render
    from pipeline_tasks.wiring.rollout_foresight import rollout_warnings
    from pipeline_tasks.wiring.stack_up import start_stack

    with render.progress(console()) as on_event:
        report = start_stack(_home(), projects_dir=projects_dir(), environment=process_environment(), on_event=on_event)
    passwords = f"Passwords are in {_home() / 'secrets'} (airflow_admin_password, label_studio_password)."
    for warning in rollout_warnings(load_projects(projects_dir())[0]):
        print(f"warning: {warning}", file=sys.stderr)  # noqa: T201
    return Answer(dataclasses.asdict(report), (render.up_table(report), passwords))


def down(_arguments: argparse.Namespace) -> Answer:
    """Stop the stack."""
    from pipeline_tasks.stack import lifecycle, render

    with render.progress(console()) as on_event:
        ended = lifecycle.down(_home(), on_event=on_event)
    return Answer({"ended": ended}, ("",))


def status(_arguments: argparse.Namespace) -> Answer:
    """Show the parts; exit code 0 only when all are healthy."""
    from pipeline_tasks.stack import render
    from pipeline_tasks.stack import status as stack_status

    found = stack_status.status(_home())
    notes = [*_left_behind(found), *_projects(found)]
    notes += [] if found.running else ["The stack is not running. `dethrone up` starts it."]
    data = {**dataclasses.asdict(found), "notes": notes}
    return Answer(data, (render.status_table(found), *notes), code=0 if found.healthy else 1)


def _projects(found: StackStatus) -> list[str]:
    """Return a sentence for each project that waits for labelers, has one who is worse, or serves by another list."""
    from pipeline_tasks.wiring.exam_labels import status_lines
    from pipeline_tasks.wiring.labelers import disagreeing_lines, missing_people_lines
    from pipeline_tasks.wiring.privacy import privacy_lines

    if not found.running:
        return []
    # A tie that nobody can break is told by both of the first.
    return [*dict.fromkeys([*missing_people_lines(), *status_lines()]), *disagreeing_lines(), *privacy_lines()]


def _left_behind(found: StackStatus) -> list[str]:
    """Return a sentence for each project that serves although its folder is gone."""
    from pipeline_tasks.assembly import build_parts
    from pipeline_tasks.wiring.removing import left_behind

    if not found.running:
        return []
    projects = left_behind(build_parts(), running=[part.name for part in found.parts])
    return [
        f"{name} still serves, and its folder is gone: `dethrone project remove {name}` ends it." for name in projects
    ]


def logs(arguments: argparse.Namespace) -> Answer:
    """Print the ends of logs."""
    from pipeline_tasks.stack import status as stack_status

    found = stack_status.logs(_home(), part=arguments.part, num_lines=arguments.lines)
    text = "\n\n".join(f"== {name}\n" + "\n".join(lines) for name, lines in found.items())
    return Answer(found, (text,))


def doctor(arguments: argparse.Namespace) -> Answer:
    """Look for what would break."""
    from pipeline_tasks.stack import doctor as stack_doctor
    from pipeline_tasks.stack import render
    from pipeline_tasks.stack import status as stack_status

    if process_environment().get("DETHRONE_EXECUTOR"):  # a container of many
        found, left = stack_doctor.doctor_of_container(home=_home(), s3_endpoint=load_settings().s3_endpoint), []
    else:
        found, left = stack_doctor.doctor(_home()), _left_behind(stack_status.status(_home()))
    checks = (
        *found,
        stack_doctor.check_proxies(arguments.shell),
        *(stack_doctor.Check("projects", ok=False, detail=note) for note in left),
    )
    code = 0 if all(check.ok for check in checks) else 1
    return Answer([dataclasses.asdict(check) for check in checks], (render.doctor_table(checks),), code=code)


def demo(arguments: argparse.Namespace) -> Any:
    """Run the whole loop."""
    from pipeline_tasks.demo.story import tell

    return tell(_home(), labeler=arguments.labeler, size=arguments.size, rounds=arguments.rounds)


def init(arguments: argparse.Namespace) -> str:
    """Write a new project."""
    from pipeline_tasks.project_init import init_project

    classes = [one.strip() for one in arguments.classes.split(",")] if arguments.classes else []
    folder = init_project(
        projects_dir(), name=arguments.name, template=arguments.template, classes=classes, labels=arguments.labels
    )
    columns = f"`dethrone project columns {arguments.name} --write`, " if arguments.template == "tabular" else ""
    return (
        f"Wrote {folder}. Next: put data where its project.yaml says, {columns}look through the file, then "
        f"`dethrone project validate {arguments.name}`. Airflow shows it within half a minute."
    )


def project(arguments: argparse.Namespace) -> Any:
    """Validate, list or remove projects, propose columns, or print the JSON schema of project.yaml."""
    from pipeline_tasks import commands_projects

    return getattr(commands_projects, arguments.action)(arguments)


def stage(name: str) -> Callable[[argparse.Namespace], Any]:
    """Return the command that runs one stage of a project by its entry point."""

    def run(arguments: argparse.Namespace) -> Any:
        from pipeline_tasks import entrypoints

        return getattr(entrypoints, name)(arguments.project, attempt=shell_attempt(name))

    return run


def train(arguments: argparse.Namespace) -> Answer:
    """Run the train DAG's stages one after the other in this process."""
    from pipeline_tasks.wiring.shell_run import closing_lines, shown_progress, train_to_serve

    with shown_progress():
        found = train_to_serve(arguments.project, force=arguments.force, window=arguments.window)
    return Answer(found, (closing_lines(arguments.project, found),))


def wandb(arguments: argparse.Namespace) -> Answer:  # noqa: ARG001 - `sync` is the only action
    """Upload the runs that were recorded while no W&B server could be reached."""
    from pipeline_tasks.assembly import build_parts

    synced = build_parts().tracker.sync()
    text = f"{len(synced)} runs uploaded." if synced else "No offline run waits."
    return Answer({"synced": [*synced]}, (text,))


def rollback(arguments: argparse.Namespace) -> Any:
    """Return to an earlier champion: say from which to which, and ask on a terminal."""
    from pipeline_tasks import entrypoints
    from pipeline_tasks.assembly import build_parts
    from pipeline_tasks.wiring.rollback_preview import preview

    parts = build_parts()
    print(preview(parts, arguments.project, to_version=arguments.to_version, reason=arguments.reason), file=sys.stderr)  # noqa: T201
    if not confirmed("Roll back?", yes=arguments.yes or not sys.stdin.isatty()):
        return Answer({"message": "Nothing was changed."}, ("Nothing was changed.",), code=1)
    return entrypoints.rollback(
        arguments.project,
        parts=parts,
        attempt=shell_attempt("rollback"),
        to_version=arguments.to_version,
        reason=arguments.reason,
        actor=user_name(),
    )


def confirmed(question: str, *, yes: bool) -> bool:
    """Ask a person for a yes on standard error; `yes` answers for them."""
    if yes:
        return True
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)  # noqa: T201
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def predict(arguments: argparse.Namespace) -> Answer:
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
    return Answer(answer.json(), code=0 if answer.status_code == 200 else 1)


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

    return views.save_report(
        arguments.project, verdict=arguments.verdict, output=arguments.output, exact=arguments.exact
    )


def quarantine(arguments: argparse.Namespace) -> Any:
    """List what was not accepted."""
    from pipeline_tasks.wiring import views

    return views.quarantine(arguments.project, limit=arguments.limit, page=arguments.page, as_json=arguments.json)


def shell_attempt(task: str) -> Any:
    """Return an attempt of its own for a command."""
    from pipeline_tasks.contracts import SHELL_RUN, Attempt

    return Attempt(run_id=f"{SHELL_RUN}{secrets.token_hex(6)}", task=task)
