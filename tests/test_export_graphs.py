"""The exported graphs: names, types, operators, shared weights, and copies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from tiny import TINY
from torch import nn

from vdmrt.bundle import FP16, FP32, BundleWriter, Geometry, Graph, Role, TensorSpec, open_bundle
from vdmrt.errors import ExportError
from vdmrt.export import CausalTransformer
from vdmrt.export.costs import find_cache_copies
from vdmrt.export.onnx_graph import Exportable, WeightsFile, export_graphs
from vdmrt.export.operators import check_operators


def load_graphs(bundle: Path) -> Iterator[tuple[str, Graph, onnx.ModelProto]]:
    opened = open_bundle(bundle)
    for precision, graphs in opened.manifest.graphs.items():
        for stage, graph in graphs.items():
            model = onnx.load(opened.locate(graph.file), load_external_data=False)
            yield f"{stage}.{precision}", graph, model


def test_graphs_have_the_documented_tensors(tiny_bundle: Path) -> None:
    g = open_bundle(tiny_bundle).manifest.geometry
    latent = (g.requests, g.chunk_frames, 4, 4, 6)

    graphs = open_bundle(tiny_bundle).manifest.graphs[FP16]
    denoise = {spec.name: spec for spec in graphs["denoise"].inputs}
    assert {name for name in denoise if "." not in name} == {
        "latent", "positions", "slot_valid", "step", "timesteps", "coefficients", "noise", "history",
    }  # fmt: skip
    assert denoise["latent"] == TensorSpec("latent", "float32", latent, Role.LATENT)
    assert denoise["noise"].shape == (g.requests, g.max_steps + 1, *latent[1:])
    past = (g.rows, 6 * g.heads, g.slots, g.head_size)
    assert denoise["past_k.1"] == TensorSpec("past_k.1", "float16", past, Role.PAST_KEY, layer=1)
    assert denoise["context_v.0"].shape == (g.rows, g.heads, g.context_frames * 6, g.head_size)
    fill_in = {spec.name for spec in graphs["fill"].inputs}
    assert "past_k.0" in fill_in and "past_k.1" not in fill_in and "context_index" in fill_in
    assert {spec.name for spec in graphs["fill"].outputs} >= {"present_k.1", "present_v.1", "context_k.1"}
    assert [spec.name for spec in graphs["denoise"].outputs] == ["next_latent", "next_step", "next_history"]


def test_text_guidance_and_determinism_show_in_the_table(text_bundle: Path) -> None:
    names = {spec.name for spec in open_bundle(text_bundle).manifest.graphs[FP32]["denoise"].inputs}

    assert {"text", "text_mask", "guidance"} <= names
    assert "noise" not in names and not any(name.startswith("context") for name in names)


def test_weights_are_stored_once_under_their_own_names(tiny_bundle: Path) -> None:
    weights = [graph.weights for _, graph, _ in load_graphs(tiny_bundle) if graph.file.file.endswith("fp32.onnx")]
    offsets: dict[str, set[str]] = {}
    for label, _, model in load_graphs(tiny_bundle):
        for initializer in model.graph.initializer:
            entries = {entry.key: entry.value for entry in initializer.external_data}
            if label.endswith("fp32") and entries:
                offsets.setdefault(initializer.name, set()).add(entries["offset"])

    assert len(set(weights)) == 1
    assert {"blocks.0.attn_temp.qkv.weight", "blocks.1.mlp.fc1.weight", "t_block.1.weight"} <= set(offsets)
    assert all(len(places) == 1 for places in offsets.values())
    assert all(int(place) % 64 == 0 for places in offsets.values() for place in places)


def test_graphs_contain_no_trace_of_the_exporting_machine(tiny_bundle: Path) -> None:
    for _, _, model in load_graphs(tiny_bundle):
        text = model.SerializeToString()
        assert b".py" not in text and b"stack_trace" not in text
        assert all(not node.metadata_props and not node.doc_string for node in model.graph.node)


def test_no_cast_is_between_the_products_of_an_attention(tiny_bundle: Path) -> None:
    for label, _, model in load_graphs(tiny_bundle):
        graph = inlined(model)
        softmaxes = [node for node in graph if node.op_type == "Softmax"]
        assert len(softmaxes) >= 5, label
        for softmax in softmaxes:
            wanted = ir.DataType.FLOAT16 if label.endswith("fp16") else ir.DataType.FLOAT
            assert softmax.outputs[0].dtype == wanted
            assert {"MatMul"} <= between_products(softmax) and "Cast" not in between_products(softmax), label


def inlined(model: onnx.ModelProto) -> ir.Graph:
    """Return the graph with inlined functions, and the type of every tensor."""
    whole = onnx.shape_inference.infer_shapes(onnx.inliner.inline_local_functions(model))
    return ir.serde.deserialize_model(whole).graph


def test_an_inserted_cast_between_products_is_found() -> None:
    graph = onnx.parser.parse_graph(
        "g (float16[1,2,3,4] q, float16[1,2,4,5] k, float16[1,2,5,4] v) => (float16[1,2,3,4] y) {"
        "s = MatMul(q, k) p = Softmax(s) w = Cast<to = 1>(p) x = Cast<to = 10>(w) y = MatMul(x, v) }"
    )
    softmax = next(node for node in ir.serde.deserialize_graph(graph) if node.op_type == "Softmax")

    assert between_products(softmax) == {"MatMul", "Cast"}


def between_products(softmax: ir.Node) -> set[str]:
    """Return the operators from the scores' product to the values' product, inclusive."""
    return _walk(softmax, _producers) | _walk(softmax, _users)


def _walk(node: ir.Node, neighbors: Callable[[ir.Node], list[ir.Node]]) -> set[str]:
    found = {near.op_type for near in neighbors(node)}
    for near in neighbors(node):
        if near.op_type != "MatMul":
            found |= _walk(near, neighbors)
    return found


def _users(node: ir.Node) -> list[ir.Node]:
    return [user for out in node.outputs for user, _ in out.uses()]


def _producers(node: ir.Node) -> list[ir.Node]:
    """Return the producer of the scores; the mask, shared by all heads, is computed in float32 and cast before."""
    values = [value for value in node.inputs if value is not None and value.producer() is not None]
    scores = [value for value in values if value.shape is None or len(value.shape) < 4 or value.shape[1] != 1]
    return [producer for producer in (value.producer() for value in scores) if producer is not None]


def test_fp16_graphs_keep_their_float32_islands(tiny_bundle: Path) -> None:
    model = next(model for label, _, model in load_graphs(tiny_bundle) if label == "denoise.fp16")
    types = {initializer.name: initializer.data_type for initializer in model.graph.initializer}

    halves = {name for name, kind in types.items() if kind == onnx.TensorProto.FLOAT16 and name.endswith("weight")}
    assert halves and all(name.startswith("blocks.") for name in halves)
    for name in ("t_block.1.weight", "final_layer.linear.weight", "blocks.0.scale_shift_table", "pos_embed"):
        assert types[name] == onnx.TensorProto.FLOAT
    assert types["blocks.0.attn_temp_pre_merge.weight"] == onnx.TensorProto.FLOAT
    for node in inlined(model):
        if node.op_type == "LayerNormalization":
            assert node.outputs[0].dtype == ir.DataType.FLOAT and node.attributes.get_int("stash_type", 1) == 1


def test_denoising_copies_no_cache(tiny_bundle: Path) -> None:
    for label, graph, _ in load_graphs(tiny_bundle):
        assert graph.cache_copies == (), label


def test_onnx_runtime_reads_the_cache_in_products_only(tiny_bundle: Path, tmp_path: Path) -> None:
    """ONNX Runtime's optimized graph has no Transpose of the cache."""
    opened = open_bundle(tiny_bundle)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    graph = opened.manifest.graphs[FP32]["denoise"]
    onnxruntime.InferenceSession(opened.locate(graph.file), options, providers=["CPUExecutionProvider"])
    optimized = onnx.load(tmp_path / "optimized.onnx", load_external_data=False)

    readers = {node.op_type for node in optimized.graph.node if any(name.startswith("past_") for name in node.input)}
    assert readers == {"MatMul", "FusedMatMul"}


