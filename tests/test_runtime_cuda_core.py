"""The C core's CUDA device, against the fake driver."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from fake_cuda import Code, FakeCuda, Live, enabled_fake_cuda

from vdmrt.errors import DeviceError
from vdmrt.runtime._core import Device, Events, Graph, Memory, cuda_device, host_device


@pytest.fixture
def device(fake_cuda: FakeCuda) -> Iterator[Device]:
    """A queue on the fake GPU; nothing of it may be left afterwards."""
    opened = cuda_device()
    yield opened
    gc.collect()
    opened.close()


def read(device: Device, address: int, nbytes: int) -> bytes:
    out = np.empty(nbytes, np.uint8)
    device.download(out.ctypes.data, address, nbytes)
    device.synchronize()
    return out.tobytes()


def write(device: Device, address: int, data: bytes) -> None:
    source = np.frombuffer(data, np.uint8)
    device.upload(address, source.ctypes.data, len(data))
    device.synchronize()


def counting_step(device: Device, nbytes: int = 64) -> tuple[Memory, Graph]:
    """Return memory and a captured step that shifts it by one byte."""
    memory = device.allocate(2 * nbytes + 1)
    spare = memory.address + nbytes + 1
    device.begin_capture()
    device.copy(spare, memory.address, nbytes)
    device.copy(memory.address + 1, spare, nbytes)
    return memory, device.end_capture()


def test_a_device_says_what_it_is(device: Device) -> None:
    assert (device.name, device.index, device.is_host) == ("cuda:0", 0, False)
    assert device.stream != 0
    free, total = device.memory_info()
    assert 0 < free <= total == 1 << 30


def test_two_devices_are_two_streams_of_one_context(fake_cuda: FakeCuda) -> None:
    one, two = cuda_device(), cuda_device()

    assert one.stream != two.stream
    assert fake_cuda.live().contexts == 2 and fake_cuda.live().streams == 2


def test_memory_is_zero_although_the_driver_gives_garbage(device: Device) -> None:
    memory = device.allocate(1000)

    assert read(device, memory.address, 1000) == bytes(1000)
    assert memory.address % 256 == 0 and device.allocated_nbytes == 1000


def test_bytes_go_up_across_and_down(device: Device) -> None:
    memory = device.allocate(32)
    write(device, memory.address, b"0123456789abcdef")

    device.copy(memory.address + 16, memory.address, 16)

    assert read(device, memory.address + 16, 16) == b"0123456789abcdef"


def test_a_pitched_copy_is_one_call_and_moves_what_it_says(device: Device, fake_cuda: FakeCuda) -> None:
    source, target = device.allocate(4 * 3 * 2), device.allocate(6 * 5 * 2)
    write(device, source.address, bytes(range(24)))
    fake_cuda.clear_calls()

    device.copy_3d(
        target.address + 1,
        source.address,
        width=2,
        height=3,
        depth=2,
        destination_pitch=6,
        destination_height=5,
        source_pitch=4,
        source_height=3,
    )

    planes = np.frombuffer(read(device, target.address, 60), np.uint8).reshape(2, 5, 6)
    assert (planes[:, :3, 1:3] == np.arange(24).reshape(2, 3, 4)[:, :, :2]).all()
    assert planes.sum() == np.arange(24).reshape(2, 3, 4)[:, :, :2].sum()
    assert fake_cuda.counts()["cuMemcpy3DAsync_v2"] == 1 and fake_cuda.bytes_moved()["3D"] == 12


def test_zeroing_leaves_the_bytes_between_rows(device: Device) -> None:
    memory = device.allocate(20)
    write(device, memory.address, b"x" * 20)

    device.zero_2d(memory.address, width=3, height=2, pitch=10)

    assert read(device, memory.address, 20) == b"\0\0\0xxxxxxx\0\0\0xxxxxxx"


def test_nothing_is_left_when_everything_is_dropped(fake_cuda: FakeCuda) -> None:
    device = cuda_device()
    kept = [device.allocate(10), device.allocate_pinned(10), device.events(3), *counting_step(device)]
    assert fake_cuda.live().allocations == 2 and fake_cuda.live().graph_execs == 1

    del device, kept
    gc.collect()

    assert fake_cuda.live() == Live() and fake_cuda.violations() == []


def test_a_closed_device_says_so(device: Device) -> None:
    memory = device.allocate(8)
    with pytest.raises(RuntimeError, match="close needs a device that is not used, and 1 of its memories"):
        device.close()
    memory.close()

    device.close()
    device.close()

    with pytest.raises(RuntimeError, match="synchronize needs a device that is open"):
        device.synchronize()
    with pytest.raises(RuntimeError, match="allocate needs a device that is open"):
        device.allocate(1)


def test_memory_is_freed_only_when_the_stream_has_passed_it(device: Device, fake_cuda: FakeCuda) -> None:
    memory, graph = counting_step(device)
    events = device.events(2)
    fake_cuda.lag(1000)
    thread = threading.Thread(target=lambda: device.replay(graph, events, 1))
    thread.start()
    thread.join()

    memory.close()

    assert fake_cuda.violations() == []


def test_events_measure_and_wait(device: Device) -> None:
    events = device.events(2)
    assert len(events) == 2
    events.record(0)
    events.record(1)

    events.wait(1)

    assert events.elapsed_ms(0, 1) >= 0


def test_events_of_the_host_measure_its_clock() -> None:
    events = host_device().events(2)
    events.record(0)
    sum(range(10000))
    events.record(1)
    events.wait(1)

    assert 0 < events.elapsed_ms(0, 1) < 1e4


def test_wrong_events_are_refused(device: Device) -> None:
    events = device.events(2)
    with pytest.raises(ValueError, match="record needs 0 <= event <= 1, got 2"):
        events.record(2)
    events.close()
    events.close()
    with pytest.raises(RuntimeError, match="record needs events that are open"):
        events.record(0)


# Capture and replay


def test_a_captured_step_runs_as_often_as_it_is_replayed(device: Device, fake_cuda: FakeCuda) -> None:
    memory, graph = counting_step(device)
    write(device, memory.address, b"a" + bytes(64))
    events = device.events(11)
    fake_cuda.clear_calls()

    enqueue_us = device.replay(graph, events, 10)

    assert len(enqueue_us) == 10 and all(us > 0 for us in enqueue_us)
    assert read(device, memory.address, 12) == b"a" * 11 + b"\0"
    assert graph.nodes == 2
    assert fake_cuda.counts()["cuGraphLaunch"] == 10 and fake_cuda.counts()["cuEventRecord"] == 11


def test_at_most_two_steps_are_in_flight(device: Device, fake_cuda: FakeCuda) -> None:
    _memory, graph = counting_step(device)
    events = device.events(21)
    fake_cuda.lag(3)
    fake_cuda.clear_calls()

    device.replay(graph, events, 20)

    in_flight = most = 0
    for call in fake_cuda.calls():
        if call.name == "cuGraphLaunch":
            in_flight += 1
        elif call.name == "cuEventQuery" and call.code == Code.SUCCESS:
            in_flight -= 1
        most = max(most, in_flight)
    assert most == 2 and in_flight == 0


def test_every_step_is_reported_in_order(device: Device) -> None:
    _memory, graph = counting_step(device)
    told: list[int] = []

    device.replay(graph, device.events(6), 5, told.append)

    assert told == [1, 2, 3, 4, 5]


def test_cancelling_takes_two_steps_at_most_and_leaves_nothing_in_flight(device: Device, fake_cuda: FakeCuda) -> None:
    _memory, graph = counting_step(device)
    events = device.events(101)
    fake_cuda.lag(2)
    fake_cuda.clear_calls()

    def stop(done: int) -> None:
        if done == 7:
            raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        device.replay(graph, events, 100, stop)

    assert fake_cuda.counts()["cuGraphLaunch"] <= 9
    assert fake_cuda.counts()["cuStreamSynchronize"] == 1
    events.close()
    assert fake_cuda.violations() == []


def test_ctrl_c_ends_a_replay_without_a_callback(device: Device, fake_cuda: FakeCuda) -> None:
    _memory, graph = counting_step(device)
    events = device.events(1001)
    fake_cuda.lag(1 << 31)
    timer = threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()

    with pytest.raises(KeyboardInterrupt):
        device.replay(graph, events, 1000)

    timer.join()
    assert fake_cuda.counts()["cuGraphLaunch"] == 2


def test_other_threads_run_while_a_replay_waits(device: Device, fake_cuda: FakeCuda) -> None:
    _memory, graph = counting_step(device)
    events = device.events(3)
    fake_cuda.lag(1 << 31)
    counted = 0

    def count() -> None:
        nonlocal counted
        while fake_cuda.counts().get("cuGraphLaunch", 0) < 2:
            pass  # until the replay has begun
        for _ in range(1000):
            counted += 1
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=count, daemon=True)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        device.replay(graph, events, 2)
    thread.join()

    assert counted == 1000


def test_an_empty_capture_is_an_error(device: Device) -> None:
    device.begin_capture()
    with pytest.raises(DeviceError, match="cuStreamEndCapture: the captured step holds no work"):
        device.end_capture()


def test_waiting_inside_a_capture_names_the_call_and_the_way_out(device: Device, fake_cuda: FakeCuda) -> None:
    device.begin_capture()
    with pytest.raises(
        DeviceError, match=r"cuStreamSynchronize: CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED .*cuda_graph=False"
    ):
        device.synchronize()
    device.abort_capture()
    device.synchronize()

    assert fake_cuda.live().graphs == 0


def test_graph_and_events_of_another_device_are_refused(device: Device) -> None:
    other = cuda_device()
    _memory, graph = counting_step(other)
    events = device.events(2)

    with pytest.raises(ValueError, match="replay needs a graph and events of this device"):
        device.replay(graph, events, 1)
    with pytest.raises(ValueError, match="replay needs 1 <= steps <= 1, got 2"):
        other.replay(graph, other.events(2), 2)
    graph.close()
    with pytest.raises(RuntimeError, match="that are open, and one was closed"):
        other.replay(graph, other.events(2), 1)


def test_the_host_captures_nothing() -> None:
    with pytest.raises(RuntimeError, match="begin_capture is nothing that this device can do"):
        host_device().begin_capture()


# Failures


def test_no_driver_is_said_in_a_sentence() -> None:
    script = "from vdmrt.runtime._core import cuda_device\ncuda_device()"
    environment = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}

    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)

    if "libcuda.so.1" not in done.stderr:
        pytest.skip("this machine has a CUDA driver")  # an absent GPU is what this is about
    assert "DeviceError: dlopen: libcuda.so.1 does not load, so there is no NVIDIA driver; install it" in done.stderr


def test_a_driver_that_is_too_old_is_named(fake_cuda: FakeCuda) -> None:
    fake_cuda.driver_version(11020)

    with pytest.raises(DeviceError, match="wanted a driver for CUDA 11.4 or newer, found one for CUDA 11.2"):
        cuda_device()


def test_a_machine_without_a_gpu_is_said_in_a_sentence(fake_cuda: FakeCuda) -> None:
    fake_cuda.disable()

    with pytest.raises(DeviceError, match=r"cuInit: CUDA_ERROR_NO_DEVICE .*no GPU that the driver sees"):
        cuda_device()


def test_a_gpu_that_is_not_there_is_counted() -> None:
    with enabled_fake_cuda(devices=2):
        assert cuda_device(1).name == "cuda:1"
        with pytest.raises(DeviceError, match=r"wanted GPU 2, and the driver sees 2 GPU\(s\), numbered from 0"):
            cuda_device(2)


def test_too_little_memory_names_what_was_wanted_and_what_is_free(device: Device, fake_cuda: FakeCuda) -> None:
    kept = device.allocate(1 << 20)

    with pytest.raises(DeviceError, match=r"cuMemAlloc_v2: .*wanted 2147483648 bytes, GPU 0 has \d+ of 1073741824"):
        device.allocate(2 << 30)

    assert device.allocated_nbytes == kept.nbytes and fake_cuda.live().allocations == 1


@pytest.mark.parametrize(
    ("name", "act"),
    [
        ("cuMemAlloc_v2", lambda device: device.allocate(8)),
        ("cuMemsetD8Async", lambda device: device.allocate(8)),
        ("cuCtxPushCurrent_v2", lambda device: device.allocate(8)),
        ("cuCtxPopCurrent_v2", lambda device: device.allocate(8)),
        ("cuMemHostAlloc", lambda device: device.allocate_pinned(8)),
        ("cuEventCreate", lambda device: device.events(4)),
        ("cuStreamSynchronize", lambda device: device.synchronize()),
        ("cuMemGetInfo_v2", lambda device: device.memory_info()),
        ("cuCtxSetCurrent", lambda device: device.activate()),
        ("cuGraphInstantiateWithFlags", counting_step),
        ("cuGraphUpload", counting_step),
        ("cuGraphGetNodes", counting_step),
        ("cuGraphDestroy", counting_step),
    ],
)
def test_a_failed_call_is_named_and_makes_nothing(
    device: Device, fake_cuda: FakeCuda, name: str, act: Callable[[Device], object]
) -> None:
    fake_cuda.fail(Code.LAUNCH_FAILED, name=name)

    with pytest.raises(DeviceError, match=rf"{name}: CUDA_ERROR_LAUNCH_FAILED \(719, .*start it again") as caught:
        act(device)

    assert caught.value.call == name
    del caught
    gc.collect()
    live = fake_cuda.live()
    assert (live.allocations, live.pinned, live.events, live.graphs, live.graph_execs) == (0, 0, 0, 0, 0)
    assert fake_cuda.violations() == []


@pytest.mark.parametrize("name", ["cuMemFree_v2", "cuStreamSynchronize", "cuCtxPushCurrent_v2"])
def test_a_failed_release_is_reported_and_frees_all_the_same(device: Device, fake_cuda: FakeCuda, name: str) -> None:
    memory = device.allocate(8)
    fake_cuda.fail(Code.UNKNOWN, name=name)

    with pytest.raises(DeviceError, match=f"{name}: CUDA_ERROR_UNKNOWN"):
        memory.close()

    assert fake_cuda.live().allocations == fake_cuda.withheld() == 0
    assert memory.closed


def test_a_failed_step_names_the_call_and_leaves_the_device_usable(device: Device, fake_cuda: FakeCuda) -> None:
    memory, graph = counting_step(device)
    events: Events = device.events(9)
    fake_cuda.fail(Code.UNKNOWN, nth=3, name="cuGraphLaunch")

    with pytest.raises(DeviceError, match="cuGraphLaunch: CUDA_ERROR_UNKNOWN"):
        device.replay(graph, events, 8)

    assert len(device.replay(graph, events, 8)) == 8
    assert read(device, memory.address, 1) == b"\0"


EXIT_SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from fake_cuda import Code, FakeCuda
from vdmrt.runtime._core import cuda_device
fake = FakeCuda()
fake.enable()
device = cuda_device()
memory, pinned, events = device.allocate(8), device.allocate_pinned(8), device.events(2)
"""


