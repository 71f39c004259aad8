"""The rules of `dethrone_access` as a part of Label Studio's server, and the author of each annotation."""

import base64
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import unquote

import dethrone_access as access
from core.current_request import get_current_request
from data_manager.models import View
from django.http import JsonResponse
from jwt_auth.auth import TokenAuthenticationPhaseout
from rest_framework.exceptions import APIException, PermissionDenied
from rest_framework.request import Request
from tasks.models import Annotation, AnnotationDraft, Task

REFUSED = "{what} must be an administrator's order (got an order of {email}, who labels). Ask an administrator."


class LabelersOnlyLabel:
    """Refuses what an account without the superuser's mark may not do, before any view has looked at it."""

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        self.get_response = get_response

    def __call__(self, request: Any) -> Any:
        return self.get_response(request)

    def process_view(self, request: Any, _view: Any, _arguments: Any, keywords: Mapping[str, Any]) -> Any:
        match = request.resolver_match
        route = match.view_name if match.url_name else match.route
        for user in _accounts(request):
            if user.is_superuser:
                continue
            request.dethrone_labeler_id = user.pk
            if not _allowed(request, route, keywords, user):
                what = f"{request.method} {request.path}"
                return JsonResponse({"detail": REFUSED.format(what=what, email=user.email)}, status=403)
        return None

    def process_template_response(self, request: Any, response: Any) -> Any:
        labeler_id = getattr(request, "dethrone_labeler_id", None)
        if labeler_id is not None and getattr(response, "data", None) is not None:
            response.data = access.own_answers(response.data, labeler_id)
        return response


def _accounts(request: Any) -> list[Any]:
    """Return the accounts that a view could take the request for: of the session, and of a token in its header."""
    accounts = [request.user] if request.user.is_authenticated else []
    try:
        authenticated = TokenAuthenticationPhaseout().authenticate(Request(request))
    except APIException:
        return accounts  # the API refuses it by itself; a page goes by the session
    return [*accounts, authenticated[0]] if authenticated else accounts


def _allowed(request: Any, route: str, keywords: Mapping[str, Any], user: Any) -> bool:
    if not access.may_call(route, request.method) or (route in access.FILTERING and not _filters(request, route)):
        return False
    if (name := access.OWN_ANNOTATION.get(route)) is not None:
        return _is_own(Annotation.objects.filter(pk=keywords[name]).values_list("completed_by_id", flat=True), user)
    if (name := access.OWN_DRAFT.get(route)) is not None:
        return _is_own(AnnotationDraft.objects.filter(pk=keywords[name]).values_list("user_id", flat=True), user)
    if route in access.OWN_ACCOUNT and request.method not in {"GET", "HEAD", "OPTIONS"}:
        return str(keywords["pk"]) == str(user.pk)
    if route in access.FILES_OF_TASK:
        task = Task.objects.filter(pk=keywords["task_id"]).first()
        return task is None or access.shows(task.data, _address(request.GET.get("fileuri", "")))
    return True


def _filters(request: Any, route: str) -> bool:
    """Return whether a request sorts and filters as labelers may, and takes no other action than the next task."""
    try:
        sent: dict[str, Any] = json.loads(request.body) if request.body else {}
    except (ValueError, RecursionError):
        return False  # a form: the pages send none here
    view = sent.get("data") or {} if isinstance(sent, dict) else {}
    if not all(access.may_filter(query) for query in (sent, view)):
        return False
    if not all(access.may_query(query) for query in request.GET.getlist("query")):
        return False
    if request.method != "POST":
        return True
    if route == access.FIRST_VIEW:
        project = str(sent.get("project"))
        is_first = project.isdecimal() and not View.objects.filter(project_id=int(project)).exists()
        return is_first and "filter_group" not in sent
    return bool((route, request.GET.get("id")) == access.NEXT_TASK)


def _is_own(owners: Iterable[Any], user: Any) -> bool:
    """Return whether the one owner is this user; what does not exist is left to the view, which says so."""
    return all(owner == user.pk for owner in owners)


def _address(given: str) -> str:
    """Return what Label Studio reads from this parameter (io_storages/proxy_api.py)."""
    try:
        return base64.urlsafe_b64decode(given.encode()).decode()
    except ValueError:
        return unquote(given)


def keep_author(instance: Any, *, raw: bool = False, **_signal: Any) -> None:
    """Before an annotation is saved: it is by who sends it, and stays so, whatever the request says.

    Orders to import tasks make annotations in bulk and do not come by here; they are an administrator's.
    """
    request = get_current_request()
    user = getattr(request, "user", None)
    if raw or user is None or not user.is_authenticated:
        return
    stored = Annotation.objects.filter(pk=instance.pk).values_list("completed_by_id", "task_id").first()
    if stored is None:
        instance.completed_by = user
        return
    if not user.is_superuser and stored != (user.pk, instance.task_id):
        raise PermissionDenied("an annotation must stay on its task and be changed by its author")
    instance.completed_by_id = stored[0]
