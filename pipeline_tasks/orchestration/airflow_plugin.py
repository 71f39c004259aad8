"""Additions to Airflow's web server: reports behind its login, an overview page, and Label Studio's webhook.

Loaded by every Airflow process (entry point `airflow.plugins`), so imports at module level stay light.
Everything that a plugin mounts is public unless each route asks for the user: every route here does, but for the
webhook, which checks a secret header.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import logging
import re
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.core_api.security import GetUserDep
from airflow.plugins_manager import AirflowPlugin
from fastapi import FastAPI, Header, HTTPException, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse

from pipeline_tasks.errors import DataCorrupt, PipelineError, TransientError

logger = logging.getLogger(__name__)

MAX_WEBHOOK_BYTES = 2_000_000
QUIET_SECONDS = 4.0  # wake when the labelers pause for so long,
MOST_SECONDS = 60.0  # or so long after the first annotation that nobody was woken for

INDEX = "index.html"
MAX_KEY_LENGTH = 1024  # of an object's name in S3
_REPORT = re.compile(r"(?:verdicts|reports)/[A-Za-z0-9._/-]+\.html")
_CHECKS_INDEX = re.compile(r"reports/(?P<project>[a-z0-9_]+)/checks/index\.html")
REPORT_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


@contextlib.asynccontextmanager
async def _lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Wake what nobody was woken for while no api-server ran: Label Studio sends a webhook once."""
    timer = threading.Timer(QUIET_SECONDS, _wake_after_absence)
    timer.daemon = True
    timer.start()
    yield
    timer.cancel()


app = FastAPI(title="Dethrone", docs_url=None, redoc_url=None, openapi_url=None, lifespan=_lifespan)


@app.exception_handler(PipelineError)
def in_words(_request: Request, error: Exception) -> JSONResponse:
    """Say what is the matter with the catalog or the store instead of a traceback."""
    return JSONResponse({"detail": str(error)}, status_code=503 if isinstance(error, TransientError) else 500)


_scheduled: dict[str, tuple[threading.Timer, float]] = {}
_lock = threading.Lock()


@app.get("/")
def overview(user: GetUserDep) -> Response:  # noqa: ARG001 - asking for the user is the check
    """Show every project: champion, exam, labels, last runs, and where to look."""
    from pipeline_tasks.orchestration.overview import overview_html

    return Response(overview_html(), media_type="text/html", headers=REPORT_HEADERS)


@app.get("/reports/{key:path}")
def report(key: str, user: GetUserDep) -> Response:
    """Serve a stored report, a verdict's or a check's; a check's page links to the index of its project.

    The exact figures and the items of an open epoch are for whoever may answer requests for approval.
    """
    from pipeline_tasks.orchestration.overview import project_of, read_report

    if index := _CHECKS_INDEX.fullmatch(key):
        return RedirectResponse(f"/dethrone/data-docs/{index['project']}/index.html")
    if not _REPORT.fullmatch(key) or ".." in key or len(key) > MAX_KEY_LENGTH:
        raise HTTPException(404, "no such report")
    try:
        project = project_of(key)
        return _page(read_report(key, exact=project is None or _may_approve(user, project)))
    except KeyError:
        raise HTTPException(404, "no such report") from None
    except DataCorrupt as error:
        raise HTTPException(409, str(error)) from None


def _may_approve(user: Any, project: str) -> bool:
    """Return whether the user may answer a project's request for approval, by Airflow's own rule."""
    return bool(
        get_auth_manager().is_authorized_dag(
            method="PUT",
            access_entity=DagAccessEntity.HITL_DETAIL,
            details=DagDetails(id=f"{project}__train"),
            user=user,
        )
    )


@app.get("/labels/{project}")
def labels(project: str, user: GetUserDep) -> Response:
    """Show how a project's labeling goes; figures of persons are for whoever may answer requests for approval."""
    from pipeline_tasks.orchestration.overview import labels_html

    if project not in _known_projects():
        raise HTTPException(404, "no such project")
    return _page(labels_html(project, people=_may_approve(user, project)).encode())


