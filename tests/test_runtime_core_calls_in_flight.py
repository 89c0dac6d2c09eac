"""Objects of the C core that are closed while a call uses them without the GIL."""

from __future__ import annotations

import ctypes
import gc
import threading
import time
from collections.abc import Callable, Iterator
from ctypes import byref, c_ulonglong, c_void_p
from typing import Any

import pytest
from fake_cuda import FakeCuda, Live

from vdmrt.runtime._core import Device, Events, Graph, Memory, cuda_device, host_device

FOREVER = 1 << 31
IN_FLIGHT = "close needs {} that no call uses, found 1 in flight; close again when none is left"


@pytest.fixture
def device(fake_cuda: FakeCuda) -> Iterator[Device]:
    """A queue on the fake GPU; nothing of it may be left afterwards."""
    opened = cuda_device()
    yield opened
    gc.collect()
    opened.close()


class Closing:
    """A number that closes something when it is looked at."""

    def __init__(self, number: int, target: Events | Graph | Memory) -> None:
        self.number = number
        self.target = target

    def __index__(self) -> int:
        self.target.close()
        return self.number


def capture_copy(device: Device) -> tuple[Memory, Graph]:
    memory = device.allocate(128)
    device.begin_capture()
    device.copy(memory.address + 64, memory.address, 64)
    return memory, device.end_capture()


def refusal(close: Callable[[], None]) -> str:
    with pytest.raises(RuntimeError) as caught:
        close()
    return str(caught.value)


def enqueue_pending(fake: FakeCuda, device: Device, work: Callable[[], None]) -> object:
    """Enqueue a graph that calls ``work`` inside the next call that waits for the queue; keep what is returned."""
    function = ctypes.CFUNCTYPE(None, c_void_p)(lambda _: work())
    driver, stream, graph, executable = fake.library, c_void_p(device.stream), c_void_p(), c_void_p()
    device.activate()
    device.begin_capture()
    codes = [
        driver.cuLaunchHostFunc(stream, function, None),
        driver.cuStreamEndCapture(stream, byref(graph)),
        driver.cuGraphInstantiateWithFlags(byref(executable), graph, c_ulonglong(0)),
    ]
    fake.lag(FOREVER)
    codes.append(driver.cuGraphLaunch(executable, stream))
    assert codes == [0, 0, 0, 0]
    return function


def wait_for_call(fake: FakeCuda, name: str) -> None:
    deadline = time.monotonic() + 30
    while fake.counts().get(name, 0) == 0:
        assert time.monotonic() < deadline, f"nobody called {name}"
        time.sleep(0.001)


@pytest.mark.parametrize("name", ["events", "a graph"])
def test_what_a_replay_uses_refuses_to_be_closed_by_its_callback(device: Device, name: str) -> None:
    _memory, graph = capture_copy(device)
    events = device.events(6)
    target = events if name == "events" else graph

    with pytest.raises(RuntimeError, match=IN_FLIGHT.format(name)):
        device.replay(graph, events, 5, lambda step: target.close())

    target.close()


def test_a_replay_goes_on_after_a_refused_close(device: Device, fake_cuda: FakeCuda) -> None:
    _memory, graph = capture_copy(device)
    events = device.events(6)
    refused: list[str] = []

    def close(step: int) -> None:
        refused.extend([refusal(graph.close), refusal(events.close), refusal(device.close)])

    assert len(device.replay(graph, events, 5, close)) == 5
    assert len(refused) == 15
    assert fake_cuda.counts()["cuGraphLaunch"] == 5 and fake_cuda.violations() == []


def test_a_device_refuses_to_be_closed_while_it_synchronizes(device: Device, fake_cuda: FakeCuda) -> None:
    refused: list[str] = []
    kept = enqueue_pending(fake_cuda, device, lambda: refused.append(refusal(device.close)))

    device.synchronize()

    assert refused == [IN_FLIGHT.format("a device")] and kept
    device.close()


def test_a_device_refuses_to_be_closed_while_its_memory_is_released(device: Device, fake_cuda: FakeCuda) -> None:
    memory = device.allocate(64)
    refused: list[str] = []
    kept = enqueue_pending(fake_cuda, device, lambda: refused.append(refusal(device.close)))

    memory.close()

    assert (
        refused == ["close needs a device that is not used, and 1 of its memories, events or graphs are open"] and kept
    )


def test_events_refuse_to_be_closed_while_another_thread_waits(device: Device, fake_cuda: FakeCuda) -> None:
    events = device.events(1)
    kept = enqueue_pending(fake_cuda, device, lambda: None)
    events.record(0)
    thread = threading.Thread(target=events.wait, args=(0,))
    thread.start()
    wait_for_call(fake_cuda, "cuEventQuery")

    said = refusal(events.close)
    device.synchronize()
    thread.join()

    assert said == IN_FLIGHT.format("events") and kept
    events.close()


def test_what_a_call_used_is_released_with_its_last_name(device: Device, fake_cuda: FakeCuda) -> None:
    _memory, graph = capture_copy(device)
    names: dict[str, Graph | Events] = {"graph": graph, "events": device.events(3)}
    events = names["events"]
    assert isinstance(events, Events)

    device.replay(graph, events, 2, lambda step: names.clear())
    del graph, events

    gc.collect()
    live = fake_cuda.live()
    assert (live.graph_execs, live.events) == (0, 0)


@pytest.mark.parametrize("call", ["record", "wait", "elapsed_ms"])
def test_events_closed_by_an_argument_are_not_used(device: Device, call: str) -> None:
    events = device.events(2)
    arguments = (0, Closing(1, events)) if call == "elapsed_ms" else (Closing(1, events),)

    with pytest.raises(RuntimeError, match=f"{call} needs events that are open, and these were closed"):
        getattr(events, call)(*arguments)


@pytest.mark.parametrize("name", ["events", "graph"])
def test_a_replay_whose_steps_close_what_it_needs_is_refused(device: Device, name: str) -> None:
    _memory, graph = capture_copy(device)
    events = device.events(3)
    steps: Any = Closing(2, events if name == "events" else graph)

    with pytest.raises(RuntimeError, match="replay needs a graph and events that are open, and one was closed"):
        device.replay(graph, events, steps)


def test_memory_closed_by_an_argument_of_dlpack_is_kept_for_the_tensor() -> None:
    device = host_device()
    memory = device.allocate(24)
    address: Any = Closing(memory.address, memory)
    capsule = memory.dlpack(address, (6,), 2, 32)
    assert memory.closed and device.allocated_nbytes == 24

    del capsule
    gc.collect()

    assert device.allocated_nbytes == 0


def test_memory_closed_by_an_argument_of_a_refused_dlpack_is_released() -> None:
    device = host_device()
    memory = device.allocate(24)
    address: Any = Closing(memory.address, memory)

    with pytest.raises(ValueError, match="needs a tensor inside its memory"):
        memory.dlpack(address, (7,), 2, 32)

    assert device.allocated_nbytes == 0


def test_nothing_is_left_after_refused_closes(fake_cuda: FakeCuda) -> None:
    device = cuda_device()
    memory, graph = capture_copy(device)
    events = device.events(2)
    device.replay(graph, events, 1, lambda step: refusal(events.close))

    for closed in (events, graph, memory, device):
        closed.close()

    assert fake_cuda.live() == Live() and fake_cuda.violations() == []
