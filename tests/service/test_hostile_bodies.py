"""Bodies and headers from somebody who means harm, by hand list: refused with a code, never a 500, never slowly."""

from __future__ import annotations

import asyncio
import base64
import io
import pickle
import struct
import time
import zipfile
import zlib

import httpx
import pytest
from PIL import Image

from tests.service.conftest import MAX_REQUEST_BYTES, bearer, png
from tests.service.test_gateway_http import error_of

MAX_SECONDS = 1.0
JSON_TYPE = {"Content-Type": "application/json"}


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def lying_png(width: int, height: int) -> bytes:
    """A small file that claims to be huge, with a stream of zeros that would fill it."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    stream = zlib.compress(b"\0" * 100_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", stream) + chunk(b"IEND", b"")


def encoded(kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (28, 28)).save(buffer, format=kind, **options)
    return buffer.getvalue()


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("../x", b"x")
    return buffer.getvalue()


def animated() -> bytes:
    frames = [Image.new("RGB", (8, 8), (index * 80, 0, 0)) for index in range(3)]
    buffer = io.BytesIO()
    frames[0].save(buffer, format="WEBP", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


IMAGES = {
    "nothing": b"",
    "one byte": b"\x89",
    "text": b"hello",
    "magic only": b"\x89PNG\r\n\x1a\n",
    "wrong magic": b"\x88" + png()[1:],
    "truncated": png()[:-30],
    "half": png()[: len(png()) // 2],
    "144 megapixels": lying_png(12_000, 12_000),
    "900 megapixels": lying_png(30_000, 30_000),
    "long strip": lying_png(1, 2**31 - 1),
    "no pixels": lying_png(0, 0),
    "changed byte": png()[:60] + bytes([png()[60] ^ 1]) + png()[61:],
    "png and html": png() + b"<script>alert(1)</script>",
    "png and zip": png() + zipped(),
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "html": b"<!doctype html><script>alert(1)</script>",
    "xml bomb": b'<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><l>&b;</l>',
    "pdf": b"%PDF-1.7\n",
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n",
    "pickle": pickle.dumps({"a": 1}),
    "zip": zipped(),
    "gzip": zlib.compress(b"\0" * 1_000_000, wbits=31),
    "npy": b"\x93NUMPY\x01\x00v\x00",
    "gif": encoded("GIF"),
    "bmp": encoded("BMP"),
    "tiff": encoded("TIFF"),
    "animation": animated(),
    "zeros": b"\0" * 50_000,
}


@pytest.mark.parametrize("body", IMAGES.values(), ids=IMAGES.keys())
@pytest.mark.parametrize("media_type", ["image/png", "application/octet-stream"])
def test_a_hostile_image_is_a_422_with_its_code(bench, body, media_type):
    began = time.monotonic()
    response = bench.predict(body, **{"Content-Type": media_type})
    status, code, field = error_of(response)
    assert (status, field) == (422, "body")
    assert code in {
        "EMPTY_FILE",
        "NOT_AN_IMAGE",
        "TYPE_NOT_ALLOWED",
        "IMAGE_TRUNCATED",
        "IMAGE_CORRUPT",
        "IMAGE_TOO_LARGE",
        "IMAGE_TOO_SMALL",
        "IMAGE_ANIMATED",
    }
    assert time.monotonic() - began < MAX_SECONDS
    assert "Traceback" not in response.text
    assert bench.models.asked == []


def test_hostile_images_in_a_batch_and_asynchronously_are_refused_each_by_itself(bench):
    items = [{"base64": base64.b64encode(body).decode()} for body in IMAGES.values() if len(body) < MAX_REQUEST_BYTES]
    honest = {"base64": base64.b64encode(png()).decode()}
    response = bench.client.post(
        "/v1/projects/fashion/predict:batch", json={"items": [*items, honest]}, headers=bearer() | JSON_TYPE
    )
    assert [result["status"] for result in response.json()["results"]] == [422] * len(items) + [200]
    assert "Traceback" not in response.text
    assert len(bench.models.asked) == 1
    for body in IMAGES.values():
        refused = bench.client.post("/v1/projects/fashion/predict:async", content=body, headers=bearer())
        assert error_of(refused)[0] == 422
    bench.work()
    assert len(bench.models.asked) == 1


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_honest_images_pass(bench, kind):
    assert bench.predict(encoded(kind)).status_code == 200


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "EMPTY_FILE"),
        (b"  \n\t", "TEXT_EMPTY"),
        ("\u200b\u2060".encode(), "TEXT_EMPTY"),
        (b"\xff\xfeh\x00i\x00", "TEXT_NOT_UTF8"),
        (b"\xed\xa0\x80", "TEXT_NOT_UTF8"),
        (b"\xc3\x28", "TEXT_NOT_UTF8"),
        (b"a\x00b", "TEXT_CONTROL_CHARACTER"),
        (b"x" * 1001, "TEXT_TOO_LONG"),
    ],
)
def test_a_hostile_text_is_a_422_with_its_code(bench, body, code):
    response = bench.predict(body, project="texts", name="texts", **{"Content-Type": "text/plain"})
    assert error_of(response) == (422, code, "body")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "JSON_INVALID"),
        (b"", 422, "EMPTY_FILE"),
        (b'{"age":1} {"age":2}', 400, "JSON_INVALID"),
        (b'{"age":1,"age":2}', 400, "JSON_INVALID"),
        (b"[" * 50_000, 400, "JSON_INVALID"),
        (b'{"a":' * 15_000 + b"1" + b"}" * 15_000, 400, "JSON_INVALID"),
        (b'{"age":' + b"9" * 5000 + b"}", 400, "JSON_INVALID"),
        ('{"age":1}'.encode("utf-16"), 400, "JSON_INVALID"),
        (b'{"age":"\xff"}', 400, "JSON_INVALID"),
        (b'{"age":NaN}', 422, "NOT_FINITE"),
        (b'{"age":Infinity}', 422, "NOT_FINITE"),
        (b'{"age":-Infinity}', 422, "NOT_FINITE"),
        (b'{"age":1e999}', 422, "NOT_FINITE"),
        (b'{"age":{"$ne":null}}', 422, "VALUE_TYPE"),
        (b'{"age":[1]}', 422, "VALUE_TYPE"),
        (b"[1]", 400, "JSON_INVALID"),
        (b"null", 400, "JSON_INVALID"),
        (b"{}", 422, "ROW_EMPTY"),
        (b'{"age":null}', 422, "ROW_EMPTY"),
    ],
)
def test_a_hostile_row_is_refused_with_its_code(bench, body, status, code):
    response = bench.predict(body, project="rows", name="stack", **{"Content-Type": "application/json"})
    assert error_of(response)[:2] == (status, code)
    assert bench.models.asked == []


@pytest.mark.parametrize("body", [b'{"age":1e-400}', b'{"age":-0}', b'{"age":0}'])
def test_odd_but_finite_numbers_pass(bench, body):
    response = bench.predict(body, project="rows", name="stack", **{"Content-Type": "application/json"})
    assert response.status_code == 200


@pytest.mark.parametrize(
    "media_type",
    [
        "",
        "text/plain",
        "text/xml",
        "application/xml",
        "application/json",
        "application/vnd.bentoml+pickle",
        "Application/Vnd.BentoML+Pickle",
        "application/x-python-pickle",
        "multipart/form-data",
        "multipart/form-data; boundary=" + "x" * 7000,
        "image/svg+xml",
        "image/png,text/html",
        "image/*",
    ],
)
def test_other_media_types_are_refused_before_the_body_is_read(bench, media_type):
    assert error_of(bench.predict(**{"Content-Type": media_type})) == (415, "MEDIA_TYPE_UNSUPPORTED", "Content-Type")


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "identity, gzip", "x"])
def test_an_encoded_body_is_refused(bench, encoding):
    body = zlib.compress(b"\0" * 10_000_000, wbits=31)
    response = bench.predict(body, **{"Content-Encoding": encoding})
    assert error_of(response) == (415, "ENCODING_UNSUPPORTED", "Content-Encoding")


def test_a_body_over_the_limit_is_refused_by_its_header(bench):
    response = bench.predict(b"x" * (MAX_REQUEST_BYTES + 1))
    assert error_of(response) == (413, "BODY_TOO_LARGE", "body")
    assert response.headers["connection"] == "close"
    (record,) = bench.records()
    assert (record.status, record.payload, record.payload_sha256) == (413, None, None)


class Endless:
    """A chunked body that does not end; counts what was taken of it."""

    def __init__(self, *, pause_seconds: float = 0.0) -> None:
        self.num_bytes = 0
        self.pause_seconds = pause_seconds

    async def __aiter__(self):
        while self.num_bytes < 100_000_000:
            self.num_bytes += 10_000
            await asyncio.sleep(self.pause_seconds)
            yield b"x" * 10_000


def post_stream(bench, stream) -> httpx.Response:
    async def post():
        transport = StreamingTransport(bench.client.app, stream)
        return await transport.post("/v1/projects/fashion/predict", bearer())

    return asyncio.run(post())


class StreamingTransport:
    """Feeds an application chunk by chunk, only as it asks; httpx's own transport reads the body ahead."""

    def __init__(self, app, stream) -> None:
        self._app = app
        self._stream = stream

    async def post(self, path, headers) -> httpx.Response:
        chunks = aiter(self._stream)
        sent = []

        async def receive():
            try:
                return {"type": "http.request", "body": await anext(chunks), "more_body": True}
            except StopAsyncIteration:
                return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)

        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "scheme": "http",
            "query_string": b"",
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
            "client": ("192.0.2.1", 1),
            "server": ("gateway", 80),
        }
        await self._app(scope, receive, send)
        content = b"".join(message.get("body", b"") for message in sent[1:])
        return httpx.Response(sent[0]["status"], headers=sent[0]["headers"], content=content)


