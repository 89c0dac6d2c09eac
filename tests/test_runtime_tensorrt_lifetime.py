"""TensorRT's objects die in order, in time, and whatever fails before."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_cuda import Code
from tensorrt_engines import Machinery, Tensors, source_of, tensorrt_machine
from tensorrt_recorder import RELEASES, Recorder

from vdmrt.bundle import Graph, Stage
from vdmrt.errors import VdmrtError
from vdmrt.runtime.backends.tensorrt.backend import TensorRtBackend

OWNED = ("Runtime", "ICudaEngine", "IExecutionContext")


@pytest.fixture(params=RELEASES)
def machinery(
    request: pytest.FixtureRequest, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Machinery]:
    with tensorrt_machine(request.param, tiny_bundle, tmp_path, monkeypatch) as found:
        yield found


def run_once(machinery: Machinery, enqueues: int = 2) -> None:
    """Load, run and close everything, whatever fails."""
    decoder = machinery.bundle.manifest.components[Stage.VAE_DECODE]
    with contextlib.ExitStack() as stack:
        backend = TensorRtBackend()
        stack.callback(backend.close)
        program = backend.load(source_of(machinery, Stage.VAE_DECODE))
        device = backend.open_device()
        stack.callback(device.close)
        tensors = Tensors(device, decoder, program.scratch_nbytes)
        stack.callback(tensors.close)
        stack.callback(program.close)
        call = program.bind(device, tensors.addresses, tensors.addresses["scratch"])
        for _ in range(enqueues):
            call.enqueue()
        device.synchronize()


def anywhere(graph: Graph) -> dict[str, int]:
    """Return an aligned address for each tensor, of no memory."""
    return {spec.name: 0x10000 for spec in (*graph.inputs, *graph.outputs)}


def leaks(machinery: Machinery) -> dict[str, int]:
    gc.collect()
    live = machinery.cuda.live()
    driver = {"allocations": live.allocations, "streams": live.streams, "contexts": live.contexts}
    return {name: count for name, count in driver.items() if count} | {
        owner: machinery.recorder.alive(owner) for owner in OWNED if machinery.recorder.alive(owner)
    }


def deaths(recorder: Recorder) -> list[str]:
    return [call.subject.partition("#")[0] for call in recorder.named("__del__")]


def test_contexts_die_before_engines_and_engines_before_the_runtime(machinery: Machinery) -> None:
    run_once(machinery)

    assert deaths(machinery.recorder) == ["IExecutionContext", "ICudaEngine", "Runtime"]
    assert leaks(machinery) == {}


def test_the_backends_close_takes_what_was_left_open(machinery: Machinery) -> None:
    backend = TensorRtBackend()
    program = backend.load(source_of(machinery, "denoise"))
    fill = backend.load(source_of(machinery, "fill"))
    device = backend.open_device()
    tensors = Tensors(device, machinery.denoise, program.scratch_nbytes)
    other = backend.open_device()
    calls = [program.bind(queue, tensors.addresses, tensors.addresses["scratch"]) for queue in (device, other)]
    device.synchronize()
    backend.close()
    backend.close()

    assert deaths(machinery.recorder)[-1] == "Runtime"
    assert sorted(deaths(machinery.recorder)) == sorted(["IExecutionContext"] * 2 + ["ICudaEngine"] * 2 + ["Runtime"])
    tensors.close()
    device.close()
    other.close()
    for call in calls:
        call.close()
    assert fill.scratch_nbytes > 0
    assert leaks(machinery) == {}


def test_a_context_may_outlive_its_lanes_device(machinery: Machinery) -> None:
    backend = TensorRtBackend()
    program = backend.load(source_of(machinery, "denoise"))
    device = backend.open_device()
    call = program.bind(device, anywhere(machinery.denoise), 0x10000)
    device.close()
    call.close()
    call.close()

    assert machinery.recorder.alive("IExecutionContext") == 0
    backend.close()
    assert leaks(machinery) == {}


@pytest.mark.parametrize(
    ("name", "returns"),
    [
        ("deserialize_cuda_engine", None),
        ("create_execution_context", None),
        ("create_execution_context_without_device_memory", None),
        ("set_tensor_address", False),
        ("execute_async_v3", False),
    ],
)
@pytest.mark.parametrize("interrupted", [False, True])
def test_nothing_is_left_when_a_call_fails(
    machinery: Machinery, name: str, returns: bool | None, interrupted: bool
) -> None:
    missing = not any(name in owner.methods for owner in machinery.recorder.names.classes.values())
    unused = name.endswith("context") and machinery.recorder.major < 10 or name.endswith("memory")
    machinery.recorder.fail(name, returns=returns, error=KeyboardInterrupt() if interrupted else None, log="injected")
    if missing or (unused and not (name.endswith("memory") and machinery.recorder.major < 10)):
        run_once(machinery)
    else:
        with pytest.raises(KeyboardInterrupt if interrupted else VdmrtError):
            run_once(machinery)

    assert leaks(machinery) == {}
    run_once(machinery)
    assert leaks(machinery) == {}


def test_nothing_is_left_when_any_call_of_the_driver_fails(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tensorrt_machine("10.3", tiny_bundle, tmp_path, monkeypatch) as machinery:
        failed: list[str] = []
        for nth in range(1, 400):
            machinery.cuda.enable()
            machinery.cuda.fail(Code.UNKNOWN, nth)
            error = attempt(lambda: run_once(machinery, enqueues=1))
            name = machinery.cuda.failed()
            if name is None:
                assert error is None
                break
            failed.append(name)
            machinery.cuda.fail(Code.UNKNOWN, 0)
            gc.collect()
            assert [machinery.recorder.alive(owner) for owner in OWNED] == [0, 0, 0], f"call {nth}, {name}"
            live = machinery.cuda.live()
            assert (live.allocations, live.streams) == (0, 0), f"call {nth}, {name}: {live}"
        else:
            raise AssertionError("the run never came to its end")

    assert {"cuInit", "cuDevicePrimaryCtxRetain", "cuStreamCreate", "cuCtxSetCurrent", "cuMemAlloc_v2"} <= set(failed)


def attempt(work: Callable[[], None]) -> VdmrtError | None:
    try:
        work()
    except VdmrtError as error:
        return error
    return None


def test_memory_is_flat_over_many_loads(machinery: Machinery) -> None:
    run_once(machinery)
    before = machinery.cuda.counts()["cuMemAlloc_v2"]
    run_once(machinery, enqueues=50)

    assert machinery.cuda.counts()["cuMemAlloc_v2"] == 2 * before
    assert leaks(machinery) == {}
