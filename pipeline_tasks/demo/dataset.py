"""Data of the demo: photos that arrive with labels, photos that come later as production traffic, and the truth."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from pipeline_tasks.contracts import sha256_hex
from pipeline_tasks.demo import fashion_mnist

ROTATION_DEGREES = 20.0
BLUR_SIGMA = 2.0
SHIFT_SIZES = {"small": (900, 260), "full": (1600, 500)}  # rotated, blurred
NUM_UNLABELED = 40


@dataclasses.dataclass(frozen=True, slots=True)
class Material:
    """The demo's photos as PNG files with their true classes; the system sees only what arrives."""

    labeled: tuple[tuple[bytes, str], ...]
    unlabeled: tuple[tuple[bytes, str], ...]
    rotated: tuple[tuple[bytes, str], ...]
    blurred: tuple[tuple[bytes, str], ...]

    def rotated_batches(self) -> tuple[tuple[tuple[bytes, str], ...], ...]:
        """Return the rotated photos in two halves: the second is for when the first did not decide."""
        half = len(self.rotated) // 2
        return self.rotated[:half], self.rotated[half:]

    def truth_by_item(self) -> dict[str, str]:
        """Return item id (SHA-256 of the file) -> class: what the scripted annotators know."""
        return {sha256_hex(image): label for image, label in self._all()}

    def truth_by_image(self) -> dict[bytes, str]:
        """Return file -> class: what the demo's client knows."""
        return dict(self._all())

    def _all(self) -> tuple[tuple[bytes, str], ...]:
        return (*self.labeled, *self.unlabeled, *self.rotated, *self.blurred)


def load_material(size: str) -> Material:
    """Cut the committed photos into the story's parts; no photo is used twice."""
    images_nhw, labels_n = fashion_mnist.load_subset()
    num_rotated, num_blurred = SHIFT_SIZES[size]
    num_labeled = len(images_nhw) - num_rotated - num_blurred - NUM_UNLABELED
    ends = (num_labeled, num_labeled + NUM_UNLABELED, num_labeled + NUM_UNLABELED + num_rotated)
    labels = [str(label) for label in labels_n]

    def files(pixels: fashion_mnist.Pixels, start: int) -> tuple[tuple[bytes, str], ...]:
        return tuple(
            (fashion_mnist.png_bytes(image), label)
            for image, label in zip(pixels, labels[start : start + len(pixels)], strict=True)
        )

    return Material(
        labeled=files(images_nhw[: ends[0]], 0),
        unlabeled=files(images_nhw[ends[0] : ends[1]], ends[0]),
        rotated=files(fashion_mnist.rotate(images_nhw[ends[1] : ends[2]], degrees=ROTATION_DEGREES), ends[1]),
        blurred=files(fashion_mnist.blur(images_nhw[ends[2] :], sigma=BLUR_SIGMA), ends[2]),
    )


def write_arrivals(material: Material, folder: Path) -> int:
    """Put the first photos where the project's source looks, as a user would; return how many files are new.

    Each folder appears whole: a sweep of ingest that falls into the writing would split the first data in two.
    """
    labeled = {f"{label}/{number:05d}.png": image for number, (image, label) in enumerate(material.labeled)}
    unlabeled = {f"{number:05d}.png": image for number, (image, _label) in enumerate(material.unlabeled)}
    return _arrive(folder / "labeled", labeled) + _arrive(folder / "new", unlabeled)


def _arrive(target: Path, files: Mapping[str, bytes]) -> int:
    hidden = target.with_name(f".{target.name}")  # names that begin with a dot are not looked at
    place = target if target.exists() else hidden
    written = sum(_write_once(place / name, data) for name, data in files.items())
    if place == hidden and files:
        hidden.rename(target)
    return written


def _write_once(path: Path, data: bytes) -> int:
    if path.exists() and path.stat().st_size == len(data):
        return 0
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return 1
