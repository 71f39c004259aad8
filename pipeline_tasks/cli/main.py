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
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

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
Command = Callable[[argparse.Namespace], Any]
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

    name = parsed.name if parsed.command is project_commands.project else getattr(parsed, "project", None)
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
    parser = _Parser(prog="dethrone", description=__doc__)
    shared = _Parser(add_help=False)
    shared.add_argument("--json", action="store_true", help="print one JSON object")
    shared.add_argument("--verbose", action="store_true", help="say what happens meanwhile")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, command: Command, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, parents=[shared])
        sub.set_defaults(command=command)
        return sub

    _add_stack(add)
    _add_projects(add)
    _add_stages(add)
    _add_views(add)
    _add_items(add)
    _add_audit(add)
    _add_lineage(add)
    _add_serving(add)
    _add_keeping(add)
    return parser


Add = Callable[[str, Command, str], argparse.ArgumentParser]


def _add_stack(add: Add) -> None:
    from pipeline_tasks.cli import pipeline_commands as commands
    from pipeline_tasks.cli import stack_commands

    add("up", stack_commands.up, "start the stack, or what of it does not run")
    add("down", stack_commands.down, "stop everything that was started")
    add("status", stack_commands.status, "show each part's state, address and health")
    logs = add("logs", stack_commands.logs, "print the last lines of a part's log")
    logs.add_argument("part", nargs="?", help="s3, label-studio, airflow-scheduler, gateway, ... (empty: all)")
    logs.add_argument("--lines", type=int, default=30)
    add(
        "doctor",
        stack_commands.doctor,
        "look for what would break: disk, ports, file modes, the S3's conditional writes",
    )
    demo = add("demo", commands.demo, "run the whole loop on the demo project")
    demo.add_argument("--labeler", choices=["scripted", "me"], default="scripted")
    demo.add_argument("--size", choices=["small", "full"], default="small")
    demo.add_argument("--rounds", type=int, choices=[1, 2, 3, 4], default=4, help="stop after this many chapters")


def _add_projects(add: Add) -> None:
    from pipeline_tasks.cli import project_commands

    init = add("init", project_commands.init, "write a working start of a new project")
    init.add_argument("name")
    init.add_argument("--template", default="image-classification")
    init.add_argument("--classes", default="", help="the labels, with commas between them (empty: the template's)")
    init.add_argument(
        "--labels", type=int, default=1000, help="about how many labels you will have: sizes of exams (default 1000)"
    )
    project = add(
        "project",
        project_commands.project,
        "validate, list or remove projects, change their classes or the columns of their tables",
    )
    project.add_argument("action", choices=["validate", "list", "schema", "remove", "columns", "migrate"])
    project.add_argument("name", nargs="?")
    project.add_argument("--yes", action="store_true", help="remove, migrate: do not ask")
    of_classes = project.add_argument_group("migrate: what becomes of the classes that project.yaml no longer has")
    of_classes.add_argument("--rename", action="append", default=[], metavar="OLD=NEW")
    of_classes.add_argument("--merge", action="append", default=[], metavar="A,B=NEW")
    of_classes.add_argument("--remove", action="append", default=[], metavar="CLASS")
    of_classes.add_argument("--move-to", metavar="CLASS", help="what the labels of removed classes become")
    of_classes.add_argument("--drop", action="store_true", help="removed classes: their items have no label any more")
    of_classes.add_argument("--undo", action="store_true", help="back to the schema version before")
    project.add_argument("--write", action="store_true", help="columns: put them into project.yaml")


