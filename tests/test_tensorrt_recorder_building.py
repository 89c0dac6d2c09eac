"""The recorder's parser and builder refuse, wait and report as TensorRT's do."""

from __future__ import annotations

import gc
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import onnx.parser
import pytest
from tensorrt_calls import (
    build,
    graph_bytes,
    layers_of,
    make_logger,
    parse,
    tensorrt,
)
from tensorrt_recorder import RELEASES, Recorder, RecorderError, install


@pytest.fixture(params=RELEASES)
def recorder(request: pytest.FixtureRequest) -> Iterator[Recorder]:
    with install(request.param) as found:
        yield found


def test_a_plan_says_what_was_parsed(recorder: Recorder) -> None:
    trt = tensorrt()
    plan = build()
    engine = trt.Runtime(make_logger([])).deserialize_cuda_engine(plan)

    assert plan.nbytes > 100
    assert not hasattr(plan, "decode")
    with pytest.raises(TypeError):
        len(plan)
    assert bytes(plan) == bytes(memoryview(plan))
    assert [engine.get_tensor_name(index) for index in range(2)] == ["x", "y"]
    assert engine.get_tensor_dtype("y") == trt.DataType.FLOAT
    assert engine.num_layers == 3


def test_the_inspector_spells_types_as_the_release_does(recorder: Recorder) -> None:
    def ask_half(trt: Any, config: Any) -> None:
        if recorder.major < 10:
            config.set_flag(trt.BuilderFlag.FP16)

    engine = tensorrt().Runtime(make_logger([])).deserialize_cuda_engine(build(ask_half))
    product = layers_of(engine)["product"]

    long = recorder.major < 10
    assert product["Outputs"][0]["Format/Datatype"] == ("Row major linear FP16 format" if long else "Half")
    assert product["LayerType"] == ("MatrixMultiply" if long else "gemm")
    assert ("Metadata" in product) is not long


@pytest.mark.parametrize("release", ["8.5", "10.3", "10.16"])
def test_weakly_typed_networks_become_float32_without_a_flag(release: str) -> None:
    with install(release):
        flags = 1 << int(tensorrt().NetworkDefinitionCreationFlag.EXPLICIT_BATCH)
        engine = tensorrt().Runtime(make_logger([])).deserialize_cuda_engine(build(flags=flags))

        assert "F" in layers_of(engine)["product"]["Outputs"][0]["Format/Datatype"]
        assert "FP16" not in layers_of(engine)["product"]["Outputs"][0]["Format/Datatype"]
        assert "Half" not in layers_of(engine)["product"]["Outputs"][0]["Format/Datatype"]


def test_precision_constraints_hold_where_they_are_obeyed() -> None:
    with install("8.5"):
        trt = tensorrt()
        builder, network, parser, _ = parse(make_logger([]), graph_bytes())
        config = builder.create_builder_config()
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        config.set_flag(trt.BuilderFlag.FP16)
        config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
        curve = next(layer for layer in (network.get_layer(i) for i in range(len(network))) if layer.name == "curve")
        curve.precision = trt.float32
        curve.set_output_type(0, trt.float32)
        engine = trt.Runtime(make_logger([])).deserialize_cuda_engine(builder.build_serialized_network(network, config))
        found = {name: layer["Outputs"][0]["Format/Datatype"] for name, layer in layers_of(engine).items()}

        assert curve.type == trt.LayerType.UNARY
        assert curve.get_output(0).dtype == trt.DataType.HALF
        assert found["curve"] == "Row major linear FP32"
        assert found["product"] == "Row major linear FP16 format"
        assert parser.num_errors == 0


def test_layers_can_silently_become_another_type(recorder: Recorder) -> None:
    recorder.layer_type = lambda operator, dtype: "float32"
    engine = tensorrt().Runtime(make_logger([])).deserialize_cuda_engine(build())

    assert "F" in layers_of(engine)["product"]["Outputs"][0]["Format/Datatype"]
    assert "Half" not in json.dumps(layers_of(engine)["product"]["Outputs"])


def test_a_transformer_may_be_one_opaque_layer(recorder: Recorder) -> None:
    recorder.fuse = True
    engine = tensorrt().Runtime(make_logger([])).deserialize_cuda_engine(build())

    assert list(layers_of(engine)) == ["{ForeignNode[product...widen]}"]


def test_without_detailed_verbosity_the_inspector_says_names_only(recorder: Recorder) -> None:
    def be_brief(trt: Any, config: Any) -> None:
        config.profiling_verbosity = trt.ProfilingVerbosity.LAYER_NAMES_ONLY

    trt = tensorrt()
    engine = trt.Runtime(make_logger([])).deserialize_cuda_engine(build(be_brief))
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)

    assert json.loads(text)["Layers"] == ["product", "curve", "widen"]


def test_a_missing_operator_is_named_with_its_node(recorder: Recorder) -> None:
    recorder.unsupported = {"Erf"}
    *_, parser, parsed = parse(make_logger([]), graph_bytes())
    error = parser.get_error(0)

    assert not parsed
    assert parser.num_errors == 1
    assert (error.node(), error.code().name) == (1, "UNSUPPORTED_NODE")
    assert "Erf" in error.desc()
    assert not parser.supports_operator("Erf")
    if recorder.major >= 10:
        assert (error.node_name(), error.node_operator()) == ("curve", "Erf")


