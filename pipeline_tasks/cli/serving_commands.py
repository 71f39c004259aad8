"""The commands that look at serving."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from pipeline_tasks.cli.command import argument, command
from pipeline_tasks.cli.output import Answer
from pipeline_tasks.core.settings import user_name
from pipeline_tasks.errors import ConfigError


@command(
    argument("project"),
    argument("--requests", type=int, default=200),
    argument("--file", type=Path, help="what to ask about (empty: items of the project)"),
)
def latency(arguments: argparse.Namespace) -> Any:
    """Send real requests (they are logged); show where the time goes."""
    from pipeline_tasks.cli import latency as cli_latency
    from pipeline_tasks.cli.output import media_type_of
    from pipeline_tasks.orchestration.resources import build_resources

    number, file, payload = arguments.requests, arguments.file, None
    if number < 1:
        raise ConfigError(f"--requests must be 1 or more (got {number}).")
    if file is not None and not file.is_file():
        raise ConfigError(f"--file must exist (got {file}).")
    if file is not None:
        payload = (file.read_bytes(), media_type_of(file))
    figures = cli_latency.measure(
        build_resources(), arguments.project, num_requests=number, file=payload, monotonic=time.perf_counter
    )
    return Answer(figures, (cli_latency.as_text(figures),))


@command(
    argument("project"),
    argument("action", choices=["check", "apply", "show"]),
    argument("--reason", help="why it is applied: it stands in the ledger"),
)
def graph(arguments: argparse.Namespace) -> Any:
    """Check or apply the graph of a composed project, or show what serves."""
    from pipeline_tasks.catalog.routes import ServingRepository
    from pipeline_tasks.cli.output import shell_attempt
    from pipeline_tasks.orchestration import composed_projects
    from pipeline_tasks.orchestration.resources import build_resources

    parts, name = build_resources(), arguments.project
    if arguments.action == "show":
        records = ServingRepository(parts.database).records(name)
        return dict(records[-1].serving.get("graph", {})) if records else f"{name} has no route yet."
    if arguments.action == "apply":
        attempt = shell_attempt("graph")
        route = composed_projects.apply_graph(parts, name, attempt=attempt, actor=user_name(), reason=arguments.reason)
        return {"project": name, "generation": route.generation, "version": route.champion_version}
    plan = composed_projects.plan_graph(parts, name)
    return Answer({"version": plan.version, **plan.serving}, (composed_projects.as_text(plan),))


@command(
    argument("project"),
    argument("action", choices=["start", "stop", "report"]),
    argument("--version", help="start: a former champion, or a model with a promote verdict"),
    argument("--share", type=int, default=50, help="start: percent of the users who get it"),
    argument("--metric", default="correct", help="start: correct, or outcome:<class>; by POST /feedback"),
    argument("--confidence", type=float, default=0.95, help="start: of the answer, at whatever look"),
    argument(
        "--matures-after", default="24h", help="start: within so long an outcome counts: s, m, h or d (default: 24h)"
    ),
    argument("--reason", default="by hand", help="stop: why (kept in the ledger)"),
    argument("--id", help="report: the beginning of an experiment's id (empty: the newest)"),
)
def experiment(arguments: argparse.Namespace) -> Any:
    """Compare a gated version with the champion on users."""
    from pipeline_tasks.cli.output import shell_attempt
    from pipeline_tasks.deployment.experiment_analysis import as_text
    from pipeline_tasks.orchestration import experiments
    from pipeline_tasks.orchestration.resources import build_resources

    parts, project = build_resources(), arguments.project
    if arguments.action == "report":
        experiment_report = experiments.report(parts, project, experiment_id=arguments.id)
        return Answer(experiment_report, (as_text(experiment_report),))
    shared: dict[str, Any] = {"attempt": shell_attempt("experiment"), "actor": user_name()}
    if arguments.action == "stop":
        return experiments.stop(parts, project, reason=arguments.reason, **shared)
    if not arguments.version:
        raise ConfigError(
            f"--version must be a former champion of {project} or a model with a promote verdict (got none). "
            f"See `dethrone history {project}`."
        )
    return experiments.start(
        parts,
        project,
        version=arguments.version,
        share=arguments.share,
        metric=arguments.metric,
        confidence=arguments.confidence,
        matures_after=arguments.matures_after,
        **shared,
    )


@command(
    argument("--variant", choices=["cpu", "cuda"], default="cpu"),
    argument("--os-base", default="python:3.11-slim-bookworm", help="an image with Python 3.11"),
    argument("--dry-run", action="store_true", help="print the image's name, do nothing"),
    argument("--push", metavar="REPOSITORY", help="where projects look for it: serving.docker.repository"),
    argument("--connection", metavar="ID", help="Airflow connection with the registry's login and password"),
)
def serving_base(arguments: argparse.Namespace) -> Any:
    """Build (and push) the image that releases stand on."""
    from pipeline_tasks.adapters import base_image as adapter
    from pipeline_tasks.adapters.airflow_connections import registry_credentials
    from pipeline_tasks.adapters.container_registry import split_repository
    from pipeline_tasks.adapters.docker_target import engine_errors
    from pipeline_tasks.core.settings import home_from, process_environment
    from pipeline_tasks.orchestration.container_targets import engine_of
    from pipeline_tasks.orchestration.resources import ROOT

    if arguments.push is not None:
        split_repository(arguments.push)
    made_from = adapter.recipe(ROOT, variant=arguments.variant)
    if arguments.dry_run:
        return {"image": f"{adapter.LOCAL_NAME}:{made_from.tag}", "built": False, "pushed": None}
    environment = process_environment()
    with engine_errors():
        # With CUDA the engine copies gigabytes without a word.
        engine = engine_of(environment, timeout_seconds=adapter.INSTALL_TIMEOUT_SECONDS)()
        name, built = adapter.build_base(
            made_from,
            os_base=arguments.os_base,
            engine=engine,
            environment=environment,
            scratch=home_from(environment) / "scratch",
        )
        pushed = None
        if arguments.push is not None:
            credentials = registry_credentials(arguments.connection) if arguments.connection else None
            auth = {"username": credentials.username, "password": credentials.password} if credentials else None
            pushed = adapter.push_base(engine, name, repository=arguments.push, auth=auth)
    return {"image": name, "built": built, "pushed": pushed}
