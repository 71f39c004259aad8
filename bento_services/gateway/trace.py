"""The facts of one request, of which its log record is made, and the refusal while nothing is free."""

from __future__ import annotations

import dataclasses

from bento_services.gateway.errors import ApiError
from bento_services.gateway.routing.request_coalescing import BundlePlace
from bento_services.gateway.routing.routes import ProjectRoute
from pipeline_tasks.contracts import RouteEntry


@dataclasses.dataclass(slots=True)
class Trace:
    """The facts of a request so far, of which its log record is made, however it ends."""

    request_id: str
    project: str
    started: float
    client: str = ""
    user_key: str | None = None
    business_key: str | None = None
    media_type: str | None = None
    payload: bytes | None = None
    hashed: bytes | None = None  # in place of a payload that is not kept
    is_raw: bool = False  # the payload may hold what the project denies, and is not logged
    prediction_id: str | None = None  # promised before the answer
    generation: int | None = None  # of the route whose share drew a deployment
    assigned: str | None = None  # the deployment that was drawn, whoever answered in the end
    place: BundlePlace | None = None  # in the bundle of a client's batch
    is_logged: bool = False  # how it ended stands in the log
    spans: dict[str, float] = dataclasses.field(default_factory=dict)  # seconds by part, as `Server-Timing` tells them

    def drawn(self, route: ProjectRoute, entry: RouteEntry) -> None:
        """Note which deployment the share gave: an experiment's exposure."""
        self.generation, self.assigned = route.generation, entry.deployment_id


def no_slot() -> ApiError:
    """Return what a caller is told while the gateway is not free."""
    return ApiError(503, "OVERLOADED", "the gateway must have a free slot (got none).", retry_after_seconds=1)
