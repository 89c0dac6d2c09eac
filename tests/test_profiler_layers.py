"""Layer times from TensorRT's profiler, recorded for each release, grouped by transformer block."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from fake_cuda import FakeCuda
from host_function_backend import HostFunctionBackend
from tensorrt_engines import Machinery, clear_outputs, plan_of, tensorrt_machine, write_engine
from tensorrt_recorder import RELEASES

import vdmrt
from vdmrt.bundle import FP16, Graph, find_blocks, format_nbytes, open_bundle
from vdmrt.errors import BackendError, DeviceError
from vdmrt.profiler import Report, Settings, profile
from vdmrt.profiler.layers.layer import group_layers
from vdmrt.profiler.report.text import describe_report
from vdmrt.runtime import Model
from vdmrt.runtime.backends.layer_times import LayerTime
from vdmrt.runtime.backends.tensorrt.layers import find_nodes, read_layer_kinds

SKY = Path(__file__).parents[1] / "examples" / "sky" / "bundle"
STEPS = 2


@pytest.fixture(params=RELEASES)
def machinery(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machinery]:
    with tensorrt_machine(request.param, SKY, tmp_path, monkeypatch) as found:
        found.recorder.on_enqueue = lambda context, stream: clear_outputs(found, context, stream)
        # A millisecond each, ten in the first run, which must not count.
        found.recorder.layer_ms = lambda name, run: 10.0 if run == 1 else 1.0
        write_layers(found)
        yield found


def write_layers(machinery: Machinery) -> None:
    """Write plans with layers of three ONNX nodes each, named as in the release."""
    plans = {}
    for stage, graph in machinery.bundle.manifest.graphs[FP16].items():
        layers = fuse(node_names(machinery, graph), machinery.recorder.major)
        plans[stage] = plan_of(machinery.recorder, graph, layers=layers, name=stage)
    write_engine(machinery.bundle, machinery.recorder, plans=plans, key="layers", created="2026-11-22T00:00:00Z")


def fuse(nodes: list[str], major: int) -> list[dict[str, Any]]:
    parts = [nodes[first : first + 3] for first in range(0, len(nodes), 3)]
    return [
        {
            "name": " + ".join(part) if major < 10 else f"__myl_Fc_myl0_{number}",
            "kind": "PointWiseV2" if major < 10 else "kgen",
            "nodes": part,
            "inputs": [],
            "outputs": [],
        }
        for number, part in enumerate(parts)
    ]


def node_names(machinery: Machinery, graph: Graph) -> list[str]:
    loaded = onnx.load(str(machinery.bundle.locate(graph.file)), load_external_data=False)
    return [node.name for node in loaded.graph.node]


def profiled(machinery: Machinery) -> Report:
    settings = Settings(
        machinery.bundle.path, steps=STEPS, chunks=2, warmup=0, layers=True, decoding="off", roofline=False
    )
    with vdmrt.load(machinery.bundle.path, backend="tensorrt", precision="fp16", verify=False) as model:
        return profile(settings, model=model)


def test_every_layer_of_every_run_is_recorded_and_the_first_run_does_not_count(machinery: Machinery) -> None:
    report = profiled(machinery)

    for stage in ("denoise", "fill"):
        layers = [layer for layer in report.layers if layer.stage == stage]
        nodes = node_names(machinery, machinery.bundle.manifest.graphs[FP16][stage])
        assert len(layers) == -(-len(nodes) // 3)
        assert {layer.milliseconds for layer in layers} == {1.0}
        assert sum(layer.share for layer in layers) == pytest.approx(1.0)
    assert any("outside the captured CUDA graph" in note for note in report.notes)


def test_a_gpu_has_enqueue_times_and_device_memory(machinery: Machinery) -> None:
    report = profiled(machinery)

    environment = report.environment
    assert (environment.device, environment.gpu, environment.driver) == ("cuda:0", "vdmrt fake GPU", "CUDA 12.4")
    assert report.stages["enqueue"].count == report.stages["step"].count == 2 * STEPS
    assert report.memory.device_nbytes is not None and report.memory.device_used_nbytes is not None
    assert 0 < report.memory.device_nbytes <= report.memory.device_used_nbytes < 1 << 30
    assert f"whole GPU {format_nbytes(report.memory.device_used_nbytes)}" in describe_report(report)


def test_layers_are_in_the_blocks_of_their_nodes(machinery: Machinery) -> None:
    report = profiled(machinery)

    graph = machinery.bundle.manifest.graphs[FP16]["denoise"]
    blocks = find_blocks(machinery.bundle, graph)
    nodes = node_names(machinery, graph)
    found = [layer.block for layer in report.layers if layer.stage == "denoise"]
    # Layers with all three nodes in one block are unambiguous.
    parts = [{blocks[node] for node in nodes[first : first + 3]} for first in range(0, len(nodes), 3)]
    assert set(found) == {-1, 0, 1, 2, 3, 4, 5}
    assert all({block} == part for block, part in zip(found, parts, strict=True) if len(part) == 1)
    kind = "PointWiseV2" if machinery.recorder.major < 10 else "kgen"
    assert {layer.operator for layer in report.layers} == {kind}


def test_a_profiler_uses_separate_contexts_and_no_captured_graph(machinery: Machinery) -> None:
    captured: list[int] = []
    recorder = machinery.recorder
    recorder.before = lambda call: (
        captured.append(machinery.cuda.counts().get("cuStreamBeginCapture_v2", 0))
        if call.name == "report_to_profiler"
        else None
    )
    profiled(machinery)

    watched = {call.subject for call in recorder.named("profiler=")}
    assert watched == {call.subject for call in recorder.named("report_to_profiler")}
    assert {call.arguments["value"] for call in recorder.named("enqueue_emits_profile=")} == {False}
    runs = [call for call in recorder.named("execute_async_v3") if call.subject in watched]
    assert len(runs) == len(recorder.named("report_to_profiler"))
    # The model's lane captured its step once, before, and no layer was timed in a capture.
    assert set(captured) == {1}
    assert len(recorder.named("deserialize_cuda_engine")) == 4
    assert machinery.cuda.violations() == []


def test_a_context_is_released_before_its_profiler_and_nothing_leaks(machinery: Machinery) -> None:
    profiled(machinery)

    assert machinery.recorder.alive("IProfiler") == machinery.recorder.alive("IExecutionContext") == 0
    live = machinery.cuda.live()
    assert (live.allocations, live.pinned, live.streams, live.events, live.graph_execs) == (0, 0, 0, 0, 0)


def test_a_profiler_without_times_is_an_error(machinery: Machinery) -> None:
    machinery.recorder.fail("report_to_profiler", returns=False, log="Error Code 3: no times")

    with pytest.raises(DeviceError, match="report_to_profiler: Error Code 3: no times"):
        profiled(machinery)


def test_an_opaque_subgraph_has_no_block_and_is_noted(machinery: Machinery) -> None:
    machinery.recorder.fuse = True
    report = profiled(machinery)

    assert [(layer.stage, layer.block, layer.operator) for layer in report.layers] == [
        ("denoise", -1, "Myelin"),
        ("fill", -1, "Myelin"),
    ]
    assert any(note.startswith("2 layers are whole subgraphs without details from TensorRT") for note in report.notes)


@pytest.mark.parametrize(
    ("name", "nodes"),
    [
        ("node_a + node_b", ("node_a", "node_b")),
        ("PWN(node_silu, node_mul_3)", ("PWN", "node_silu", "node_mul_3")),
        ("{ForeignNode[node_a...blocks.0.b]}", ("ForeignNode", "node_a", "blocks.0.b")),
    ],
)
def test_nodes_are_found_in_the_names_of_layers(name: str, nodes: tuple[str, ...]) -> None:
    assert find_nodes(name) == nodes


def test_a_plan_with_names_only_has_no_kinds() -> None:
    assert read_layer_kinds('{"Layers": ["a", {"Name": "b", "LayerType": "gemm"}]}') == {"b": ("gemm", ())}


def test_a_layer_of_two_blocks_is_in_the_one_with_most_nodes_or_the_later() -> None:
    blocks = {"a": 0, "b": 0, "c": 1, "d": 1}

    def block(*nodes: str) -> int:
        (layer,) = group_layers("denoise", [LayerTime("x", "kgen", 1.0, nodes)], blocks)
        return layer.block

    assert (block("a", "b", "c"), block("a", "c"), block("z")) == (0, 1, -1)


def test_a_backend_without_a_profiler_is_refused_before_anything_is_measured(fake_cuda: FakeCuda) -> None:
    with (
        Model(open_bundle(SKY), HostFunctionBackend(), FP16) as model,
        pytest.raises(BackendError, match="layers can be timed on TensorRT and on ONNX Runtime's CPU provider"),
    ):
        profile(Settings(SKY, layers=True), model=model)
    gc.collect()  # the test double's calls and functions reference each other
