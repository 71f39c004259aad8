"""Ask an inference service, and believe its answer only when it makes sense."""

from __future__ import annotations

import dataclasses
import json
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeVar

import aiohttp

from bento_services.gateway.server_timing import TIMING_HEADER, parse_timing
from pipeline_tasks.contracts import RouteEntry

# Shorter than the 5 s after which the server closes an idle connection, so that we close it first.
KEEP_ALIVE_SECONDS = 3.0
CONNECT_SECONDS = 2.0  # more than the second after which a lost SYN is sent again
MAX_ANSWER_BYTES = 4 * 1024 * 1024
SAFETENSORS = "application/vnd.safetensors"
SUM_TOLERANCE = 1e-3
BATCH_TYPE = "application/vnd.dethrone.batch"
ITEM_LENGTH = struct.Struct(">I")
MODEL_FAILED = "MODEL_FAILED"  # the one error of an item that is not the item's own

Failure = Literal["unreachable", "timeout", "overloaded", "failed", "nonsense", "class_order"]


@dataclasses.dataclass(frozen=True, slots=True)
class Scores:
    """A believable answer: the probability of each class, and, where it was asked for, as the bytes that came."""

    labels: tuple[str, ...]
    probabilities: tuple[float, ...]
    spans: Mapping[str, float] = dataclasses.field(default_factory=dict, compare=False)  # seconds by part of the work
    tensor: bytes | None = dataclasses.field(default=None, compare=False, repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Rejected:
    """The service says that the item itself is bad: asking again cannot help."""

    status: int
    code: str
    message: str


@dataclasses.dataclass(frozen=True, slots=True)
class Failed:
    """No usable answer: another replica may have one."""

    kind: Failure
    echo: bool = dataclasses.field(default=False, compare=False)  # another item of the same request tells it already


Reply = Scores | Rejected | Failed
ReadT = TypeVar("ReadT")


class Predictor(Protocol):
    """The predictor: the inference client, or a stub."""

    async def ask(self, entry: RouteEntry, payload: bytes, *, media_type: str, classes: Sequence[str]) -> Reply:
        """Return a deployment's answer on one item."""

    async def ask_tensor(self, entry: RouteEntry, payload: bytes, *, media_type: str, classes: Sequence[str]) -> Reply:
        """Return it with the bytes of its tensor."""

    async def ask_many(
        self, entry: RouteEntry, payloads: Sequence[bytes], *, classes: Sequence[str]
    ) -> Sequence[Reply]:
        """Return a deployment's answers on several items, in their order, asked in one request."""


class ReadReply(Protocol):
    """Judges an answer by its status and body."""

    def __call__(self, status: int, body: bytes, *, version: str, classes: Sequence[str]) -> Reply: ...


class InferenceClient:
    """A pool of kept-alive connections to the inference services."""

    def __init__(self, *, timeout_seconds: float, key: str | None = None) -> None:
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds, connect=min(CONNECT_SECONDS, timeout_seconds))
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._timeout_ms = str(max(1, int(timeout_seconds * 1000)))
        self._session: aiohttp.ClientSession | None = None

    async def ask(self, entry: RouteEntry, payload: bytes, *, media_type: str, classes: Sequence[str]) -> Reply:
        """Return the deployment's answer on one item; never raises for what the other side does."""
        return await self._ask_one(entry, payload, {"Content-Type": media_type}, classes=classes, judge=read_reply)

    async def ask_tensor(self, entry: RouteEntry, payload: bytes, *, media_type: str, classes: Sequence[str]) -> Reply:
        """Return the answer with its bytes, a safetensors file that another service takes as it is."""
        headers = {"Content-Type": media_type, "Accept": SAFETENSORS}
        return await self._ask_one(entry, payload, headers, classes=classes, judge=read_tensor_reply)

    async def ask_many(
        self, entry: RouteEntry, payloads: Sequence[bytes], *, classes: Sequence[str]
    ) -> Sequence[Reply]:
        """Return the deployment's answers on several items, asked in one request; never raises either."""

        def read(status: int, body: bytes) -> Sequence[Reply]:
            return read_replies(status, body, version=entry.model_version, classes=classes, count=len(payloads))

        body = b"".join(part for payload in payloads for part in (ITEM_LENGTH.pack(len(payload)), payload))
        answer = await self._post(entry, body, {"Content-Type": BATCH_TYPE}, read=read)
        if isinstance(answer, Failed):
            return all_failed(answer, count=len(payloads))
        replies, spans = answer
        return [_timed(reply, spans) for reply in replies]

    async def _ask_one(
        self, entry: RouteEntry, payload: bytes, headers: dict[str, str], *, classes: Sequence[str], judge: ReadReply
    ) -> Reply:
        def read(status: int, body: bytes) -> Reply:
            return judge(status, body, version=entry.model_version, classes=classes)

        answer = await self._post(entry, payload, headers, read=read)
        if isinstance(answer, Failed):
            return answer
        return _timed(*answer)

    async def _post(
        self, entry: RouteEntry, payload: bytes, headers: dict[str, str], *, read: Callable[[int, bytes], ReadT]
    ) -> tuple[ReadT, Mapping[str, float]] | Failed:
        """Return what `read` makes of the answer, and where the service says its time went."""
        session = self._open()
        # The model need not work on what nobody waits for any more.
        headers["X-Request-Timeout-Ms"] = self._timeout_ms
        try:
            async with session.post(
                f"{entry.address}/predict", data=payload, headers=headers, allow_redirects=False
            ) as response:
                body = await _whole(response.content)
                timing = response.headers.get(TIMING_HEADER)
                return read(response.status, body), {} if timing is None else parse_timing(timing)
        except TimeoutError:
            return Failed("timeout")
        except (aiohttp.ClientError, OSError, ValueError):
            return Failed("unreachable")

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS)
            self._session = aiohttp.ClientSession(
                connector=connector, headers=self._headers, timeout=self._timeout, trust_env=False
            )
        return self._session


