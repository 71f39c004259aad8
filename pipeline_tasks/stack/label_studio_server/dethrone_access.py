"""Rights of a labeler in Label Studio: open a project, take tasks, answer, change and withdraw own answers. Pure.

Label Studio's community edition gives every account every right. An account without the superuser's mark may do what
stands here and nothing else: a route that a new version adds is closed until somebody has looked at it.
"""

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

READ = frozenset({"GET"})
POST = frozenset({"POST"})
BOTH = READ | POST
CHANGE = frozenset({"GET", "PATCH", "PUT", "DELETE"})

# Routes by name, and by pattern where Label Studio gives them none.
ALLOWED: Mapping[str, frozenset[str]] = {
    # pages, and what they are made of
    "main": READ, "projects:project-index": READ, "data_manager:project-data": READ, "user-account": READ,
    "user-account-anything": READ, "user-login": BOTH, "user-signup": BOTH, "logout": BOTH, "health": READ,
    "version": READ, "api-version": READ, "collect_metrics": BOTH,
    r"^sw\.js$": READ, r"^sw-fallback\.js$": READ, r"^favicon\.ico$": READ, r"^static/(?P<path>.*)$": READ,
    r"^static/fonts/roboto/roboto.css$": READ, r"^label-studio-frontend/(?P<path>.*)$": READ,
    r"^dm/(?P<path>.*)$": READ, r"^react-app/(?P<path>.*)$": READ, r"^^data/avatars/(?P<path>.*)$": READ,
    # projects and their tasks
    "projects:api:project-list": READ, "projects:api:project-counts-list": READ, "projects:api:project-detail": READ,
    "projects:api:project-next": READ, "projects:api:label-stream-history": READ, "data_manager:dm-columns": READ,
    "data_manager:dm-project": READ, "data_manager:dm-actions": BOTH, "data_manager:api:view-list": BOTH,
    "data_manager:api:view-detail": READ, "labels_manager:api-labels:label_link-list": READ,
    "tasks:api:task-list": READ, "tasks:api:task-detail": READ, "storages:task-storage-data-resolve": READ,
    "storages:task-storage-data-presign": READ, "data_import:data-upload": READ,
    # answers
    "tasks:api:task-annotations": BOTH, "tasks:api:task-drafts": POST, "tasks:api:task-annotations-drafts": POST,
    "tasks:api-annotations:annotation-detail": CHANGE, "tasks:api-annotations:annotation-convert-to-draft": POST,
    "tasks:api-drafts:draft-detail": CHANGE,
    # the own account
    "user-list": READ, "user-detail": READ | {"PATCH"}, "user-avatar": frozenset({"POST", "DELETE"}),
    "current-user-whoami": READ, "current-user-token": READ, "current-user-reset-token": POST,
    "current-user-hotkeys": READ | {"PATCH"}, "product-tour": READ | {"PATCH"}, "session-policy": READ,
    "jwt_auth:token_manage": BOTH, "jwt_auth:token_refresh": POST, "jwt_auth:token_rotate": POST,
    "jwt_auth:token_blacklist": POST, "jwt_auth:api-jwt-settings": READ,
}  # fmt: skip

# Which of a route's numbers names something that must be the account's own.
OWN_ANNOTATION: Mapping[str, str] = {
    "tasks:api-annotations:annotation-detail": "pk",
    "tasks:api-annotations:annotation-convert-to-draft": "pk",
    "tasks:api:task-annotations-drafts": "annotation_id",
}
OWN_DRAFT: Mapping[str, str] = {"tasks:api-drafts:draft-detail": "pk"}
OWN_ACCOUNT = frozenset({"user-detail", "user-avatar"})
# Routes that read filters from the query or from a body, whatever the method.
FILTERING = frozenset({"tasks:api:task-list", "data_manager:dm-actions", "data_manager:api:view-list"})
NEXT_TASK = ("data_manager:dm-actions", "next_task")  # how the page takes the next task; other actions change tasks
FIRST_VIEW = "data_manager:api:view-list"  # the page saves a project's first tab; those after it are for all to see
FILES_OF_TASK = frozenset({"storages:task-storage-data-resolve", "storages:task-storage-data-presign"})

# Columns by which a labeler may sort and filter: those of answers would tell, answer by answer, what others said.
_COLUMNS = frozenset({
    "id", "inner_id", "created_at", "updated_at", "completed_at", "file_upload", "storage_filename", "draft_exists",
    "total_annotations", "cancelled_annotations", "total_predictions", "annotators", "updated_by",
})  # fmt: skip
_ANSWERS_OF_ALL = "annotations_results"


def may_call(route: str, method: str) -> bool:
    """Return whether labelers have this route at all."""
    asked = "GET" if method in {"HEAD", "OPTIONS"} else method
    return asked in ALLOWED.get(route, frozenset())


def may_query(query: str) -> bool:
    """Return whether a listing is sorted and filtered by columns that tell nothing of others' answers."""
    try:
        return not query or may_filter(json.loads(unquote(query)))  # unquoted twice, as in data_manager/functions.py
    except (ValueError, RecursionError):
        return False


def may_filter(document: Any) -> bool:
    """Return whether filters and order, as the data manager has them in a body, tell nothing of others' answers."""
    try:
        filters = (document.get("filters") or {}).get("items") or []
        names = [str(entry["filter"]) for entry in filters] + [str(column) for column in document.get("ordering") or []]
    except (AttributeError, KeyError, TypeError):
        return False
    return all(map(_is_open_column, names)) and not any(entry.get("child_filter") for entry in filters)


def _is_open_column(name: str) -> bool:
    column = name.removeprefix("filter:").lstrip("-").removeprefix("tasks:").lstrip("-")
    return column in _COLUMNS or (column.startswith("data.") and "__" not in column)


def own_answers(data: Any, user_id: int) -> Any:
    """Return an answer of the API without the annotations of others and without columns that are made of them."""
    if isinstance(data, Mapping):
        return {key: "" if key == _ANSWERS_OF_ALL else own_answers(value, user_id) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [own_answers(row, user_id) for row in data if _is_open(row, user_id)]
    return data


def _is_open(value: Any, user_id: int) -> bool:
    if not isinstance(value, Mapping) or "completed_by" not in value:
        return True
    author = value["completed_by"]
    return (author.get("id") if isinstance(author, Mapping) else author) == user_id


def shows(task_data: Any, address: str) -> bool:
    """Return whether a task's data hold this address, as a text or inside one."""
    if isinstance(task_data, str):
        return address in task_data
    values = task_data.values() if isinstance(task_data, Mapping) else task_data if isinstance(task_data, list) else ()
    return bool(address) and any(shows(value, address) for value in values)
