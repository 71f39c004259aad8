"""A project leaves: its folder goes aside, its servers and DAGs go, what it has learned stays."""

from __future__ import annotations

import dataclasses
import datetime as dt
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline_tasks.adapters.airflow_rest import AirflowRest
from pipeline_tasks.catalog.labels import LabelRepository
from pipeline_tasks.catalog.routes import ServingRepository
from pipeline_tasks.core.ports import DeploymentTarget
from pipeline_tasks.deployment.task import stop_all
from pipeline_tasks.errors import ConfigError, PipelineError, ServiceUnavailable
from pipeline_tasks.orchestration.deploy import target_of
from pipeline_tasks.orchestration.known_projects import project_folders, recorded_projects
from pipeline_tasks.orchestration.resources import Resources
from pipeline_tasks.project.loader import is_composed, load_composed, read_document
from pipeline_tasks.stack.supervisor_conf import INFERENCE_PREFIX

logger = logging.getLogger(__name__)

ASIDE = "_removed"  # below the projects' folder; no name that begins so is a project


@dataclasses.dataclass(frozen=True, slots=True)
class Removal:
    """The parts that went, and those that stay."""

    project: str
    folder: str | None  # where the files are now
    servers: tuple[str, ...]
    dags: tuple[str, ...]
    airflow: str  # why its DAGs could not be looked at; empty where they could
    label_studio: tuple[str, ...]
    on_kubernetes: bool = False  # and not looked at: the namespace stood in the folder

    def as_text(self) -> str:
        """Return it in sentences."""
        lines = [
            f"Its files are in {self.folder}." if self.folder else "Its folder was gone already.",
            f"Stopped: {', '.join(self.servers) or 'no server ran'}.",
            self.airflow
            or f"Out of Airflow, with the list of their runs: {', '.join(self.dags) or 'no DAG was there'}.",
            "Kept: items, labels, models, verdicts and the ledger, in the catalog and the object store.",
        ]
        if self.on_kubernetes:
            namespace = "whose namespace stood in its folder"
            lines.append(f"Not looked at: Kubernetes, {namespace}. Delete its deployments there, where some are left.")
        if self.label_studio:
            lines.append(f"Label Studio keeps its tasks and answers: {', '.join(self.label_studio)}")
        back = f"Move the folder back, then `dethrone serve {self.project}`: everything goes on where it was."
        return "\n".join([f"{self.project} is removed.", *lines, back])


def remove(parts: Resources, project: str, *, now: dt.datetime) -> Removal:
    """Take a project out of the installation; a folder that was deleted by hand is as good.

    Raises:
        ConfigError: PROJECT_USED, a graph uses its champion; RUN_ACTIVE, Airflow is at work on it.
    """
    _require_unused(parts.settings.projects_dir, project)
    targets = _targets(parts, project)
    is_here = (parts.settings.projects_dir / project).is_dir()
    dags, away = _airflow_dags(parts, project)
    _require_idle(parts.airflow, dags)
    folder = _put_aside(parts.settings.projects_dir, project, now=now)
    serving = ServingRepository(parts.database)
    servers = [name for target in targets for name in stop_all(project, serving=serving, target=target)]
    for dag in dags:
        parts.airflow.delete(dag)
    registered = LabelRepository(parts.database).registration(project)
    queues: Iterable[Any] = registered[2].values() if registered else ()
    return Removal(
        project=project,
        folder=folder,
        servers=tuple(servers),
        dags=tuple(dags),
        airflow=away,
        on_kubernetes=not is_here and "kubernetes" in serving.targets(project),
        label_studio=tuple(f"{parts.settings.label_studio_url}/projects/{number}/data" for number in queues),
    )


def left_behind(parts: Resources, *, running: Iterable[str]) -> list[str]:
    """Return the projects whose folder is gone and whose servers run: programs of the stack by name, and containers.

    Nothing stops them by itself: a folder that was deleted by mistake would take a service down.
    """
    gone = recorded_projects(parts.database) - project_folders(parts.settings.projects_dir)
    names = [name.removeprefix(INFERENCE_PREFIX) for name in running if name.startswith(INFERENCE_PREFIX)]
    if any("docker" in ServingRepository(parts.database).targets(project) for project in gone):
        try:
            names += _engine(parts).list()
        except ServiceUnavailable as error:
            logger.warning("containers of projects whose folder is gone: %s", error)
    return sorted(project for project in gone if any(_names_server(project, name) for name in names))


def _names_server(project: str, name: str) -> bool:
    """Tell this project's servers from those of one whose name starts alike (`a` and `a-b`)."""
    prefix = f"{project.replace('_', '-')}-"
    return name.startswith(prefix) and "-" not in name.removeprefix(prefix)


def _require_unused(projects_dir: Path, project: str) -> None:
    for other in sorted(project_folders(projects_dir) - {project}):
        try:
            if not is_composed(read_document(projects_dir / other)):
                continue
            nodes = load_composed(projects_dir / other).graph.nodes.values()
        except ConfigError:
            continue  # a broken file uses nothing
        if any(node.project == project for node in nodes):
            raise ConfigError(
                f"no graph may use {project} (got {other}). Take its node out, or remove {other} first.",
                code="PROJECT_USED",
            )


def _targets(parts: Resources, project: str) -> list[DeploymentTarget]:
    folder = parts.settings.projects_dir / project
    if folder.is_dir():
        return [parts.target if is_composed(read_document(folder)) else target_of(parts, parts.project(project))]
    on_engine = "docker" in ServingRepository(parts.database).targets(project)
    return [parts.target, *([_engine(parts)] if on_engine else [])]


def _engine(parts: Resources) -> DeploymentTarget:
    from pipeline_tasks.orchestration.container_targets import engine_target

    return engine_target(parts)


def _airflow_dags(parts: Resources, project: str) -> tuple[list[str], str]:
    try:
        return sorted(dag for dag in parts.airflow.dag_ids() if dag.startswith(f"{project}__")), ""
    except PipelineError as error:
        return [], f"Airflow does not answer ({error.code}); it drops the DAGs when it looks at the folder again."


def _require_idle(airflow: AirflowRest, dags: Iterable[str]) -> None:
    for dag in dags:
        for run in airflow.runs(dag, limit=5):
            if run["state"] == "running":
                raise ConfigError(
                    f"nothing of the project may run (got {dag}, {run['dag_run_id']}). Wait for its end, or mark it "
                    "as failed in Airflow.",
                    code="RUN_ACTIVE",
                )


def _put_aside(projects_dir: Path, project: str, *, now: dt.datetime) -> str | None:
    folder, aside = projects_dir / project, projects_dir / ASIDE
    if not folder.is_dir():
        return None
    aside.mkdir(exist_ok=True)
    place = aside / project
    if place.exists():
        place = aside / f"{project}-{now:%Y%m%dT%H%M%S}"
    folder.rename(place)
    return str(place)
