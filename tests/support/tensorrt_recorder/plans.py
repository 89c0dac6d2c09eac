"""The recorder's plans: bytes that contain the engine's description as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .recorder import Recorder

__all__ = ["ONNX_TYPES", "TRT_TYPES", "decode_plan", "encode_plan", "make_plan", "type_name"]

_MAGIC = b"vdmrt recorder plan\n"
_END = b"\nend of plan\n"
# TensorRT's names of the types, by NumPy's names, which plans use.
TRT_TYPES = {
    "float32": "FLOAT", "float16": "HALF", "int8": "INT8", "int32": "INT32", "bool": "BOOL", "uint8": "UINT8",
    "int64": "INT64", "bfloat16": "BF16", "float8": "FP8",
}  # fmt: skip
# ONNX's numbers of the types (TensorProto.DataType).
ONNX_TYPES = {
    1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 16: "bfloat16", 17: "float8",
}  # fmt: skip


def type_name(member: Any) -> str:
    """Return NumPy's name of a member of DataType."""
    return next(name for name, trt in TRT_TYPES.items() if trt == member.name)


def encode_plan(document: Mapping[str, Any]) -> bytes:
    """Return the plan of a document."""
    return _MAGIC + json.dumps(document).encode() + _END


def decode_plan(data: bytes) -> dict[str, Any]:
    """Return the document of a plan.

    Raises:
        ValueError: The data is not a plan, or is truncated; the message is TensorRT's.
    """
    if not data.startswith(_MAGIC):
        raise ValueError("Serialization assertion plan->header.magicTag == rt::kPLAN_MAGIC_TAG failed.")
    if not data.endswith(_END):
        raise ValueError("Serialization assertion plan->header.blobSize == size failed.")
    document: dict[str, Any] = json.loads(data[len(_MAGIC) : -len(_END)])
    return document


def make_plan(
    recorder: Recorder,
    inputs: Iterable[tuple[str, str, tuple[int, ...]]],
    outputs: Iterable[tuple[str, str, tuple[int, ...]]],
    **other: Any,
) -> bytes:
    """Return a plan without using a builder.

    Args:
        recorder: The recorder of the release and GPU that it is built for.
        inputs: (name, dtype as "float32", shape) of each input.
        outputs: The same of each output.
        other: Further fields of its document.
    """
    sides = {
        side: [{"name": name, "dtype": dtype, "shape": list(shape)} for name, dtype, shape in tensors]
        for side, tensors in (("inputs", inputs), ("outputs", outputs))
    }
    return encode_plan({**new_document(recorder), **sides, **other})


def new_document(recorder: Recorder) -> dict[str, Any]:
    """Return the fields that every plan of a recorder has, independent of its graph."""
    return {
        "version": recorder.version, "gpu": recorder.gpu, "compute_capability": recorder.compute_capability,
        "hardware_compatibility": "NONE", "flags": [], "strongly_typed": recorder.major >= 11, "verbosity": "DETAILED",
        "name": "", "inputs": [], "outputs": [], "layers": [], "scratch_nbytes": recorder.scratch_nbytes,
        "weights_nbytes": 0,
    }  # fmt: skip
