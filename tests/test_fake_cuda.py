"""The fake CUDA driver behaves as the driver's documentation says, and tells tests what was done to it."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from ctypes import POINTER, byref, c_char_p, c_float, c_int, c_size_t, c_ubyte, c_uint, c_ulonglong, c_void_p

import pytest
from fake_cuda import Code, FakeCuda, Live, build_library, enabled_fake_cuda

GLOBAL, THREAD_LOCAL, RELAXED = range(3)
HOST, DEVICE, UNIFIED = 1, 2, 4
HostFunction = ctypes.CFUNCTYPE(None, c_void_p)


class Copy3D(ctypes.Structure):
    """CUDA_MEMCPY3D."""

    _fields_ = [
        *((name, c_size_t) for name in ("srcXInBytes", "srcY", "srcZ", "srcLOD")),
        ("srcMemoryType", c_int),
        ("srcHost", c_void_p),
        ("srcDevice", c_ulonglong),
        ("srcArray", c_void_p),
        ("reserved0", c_void_p),
        ("srcPitch", c_size_t),
        ("srcHeight", c_size_t),
        *((name, c_size_t) for name in ("dstXInBytes", "dstY", "dstZ", "dstLOD")),
        ("dstMemoryType", c_int),
        ("dstHost", c_void_p),
        ("dstDevice", c_ulonglong),
        ("dstArray", c_void_p),
        ("reserved1", c_void_p),
        ("dstPitch", c_size_t),
        ("dstHeight", c_size_t),
        *((name, c_size_t) for name in ("WidthInBytes", "Height", "Depth")),
    ]


SIGNATURES: dict[str, tuple[type, ...]] = {
    "cuCtxPopCurrent_v2": (c_void_p,),
    "cuCtxPushCurrent_v2": (c_void_p,),
    "cuCtxSetCurrent": (c_void_p,),
    "cuEventCreate": (POINTER(c_void_p), c_uint),
    "cuEventDestroy_v2": (c_void_p,),
    "cuEventElapsedTime": (POINTER(c_float), c_void_p, c_void_p),
    "cuEventQuery": (c_void_p,),
    "cuEventRecord": (c_void_p, c_void_p),
    "cuEventSynchronize": (c_void_p,),
    "cuGetErrorName": (c_int, POINTER(c_char_p)),
    "cuGetProcAddress_v2": (c_char_p, POINTER(c_void_p), c_int, c_ulonglong, POINTER(c_int)),
    "cuGraphDestroy": (c_void_p,),
    "cuGraphExecDestroy": (c_void_p,),
    "cuGraphGetNodes": (c_void_p, c_void_p, POINTER(c_size_t)),
    "cuGraphInstantiateWithFlags": (POINTER(c_void_p), c_void_p, c_ulonglong),
    "cuGraphLaunch": (c_void_p, c_void_p),
    "cuGraphUpload": (c_void_p, c_void_p),
    "cuLaunchHostFunc": (c_void_p, HostFunction, c_void_p),
    "cuMemAlloc_v2": (POINTER(c_ulonglong), c_size_t),
    "cuMemFreeHost": (c_void_p,),
    "cuMemFree_v2": (c_ulonglong,),
    "cuMemGetInfo_v2": (POINTER(c_size_t), POINTER(c_size_t)),
    "cuMemHostAlloc": (POINTER(c_void_p), c_size_t, c_uint),
    "cuMemcpy3DAsync_v2": (POINTER(Copy3D), c_void_p),
    "cuMemcpyDtoDAsync_v2": (c_ulonglong, c_ulonglong, c_size_t, c_void_p),
    "cuMemcpyDtoHAsync_v2": (c_void_p, c_ulonglong, c_size_t, c_void_p),
    "cuMemcpyHtoDAsync_v2": (c_ulonglong, c_void_p, c_size_t, c_void_p),
    "cuMemsetD2D8Async": (c_ulonglong, c_size_t, c_ubyte, c_size_t, c_size_t, c_void_p),
    "cuMemsetD8Async": (c_ulonglong, c_ubyte, c_size_t, c_void_p),
    "cuPointerGetAttribute": (c_void_p, c_int, c_ulonglong),
    "cuStreamBeginCapture_v2": (c_void_p, c_int),
    "cuStreamCreate": (POINTER(c_void_p), c_uint),
    "cuStreamDestroy_v2": (c_void_p,),
    "cuStreamEndCapture": (c_void_p, POINTER(c_void_p)),
    "cuStreamIsCapturing": (c_void_p, POINTER(c_int)),
    "cuStreamQuery": (c_void_p,),
    "cuStreamSynchronize": (c_void_p,),
    "cuStreamWaitEvent": (c_void_p, c_void_p, c_uint),
}


class Driver:
    """The driver's functions, and those chains of them that tests repeat."""

    def __init__(self, fake: FakeCuda) -> None:
        self.fake = fake

    def code(self, name: str, *arguments: object) -> int:
        function = ctypes.CFUNCTYPE(c_int, *SIGNATURES.get(name, ()))((name, self.fake.library))
        return int(function(*arguments))

    def call(self, name: str, *arguments: object) -> None:
        code = self.code(name, *arguments)
        assert code == Code.SUCCESS, f"{name} returned {code}: {self.fake.violations()}"

    def handle(self, name: str, *arguments: object) -> int:
        created = c_void_p()
        self.call(name, byref(created), *arguments)
        assert created.value is not None
        return created.value

    def start(self, device: int = 0) -> int:
        self.call("cuInit", 0)
        context = self.handle("cuDevicePrimaryCtxRetain", device)
        self.call("cuCtxPushCurrent_v2", context)
        return context

    def allocate(self, nbytes: int) -> int:
        address = c_ulonglong()
        self.call("cuMemAlloc_v2", byref(address), nbytes)
        return address.value

    def stream(self) -> int:
        return self.handle("cuStreamCreate", 1)

    def event(self) -> int:
        return self.handle("cuEventCreate", 0)

    def end_capture(self, stream: int) -> int:
        graph = c_void_p()
        self.call("cuStreamEndCapture", stream, byref(graph))
        assert graph.value is not None
        return graph.value

    def capture(self, stream: int, record: Callable[[], None]) -> int:
        """Return the executable graph of what `record` submits; destroys the graph itself."""
        self.call("cuStreamBeginCapture_v2", stream, THREAD_LOCAL)
        record()
        graph = self.end_capture(stream)
        executable = self.handle("cuGraphInstantiateWithFlags", graph, 0)
        self.call("cuGraphDestroy", graph)
        return executable


