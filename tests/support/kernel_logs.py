"""Logs of TensorRT for RTX's builder, and engines with the layers that they list."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from vdmrt.bundle import (
    ENGINE_MANIFEST,
    ENGINES_FOLDER,
    FP16,
    LAYERS_FILE,
    Artifact,
    Bundle,
    Engine,
    EngineManifest,
    Machine,
    Plan,
    encode,
    open_engine,
    sha256_of,
    stage_graphs,
)
from vdmrt.engines.tensorrt.rtx.build_log import inspection_of

__all__ = ["BLOCK", "layer_line", "write_listed_engine"]

# Name, shape and type.
LoggedTensor = tuple[str, Sequence[int], str]


def _tensor(tensor: LoggedTensor) -> str:
    name, shape, kind = tensor
    dimensions = json.dumps(shape, separators=(",", ":"))
    return f"{{ Name: {name}, Dimensions: {dimensions}, Datatype: {kind}, Format: (Linear) Row major linear format }}"


def layer_line(
    name: str,
    kind: str,
    reads: Sequence[LoggedTensor],
    writes: Sequence[LoggedTensor],
    *,
    constants: Sequence[LoggedTensor] = (),
    nodes: Sequence[str] = (),
) -> str:
    """Return the line that the builder logs for a layer."""
    sides = {"Inputs": reads, "Constants": constants, "Outputs": writes}
    listed = ", ".join(f"{side}: [{', '.join(map(_tensor, tensors))}]" for side, tensors in sides.items())
    metadata = "".join(f"[ONNX Layer: {node}]" for node in nodes)
    return f"Name: {name}, LayerType: {kind}, {listed}, TacticName: {name}_0x1, StreamId: 0, Metadata: {metadata}"


# A product, a copy of the cache, an attention and a softmax outside of one, a wait, and a product in float32.
BLOCK = (
    layer_line(
        "__myl_FcAdd_myl0_1",
        "runtime_fusion",
        [("x", (512, 192), "Half")],
        [("qkv", (512, 576), "Half")],
        constants=[("bias", (1, 576), "Half"), ("blocks.0.attn.qkv.weight_constantHalf_myl0", (192, 576), "Half")],
    ),
    layer_line(
        "__myl_ReshTranConc_myl0_2",
        "kgen",
        [("past_k.0", (1, 384, 25, 32), "Half"), ("qkv", (512, 576), "Half")],
        [("keys", (384, 32, 33), "Half")],
    ),
    layer_line(
        "_gemm_mha_v2_myl0_3",
        "kgen",
        [
            ("queries", (384, 8, 32), "Half"),
            ("keys", (384, 32, 33), "Half"),
            ("mask", (1, 1, 8, 33), "Half"),
            ("values", (384, 33, 32), "Half"),
        ],
        [("attended", (384, 8, 32), "Half")],
    ),
    layer_line("__myl_MaxrSubExpSum_myl0_4", "kgen", [("s", (64, 64), "Float")], [("p", (64, 64), "Float")]),
    "Name: wait_5, LayerType: wait, Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 1, EventId: 2",
    layer_line(
        "node_linear_6_myl0_6",
        "gemm",
        [("p", (4096, 4096), "Float")],
        [("y", (4096, 4096), "Float")],
        constants=[("__mye1_dconst", (4096, 4096), "Float")],
    ),
)


def write_listed_engine(
    bundle: Bundle, lines: Sequence[str] | Mapping[str, Any] = BLOCK, *, key: str = "rtx-1", **manifest: Any
) -> Engine:
    """Write an FP16 engine without real plans.

    Args:
        bundle: The bundle to write to.
        lines: Log of every stage, or the content of the list of layers.
        key: Name of its folder.
        manifest: Fields of the manifest to replace.
    """
    folder = bundle.path / ENGINES_FOLDER / key
    folder.mkdir(parents=True)
    plans = {
        stage: Plan(
            Artifact(f"{stage}.plan", "0" * 64, 2_000_000), graph.file.sha256, None, graph.inputs, graph.outputs, 0, 1.5
        )
        for stage, graph in stage_graphs(bundle, FP16).items()
    }
    layers = lines if isinstance(lines, Mapping) else dict.fromkeys(plans, json.loads(inspection_of(lines)))
    listing = folder / LAYERS_FILE
    listing.write_text(json.dumps(layers))
    recorded = Artifact(LAYERS_FILE, sha256_of(listing), listing.stat().st_size)
    document = EngineManifest(key, "tensorrt-rtx", FP16, Machine(tensorrt_rtx="1.7.1"), plans, {}, layers=recorded)
    document = dataclasses.replace(document, **manifest)
    (folder / ENGINE_MANIFEST).write_text(json.dumps(encode(document)))
    return open_engine(folder)