def test_8_5_lacks_layer_normalization() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    tiny (float[2,4] x, float[4] w) => (float[2,4] y) { y = LayerNormalization (x, w) }
    """
    parsed = {}
    for release in RELEASES:
        with install(release):
            parsed[release] = parse(make_logger([]), graph_bytes(text))[-1]

    assert parsed == {"8.5": False, "10.3": True, "10.16": True, "11.4": True}


def test_8_5_wants_an_explicit_batch() -> None:
    with install("8.5"):
        *_, parser, parsed = parse(make_logger([]), graph_bytes(), flags=0)

        assert not parsed
        assert "explicit batch" in parser.get_error(0).desc()


def test_foreign_flags_make_no_network(recorder: Recorder) -> None:
    heard: list[str] = []

    assert tensorrt().Builder(make_logger(heard)).create_network(1 << 20) is None
    assert "unknown flags" in heard[0]


def test_weights_must_lie_beside_the_graph(recorder: Recorder, tmp_path: Path) -> None:
    model = onnx.load_from_string(graph_bytes())
    weights = model.graph.initializer[0]
    weights.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weights), weights.name))
    path = tmp_path / "graph.onnx"
    onnx.save_model(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    builder, network, parser, _ = parse(make_logger([]), b"")

    assert parser.parse_from_file(str(path))
    (tmp_path / "weights.bin").unlink()
    parser.clear_errors()
    assert not parser.parse_from_file(str(path))
    assert "weights.bin" in parser.get_error(0).desc()
    with pytest.raises(TypeError):
        parser.parse_from_file(path)
    assert network.builder is builder if recorder.major >= 10 else True


def test_the_parser_must_live_until_the_build(recorder: Recorder) -> None:
    builder, network, parser, _ = parse(make_logger([]), graph_bytes())
    config = builder.create_builder_config()
    del parser
    gc.collect()

    with pytest.raises(RecorderError, match="the parser died"):
        builder.build_serialized_network(network, config)


def test_too_little_workspace_builds_nothing(recorder: Recorder) -> None:
    recorder.workspace_nbytes = 1 << 20

    def limit(trt: Any, config: Any) -> None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 1 << 10)

    assert build(limit) is None
    assert "Could not find any implementation" in recorder.log[-1][1]
    assert build() is not None


def test_members_of_another_enumeration_are_refused(recorder: Recorder) -> None:
    trt = tensorrt()
    config = trt.Builder(make_logger([])).create_builder_config()

    with pytest.raises(TypeError):
        config.set_flag(trt.DataType.FLOAT)
    with pytest.raises(TypeError):
        config.set_memory_pool_limit(trt.BuilderFlag.TF32, 1)


def test_a_timing_cache_comes_back(recorder: Recorder) -> None:
    saved: list[bytes] = []

    def start(trt: Any, config: Any) -> None:
        cache = config.create_timing_cache(saved[0] if saved else b"")
        assert config.set_timing_cache(cache, False)
        if saved and hasattr(trt.BuilderFlag, "ERROR_ON_TIMING_CACHE_MISS"):
            config.set_flag(trt.BuilderFlag.ERROR_ON_TIMING_CACHE_MISS)
        kept.append(config)

    kept: list[Any] = []
    build(start)
    saved.append(bytes(kept[0].get_timing_cache().serialize()))
    assert build(start) is not None
    recorder.gpu = "Another GPU"
    config = tensorrt().Builder(make_logger([])).create_builder_config()
    assert not config.set_timing_cache(config.create_timing_cache(saved[0]), False)
    assert config.set_timing_cache(config.create_timing_cache(saved[0]), True)
    assert config.create_timing_cache(b"something else") is None


def test_a_progress_monitor_is_called_and_cancels() -> None:
    for release in ("10.3", "10.16", "11.4"):
        with install(release, build_steps=5) as recorder:
            trt = tensorrt()

            class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
                def __init__(self, last: int) -> None:
                    super().__init__()
                    self.last = last
                    self.heard: list[str] = []

                def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
                    self.heard.append(f"start {num_steps}")

                def step_complete(self, phase_name: str, step: int) -> bool:
                    self.heard.append(f"step {step}")
                    return step < self.last

                def phase_finish(self, phase_name: str) -> None:
                    self.heard.append("finish")

            patient, hasty = Monitor(9), Monitor(1)

            assert build(lambda _, config, m=patient: setattr(config, "progress_monitor", m)) is not None
            assert build(lambda _, config, m=hasty: setattr(config, "progress_monitor", m)) is None
            assert patient.heard == ["start 5", *(f"step {step}" for step in range(5)), "finish"]
            assert hasty.heard == ["start 5", "step 0", "step 1", "finish"]
            assert "cancelled" in recorder.log[-1][1]


def test_a_build_takes_its_time_and_sees_no_signal() -> None:
    with install("8.5", build_seconds=0.4):
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            build()

        assert time.monotonic() - began >= 0.4
