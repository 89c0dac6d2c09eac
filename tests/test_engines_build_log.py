"""Layers that the builder of TensorRT for RTX logs, in the form of the engine inspector."""

from __future__ import annotations

import json

import pytest

from vdmrt.engines import read_layers
from vdmrt.engines.tensorrt.rtx.build_log import inspection_of
from vdmrt.errors import EngineError
from vdmrt.runtime.backends.tensorrt.layers import read_layer_kinds

PRODUCT = (
    "Name: __myl_FcAdd_myl0_8, LayerType: runtime_fusion, Inputs: [ { Name: __mye65990_myl0, Dimensions: [512,192], "
    "Strides: [192,1], StrideOrder: [1,0], Datatype: Half, Format: (Linear) Row major linear format }], Constants: [ "
    "{ Name: bias_myl0, Dimensions: [1,576], Strides: [576,1], StrideOrder: [1,0], Datatype: Half, Format: (Linear) "
    "Row major linear format }, { Name: blocks.0.attn.qkv.weight_myl0, Dimensions: [192,576], Strides: [1,192], "
    "StrideOrder: [0,1], Datatype: Half, Format: (Transposed) Transposed format }], Outputs: [ { Name: out_myl0, "
    "Dimensions: [512,576], Strides: [576,1], StrideOrder: [1,0], Datatype: Half, Format: (Linear) Row major linear "
    "format }], TacticName: , StreamId: 0, Metadata: [ONNX Layer: node_linear_4][ONNX Layer: node_add]"
)
COPY = (
    "Name: __myl_ReshMove_myl0_16, LayerType: kgen, Inputs: [ { Name: past_v.0, Dimensions: [1,6,192,32], Strides: "
    "[36864,6144,32,1], StrideOrder: [3,2,1,0], Datatype: FP8, Format: (Linear) Row major linear format }], "
    "Constants: [], Outputs: [ { Name: y, Dimensions: [], Strides: [], Datatype: Float }], TacticName: "
    "__myl_ReshMove_0x2d, StreamId: 0, Metadata: "
)
WAIT = (
    "Name: exit^bb^wait^4_myl0_112, LayerType: wait, Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 0"
    ", EventId: 31, Metadata: "
)
TENSOR = " Name: past_v.0, IOMode: Input, DataType: Half, Dimensions: [1,384,25,32], Location: Device"
LOG = ["Engine generation completed in 5.9 seconds.", f"Layers:\n{PRODUCT}\n{COPY}\n", WAIT, f"I/O Tensors:\n{TENSOR}"]


def test_logged_layers_are_read_like_inspected_ones() -> None:
    product, copy, wait = read_layers(inspection_of(LOG))

    assert (product.name, product.kind) == ("__myl_FcAdd_myl0_8", "runtime_fusion")
    assert [(side.name, side.dtype, side.shape) for side in product.constants] == [
        ("bias_myl0", "fp16", (1, 576)),
        ("blocks.0.attn.qkv.weight_myl0", "fp16", (192, 576)),
    ]
    assert {"node_linear_4", "node_add"} <= product.nodes
    assert [(side.name, side.dtype, side.nbytes) for side in (*copy.inputs, *copy.outputs)] == [
        ("past_v.0", "fp8", 36864),
        ("y", "fp32", 4),
    ]
    assert wait.is_idle


def test_the_profiler_finds_kinds_and_nodes_of_logged_layers() -> None:
    kinds = read_layer_kinds(inspection_of(LOG))

    assert kinds["__myl_FcAdd_myl0_8"] == ("runtime_fusion", ("node_linear_4", "node_add"))
    assert kinds["__myl_ReshMove_myl0_16"] == ("kgen", ())


def test_the_json_has_the_inspectors_keys() -> None:
    document = json.loads(inspection_of(LOG))

    assert [layer["LayerType"] for layer in document["Layers"]] == ["runtime_fusion", "kgen", "wait"]
    assert document["Layers"][1]["Inputs"] == [
        {"Name": "past_v.0", "Dimensions": [1, 6, 192, 32], "Format/Datatype": "FP8"}
    ]


def test_a_log_without_layers_is_refused() -> None:
    with pytest.raises(EngineError, match="logged no layers; they need a VERBOSE log and DETAILED profiling"):
        inspection_of([TENSOR, "Engine generation completed in 5.9 seconds."])
