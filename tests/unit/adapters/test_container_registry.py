"""The registry's HTTP API: resumed uploads, credentials, refusals."""

import base64
import re

import httpx
import pytest

from pipeline_tasks.adapters import container_registry as module
from pipeline_tasks.adapters.container_registry import Credentials, Registry, digest_of
from pipeline_tasks.errors import ConfigError, DataCorrupt, PermanentError, ServiceUnavailable

REPOSITORY = "localhost:5000/dethrone"
MANIFEST = b'{"mediaType":"application/vnd.docker.distribution.manifest.v2+json","layers":[]}'
BASIC = "Basic " + base64.b64encode(b"ann:secret").decode()


class Server:
    """A registry in memory; `faults` maps the number of a PATCH to what happens instead of an answer."""

    def __init__(self):
        self.blobs, self.manifests, self.uploads, self.faults = {}, {}, {}, {}
        self.requests, self.num_chunks, self.wanted, self.challenge = [], 0, None, ""

    def __call__(self, request):  # noqa: PLR0911  (one line per endpoint)
        self.requests.append(request)
        path = request.url.path
        if path == "/token":
            return httpx.Response(200, json={"token": "t1"})
        if self.wanted is not None and request.headers.get("Authorization") != self.wanted:
            return httpx.Response(401, headers={"WWW-Authenticate": self.challenge}, text="who are you")
        if path.startswith("/v2/dethrone/manifests/"):
            return self._manifest(request, path.rpartition("/")[2])
        if path == "/v2/dethrone/blobs/uploads/":
            self.uploads["u1"] = b""
            return httpx.Response(202, headers={"Location": "/upload/u1?state=0"})
        if path == "/upload/u1":
            return self._upload(request)
        if path.startswith("/v2/dethrone/blobs/"):
            data = self.blobs.get(path.rpartition("/")[2])
            return httpx.Response(404) if data is None else httpx.Response(200, content=data)
        return httpx.Response(200)

    def _manifest(self, request, reference):
        if request.method == "PUT":
            self.manifests[reference] = request.content
            return httpx.Response(201)
        data = self.manifests.get(reference)
        headers = {"Content-Type": module.DOCKER_MANIFEST}
        return httpx.Response(404) if data is None else httpx.Response(200, content=data, headers=headers)

    def _upload(self, request):
        data = self.uploads.get("u1")
        if data is None:
            return httpx.Response(404)
        where = {"Location": "/upload/u1", "Range": f"0-{len(data) - 1}" if data else "0-0"}
        if request.method == "GET":
            return httpx.Response(204, headers=where)
        if request.method == "PATCH":
            self.num_chunks += 1
            fault = self.faults.pop(self.num_chunks, None)
            if fault == "lost":
                raise httpx.ConnectError("gone")
            begin = int(request.headers["Content-Range"].partition("-")[0])
            assert begin == len(data)
            self.uploads["u1"] = data = data + request.content
            if fault == "answer lost":
                raise httpx.ReadError("gone")
            if fault == "forgotten":
                del self.uploads["u1"]
                raise httpx.ReadError("gone")
            return httpx.Response(202, headers={"Location": "/upload/u1"})
        digest = request.url.params["digest"]
        assert digest == digest_of(data)
        self.blobs[digest] = data
        if self.faults.pop("put", None):
            raise httpx.ReadError("gone")
        return httpx.Response(201)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(module, "CHUNK_BYTES", 10)
    return Server()


def client(server, credentials=None):
    transport = httpx.MockTransport(server)
    return Registry(REPOSITORY, credentials=credentials, transport=transport, sleep=lambda _: None)


DATA = bytes(range(35))


def test_a_blob_goes_in_chunks_and_not_twice(server):
    registry = client(server)
    assert registry.push_blob(DATA) == digest_of(DATA)
    assert (server.blobs[digest_of(DATA)], server.num_chunks, registry.bytes_sent) == (DATA, 4, 35)
    registry.push_blob(DATA)
    assert registry.bytes_sent == 35


