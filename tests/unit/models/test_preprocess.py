"""From bytes to arrays; exact values."""

import io
import json
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from pipeline_tasks.errors import InputError, PermanentError
from pipeline_tasks.models.base import check_probabilities
from pipeline_tasks.models.image_cnn.preprocess import collate_images, decode_image, flip_some
from pipeline_tasks.models.tabular_mlp.preprocess import collate_rows, decode_row, row_width
from pipeline_tasks.models.text_bow.preprocess import collate_counts, decode_text

GREY = {"image_size": 4, "channels": 1, "max_pixels": 100}
RGB = {**GREY, "channels": 3}
TEXT = {"buckets": 1024, "ngrams": 2, "max_terms": 5, "max_characters": 100}
TABLE = {"numbers": ["age", "pay"], "categories": {"state": ["CA", "NY"]}}


def encode(image: Image.Image, kind="PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_a_grey_image_of_the_right_size_keeps_its_pixels():
    pixels_hw = np.arange(16, dtype=np.uint8).reshape(4, 4) * 16
    decoded = decode_image(encode(Image.fromarray(pixels_hw)), preprocessing=GREY)
    assert decoded.dtype == np.uint8
    assert np.array_equal(decoded, pixels_hw[np.newaxis])


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("RGB", (255, 0, 0), [255, 0, 0]),
        ("RGBA", (255, 0, 0, 0), [255, 255, 255]),
        ("LA", (0, 0), [255, 255, 255]),
        ("1", 1, [255, 255, 255]),
        ("I;16", 256 * 77, [77, 77, 77]),
    ],
)
def test_every_mode_becomes_rgb(mode, colour, expected):
    decoded = decode_image(encode(Image.new(mode, (4, 4), colour)), preprocessing=RGB)
    assert decoded.shape == (3, 4, 4)
    assert decoded[:, 0, 0].tolist() == expected


def test_other_sizes_are_resized():
    decoded = decode_image(encode(Image.new("L", (9, 3), 200)), preprocessing=GREY)
    assert decoded.shape == (1, 4, 4)
    assert (decoded == 200).all()


def test_a_turned_photo_is_turned_back():
    image = Image.new("L", (4, 4), 0)
    image.paste(255, (0, 0, 4, 2))
    exif = Image.Exif()
    exif[0x0112] = 3
    decoded = decode_image(encode(image, exif=exif), preprocessing=GREY)
    assert decoded[0, :, 0].tolist() == [0, 0, 255, 255]


@pytest.mark.parametrize(
    ("data", "code"),
    [(b"", "EMPTY_FILE"), (b"hello", "NOT_AN_IMAGE"), (encode(Image.new("L", (20, 20))), "IMAGE_TOO_LARGE")],
)
def test_an_unusable_image_has_a_code(data, code):
    with pytest.raises(InputError, match="an image must") as caught:
        decode_image(data, preprocessing=GREY)
    assert caught.value.code == code


def test_flipping_mirrors_some_and_leaves_the_input_alone():
    batch = collate_images([np.arange(4, dtype=np.uint8).reshape(1, 2, 2)] * 64)
    before = batch.copy()
    flipped = flip_some(batch, generator=np.random.default_rng(0))
    mirrored = (flipped[:, 0, 0, 0] == 1).sum()
    assert np.array_equal(batch, before)
    assert 16 < mirrored < 48
    assert set(map(bytes, flipped.reshape(64, 4))) == {bytes([0, 1, 2, 3]), bytes([1, 0, 3, 2])}


def bucket(gram: str) -> int:
    return zlib.crc32(gram.encode()) % 1024


def test_a_text_is_its_words_and_pairs_with_counts():
    decoded = decode_text(b"Red red APPLE", preprocessing={**TEXT, "max_terms": 50})
    assert dict(decoded.tolist()) == {
        bucket("red"): 2,
        bucket("apple"): 1,
        bucket("red red"): 1,
        bucket("red apple"): 1,
    }
    assert decoded[0].tolist() == [bucket("red"), 2]
    assert decoded.dtype == np.int32


