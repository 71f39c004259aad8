"""Answer a composed task: ask its nodes' champions in order, hand tensors on as they came, log each node."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from bento_services.gateway import request_validation
from bento_services.gateway.async_predictions.store import PredictionStore
from bento_services.gateway.errors import ApiError
from bento_services.gateway.postprocess import Finished, finish
from bento_services.gateway.prediction_recorder import PredictionRecorder
from bento_services.gateway.routing.deployment_counters import FirstReply
from bento_services.gateway.routing.dispatcher import Dispatcher, InferenceRequest, RoutedAnswer
from bento_services.gateway.routing.inference_client import SAFETENSORS
from bento_services.gateway.routing.routes import ProjectRoute
from bento_services.gateway.shadowing import Mirror
from bento_services.gateway.trace import Trace
from pipeline_tasks.contracts import REQUEST, Graph, GraphNode, RouteEntry

if TYPE_CHECKING:
    from bento_services.gateway.api.schemas import NodeAnswerBody, PredictionBody


class Composition:
    """The resources of composed projects: the log, the way to the nodes, the mirrors, and predictions to be reviewed.

    `route` gives the head of a project's route as it is now.
    """

    def __init__(
        self,
        recorder: PredictionRecorder,
        dispatcher: Dispatcher,
        mirror: Mirror,
        store: PredictionStore,
        *,
        route: Callable[[str], ProjectRoute],
    ) -> None:
        self.recorder = recorder
        self.dispatcher = dispatcher
        self.mirror = mirror
        self.store = store
        self.route = route


@dataclasses.dataclass(frozen=True, slots=True)
class NodeResult:
    """A node that has answered."""

    node: GraphNode
    route: ProjectRoute
    question: InferenceRequest
    answered: RoutedAnswer
    finished: Finished
    trace: Trace
    first: FirstReply


def is_due(node: GraphNode, ran: Mapping[str, NodeResult]) -> bool:
    """Tell whether a node runs, by what has run before it: what follows a node that did not run does not run either.

    Raises:
        ApiError: 503, a champion came since the graph was applied that can give none of the labels it waits for.
    """
    if node.source != REQUEST and node.source not in ran:
        return False
    if node.when is None:
        return True
    if node.when not in ran:
        return False
    said, known = ran[node.when].finished, ran[node.when].route.settings.classes
    if node.label_in and known and not set(node.label_in) & set(known):
        message = f"label_in must hold classes of {ran[node.when].node.project} (got none). Apply the graph again."
        raise ApiError(503, "GRAPH_OUTDATED", message, retry_after_seconds=5)
    fits = not node.label_in or said.model_label in node.label_in
    return fits and (node.confidence_below is None or said.model_confidence < node.confidence_below)


async def compose(
    composition: Composition, trace: Trace, route: ProjectRoute, graph: Graph, *, item: bytes, version: str | None
) -> PredictionBody:
    """Answer one item by a graph; every node that has answered is logged in its own project, under the one id.

    Raises:
        ApiError: what a node failed with, named after it. What had answered before is logged, under an id of its own.
    """
    if version not in {None, route.champion_version}:
        raise ApiError(
            404,
            "MODEL_VERSION_UNKNOWN",
            "X-Model-Version must be the version of the graph that serves now. See GET /v1/projects/{project}.",
            field="X-Model-Version",
        )
    ran: dict[str, NodeResult] = {}
    for node in graph.nodes:
        mine = dataclasses.replace(trace, project=node.project)
        try:
            if is_due(node, ran):
                ran[node.name] = await _ask(composition, mine, graph, node, ran, item=item)
        except ApiError as error:
            _log_nodes(composition, ran, prediction_id=composition.recorder.new_id())
            composition.recorder.log_error(dataclasses.replace(mine, started=trace.started, prediction_id=None), error)
            raise _named(error, node) from None
    prediction_id = trace.prediction_id or composition.recorder.new_id()
    item_id = request_validation.item_id(item, route.settings)  # before anything is in the log as answered
    _log_nodes(composition, ran, prediction_id=prediction_id)
    output = ran[next(name for name in graph.output if name in ran)]
    answer = _log_whole(composition, trace, route, output, prediction_id=prediction_id)
    answer |= {"answered_by": output.node.name, "nodes": [_as_json(result) for result in ran.values()]}
    if answer["needs_review"] and trace.prediction_id is None:
        composition.store.remember(prediction_id, project=trace.project, answer=answer, item_id=item_id)
    return answer


async def _ask(
    composition: Composition, trace: Trace, graph: Graph, node: GraphNode, ran: Mapping[str, NodeResult], *, item: bytes
) -> NodeResult:
    trace.started = composition.recorder.monotonic()
    settings = composition.route(node.project).settings
    if node.source == REQUEST and settings.deny:  # a node's list may be newer than the graph's
        item = await request_validation.canonical_item(item, settings)
        trace.payload = item
    payload, media_type = item, trace.media_type or "application/octet-stream"
    if node.source != REQUEST:
        payload, media_type = _tensor_of(ran[node.source], node), SAFETENSORS
    readers = [other for other in graph.nodes if other.source == node.name]
    question = InferenceRequest(
        payload=payload,
        media_type=media_type,
        sticky_key=f"{node.project}/{trace.user_key or trace.request_id}",
        version=None,
        tensor=bool(readers),
        labels=readers[0].labels if readers else (),
    )
    heard: list[FirstReply] = []
    answered = await composition.dispatcher.predict(
        question, current_route=lambda: composition.route(node.project), drawn=trace.drawn, heard=heard.append
    )
    for name, seconds in answered.scores.spans.items():
        trace.spans[name] = trace.spans.get(name, 0.0) + seconds
    node_route = composition.route(node.project)
    return NodeResult(
        node, node_route, question, answered, finish(answered.scores, node_route.settings), trace, heard[0]
    )


def _tensor_of(source: NodeResult, node: GraphNode) -> bytes:
    """Return the very bytes that a node answered with, if its classes stand in the order that the graph was made for.

    Raises:
        ApiError: 503, a champion came since then that numbers its classes otherwise.
    """
    tensor, labels = source.answered.scores.tensor, source.answered.scores.labels
    if tensor is None or labels != node.labels:
        message = (
            f"{source.node.project} must answer with the classes that the graph was applied for, in their order "
            f"(got {source.answered.entry.model_version} with others). Apply the graph again."
        )
        raise ApiError(503, "GRAPH_OUTDATED", message, retry_after_seconds=5)
    return tensor


def _named(error: ApiError, node: GraphNode) -> ApiError:
    """Return a node's error as the caller gets it: what the caller cannot mend is no 4xx."""
    message = f"node {node.name} ({node.project}): {error}"
    if error.status == 404 or (node.source != REQUEST and error.status in {413, 422}):
        return ApiError(503, "NODE_FAILED", message, retry_after_seconds=5)
    return ApiError(error.status, error.code, message, field=error.field, retry_after_seconds=error.retry_after_seconds)


