"""The gateway's HTTP side: paths, request ids, and every outcome in one shape."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Match, Route

from bento_services.gateway.api.feedback import take_feedback
from bento_services.gateway.api.predict_async import accept, look_up
from bento_services.gateway.api.predict_batch import predict_batch
from bento_services.gateway.api.scrape_targets import scrape_targets
from bento_services.gateway.errors import ApiError, error_response, json_response
from bento_services.gateway.request_handler import RequestHandler
from bento_services.gateway.request_validation import check_project, check_request_id
from bento_services.gateway.server_timing import TIMING_HEADER, format_timing
from bento_services.gateway.status import describe, gauges

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
ID_BYTES = 16
IDS_AT_ONCE = 256
# `openapi.py` makes both.
DOCUMENT, PAGE = (Path(__file__).with_name(name).read_text() for name in ("openapi.json", "docs.html"))
# The page loads nothing and may not be framed; its style is its own.
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}

Handler = Callable[[RequestHandler, Request, str], Awaitable[Response]]


def random_ids(*, read: Callable[[int], bytes] = secrets.token_bytes) -> Callable[[], str]:
    """Return a source of new ids: random, so that they depend on no clock.

    It asks the kernel for many at a time: each time hands the interpreter to another thread, an eighth of a request's
    CPU when it was done for each id.
    """
    left: list[str] = []

    def new_id() -> str:
        if not left:
            data = read(ID_BYTES * IDS_AT_ONCE)
            left.extend(data[at : at + ID_BYTES].hex() for at in range(0, len(data), ID_BYTES))
        return left.pop()

    return new_id


def build_app(gateway: RequestHandler) -> Starlette:
    """Return the application of a gateway."""
    paths: list[tuple[str, str, Handler]] = [
        ("/v1/projects/{project}/predict", "POST", _predict),
        ("/v1/projects/{project}/predict:batch", "POST", _predict_batch),
        ("/v1/projects/{project}/predict:async", "POST", _predict_async),
        ("/v1/predictions/{prediction_id}", "GET", _prediction),
        ("/v1/projects/{project}/feedback", "POST", _feedback),
        ("/v1/projects/{project}", "GET", _describe),
        ("/feedback", "POST", _feedback),
        ("/internal/inflight", "GET", _in_flight),
        ("/internal/accounts/{project}", "GET", _accounts),
        ("/internal/targets", "GET", _targets),
        ("/metrics", "GET", _metrics),
        ("/openapi.json", "GET", _openapi),
        ("/docs", "GET", _docs),
    ]
    routes = [Route(path, _health) for path in ("/healthz", "/livez", "/readyz")]
    routes += [Route(path, _endpoint(handler), methods=[method]) for path, method, handler in paths]
    catch_all = Route("/{path:path}", _endpoint(_not_found), methods=METHODS)
    app = Starlette(routes=[*routes, catch_all], exception_handlers={404: _unrouted, 405: _unrouted})
    app.router.redirect_slashes = False  # what has no path is no address to be sent to
    app.state.gateway = gateway
    return app


async def _health(request: Request) -> Response:
    """Answer without a key: ready means that there are routes to follow, the catalog's or the last known."""
    is_ready = request.app.state.gateway.follower.snapshot is not None
    return PlainTextResponse("\n", status_code=200 if is_ready or request.url.path != "/readyz" else 503)


async def _unrouted(request: Request, error: Exception) -> Response:  # noqa: ARG001  (Starlette's signature)
    """Answer for what even the last route does not match: a path with a line break, a method of one's own.

    What follows a CONNECT may be bytes for the tunnel: they are no request.
    """
    response = await _endpoint(_not_found)(request)
    response.headers["Connection"] = "close"
    return response


