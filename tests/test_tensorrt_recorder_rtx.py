"""The recorder of TensorRT for RTX has the names of the installed bindings, and their answers."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from computing_recorder import let_compute
from tensorrt_engines import Tensors, machine_of, tensorrt_machine, write_engine
from tensorrt_recorder import RTX, Recorder, install, make_plan
from tensorrt_recorder.names import FOLDER

from vdmrt.bundle import FP16, find_engine, read_plan
from vdmrt.errors import EngineError
from vdmrt.runtime._core import cuda_device

SIDES: tuple[Any, Any] = ([("x", "float16", (2, 4))], [("y", "float32", (2, 4))])


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with install(RTX) as found:
        yield found


@pytest.fixture
def trt(recorder: Recorder) -> Any:
    return importlib.import_module("tensorrt_rtx")


def make_runtime(trt: Any, said: list[str] | None = None) -> Any:
    """Create a runtime whose logger appends each line to ``said``."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            if said is not None:
                said.append(f"{severity.name}: {msg}")

    return trt.Runtime(Logger())


def make_engine(recorder: Recorder, said: list[str] | None = None, **document: Any) -> Any:
    """Load a plan with the tensors of SIDES."""
    return make_runtime(recorder.module, said).deserialize_cuda_engine(make_plan(recorder, *SIDES, **document))


def make_context(engine: Any, cache: bytes = b"") -> tuple[Any, Any]:
    """Return a context whose tensors have addresses, and its runtime cache, read from bytes unless they are empty."""
    config = engine.create_runtime_config()
    kept = config.create_runtime_cache()
    assert not cache or kept.deserialize(cache)
    assert config.set_runtime_cache(kept)
    context = engine.create_execution_context(config)
    assert context.set_tensor_address("x", 256) and context.set_tensor_address("y", 512)
    return context, kept


def test_the_names_are_those_of_the_installed_bindings() -> None:
    # In a process of its own: signatures are missing where other libraries were imported first.
    source = "import tensorrt_rtx as t; from tensorrt_recorder.reading import read_bindings as r; print(end=r(t))"
    support = Path(__file__).parent / "support"
    done = subprocess.run([sys.executable, "-c", source], cwd=support, capture_output=True, text=True)

    assert done.stdout == (FOLDER / f"{RTX}.txt").read_text(), done.stderr


def test_the_module_is_replaced_inside_the_block_only() -> None:
    real = importlib.import_module("tensorrt_rtx")

    with install(RTX) as recorder, install("10.3") as other:
        assert importlib.import_module("tensorrt_rtx") is recorder.module
        assert importlib.import_module("tensorrt") is other.module
        assert importlib.util.find_spec("tensorrt_rtx") is not None
        assert recorder.module.__version__ == recorder.version == "1.7.1.116"
    assert importlib.import_module("tensorrt_rtx") is real
    assert "tensorrt" not in sys.modules


@pytest.mark.parametrize("name", ["Builder", "OnnxParser", "IBuilderConfig", "NetworkDefinitionCreationFlag"])
def test_it_builds_nothing(trt: Any, name: str) -> None:
    with pytest.raises(AttributeError, match=f"'tensorrt_rtx' has no attribute '{name}'"):
        getattr(trt, name)


def test_unknown_names_are_neither_read_nor_set(recorder: Recorder) -> None:
    engine = make_engine(recorder)
    context, cache = make_context(engine)

    for thing in (engine, context, cache, engine.create_runtime_config(), context.get_runtime_config()):
        with pytest.raises(AttributeError):
            _ = thing.no_such_name
        with pytest.raises(AttributeError, match="has no attribute 'no_such_name'"):
            thing.no_such_name = 1


@pytest.mark.parametrize(
    "call",
    [
        lambda trt, runtime, engine: trt.Runtime(None),
        lambda trt, runtime, engine: runtime.get_engine_validity("text"),
        lambda trt, runtime, engine: runtime.deserialize_cuda_engine(3),
        lambda trt, runtime, engine: engine.create_execution_context(3),
        lambda trt, runtime, engine: engine.create_runtime_config().set_runtime_cache(engine),
        lambda trt, runtime, engine: engine.create_execution_context().is_stream_capturable(None),
        lambda trt, runtime, engine: engine.create_execution_context().set_device_memory(memory=256),
        lambda trt, runtime, engine: engine.create_engine_inspector().get_engine_information("JSON"),
        lambda trt, runtime, engine: setattr(engine.create_runtime_config(), "cuda_graph_strategy", 1),
    ],
)
def test_arguments_have_the_types_of_the_bindings(recorder: Recorder, call: Any) -> None:
    runtime = make_runtime(recorder.module)

    with pytest.raises(TypeError, match="incompatible function arguments"):
        call(recorder.module, runtime, make_engine(recorder))


