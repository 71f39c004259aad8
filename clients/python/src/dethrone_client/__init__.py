"""A typed client of a Dethrone gateway."""

from dethrone_client.client import Client
from dethrone_client.errors import ApiError, ClientError, ConnectionFailed, PredictionFailed, StillPending
from dethrone_client.models import (
    Accepted,
    Candidate,
    Deployment,
    Item,
    ItemError,
    NodeAnswer,
    Prediction,
    PredictionStatus,
    ProjectStatus,
    Review,
    Row,
)

__all__ = [
    "Accepted",
    "ApiError",
    "Candidate",
    "Client",
    "ClientError",
    "ConnectionFailed",
    "Deployment",
    "Item",
    "ItemError",
    "NodeAnswer",
    "Prediction",
    "PredictionFailed",
    "PredictionStatus",
    "ProjectStatus",
    "Review",
    "Row",
    "StillPending",
]