@pytest.fixture
def fake() -> Iterator[FakeCuda]:
    with enabled_fake_cuda() as enabled:
        yield enabled


@pytest.fixture
def driver(fake: FakeCuda) -> Driver:
    """A driver with a current context on device 0."""
    started = Driver(fake)
    started.start()
    return started


def read(address: int, nbytes: int) -> bytes:
    return ctypes.string_at(address, nbytes)


def test_libcuda_is_the_fake_one_and_has_no_device_until_a_test_wants_one() -> None:
    FakeCuda().disable()

    assert ctypes.CDLL("libcuda.so.1").cuInit(0) == Code.NO_DEVICE


def test_the_library_is_built_once() -> None:
    first = build_library()
    built_at = first.stat().st_mtime_ns

    assert (build_library(), first.stat().st_mtime_ns) == (first, built_at)


def test_nothing_works_before_cu_init(fake: FakeCuda) -> None:
    assert Driver(fake).code("cuDeviceGetCount", byref(c_int())) == Code.NOT_INITIALIZED


def test_the_device_says_what_it_is(driver: Driver) -> None:
    name, major, minor, version = ctypes.create_string_buffer(64), c_int(), c_int(), c_int()
    driver.call("cuDeviceGetName", name, 64, 0)
    driver.call("cuDeviceGetAttribute", byref(major), 75, 0)
    driver.fake.compute_capability("12.1")
    driver.call("cuDeviceGetAttribute", byref(minor), 76, 0)
    driver.fake.driver_version(11040)
    driver.call("cuDriverGetVersion", byref(version))

    assert (name.value, major.value, minor.value, version.value) == (b"vdmrt fake GPU", 9, 1, 11040)


def test_codes_have_names(driver: Driver) -> None:
    name = c_char_p()
    driver.call("cuGetErrorName", 700, byref(name))

    assert name.value == b"CUDA_ERROR_ILLEGAL_ADDRESS"
    assert driver.code("cuGetErrorName", 12345, byref(name)) == Code.INVALID_VALUE


