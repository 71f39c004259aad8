"""Bodies: one item, batches, tensors, and everything that only looks like one."""

import io
import json
import struct

import numpy as np
import pytest
from safetensors.numpy import save as save_safetensors

from bento_services.inference.request_decoding import (
    BATCH,
    NPY,
    SAFETENSORS,
    decode_item,
    join_batch,
    npy_bytes,
    read_content,
    read_npy,
    read_safetensors,
    split_batch,
)
from bento_services.inference.responses import MODEL_FAILED, PredictionError
from pipeline_tasks.errors import InputError
from pipeline_tasks.models.base import Signature
from tests.unit.inference.inference_model import Doubles

IMAGE = Signature(("image/png",), "uint8", (3, 2, 2), 2)
WORDS = Signature(("text/plain",), "int32", (-1, 2), 2)
FREE = Signature(("application/octet-stream",), "float32", (-1, 2), 2)


def read(data, media_type, *, signature=IMAGE, max_items=4):
    decode = Doubles().decode
    return read_content(data, media_type=media_type, decode=decode, signature=signature, max_items=max_items)


def codes(data, media_type, **more):
    with pytest.raises(InputError) as caught:
        read(data, media_type, **more)
    return caught.value.code


def refuse(_data):
    raise InputError("an image must be whole (got half).", code="IMAGE_TRUNCATED")


def break_down(_data):
    raise RecursionError


def run_out(_data):
    raise MemoryError


@pytest.mark.parametrize(
    ("decode", "status", "code"),
    [(refuse, 422, "IMAGE_TRUNCATED"), (break_down, 422, "ITEM_INVALID"), (run_out, 503, "MODEL_FAILED")],
)
def test_an_item_that_does_not_decode_is_a_refusal(decode, status, code):
    refusal = decode_item(b"x", decode=decode)
    assert (refusal.status, refusal.code) == (status, code)
    assert decode is not run_out or refusal is MODEL_FAILED


def test_one_item_is_single_whatever_it_is_called():
    for media_type in ("text/plain", "application/octet-stream", ""):
        content = read(b"0.5", media_type)
        assert content.single
        assert content.items == [np.array([0.5])]


def test_a_batch_keeps_order_and_its_bad_items():
    content = read(join_batch([b"1", b"", b"x", b"4"]), BATCH)
    assert not content.single
    assert [isinstance(item, PredictionError) for item in content.items] == [False, True, True, False]
    assert content.items[3] == np.array([4.0])
    assert not read(join_batch([b"1"]), BATCH).single


@pytest.mark.parametrize(
    "data",
    [b"", b"\0", b"\0\0\0\5abc", join_batch([b"1"]) + b"\0\0\0", join_batch([b"1"]) + b"\0\0\0\1", b"\xff" * 9],
)
def test_a_batch_that_does_not_end_with_an_item_is_refused(data):
    assert codes(data, BATCH) == "BATCH_INVALID"


def test_a_batch_has_a_largest_size():
    assert split_batch(join_batch([b"1"] * 4), max_items=4) == [b"1"] * 4
    assert codes(join_batch([b"1"] * 5), BATCH) == "BATCH_TOO_LARGE"
    assert codes(npy_bytes(np.zeros((5, 3, 2, 2), np.uint8)), NPY) == "BATCH_TOO_LARGE"


@pytest.mark.parametrize(
    ("media_type", "write"), [(NPY, npy_bytes), (SAFETENSORS, lambda array: save_safetensors({"x": array}))]
)
def test_a_tensor_is_one_item_or_a_stack(media_type, write):
    tensor = np.arange(12, dtype=np.uint8).reshape(3, 2, 2)
    single = read(write(tensor), media_type)
    assert single.single
    np.testing.assert_array_equal(single.items[0], tensor)
    several = read(write(np.stack([tensor, tensor + 1])), media_type)
    assert not several.single
    np.testing.assert_array_equal(several.items[1], tensor + 1)


def test_a_free_dimension_takes_any_size_but_none():
    assert read(npy_bytes(np.zeros((7, 2), np.float32)), NPY, signature=FREE).single
    assert len(read(npy_bytes(np.zeros((3, 7, 2), np.float32)), NPY, signature=FREE).items) == 3
    assert codes(npy_bytes(np.zeros((0, 2), np.float32)), NPY, signature=FREE) == "TENSOR_INVALID"