def test_only_the_most_frequent_terms_are_kept():
    assert decode_text(b"aa bb cc dd ee aa", preprocessing=TEXT).shape == (5, 2)


def test_a_text_without_words_is_one_empty_term():
    assert decode_text(b"? !", preprocessing=TEXT).tolist() == [[0, 0]]


@pytest.mark.parametrize(
    ("data", "code"),
    [(b"", "EMPTY_FILE"), (b" \n", "TEXT_EMPTY"), (b"\xff\xfe", "TEXT_NOT_UTF8"), (b"a" * 101, "TEXT_TOO_LONG")],
)
def test_an_unusable_text_has_a_code(data, code):
    with pytest.raises(InputError, match="a text must") as caught:
        decode_text(data, preprocessing=TEXT)
    assert caught.value.code == code


def test_counts_are_padded_to_the_longest():
    batch = collate_counts([np.array([[5, 1]], np.int32), np.array([[1, 2], [3, 4]], np.int32)])
    assert batch.tolist() == [[[5, 1], [0, 0]], [[1, 2], [3, 4]]]


def test_a_row_is_numbers_then_one_column_per_category_value():
    decoded = decode_row(json.dumps({"age": 40, "pay": "1.5", "state": "NY", "x": 1}).encode(), preprocessing=TABLE)
    assert decoded.tolist() == [40.0, 1.5, 0.0, 1.0]
    assert row_width(TABLE) == 4
    assert collate_rows([decoded, decoded]).shape == (2, 4)


def test_missing_numbers_are_nan_and_unknown_categories_are_none():
    decoded = decode_row(b'{"age": null, "pay": "", "state": "TX"}', preprocessing=TABLE)
    assert np.isnan(decoded[:2]).all()
    assert decoded[2:].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "EMPTY_FILE"),
        (b"{" * 9, "ROW_NOT_JSON"),
        (b"[1]", "ROW_NOT_JSON"),
        (b"[" * 100_000, "ROW_NOT_JSON"),
        (b" " * 1_000_001, "ROW_TOO_LONG"),
        (b'{"age": 1, "state": "CA"}', "COLUMN_MISSING"),
        (b'{"age": 1, "pay": 1}', "COLUMN_MISSING"),
        (b'{"age": "old", "pay": 1, "state": "CA"}', "VALUE_INVALID"),
        (b'{"age": 1e999, "pay": 1, "state": "CA"}', "VALUE_INVALID"),
        (b'{"age": 1e60, "pay": 1, "state": "CA"}', "VALUE_INVALID"),
        (b'{"age": [1], "pay": 1, "state": "CA"}', "VALUE_INVALID"),
    ],
)
def test_an_unusable_row_has_a_code(data, code):
    with pytest.raises(InputError, match=" must ") as caught:
        decode_row(data, preprocessing=TABLE)
    assert caught.value.code == code


def test_probabilities_must_be_finite_and_of_the_right_shape():
    with pytest.raises(PermanentError, match=r"NaN or infinity in 1 of 2 rows") as caught:
        check_probabilities(np.array([[0.5, 0.5], [np.nan, 1.0]]), num_rows=2)
    assert caught.value.code == "NON_FINITE_OUTPUT"
    with pytest.raises(PermanentError, match=r"shape \(2, classes\) \(got \(1, 2\)\)") as caught:
        check_probabilities(np.array([[0.5, 0.5]]), num_rows=2)
    assert caught.value.code == "SHAPE_OUTPUT"
    assert check_probabilities(np.array([[1.0, 0.0]]), num_rows=1).dtype == np.float32


def test_decoding_needs_no_torch():
    """The gateway decodes, and has no torch."""
    program = (
        "import sys\n"
        "from pipeline_tasks.models.registry import find_recipe\n"
        "from pipeline_tasks.models.stock import STOCK\n"
        "from pipeline_tasks.models.artifact import read_manifest\n"
        "for name in STOCK: find_recipe(name)\n"
        "find_recipe('text_bow').recipe.decode(b'two words', "
        "preprocessing=find_recipe('text_bow').recipe.preprocessing(find_recipe('text_bow').recipe.resolve({})))\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
