"""Types of the API's bodies, of which `openapi.py` makes its schemas.

For the document and for type checkers: the gateway imports none of it when it runs, and needs no pydantic.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from bento_services.gateway.async_predictions.reviews import ReviewState
from bento_services.gateway.async_predictions.store import State

Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Base64 = Annotated[str, Field(json_schema_extra={"contentEncoding": "base64"})]
Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]

STRICT = ConfigDict(extra="forbid")


def said(text: str) -> Any:
    """Return the description of a field."""
    return Field(description=text)


class CandidateBody(TypedDict):
    """A class and its probability."""

    label: str
    confidence: Share


class NodeAnswerBody(TypedDict):
    """The answer of one node of a composed project, before thresholds."""

    node: str
    project: str
    model_version: str
    label: str
    confidence: Share


class PredictionBody(TypedDict):
    """One answer."""

    prediction_id: Annotated[str, said("Name it in feedback, and to ask for it later.")]
    model_version: Annotated[str, said("The one version that answered.")]
    label: Annotated[str | None, said("The class; null where the gateway abstains.")]
    confidence: Annotated[Share, said("The probability of `label`, or of the best class where there is none.")]
    business_label: Annotated[str | None, said("What the business calls the class; the class itself by default.")]
    abstained: Annotated[bool, said("No class reached its threshold.")]
    top: Annotated[list[CandidateBody], said("The most probable classes.")]
    needs_review: Annotated[bool, said("A person may look at it: ask again by `GET /v1/predictions/{prediction_id}`.")]
    answered_by: NotRequired[Annotated[str, said("Composed projects only: the node whose answer this is.")]]
    nodes: NotRequired[Annotated[list[NodeAnswerBody], said("Composed projects only: every node asked, in order.")]]


class GraphNodeBody(TypedDict):
    """A step of a composed project."""

    name: str
    project: Annotated[str, said("Whose champion is asked, by that project's own route.")]
    source: Annotated[str, said("`request`, or the node whose probabilities it is given.")]
    labels: Annotated[list[str], said("The classes of that tensor, in order.")]
    when: Annotated[str | None, said("It runs only if this node has run and said what follows.")]
    label_in: list[str]
    confidence_below: Share | None


class GraphBody(TypedDict):
    """A composed task."""

    nodes: list[GraphNodeBody]
    output: Annotated[list[str], said("The first of these that has run answers.")]


class ErrorDetailBody(TypedDict):
    """The reason for which there is no answer."""

    code: Annotated[str, said("Stable: to be compared by programs.")]
    message: Annotated[str, said("What was expected and what to do: for people.")]
    field: Annotated[str | None, said("The header, field or part that it is about.")]
    request_id: Annotated[str, said("Name it when you report a problem.")]


class ErrorBody(TypedDict):
    """The one shape of every error."""

    error: ErrorDetailBody


@with_config(STRICT)
class BatchItemBody(TypedDict, total=False):
    """One item: its bytes in exactly one of `base64`, `text` and `row`."""

    base64: Annotated[Base64 | None, said("Any item: its encoded bytes.")]
    text: Annotated[str | None, said("For text projects.")]
    row: Annotated[dict[str, Any] | None, said("For tabular projects: column -> plain value.")]
    media_type: Annotated[Name | None, said("Of `base64`; `application/octet-stream` by default.")]
    user_key: Annotated[Name | None, said("As the header `X-User-Key`, for this item.")]
    business_key: Annotated[Name | None, said("As the header `X-Business-Key`, for this item.")]


@with_config(STRICT)
class BatchRequestBody(TypedDict):
    """Several items."""

    items: Annotated[list[BatchItemBody], Field(min_length=1, max_length=256)]


class BatchResultBody(TypedDict):
    """The outcome of one item."""

    index: Annotated[Count, said("Its place in the request, from 0.")]
    status: Annotated[int, said("What it alone would have got: 200, or the status of its error.")]
    prediction: PredictionBody | None
    error: ErrorDetailBody | None


class BatchAnswerBody(TypedDict):
    """A result for each item, in their order."""

    request_id: str
    num_ok: Count
    num_failed: Count
    results: list[BatchResultBody]


class AcceptedBody(TypedDict):
    """A prediction that is made later."""

    prediction_id: str
    status: Annotated[State, said("pending, unless sent again.")]


class ReviewBody(TypedDict):
    """The state of people's look at a prediction, and their answer.

    none: nobody needs to look; not_asked: it was not given to people (yet); catalog_away: it cannot be said now.
    """

    state: ReviewState
    label: Annotated[str | None, said("What a person said; null unless answered.")]
    answered_at: Annotated[Time | None, said("UTC.")]


class PredictionStatusBody(TypedDict):
    """The state of a prediction that is read later."""

    prediction_id: str
    project: str
    status: Literal["pending", "done", "failed"]
    prediction: Annotated[PredictionBody | None, said("Null until done, or if only people's answer is known.")]
    error: Annotated[ErrorDetailBody | None, said("Why a failed one failed.")]
    review: ReviewBody | None


@with_config(STRICT)
class FeedbackBody(TypedDict):
    """The true class of a case, by `prediction_id` or `business_key`."""

    label: Annotated[Name, said("One of the project's classes, letter by letter.")]
    prediction_id: NotRequired[Name | None]
    business_key: NotRequired[Name | None]
    project: NotRequired[Annotated[Name | None, said("Where neither path nor key says it.")]]


class FeedbackAcceptedBody(TypedDict):
    """A feedback that is in the log."""

    accepted: bool
    request_id: str


class DeploymentBody(TypedDict):
    """A model version that serves."""

    deployment_id: str
    model_version: str
    weight: Annotated[Count, said("Percent of the traffic.")]


class ProjectStatusBody(TypedDict):
    """The head of a project's route."""

    project: str
    generation: Annotated[Count, said("Goes up by one with each promotion, rollback and applied graph.")]
    commit_id: str
    champion_version: str
    deployments: Annotated[list[DeploymentBody], said("None of a composed project.")]
    graph: GraphBody | None
    modality: str
    classes: list[str]
    review_below: Share
    abstain_below: Share
    thresholds: dict[str, Share]
    business_labels: dict[str, str]
    max_request_bytes: Count


class AccountBody(TypedDict):
    """One deployment's requests under one generation, replays and named versions left out."""

    deployment_id: str
    model_version: str
    asked: Count
    errors: dict[str, Count]
    latency_counts: Annotated[list[Count], said("Requests up to each edge and above the one before; then the rest.")]
    compared: Annotated[Count, said("Mirrored requests that the champion answered too.")]
    disagreed: Annotated[Count, said("Those of them with another class.")]
    paired: Annotated[Count, said("Mirrored requests that the champion was asked first, whoever answered.")]
    only_it_failed: Annotated[Count, said("Those of them that this one failed and the champion did not.")]
    only_champion_failed: Annotated[Count, said("Those of them that the champion failed and this one did not.")]
    slower: Annotated[list[Count], said("By edge, those that took longer here, and not at the champion's.")]
    faster: Annotated[list[Count], said("By edge, those that took longer at the champion's, and not here.")]


class AccountsBody(TypedDict):
    """The accounts of a project's newest route."""

    project: str
    generation: Count
    edges_ms: list[float]
    deployments: list[AccountBody]


class InFlightBody(TypedDict):
    """Unanswered requests of a deployment."""

    deployment: str
    in_flight: Count


class TargetBody(TypedDict):
    """A target of Prometheus, and the labels that its series get."""

    targets: list[str]
    labels: dict[str, str]
