"""The recorder's engines and contexts mind order, lifetime and memory as TensorRT's do."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
from tensorrt_calls import (
    SIDES,
    make_engine,
    make_logger,
    managed_context,
    tensorrt,
)
from tensorrt_recorder import RELEASES, Recorder, RecorderError, install, make_plan


@pytest.fixture(params=RELEASES)
def recorder(request: pytest.FixtureRequest) -> Iterator[Recorder]:
    with install(request.param) as found:
        yield found


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda plan: b"PK" + plan, "magicTag"),
        (lambda plan: plan[:-20], "blobSize"),
        (lambda plan: plan.replace(b'"version": "', b'"version": "1.'), "Version tag does not match"),
        (lambda plan: plan.replace(b'"9.0"', b'"8.6"'), "incompatible device"),
    ],
)
def test_foreign_plans_are_refused_with_a_log_line(recorder: Recorder, change: Any, said: str) -> None:
    heard: list[str] = []
    plan = make_plan(recorder, SIDES["inputs"], SIDES["outputs"])
    runtime = tensorrt().Runtime(make_logger(heard))

    assert runtime.deserialize_cuda_engine(change(plan)) is None
    assert said in heard[0]
    assert runtime.deserialize_cuda_engine(plan) is not None


def test_a_plan_with_host_code_wants_permission() -> None:
    with install("10.3") as recorder:
        plan = make_plan(recorder, SIDES["inputs"], SIDES["outputs"], flags=["VERSION_COMPATIBLE"])
        runtime = tensorrt().Runtime(make_logger([]))

        assert runtime.deserialize_cuda_engine(plan) is None
        runtime.engine_host_code_allowed = True
        assert runtime.deserialize_cuda_engine(plan) is not None


def test_engines_say_what_their_plan_says(recorder: Recorder) -> None:
    trt = tensorrt()
    engine = make_engine(recorder)

    assert [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)] == ["x", "y"]
    assert engine.get_tensor_dtype("x") == trt.DataType.HALF
    assert engine.get_tensor_mode("y") == trt.TensorIOMode.OUTPUT
    assert engine.get_tensor_location("x") == trt.TensorLocation.DEVICE
    assert engine.get_tensor_mode("z") == trt.TensorIOMode.NONE
    assert "invalid tensor name: z" in recorder.log[-1][1]


def test_an_enqueue_wants_every_address(recorder: Recorder) -> None:
    heard: list[str] = []
    context = make_engine(recorder, heard).create_execution_context()

    assert not context.execute_async_v3(1)
    assert "Address is not set for input tensor x" in heard[-1]
    assert context.set_tensor_address("x", 256)
    assert not context.execute_async_v3(1)
    assert "output tensor y" in heard[-1]
    assert context.set_tensor_address("y", 512)
    assert context.execute_async_v3(1)
    assert [call.arguments for call in recorder.named("execute_async_v3")] == [{"stream_handle": 1}] * 3


def test_wrong_names_and_crooked_addresses_are_refused(recorder: Recorder) -> None:
    heard: list[str] = []
    context = make_engine(recorder, heard).create_execution_context()

    assert not context.set_tensor_address("z", 256)
    assert "invalid tensor name: z" in heard[-1]
    assert not context.set_tensor_address("x", 192)
    assert "aligned on 256" in heard[-1]
    assert context.get_tensor_address("x") == 0


def test_a_context_without_device_memory_does_not_run(recorder: Recorder) -> None:
    heard: list[str] = []
    context = managed_context(make_engine(recorder, heard, scratch_nbytes=1024))
    context.set_tensor_address("x", 256)
    context.set_tensor_address("y", 512)

    assert not context.execute_async_v3(1)
    assert "no device memory" in heard[-1]
    if recorder.major < 10:
        context.device_memory = 4096
    else:
        context.set_device_memory(4096, 1000)
        assert "size >= 1024" in heard[-1]
        assert not context.execute_async_v3(1)
        context.set_device_memory(4096, 1024)
    assert context.execute_async_v3(1)


def test_crooked_device_memory_is_refused(recorder: Recorder) -> None:
    heard: list[str] = []
    context = managed_context(make_engine(recorder, heard, scratch_nbytes=1024))

    if recorder.major < 10:
        context.device_memory = 4096 + 128
    else:
        context.set_device_memory(4096 + 256, 1024)
    assert "byte boundary" in heard[-1]


def test_the_default_stream_is_warned_of(recorder: Recorder) -> None:
    heard: list[str] = []
    context = make_engine(recorder, heard).create_execution_context()
    context.set_tensor_address("x", 256)
    context.set_tensor_address("y", 512)

    assert context.execute_async_v3(0)
    assert heard[-1].startswith("WARNING: Using default stream")


def test_a_hook_sees_each_enqueue(recorder: Recorder) -> None:
    seen: list[tuple[int, int]] = []
    recorder.on_enqueue = lambda context, stream: seen.append((context.get_tensor_address("x"), stream))
    context = make_engine(recorder).create_execution_context()
    context.set_tensor_address("x", 256)
    context.set_tensor_address("y", 512)
    context.execute_async_v3(7)

    assert seen == [(256, 7)]


def test_children_keep_their_parents_alive_and_deaths_are_recorded(recorder: Recorder) -> None:
    engine = make_engine(recorder)
    context = engine.create_execution_context()
    del engine
    gc.collect()

    assert (recorder.alive("Runtime"), recorder.alive("ICudaEngine")) == (1, 1)
    del context
    gc.collect()
    assert [call.subject for call in recorder.named("__del__")] == ["IExecutionContext#1", "ICudaEngine#1", "Runtime#1"]


def test_the_nth_call_fails(recorder: Recorder) -> None:
    heard: list[str] = []
    context = make_engine(recorder, heard).create_execution_context()
    recorder.fail("IExecutionContext.set_tensor_address", at=2, returns=False, log="no more")
    recorder.fail("execute_async_v3", at=0, error=KeyboardInterrupt())

    assert context.set_tensor_address("x", 256)
    assert not context.set_tensor_address("y", 512)
    assert heard == ["ERROR: no more"]
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            context.execute_async_v3(1)


def test_calls_can_be_watched(recorder: Recorder) -> None:
    seen: list[str] = []
    recorder.before = lambda call: seen.append(f"{call.subject}.{call.name}")
    make_engine(recorder).create_execution_context()

    assert seen == [
        "ILogger#1.__init__",
        "Runtime#1.__init__",
        "Runtime#1.deserialize_cuda_engine",
        "ICudaEngine#1.create_execution_context",
    ]


def test_stripped_engines_run_after_a_refit_only() -> None:
    with install("10.16") as recorder:
        trt = tensorrt()
        logger = make_logger([])
        engine = make_engine(recorder, flags=["STRIP_PLAN", "REFIT_IDENTICAL"])
        context = engine.create_execution_context()
        context.set_tensor_address("x", 256)
        context.set_tensor_address("y", 512)

        assert not context.execute_async_v3(1)
        refitter = trt.Refitter(engine, logger)
        assert not refitter.refit_cuda_engine()
        assert not trt.OnnxParserRefitter(refitter, logger).refit_from_file("/nowhere.onnx")
        assert trt.OnnxParserRefitter(refitter, logger).refit_from_file(__file__)
        assert refitter.refit_cuda_engine()
        assert context.execute_async_v3(1)


def watch(context: Any, heard: list[tuple[str, float]], fails: bool = False) -> None:
    """Give a context a profiler."""
    trt = tensorrt()

    class Profiler(trt.IProfiler):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            if fails:
                raise ValueError("no")
            heard.append((layer_name, ms))

    context.profiler = Profiler()


def watched_context(recorder: Recorder, heard: list[tuple[str, float]], fails: bool = False) -> Any:
    """Return a context that can be enqueued, of an engine with two layers, with a profiler."""
    layers: list[dict[str, Any]] = [{"name": name, "kind": "kgen", "inputs": [], "outputs": []} for name in ("a", "b")]
    context = make_engine(recorder, layers=layers).create_execution_context()
    assert context.set_tensor_address("x", 256) and context.set_tensor_address("y", 512)
    watch(context, heard, fails)
    return context


def test_a_profiler_receives_the_given_times(recorder: Recorder) -> None:
    heard: list[tuple[str, float]] = []
    recorder.layer_ms = lambda name, run: {"a": 1.0, "b": 2.0}[name] * run
    context = watched_context(recorder, heard)

    assert context.enqueue_emits_profile
    assert not context.report_to_profiler()
    assert "reportToProfiler" in recorder.log[-1][1]
    assert context.execute_async_v3(1) and heard == [("a", 1.0), ("b", 2.0)]
    context.enqueue_emits_profile = False
    assert context.execute_async_v3(1) and len(heard) == 2
    assert context.report_to_profiler() and heard[2:] == [("a", 2.0), ("b", 4.0)]


def test_a_profiler_that_raises_ends_the_process(recorder: Recorder) -> None:
    context = watched_context(recorder, [], fails=True)

    with pytest.raises(RecorderError, match=r"report_layer_time\(\) raised ValueError"):
        context.execute_async_v3(1)


def test_only_a_profiler_is_a_profiler(recorder: Recorder) -> None:
    context = make_engine(recorder).create_execution_context()

    with pytest.raises(TypeError, match="IProfiler"):
        context.profiler = print
    context.profiler = None
