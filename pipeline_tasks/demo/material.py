"""What the demo works on: which photos arrive with labels, which come later as production traffic, and the truth."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from pipeline_tasks.contracts import sha256_hex
from pipeline_tasks.demo import fashion

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
    images_nhw, labels_n = fashion.load_subset()
    num_rotated, num_blurred = SHIFT_SIZES[size]
    num_labeled = len(images_nhw) - num_rotated - num_blurred - NUM_UNLABELED
    ends = (num_labeled, num_labeled + NUM_UNLABELED, num_labeled + NUM_UNLABELED + num_rotated)
    labels = [str(label) for label in labels_n]

    def files(pixels: fashion.Pixels, start: int) -> tuple[tuple[bytes, str], ...]:
        return tuple(
            (fashion.png_bytes(image), label)
            for image, label in zip(pixels, labels[start : start + len(pixels)], strict=True)
        )

    return Material(
        labeled=files(images_nhw[: ends[0]], 0),
        unlabeled=files(images_nhw[ends[0] : ends[1]], ends[0]),
        rotated=files(fashion.rotate(images_nhw[ends[1] : ends[2]], degrees=ROTATION_DEGREES), ends[1]),
        blurred=files(fashion.blur(images_nhw[ends[2] :], sigma=BLUR_SIGMA), ends[2]),
    )


def write_arrivals(material: Material, folder: Path) -> int:
    """Put the first photos where the project's source looks, as a user would; return how many files are new."""
    written = 0
    for number, (image, label) in enumerate(material.labeled):
        written += _write_once(folder / "labeled" / label / f"{number:05d}.png", image)
    for number, (image, _label) in enumerate(material.unlabeled):
        written += _write_once(folder / "new" / f"{number:05d}.png", image)
    return written


def _write_once(path: Path, data: bytes) -> int:
    if path.exists() and path.stat().st_size == len(data):
        return 0
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return 1