@pytest.mark.parametrize(
    ("faults", "num_bytes"),
    [({2: "lost"}, 35), ({2: "answer lost"}, 25), ({3: "forgotten"}, 55), ({1: "lost", 2: "lost", 3: "lost"}, 35)],
    ids=["lost", "answer lost", "forgotten", "three times"],
)
def test_a_broken_push_goes_on_where_it_stopped(server, faults, num_bytes):
    server.faults = faults
    registry = client(server)
    registry.push_blob(DATA)
    assert server.blobs[digest_of(DATA)] == DATA
    assert registry.bytes_sent == num_bytes  # a chunk whose answer was lost is counted when it was answered for


def test_a_lost_last_answer_is_no_second_upload(server):
    server.faults = {"put": True}
    registry = client(server)
    registry.push_blob(DATA)
    assert registry.bytes_sent == 35


def test_a_registry_that_stays_away_is_told_after_a_few_tries(server):
    server.faults = dict.fromkeys(range(1, 20), "lost")
    with pytest.raises(ServiceUnavailable, match=r"must answer PATCH \(got ConnectError") as error:
        client(server).push_blob(DATA)
    assert error.value.code == "REGISTRY_AWAY"
    assert server.num_chunks == module.MAX_TRIES


def test_a_full_registry_is_a_transient_error():
    def full(request):
        return httpx.Response(500, text="no space left on device")

    with pytest.raises(ServiceUnavailable, match="500 no space left"):
        client(full).has_blob(digest_of(DATA))


def test_a_manifest_is_found_by_tag_and_by_digest(server):
    registry = client(server)
    assert registry.manifest("t") is None
    digest = registry.push_manifest(MANIFEST, media_type=module.DOCKER_MANIFEST, tag="t")
    server.manifests[digest] = MANIFEST
    assert registry.manifest("t").digest == registry.manifest(digest).digest == digest
    assert registry.manifest("t").media_type == module.DOCKER_MANIFEST


def test_of_an_index_the_manifest_for_this_platform_is_returned(server):
    entries = ("arm64", "amd64")
    digest = digest_of(MANIFEST)
    index = ", ".join(
        f'{{"digest": "{digest if arch == "amd64" else "sha256:x"}", "platform": '
        f'{{"os": "linux", "architecture": "{arch}"}}}}'
        for arch in entries
    )
    server.manifests = {"t": f'{{"manifests": [{index}]}}'.encode(), digest: MANIFEST}
    assert client(server).manifest("t").digest == digest


def test_bytes_that_are_not_what_their_digest_says_are_refused(server):
    server.manifests["sha256:00"] = MANIFEST
    server.blobs["sha256:00"] = b"x"
    with pytest.raises(DataCorrupt, match="must hash to its name"):
        client(server).manifest("sha256:00")
    with pytest.raises(DataCorrupt, match="must hash to its name"):
        client(server).blob("sha256:00")
    with pytest.raises(KeyError):
        client(server).blob("sha256:11")


@pytest.mark.parametrize(
    ("challenge", "wanted"),
    [
        ('Basic realm="x"', BASIC),
        ('Bearer realm="http://localhost:5000/token",service="r",scope="repository:dethrone:pull,push"', "Bearer t1"),
    ],
    ids=["basic", "token"],
)
def test_credentials_are_sent_as_the_registry_asks(server, challenge, wanted):
    server.challenge, server.wanted = challenge, wanted
    client(server, Credentials("ann", "secret")).push_blob(DATA)
    assert server.blobs[digest_of(DATA)] == DATA
    for request in server.requests:
        if request.url.path == "/token":
            assert request.headers["Authorization"] == BASIC
            assert dict(request.url.params) == {"service": "r", "scope": "repository:dethrone:pull,push"}


