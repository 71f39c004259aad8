"""The commands of the stack: up, down, status, logs, doctor, and the demo that starts it."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from typing import TYPE_CHECKING, Any

from pipeline_tasks.cli.command import argument, command
from pipeline_tasks.cli.output import Answer, console, home_folder
from pipeline_tasks.core.settings import load_settings, process_environment, projects_dir

if TYPE_CHECKING:
    from pipeline_tasks.stack.status import StackStatus


@command()
def up(_arguments: argparse.Namespace) -> Answer:
    """Start the stack, or what of it does not run."""
    from pipeline_tasks.orchestration.rollout_warnings import rollout_warnings
    from pipeline_tasks.project.loader import load_projects
    from pipeline_tasks.stack import console as stack_console
    from pipeline_tasks.stack.bring_up import start_stack

    with stack_console.progress(console()) as on_event:
        report = start_stack(
            home_folder(), projects_dir=projects_dir(), environment=process_environment(), on_event=on_event
        )
    passwords = f"Passwords are in {home_folder() / 'secrets'} (airflow_admin_password, label_studio_password)."
    for warning in rollout_warnings(load_projects(projects_dir())[0]):
        print(f"warning: {warning}", file=sys.stderr)  # noqa: T201
    return Answer(dataclasses.asdict(report), (stack_console.up_table(report), passwords))


@command()
def down(_arguments: argparse.Namespace) -> Answer:
    """Stop everything that was started."""
    from pipeline_tasks.stack import console as stack_console
    from pipeline_tasks.stack import lifecycle

    with stack_console.progress(console()) as on_event:
        ended = lifecycle.down(home_folder(), on_event=on_event)
    return Answer({"ended": ended}, ("",))


@command()
def status(_arguments: argparse.Namespace) -> Answer:
    """Show each part's state, address and health.

    Exit code 0 only when all are healthy.
    """
    from pipeline_tasks.stack import console as stack_console
    from pipeline_tasks.stack import status as stack_status

    stack = stack_status.status(home_folder())
    notes = [*_left_behind(stack), *_projects(stack)]
    notes += [] if stack.running else ["The stack is not running. `dethrone up` starts it."]
    data = {**dataclasses.asdict(stack), "notes": notes}
    return Answer(data, (stack_console.status_table(stack), *notes), code=0 if stack.healthy else 1)


def _projects(stack: StackStatus) -> list[str]:
    """Return a sentence for each project that waits for labelers, has one who is worse, or serves by another list."""
    from pipeline_tasks.orchestration.labeler_status import disagreeing_lines, missing_people_lines
    from pipeline_tasks.orchestration.privacy_status import privacy_lines
    from pipeline_tasks.orchestration.project_notes import status_lines

    if not stack.running:
        return []
    # A tie that nobody can break is told by both of the first.
    return [*dict.fromkeys([*missing_people_lines(), *status_lines()]), *disagreeing_lines(), *privacy_lines()]


def _left_behind(stack: StackStatus) -> list[str]:
    """Return a sentence for each project that serves although its folder is gone."""
    from pipeline_tasks.orchestration.project_removal import left_behind
    from pipeline_tasks.orchestration.resources import build_resources

    if not stack.running:
        return []
    projects = left_behind(build_resources(), running=[part.name for part in stack.parts])
    return [
        f"{name} still serves, and its folder is gone: `dethrone project remove {name}` ends it." for name in projects
    ]


@command(
    argument("part", nargs="?", help="s3, label-studio, airflow-scheduler, gateway, ... (empty: all)"),
    argument("--lines", type=int, default=30),
)
def logs(arguments: argparse.Namespace) -> Answer:
    """Print the last lines of a part's log."""
    from pipeline_tasks.stack import status as stack_status

    tail = stack_status.logs(home_folder(), part=arguments.part, num_lines=arguments.lines)
    text = "\n\n".join(f"== {name}\n" + "\n".join(lines) for name, lines in tail.items())
    return Answer(tail, (text,))


@command()
def doctor(arguments: argparse.Namespace) -> Answer:
    """Look for what would break: disk, ports, file modes, the S3's conditional writes."""
    from pipeline_tasks.stack import console as stack_console
    from pipeline_tasks.stack import doctor as stack_doctor
    from pipeline_tasks.stack import status as stack_status

    if process_environment().get("DETHRONE_EXECUTOR"):  # a container of many
        findings, left = (
            stack_doctor.doctor_of_container(home=home_folder(), s3_endpoint=load_settings().s3_endpoint),
            [],
        )
    else:
        findings, left = stack_doctor.doctor(home_folder()), _left_behind(stack_status.status(home_folder()))
    checks = (
        *findings,
        stack_doctor.check_proxies(arguments.shell),
        *(stack_doctor.Check("projects", ok=False, detail=note) for note in left),
    )
    code = 0 if all(check.ok for check in checks) else 1
    return Answer([dataclasses.asdict(check) for check in checks], (stack_console.doctor_table(checks),), code=code)


@command(
    argument("--labeler", choices=["scripted", "me"], default="scripted"),
    argument("--size", choices=["small", "full"], default="small"),
    argument("--rounds", type=int, choices=[1, 2, 3, 4], default=4, help="stop after this many chapters"),
)
def demo(arguments: argparse.Namespace) -> Any:
    """Run the whole loop on the demo project."""
    from pipeline_tasks.demo.scenario import tell

    return tell(home_folder(), labeler=arguments.labeler, size=arguments.size, rounds=arguments.rounds)
