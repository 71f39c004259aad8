"""The values of the API. Unknown fields of a newer gateway are passed over."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping
from typing import Any, Literal

Json = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Row:
    """A tabular item: column name -> text, number, true, false or None."""

    values: Json


Item = bytes | str | Row


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A class and its probability, 0 to 1."""

    label: str
    confidence: float


@dataclasses.dataclass(frozen=True)
class NodeAnswer:
    """The answer of a node of a composed project."""

    node: str
    project: str
    model_version: str
    label: str
    confidence: float


@dataclasses.dataclass(frozen=True)
class Prediction:
    """One answer; `label` and `business_label` are None where the gateway abstained.

    Of a composed project, `answered_by` is the node whose answer this is, and `nodes` are all that were asked.
    """

    prediction_id: str
    model_version: str
    label: str | None
    confidence: float
    business_label: str | None
    abstained: bool
    top: tuple[Candidate, ...]
    needs_review: bool
    answered_by: str | None = None
    nodes: tuple[NodeAnswer, ...] = ()

    @classmethod
    def from_json(cls, body: Json) -> Prediction:
        return cls(
            prediction_id=str(body["prediction_id"]),
            model_version=str(body["model_version"]),
            label=body["label"],
            confidence=float(body["confidence"]),
            business_label=body.get("business_label", body["label"]),
            abstained=bool(body.get("abstained", False)),
            top=tuple(Candidate(str(candidate["label"]), float(candidate["confidence"])) for candidate in body["top"]),
            needs_review=bool(body["needs_review"]),
            answered_by=body.get("answered_by"),
            nodes=tuple(_node(node) for node in body.get("nodes", ())),
        )


def _node(body: Json) -> NodeAnswer:
    names = ("node", "project", "model_version", "label")
    return NodeAnswer(*(str(body[name]) for name in names), confidence=float(body["confidence"]))


@dataclasses.dataclass(frozen=True)
class ItemError:
    """Why one item of a batch has no answer."""

    status: int
    code: str
    message: str
    field: str | None

    @classmethod
    def from_json(cls, status: int, body: Json) -> ItemError:
        return cls(status, str(body["code"]), str(body["message"]), body.get("field"))


@dataclasses.dataclass(frozen=True)
class Accepted:
    """An asynchronous prediction that will be made."""

    prediction_id: str
    status: str


@dataclasses.dataclass(frozen=True)
class Review:
    """The state of people's review of a prediction, and their answer."""

    state: Literal["none", "not_asked", "asked", "answered", "disputed", "catalog_away"]
    label: str | None
    answered_at: dt.datetime | None

    @classmethod
    def from_json(cls, body: Json) -> Review:
        at = body.get("answered_at")
        return cls(body["state"], body.get("label"), None if at is None else dt.datetime.fromisoformat(at))


@dataclasses.dataclass(frozen=True)
class PredictionStatus:
    """The gateway's record of a prediction."""

    prediction_id: str
    project: str
    status: Literal["pending", "done", "failed"]
    prediction: Prediction | None
    error: ItemError | None
    review: Review | None

    @classmethod
    def from_json(cls, body: Json) -> PredictionStatus:
        prediction, error, review = body.get("prediction"), body.get("error"), body.get("review")
        return cls(
            prediction_id=str(body["prediction_id"]),
            project=str(body["project"]),
            status=body["status"],
            prediction=None if prediction is None else Prediction.from_json(prediction),
            error=None if error is None else ItemError.from_json(0, error),
            review=None if review is None else Review.from_json(review),
        )


@dataclasses.dataclass(frozen=True)
class Deployment:
    """A model version that serves, with its percent of the traffic."""

    deployment_id: str
    model_version: str
    weight: int


@dataclasses.dataclass(frozen=True)
class ProjectStatus:
    """The versions of a project that serve now."""

    project: str
    generation: int
    champion_version: str
    deployments: tuple[Deployment, ...]
    classes: tuple[str, ...]

    @classmethod
    def from_json(cls, body: Json) -> ProjectStatus:
        deployments = tuple(
            Deployment(str(deployment["deployment_id"]), str(deployment["model_version"]), int(deployment["weight"]))
            for deployment in body["deployments"]
        )
        return cls(
            project=str(body["project"]),
            generation=int(body["generation"]),
            champion_version=str(body["champion_version"]),
            deployments=deployments,
            classes=tuple(body["classes"]),
        )
