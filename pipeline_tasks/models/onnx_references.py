"""What an ONNX graph reads beside its own bytes: found in the protobuf itself, since a server has no `onnx`. Pure.

Source: onnx.proto3 (field numbers), protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

MAX_DEPTH = 64
# message -> field -> message: everything below a model that can hold a tensor
_FIELDS: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_TENSOR_NAME, _EXTERNAL_DATA, _DATA_LOCATION = 8, 13, 14
_NODE_OPERATOR = 4
_READS_A_FILE = b"EPContext"  # a compiled graph, which may lie in a file


def external_references(data: bytes) -> list[str]:
    """Return the names of what reads another file: tensors with external data, nodes with a compiled graph.

    Raises:
        ValueError: the bytes are no protobuf, or are nested deeper than any graph.
    """
    return list(_references(memoryview(data), "model", depth=0))


def _references(data: memoryview, message: str, *, depth: int) -> Iterator[str]:
    if depth > MAX_DEPTH:
        raise ValueError(f"messages nested more than {MAX_DEPTH} deep")
    name, is_external = "", False
    for field, value in _read(data):
        if message == "tensor":
            if field == _TENSOR_NAME and isinstance(value, memoryview):
                name = bytes(value[:100]).decode(errors="replace")
            is_external |= field == _EXTERNAL_DATA or (field == _DATA_LOCATION and value != 0)
        elif message == "node" and field == _NODE_OPERATOR and isinstance(value, memoryview) and value == _READS_A_FILE:
            yield _READS_A_FILE.decode()
        inner = _FIELDS[message].get(field)
        if inner is not None and isinstance(value, memoryview):
            yield from _references(value, inner, depth=depth + 1)
    if is_external:
        yield name or "a tensor without a name"


def _read(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield a message's fields: the bytes of a length-delimited one, the number of a varint, 0 for the others."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind, size = tag & 7, 0
        if kind == 0:
            value, at = _varint(data, at)
            yield tag >> 3, value
            continue
        if kind == 2:
            size, at = _varint(data, at)
        elif kind in {1, 5}:
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"a field of the wire type {kind}")
        if at + size > len(data):
            raise ValueError("a field that ends behind its message")
        yield tag >> 3, data[at : at + size] if kind == 2 else 0
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        value |= (data[at] & 127) << shift
        at += 1
        if data[at - 1] < 128:
            return value, at
    raise ValueError("a number without an end")
