"""What the host spends on a denoising step: a loop in C that replays a graph, against Python doing the same.

The step replaces a real one by as many copies of a few bytes, so that only the host's work for each step is measured:
launch the graph, record an event, keep two steps in flight.
"""

from __future__ import annotations

import ctypes
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ..running.record import Recorder
from ..running.settings import Settings, need_gpu

__all__ = ["BUSY_STEPPERS", "STEPPERS", "measure_host_overhead", "time_steppers"]

# About what a small transformer's step has when it is captured.
NODES, NBYTES = 100, 256
FEW, MANY, ROUNDS = 10, 50, 20
HOST_US = 10.0
STEPPERS = (
    "C loop, graph",
    "C loop, graph, a callback at each step",
    "Python, graph",
    "Python, call by call",
)
BUSY_STEPPERS = ("C loop, graph, beside a busy thread", "Python, graph, beside a busy thread")
_THREAD_LOCAL = 1


def measure_host_overhead(settings: Settings, record: Recorder, *, busy: bool = True) -> None:
    """Record the host time of a step and the whole time of one, stepped in each way in turn, for few and many steps.

    Args:
        settings: The GPU.
        record: Gets the figures.
        busy: Whether to step beside a busy thread too; meaningless on the fake driver, where no step is waited for.

    Raises:
        Missing: There is no GPU.
    """
    need_gpu(settings, also_rehearsing=True)
    index, rounds = int(settings.device.partition(":")[2] or 0), 2 if settings.rehearse else ROUNDS
    times = {steps: time_steppers(index, steps, rounds, busy=busy) for steps in (FEW, MANY)}
    how = f"median of {rounds} rounds of {MANY} steps, ways in turn, {NODES} operations a step"
    base_host, base_whole = (statistics.median(part) for part in times[MANY][STEPPERS[0]])
    for name in times[MANY]:
        host_us, whole_us = times[MANY][name]
        host, whole = statistics.median(host_us), statistics.median(whole_us)
        record.add(
            f"host time of a step, {name}",
            host,
            "us",
            most=HOST_US if name == STEPPERS[0] and not settings.rehearse else None,
            statistic=how,
            mean_us=statistics.fmean(host_us),
            p95_us=sorted(host_us)[int(0.95 * len(host_us))],
            few_steps_us=statistics.median(times[FEW][name][0]),
        )
        record.add(f"whole time of a step, {name}", whole, "us", statistic=how)
        if name != STEPPERS[0]:
            record.add(f"host time, {name} over {STEPPERS[0]}", host / base_host, "x")
            record.add(f"whole time, {name} over {STEPPERS[0]}", whole / base_whole, "x")
    few = statistics.median(times[FEW][STEPPERS[0]][0])
    record.add(f"host time of a step, {STEPPERS[0]}, {MANY} steps over {FEW}", base_host / few, "x")


def time_steppers(index: int, steps: int, rounds: int, *, busy: bool) -> dict[str, tuple[list[float], list[float]]]:
    """Time every way of stepping; ways take turns, the first round warms up.

    Returns:
        By way: the host's microseconds of every step (launch and mark), and the whole microseconds of a step by round,
        waiting included.
    """
    from vdmrt.runtime import _core
    from vdmrt.runtime.device.stepper import EagerStepper, ReplayStepper, capture

    device: Any = _core.cuda_device(index)
    source, target, events = device.allocate(NODES * NBYTES), device.allocate(NODES * NBYTES), device.events(steps + 1)

    def enqueue() -> None:
        for offset in range(0, NODES * NBYTES, NBYTES):
            device.copy(target.address + offset, source.address + offset, NBYTES)

    replaying = ReplayStepper(device, events, capture(device, enqueue))
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in STEPPERS + BUSY_STEPPERS * busy}
    with _launched_by_ctypes(device, enqueue) as launch:
        eager, launching = EagerStepper(device, events, enqueue), EagerStepper(device, events, launch)
        ways: tuple[Callable[[], Any], ...] = (
            lambda: replaying.run(steps, None),
            lambda: replaying.run(steps, lambda done: None),
            lambda: launching.run(steps, None),
            lambda: eager.run(steps, None),
            lambda: _beside_a_busy_thread(lambda: replaying.run(steps, None)),
            lambda: _beside_a_busy_thread(lambda: launching.run(steps, None)),
        )
        _take_rounds(dict(zip(times, ways)), times, rounds, steps)  # noqa: B905  (the last ones are for busy threads)
    for owned in (replaying, events, source, target, device):
        owned.close()
    return times


def _take_rounds(
    ways: Mapping[str, Callable[[], Any]],
    times: Mapping[str, tuple[list[float], list[float]]],
    rounds: int,
    steps: int,
) -> None:
    for number in range(rounds + 1):
        for name, run in ways.items():
            started = time.perf_counter()
            found = run().enqueue_us
            whole_us = (time.perf_counter() - started) * 1e6 / steps
            if number:
                times[name][0].extend(found)
                times[name][1].append(whole_us)


@contextmanager
def _launched_by_ctypes(device: Any, enqueue: Callable[[], None]) -> Iterator[Callable[[], None]]:
    """Capture the same step again, to be launched from Python; yield what launches it."""
    driver = ctypes.CDLL("libcuda.so.1")
    stream, graph, ready = ctypes.c_void_p(device.stream), ctypes.c_void_p(), ctypes.c_void_p()

    def call(name: str, *arguments: Any) -> None:
        code = getattr(driver, name)(*arguments)
        if code:
            raise RuntimeError(f"{name} returned {code}")

    device.activate()
    call("cuStreamBeginCapture_v2", stream, _THREAD_LOCAL)
    enqueue()
    call("cuStreamEndCapture", stream, ctypes.byref(graph))
    call("cuGraphInstantiateWithFlags", ctypes.byref(ready), graph, ctypes.c_uint64(0))
    function = driver.cuGraphLaunch

    def launch() -> None:
        code = function(ready, stream)
        if code:
            raise RuntimeError(f"cuGraphLaunch returned {code}")

    try:
        yield launch
    finally:
        device.synchronize()
        call("cuGraphExecDestroy", ready)
        call("cuGraphDestroy", graph)


def _beside_a_busy_thread(run: Callable[[], Any]) -> Any:
    """Run while another thread of this interpreter computes, as an application's would."""
    stop = threading.Event()

    def compute() -> None:
        while not stop.is_set():
            sum(range(1000))

    thread = threading.Thread(target=compute)
    thread.start()
    try:
        return run()
    finally:
        stop.set()
        thread.join()