def _log_nodes(composition: Composition, ran: Mapping[str, NodeResult], *, prediction_id: str) -> None:
    """Write each node's answer into the log of its own project; a tensor's bytes are hashed and not kept."""
    for result in ran.values():
        whole = result.node.source == REQUEST
        node_trace = dataclasses.replace(
            result.trace,
            prediction_id=prediction_id,
            media_type=result.question.media_type,
            payload=result.trace.payload if whole else None,
            hashed=None if whole else result.question.payload,
        )
        _, record = composition.recorder.log_answer(node_trace, result.answered, result.finished)
        if result.route.shadows:
            question = dataclasses.replace(result.question, tensor=False)
            composition.mirror.send(question, record, route=result.route, first=result.first)


def _log_whole(
    composition: Composition, trace: Trace, route: ProjectRoute, output: NodeResult, *, prediction_id: str
) -> PredictionBody:
    """Write the composed answer into the log: finished as the output's project finishes its own answers."""
    entry = RouteEntry(output.answered.entry.deployment_id, route.champion_version, address="", weight=0)
    answered = dataclasses.replace(output.answered, entry=entry)
    # The item's bytes stand in the record of the node that was given them.
    whole = dataclasses.replace(trace, prediction_id=prediction_id, payload=None, hashed=trace.payload)
    answer, _ = composition.recorder.log_answer(whole, answered, output.finished)
    return answer


def _as_json(result: NodeResult) -> NodeAnswerBody:
    return {
        "node": result.node.name,
        "project": result.node.project,
        "model_version": result.answered.entry.model_version,
        "label": result.finished.model_label,
        "confidence": result.finished.model_confidence,
    }
