"""Checks of a request before a model sees it: size, media type, names, and an item that decodes."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import anyio.to_thread
from starlette.requests import ClientDisconnect, Request

from bento_services.gateway.errors import ApiError
from pipeline_tasks.contracts import ServingSettings, content_id, sha256_hex
from pipeline_tasks.errors import InputError
from pipeline_tasks.guards.cells import columns_of, json_fraction, row_content
from pipeline_tasks.guards.image import guard_image
from pipeline_tasks.guards.personal import deny_list
from pipeline_tasks.guards.row import check_names, guard_row
from pipeline_tasks.guards.text import decode_text, guard_text

MEDIA_TYPES: Mapping[str, frozenset[str]] = {
    "image": frozenset({"image/png", "image/jpeg", "image/webp", "application/octet-stream"}),
    "text": frozenset({"text/plain", "application/octet-stream"}),
    "tabular": frozenset({"application/json", "application/octet-stream"}),
}
DECODE_IN_THREAD_BYTES = 32 * 1024
MAX_NAME_LENGTH = 200
MAX_PIXELS = 25_000_000
MAX_CHARACTERS = 100_000
_PROJECT = re.compile(r"[a-z][a-z0-9_]{1,38}[a-z0-9]")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_PREDICTION_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_VISIBLE = re.compile(r"[\x20-\x7e]{1,200}")


def check_project(name: str) -> str:
    """Return a project's name from a path; 404 for what cannot be one."""
    if not _PROJECT.fullmatch(name):
        raise unknown_project()
    return name


def unknown_project() -> ApiError:
    """Return the one answer for a project that is not there."""
    return ApiError(404, "PROJECT_UNKNOWN", "the project must be one that this gateway serves.", field="project")


def check_request_id(value: str | None, *, new_id: Callable[[], str]) -> str:
    """Return the caller's request id, or a new one; 400 for what could forge a log line."""
    if value is None:
        return new_id()
    if not _REQUEST_ID.fullmatch(value):
        raise ApiError(
            400,
            "REQUEST_ID_INVALID",
            f"X-Request-Id must be 1 to 128 letters, digits or ._:- (got {len(value)} characters).",
            field="X-Request-Id",
        )
    return value


def is_prediction_id(value: str) -> bool:
    """Return whether a text can be the id of a prediction."""
    return _PREDICTION_ID.fullmatch(value) is not None


def check_header(request: Request, name: str) -> str | None:
    """Return an optional header of visible ASCII, 400 for anything else."""
    value = request.headers.get(name)
    if value is not None and not _VISIBLE.fullmatch(value):
        raise ApiError(
            400, "HEADER_INVALID", f"{name} must be 1 to {MAX_NAME_LENGTH} visible ASCII characters.", field=name
        )
    return value


def check_media_type(request: Request, *, modality: str) -> str:
    """Return the media type of the body; 415 for one that this project does not take, and for encoded bodies."""
    require_identity(request)
    return require_media_type(_content_type(request), modality=modality, field="Content-Type")


def require_identity(request: Request) -> None:
    """Refuse a compressed body; 415."""
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise ApiError(
            415,
            "ENCODING_UNSUPPORTED",
            "Content-Encoding must be absent: send the bytes as they are.",
            field="Content-Encoding",
        )


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def require_media_type(media_type: str, *, modality: str, field: str) -> str:
    """Return the media type if an item of the modality can have it; 415 otherwise."""
    allowed = MEDIA_TYPES.get(modality)
    if allowed is None:
        allowed = frozenset[str]().union(*MEDIA_TYPES.values())
    if media_type not in allowed:
        raise ApiError(
            415,
            "MEDIA_TYPE_UNSUPPORTED",
            f"{field} must be one of {', '.join(sorted(allowed))} (got {media_type[:60] or 'none'}).",
            field=field,
        )
    return media_type


def check_json_type(request: Request) -> None:
    """Refuse a body that does not say that it is JSON; 415."""
    require_identity(request)
    if _content_type(request) != "application/json":
        raise ApiError(
            415, "MEDIA_TYPE_UNSUPPORTED", "Content-Type must be application/json here.", field="Content-Type"
        )