def test_functions_are_looked_up_by_base_name_and_version(driver: Driver) -> None:
    found, status = c_void_p(), c_int()

    def look_up(name: bytes, version: int) -> tuple[int | None, int]:
        driver.call("cuGetProcAddress_v2", name, byref(found), version, 0, byref(status))
        return found.value, status.value

    def exported(name: str) -> int | None:
        return ctypes.cast(getattr(driver.fake.library, name), c_void_p).value

    assert look_up(b"cuMemAlloc", 3020) == (exported("cuMemAlloc_v2"), 0)
    assert look_up(b"cuEventElapsedTime", 12040) == (exported("cuEventElapsedTime"), 0)
    assert look_up(b"cuMemAlloc", 2000) == (None, 2)
    assert look_up(b"cuNoSuchFunction", 12040) == (None, 1)
    assert driver.code("cuGetProcAddress_v2", b"cuInit", byref(found), 13000, 0, None) == Code.INVALID_VALUE


def test_calls_need_a_context(fake: FakeCuda) -> None:
    driver = Driver(fake)
    driver.call("cuInit", 0)

    assert driver.code("cuMemAlloc_v2", byref(c_ulonglong()), 16) == Code.INVALID_CONTEXT
    driver.start()
    driver.call("cuCtxPopCurrent_v2", None)
    assert driver.code("cuStreamCreate", byref(c_void_p()), 1) == Code.INVALID_CONTEXT


def test_each_thread_has_a_stack_of_contexts_of_its_own(driver: Driver) -> None:
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(driver.code("cuMemAlloc_v2", byref(c_ulonglong()), 16)))
    thread.start()
    thread.join()

    assert codes == [Code.INVALID_CONTEXT]
    assert driver.fake.live().current == 1


def test_a_context_that_goes_with_objects_in_it_is_a_violation(driver: Driver) -> None:
    driver.stream()
    driver.call("cuDevicePrimaryCtxRelease_v2", 0)

    assert len(driver.fake.violations()) == 1
    assert driver.code("cuMemAlloc_v2", byref(c_ulonglong()), 16) == Code.CONTEXT_IS_DESTROYED


def test_devices_have_memory_of_their_own() -> None:
    with enabled_fake_cuda(devices=2, memory_nbytes=4096) as fake:
        driver = Driver(fake)
        contexts = [driver.start(0), driver.start(1)]
        addresses = []
        for context in contexts:
            driver.call("cuCtxSetCurrent", context)
            addresses.append(driver.allocate(4096))
            assert driver.code("cuMemAlloc_v2", byref(c_ulonglong()), 1) == Code.OUT_OF_MEMORY
        ordinals = [c_int(-1), c_int(-1)]
        for address, ordinal in zip(addresses, ordinals, strict=True):
            driver.call("cuPointerGetAttribute", byref(ordinal), 9, address + 4095)

        assert [ordinal.value for ordinal in ordinals] == [0, 1]
        assert driver.code("cuDeviceGet", byref(c_int()), 2) == Code.INVALID_DEVICE
        assert fake.live() == Live(allocations=2, allocated_nbytes=8192, contexts=2, current=2)


def test_an_event_is_recorded_on_its_own_device_only() -> None:
    with enabled_fake_cuda(devices=2) as fake:
        driver = Driver(fake)
        driver.start(0)
        event = driver.event()
        driver.start(1)

        assert driver.code("cuEventRecord", event, driver.stream()) == Code.INVALID_HANDLE


def test_new_memory_holds_garbage_and_counts_as_used(driver: Driver) -> None:
    address = driver.allocate(1000)
    free, total = c_size_t(), c_size_t()
    driver.call("cuMemGetInfo_v2", byref(free), byref(total))

    assert read(address, 1000) == b"\xa5" * 1000
    assert (free.value, total.value) == ((1 << 30) - 1000, 1 << 30)


def test_bytes_go_up_across_and_down(driver: Driver) -> None:
    stream, first, second = driver.stream(), driver.allocate(8), driver.allocate(8)
    came = ctypes.create_string_buffer(8)
    driver.call("cuMemcpyHtoDAsync_v2", first, b"01234567", 8, stream)
    driver.call("cuMemcpyDtoDAsync_v2", second + 4, first, 4, stream)
    driver.call("cuMemsetD8Async", second, ord("z"), 4, stream)
    driver.call("cuMemcpyDtoHAsync_v2", came, second, 8, stream)

    assert came.raw == b"zzzz0123"
    assert driver.fake.bytes_moved() == {"HtoD": 8, "DtoH": 8, "DtoD": 4, "3D": 0, "memset": 4}