def test_an_endless_body_is_refused_as_soon_as_it_is_too_long(bench):
    stream = Endless()
    assert error_of(post_stream(bench, stream)) == (413, "BODY_TOO_LARGE", "body")
    assert stream.num_bytes <= MAX_REQUEST_BYTES + 10_000


def test_a_body_that_comes_too_slowly_is_refused(bench):
    began = time.monotonic()
    assert error_of(post_stream(bench, Endless(pause_seconds=0.1))) == (408, "BODY_TOO_SLOW", "body")
    assert time.monotonic() - began < MAX_SECONDS


def test_a_caller_who_leaves_in_the_middle_is_logged_and_forgotten(bench):
    class Leaves:
        async def __aiter__(self):
            yield png()[:100]

    assert error_of(post_stream(bench, Leaves())) == (400, "BODY_INCOMPLETE", "body")
    assert bench.gateway.num_open == 0


@pytest.mark.parametrize(
    "request_id",
    [
        "",
        " ",
        "a b",
        "x" * 129,
        "x" * 10_000,
        "a\tb",
        'a"b',
        "<script>",
        "../../x",
        "a;b",
        "ä".encode().decode("latin-1"),
    ],
)
def test_a_request_id_that_could_forge_a_log_line_is_refused(bench, request_id):
    response = bench.client.post(
        "/v1/projects/fashion/predict",
        content=png(),
        headers=[(name, value) for name, value in bearer().items()] + [("X-Request-Id", request_id.encode("latin-1"))],
    )
    assert error_of(response) == (400, "REQUEST_ID_INVALID", "X-Request-Id")
    assert request_id.strip() == "" or request_id not in response.text


