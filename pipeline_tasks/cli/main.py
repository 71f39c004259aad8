"""`dethrone`: the stack, the stages, and what they know, from a shell.

Exit codes: 0 done, 1 failed, 2 usage or a wrong file, 3 a gate said no.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import NoReturn

from pipeline_tasks.cli.command import commands_of
from pipeline_tasks.cli.output import Answer, as_answer, print_answer
from pipeline_tasks.core.settings import projects_dir, reach_own_services, user_name
from pipeline_tasks.errors import ConfigError, GateClosed, PipelineError

DONE, FAILED, USAGE, REFUSED = 0, 1, 2, 3
NOBODY_READS = 141  # what a shell gives a program that SIGPIPE ended
_ADVICE = {
    errno.ENOSPC: "Free space on its disk, then give the same command again.",
    errno.EDQUOT: "Free space on its disk, then give the same command again.",
    errno.EROFS: "Mount its disk for writing, or set DETHRONE_HOME to another folder.",
    errno.ENAMETOOLONG: "Use a shorter path.",
}
logger = logging.getLogger(__name__)


class _Parser(argparse.ArgumentParser):
    """A parser whose refusal is an error like any other, so that `--json` holds for it."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        raise ConfigError(f"{message} (see `{self.prog} --help`)", code="USAGE")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in words
    shell = reach_own_services()
    try:
        with _quiet(verbose="--verbose" in words), _only_the_answer() if as_json else contextlib.nullcontext():
            answer = _answer(words, shell=shell, as_json=as_json)
        print_answer(answer, as_json=as_json)
        sys.stdout.flush()
    except BrokenPipeError:  # as of `dethrone history shop | head`
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NOBODY_READS
    return answer.code


def _answer(words: Sequence[str], *, shell: Mapping[str, str], as_json: bool) -> Answer:
    try:
        parsed = build_parser().parse_args(words, argparse.Namespace(shell=shell))
        _require_known_project(parsed)
        return as_answer(parsed.command(parsed))
    except PipelineError as error:
        return _failure(error.code, str(error), _exit_code(error))
    except KeyboardInterrupt:
        return _failure("STOPPED", "Stopped by hand. The same command goes on where it was.", FAILED)
    except BrokenPipeError:
        raise
    except OSError as error:
        logger.info("The place:", exc_info=error)
        place = error.filename2 or error.filename or "what the command needs"
        reason = error.strerror or str(error)
        advice = _ADVICE.get(
            error.errno or 0, "Check its owner and mode, or name another place (DETHRONE_HOME is one)."
        )
        code = "DISK_FULL" if error.errno in {errno.ENOSPC, errno.EDQUOT} else "FILE_ACCESS"
        return _failure(code, f"{place} must be usable by {user_name()} (got {reason}). {advice}", FAILED)
    except Exception as error:
        if not as_json:
            raise
        traceback.print_exc()
        return _failure("INTERNAL", f"{type(error).__name__}: {error}", FAILED)


def _exit_code(error: PipelineError) -> int:
    if isinstance(error, GateClosed):
        return REFUSED
    return USAGE if isinstance(error, ConfigError) else FAILED


def _failure(code: str, message: str, exit_code: int) -> Answer:
    print(f"error [{code}]: {message}", file=sys.stderr)  # noqa: T201
    return Answer({"error": {"code": code, "message": message}}, ("",), code=exit_code)


def _require_known_project(parsed: argparse.Namespace) -> None:
    """Refuse an unknown project for every command that takes one; `*` are all of them."""
    from pipeline_tasks.cli import project_commands
    from pipeline_tasks.orchestration.known_projects import project_folders, require_known
    from pipeline_tasks.orchestration.resources import build_resources

    name = parsed.name if parsed.command is project_commands.project.run else getattr(parsed, "project", None)
    if name in {None, "*"} or name in project_folders(projects_dir()):
        return
    try:
        parts = build_resources()
    except ConfigError:  # nothing was started here yet
        require_known(name, projects_dir=projects_dir(), database=None)
    else:
        require_known(name, projects_dir=parts.settings.projects_dir, database=parts.database)


@contextlib.contextmanager
def _quiet(*, verbose: bool) -> Iterator[None]:
    """Leave the libraries' warnings out, and log what matters on standard error."""
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(message)s")
    with warnings.catch_warnings():
        if not verbose:
            warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _only_the_answer() -> Iterator[None]:
    """Send what a command, its libraries and its children print to standard error."""
    with contextlib.redirect_stdout(sys.stderr):
        try:
            kept = os.dup(1)
            os.dup2(2, 1)
        except OSError:  # there is no standard output, or no standard error
            yield
            return
        try:
            yield
        finally:
            os.dup2(kept, 1)
            os.close(kept)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of every command; the README lists them all (tested)."""
    from pipeline_tasks.cli import (
        audit_commands,
        backup_commands,
        item_commands,
        lineage_commands,
        pipeline_commands,
        project_commands,
        serving_commands,
        stack_commands,
    )

    first = (stack_commands, project_commands, pipeline_commands, item_commands)
    then = (audit_commands, lineage_commands, serving_commands, backup_commands)
    parser = _Parser(prog="dethrone", description=__doc__)
    shared = _Parser(add_help=False)
    shared.add_argument("--json", action="store_true", help="print one JSON object")
    shared.add_argument("--verbose", action="store_true", help="say what happens meanwhile")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in (command for module in (*first, *then) for command in commands_of(module)):
        sub = commands.add_parser(command.name, help=command.help, description=command.help, parents=[shared])
        sub.set_defaults(command=command.run)
        for declare in command.arguments:
            declare(sub)
    return parser


if __name__ == "__main__":
    sys.exit(main())