def test_a_box_is_copied_between_pitches_heights_and_offsets(driver: Driver) -> None:
    # Source: 3 slices of 4 rows of 10 bytes; destination: 2 slices of 3 rows of 7 bytes.
    source = bytes(range(120))
    destination = driver.allocate(42)
    driver.call("cuMemsetD8Async", destination, 0, 42, driver.stream())
    box = Copy3D(srcXInBytes=2, srcY=1, srcZ=1, srcMemoryType=HOST, srcPitch=10, srcHeight=4)
    box.srcHost = ctypes.cast(ctypes.c_char_p(source), c_void_p)
    box.dstXInBytes, box.dstY, box.dstMemoryType, box.dstDevice = 3, 1, DEVICE, destination
    box.dstPitch, box.dstHeight, box.WidthInBytes, box.Height, box.Depth = 7, 3, 4, 2, 2
    driver.call("cuMemcpy3DAsync_v2", byref(box), driver.stream())

    wanted = bytearray(42)
    for slice_ in range(2):
        for row in range(2):
            to, start = (slice_ * 3 + row + 1) * 7 + 3, ((slice_ + 1) * 4 + row + 1) * 10 + 2
            wanted[to : to + 4] = source[start : start + 4]
    assert read(destination, 42) == bytes(wanted)
    assert driver.fake.bytes_moved()["3D"] == 16


@pytest.mark.parametrize(
    "fault", [{"srcPitch": 3}, {"dstHeight": 1}, {"srcPitch": 1 << 31}, {"Depth": 3}, {"srcLOD": 1}]
)
def test_a_box_that_does_not_fit_is_refused(driver: Driver, fault: dict[str, int]) -> None:
    members = {"srcPitch": 4, "srcHeight": 2, "dstPitch": 4, "dstHeight": 2, "WidthInBytes": 4, "Height": 2, "Depth": 2}
    box = Copy3D(srcMemoryType=DEVICE, dstMemoryType=UNIFIED, **{**members, **fault})
    box.srcDevice, box.dstDevice = driver.allocate(16), driver.allocate(16)

    assert driver.code("cuMemcpy3DAsync_v2", byref(box), driver.stream()) == Code.INVALID_VALUE
    assert driver.fake.violations() != []


def test_rows_are_filled_between_pitches(driver: Driver) -> None:
    address = driver.allocate(9)
    driver.call("cuMemsetD2D8Async", address, 4, 7, 2, 2, driver.stream())

    assert read(address, 9) == b"\x07\x07\xa5\xa5\x07\x07\xa5\xa5\xa5"


def test_copies_stay_in_their_allocations(driver: Driver) -> None:
    stream, address, host = driver.stream(), driver.allocate(8), ctypes.create_string_buffer(16)
    refused = [
        ("cuMemcpyHtoDAsync_v2", address, host, 9, stream),
        ("cuMemcpyHtoDAsync_v2", address - 1, host, 1, stream),
        ("cuMemcpyHtoDAsync_v2", address, address, 4, stream),
        ("cuMemcpyDtoHAsync_v2", host, address + 8, 1, stream),
        ("cuMemcpyDtoDAsync_v2", address, ctypes.addressof(host), 4, stream),
    ]

    assert [driver.code(*call) for call in refused] == [Code.INVALID_VALUE] * 5
    assert len(driver.fake.violations()) >= 5
    assert read(address, 8) == b"\xa5" * 8


def test_a_write_over_the_end_is_found_when_the_memory_is_freed(driver: Driver) -> None:
    address = driver.allocate(8)
    ctypes.memset(address + 8, 0, 1)
    driver.call("cuMemFree_v2", address)

    assert len(driver.fake.violations()) == 1


def test_pinned_memory_is_host_memory_and_the_log_distinguishes_it_from_pageable(driver: Driver) -> None:
    pinned, kind, stream = driver.handle("cuMemHostAlloc", 8, 0), c_uint(), driver.stream()
    address = driver.allocate(8)
    driver.call("cuPointerGetAttribute", byref(kind), 2, pinned)
    driver.call("cuMemcpyHtoDAsync_v2", address, pinned, 8, stream)
    driver.call("cuMemcpyHtoDAsync_v2", address, b"12345678", 8, stream)

    assert kind.value == HOST
    assert [call.pageable for call in driver.fake.calls()[-2:]] == [False, True]
    assert driver.fake.live().pinned_nbytes == 8


def test_memory_of_others_has_no_attributes(driver: Driver) -> None:
    host = ctypes.create_string_buffer(8)

    assert driver.code("cuPointerGetAttribute", byref(c_int()), 2, ctypes.addressof(host)) == Code.INVALID_VALUE
    assert driver.fake.violations() == []