@pytest.mark.parametrize(
    ("capability", "targets", "validity", "diagnostics"),
    [
        ("8.9", [], "VALID", []),
        ("8.9", ["8.6", "8.9"], "VALID", []),
        ("8.6", ["8.9"], "INVALID", ["UNSUPPORTED_CC"]),
        ("12.2", [], "SUBOPTIMAL", []),
        ("12.2", ["12.0"], "INVALID", ["UNSUPPORTED_CC"]),
        ("7.5", [], "INVALID", ["UNSUPPORTED_CC"]),
        ("9.0", [], "INVALID", ["UNSUPPORTED_CC"]),
        ("10.0", [], "INVALID", ["UNSUPPORTED_CC"]),
    ],
)
def test_the_header_tells_which_gpus_a_plan_is_for(
    recorder: Recorder, trt: Any, capability: str, targets: list[str], validity: str, diagnostics: list[str]
) -> None:
    recorder.compute_capability = capability
    runtime = make_runtime(trt)
    header = memoryview(make_plan(recorder, *SIDES, targets=targets))[: runtime.engine_header_size]

    expected = sum(trt.EngineInvalidityDiagnostics.__members__[name].value for name in diagnostics)
    assert runtime.get_engine_validity(header) == (trt.EngineValidity.__members__[validity], expected)


def test_other_versions_and_other_files_are_invalid(recorder: Recorder, trt: Any) -> None:
    said: list[str] = []
    runtime = make_runtime(trt, said)
    older = make_plan(recorder, *SIDES, version="1.6.0.27")
    invalid, reasons = trt.EngineValidity.INVALID, trt.EngineInvalidityDiagnostics

    assert runtime.get_engine_validity(older) == (invalid, int(reasons.VERSION_MISMATCH))
    assert runtime.get_engine_validity(older[:63]) == (invalid, int(reasons.MALFORMED_ENGINE))
    assert runtime.get_engine_validity(b"PK" + older) == (invalid, int(reasons.MALFORMED_ENGINE))
    assert "version 1.6.0.27, but the current runtime is TensorRT-RTX version 1.7.1.116" in said[0]
    assert runtime.deserialize_cuda_engine(older) is None
    assert said[-1].startswith("ERROR: IRuntime::deserializeCudaEngine: Error Code 1: Serialization (The engine has")


def test_without_a_driver_a_plan_is_invalid_without_a_diagnostic(recorder: Recorder, trt: Any) -> None:
    """As the real library answers on a machine without a driver."""
    plan = make_plan(recorder, *SIDES)
    recorder.driver = False
    said: list[str] = []
    runtime = make_runtime(trt, said)

    found = runtime.get_engine_validity(plan)

    assert (found[0].name, found[1]) == ("INVALID", 0)
    assert said[0].startswith("INTERNAL_ERROR: Error reading CUDA GPU properties: ")
    assert runtime.deserialize_cuda_engine(plan) is None


def test_a_truncated_plan_has_a_valid_header_and_does_not_load(recorder: Recorder, trt: Any) -> None:
    said: list[str] = []
    runtime = make_runtime(trt, said)
    plan = make_plan(recorder, *SIDES)[:-1]

    assert runtime.get_engine_validity(plan) == (trt.EngineValidity.VALID, 0)
    assert runtime.deserialize_cuda_engine(plan) is None
    assert "blobSize == size" in said[0]


def test_a_refusal_can_be_arranged(recorder: Recorder, trt: Any) -> None:
    said: list[str] = []
    recorder.fail("deserialize_cuda_engine", log="Error Code 9: the architecture SM90 is not supported")
    recorder.fail("get_engine_validity", returns=(trt.EngineValidity.SUBOPTIMAL, 0))

    assert make_engine(recorder, said) is None
    assert said == ["ERROR: Error Code 9: the architecture SM90 is not supported"]
    assert make_runtime(trt).get_engine_validity(b"")[0] == trt.EngineValidity.SUBOPTIMAL


def test_a_second_logger_is_warned_of_while_the_first_lives(recorder: Recorder, trt: Any) -> None:
    said: list[str] = []
    first = make_runtime(trt)
    make_runtime(trt, said)

    assert len(said) == 1 and said[0].startswith("WARNING: The logger passed into createInferRuntime differs")
    del first
    make_runtime(trt, said)
    assert len(said) == 1


def test_contexts_have_the_memory_of_their_strategy(recorder: Recorder, trt: Any) -> None:
    said: list[str] = []
    engine = make_engine(recorder, said, scratch_nbytes=1024, flags=["REQUIRE_USER_ALLOCATION"])
    config = engine.create_runtime_config()

    assert engine.create_execution_context(config) is None
    assert "requires user allocation" in said[-1]
    config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
    context = engine.create_execution_context(config)
    context.set_tensor_address("x", 256)
    context.set_tensor_address("y", 512)
    assert not context.execute_async_v3(1)
    assert "no device memory" in said[-1]
    context.set_device_memory(4096, context.update_device_memory_size_for_shapes())
    assert context.execute_async_v3(1)