def test_a_concat_of_the_cache_would_be_listed() -> None:
    graph = ir.serde.deserialize_graph(
        onnx.parser.parse_graph(
            "g (float[1,2,3,4] past_k, float[1,2,1,4] k, float[1,2,3,4] past_v) => (float[1,2,4,4] y, float[1,2,4,3] z)"
            " <float[1,2,4,4] y> { y = Concat<axis = 2>(past_k, k) z = Transpose<perm = [0, 1, 3, 2]>(past_v) }"
        )
    )

    inputs = (
        TensorSpec("past_k", "float32", (1, 2, 3, 4), Role.PAST_KEY, layer=0),
        TensorSpec("k", "float32", (1, 2, 1, 4), Role.HISTORY),
        TensorSpec("past_v", "float32", (1, 2, 3, 4), Role.PAST_VALUE, layer=0),
    )

    assert [(copy.operator, copy.tensor) for copy in find_cache_copies(graph, inputs)] == [
        ("Concat", "past_k"),
        ("Transpose", "past_v"),
    ]


def test_parsers_support_the_opsets_and_operators(tiny_bundle: Path) -> None:
    for _, _, model in load_graphs(tiny_bundle):
        whole = onnx.inliner.inline_local_functions(model)
        assert [(entry.domain, entry.version) for entry in whole.opset_import if entry.domain == ""] == [("", 18)]
        for node in whole.graph.node:
            schema = onnx.defs.get_schema(node.op_type, 18)
            unchanged = schema.since_version <= 16 or node.op_type in ("LayerNormalization", "Split")
            assert unchanged, f"{node.op_type} changed after opset 16"