def test_captured_work_runs_at_each_launch_and_reads_memory_then(driver: Driver) -> None:
    stream, first, second = driver.stream(), driver.allocate(4), driver.allocate(4)
    graph = driver.capture(stream, lambda: driver.call("cuMemcpyDtoDAsync_v2", second, first, 4, stream))
    assert read(second, 4) == b"\xa5" * 4

    for value in (b"one ", b"two "):
        driver.call("cuMemcpyHtoDAsync_v2", first, value, 4, stream)
        driver.call("cuGraphLaunch", graph, stream)
        assert read(second, 4) == value
    assert driver.fake.bytes_moved("graphs") == {"HtoD": 0, "DtoH": 0, "DtoD": 8, "3D": 0, "memset": 0}
    assert driver.fake.bytes_moved("calls")["DtoD"] == 0


def test_a_graph_has_its_nodes_in_order_and_outlives_what_it_was_made_from(driver: Driver) -> None:
    stream, address, count, seen = driver.stream(), driver.allocate(4), c_size_t(), []
    function = HostFunction(lambda data: seen.append(read(address, 1)))
    driver.call("cuStreamBeginCapture_v2", stream, THREAD_LOCAL)
    for value in (1, 2):
        driver.call("cuMemsetD8Async", address, value, 4, stream)
        driver.call("cuLaunchHostFunc", stream, function, None)
    graph = driver.end_capture(stream)
    driver.call("cuGraphGetNodes", graph, None, byref(count))
    executable = driver.handle("cuGraphInstantiateWithFlags", graph, 0)
    driver.call("cuGraphDestroy", graph)
    driver.call("cuGraphUpload", executable, stream)
    driver.call("cuGraphLaunch", executable, stream)

    assert count.value == 4
    assert seen == [b"\x01", b"\x02"]
    assert [call.captured for call in driver.fake.calls() if call.kind] == [True, True]


@pytest.mark.parametrize("name", ["cuStreamSynchronize", "cuStreamQuery", "cuCtxSynchronize"])
def test_waiting_for_a_capturing_stream_breaks_the_capture(driver: Driver, name: str) -> None:
    stream, graph, status = driver.stream(), c_void_p(1), c_int()
    driver.call("cuStreamBeginCapture_v2", stream, RELAXED)
    code = driver.code(name, *([] if name == "cuCtxSynchronize" else [stream]))
    driver.call("cuStreamIsCapturing", stream, byref(status))

    assert (code, status.value) == (Code.STREAM_CAPTURE_UNSUPPORTED, 2)
    assert driver.code("cuStreamEndCapture", stream, byref(graph)) == Code.STREAM_CAPTURE_INVALIDATED
    assert graph.value is None
    driver.call("cuStreamSynchronize", stream)


@pytest.mark.parametrize(("mode", "own", "other"), [(GLOBAL, 900, 900), (THREAD_LOCAL, 900, 0), (RELAXED, 0, 0)])
def test_the_mode_of_a_capture_says_which_threads_may_allocate(driver: Driver, mode: int, own: int, other: int) -> None:
    stream, codes = driver.stream(), []

    def allocate_elsewhere() -> None:
        driver.start()
        codes.append(driver.code("cuMemAlloc_v2", byref(c_ulonglong()), 16))

    driver.call("cuStreamBeginCapture_v2", stream, mode)
    thread = threading.Thread(target=allocate_elsewhere)
    thread.start()
    thread.join()

    assert codes == [other]
    assert driver.code("cuMemAlloc_v2", byref(c_ulonglong()), 16) == own


def test_a_capture_ends_in_the_thread_that_began_it(driver: Driver) -> None:
    stream, codes = driver.stream(), []

    def end_elsewhere() -> None:
        driver.start()
        codes.append(driver.code("cuStreamEndCapture", stream, byref(c_void_p())))

    driver.call("cuStreamBeginCapture_v2", stream, THREAD_LOCAL)
    thread = threading.Thread(target=end_elsewhere)
    thread.start()
    thread.join()

    assert codes == [Code.STREAM_CAPTURE_WRONG_THREAD]
    assert driver.end_capture(stream) != 0


def test_events_do_not_cross_the_border_of_a_capture(driver: Driver) -> None:
    stream, event, captured = driver.stream(), driver.event(), driver.event()
    driver.call("cuEventRecord", event, stream)
    driver.call("cuStreamBeginCapture_v2", stream, RELAXED)
    driver.call("cuEventRecord", captured, stream)
    driver.call("cuStreamWaitEvent", stream, captured, 0)

    assert driver.code("cuEventQuery", captured) == Code.CAPTURED_EVENT
    assert driver.code("cuStreamWaitEvent", stream, event, 0) == Code.STREAM_CAPTURE_ISOLATION
    assert driver.code("cuStreamEndCapture", stream, byref(c_void_p())) == Code.STREAM_CAPTURE_INVALIDATED


