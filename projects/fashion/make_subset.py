"""Makes `data/` from the Debian package dataset-fashion-mnist: 900 photos of each of the 10 classes.

Run once; the result is committed, so that nothing is fetched at run time:

    apt-get download dataset-fashion-mnist && dpkg -x dataset-fashion-mnist_*.deb unpacked
    python projects/fashion/make_subset.py unpacked/usr/share/datasets/fashion-mnist
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
from pathlib import Path

import numpy as np

DATA_DIR = Path(__file__).parent / "data"
PER_CLASS = 900
NUM_CLASSES = 10
SEED = 20_260_101
IMAGES_HEADER_BYTES, LABELS_HEADER_BYTES = 16, 8


def read_part(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the training part: images (60000, 28, 28) and labels (60000,), both uint8."""
    images = gzip.decompress((folder / "train-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((folder / "train-labels-idx1-ubyte.gz").read_bytes())
    return (
        np.frombuffer(images, np.uint8, offset=IMAGES_HEADER_BYTES).reshape(-1, 28, 28),
        np.frombuffer(labels, np.uint8, offset=LABELS_HEADER_BYTES),
    )


def choose(labels: np.ndarray) -> np.ndarray:
    """Return the indexes of a class-balanced, shuffled subset; always the same one."""
    random = np.random.default_rng(SEED)
    chosen = [random.permutation(np.flatnonzero(labels == label))[:PER_CLASS] for label in range(NUM_CLASSES)]
    return random.permutation(np.concatenate(chosen))


def write(name: str, header: bytes, values: np.ndarray) -> str:
    """Write one idx file, compressed to the same bytes each time, and return its line for SHA256SUMS."""
    data = gzip.compress(header + values.tobytes(), 9, mtime=0)
    (DATA_DIR / name).write_bytes(data)
    return f"{hashlib.sha256(data).hexdigest()}  {name}\n"


def main() -> None:
    """Write the subset."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where train-images-idx3-ubyte.gz lies")
    images, labels = read_part(parser.parse_args().folder)
    chosen = choose(labels)
    size = len(chosen).to_bytes(4, "big")
    side = (28).to_bytes(4, "big")
    sums = write("images-idx3-ubyte.gz", bytes((0, 0, 8, 3)) + size + side + side, images[chosen])
    sums += write("labels-idx1-ubyte.gz", bytes((0, 0, 8, 1)) + size, labels[chosen])
    (DATA_DIR / "SHA256SUMS").write_text(sums)
    print(f"{len(chosen)} images in {DATA_DIR}")


if __name__ == "__main__":
    main()
