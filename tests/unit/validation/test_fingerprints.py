import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline_tasks.errors import DataCorrupt
from pipeline_tasks.project.gate_schema import NearDuplicates
from pipeline_tasks.validation import fingerprints as fp

LIMITS = {"max_pixels": 10_000, "digits": 4}


def encoded(pixels, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, **({"format": "PNG"} | options))
    return buffer.getvalue()


def noise(seed=0, *, side=40) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side), dtype=np.uint8)


def row(value, *, digits=4) -> bytes:
    return fp.row_fingerprint(value, digits=digits)[: fp.ROW_HASH_BYTES]


WIDTH = fp.WIDTHS["tabular"]


def same(first, other, *, digits=4) -> bool:
    return row(first, digits=digits) == row(other, digits=digits)


@pytest.mark.parametrize(
    ("modality", "data"),
    [("image", encoded(noise())), ("text", b"some words"), ("tabular", b'{"a": 1}')],
)
def test_a_fingerprint_has_the_width_of_its_modality(modality, data):
    assert len(fp.fingerprint(data, modality=modality, **LIMITS)) == fp.WIDTHS[modality]


@pytest.mark.parametrize(
    ("modality", "data"),
    [
        ("image", b"no image"),
        ("image", encoded(noise(side=101))),  # 10,201 pixels
        ("text", b"\xff\xfe\x00"),
        ("tabular", b"{"),
        ("tabular", b"[1]"),
        ("tabular", b"[" * 100_000),
    ],
)
def test_what_cannot_be_read_has_no_fingerprint(modality, data):
    assert fp.fingerprint(data, modality=modality, **LIMITS) is None


def test_an_image_of_nearly_one_grey_has_no_fingerprint():
    flat = np.full((32, 32), 100, dtype=np.uint8)
    assert fp.fingerprint(encoded(flat), modality="image", **LIMITS) is None
    stripes = flat.copy()
    stripes[:16] += 7  # halves 7 grey levels apart: standard deviation 3.5
    assert fp.fingerprint(encoded(stripes), modality="image", **LIMITS) is None
    stripes[:16] += 2  # 4.5
    assert fp.fingerprint(encoded(stripes), modality="image", **LIMITS) is not None


def test_an_images_parts_are_hash_grey_and_colours():
    pixels = np.zeros((32, 32, 3), dtype=np.uint8)
    pixels[:, 16:] = (255, 0, 0)
    values = np.frombuffer(fp.image_fingerprint(encoded(pixels), max_pixels=1024), np.uint8)
    grey = values[fp.HASH_BYTES : fp.HASH_BYTES + fp.GREY_BYTES].reshape(16, 16)
    assert (grey[:, :8] == 0).all()
    assert (grey[:, 8:] == 76).all()  # luma of red
    blue, red = fp.colours(values[None])[0].reshape(2, 4, 4)
    assert blue[0].tolist() == [128, 128, 84, 84]
    assert red[0].tolist() == [128, 128, 255, 255]
    (thumb,) = fp.thumbs(values[None])
    assert (thumb[:, :13] == 0).all()
    assert (thumb[:, 15:] == 76).all()


def test_shingles_leave_out_case_white_space_and_punctuation():
    assert fp.shingles("Ab  c,\nD!") == {"ab c ", "b c d"}
    assert fp.shingles("ﬁsh") == {"fish"}  # NFKC
    assert fp.shingles("abcd") == {"abcd"}
    assert fp.shingles("abcde") == {"abcde"}
    assert fp.shingles("abcdef") == {"abcde", "bcdef"}


def test_a_text_without_letters_is_its_own_shingle():
    assert fp.shingles(" :-) ") == {":-)"}
    assert fp.shingles(":-(") != fp.shingles(":-)")


def test_signatures_estimate_the_jaccard_index():
    words = [f"word{index}" for index in range(300)]
    first, other = " ".join(words), " ".join(words[:250])
    shingles, others = fp.shingles(first), fp.shingles(other)
    true = len(shingles & others) / len(shingles | others)
    signatures = [np.frombuffer(fp.text_fingerprint(text), "<u4") for text in (first, other)]
    assert true == pytest.approx(0.853, abs=0.001)
    assert (signatures[0] == signatures[1]).mean() == pytest.approx(true, abs=0.12)


def test_a_byte_order_mark_is_no_text():
    values = [fp.fingerprint(data, modality="text", **LIMITS) for data in (b"\xef\xbb\xbf!!", b"!!", b"??")]
    assert values[0] == values[1] != values[2]


