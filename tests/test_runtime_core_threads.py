"""The C core used by several threads at once; `make test-sanitizers` looks for data races in these tests."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from fake_cuda import FakeCuda, Live

from vdmrt.runtime._core import INITIAL_NOISE, Device, Graph, Memory, cuda_device, fill_normal, host_device


def run_together(*works: Callable[[], None]) -> None:
    """Run each work in a thread of its own, all of them from the same moment on; raise the first failure."""
    barrier = threading.Barrier(len(works))
    failures: list[BaseException] = []

    def run(work: Callable[[], None]) -> None:
        barrier.wait(30)
        try:
            work()
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def use_device(open_device: Callable[[], Device]) -> None:
    """Open a device, move bytes on it, mark and measure, and close everything."""
    device = open_device()
    for nbytes in range(64, 1024, 64):
        memory, events = device.allocate(2 * nbytes), device.events(2)
        events.record(0)
        device.copy(memory.address + nbytes, memory.address, nbytes)
        device.zero_2d(memory.address, width=32, height=2, pitch=nbytes)
        events.record(1)
        events.wait(1)
        assert events.elapsed_ms(0, 1) >= 0
        events.close()
        memory.close()
    device.close()


def capture_copy(device: Device) -> tuple[Memory, Graph]:
    """Capture a copy; no other thread may use the device meanwhile, because that would invalidate the capture."""
    memory = device.allocate(128)
    device.begin_capture()
    device.copy(memory.address + 64, memory.address, 64)
    return memory, device.end_capture()


def replay(device: Device, graph: Graph, steps: int) -> None:
    events = device.events(steps + 1)
    told: list[int] = []
    device.replay(graph, events, steps, told.append)
    assert told == list(range(1, steps + 1))
    events.close()


def capture_and_replay(device: Device) -> None:
    memory, graph = capture_copy(device)
    replay(device, graph, 50)
    graph.close()
    memory.close()


def test_two_threads_use_a_host_device_each() -> None:
    run_together(*[lambda: use_device(host_device)] * 2)


def test_two_threads_use_a_gpu_queue_each(fake_cuda: FakeCuda) -> None:
    run_together(*[lambda: use_device(cuda_device)] * 2)

    assert fake_cuda.live() == Live() and fake_cuda.violations() == []


def test_two_threads_replay_a_graph_each(fake_cuda: FakeCuda) -> None:
    fake_cuda.lag(2)
    one, two = cuda_device(), cuda_device()

    run_together(partial(capture_and_replay, one), partial(capture_and_replay, two))

    assert fake_cuda.violations() == []


def test_a_replay_goes_on_beside_threads_that_synchronize_and_try_to_close(fake_cuda: FakeCuda) -> None:
    fake_cuda.lag(3)
    device = cuda_device()
    memory, graph = capture_copy(device)
    done = threading.Event()

    def use() -> None:
        try:
            replay(device, graph, 100)
        finally:
            done.set()  # also where it fails, or the others would go on for ever

    def synchronize() -> None:
        while not done.is_set():
            device.synchronize()

    def close() -> None:
        while not done.is_set():
            with pytest.raises(RuntimeError, match="close needs a device that"):
                device.close()

    run_together(use, synchronize, close)

    for opened in (graph, memory, device):
        opened.close()
    assert fake_cuda.live() == Live() and fake_cuda.violations() == []


def test_threads_that_close_together_destroy_once(fake_cuda: FakeCuda) -> None:
    for _ in range(20):
        device = cuda_device()
        memory, events = device.allocate(64), device.events(3)
        device.begin_capture()
        device.zero_2d(memory.address, width=64, height=1, pitch=64)
        graph = device.end_capture()
        for closed in (memory, events, graph, device):
            run_together(*[closed.close] * 4)

    assert fake_cuda.live() == Live() and fake_cuda.violations() == []


def test_a_device_is_closed_or_refuses_beside_threads_that_use_it(fake_cuda: FakeCuda) -> None:
    def synchronize(device: Device, stop: threading.Event) -> None:
        try:
            while not stop.is_set():
                device.synchronize()
        except RuntimeError as error:
            assert str(error).startswith("synchronize needs a device that is open, and this one was closed")

    def close(device: Device, stop: threading.Event) -> None:
        for _ in range(200):  # calls may be in flight each time
            try:
                device.close()
                break
            except RuntimeError as error:
                assert str(error).startswith("close needs a device that no call uses, found ")
        stop.set()

    for _ in range(20):
        device, stop = cuda_device(), threading.Event()
        run_together(*[partial(synchronize, device, stop)] * 2, partial(close, device, stop))
        device.close()

    assert fake_cuda.live() == Live() and fake_cuda.violations() == []


def test_threads_draw_the_normals_that_one_draws() -> None:
    drawn = np.zeros((4, 10007), np.float32)

    def draw(row: int) -> None:
        fill_normal(drawn[row].ctypes.data, drawn.shape[1], seed=3, frame=row, step=0, kind=INITIAL_NOISE)

    run_together(*(partial(draw, row) for row in range(4)))
    together = drawn.copy()
    for row in range(4):
        draw(row)

    assert (together == drawn).all() and together.std() > 0.9
