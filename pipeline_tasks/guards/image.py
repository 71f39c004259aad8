"""Lets only whole, single, reasonably small PNG, JPEG and WebP images in; sizes are read before anything is decoded.

What it returns is the picture as viewers show it, and all that looks at an image (checks, fingerprints, recipes, the
gateway) decodes it here: metadata that cannot be read decides nothing, and no error of the decoder's own gets out.
"""

from __future__ import annotations

import dataclasses
import io
import struct
import warnings
import zlib

from PIL import ExifTags, Image, UnidentifiedImageError

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
_DECODER_MODULES = r"PIL\."
_MARKUP = ((b"<svg", "SVG"), (b"<!doctype html", "HTML"), (b"<html", "HTML"), (b"<?xml", "XML"))
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclasses.dataclass(frozen=True, slots=True)
class DecodedImage:
    """An image as viewers show it: upright, on white where it is transparent, grey (`L`) or `RGB` in 8 bits."""

    image: Image.Image
    media_type: str
    width: int
    height: int


class ImageTooLarge(InputError):
    """An image with more pixels than may be decoded; its size is what its header says."""

    def __init__(self, width: int, height: int, *, max_pixels: int) -> None:
        super().__init__(
            f"an image must have at most {max_pixels:,} pixels (got {width:,} x {height:,}). "
            "Scale it down, or raise checks.max_pixels.",
            code="IMAGE_TOO_LARGE",
        )
        self.width, self.height = width, height


def guard_image(data: bytes, *, max_pixels: int, min_side_pixels: int = 1) -> DecodedImage:
    """Return the decoded image, or say why these bytes are not one that we take.

    Raises:
        InputError: EMPTY_FILE, TYPE_NOT_ALLOWED, NOT_AN_IMAGE, IMAGE_TOO_LARGE (ImageTooLarge where the size is
            known), IMAGE_TOO_SMALL, IMAGE_ANIMATED, IMAGE_TRUNCATED or IMAGE_CORRUPT.
    """
    if not data:
        raise InputError("an image must have bytes (got an empty file).", code="EMPTY_FILE")
    if data.startswith(_PNG_MAGIC):
        _check_png(data, max_pixels=max_pixels)
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        _check_size(*_webp_size(data), max_pixels=max_pixels)
    elif not data.startswith(_JPEG_MAGIC):
        _refuse_other_types(data)
    _silence_decoder()
    try:
        image, media_type = _decode(data, max_pixels=max_pixels, min_side_pixels=min_side_pixels)
    except InputError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputError(
            "an image must be of a normal size (got a decompression bomb).", code="IMAGE_TOO_LARGE"
        ) from None
    except MemoryError:
        raise InputError("an image must fit into memory (got too many pixels).", code="IMAGE_TOO_LARGE") from None
    except UnidentifiedImageError:
        raise _not_an_image("other bytes") from None
    except Exception as error:  # noqa: BLE001  (what Pillow raises on broken bytes has no end)
        raise _undecodable(error) from None
    return DecodedImage(image, media_type, *image.size)


def _silence_decoder() -> None:
    """Leave Pillow's warnings on broken metadata out of everybody's stderr: the picture is used or refused by name.

    `warnings.catch_warnings` is not safe in threads, and the filter is looked for each time since tests reset filters.
    """
    if not any(_is_silent(entry) for entry in warnings.filters):
        warnings.filterwarnings("ignore", module=_DECODER_MODULES)


def _is_silent(entry: tuple[object, ...]) -> bool:
    return entry[0] == "ignore" and getattr(entry[3], "pattern", None) == _DECODER_MODULES


def _decode(data: bytes, *, max_pixels: int, min_side_pixels: int) -> tuple[Image.Image, str]:
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    _check_size(image.width, image.height, max_pixels=max_pixels)
    if min(image.size) < min_side_pixels:
        raise InputError(
            f"an image's sides must be at least {min_side_pixels} pixels (got {image.width} x {image.height}).",
            code="IMAGE_TOO_SMALL",
        )
    if image.format != "MPO" and getattr(image, "n_frames", 1) != 1:
        raise InputError("an image must have one frame (got an animation).", code="IMAGE_ANIMATED")
    image.load()
    return _upright(_plain(image), _orientation(image)), MEDIA_TYPES[str(image.format)]


def _orientation(image: Image.Image) -> object:
    """Return what the metadata says, None where it cannot be read: ImageOps.exif_transpose writes it anew and fails."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001  (what Pillow raises on broken metadata has no end)
        return None


def _upright(image: Image.Image, orientation: object) -> Image.Image:
    turn = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _plain(image: Image.Image) -> Image.Image:
    """Return the image as `L` or `RGB`: transparency goes onto white, 16-bit grey is scaled to 8 bits."""
    if image.mode.startswith("I"):
        import numpy as np

        wide = np.asarray(image, dtype=np.int64)
        grey = np.clip(wide >> 8, 0, 255).astype(np.uint8)
        return Image.fromarray(np.where(wide == image.info.get("transparency"), np.uint8(255), grey))
    if image.mode in {"RGBA", "LA", "PA", "La", "RGBa"} or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    mode = "L" if image.mode in {"1", "L"} else "RGB"
    return image if image.mode == mode else image.convert(mode)


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
        raise ImageTooLarge(width, height, max_pixels=max_pixels)


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


def _undecodable(error: Exception) -> InputError:
    text = " ".join(str(error).split())[:120]
    if "truncated" in text.lower():
        return _truncated(text)
    return InputError(f"an image must decode (got: {text}). Send it again.", code="IMAGE_CORRUPT")


def _truncated(got: str) -> InputError:
    return InputError(f"an image must be whole (got: {got}). Send it again.", code="IMAGE_TRUNCATED")


def _not_an_image(got: str) -> InputError:
    return InputError(f"an image must be a PNG, JPEG or WebP file (got {got}).", code="NOT_AN_IMAGE")