async def read_body(request: Request, *, limit_bytes: int, timeout_seconds: float) -> bytes:
    """Return the body, refused as soon as it is known to be too long (413) or when it comes too slowly (408)."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit_bytes:
        raise _too_large(limit_bytes)
    try:
        async with asyncio.timeout(timeout_seconds):
            return await _collect(request, limit_bytes=limit_bytes)
    except TimeoutError:
        raise ApiError(
            408, "BODY_TOO_SLOW", f"the body must arrive within {timeout_seconds:g} s.", field="body"
        ) from None
    except ClientDisconnect:
        raise ApiError(
            400, "BODY_INCOMPLETE", "the body must arrive whole (got a closed connection).", field="body"
        ) from None


async def _collect(request: Request, *, limit_bytes: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit_bytes:
            raise _too_large(limit_bytes)
        chunks.append(chunk)
    return b"".join(chunks)


def _too_large(limit_bytes: int) -> ApiError:
    return ApiError(413, "BODY_TOO_LARGE", f"the body must have at most {limit_bytes} bytes (got more).", field="body")


async def canonical_item(payload: bytes, settings: ServingSettings) -> bytes:
    """Return the item as training saw its like, after the guards of ingest; 422 with their code if it is unusable."""
    if not payload:
        raise ApiError(422, "EMPTY_FILE", "the body must hold one item (got no bytes).", field="body")
    guard = GUARDS.get(settings.modality)
    if guard is None:
        return payload
    try:
        if len(payload) > DECODE_IN_THREAD_BYTES:
            return await anyio.to_thread.run_sync(guard, payload, settings.preprocess)
        return guard(payload, settings.preprocess)
    except InputError as error:
        raise ApiError(422, error.code, str(error), field="body") from None


def _guard_image(payload: bytes, limits: Mapping[str, Any]) -> bytes:
    guard_image(payload, max_pixels=int(limits.get("max_pixels", MAX_PIXELS)))
    return payload


def _guard_text(payload: bytes, limits: Mapping[str, Any]) -> bytes:
    text = guard_text(decode_text(payload), max_characters=int(limits.get("max_text_characters", MAX_CHARACTERS)))
    return deny_list(limits.get("privacy", {})).hide(text).encode()


def _guard_row(payload: bytes, limits: Mapping[str, Any]) -> bytes:
    """Return a row's content by the project's declared columns; without those the row as it came."""
    max_characters = int(limits.get("max_text_characters", MAX_CHARACTERS))
    columns = columns_of(limits.get("columns", ()))
    row = parse_json_object(payload, parse_float=json_fraction if columns else float)
    deny = deny_list(limits.get("privacy", {}))
    if deny:
        cleaned = deny.clean_row(row)
        if cleaned != row and not columns:
            payload = json.dumps(cleaned, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
        row = cleaned
    check_names(row)
    if columns:
        return row_content(row, columns=columns, max_characters=max_characters)
    # Which columns the model needs is the inference service's to say; here every value that came must be plain.
    guard_row(row, columns=list(row), max_characters=max_characters)
    return payload


GUARDS: Mapping[str, Callable[[bytes, Mapping[str, Any]], bytes]] = {
    "image": _guard_image,
    "text": _guard_text,
    "tabular": _guard_row,
}


def item_id(item: bytes, settings: ServingSettings) -> str:
    """Return the content id that the catalog gives to a checked item: the digest of its canonical bytes."""
    if settings.modality != "tabular" or settings.preprocess.get("columns"):
        return sha256_hex(item)
    row, names = json.loads(item), set(settings.preprocess.get("content_columns", ()))
    content = {name: row[name] for name in (names if names and names <= row.keys() else row)}
    # -0.0 and 0.0 are one value, as for `guard_row`.
    return content_id({name: value + 0.0 if isinstance(value, float) else value for name, value in content.items()})


def parse_json_object(body: bytes, *, parse_float: Callable[[str], Any] = float) -> dict[str, Any]:
    """Return a JSON object read strictly: UTF-8, no double key, no NaN; 400 or 422 otherwise."""
    try:
        value = json.loads(
            body.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_not_finite, parse_float=parse_float
        )
    except (ValueError, RecursionError):
        raise ApiError(
            400, "JSON_INVALID", "the body must be one JSON object in UTF-8, each key once.", field="body"
        ) from None
    if not isinstance(value, dict):
        raise ApiError(
            400, "JSON_INVALID", f"the body must be a JSON object (got {type(value).__name__}).", field="body"
        )
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a key must stand once.")
    return fields


def _not_finite(text: str) -> float:
    raise ApiError(422, "NOT_FINITE", f"numbers must be finite (got {text}).", field="body")


def refuse_unknown(document: Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuse a field that means nothing here: a misspelt one would be lost silently; 422."""
    unknown = sorted(set(document) - set(known))
    if unknown:
        shown = unknown[0][:60].encode("ascii", "backslashreplace").decode()
        message = f"fields must be among {', '.join(known)} (got {shown!r})."
        raise ApiError(422, "FIELD_UNKNOWN", message, field=shown)


def text_field(document: Mapping[str, Any], name: str, *, required: bool) -> str | None:
    """Return a text of 1 to 200 characters without control characters; 422 otherwise."""
    value = document.get(name)
    if value is None and not required:
        return None
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_NAME_LENGTH or not value.isprintable():
        raise ApiError(
            422,
            "FIELD_INVALID",
            f"{name} must be a text of 1 to {MAX_NAME_LENGTH} printable characters (got {type(value).__name__}).",
            field=name,
        )
    return value


@dataclasses.dataclass(frozen=True, slots=True)
class FeedbackFields:
    """A feedback's body: the true label, and which prediction it is about."""

    label: str
    prediction_id: str | None
    business_key: str | None
    project: str | None


def parse_feedback(body: bytes) -> FeedbackFields:
    """Read a feedback's body strictly: no unknown field, one of prediction_id and business_key."""
    document = parse_json_object(body)
    known = [field.name for field in dataclasses.fields(FeedbackFields)]
    refuse_unknown(document, known)
    label = text_field(document, "label", required=True) or ""
    optional = {name: text_field(document, name, required=False) for name in known if name != "label"}
    if not optional["prediction_id"] and not optional["business_key"]:
        raise ApiError(422, "FIELD_MISSING", "prediction_id or business_key must be given.", field="prediction_id")
    return FeedbackFields(label=label, **optional)


def check_personal(settings: ServingSettings, values: Mapping[str, str | None]) -> None:
    """Refuse a name or key with personal data that the project denies; 422. It is not logged."""
    deny = deny_list(settings.deny)
    for name, value in values.items():
        try:
            deny.require_none(value or "", name=name)
        except InputError as error:
            raise ApiError(422, error.code, str(error), field=name) from None


def check_label(label: str, classes: Sequence[str]) -> None:
    """Refuse a label that is none of the project's classes, letter by letter."""
    if classes and label not in classes:
        shown = ", ".join(classes[:20])
        raise ApiError(422, "UNKNOWN_CLASS", f"label must be one of {shown} (got {label[:60]!r}).", field="label")
