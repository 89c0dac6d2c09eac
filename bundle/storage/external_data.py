"""External data locations of an ONNX file, read without the onnx package.

A graph from elsewhere could name ``../../etc/passwd`` as its weights. This reads just enough of the protobuf wire
format (https://protobuf.dev/programming-guides/encoding/) to see every location before any library opens one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ...errors import BundleError

__all__ = ["check_external_data", "read_fields"]

# Field numbers of onnx.proto: the fields of a message that contain further tensors.
_MODEL = {7: "graph", 20: "training", 25: "function"}
_TRAINING = {1: "graph", 2: "graph"}
_GRAPH = {1: "node", 5: "tensor", 15: "sparse"}
_FUNCTION = {7: "node", 11: "attribute"}
_NODE = {5: "attribute"}
_ATTRIBUTE = {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"}
_SPARSE = {1: "tensor", 2: "tensor"}
_TENSOR = {13: "entry"}
_CHILDREN = {
    "model": _MODEL, "training": _TRAINING, "graph": _GRAPH, "function": _FUNCTION, "node": _NODE,
    "attribute": _ATTRIBUTE, "sparse": _SPARSE, "tensor": _TENSOR,
}  # fmt: skip
_KEY, _VALUE = 1, 2


def check_external_data(path: Path, *allowed: str | None, data: bytes | None = None) -> None:
    """Check that a graph's weights are in an allowed file.

    Args:
        path: The ONNX file.
        allowed: Weights files as the graph names them; empty, or None, where all weights are inside the graph.
        data: The file's content, if it has already been read.

    Raises:
        BundleError: The file is not an ONNX graph, or names another location.
    """
    try:
        locations = set(_locations(memoryview(path.read_bytes() if data is None else data), "model"))
    except RecursionError as error:
        raise BundleError("nests graphs too deeply; do not run this bundle", path=path) from error
    except (IndexError, ValueError) as error:
        raise BundleError(f"is not an ONNX graph or is truncated: {error}", path=path) from error
    for location in sorted(locations):
        if location not in allowed:
            has = " and ".join(map(repr, allowed or [None]))
            raise BundleError(
                f"names weights in '{location}', where the bundle has {has}; do not run this bundle",
                path=path,
            )


def _locations(message: memoryview, kind: str) -> Iterator[str]:
    for field, content in read_fields(message):
        child = _CHILDREN[kind].get(field)
        if child == "entry":
            entry = dict(read_fields(content))
            if bytes(entry.get(_KEY, b"")) == b"location":
                yield bytes(entry.get(_VALUE, b"")).decode()
        elif child is not None:
            yield from _locations(content, child)


def read_fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield the length-delimited fields of a message; skip the rest."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        wire = key & 7
        if wire == 0:
            _, position = _varint(message, position)
            continue
        if wire == 2:
            length, position = _varint(message, position)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {position}")
        if position + length > len(message):
            raise ValueError(f"a field of {length} bytes ends beyond the file")
        if wire == 2:
            yield key >> 3, message[position : position + length]
        position += length


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError(f"a number at byte {position} does not end")
