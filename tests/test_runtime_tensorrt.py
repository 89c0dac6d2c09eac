"""TensorRT's backend against the recorder of each release: the calls it makes, and in which order."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tensorrt_engines import Machinery, Tensors, source_of, tensorrt_machine, write_engine
from tensorrt_recorder import RELEASES, Call

import vdmrt
from vdmrt.bundle import FP16, stage_graphs
from vdmrt.errors import EngineError
from vdmrt.runtime._core import Device
from vdmrt.runtime.backends.tensorrt.backend import TensorRtBackend
from vdmrt.runtime.backends.tensorrt.program import TensorRtProgram


@pytest.fixture(params=RELEASES)
def machinery(
    request: pytest.FixtureRequest, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Machinery]:
    with tensorrt_machine(request.param, tiny_bundle, tmp_path, monkeypatch) as found:
        yield found


@pytest.fixture
def backend(machinery: Machinery) -> Iterator[TensorRtBackend]:
    made = TensorRtBackend()
    yield made
    made.close()


@pytest.fixture
def device(backend: TensorRtBackend) -> Iterator[Device]:
    made = backend.open_device()
    yield made
    made.close()


@pytest.fixture
def program(backend: TensorRtBackend, machinery: Machinery) -> TensorRtProgram:
    return backend.load(source_of(machinery, "denoise"))


@pytest.fixture
def tensors(device: Device, machinery: Machinery, program: TensorRtProgram) -> Iterator[Tensors]:
    made = Tensors(device, machinery.denoise, program.scratch_nbytes)
    yield made
    made.close()


def test_it_says_what_runs_where(backend: TensorRtBackend, machinery: Machinery) -> None:
    version = machinery.recorder.version

    assert backend.describe() == f"TensorRT {version}, vdmrt fake GPU (compute capability 9.0)"
    assert backend.machine.cuda == "12.4"
    assert backend.name == "tensorrt"


def test_loading_allocates_nothing_and_allows_no_host_code(
    backend: TensorRtBackend, machinery: Machinery, program: TensorRtProgram
) -> None:
    assert machinery.cuda.live().allocations == 0
    assert machinery.recorder.named("engine_host_code_allowed=") == []
    assert program.capturable
    assert program.scratch_nbytes == machinery.recorder.scratch_nbytes


def test_every_stage_has_its_plan(backend: TensorRtBackend, machinery: Machinery) -> None:
    stages = stage_graphs(machinery.bundle, FP16)

    for stage in stages:
        assert backend.load(source_of(machinery, stage)).scratch_nbytes > 0
    assert len(machinery.recorder.named("deserialize_cuda_engine")) == len(stages) == 4


def test_the_newest_engine_that_fits_is_taken(backend: TensorRtBackend, machinery: Machinery) -> None:
    recorder = machinery.recorder
    recorder.scratch_nbytes = 1 << 10
    write_engine(machinery.bundle, recorder, key="newer", created="2026-11-22T00:00:00Z")

    assert backend.load(source_of(machinery, "denoise")).scratch_nbytes == 1 << 10


def test_a_context_gets_its_scratch_as_the_release_wants_it(
    program: TensorRtProgram, device: Device, tensors: Tensors, machinery: Machinery
) -> None:
    recorder, scratch = machinery.recorder, tensors.addresses["scratch"]
    before = len(recorder.calls)
    call = program.bind(device, tensors.addresses, scratch)
    made = [(call.name, call.arguments) for call in recorder.calls[before:]]

    if recorder.major < 10:
        assert made == [("create_execution_context_without_device_memory", {}), ("device_memory=", {"value": scratch})]
    else:
        assert [name for name, _ in made] == ["create_execution_context", "set_device_memory"]
        assert made[0][1]["strategy"].name == "USER_MANAGED"
        assert made[1][1] == {"memory": scratch, "size": program.scratch_nbytes}
    call.close()


def test_an_engine_without_scratch_brings_no_memory(
    backend: TensorRtBackend, machinery: Machinery, device: Device
) -> None:
    machinery.recorder.scratch_nbytes = 0
    write_engine(machinery.bundle, machinery.recorder, key="lean", created="2026-11-22T00:00:00Z")
    program = backend.load(source_of(machinery, "denoise"))
    tensors = Tensors(device, machinery.denoise, 0)
    call = program.bind(device, tensors.addresses)

    call.enqueue()
    assert machinery.recorder.named("device_memory=") == machinery.recorder.named("set_device_memory") == []
    call.close()
    tensors.close()


def enqueues(calls: list[Call]) -> list[str]:
    return [call.name for call in calls if call.name in ("set_tensor_address", "execute_async_v3")]


def test_addresses_are_set_once_for_a_call_that_is_alone(
    program: TensorRtProgram, device: Device, tensors: Tensors, machinery: Machinery
) -> None:
    recorder, graph = machinery.recorder, machinery.denoise
    call = program.bind(device, tensors.addresses, tensors.addresses["scratch"])
    for _ in range(3):
        call.enqueue()

    count = len(graph.inputs) + len(graph.outputs)
    assert enqueues(recorder.calls) == ["set_tensor_address"] * count + ["execute_async_v3"] * 3
    found = {call.arguments["name"]: call.arguments["memory"] for call in recorder.named("set_tensor_address")}
    assert found == {name: address for name, address in tensors.addresses.items() if name != "scratch"}


def test_calls_of_one_queue_take_turns_on_one_context(
    program: TensorRtProgram, device: Device, tensors: Tensors, machinery: Machinery
) -> None:
    recorder = machinery.recorder
    other = Tensors(device, machinery.denoise, 0)
    scratch = tensors.addresses["scratch"]
    first, second = (program.bind(device, each.addresses, scratch) for each in (tensors, other))
    seen: list[int] = []
    recorder.on_enqueue = lambda run, stream: seen.append(run.get_tensor_address("latent"))
    for call in (first, second, second, first):
        call.enqueue()

    mine, theirs = tensors.addresses["latent"], other.addresses["latent"]
    assert seen == [mine, theirs, theirs, mine]
    assert recorder.alive("IExecutionContext") == 1
    first.close()
    assert recorder.alive("IExecutionContext") == 1
    second.close()
    assert recorder.alive("IExecutionContext") == 0
    other.close()


def test_runs_go_to_the_devices_own_stream(
    program: TensorRtProgram, device: Device, tensors: Tensors, machinery: Machinery
) -> None:
    program.bind(device, tensors.addresses, tensors.addresses["scratch"]).enqueue()

    assert device.stream != 0
    (call,) = machinery.recorder.named("execute_async_v3")
    assert call.arguments == {"stream_handle": device.stream}
    assert machinery.recorder.log == []


def test_a_run_can_be_captured(
    program: TensorRtProgram, device: Device, tensors: Tensors, machinery: Machinery
) -> None:
    def clear_output(context: object, stream: int) -> None:
        address = tensors.addresses["next_latent"]
        code = machinery.cuda.library.cuMemsetD8Async(
            ctypes.c_uint64(address), ctypes.c_ubyte(1), ctypes.c_size_t(16), ctypes.c_void_p(stream)
        )
        assert code == 0

    machinery.recorder.on_enqueue = clear_output
    call = program.bind(device, tensors.addresses, tensors.addresses["scratch"])
    call.enqueue()
    device.synchronize()
    device.begin_capture()
    call.enqueue()
    captured = device.end_capture()

    assert machinery.cuda.violations() == []
    captured.close()


def test_every_tensorrt_call_finds_the_gpus_context(machinery: Machinery, tiny_bundle: Path, tmp_path: Path) -> None:
    current: list[int] = []

    def look(call: Call) -> None:
        context = ctypes.c_void_p()
        machinery.cuda.library.cuCtxGetCurrent(ctypes.byref(context))
        current.append(context.value or 0)

    def work() -> None:
        backend = TensorRtBackend()
        machinery.recorder.before = look
        program = backend.load(source_of(machinery, "denoise"))
        device = backend.open_device()
        tensors = Tensors(device, machinery.denoise, program.scratch_nbytes)
        backends.append((backend, program, device, tensors))

    def run() -> None:
        backend, program, device, tensors = backends[0]
        program.bind(device, tensors.addresses, tensors.addresses["scratch"]).enqueue()

    backends: list[tuple[TensorRtBackend, TensorRtProgram, Device, Tensors]] = []
    for step in (work, run):
        thread = threading.Thread(target=step)
        thread.start()
        thread.join()
    machinery.recorder.before = None
    backend, _, device, tensors = backends[0]
    backend.close()
    tensors.close()
    device.close()

    assert len(current) > 20
    assert 0 not in current


def test_two_lanes_share_the_engine_only(
    program: TensorRtProgram, backend: TensorRtBackend, machinery: Machinery
) -> None:
    seen: dict[int, int] = {}
    machinery.recorder.on_enqueue = lambda run, stream: seen.update({stream: run.get_tensor_address("latent")})
    lanes = []
    for _ in range(2):
        device = backend.open_device()
        tensors = Tensors(device, machinery.denoise, program.scratch_nbytes)
        lanes.append((device, tensors, program.bind(device, tensors.addresses, tensors.addresses["scratch"])))
    threads = [threading.Thread(target=lambda call=call: [call.enqueue() for _ in range(20)]) for *_, call in lanes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert seen == {device.stream: tensors.addresses["latent"] for device, tensors, _ in lanes}
    assert machinery.recorder.alive("ICudaEngine") == 1
    for device, tensors, call in lanes:
        call.close()
        tensors.close()
        device.close()


def load_streaming(machinery: Machinery, backend: TensorRtBackend, weights_nbytes: int) -> TensorRtProgram:
    from tensorrt_engines import plan_of

    plan = plan_of(machinery.recorder, machinery.denoise, flags=["WEIGHT_STREAMING"], weights_nbytes=weights_nbytes)
    write_engine(
        machinery.bundle, machinery.recorder, plans={"denoise": plan}, key="streaming", created="2026-11-22T00:00:00Z"
    )
    return backend.load(source_of(machinery, "denoise"))


def test_streamed_weights_are_not_captured(backend: TensorRtBackend, machinery: Machinery) -> None:
    program = load_streaming(machinery, backend, 1 << 20)

    # 8.5 has no weight streaming: there the plan is one like any other.
    assert program.capturable is (machinery.recorder.major < 10)


@pytest.mark.parametrize("release", RELEASES[1:])
def test_stripped_plans_get_the_bundles_weights(
    release: str, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorrt_engines import plan_of

    with tensorrt_machine(release, tiny_bundle, tmp_path, monkeypatch) as machinery:
        recorder, graph = machinery.recorder, machinery.denoise
        plan = plan_of(recorder, graph, flags=["STRIP_PLAN", "REFIT_IDENTICAL"])
        stripped = {"plans": {"denoise": plan}, "stripped": True, "created": "2026-11-22T00:00:00Z", "key": "stripped"}
        write_engine(machinery.bundle, recorder, **stripped)  # type: ignore[arg-type]
        backend = TensorRtBackend()
        program = backend.load(source_of(machinery, "denoise"))
        device = backend.open_device()
        tensors = Tensors(device, graph, program.scratch_nbytes)
        program.bind(device, tensors.addresses, tensors.addresses["scratch"]).enqueue()

        (call,) = recorder.named("refit_from_file")
        assert call.arguments == {"model": str(machinery.bundle.path / graph.file.file)}
        backend.close()
        tensors.close()
        device.close()


def test_another_gpu_can_be_chosen(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tensorrt_machine("10.3", tiny_bundle, tmp_path, monkeypatch, devices=2) as machinery:
        backend = TensorRtBackend(device_index=1)
        device = backend.open_device()

        assert device.name == "cuda:1"
        assert backend.load(source_of(machinery, "denoise")).capturable
        backend.close()
        device.close()


def test_an_engine_of_one_gpu_is_refused_on_another(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tensorrt_machine("10.3", tiny_bundle, tmp_path, monkeypatch, devices=2) as machinery:
        machinery.cuda.rename(1, "vdmrt other GPU")
        command = r"build one with vdmrt build \S+ --precision fp16 --gpu 1"

        with pytest.raises(EngineError, match=rf"{command}\..*built on vdmrt fake GPU, here is vdmrt other GPU"):
            vdmrt.load(machinery.bundle.path, backend="tensorrt", device="cuda:1", precision="fp16")
