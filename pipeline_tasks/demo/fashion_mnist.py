"""The demo's real photos (Fashion-MNIST, see projects/fashion/data/NOTICE) and the shifts of its story.

Legend: N images, H height, W width; all pixels uint8.
"""

from __future__ import annotations

import gzip
import hashlib
import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from pipeline_tasks.errors import DataCorrupt

DATA_DIR = Path(__file__).parents[2] / "projects" / "fashion" / "data"
CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
_IMAGES, _LABELS = "images-idx3-ubyte.gz", "labels-idx1-ubyte.gz"

Pixels = npt.NDArray[np.uint8]


def load_subset(data_dir: Path = DATA_DIR) -> tuple[Pixels, npt.NDArray[np.str_]]:
    """Return the committed images_nhw (9000, 28, 28) and their class names (9000,), shuffled, 900 of each class.

    Raises:
        DataCorrupt: a file does not have the SHA-256 that SHA256SUMS names.
    """
    images = _read_checked(data_dir, _IMAGES)
    labels = _read_checked(data_dir, _LABELS)
    images_nhw = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28).copy()
    return images_nhw, np.array(CLASSES)[np.frombuffer(labels, np.uint8, offset=8)]


def rotate(images_nhw: Pixels, *, degrees: float) -> Pixels:
    """Return the images turned counter-clockwise about their centre, black corners, bilinear."""
    turned = [
        np.asarray(Image.fromarray(image_hw).rotate(degrees, Image.Resampling.BILINEAR, fillcolor=0))
        for image_hw in images_nhw
    ]
    return np.stack(turned)


def blur(images_nhw: Pixels, *, sigma: float) -> Pixels:
    """Return the images under a Gaussian blur of `sigma` pixels."""
    blurred = ndimage.gaussian_filter(images_nhw.astype(np.float32), sigma=(0, sigma, sigma))
    return np.clip(np.rint(blurred), 0, 255).astype(np.uint8)


def png_bytes(image_hw: Pixels) -> bytes:
    """Return one image as a PNG file, always the same bytes."""
    buffer = io.BytesIO()
    Image.fromarray(image_hw).save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def _read_checked(data_dir: Path, name: str) -> bytes:
    data = (data_dir / name).read_bytes()
    lines = (data_dir / "SHA256SUMS").read_text().splitlines()
    sums = {file: digest for digest, file in (line.split() for line in lines)}
    got = hashlib.sha256(data).hexdigest()
    if got != sums.get(name):
        raise DataCorrupt(
            f"{data_dir / name} must have the SHA-256 {sums.get(name)} (got {got}). "
            "Restore it from the repository (`git checkout`)."
        )
    return gzip.decompress(data)
