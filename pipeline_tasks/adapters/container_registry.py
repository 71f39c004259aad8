"""A container registry over its HTTP API (OCI distribution specification 1.1): blobs first, the manifest last.

Nothing here needs an engine. A push that broke is gone on with: what the registry has is not sent again, and a chunk
that was lost is sent from where the registry says that it stopped.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx

from pipeline_tasks.errors import ConfigError, DataCorrupt, PermanentError, ServiceUnavailable

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
CHUNK_BYTES = 8 * 1024 * 1024
MAX_TRIES = 5
TIMEOUT_SECONDS = 30.0
_REPOSITORY = re.compile(r"(?P<host>[a-z0-9.-]+(:[0-9]{1,5})?)/(?P<path>[a-z0-9]+([._/-]+[a-z0-9]+)*)")
_CHALLENGE = re.compile(r'([a-z]+)="([^"]*)"')


@dataclasses.dataclass(frozen=True, slots=True)
class Credentials:
    """The account that pushes and pulls; never logged."""

    username: str
    password: str = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest as the registry has it."""

    digest: str
    media_type: str
    document: Mapping[str, Any]


def digest_of(data: bytes) -> str:
    """Return the digest by which a registry knows these bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def split_repository(repository: str) -> tuple[str, str]:
    """Return the host and the path of a repository.

    Raises:
        ConfigError: it is no `host[:port]/path`.
    """
    match = _REPOSITORY.fullmatch(repository)
    if match is None or not re.search(r"[.:]|^localhost$", match["host"]):
        raise ConfigError(
            f"serving.docker.repository must be <registry host>/<path> in lower case (got {repository!r}). "
            "Example: localhost:5000/dethrone."
        )
    return match["host"], match["path"]


def is_local(host: str) -> bool:
    """Say whether a registry is on this machine: Docker, too, speaks plain HTTP to those."""
    return host.partition(":")[0] in {"localhost", "127.0.0.1"}


class Registry:
    """One repository of a registry.

    Every call raises ServiceUnavailable when the registry is away, full or broken, and PermanentError
    (REGISTRY_REFUSED) when it refuses the credentials. `plain_http` is a host[:port] that is known to have no TLS, on a
    network of this installation alone.
    """

    def __init__(
        self,
        repository: str,
        *,
        credentials: Credentials | None = None,
        plain_http: str | None = None,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        host, path = split_repository(repository)
        self.repository = repository
        self.bytes_sent = 0
        self._credentials = credentials
        self._authorization: str | None = None
        self._sleep = sleep
        near = is_local(host) or host == plain_http
        scheme = "http" if near else "https"
        self._root = f"{scheme}://{host}/v2/"
        self._base = f"{self._root}{path}"
        self._client = httpx.Client(
            timeout=TIMEOUT_SECONDS, transport=transport, trust_env=not near, follow_redirects=True
        )

    def check(self) -> None:
        """Return if the registry answers and takes the credentials."""
        self._send("GET", self._root)

    def manifest(self, reference: str) -> Manifest | None:
        """Return the manifest under a tag or digest; of an index, the one for this platform. None if there is none."""
        accept = ", ".join((DOCKER_MANIFEST, OCI_MANIFEST, OCI_INDEX, DOCKER_INDEX))
        answer = self._send("GET", f"{self._base}/manifests/{reference}", headers={"Accept": accept}, allow=(404,))
        if answer.status_code == 404:
            return None
        document, digest = answer.json(), digest_of(answer.content)
        if reference.startswith("sha256:") and digest != reference:
            raise DataCorrupt(f"{self.repository}@{reference} must hash to its name (got {digest}).")
        for entry in document.get("manifests", ()):
            if entry.get("platform", {}).get("os") == "linux" and entry["platform"].get("architecture") == "amd64":
                return self.manifest(entry["digest"])
        media_type = answer.headers.get("Content-Type", document.get("mediaType", "")).partition(";")[0]
        return Manifest(digest=digest, media_type=media_type, document=document)

    def blob(self, digest: str) -> bytes:
        """Return a small blob whole; DataCorrupt when its bytes are others, KeyError if there is none."""
        answer = self._send("GET", f"{self._base}/blobs/{digest}", allow=(404,))
        if answer.status_code == 404:
            raise KeyError(digest)
        if digest_of(answer.content) != digest:
            raise DataCorrupt(f"{self.repository}@{digest} must hash to its name (got {digest_of(answer.content)}).")
        return answer.content

    def has_blob(self, digest: str) -> bool:
        return self._send("HEAD", f"{self._base}/blobs/{digest}", allow=(404,)).status_code == 200

    def push_blob(self, data: bytes) -> str:
        """Upload bytes in chunks unless the registry has them; return their digest."""
        digest = digest_of(data)
        if self.has_blob(digest):
            return digest
        location, sent = self._begin(), 0
        for attempt in range(MAX_TRIES):
            try:
                while sent < len(data):
                    location, sent = self._send_chunk(location, data, begin=sent)
                self._send("PUT", _with_digest(location, digest), headers={"Content-Length": "0"})
                break
            except ServiceUnavailable:
                if attempt == MAX_TRIES - 1:
                    raise
                self._sleep(0.2 * 2**attempt)
                if self.has_blob(digest):  # the last answer was lost, not the blob
                    break
                location, sent = self._where(location)
        return digest

    def push_manifest(self, document: bytes, *, media_type: str, tag: str) -> str:
        """Upload a manifest under a tag and return its digest; its blobs must be there already."""
        digest = digest_of(document)
        self._send("PUT", f"{self._base}/manifests/{tag}", content=document, headers={"Content-Type": media_type})
        self.bytes_sent += len(document)
        return digest

    def _begin(self) -> str:
        return self._location(self._send("POST", f"{self._base}/blobs/uploads/", headers={"Content-Length": "0"}))

    def _send_chunk(self, location: str, data: bytes, *, begin: int) -> tuple[str, int]:
        chunk = data[begin : begin + CHUNK_BYTES]
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Range": f"{begin}-{begin + len(chunk) - 1}",
            "Content-Length": str(len(chunk)),
        }
        answer = self._send("PATCH", location, content=chunk, headers=headers)
        self.bytes_sent += len(chunk)
        return self._location(answer), begin + len(chunk)

    def _where(self, location: str) -> tuple[str, int]:
        """Return how far an upload has come: the address to go on at and the bytes that are there."""
        answer = self._send("GET", location, allow=(404,))
        if answer.status_code == 404:  # the registry has forgotten it
            return self._begin(), 0
        last = answer.headers.get("Range", "").rpartition("-")[2]
        return self._location(answer, otherwise=location), int(last) + 1 if last.isdigit() and last != "0" else 0

    def _location(self, answer: httpx.Response, *, otherwise: str = "") -> str:
        return str(answer.url.join(answer.headers.get("Location") or otherwise))

    def _send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
        allow: tuple[int, ...] = (),
    ) -> httpx.Response:
        answer = self._once(method, url, headers=headers, content=content)
        if answer.status_code == 401 and self._is_home(answer.url):
            self._authorization = self._authorize(answer.headers.get("WWW-Authenticate", ""))
            answer = self._once(method, url, headers=headers, content=content)
        if answer.is_success or answer.status_code in allow:
            return answer
        said = f"{answer.status_code} {answer.text[:200]}".strip()
        if answer.status_code in {401, 403}:
            raise PermanentError(
                f"the registry must let us use {self.repository} (got {said}). "
                "Look at the Airflow connection that serving.docker.connection names.",
                code="REGISTRY_REFUSED",
            )
        raise ServiceUnavailable(f"{self.repository} must answer {method} (got {said}).", code="REGISTRY_AWAY")

    def _once(
        self, method: str, url: str, *, headers: Mapping[str, str] | None, content: bytes | None
    ) -> httpx.Response:
        # The registry says where an upload goes on; another host gets the bytes, never the credentials.
        known = {"Authorization": self._authorization} if self._authorization and self._is_home(url) else {}
        try:
            return self._client.request(method, url, headers={**known, **(headers or {})}, content=content)
        except httpx.HTTPError as error:
            raise ServiceUnavailable(
                f"{self.repository} must answer {method} (got {type(error).__name__}: {error}). Is the registry up?",
                code="REGISTRY_AWAY",
            ) from error

    def _is_home(self, url: httpx.URL | str) -> bool:
        return _origin(str(url)) == _origin(self._root)

    def _authorize(self, challenge: str) -> str | None:
        """Return the header that a 401 asks for: the credentials themselves, or a token for them."""
        kind, _, rest = challenge.partition(" ")
        mine = self._credentials
        pair = None
        if mine is not None:
            pair = "Basic " + base64.b64encode(f"{mine.username}:{mine.password}".encode()).decode()
        if kind.lower() != "bearer":
            return pair
        asked = dict(_CHALLENGE.findall(rest))
        realm = asked.pop("realm", "")
        scheme, host, _port = _origin(realm)
        if scheme != "https" and not (scheme == "http" and is_local(host)):
            raise PermanentError(
                f"the registry's token service must be https (got {realm[:80]!r}).", code="REGISTRY_REFUSED"
            )
        try:
            answer = self._client.get(realm, params=asked, headers={"Authorization": pair} if pair else {})
            if answer.status_code == httpx.codes.TOO_MANY_REQUESTS or answer.is_server_error:
                raise ServiceUnavailable(f"{realm} must give a token (got {answer.status_code}).", code="REGISTRY_AWAY")
            body = answer.json() if answer.is_success else {}
        except (httpx.HTTPError, json.JSONDecodeError) as error:
            raise ServiceUnavailable(f"{realm} must give a token (got {type(error).__name__}).") from error
        token = body.get("token") or body.get("access_token")
        return f"Bearer {token}" if token else None


def _origin(url: str) -> tuple[str, str, int | None]:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        return "", "", None
    return parsed.scheme, parsed.host, parsed.port


def _with_digest(location: str, digest: str) -> str:
    return str(httpx.URL(location).copy_merge_params({"digest": digest}))