def test_a_configuration_keeps_its_choices(recorder: Recorder, trt: Any) -> None:
    config = make_engine(recorder).create_runtime_config()

    assert config.cuda_graph_strategy == trt.CudaGraphStrategy.DISABLED
    assert config.dynamic_shapes_kernel_specialization_strategy == trt.DynamicShapesKernelSpecializationStrategy.LAZY
    assert config.get_runtime_cache() is None
    config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    assert config.cuda_graph_strategy == trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE


def test_kernels_are_compiled_once_and_kept_in_the_cache(recorder: Recorder) -> None:
    engine = make_engine(recorder, name="denoise")
    context, cache = make_context(engine)
    empty = make_context(make_engine(recorder, name="none"))[1].serialize().nbytes
    created = cache.serialize().nbytes
    recorder.compiled.clear()

    assert context.execute_async_v3(1) and context.execute_async_v3(1)
    assert [kernel.rpartition(":")[0] for kernel in recorder.compiled] == ["denoise:run"]
    assert cache.serialize().nbytes > created > empty - 10
    again, _ = make_context(make_engine(recorder, name="denoise"), bytes(cache.serialize()))
    assert again.execute_async_v3(1)
    assert len(recorder.compiled) == 1
    assert cache.reset() and cache.serialize().nbytes < created


@pytest.mark.parametrize(
    ("changed", "accepted"),
    [
        ({}, True),
        ({"driver_version": (13, 2)}, True),
        ({"driver_version": (12, 9)}, False),
        ({"driver_version": (14, 0)}, False),
        ({"gpu": "another GPU"}, False),
        ({"compute_capability": "8.6"}, False),
        ({"has_context": lambda: False}, False),
    ],
)
def test_a_cache_of_another_environment_is_rejected(
    recorder: Recorder, changed: dict[str, Any], accepted: bool
) -> None:
    data = bytes(make_context(make_engine(recorder))[1].serialize())
    cache = make_engine(recorder).create_runtime_config().create_runtime_cache()
    for name, value in changed.items():
        setattr(recorder, name, value)

    assert cache.deserialize(data) is accepted
    assert (len(bytes(cache.serialize())) >= len(data)) is accepted
    assert cache.deserialize(b"something else") is False
    assert cache.deserialize(data[:-1]) is False


def test_a_first_run_is_not_captured(recorder: Recorder) -> None:
    said: list[str] = []
    context, _ = make_context(make_engine(recorder, said))
    recorder.is_capturing = lambda stream: stream == 7

    assert context.is_stream_capturable(7)
    assert not context.execute_async_v3(7)
    assert "which a capture forbids" in said[-1]
    assert context.execute_async_v3(1) and context.execute_async_v3(7)
    recorder.capturable = False
    assert not context.is_stream_capturable(7)


def test_the_inspector_lists_the_layers(recorder: Recorder, trt: Any) -> None:
    layers = [{"name": "product", "kind": "kgen", "inputs": [], "outputs": []}]
    inspector = make_engine(recorder, layers=layers).create_engine_inspector()

    assert '"Name": "product"' in inspector.get_engine_information(trt.LayerInformationFormat.JSON)


@pytest.mark.parametrize("targets", [(), ("8.6", "8.9")])
def test_engines_of_a_bundle_compute_its_graphs(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, targets: tuple[str, ...]
) -> None:
    with tensorrt_machine(RTX, tiny_bundle, tmp_path, monkeypatch) as machinery:
        let_compute(machinery.recorder, machinery.bundle, "fp16")
        engine = write_engine(machinery.bundle, machinery.recorder, key="new", targets=targets)
        plan = read_plan(engine, "denoise")
        runtime = make_runtime(machinery.recorder.module)
        context = runtime.deserialize_cuda_engine(plan).create_execution_context()
        with closing(cuda_device()) as device, closing(Tensors(device, machinery.denoise, 0)) as tensors:
            for spec in (*machinery.denoise.inputs, *machinery.denoise.outputs):
                filling = 0x3C if spec.dtype.startswith("float") else 0  # about 1 as float16
                ctypes.memset(tensors.addresses[spec.name], filling, spec.nbytes)
                assert context.set_tensor_address(spec.name, tensors.addresses[spec.name])
            device.activate()
            assert context.execute_async_v3(device.stream)
            device.synchronize()
            output = machinery.denoise.outputs[0]
            assert set(ctypes.string_at(tensors.addresses[output.name], output.nbytes)) != {0x3C}
        assert machinery.cuda.violations() == []
    assert machinery.recorder.compiled[-1].startswith("denoise:run:")


def test_a_bundles_engine_is_found_on_its_gpus_only(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tensorrt_machine(RTX, tiny_bundle, tmp_path, monkeypatch) as machinery:
        recorder, bundle = machinery.recorder, machinery.bundle
        assert find_engine(bundle, FP16, machine_of(recorder)).manifest.backend == "tensorrt-rtx"
        recorder.compute_capability = "9.0"
        with pytest.raises(EngineError, match=r"built for compute capability 8.0, .*, here is vdmrt fake GPU with 9.0"):
            find_engine(bundle, FP16, machine_of(recorder))