def test_a_graph_that_names_freed_memory_is_a_violation_when_launched(driver: Driver) -> None:
    stream, address = driver.stream(), driver.allocate(4)
    graph = driver.capture(stream, lambda: driver.call("cuMemsetD8Async", address, 0, 4, stream))
    driver.call("cuMemFree_v2", address)
    assert driver.fake.violations() == []
    driver.call("cuGraphLaunch", graph, stream)

    assert len(driver.fake.violations()) == 1


def test_events_tell_the_time_between_them(driver: Driver) -> None:
    stream, start, end, milliseconds = driver.stream(), driver.event(), driver.event(), c_float(-1)
    assert driver.code("cuEventElapsedTime", byref(milliseconds), start, end) == Code.INVALID_HANDLE
    driver.call("cuEventRecord", start, stream)
    driver.call("cuEventRecord", end, stream)
    driver.call("cuEventElapsedTime", byref(milliseconds), start, end)

    assert 0 <= milliseconds.value < 1000


def test_a_host_function_gets_its_data_and_must_not_call_the_driver(driver: Driver) -> None:
    stream, codes, given = driver.stream(), [], []

    def function(data: int) -> None:
        given.append(data)
        codes.append(driver.code("cuStreamQuery", stream))

    driver.call("cuLaunchHostFunc", stream, HostFunction(function), 1234)

    assert (given, codes) == ([1234], [Code.NOT_PERMITTED])
    assert len(driver.fake.violations()) == 1


def test_streams_go_on_while_a_host_function_runs_and_keep_their_order(driver: Driver) -> None:
    stream, address = driver.stream(), driver.allocate(1)
    running, go_on = threading.Event(), threading.Event()

    def function(data: int) -> None:
        running.set()
        assert go_on.wait(10)
        ctypes.memset(address, 1, 1)

    def launch() -> None:
        driver.start()
        driver.call("cuLaunchHostFunc", stream, HostFunction(function), None)

    thread = threading.Thread(target=launch)
    thread.start()
    assert running.wait(10)
    driver.call("cuMemsetD8Async", address, 2, 1, stream)
    assert driver.code("cuStreamQuery", stream) == Code.NOT_READY
    before = read(address, 1)
    go_on.set()
    driver.call("cuStreamSynchronize", stream)
    thread.join()

    assert (before, read(address, 1)) == (b"\xa5", b"\x02")


def lagging(driver: Driver, polls: int) -> tuple[int, int, int]:
    """Return a stream, an address and a graph that sets its four bytes to 1; launches of it lag."""
    stream, address = driver.stream(), driver.allocate(4)
    graph = driver.capture(stream, lambda: driver.call("cuMemsetD8Async", address, 1, 4, stream))
    driver.fake.lag(polls)
    return stream, address, graph


def test_a_lagging_graph_runs_at_its_last_poll(driver: Driver) -> None:
    stream, address, graph = lagging(driver, 3)
    event = driver.event()
    driver.call("cuGraphLaunch", graph, stream)
    driver.call("cuEventRecord", event, stream)

    assert [driver.code("cuEventQuery", event) for _ in range(2)] == [Code.NOT_READY] * 2
    assert driver.code("cuEventElapsedTime", byref(c_float()), event, event) == Code.NOT_READY
    assert read(address, 1) == b"\xa5"
    assert driver.code("cuEventQuery", event) == Code.SUCCESS
    assert read(address, 1) == b"\x01"


def test_lagging_work_keeps_its_order_and_a_synchronized_event_ends_what_is_before_it(driver: Driver) -> None:
    stream, address, graph = lagging(driver, 5)
    events = [driver.event(), driver.event()]
    for value, event in zip((2, 3), events, strict=True):
        driver.call("cuGraphLaunch", graph, stream)
        driver.call("cuMemsetD8Async", address, value, 1, stream)
        driver.call("cuEventRecord", event, stream)
    driver.call("cuEventSynchronize", events[0])

    assert read(address, 2) == b"\x02\x01"
    assert driver.code("cuEventQuery", events[1]) == Code.NOT_READY
    driver.call("cuStreamSynchronize", stream)
    assert read(address, 2) == b"\x03\x01"


