"""Lets only whole, single, reasonably small PNG, JPEG and WebP images in; sizes are read before anything is decoded."""

from __future__ import annotations

import dataclasses
import io
import struct
import zlib

from PIL import Image, UnidentifiedImageError

from pipeline_tasks.errors import InputError

FORMATS = ("PNG", "JPEG", "WEBP")
# A phone's JPEG with a second picture inside (MPO) is a JPEG to everybody; its first picture is used.
MEDIA_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "MPO": "image/jpeg", "WEBP": "image/webp"}
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_JPEG_MAGIC = b"\xff\xd8\xff"
_OTHER_TYPES = (
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"%PDF", "PDF"),
    (b"%!PS", "EPS"),
    (b"PK\x03\x04", "ZIP"),
    (b"\x1f\x8b", "gzip"),
    (b"\x93NUMPY", "NumPy"),
    (b"\x80\x02", "pickle"),
    (b"\x80\x03", "pickle"),
    (b"\x80\x04", "pickle"),
    (b"\x80\x05", "pickle"),
    (b"\x7fELF", "program"),
    (b"SIMPLE  =", "FITS"),
)
_MARKUP = ((b"<svg", "SVG"), (b"<!doctype html", "HTML"), (b"<html", "HTML"), (b"<?xml", "XML"))
_DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    IndexError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    RuntimeError,
)


@dataclasses.dataclass(frozen=True, slots=True)
class DecodedImage:
    """An image whose pixels are loaded, with what its header says."""

    image: Image.Image
    media_type: str
    width: int
    height: int


def guard_image(data: bytes, *, max_pixels: int, min_side_pixels: int = 1) -> DecodedImage:
    """Return the decoded image, or say why these bytes are not one that we take.

    Raises:
        InputError: EMPTY_FILE, TYPE_NOT_ALLOWED, NOT_AN_IMAGE, IMAGE_TOO_LARGE, IMAGE_TOO_SMALL, IMAGE_ANIMATED,
            IMAGE_TRUNCATED or IMAGE_CORRUPT.
    """
    if not data:
        raise InputError("an image must have bytes (got an empty file).", code="EMPTY_FILE")
    if data.startswith(_PNG_MAGIC):
        _check_png(data, max_pixels=max_pixels)
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        _check_size(*_webp_size(data), max_pixels=max_pixels)
    elif not data.startswith(_JPEG_MAGIC):
        _refuse_other_types(data)
    image = _open(data)
    _check_size(image.width, image.height, max_pixels=max_pixels)
    if min(image.size) < min_side_pixels:
        raise InputError(
            f"an image's sides must be at least {min_side_pixels} pixels (got {image.width} x {image.height}).",
            code="IMAGE_TOO_SMALL",
        )
    if image.format != "MPO" and getattr(image, "n_frames", 1) != 1:
        raise InputError("an image must have one frame (got an animation).", code="IMAGE_ANIMATED")
    _load(image)
    return DecodedImage(image, MEDIA_TYPES[str(image.format)], image.width, image.height)


def _refuse_other_types(data: bytes) -> None:
    head = data[:256].lstrip().lower()
    kind = next((kind for magic, kind in _OTHER_TYPES if data.startswith(magic)), None)
    kind = kind or next((kind for start, kind in _MARKUP if head.startswith(start)), None)
    if kind == "XML" and b"<svg" in data[:4096].lower():
        kind = "SVG"
    if kind is None:
        raise _not_an_image("other bytes")
    raise InputError(f"an image must be PNG, JPEG or WebP (got {kind}). Convert it.", code="TYPE_NOT_ALLOWED")


def _check_size(width: int, height: int, *, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise InputError(
            f"an image must have at most {max_pixels:,} pixels (got {width:,} x {height:,}). "
            "Scale it down, or raise checks.max_pixels.",
            code="IMAGE_TOO_LARGE",
        )


def _check_png(data: bytes, *, max_pixels: int) -> None:
    """Walk the chunks: the size first, then every checksum, then nothing behind the end."""
    position = len(_PNG_MAGIC)
    while True:
        if position + 12 > len(data):
            raise _truncated(f"no end chunk in {len(data):,} bytes")
        length = int.from_bytes(data[position : position + 4], "big")
        kind, start, end = data[position + 4 : position + 8], position + 8, position + 8 + length
        if end + 4 > len(data):
            raise _truncated(f"a chunk of {length:,} bytes ends behind the file")
        if position == len(_PNG_MAGIC):
            if kind != b"IHDR" or length != 13:
                raise _not_an_image("a PNG without a header")
            width, height = struct.unpack(">II", data[start : start + 8])
            _check_size(width, height, max_pixels=max_pixels)
        if zlib.crc32(data[position + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise InputError(
                "an image must decode (got a wrong checksum inside the PNG). Send it again.", code="IMAGE_CORRUPT"
            )
        position = end + 4
        if kind == b"IEND":
            break
    if position != len(data):
        raise _not_an_image(f"{len(data) - position:,} bytes behind the end of the PNG: a second file in one")


def _webp_size(data: bytes) -> tuple[int, int]:
    """Return the canvas size; Pillow allocates it when it opens the file, so it must be known before.

    Source: RFC 9649, sections 2.4 to 2.7.
    """
    kind, body = data[12:16], data[20:30]
    if len(data) < 30:
        raise _truncated(f"a WebP header of {len(data)} bytes")
    if kind == b"VP8X":
        return int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF
    raise _not_an_image("a WebP without picture")


def _open(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputError(
            "an image must be of a normal size (got a decompression bomb).", code="IMAGE_TOO_LARGE"
        ) from None
    except UnidentifiedImageError:
        raise _not_an_image("other bytes") from None
    except _DECODE_ERRORS as error:
        raise _undecodable(error) from None


def _load(image: Image.Image) -> None:
    try:
        image.load()
    except MemoryError:
        raise InputError("an image must fit into memory (got too many pixels).", code="IMAGE_TOO_LARGE") from None
    except _DECODE_ERRORS as error:
        raise _undecodable(error) from None


def _undecodable(error: Exception) -> InputError:
    text = " ".join(str(error).split())[:120]
    if "truncated" in text.lower():
        return _truncated(text)
    return InputError(f"an image must decode (got: {text}). Send it again.", code="IMAGE_CORRUPT")


def _truncated(got: str) -> InputError:
    return InputError(f"an image must be whole (got: {got}). Send it again.", code="IMAGE_TRUNCATED")


def _not_an_image(got: str) -> InputError:
    return InputError(f"an image must be a PNG, JPEG or WebP file (got {got}).", code="NOT_AN_IMAGE")