@pytest.mark.parametrize("name", ["X-User-Key", "X-Business-Key", "X-Model-Version"])
@pytest.mark.parametrize("value", [b"", b"x" * 201, b"a\tb", b"\xff\xfe", b"a\x7fb"])
def test_other_headers_are_short_and_visible(bench, name, value):
    headers = [*bearer().items(), (name, value)]
    response = bench.client.post("/v1/projects/fashion/predict", content=png(), headers=headers)
    assert error_of(response) == (400, "HEADER_INVALID", name)


@pytest.mark.parametrize(
    "project",
    ["x" * 10_000, "FASHION", "fashion'--", "fa%00", "..", "fashion%0aX", "%F0%9F%91%9F", "fashion;x", "__init__"],
)
def test_a_project_name_is_a_name(bench, project):
    status, code, _ = error_of(
        bench.client.post(f"/v1/projects/{project}/predict", content=png(), headers=bearer("stack"))
    )
    assert (status, code) in {(404, "PROJECT_UNKNOWN"), (404, "NOT_FOUND")}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"{",
        b"[" * 60_000,
        b'{"label":"bag","label":"bag","prediction_id":"p"}',
        b'{"label":"bag","prediction_id":NaN}',
        b'{"label":"bag","prediction_id":"\\ud800"}',
        b'{"label":"bag","prediction_id":"\\u0000"}',
        b'{"label":"bag","prediction_id":{"a":1}}',
        pickle.dumps({"label": "bag"}),
    ],
)
def test_hostile_feedback_is_a_4xx(bench, body):
    response = bench.client.post("/feedback", content=body, headers=bearer())
    assert 400 <= error_of(response)[0] < 500
    assert bench.records() == []


def test_long_feedback_is_refused(bench):
    response = bench.client.post("/feedback", content=b'{"label":"' + b"x" * 70_000 + b'"}', headers=bearer())
    assert error_of(response)[:2] == (413, "BODY_TOO_LARGE")


def test_two_hundred_bad_requests_leave_nothing_behind(bench):
    for body in list(IMAGES.values())[:10] * 20:
        bench.predict(body)
    assert bench.predict().status_code == 200
    assert bench.gateway.num_open == 0
    assert bench.counts() == (201, 201, 0)