async def _whole(content: aiohttp.StreamReader) -> bytes:
    """Return an answer's body, cut where no answer that makes sense is longer."""
    parts, size = [], 0
    while size < MAX_ANSWER_BYTES and (part := await content.read(MAX_ANSWER_BYTES - size)):
        parts.append(part)
        size += len(part)
    return b"".join(parts)


def _timed(reply: Reply, spans: Mapping[str, float]) -> Reply:
    return dataclasses.replace(reply, spans=spans) if isinstance(reply, Scores) and spans else reply


def all_failed(failed: Failed, *, count: int) -> list[Reply]:
    """Return a whole request's failure for each of its items; the breaker hears of it once."""
    return [failed, *(Failed(failed.kind, echo=True) for _ in range(count - 1))]


def read_reply(status: int, body: bytes, *, version: str, classes: Sequence[str]) -> Reply:
    """Judge an answer: its status, then whether it is a distribution over the classes by the right version."""
    refused = _refused(status, body)
    if refused is not None:
        return refused
    try:
        document = json.loads(body)
        if document["model_version"] != version:
            return Failed("nonsense")
        return _scores(document, tuple(document["labels"]), classes)
    except (ValueError, TypeError, KeyError):
        return Failed("nonsense")


def read_replies(status: int, body: bytes, *, version: str, classes: Sequence[str], count: int) -> Sequence[Reply]:
    """Judge the answer to a batch, item by item; what fails as a whole has failed for each."""
    whole = Failed("nonsense")
    if status != 200:
        # An item can be rejected, a batch that we put together cannot: each may be asked about alone.
        judged = read_reply(status, body, version=version, classes=classes)
        return all_failed(judged if isinstance(judged, Failed) else Failed("failed"), count=count)
    try:
        document = json.loads(body)
        labels, items = tuple(document["labels"]), list(document["items"])
        if document["model_version"] == version and len(items) == count:
            return [_item(item, labels, classes) for item in items]
    except (ValueError, TypeError, KeyError):
        pass
    return all_failed(whole, count=count)


def _item(item: Mapping[str, Any], labels: tuple[Any, ...], classes: Sequence[str]) -> Reply:
    try:
        if "error" not in item:
            return _scores(item, labels, classes)
        code, message = str(item["error"]["code"]), str(item["error"]["message"])
    except (ValueError, TypeError, KeyError):
        return Failed("nonsense")
    return Failed("failed") if code == MODEL_FAILED else Rejected(422, code, message)


def _scores(item: Mapping[str, Any], labels: tuple[Any, ...], classes: Sequence[str]) -> Scores | Failed:
    probabilities = tuple(float(value) for value in item["probabilities"])
    return Scores(labels, probabilities) if _makes_sense(labels, probabilities, classes) else Failed("nonsense")


def read_tensor_reply(status: int, body: bytes, *, version: str, classes: Sequence[str]) -> Reply:
    """Judge a safetensors answer alike; its metadata has the version and the labels, its one tensor the numbers."""
    refused = _refused(status, body)
    if refused is not None:
        return refused
    try:
        start = 8 + int.from_bytes(body[:8], "little")
        header = json.loads(body[8:start])
        metadata, tensor = header["__metadata__"], header["probabilities"]
        labels = tuple(json.loads(metadata["labels"]))
        fits = (tensor["dtype"], tensor["shape"], metadata["model_version"]) == ("F32", [len(labels)], version)
        if not fits:
            return Failed("nonsense")
        probabilities = struct.unpack(f"<{len(labels)}f", body[start:])
    except (ValueError, TypeError, KeyError, struct.error):
        return Failed("nonsense")
    good = _makes_sense(labels, probabilities, classes)
    return Scores(labels, probabilities, tensor=body) if good else Failed("nonsense")


def _refused(status: int, body: bytes) -> Rejected | Failed | None:
    if status in {413, 422}:
        return _rejected(status, body)
    if status == 504:
        return Failed("timeout")
    if status != 200:
        return Failed("overloaded" if status == 429 or b'"OVERLOADED"' in body else "failed")
    return None


def _makes_sense(labels: Sequence[Any], probabilities: Sequence[float], classes: Sequence[str]) -> bool:
    known = len(labels) > 0 and all(isinstance(label, str) for label in labels) and len(set(labels)) == len(labels)
    expected = not classes or set(labels) == set(classes)
    finite = all(math.isfinite(value) and 0.0 <= value <= 1.0 + SUM_TOLERANCE for value in probabilities)
    return known and expected and finite and len(labels) == len(probabilities) and _sums_to_one(probabilities)


def _sums_to_one(probabilities: Sequence[float]) -> bool:
    return abs(math.fsum(probabilities) - 1.0) <= SUM_TOLERANCE


def _rejected(status: int, body: bytes) -> Rejected | Failed:
    try:
        error: Mapping[str, Any] = json.loads(body)["error"]
        return Rejected(status, str(error["code"]), str(error["message"]))
    except (ValueError, TypeError, KeyError):
        return Failed("nonsense")