def test_fortran_order_and_missing_numbers_are_read_as_meant():
    array = np.asfortranarray(np.array([[1.0, np.nan], [3.0, 4.0]], np.float32))
    np.testing.assert_array_equal(read(npy_bytes(array), NPY, signature=FREE).items[0], array)


def test_numbers_that_index_a_table_are_not_taken():
    assert codes(npy_bytes(np.full((4, 2), 2**31 - 1, np.int32)), NPY, signature=WORDS) == "TENSOR_INVALID"
    assert codes(npy_bytes(np.zeros((4, 2), np.float32)), NPY, signature=WORDS) == "TENSOR_NOT_TAKEN"


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((3, 2, 3), np.uint8),
        np.zeros((2, 2), np.uint8),
        np.zeros((1, 1, 3, 2, 2), np.uint8),
        np.zeros((3, 2, 2), np.float32),
        np.zeros((3, 2, 2), ">f4"),
        np.zeros((3, 2, 2), "U3"),
    ],
)
def test_another_shape_or_type_is_refused(array):
    assert codes(npy_bytes(array), NPY) == "TENSOR_INVALID"


def test_an_empty_stack_and_infinity_are_refused():
    assert codes(npy_bytes(np.zeros((0, 3, 2, 2), np.uint8)), NPY) == "BATCH_INVALID"
    assert codes(npy_bytes(np.full((1, 2), np.inf, np.float32)), NPY, signature=FREE) == "TENSOR_INVALID"


def npy(header, data=b"\0" * 12):
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def pickled_npy():
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY",
        b"\x93NUMPY\x09\x00\x00\x00",
        b"\x93NUMPY\x01\x00\xff\xff",
        npy(b"{}"),
        npy(b"["),
        npy(b"(" * 5000),
        npy(b"__import__('os')"),
        npy(b"{'descr': '|u1', 'fortran_order': False, 'shape': (3, 2, 2)}", b"\0" * 11),
        npy(b"{'descr': '|u1', 'fortran_order': False, 'shape': (3, -2, -2)}"),
        npy(b"{'descr': '|u1', 'fortran_order': False, 'shape': (True, 12)}"),
        npy(b"{'descr': '|u1', 'fortran_order': False, 'shape': 12}"),
        npy(b"{'descr': [('a', '|u1')], 'fortran_order': False, 'shape': (12,)}"),
        npy(b"{'descr': '|u1', 'fortran_order': False, 'shape': (1099511627775, 1099511627775)}"),
        pickled_npy(),
    ],
)
def test_what_only_looks_like_npy_is_refused(data):
    with pytest.raises(InputError, match="the tensor must be") as caught:
        read_npy(data)
    assert caught.value.code == "TENSOR_INVALID"


def safetensors_of(header, data=b"\0" * 12):
    text = json.dumps(header).encode() if not isinstance(header, bytes) else header
    return struct.pack("<Q", len(text)) + text + data


GOOD = {"dtype": "U8", "shape": [3, 2, 2], "data_offsets": [0, 12]}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 8,
        safetensors_of(b"{"),
        safetensors_of(b"[" * 5000),
        safetensors_of([]),
        safetensors_of({}),
        safetensors_of({"a": GOOD, "b": GOOD}),
        safetensors_of({"a": 1}),
        safetensors_of({"a": GOOD | {"dtype": "I64"}}),
        safetensors_of({"a": GOOD | {"dtype": []}}),
        safetensors_of({"a": GOOD | {"shape": [3, 2, 3]}}),
        safetensors_of({"a": GOOD | {"shape": [-3, -2, 2]}}),
        safetensors_of({"a": GOOD | {"data_offsets": [0, 11]}}),
        safetensors_of({"a": GOOD | {"data_offsets": [0, 12, 13]}}),
        safetensors_of({"a": GOOD}, b"\0" * 13),
    ],
)
def test_what_only_looks_like_safetensors_is_refused(data):
    with pytest.raises(InputError, match="the tensor must be") as caught:
        read_safetensors(data)
    assert caught.value.code == "TENSOR_INVALID"


def test_safetensors_with_metadata_is_read():
    data = safetensors_of({"__metadata__": {"a": "b"}, "x": GOOD})
    assert read_safetensors(data).shape == (3, 2, 2)
