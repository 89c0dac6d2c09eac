"""The recorder's plans: bytes that contain the engine's description as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .recorder import Recorder

__all__ = [
    "HEADER_NBYTES", "ONNX_TYPES", "TRT_TYPES", "decode_plan", "encode_plan", "make_plan", "read_header", "type_name",
]  # fmt: skip

_MAGIC = b"vdmrt recorder plan\n"
_END = b"\nend of plan\n"
# Plans of TensorRT for RTX begin with a header: their version and targets, readable without the rest.
HEADER_NBYTES = 64
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
    """Return the plan of a document; one with "targets" gets the header of TensorRT for RTX."""
    header = b""
    if "targets" in document:
        targets = ",".join(document["targets"])
        header = f"{document['version']} {targets}".encode().ljust(HEADER_NBYTES - len(_MAGIC))
    return _MAGIC + header + json.dumps(document).encode() + _END


def read_header(header: bytes) -> tuple[str, tuple[str, ...]] | None:
    """Return version and targets of a plan of TensorRT for RTX (no targets: any GPU), or None for anything else."""
    found = re.fullmatch(rb"([\d.]+) ([\d.,]*) *", header.removeprefix(_MAGIC))
    if len(header) < HEADER_NBYTES or found is None:
        return None
    targets = found[2].decode()
    return found[1].decode(), tuple(target for target in targets.split(",") if target)


def decode_plan(data: bytes) -> dict[str, Any]:
    """Return the document of a plan.

    Raises:
        ValueError: The data is not a plan, or is truncated; the message is TensorRT's.
    """
    if not data.startswith(_MAGIC):
        raise ValueError("Serialization assertion plan->header.magicTag == rt::kPLAN_MAGIC_TAG failed.")
    if not data.endswith(_END):
        raise ValueError("Serialization assertion plan->header.blobSize == size failed.")
    begin = len(_MAGIC) if read_header(data[:HEADER_NBYTES]) is None else HEADER_NBYTES
    document: dict[str, Any] = json.loads(data[begin : -len(_END)])
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
        other: Further fields of its document, as ``targets=["8.6", "8.9"]`` for TensorRT for RTX.
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
        "weights_nbytes": 0, **({"targets": []} if recorder.is_rtx else {}),
    }  # fmt: skip