def _add_stages(add: Add) -> None:
    from pipeline_tasks.cli import pipeline_commands as commands

    for stage, text in (
        ("ingest", "read what is new at the sources"),
        ("annotate", "push items without a label to Label Studio"),
        ("collect", "bring annotations back"),
        ("monitor", "read the prediction log, pick audits, measure quality"),
    ):
        add(stage, commands.stage(stage), text).add_argument("project")
    train = add("train", commands.train, "snapshot, train, judge, release and ship, without Airflow")
    train.add_argument("project")
    train.add_argument("--force", action="store_true", help="although there are not enough new labels")
    train.add_argument("--window", choices=["all", "newest"], default="all")
    wandb = add("wandb", commands.wandb, "upload the runs that were recorded while no W&B server could be reached")
    wandb.add_argument("action", choices=["sync"])
    rollback = add("rollback", commands.rollback, "return to an earlier champion")
    rollback.add_argument("project")
    rollback.add_argument("--to-version")
    rollback.add_argument("--reason", required=True, help="why: it stands in the ledger")
    rollback.add_argument("--yes", action="store_true", help="do not ask on a terminal")
    predict = add("predict", commands.predict, "send one file to the gateway and print the answer")
    predict.add_argument("project")
    predict.add_argument("file", type=Path)
    keys = add("keys", commands.keys, "issue, list or revoke API keys of the gateway")
    keys.add_argument("action", choices=["issue", "list", "revoke"])
    keys.add_argument("--project", default="*")
    keys.add_argument("--name", default="caller")
    keys.add_argument("--scope", action="append", choices=["predict", "feedback", "admin"])
    keys.add_argument("--key-id")


def _add_views(add: Add) -> None:
    from pipeline_tasks.cli import pipeline_commands as commands

    report = add("report", commands.report, "write a verdict's report to a file")
    report.add_argument("project")
    report.add_argument("verdict", nargs="?", help="a verdict's id or its beginning (empty: the newest)")
    report.add_argument("--output", type=Path)
    report.add_argument("--exact", action="store_true", help="with an open exam's figures and items; recorded")
    quarantine = add("quarantine", commands.quarantine, "list what was not accepted, with reasons, newest first")
    quarantine.add_argument("project")
    quarantine.add_argument("--limit", type=_positive, default=100, help="how many are listed (default: 100)")
    quarantine.add_argument("--page", type=_positive, default=1, help="which part of them (default: 1, the newest)")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more (got {number}).")
    return number


def _add_audit(add: Add) -> None:
    from pipeline_tasks.cli import audit_commands

    history = add("history", audit_commands.history, "print the ledger: verdicts, approvals, promotions, rollbacks")
    history.add_argument("project")
    history.add_argument("--at", metavar="TIME", help="what served at this ISO time, and why (no time zone: UTC)")
    history.add_argument("--ledger", action="store_true", help="with --json: every entry, not just who served")
    verify = add("verify", audit_commands.verify, "check the invariants: nothing lost, nothing twice, one whole ledger")
    verify.add_argument(
        "--anchor",
        action="append",
        default=[],
        metavar="PROJECT:SEQ:HASH",
        help="the ledger must still hold this entry, noted down from `dethrone history` (may be repeated)",
    )
    verify.add_argument(
        "--backup", type=Path, metavar="FOLDER", help="check its newest backup where it lies; nothing has to run"
    )
    keys = verify.add_mutually_exclusive_group()
    keys.add_argument(
        "--public-key",
        type=Path,
        metavar="FILE",
        help="the keys that may have signed the ledger (empty: the stack's own)",
    )
    keys.add_argument("--save-public-key", type=Path, metavar="FILE", help="write the stack's public key, and no more")
    replay = add("replay", audit_commands.replay, "compute a verdict again from its evidence and compare every byte")
    replay.add_argument("verdict", help="a verdict's id or its beginning")
    replay.add_argument("--project", help="where verdicts of several projects begin so")


def _add_items(add: Add) -> None:
    from pipeline_tasks.cli import item_commands

    item = add("item", item_commands.item, "take an item out of use, for good: snapshots, exams and verdicts")
    item.add_argument("action", choices=["retire"])
    item.add_argument("project")
    item.add_argument("id", help="(the beginning of) an item's id")
    item.add_argument("--reason", required=True, help="why (kept with your name and the time)")