def test_flops_equal_a_count_for_the_transformer(tiny_bundle: Path) -> None:
    manifest = open_bundle(tiny_bundle).manifest
    g, width = manifest.geometry, manifest.geometry.heads * manifest.geometry.head_size
    tokens = g.rows * g.chunk_frames * g.tokens_per_frame
    # attn 4C², attn_cf q and proj 2C², attn_temp 4C², mlp 8C²; then the products of the attentions.
    linears = 2 * tokens * 18 * width * width
    keys = g.tokens_per_frame + g.context_frames * g.tokens_per_frame + g.slots + g.chunk_frames
    attention = 2 * 2 * tokens * keys * width
    blocks = g.layers * (linears + attention)

    found = manifest.graphs[FP32]["denoise"].flops
    assert blocks < found < 1.2 * blocks


class Refused(Exportable):
    """A module with an operator that is not in the table."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs = (TensorSpec("x", "float32", (2, 3), Role.LATENT),)
        self.outputs = (TensorSpec("y", "float32", (2, 3), Role.PICTURES),)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.erf(x)


def test_an_operator_outside_the_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "graphs").mkdir()

    with pytest.raises(ExportError, match=r"ai.onnx.Erf is not supported by the parser of TensorRT 8.5"):
        export_graphs({"bad": Refused()}, BundleWriter(tmp_path), "fp32", lambda stage: None)


def node_of(operator: str, dtype: ir.DataType, **attributes: int) -> ir.Node:
    value = ir.Value(name="x", type=ir.TensorType(dtype), shape=ir.Shape([2, 3]))
    return ir.node(operator, [value], attributes=attributes, name="it")


@pytest.mark.parametrize(
    ("node", "sentence"),
    [
        (node_of("Clip", ir.DataType.INT32), "node 'it': Clip reads int32; the parser .* accepts float16, float32"),
        (node_of("ReduceMean", ir.DataType.FLOAT), r"'it' \(ReduceMean\) changed in opset 18, after 16"),
        (node_of("Split", ir.DataType.FLOAT, num_outputs=3), r"'it' \(Split\) has num_outputs, which opset 16 lacks"),
    ],
)
def test_a_node_with_another_meaning_in_the_oldest_parser_is_refused(node: ir.Node, sentence: str) -> None:
    with pytest.raises(ExportError, match=sentence):
        check_operators([node])


def test_negative_integers_pass_in_export_as_in_lowering() -> None:
    check_operators([node_of("Neg", ir.DataType.INT32)])


def test_only_weights_of_the_blocks_are_half_precision() -> None:
    model = CausalTransformer(TINY).use_half_weights()

    halves = {name for name, module in model.named_modules() if is_half(module)}
    assert halves and all(name.startswith("blocks.") for name in halves)
    assert "blocks.0.attn_temp_pre_merge" not in halves


def is_half(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) and module.weight.dtype == torch.float16


def test_cache_elements_are_exactly_2lkbsc(tiny_bundle: Path) -> None:
    g: Geometry = open_bundle(tiny_bundle).manifest.geometry

    assert g.cache_elements == 2 * 2 * 7 * 2 * 6 * 32
    past = [s for s in open_bundle(tiny_bundle).manifest.graphs[FP32]["denoise"].inputs if s.name.startswith("past")]
    assert sum(int(np.prod(spec.shape)) for spec in past) == g.cache_elements


def test_a_full_disk_is_reported_as_the_reason() -> None:
    weights = WeightsFile(Path("/dev/full"))

    with pytest.raises(OSError, match="No space left on device"):
        weights.store(ir.Tensor(np.zeros(200_000, np.float32)), "blocks.0.weight")
