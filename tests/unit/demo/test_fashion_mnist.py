"""The committed photos are the ones that the story's figures were made with."""

import io
import shutil
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from pipeline_tasks.demo.fashion_mnist import CLASSES, DATA_DIR, blur, load_subset, png_bytes, rotate
from pipeline_tasks.errors import DataCorrupt
from pipeline_tasks.guards.image import guard_image
from pipeline_tasks.project.loader import load_project


def test_the_subset_is_balanced_and_shuffled():
    images_nhw, labels = load_subset()
    assert (images_nhw.shape, images_nhw.dtype) == ((9000, 28, 28), np.uint8)
    assert Counter(labels.tolist()) == dict.fromkeys(CLASSES, 900)
    assert len(set(labels[:100].tolist())) == 10
    assert len({image.tobytes() for image in images_nhw}) == 9000


def test_the_classes_are_those_of_the_project():
    assert tuple(load_project(DATA_DIR.parent).config.labels.classes) == CLASSES


def test_a_changed_file_is_refused(tmp_path):
    shutil.copytree(DATA_DIR, tmp_path / "data")
    path = tmp_path / "data" / "labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(DataCorrupt, match=r"labels-idx1-ubyte.gz must have the SHA-256 d95df349"):
        load_subset(tmp_path / "data")


def test_shifts_change_the_pixels_and_nothing_else():
    images_nhw = load_subset()[0][:20]
    before = images_nhw.copy()
    turned, blurred = rotate(images_nhw, degrees=20), blur(images_nhw, sigma=1.0)
    assert turned.shape == blurred.shape == images_nhw.shape
    assert turned.dtype == blurred.dtype == np.uint8
    assert (images_nhw == before).all()
    assert (rotate(images_nhw, degrees=0) == images_nhw).all()
    assert (rotate(images_nhw, degrees=90) == np.rot90(images_nhw, axes=(1, 2))).mean() > 0.99
    assert abs(blurred.mean() - images_nhw.mean()) < 1
    assert blurred.std() < images_nhw.std()


def test_an_image_as_png_passes_the_guard_and_comes_back():
    image_hw = load_subset()[0][0]
    data = png_bytes(image_hw)
    assert data == png_bytes(image_hw)
    assert guard_image(data, max_pixels=784).media_type == "image/png"
    assert (np.asarray(Image.open(io.BytesIO(data))) == image_hw).all()
