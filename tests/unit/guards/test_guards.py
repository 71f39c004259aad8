"""Every input that a guard takes or refuses, with its code."""

import decimal
import io
import math
import struct
import subprocess
import sys
import uuid
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline_tasks.errors import InputError
from pipeline_tasks.guards.image import guard_image
from pipeline_tasks.guards.row import cell_value, guard_row
from pipeline_tasks.guards.text import decode_text, guard_text

PIXELS = np.arange(64 * 48, dtype=np.uint32).reshape(48, 64).astype(np.uint8)


def image_bytes(kind, **options):
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, kind, **options)
    return buffer.getvalue()


def animated(kind):
    frames = [Image.fromarray(PIXELS), Image.fromarray(PIXELS[::-1].copy())]
    buffer = io.BytesIO()
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_bomb(side):
    """A PNG of side x side zeros: small as a file, huge when decoded."""
    rows = zlib.compress(bytes((side // 8 + 1) * side), 9)
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def refused(data, **options):
    with pytest.raises(InputError, match=" must ") as caught:
        guard_image(data, **{"max_pixels": 25_000_000, **options})
    return caught.value.code


@pytest.mark.parametrize(("kind", "media_type"), [("PNG", "image/png"), ("JPEG", "image/jpeg"), ("WEBP", "image/webp")])
def test_good_images_are_decoded(kind, media_type):
    decoded = guard_image(image_bytes(kind), max_pixels=64 * 48)
    assert (decoded.media_type, decoded.width, decoded.height) == (media_type, 64, 48)
    assert np.abs(np.asarray(decoded.image.convert("L")).astype(int).mean() - PIXELS.mean()) < 3


def test_lossless_webp_has_its_size():
    assert refused(image_bytes("WEBP", lossless=True), max_pixels=64 * 48 - 1) == "IMAGE_TOO_LARGE"
    assert guard_image(image_bytes("WEBP", lossless=True), max_pixels=64 * 48).width == 64


def test_extended_webp_has_its_size():
    data = image_bytes("WEBP", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0")
    assert data[12:16] == b"VP8X"
    assert refused(data, max_pixels=64 * 48 - 1) == "IMAGE_TOO_LARGE"


BAD = [
    ("empty", b"", "EMPTY_FILE"),
    ("text", b"hello, I am no picture", "NOT_AN_IMAGE"),
    ("svg", b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "TYPE_NOT_ALLOWED"),
    ("html", b"<!DOCTYPE html><script>alert(1)</script>", "TYPE_NOT_ALLOWED"),
    ("pdf", b"%PDF-1.7 ...", "TYPE_NOT_ALLOWED"),
    ("eps", b"%!PS-Adobe-3.0 EPSF", "TYPE_NOT_ALLOWED"),
    ("pickle", b"\x80\x04\x95\x10\x00\x00\x00", "TYPE_NOT_ALLOWED"),
    ("numpy", b"\x93NUMPY\x01\x00", "TYPE_NOT_ALLOWED"),
    ("zip", b"PK\x03\x04......", "TYPE_NOT_ALLOWED"),
    ("gif", animated("GIF"), "TYPE_NOT_ALLOWED"),
    ("bmp", image_bytes("BMP"), "TYPE_NOT_ALLOWED"),
    ("tiff", image_bytes("TIFF"), "TYPE_NOT_ALLOWED"),
    ("truncated png", image_bytes("PNG")[:-20], "IMAGE_TRUNCATED"),
    ("png header only", image_bytes("PNG")[:20], "IMAGE_TRUNCATED"),
    ("truncated jpeg", image_bytes("JPEG")[: len(image_bytes("JPEG")) // 2], "IMAGE_TRUNCATED"),
    ("truncated webp", image_bytes("WEBP")[: len(image_bytes("WEBP")) // 2], "IMAGE_CORRUPT"),
    ("webp stub", image_bytes("WEBP")[:25], "IMAGE_TRUNCATED"),
    ("webp of nothing", b"RIFF\x20\0\0\0WEBPXXXX" + bytes(20), "NOT_AN_IMAGE"),
    ("png with a flipped byte", image_bytes("PNG")[:60] + b"\xff" + image_bytes("PNG")[61:], "IMAGE_CORRUPT"),
    ("png and zip in one", image_bytes("PNG") + b"PK\x03\x04", "NOT_AN_IMAGE"),
    ("png without header", b"\x89PNG\r\n\x1a\n" + chunk(b"IEND", b""), "NOT_AN_IMAGE"),
    ("animated png", animated("PNG"), "IMAGE_ANIMATED"),
    ("animated webp", animated("WEBP"), "IMAGE_ANIMATED"),
    ("jpeg magic only", b"\xff\xd8\xff\xe0", "NOT_AN_IMAGE"),
]


@pytest.mark.parametrize(("data", "code"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_bad_images_are_refused(data, code):
    assert refused(data) == code


def test_a_144_megapixel_bomb_is_refused_by_its_header_in_little_memory():
    bomb = png_bomb(12_000)
    assert len(bomb) < 30_000
    code = (
        "import sys, resource; from pipeline_tasks.guards.image import guard_image;"
        "from pipeline_tasks.errors import InputError\n"
        "data = sys.stdin.buffer.read(); before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: guard_image(data, max_pixels=25_000_000)\n"
        "except InputError as error: print(error.code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    out = subprocess.run([sys.executable, "-c", code], input=bomb, capture_output=True, check=True)
    name, growth_kib = out.stdout.split()
    assert name == b"IMAGE_TOO_LARGE"
    assert int(growth_kib) < 10_000


def test_a_webp_bomb_is_refused_before_its_canvas_is_allocated():
    header = b"VP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + (16_383).to_bytes(3, "little") * 2
    assert refused(b"RIFF" + struct.pack("<I", len(header) + 4) + b"WEBP" + header) == "IMAGE_TOO_LARGE"


def test_a_jpeg_that_is_too_large_is_refused_by_its_header():
    data = bytearray(image_bytes("JPEG"))
    start = data.index(b"\xff\xc0") + 5
    data[start : start + 4] = struct.pack(">HH", 65_500, 65_500)
    assert refused(bytes(data)) == "IMAGE_TOO_LARGE"


def test_small_sides_are_refused():
    assert refused(image_bytes("PNG"), min_side_pixels=49) == "IMAGE_TOO_SMALL"
    assert guard_image(image_bytes("PNG"), max_pixels=10_000, min_side_pixels=48).height == 48


def code_of(data):
    """Return the code of the refusal, or None; any other exception fails the test."""
    try:
        guard_image(data, max_pixels=64 * 48)
    except InputError as error:
        return error.code
    return None


@given(st.integers(0, 2000), st.sampled_from(["PNG", "JPEG", "WEBP"]))
def test_a_cut_file_gives_an_image_or_an_input_error(length, kind):
    assert code_of(image_bytes(kind)[:length]) != "INPUT_INVALID"


@given(
    st.binary(max_size=300), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\x99\0\0\0WEBPVP8 "])
)
def test_any_bytes_give_an_image_or_an_input_error(data, magic):
    assert code_of(magic + data) != "INPUT_INVALID"


@given(st.integers(0, 2000), st.integers(0, 255), st.sampled_from(["PNG", "JPEG", "WEBP"]))
def test_one_changed_byte_gives_an_image_or_an_input_error(position, value, kind):
    data = bytearray(image_bytes(kind))
    data[position % len(data)] = value
    assert code_of(bytes(data)) != "INPUT_INVALID"


def text_code(action):
    with pytest.raises(InputError, match=" must ") as caught:
        action()
    return caught.value.code


def test_texts_are_brought_into_one_form():
    text = decode_text("\ufeffCafe\u0301\r\nfl\u202eipped\u200b\rend".encode())
    assert guard_text(text, max_characters=100) == "Caf\u00e9\nflipped\nend"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "TEXT_EMPTY"),
        (" \n\t", "TEXT_EMPTY"),
        ("\u200b", "TEXT_EMPTY"),
        ("x" * 11, "TEXT_TOO_LONG"),
        ("a\0b", "TEXT_CONTROL_CHARACTER"),
        ("\x1b[31m", "TEXT_CONTROL_CHARACTER"),
        ("a\ud800", "TEXT_NOT_UTF8"),
    ],
)
def test_bad_texts_are_refused(text, code):
    assert text_code(lambda: guard_text(text, max_characters=10)) == code


@pytest.mark.parametrize(
    ("data", "code", "got"),
    [
        (b"", "EMPTY_FILE", "empty"),
        (b"a\nb\xff", "TEXT_NOT_UTF8", "line 2"),
        ("x".encode("utf-16"), "TEXT_NOT_UTF8", "UTF-16"),
    ],
)
def test_bad_text_bytes_are_refused(data, code, got):
    assert text_code(lambda: decode_text(data)) == code
    with pytest.raises(InputError, match=got):
        decode_text(data)


def test_rows_become_json_values():
    row = {"a": 1, "b": 2.5, "c": "x", "d": None, "e": True, "f": decimal.Decimal("1.25"), "g": -0.0, "x": object()}
    row["h"] = uuid.UUID(int=1)
    got = guard_row(row, columns=list("abcdefgh"), max_characters=10)
    assert got == {"a": 1, "b": 2.5, "c": "x", "d": None, "e": True, "f": 1.25, "g": 0.0, "h": str(uuid.UUID(int=1))}
    assert math.copysign(1, got["g"]) == 1


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ({}, "COLUMN_MISSING"),
        ({"a": math.nan}, "NOT_FINITE"),
        ({"a": math.inf}, "NOT_FINITE"),
        ({"a": decimal.Decimal("NaN")}, "NOT_FINITE"),
        ({"a": 2**63}, "NUMBER_TOO_LARGE"),
        ({"a": "x" * 11}, "VALUE_TOO_LONG"),
        ({"a": b"x"}, "VALUE_TYPE"),
        ({"a": [1]}, "VALUE_TYPE"),
        ({"a": "\ud800"}, "TEXT_NOT_UTF8"),
        ({"a": "\0"}, "TEXT_CONTROL_CHARACTER"),
        ({"a": None}, "ROW_EMPTY"),
        ({"a": ""}, "ROW_EMPTY"),
    ],
)
def test_bad_rows_are_refused(row, code):
    with pytest.raises(InputError, match="a") as caught:
        guard_row(row, columns=["a"], max_characters=10)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None), ("7", 7), ("-7", -7), ("1.50", 1.5), ("1e3", 1000.0), ("007", "007"), ("=1+1", "=1+1"),
        ("1_000", "1_000"), ("9223372036854775807", 2**63 - 1), ("9223372036854775808", "9223372036854775808"),
        ("text", "text"), (" 1", " 1"),
    ],
)  # fmt: skip
def test_cells(text, value):
    got = cell_value(text)
    assert (got, type(got)) == (value, type(value))


@pytest.mark.parametrize("text", ["nan", "NaN", "inf", "-Infinity", "1e999"])
def test_cells_that_are_no_finite_number(text):
    assert not math.isfinite(cell_value(text))


def test_the_guards_need_no_torch_and_no_catalog():
    code = (
        "import sys; import pipeline_tasks.guards.image, pipeline_tasks.guards.text, pipeline_tasks.guards.row;"
        "print(sorted({'torch', 'sqlalchemy', 'numpy', 'boto3'} & set(sys.modules)))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
