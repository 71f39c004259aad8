"""Composed projects: what a project's nodes' champions take and give, and the route that its graph becomes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline_tasks.catalog.routes import GRAPH, ServingRepository
from pipeline_tasks.contracts import GRAPH_VERSION, REQUEST, Attempt, Graph, Route, content_id
from pipeline_tasks.core.clock import utc_now
from pipeline_tasks.deployment.route_settings import route_config
from pipeline_tasks.errors import GateClosed
from pipeline_tasks.guards.reason import stated
from pipeline_tasks.models.artifact import MANIFEST_NAME, ModelConfig, read_manifest
from pipeline_tasks.orchestration.evaluate import champion_of
from pipeline_tasks.orchestration.ledger_anchors import note_head
from pipeline_tasks.orchestration.resources import Resources
from pipeline_tasks.project.composed_project import ComposedProject, NodeFacts, output_classes, resolve
from pipeline_tasks.project.loader import load_composed, read_document
from pipeline_tasks.project.yaml_reader import ProjectError

SHORT = 12


@dataclasses.dataclass(frozen=True, slots=True)
class CompositionPlan:
    """A checked graph and the route settings that go with it; `version` is made of both."""

    project: ComposedProject
    graph: Graph
    serving: dict[str, Any]
    champions: dict[str, str]

    @property
    def version(self) -> str:
        return f"{GRAPH_VERSION}{content_id(self.serving)[:SHORT]}"


def plan_graph(parts: Resources, name: str) -> CompositionPlan:
    """Check a composed project's file against the champions that serve now.

    Raises:
        ProjectError: the file is wrong, or the types of two nodes do not match.
        GateClosed: NODE_WITHOUT_CHAMPION.
    """
    folder = parts.settings.projects_dir / name
    project = load_composed(folder)
    projects = sorted({node.project for node in project.graph.nodes.values()})
    configs = {project_name: _champion_config(parts, project_name) for project_name in projects}
    loaded = {project_name: parts.project(project_name) for project_name in projects}
    facts = {
        project_name: _facts(configs[project_name], modality=loaded[project_name].config.modality)
        for project_name in projects
    }
    graph, problems = resolve(project.graph, facts)
    if problems:
        document = read_document(folder)
        raise ProjectError([document.problem(key, message) for key, message in problems])
    entered = [route_config(loaded[node.project]) for node in graph.nodes if node.source == REQUEST]
    limits = [settings["preprocess"] for settings in entered]
    serving = {
        "graph": dataclasses.asdict(graph),
        "modality": entered[0]["modality"],
        "classes": output_classes(graph, facts),
        "preprocess": shared_limits(limits),
        "max_request_bytes": min(
            [project.serving.max_request_bytes, *(settings["max_request_bytes"] for settings in entered)]
        ),
        "requests_per_second": project.serving.requests_per_second,
    }
    return CompositionPlan(
        project, graph, serving, {project_name: configs[project_name].version for project_name in projects}
    )


def shared_limits(limits: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the strictest limits of the nodes that the request goes to, and the columns of all where all have them.

    Raises:
        GateClosed: COLUMNS_DIFFER, two nodes read one column two ways.
    """
    shared = {key: min(limit[key] for limit in limits) for key in limits[0] if isinstance(limits[0][key], int)}
    columns: dict[str, Any] = {}
    for column in [column for limit in limits for column in limit.get("columns", ())]:
        if columns.setdefault(column["name"], column) != column:
            raise GateClosed(
                f"the projects of a graph must declare a column alike (got {column['name']} in two ways). "
                "Change `columns` of one of them.",
                code="COLUMNS_DIFFER",
            )
    if all("columns" in limit for limit in limits):
        shared["columns"] = list(columns.values())
    elif any("content_columns" in limit for limit in limits):
        shared["content_columns"] = sorted({name for limit in limits for name in _names(limit)})
    denied = [limit["privacy"] for limit in limits if "privacy" in limit]
    if denied:  # what one of them must not keep, none is given
        shared["privacy"] = {
            key: sorted({name for privacy in denied for name in privacy[key]}) for key in ("columns", "patterns")
        }
    return shared


def _names(limits: Mapping[str, Any]) -> list[str]:
    return limits.get("content_columns") or [column["name"] for column in limits.get("columns", ())]


def apply_graph(parts: Resources, name: str, *, attempt: Attempt, actor: str, reason: str | None) -> Route:
    """Let a composed project serve by its file: one more generation of its route; the same graph again is no change.

    Raises:
        ConfigError: there is no reason.
        GateClosed: NODE_WITHOUT_CHAMPION, or PROJECT_HAS_MODELS: a project is composed or has models, never both.
        LostRace: somebody else was faster.
    """
    reason = stated(reason)
    plan = plan_graph(parts, name)
    serving = ServingRepository(parts.database)
    head = serving.head_route(name)
    if head is not None and head.champion_version == plan.version:
        return head
    generation = head.generation + 1 if head else 1
    route = Route(
        project=name,
        generation=generation,
        commit_id=content_id([name, generation, plan.version, attempt.holder]),
        parent_commit_id=head.commit_id if head else None,
        champion_version=plan.version,
        entries=(),
    )
    serving.commit_route(
        route,
        action=GRAPH,
        attempt=attempt.holder,
        verdict_id="",
        actor=actor,
        reason=reason,
        serving=plan.serving,
        at=utc_now(),
    )
    note_head(parts, name)
    return route


def _champion_config(parts: Resources, project: str) -> ModelConfig:
    champion = champion_of(parts, project)
    if champion is None:
        raise GateClosed(
            f"every node's project must have a champion ({project} has none). Train it, or take the node out.",
            code="NODE_WITHOUT_CHAMPION",
        )
    return read_manifest(parts.store.get(f"{champion.object_key.rstrip('/')}/{MANIFEST_NAME}")).config


def _facts(config: ModelConfig, *, modality: Any) -> NodeFacts:
    columns = config.preprocessing.get("numbers") if modality == "tabular" else None
    return NodeFacts(
        modality=modality,
        classes=config.classes,
        input_dtype=config.signature.input_dtype,
        input_shape=config.signature.input_shape,
        columns=None if columns is None else tuple(columns),
    )


def as_text(plan: CompositionPlan) -> str:
    """Return a plan for people: a line for each node, in their order."""
    lines = [f"{plan.project.name}: {plan.version}, answers {', '.join(plan.serving['classes'][:20])}"]
    for node in plan.graph.nodes:
        given = "the request" if node.source == REQUEST else f"the probabilities of {node.source}"
        conditions = [f"{node.when} says {' or '.join(node.label_in)}"] if node.label_in else []
        if node.confidence_below is not None:
            conditions.append(f"{node.when} is less than {node.confidence_below:g} sure")
        condition = f", if {' and '.join(conditions)}" if conditions else ""
        lines.append(f"  {node.name}: {node.project} {plan.champions[node.project]}, given {given}{condition}")
    return "\n".join([*lines, f"  answers: {', else '.join(plan.graph.output)}"])