@pytest.mark.parametrize("code", [Code.LAUNCH_FAILED, Code.DEINITIALIZED])
def test_what_is_alive_when_the_interpreter_exits_says_a_sentence_at_most(code: Code) -> None:
    """Destructors run when nothing can be imported any more; a driver that has ended has nothing left to release."""
    script = EXIT_SCRIPT + (
        "class Keeper: pass\n"
        "keeper = Keeper(); keeper.self = keeper; keeper.kept = (device, memory, pinned, events)\n"
        "sys.modules['kept until the very end'] = keeper\n"
        "del device, memory, pinned, events, keeper\n"
        f"fake.fail({int(code)}, sticky=True)\n"
        "fake.library.cuCtxSynchronize()\n"
    )
    support = os.path.join(os.path.dirname(__file__), "support")

    done = subprocess.run([sys.executable, "-c", script, support], capture_output=True, text=True)

    assert done.returncode == 0 and "ImportError" not in done.stderr and "TypeError" not in done.stderr
    assert ("CUDA_ERROR_LAUNCH_FAILED" in done.stderr) == (code == Code.LAUNCH_FAILED), done.stderr


# DLPack


class Tensor:
    """What a consumer of DLPack wants to see."""

    def __init__(self, memory: Memory, shape: tuple[int, ...]) -> None:
        self.memory = memory
        self.shape = shape

    def __dlpack__(self, *, stream: None = None) -> Any:
        return self.memory.dlpack(self.memory.address, self.shape, 2, 32)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


