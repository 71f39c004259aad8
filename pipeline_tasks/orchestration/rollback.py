"""The rollback with its resources: what it needs lies in the catalog and on this machine."""

from __future__ import annotations

import functools
import logging

from pipeline_tasks.adapters.inference_http import ask_server
from pipeline_tasks.catalog.routes import ServingRepository
from pipeline_tasks.contracts import Attempt, DeploymentRef, ReleaseRef, Route, RouteEntry
from pipeline_tasks.core.clock import utc_now
from pipeline_tasks.deployment import release as release_task
from pipeline_tasks.deployment import task as deployment_task
from pipeline_tasks.errors import ServiceUnavailable
from pipeline_tasks.guards.reason import stated
from pipeline_tasks.orchestration.deploy import (
    golden_again,
    release_facts,
    release_of_version,
    restore_bento,
    target_of,
)
from pipeline_tasks.orchestration.evaluate import model_of
from pipeline_tasks.orchestration.ledger_anchors import note_head, passed_over
from pipeline_tasks.orchestration.resources import Resources

SERVING_STATES = frozenset({"running", "ready"})

logger = logging.getLogger(__name__)


def roll_back(
    parts: Resources, project: str, *, attempt: Attempt, to_version: str | None, reason: str, actor: str
) -> Route:
    """Return to an earlier champion, kept running or started again from its release.

    The catalog and this machine are enough: what the object store adds is asked for briefly, and passed over while it
    is away. A server that is started without its golden requests beside it needs the store.

    Raises:
        ConfigError: there is no reason, or no such champion.
        ServiceUnavailable: the store is away, and this machine lacks the bento or the golden requests.
    """
    reason = stated(reason)
    loaded, store = parts.project(project), parts.brisk_store
    target = target_of(parts, loaded)
    running: dict[str, str] = {}

    def release_of(entry: RouteEntry) -> ReleaseRef:
        release = release_of_version(parts, project, entry.model_version)
        model = model_of(parts, project, entry.model_version)
        key = release_facts(parts, project, release.release_id)["object_key"]
        running.update(target.list())
        with passed_over(f"whether release {release.bento_tag} is whole there is not looked at"):
            release_task.require_artifacts(release, model, object_key=key, store=store)
        restore_bento(parts, release, store=store)
        return release

    def check(release: ReleaseRef, deployment: DeploymentRef) -> None:
        try:
            golden = golden_again(parts, release, store=store)
        except ServiceUnavailable as error:
            if running.get(deployment.deployment_id, "").lower() not in SERVING_STATES:
                raise
            logger.warning("%s was checked at its promotion and has run since; not again now: %s", release, error)
        else:
            release_task.require_golden_answers(
                release, deployment, golden, ask=functools.partial(ask_server, parts.settings.inference_headers)
            )

    serving = ServingRepository(parts.database)
    route = deployment_task.rollback(
        deployment_task.RouteContext(loaded, serving, target, parts.gateway, attempt, utc_now),
        release_of=release_of,
        check=check,
        to_version=to_version,
        actor=actor,
        reason=reason,
        fence=parts.fence(project, "ship", attempt),
    )
    note_head(parts, project)
    return route