@pytest.mark.parametrize(
    ("first", "other", "equal"),
    [
        ({"a": 1.23449}, {"a": 1.23441}, True),
        ({"a": 1.2344}, {"a": 1.2346}, False),
        ({"a": 0.00012341}, {"a": 0.00012342}, True),
        ({"a": 201501}, {"a": 201502}, False),  # whole numbers are compared as they are
        ({"a": 201501.0}, {"a": 201502.0}, False),
        ({"a": 3}, {"a": 3.0}, True),
        ({"a": 3}, {"a": 3.0000000000000004}, True),
        ({"a": 3}, {"a": 3.01}, False),
        ({"a": "Red  Shirt "}, {"a": "red shirt"}, True),
        ({"a": "red"}, {"a": "blue"}, False),
        ({"a": True}, {"a": 1}, False),
        ({"a": None}, {"a": ""}, False),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        ({"a": 1, "b": 2}, {"a": 2, "b": 1}, False),
        ({"a": 1}, {"b": 1}, False),
        ({"a": [1]}, {"a": [2]}, False),
    ],
)
def test_rows_are_equal_when_rounded(first, other, equal):
    assert same(first, other) is equal


def test_the_digits_of_the_project_decide():
    assert same({"a": 1.2344}, {"a": 1.2346}, digits=3)
    assert not same({"a": 1.23441}, {"a": 1.23449}, digits=6)
    texts = [json.dumps({"a": number}).encode() for number in (1.2344, 1.2346)]
    for digits, equal in ((3, True), (4, False)):
        first, other = (fp.fingerprint(text, modality="tabular", max_pixels=1, digits=digits) for text in texts)
        assert (first[: fp.ROW_HASH_BYTES] == other[: fp.ROW_HASH_BYTES]) is equal


def test_infinity_has_a_fingerprint():
    assert fp.fingerprint(b'{"a": Infinity}', modality="tabular", **LIMITS) is not None


def test_the_kind_names_what_must_agree():
    assert fp.kind("image", NearDuplicates()) == "image-2"
    assert fp.kind("text", NearDuplicates(significant_digits=7)) == "text-2"
    assert fp.kind("tabular", NearDuplicates(significant_digits=7)) == "tabular-3-7"


def test_fingerprints_are_stored_and_read_back():
    values = {"b": b"x" * WIDTH, "a": None, "c": b"y" * WIDTH}
    table = fp.as_table(values)
    some = fp.select(table, pa.chunked_array([["a", "b"]]))
    assert some.equals(fp.as_table({"a": None, "b": b"x" * WIDTH}))
    assert fp.from_parquet(fp.to_parquet(some), object_key="k", modality="tabular").equals(some)
    packed = fp.pack(table, modality="tabular")
    assert packed.item_ids.to_pylist() == ["b", "c"]
    assert packed.values.shape == (2, WIDTH)
    assert packed.values[1].tobytes() == b"y" * WIDTH


@pytest.mark.parametrize("rows_of_a_group", [2, 1 << 16])
def test_a_file_is_read_in_parts(monkeypatch, rows_of_a_group):
    """Also one whose rows are all in one group, as files were written before."""
    table = fp.as_table({f"{n}": None if n in (2, 3, 6) else bytes([n]) * WIDTH for n in range(7)})
    monkeypatch.setattr(fp, "ROWS_OF_A_GROUP", rows_of_a_group)
    data, wrong = (fp.to_parquet(pa.concat_tables([table, fp.as_table(more)])) for more in ({}, {"z": b"x"}))
    monkeypatch.setattr(fp, "ROWS_OF_A_GROUP", 2)
    assert fp.from_parquet(data, object_key="k", modality="tabular").equals(table)
    with pytest.raises(DataCorrupt, match=f"must hold fingerprints of {WIDTH} bytes"):
        fp.from_parquet(wrong, object_key="k", modality="tabular")
    none = fp.to_parquet(fp.SCHEMA.empty_table())
    assert fp.from_parquet(none, object_key="k", modality="tabular").num_rows == 0


def test_no_fingerprints_are_an_empty_array():
    assert fp.pack(fp.as_table({}), modality="text").values.shape == (0, 512)
    assert fp.pack(fp.SCHEMA.empty_table(), modality="text").values.shape == (0, 512)


def test_an_item_without_a_row_is_named():
    with pytest.raises(KeyError, match="b"):
        fp.select(fp.as_table({"a": None}), pa.chunked_array([["a", "b"]]))


def test_fingerprints_of_several_files_and_of_a_part_of_one_are_packed_alike():
    table = fp.as_table({name: name.encode() * WIDTH for name in "abcdef"})
    cut = pa.concat_tables([table.slice(3, 2), table.slice(1, 2)])
    packed = fp.pack(cut, modality="tabular")
    assert packed.item_ids.to_pylist() == list("bcde")
    assert [bytes(row) for row in packed.values] == [name.encode() * WIDTH for name in "bcde"]


def test_other_bytes_are_no_fingerprints():
    with pytest.raises(DataCorrupt, match=r"k must be Parquet \(got ArrowInvalid\). Delete it"):
        fp.from_parquet(b"other", object_key="k", modality="text")
    stored = fp.to_parquet(fp.as_table({"a": b"x" * WIDTH}))
    with pytest.raises(DataCorrupt, match="must hold fingerprints of 512 bytes"):
        fp.from_parquet(stored, object_key="k", modality="text")
    buffer = io.BytesIO()
    pq.write_table(pa.table({"item": ["a"]}), buffer)
    with pytest.raises(DataCorrupt, match="must have the columns"):
        fp.from_parquet(buffer.getvalue(), object_key="k", modality="text")