def test_memory_outlives_its_close_while_a_consumer_looks_at_it() -> None:
    device = host_device()
    memory = device.allocate(24)
    seen = np.from_dlpack(Tensor(memory, (2, 3)))
    memory.close()
    assert memory.closed and device.allocated_nbytes == 24
    assert seen.shape == (2, 3) and seen.dtype == np.float32 and not seen.any()

    del seen
    gc.collect()

    assert device.allocated_nbytes == 0


def test_a_tensor_outside_its_memory_is_refused() -> None:
    memory = host_device().allocate(24)

    with pytest.raises(ValueError, match="needs a tensor inside its memory"):
        memory.dlpack(memory.address, (7,), 2, 32)
    with pytest.raises(ValueError, match="dlpack needs"):
        memory.dlpack(memory.address - 4, (2,), 2, 32)
    with pytest.raises(ValueError, match="needs a tensor inside its memory"):
        memory.dlpack(memory.address, (2**31, 2**31, 2**31), 2, 32)  # 2**93 elements, 0 in 64 bits
    with pytest.raises(ValueError, match="dlpack needs 1 <= bits <= 255, got -8"):
        memory.dlpack(memory.address, (2,), 2, -8)
    memory.close()
    with pytest.raises(RuntimeError, match="is closed and has no tensors"):
        memory.dlpack(1, (2,), 2, 32)


def test_an_unconsumed_capsule_releases_its_tensor() -> None:
    device = host_device()
    memory = device.allocate(24)
    capsule = memory.dlpack(memory.address, (6,), 2, 32)
    memory.close()
    assert device.allocated_nbytes == 24

    del capsule
    gc.collect()

    assert device.allocated_nbytes == 0