def test_wrong_credentials_are_refused_without_being_told(server):
    server.challenge, server.wanted = 'Basic realm="x"', "another"
    with pytest.raises(PermanentError, match=r"401 who are you.*serving\.docker\.connection") as error:
        client(server, Credentials("ann", "secret")).check()
    assert error.value.code == "REGISTRY_REFUSED"
    assert "secret" not in str(error.value) + repr(Credentials("ann", "secret"))


@pytest.mark.parametrize("status", [429, 503])
def test_a_token_service_that_is_away_is_no_refusal(server, status):
    server.challenge, server.wanted = 'Bearer realm="http://localhost:5000/token"', "x"

    def answer(request):
        return httpx.Response(status) if request.url.path == "/token" else server(request)

    with pytest.raises(ServiceUnavailable, match=f"must give a token .got {status}"):
        client(answer, Credentials("ann", "secret")).check()


def test_another_host_that_an_upload_goes_to_learns_no_credentials_by_asking_for_them(server):
    told = {}

    def answer(request):
        told.setdefault(request.url.host, set()).add(request.headers.get("Authorization"))
        if request.url.host == "storage.example":
            return httpx.Response(401, headers={"WWW-Authenticate": 'Bearer realm="https://evil.example/token"'})
        if request.url.path.endswith("/uploads/"):
            return httpx.Response(202, headers={"Location": "https://storage.example/upload/u1"})
        return server(request)

    with pytest.raises(PermanentError, match="401") as error:
        client(answer, Credentials("ann", "secret")).push_blob(DATA)
    assert error.value.code == "REGISTRY_REFUSED"
    assert told == {"localhost": {None}, "storage.example": {None}}


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "localhost@evil"])
def test_credentials_go_to_no_token_service_in_the_clear(server, host):
    server.challenge, server.wanted = f'Bearer realm="http://{host}/token"', "x"
    with pytest.raises(PermanentError, match="token service must be https"):
        client(server, Credentials("ann", "secret")).check()


def test_credentials_go_to_no_other_host_that_the_registry_names(server):
    server.challenge, server.wanted = 'Basic realm="x"', BASIC
    told = {}

    def answer(request):
        told.setdefault(request.url.host, set()).add(request.headers.get("Authorization"))
        if request.url.host != "localhost":
            server.wanted = None
        given = server(request)
        if request.url.path.endswith("/uploads/") and given.status_code == 202:
            return httpx.Response(202, headers={"Location": "https://storage.example/upload/u1"})
        return given

    client(answer, Credentials("ann", "secret")).push_blob(DATA)
    assert server.blobs[digest_of(DATA)] == DATA
    assert told == {"localhost": {None, BASIC}, "storage.example": {None}}


@pytest.mark.parametrize("text", ["dethrone", "docker/dethrone", "Host.io/x", "h.io/x:tag", "h.io/x@sha256:0", "h.io/"])
def test_a_repository_names_its_registry(text):
    with pytest.raises(ConfigError, match=re.escape(f"(got {text!r})")):
        Registry(text)


@pytest.mark.parametrize(("text", "scheme"), [("localhost/x", "http"), ("127.0.0.1:1/x", "http"), ("h.io/x", "https")])
def test_only_a_registry_on_this_machine_is_spoken_to_in_the_clear(text, scheme):
    seen = []

    def answer(request):
        seen.append(request.url.scheme)
        return httpx.Response(200)

    Registry(text, transport=httpx.MockTransport(answer)).check()
    assert seen == [scheme]


@pytest.mark.parametrize(("named", "scheme"), [("registry:5000", "http"), ("other:5000", "https"), (None, "https")])
def test_a_registry_without_tls_has_to_be_named(named, scheme):
    seen = []

    def answer(request):
        seen.append(str(request.url))
        return httpx.Response(200)

    Registry("registry:5000/x", plain_http=named, transport=httpx.MockTransport(answer)).check()
    assert seen == [f"{scheme}://registry:5000/v2/"]