def test_another_stream_waits_for_a_lagging_one(driver: Driver) -> None:
    stream, address, graph = lagging(driver, 5)
    other, event = driver.stream(), driver.event()
    driver.call("cuGraphLaunch", graph, stream)
    driver.call("cuEventRecord", event, stream)
    driver.call("cuStreamWaitEvent", other, event, 0)
    driver.call("cuMemsetD8Async", address, 9, 1, other)
    before = read(address, 1)
    driver.call("cuStreamSynchronize", other)

    assert (before, read(address, 2)) == (b"\xa5", b"\x09\x01")


@pytest.mark.parametrize("what", ["memory", "event", "stream"])
def test_nothing_may_be_destroyed_while_a_lagging_stream_may_use_it(driver: Driver, what: str) -> None:
    stream, address, graph = lagging(driver, 5)
    event, unused = driver.event(), driver.allocate(4)
    driver.call("cuGraphLaunch", graph, stream)
    driver.call("cuEventRecord", event, stream)
    driver.call("cuMemFree_v2", unused)
    assert driver.fake.violations() == []
    calls = {"memory": "cuMemFree_v2", "event": "cuEventDestroy_v2", "stream": "cuStreamDestroy_v2"}
    driver.call(calls[what], {"memory": address, "event": event, "stream": stream}[what])

    assert len(driver.fake.violations()) == 1


def test_a_graph_may_be_destroyed_in_flight(driver: Driver) -> None:
    stream, address, graph = lagging(driver, 5)
    driver.call("cuGraphLaunch", graph, stream)
    driver.call("cuGraphExecDestroy", graph)
    driver.call("cuStreamSynchronize", stream)

    assert read(address, 1) == b"\x01"
    assert driver.fake.violations() == []


def test_the_nth_call_of_a_function_fails_once_and_does_nothing(driver: Driver) -> None:
    stream, address = driver.stream(), driver.allocate(1)
    driver.fake.fail(Code.UNKNOWN, nth=2, name="cuMemsetD8Async")
    codes = [driver.code("cuMemsetD8Async", address, value, 1, stream) for value in (1, 2)]

    assert (codes, read(address, 1)) == ([0, Code.UNKNOWN], b"\x01")
    assert (driver.fake.failed(), driver.fake.calls()[-1].injected) == ("cuMemsetD8Async", True)
    driver.call("cuMemsetD8Async", address, 3, 1, stream)


def test_the_nth_call_of_any_function_fails(driver: Driver) -> None:
    driver.fake.fail(Code.OUT_OF_MEMORY, nth=3)
    stream = driver.stream()

    assert driver.fake.failed() is None
    assert driver.allocate(1) != 0
    assert driver.code("cuStreamSynchronize", stream) == Code.OUT_OF_MEMORY
    assert driver.fake.failed() == "cuStreamSynchronize"


def test_after_a_sticky_failure_only_releases_work(driver: Driver) -> None:
    stream, address = driver.stream(), driver.allocate(1)
    driver.fake.fail(Code.ILLEGAL_ADDRESS, name="cuStreamSynchronize", sticky=True)

    assert driver.code("cuMemsetD8Async", address, 0, 1, stream) == Code.SUCCESS
    assert driver.code("cuStreamSynchronize", stream) == Code.ILLEGAL_ADDRESS
    assert driver.code("cuMemsetD8Async", address, 0, 1, stream) == Code.ILLEGAL_ADDRESS
    driver.call("cuMemFree_v2", address)
    driver.call("cuStreamDestroy_v2", stream)
    driver.call("cuCtxPopCurrent_v2", None)
    driver.call("cuDevicePrimaryCtxRelease_v2", 0)
    assert (driver.fake.live(), driver.fake.violations()) == (Live(), [])


def test_a_failed_release_withholds_until_it_is_tried_again(driver: Driver) -> None:
    address, before = driver.allocate(64), driver.fake.live()
    driver.fake.fail(Code.UNKNOWN, name="cuMemFree_v2")
    code = driver.code("cuMemFree_v2", address)

    assert (code, driver.fake.withheld()) == (Code.UNKNOWN, 1)
    assert (before.allocations, driver.fake.live().allocations) == (1, 0)
    driver.call("cuMemFree_v2", address)
    assert driver.fake.withheld() == 0


