"""The strict recorder of TensorRT has a release's names and no other."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from tensorrt_calls import (
    make_engine,
    make_logger,
    tensorrt,
)
from tensorrt_recorder import RELEASES, Recorder, RecorderError, install


@pytest.fixture(params=RELEASES)
def recorder(request: pytest.FixtureRequest) -> Iterator[Recorder]:
    with install(request.param) as found:
        yield found


def test_the_module_is_there_inside_the_block_only(recorder: Recorder) -> None:
    assert tensorrt() is recorder.module
    assert tensorrt().__version__ == recorder.version
    assert importlib.util.find_spec("tensorrt") is not None


def test_what_was_there_comes_back() -> None:
    with install("8.5") as outer, install("11.4") as inner:
        assert outer is not inner
        assert sys.modules["tensorrt"] is inner.module

    assert "tensorrt" not in sys.modules


@pytest.mark.parametrize(
    ("path", "releases"),
    [
        ("BuilderFlag.FP16", {"8.5", "10.3", "10.16"}),
        ("BuilderFlag.VERSION_COMPATIBLE", {"10.3", "10.16", "11.4"}),
        ("NetworkDefinitionCreationFlag.EXPLICIT_BATCH", {"8.5", "10.3", "10.16"}),
        ("HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY", {"10.16", "11.4"}),
        ("ICudaEngine.create_execution_context_without_device_memory", {"8.5", "10.3", "10.16"}),
        ("ICudaEngine.device_memory_size", {"8.5", "10.3", "10.16"}),
        ("ICudaEngine.device_memory_size_v2", {"10.3", "10.16", "11.4"}),
        ("IExecutionContext.set_device_memory", {"10.3", "10.16", "11.4"}),
        ("IExecutionContext.execute_async_v2", {"8.5"}),
        ("IExecutionContext.execute_async_v3", set(RELEASES)),
        ("IProgressMonitor", {"10.3", "10.16", "11.4"}),
        ("IBuilderConfig.builder_optimization_level", {"10.3", "10.16", "11.4"}),
        ("IInt8Calibrator", {"8.5", "10.3", "10.16"}),
        ("ILayer.precision", {"8.5", "10.3", "10.16"}),
        ("TacticSource.CUDNN", {"8.5", "10.3", "10.16"}),
    ],
)
def test_a_name_is_there_in_its_releases_only(path: str, releases: set[str]) -> None:
    found = set()
    for release in RELEASES:
        with install(release) as recorder:
            owner: Any = recorder.module
            for name in path.split("."):
                owner = getattr(owner, name, None)
            if owner is not None:
                found.add(release)

    assert found == releases


def test_unknown_names_are_neither_read_nor_set(recorder: Recorder) -> None:
    trt = tensorrt()
    engine = make_engine(recorder)
    context = engine.create_execution_context()

    for thing in (
        trt,
        trt.DataType,
        trt.DataType.FLOAT,
        trt.ICudaEngine,
        engine,
        context,
        trt.Builder(make_logger([])),
    ):
        with pytest.raises(AttributeError):
            _ = thing.no_such_name
    for thing in (trt.DataType.FLOAT, engine, context, trt.ICudaEngine):
        with pytest.raises(AttributeError):
            thing.no_such_name = 1
    with pytest.raises(AttributeError):
        engine.num_io_tensors = 1
    with pytest.raises(AttributeError):
        _ = context.device_memory


def test_every_call_has_the_releases_arguments(recorder: Recorder) -> None:
    context = make_engine(recorder).create_execution_context()

    for arguments, named in (((), {}), ((1, 2, 3), {}), (("x",), {"stream": 1}), ((), {"stream_handle": "x"})):
        with pytest.raises(TypeError, match="incompatible function arguments"):
            context.execute_async_v3(*arguments, **named)
    with pytest.raises(TypeError, match="incompatible function arguments"):
        context.set_tensor_address("x", 1.5)
    assert context.set_tensor_address(name="x", memory=256)


def test_enumerations_are_no_ints(recorder: Recorder) -> None:
    trt = tensorrt()

    with pytest.raises(TypeError):
        _ = 1 << trt.BuilderFlag.TF32
    with pytest.raises(TypeError):
        _ = trt.DataType.FLOAT < trt.DataType.HALF
    assert trt.DataType.FLOAT != 0
    assert trt.float16 == trt.DataType.HALF
    assert trt.ILogger.WARNING < trt.ILogger.INFO
    assert str(trt.DataType.HALF) == "DataType.HALF"
    assert 1 << int(trt.BuilderFlag.TF32)
    assert trt.DataType.HALF.itemsize == 2


def test_dims_compare_with_lists_and_tuples_only(recorder: Recorder) -> None:
    shape = make_engine(recorder).get_tensor_shape("x")

    assert tuple(shape) == (2, 4)
    assert shape == (2, 4)
    assert len(shape) == 2
    with pytest.raises(TypeError):
        _ = shape == shape.__class__((2, 4))


def test_what_has_no_constructor_is_not_made(recorder: Recorder) -> None:
    trt = tensorrt()

    for name in ("ICudaEngine", "IExecutionContext", "INetworkDefinition", "IBuilderConfig", "ITensor"):
        with pytest.raises(TypeError, match="No constructor"):
            getattr(trt, name)()
    with pytest.raises(TypeError, match="incompatible"):
        trt.Builder()


def test_a_logger_must_initialize_its_base(recorder: Recorder) -> None:
    trt = tensorrt()

    class Careless(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self.lines = 0

    with pytest.raises(TypeError, match="must be called when overriding __init__"):
        Careless()


def test_a_logger_that_raises_ends_the_process(recorder: Recorder) -> None:
    trt = tensorrt()

    class Loud(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            raise ValueError(msg)

    with pytest.raises(RecorderError, match="ends the process"):
        trt.Runtime(Loud()).deserialize_cuda_engine(b"nothing")


def test_without_a_driver_the_factories_fail(recorder: Recorder) -> None:
    trt = tensorrt()
    recorder.driver = False

    with pytest.raises(TypeError, match="factory function returned nullptr"):
        trt.Builder(make_logger([]))
    expected = RecorderError if recorder.release == "11.4" else TypeError
    with pytest.raises(expected):
        trt.Runtime(make_logger([]))


def test_what_is_not_modeled_says_so(recorder: Recorder) -> None:
    engine = make_engine(recorder)

    with pytest.raises(NotImplementedError, match="does not model"):
        engine.get_tensor_vectorized_dim("x")