@app.get("/data-docs/{path:path}")
def data_docs(path: str, user: GetUserDep) -> Response:  # noqa: ARG001
    """Serve the site of data checks."""
    from data_checks.report import render_root
    from pipeline_tasks.core.object_keys import check_digest
    from pipeline_tasks.core.settings import load_settings

    root = load_settings().docs_dir.resolve()
    try:
        file = (root / (path or INDEX)).resolve()
        is_page = file.is_relative_to(root) and file.suffix == ".html" and file.is_file()
    except (OSError, ValueError):  # a name that no file can have
        is_page = False
    if is_page:
        data = file.read_bytes()
        project, _, name = file.relative_to(root).as_posix().partition("/")
        try:
            check_digest(f"reports/{project}/checks/{name}", data)
        except DataCorrupt as error:
            raise HTTPException(409, f"{error} Or remove {file}: the next check writes it again.") from None
        return _page(data)
    if path in {"", INDEX}:
        return _page(render_root({}).encode())  # the first check writes the site
    raise HTTPException(404, "no such page")


def _page(content: bytes) -> Response:
    return Response(content, media_type="text/html; charset=utf-8", headers=REPORT_HEADERS)


@app.post("/hooks/label-studio/{project}")
async def label_studio_hook(
    project: str, request: Request, x_dethrone_secret: str = Header(default="")
) -> dict[str, bool]:
    """Take Label Studio's word that something changed; the collect run that it wakes reads the truth."""
    from pipeline_tasks.core.settings import load_settings

    settings = load_settings()
    if not hmac.compare_digest(x_dethrone_secret.encode(), settings.webhook_secret.encode()):
        raise HTTPException(401, "the secret header must be the webhook's secret")
    await _read_bounded(request)
    if project not in _known_projects():
        raise HTTPException(404, "no such project")
    _schedule_wake(project)
    return {"scheduled": True}


async def _read_bounded(request: Request) -> None:
    """Read and check the body within the limit; its contents are not used, a forgery can cause one poll at most."""
    size = 0
    chunks = []
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_WEBHOOK_BYTES:
            raise HTTPException(413, f"a webhook's body must be at most {MAX_WEBHOOK_BYTES} bytes")
        chunks.append(chunk)
    try:
        body = json.loads(b"".join(chunks))
    except (ValueError, RecursionError):
        raise HTTPException(422, "a webhook's body must be JSON that is not nested deeply") from None
    if not isinstance(body, dict):
        raise HTTPException(422, "a webhook's body must be a JSON object")


def _known_projects() -> set[str]:
    from pipeline_tasks.core.settings import projects_dir

    return {path.parent.name for path in projects_dir().glob("*/project.yaml")}


def _schedule_wake(project: str) -> None:
    """Wake the collect DAG once for many annotations: after a pause, or after a minute without one."""
    now = time.monotonic()
    with _lock:
        timer, first = _scheduled.pop(project, (None, now))
        if timer is not None:
            timer.cancel()
        delay = max(0.0, min(QUIET_SECONDS, first + MOST_SECONDS - now))
        timer = threading.Timer(delay, _wake_now, args=(project,))
        timer.daemon = True
        _scheduled[project] = (timer, first)
        timer.start()


def _wake_now(project: str) -> None:
    with _lock:
        _scheduled.pop(project, None)
    _wake(f"{project}_annotations")


def _wake_after_absence() -> None:
    from pipeline_tasks.orchestration.overview import projects_with_labelers

    try:
        for project in projects_with_labelers(_known_projects()):
            _wake_now(project)
    except PipelineError as error:
        logger.warning("cannot see whose labels wait (%s); the schedule will sweep", error)


def _wake(asset_name: str) -> None:
    from airflow.assets.manager import asset_manager
    from airflow.models.asset import AssetModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        model = session.scalar(select(AssetModel).where(AssetModel.name == asset_name))
        if model is None:
            logger.warning("asset %s is not known yet; the schedule will sweep", asset_name)
            return
        asset_manager.register_asset_change(asset=model, extra={}, session=session, source_is_api=True)


class DethronePlugin(AirflowPlugin):
    """Mounts the pages and puts them into Airflow's navigation."""

    name = "dethrone"
    fastapi_apps = [{"app": app, "url_prefix": "/dethrone", "name": "Dethrone"}]  # noqa: RUF012
    external_views = [  # noqa: RUF012
        {
            "name": "Dethrone",
            "href": "/dethrone/",
            "destination": "nav",
            "url_route": "dethrone",
            "category": "browse",
        },
        {
            "name": "Data checks",
            "href": "/dethrone/data-docs/index.html",
            "destination": "nav",
            "url_route": "data-checks",
            "category": "browse",
        },
    ]