def _endpoint(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """Give a handler its gateway and request id, and turn whatever it raises into the error contract."""

    async def endpoint(request: Request) -> Response:
        gateway: RequestHandler = request.app.state.gateway
        request_id = gateway.new_id()
        started = gateway.monotonic()
        try:
            request_id = check_request_id(request.headers.get("x-request-id"), new_id=lambda: request_id)
            response = await handler(gateway, request, request_id)
        except ApiError as error:
            gateway.metrics.add("dethrone_refused_total", code=error.code)
            response = error_response(error, request_id=request_id)
        except Exception as error:  # noqa: BLE001  a defect is logged, and the caller hears of it in one shape
            body = {"error": gateway.defect(error, request_id=request_id)}
            response = json_response(body, status=500, request_id=request_id)
        seconds = gateway.monotonic() - started
        gateway.metrics.observe(seconds)
        spans = getattr(request.state, "spans", {})
        response.headers[TIMING_HEADER] = format_timing(spans, total_seconds=seconds)
        return response

    return endpoint


async def _predict(gateway: RequestHandler, request: Request, request_id: str) -> Response:
    answer = await gateway.predict(request, project=request.path_params["project"], request_id=request_id)
    return _answer(answer, request_id)


async def _predict_batch(gateway: RequestHandler, request: Request, request_id: str) -> Response:
    answer = await predict_batch(gateway, request, project=request.path_params["project"], request_id=request_id)
    return _answer(answer, request_id)


async def _predict_async(gateway: RequestHandler, request: Request, request_id: str) -> Response:
    accepted = await accept(gateway, request, project=request.path_params["project"], request_id=request_id)
    response = _answer(accepted, request_id, status=202)
    response.headers["Location"] = f"/v1/predictions/{accepted['prediction_id']}"
    return response


async def _prediction(gateway: RequestHandler, request: Request, request_id: str) -> Response:
    prediction = await look_up(gateway, request, prediction_id=request.path_params["prediction_id"])
    response = _answer(prediction, request_id)
    if prediction["status"] == "pending":
        response.headers["Retry-After"] = "1"
    return response


async def _feedback(gateway: RequestHandler, request: Request, request_id: str) -> Response:
    project = request.path_params.get("project")
    if project is not None:
        check_project(project)
    return _answer(
        await take_feedback(gateway, request, project=project, request_id=request_id), request_id, status=202
    )


async def _describe(gateway: RequestHandler, request: Request, request_id: str) -> Response:
    project = check_project(request.path_params["project"])
    gateway.authorize(request, scope=None, project=project)
    return _answer(describe(gateway.route(project)), request_id)


async def _in_flight(gateway: RequestHandler, request: Request, request_id: str) -> Response:
    gateway.authorize(request, scope="admin")
    deployment = request.query_params.get("deployment", "")
    body = {"deployment": deployment[:200], "in_flight": gateway.dispatcher.in_flight(deployment)}
    return _answer(body, request_id)


async def _accounts(gateway: RequestHandler, request: Request, request_id: str) -> Response:
    project = check_project(request.path_params["project"])
    gateway.authorize(request, scope="admin", project=project)
    return _answer(gateway.dispatcher.accounts.read(gateway.route(project)), request_id)


async def _targets(gateway: RequestHandler, request: Request, request_id: str) -> Response:
    key = gateway.authorize(request, scope="admin")
    return json_response(scrape_targets(gateway.snapshot(), key), status=200, request_id=request_id)


async def _metrics(gateway: RequestHandler, request: Request, request_id: str) -> Response:
    gateway.authorize(request, scope="admin")
    text = gateway.metrics.render(gauges(gateway))
    return PlainTextResponse(text, media_type="text/plain; version=0.0.4", headers={"X-Request-Id": request_id})


async def _openapi(gateway: RequestHandler, request: Request, request_id: str) -> Response:  # noqa: ARG001  (a handler's)
    return Response(DOCUMENT, media_type="application/json", headers={"X-Request-Id": request_id})


async def _docs(gateway: RequestHandler, request: Request, request_id: str) -> Response:  # noqa: ARG001  (a handler's)
    return Response(PAGE, media_type="text/html", headers=SECURITY_HEADERS | {"X-Request-Id": request_id})


async def _not_found(gateway: RequestHandler, request: Request, request_id: str) -> Response:  # noqa: ARG001  (a handler's)
    routes = [route for route in request.app.routes if isinstance(route, Route) and route.path != "/{path:path}"]
    allowed = [route.methods or set() for route in routes if route.matches(request.scope)[0] == Match.PARTIAL]
    if allowed:
        error = ApiError(405, "METHOD_NOT_ALLOWED", f"the method must be {', '.join(sorted(allowed[0]))} here.")
        response = error_response(error, request_id=request_id)
        response.headers["Allow"] = ", ".join(sorted(allowed[0]))
        return response
    raise ApiError(404, "NOT_FOUND", "the path must be one of the API's. See /docs.")


def _answer(body: Mapping[str, Any], request_id: str, *, status: int = 200) -> Response:
    return json_response(body, status=status, request_id=request_id)