@pytest.mark.parametrize(
    ("create", "release"),
    [
        ("cuStreamCreate", "cuStreamDestroy_v2"),
        ("cuEventCreate", "cuEventDestroy_v2"),
        ("cuDevicePrimaryCtxRetain", "cuDevicePrimaryCtxRelease_v2"),
    ],
)
def test_every_release_can_fail(driver: Driver, create: str, release: str) -> None:
    before, created = driver.fake.live(), driver.handle(create, 0)
    driver.fake.fail(Code.UNKNOWN, name=release)

    assert driver.code(release, 0 if create.startswith("cuDevice") else created) == Code.UNKNOWN
    assert (driver.fake.live(), driver.fake.withheld()) == (before, 1)


def test_a_failed_end_of_capture_ends_it(driver: Driver) -> None:
    stream, status = driver.stream(), c_int(-1)
    driver.call("cuStreamBeginCapture_v2", stream, THREAD_LOCAL)
    driver.fake.fail(Code.UNKNOWN)

    assert driver.code("cuStreamEndCapture", stream, byref(c_void_p())) == Code.UNKNOWN
    driver.call("cuStreamIsCapturing", stream, byref(status))
    assert status.value == 0


def test_what_exists_is_counted_until_it_is_released(driver: Driver) -> None:
    stream, event, address = driver.stream(), driver.event(), driver.allocate(100)
    pinned = driver.handle("cuMemHostAlloc", 50, 0)
    driver.call("cuStreamBeginCapture_v2", stream, THREAD_LOCAL)
    graph = driver.end_capture(stream)
    executable = driver.handle("cuGraphInstantiateWithFlags", graph, 0)

    assert driver.fake.live() == Live(1, 100, 1, 50, 1, 1, 1, 1, 1, 1)
    releases = ["cuGraphExecDestroy", "cuGraphDestroy", "cuMemFreeHost", "cuMemFree_v2", "cuEventDestroy_v2"]
    for name, created in zip(releases, [executable, graph, pinned, address, event], strict=True):
        driver.call(name, created)
    driver.call("cuStreamDestroy_v2", stream)
    assert driver.fake.live() == Live(contexts=1, current=1)
    assert driver.fake.violations() == []


def test_what_was_destroyed_is_no_handle_any_more(driver: Driver) -> None:
    stream, event, address = driver.stream(), driver.event(), driver.allocate(1)
    again = []
    for name, handle in (("cuMemFree_v2", address), ("cuEventDestroy_v2", event), ("cuStreamDestroy_v2", stream)):
        driver.call(name, handle)
        again.append(driver.code(name, handle))

    assert again == [Code.INVALID_VALUE, Code.INVALID_HANDLE, Code.INVALID_HANDLE]
    assert len(driver.fake.violations()) == 3


def test_handles_of_an_earlier_machine_are_refused_in_silence(driver: Driver) -> None:
    stream = driver.stream()
    driver.fake.enable()
    driver.start()

    assert driver.code("cuStreamDestroy_v2", stream) == Code.INVALID_HANDLE
    assert driver.fake.violations() == []


def test_calls_are_logged_and_counted_until_cleared(driver: Driver) -> None:
    stream, address = driver.stream(), driver.allocate(8)
    driver.fake.clear_calls()
    for _ in range(2000):
        driver.call("cuMemsetD8Async", address, 0, 8, stream)

    call = driver.fake.calls()[-1]
    assert (call.name, call.code, call.kind, call.nbytes, call.stream) == ("cuMemsetD8Async", 0, "memset", 8, stream)
    assert (len(driver.fake.calls()), driver.fake.counts()) == (2000, {"cuMemsetD8Async": 2000})
    driver.fake.clear_calls()
    assert (driver.fake.calls(), driver.fake.counts(), sum(driver.fake.bytes_moved().values())) == ([], {}, 0)


def test_threads_may_use_the_driver_at_once(driver: Driver) -> None:
    failures: list[BaseException] = []

    def work(value: int) -> None:
        try:
            driver.start()
            stream, address = driver.stream(), driver.allocate(64)
            record = Driver.call, driver, "cuMemsetD8Async", address, value, 64, stream
            graph = driver.capture(stream, lambda: record[0](*record[1:]))
            for _ in range(200):
                driver.call("cuGraphLaunch", graph, stream)
                driver.call("cuStreamSynchronize", stream)
                assert read(address, 64) == bytes([value]) * 64
            driver.call("cuGraphExecDestroy", graph)
            driver.call("cuMemFree_v2", address)
            driver.call("cuStreamDestroy_v2", stream)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(value,)) for value in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert driver.fake.violations() == []
    assert driver.fake.live() == Live(contexts=5, current=1)