def _add_lineage(add: Add) -> None:
    from pipeline_tasks.cli import lineage_commands

    lineage = add("lineage", lineage_commands.lineage, "show where something came from and what it touched")
    lineage.add_argument(
        "id",
        help="(the beginning of) the id of a prediction, model version, snapshot, verdict or item; `kind:id` names the "
        "kind: label:<item id>, or prediction:<id> where the catalog knows another thing that begins so",
    )
    lineage.add_argument("--project", help="where ids of several projects begin so")
    blast = add("blast-radius", lineage_commands.blast_radius, "list snapshots, models, predictions, services affected")
    blast.add_argument("project")
    what = blast.add_mutually_exclusive_group(required=True)
    what.add_argument("--item", metavar="ID", help="(the beginning of) an item's id")
    what.add_argument("--label", metavar="ITEM_ID", help="the same item's label")
    what.add_argument("--annotator", metavar="NAME", help="everything that a person labeled")
    retrain = add("retrain", lineage_commands.retrain, "train a model version again from its lineage and compare")
    retrain.add_argument("version", help="a model version, or its beginning")
    retrain.add_argument("--project", help="where versions of several projects begin so")
    retrain.add_argument(
        "--tolerance",
        type=float,
        help="largest difference of a metric (empty: 0 and the same weights; 0.02 where code, environment or hardware "
        "are not the recorded ones)",
    )


def _add_serving(add: Add) -> None:
    from pipeline_tasks.cli import serving_commands

    latency = add("latency", serving_commands.latency, "send real requests (they are logged); show where the time goes")
    latency.add_argument("project")
    latency.add_argument("--requests", type=int, default=200)
    latency.add_argument("--file", type=Path, help="what to ask about (empty: items of the project)")
    graph = add("graph", serving_commands.graph, "check or apply the graph of a composed project, or show what serves")
    graph.add_argument("project")
    graph.add_argument("action", choices=["check", "apply", "show"])
    graph.add_argument("--reason", help="why it is applied: it stands in the ledger")

    experiment = add("experiment", serving_commands.experiment, "compare a gated version with the champion on users")
    experiment.add_argument("project")
    experiment.add_argument("action", choices=["start", "stop", "report"])
    experiment.add_argument("--version", help="start: a former champion, or a model with a promote verdict")
    experiment.add_argument("--share", type=int, default=50, help="start: percent of the users who get it")
    experiment.add_argument("--metric", default="correct", help="start: correct, or outcome:<class>; by POST /feedback")
    experiment.add_argument("--confidence", type=float, default=0.95, help="start: of the answer, at whatever look")
    experiment.add_argument(
        "--matures-after", default="24h", help="start: within so long an outcome counts: s, m, h or d (default: 24h)"
    )
    experiment.add_argument("--reason", default="by hand", help="stop: why (kept in the ledger)")
    experiment.add_argument("--id", help="report: the beginning of an experiment's id (empty: the newest)")

    base = add("serving-base", serving_commands.serving_base, "build (and push) the image that releases stand on")
    base.add_argument("--variant", choices=["cpu", "cuda"], default="cpu")
    base.add_argument("--os-base", default="python:3.11-slim-bookworm", help="an image with Python 3.11")
    base.add_argument("--dry-run", action="store_true", help="print the image's name, do nothing")
    base.add_argument("--push", metavar="REPOSITORY", help="where projects look for it: serving.docker.repository")
    base.add_argument("--connection", metavar="ID", help="Airflow connection with the registry's login and password")


def _add_keeping(add: Add) -> None:
    from pipeline_tasks.cli import backup_commands

    backup = add("backup", backup_commands.backup, "write everything into a folder, while the stack runs")
    backup.add_argument("folder", type=Path, help="one folder for all backups: what it holds is not copied again")
    backup.add_argument("--without-secrets", action="store_true", help="leave secrets/ out: keep them elsewhere")
    backup.add_argument(
        "--check", action="store_true", help="read every file of the backup; copy the damaged ones again"
    )
    restore = add("restore", backup_commands.restore, "bring a backup back onto an empty machine, and prove it")
    restore.add_argument("folder", type=Path)
    restore.add_argument("--name", help="which backup of the folder (empty: the newest)")
    serve = add("serve", backup_commands.serve, "start the servers that the route names again, as after a restore")
    serve.add_argument("project")
    secrets = add("secrets", backup_commands.secrets, "generate the production stack's passwords and keys")
    secrets.add_argument("folder", type=Path)
    add("upgrade", backup_commands.upgrade, "bring the catalog to this version's schema; `up` does so by itself")


if __name__ == "__main__":
    sys.exit(main())
