"""The fake CUDA driver of tests/fake_cuda: built once, loaded instead of libcuda.so.1, and enabled by tests.

Once it is loaded, every `dlopen("libcuda.so.1")` of the process returns it. Until a test enables it, it simulates a
machine without a GPU.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import hashlib
import importlib
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Literal

import pytest
from sanitizers import chosen_flags

SOURCES = Path(__file__).parents[1] / "fake_cuda"
FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-O1", "-g", "-fPIC", "-fvisibility=hidden")
LINK_FLAGS = ("-shared", "-pthread", "-Wl,-soname,libcuda.so.1")
MEMORY_NBYTES = 1 << 30


class Code(IntEnum):
    """Error codes of the driver that tests use."""

    SUCCESS = 0
    INVALID_VALUE = 1
    OUT_OF_MEMORY = 2
    NOT_INITIALIZED = 3
    DEINITIALIZED = 4
    NO_DEVICE = 100
    INVALID_DEVICE = 101
    INVALID_CONTEXT = 201
    INVALID_HANDLE = 400
    ILLEGAL_STATE = 401
    NOT_READY = 600
    ILLEGAL_ADDRESS = 700
    LAUNCH_FAILED = 719
    CONTEXT_IS_DESTROYED = 709
    NOT_PERMITTED = 800
    STREAM_CAPTURE_UNSUPPORTED = 900
    STREAM_CAPTURE_INVALIDATED = 901
    STREAM_CAPTURE_ISOLATION = 905
    CAPTURED_EVENT = 907
    STREAM_CAPTURE_WRONG_THREAD = 908
    UNKNOWN = 999


@dataclass(frozen=True)
class Call:
    """One call of the driver.

    Attributes:
        name: Exported name, as "cuMemAlloc_v2".
        code: The returned code.
        kind: "HtoD", "DtoH", "DtoD", "3D" or "memset"; "" if it moves nothing.
        nbytes: Bytes that it moves, or would at each launch.
        stream: Handle of its stream; 0 if it has none.
        captured: Whether it became a node of a graph.
        pageable: Whether it moves host memory that is not pinned.
        injected: Whether an injected failure made it fail.
    """

    name: str
    code: int
    kind: str
    nbytes: int
    stream: int
    captured: bool
    pageable: bool
    injected: bool


@dataclass(frozen=True)
class Live:
    """Counts of the driver's live objects; `Live()` has none.

    Attributes:
        contexts: Retained primary contexts that were not released.
        current: Contexts on the calling thread's stack.
    """

    allocations: int = 0
    allocated_nbytes: int = 0
    pinned: int = 0
    pinned_nbytes: int = 0
    streams: int = 0
    events: int = 0
    graphs: int = 0
    graph_execs: int = 0
    contexts: int = 0
    current: int = 0


class _Live(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in (*Live.__dataclass_fields__, "withheld")]


class _Moved(ctypes.Structure):
    _fields_ = [(kind, ctypes.c_uint64 * 2) for kind in ("HtoD", "DtoH", "DtoD", "3D", "memset")]


class FakeCuda:
    """The process's fake driver, shared by all instances.

    Attributes:
        library: Its functions, for tests that call the driver themselves.
    """

    def __init__(self) -> None:
        self.library = _load()

    def enable(self, devices: int = 1, memory_nbytes: int = MEMORY_NBYTES) -> None:
        """Simulate a fresh machine with 1 to 8 GPUs of `memory_nbytes` each, before cuInit.

        Handles of the previous machine are invalid, and its memory is not reused. Clears log, counters, violations,
        failures and lag.
        """
        self.library.fake_cuda_enable(ctypes.c_int(devices), ctypes.c_uint64(memory_nbytes))

    def disable(self) -> None:
        """Simulate a machine without a GPU."""
        self.library.fake_cuda_disable()

    def driver_version(self, version: int) -> None:
        """Report this version, 1000 * major + 10 * minor; 12040 after `enable`."""
        self.library.fake_cuda_driver_version(ctypes.c_int(version))

    def compute_capability(self, capability: str) -> None:
        """Set the compute capability of every GPU; "9.0" after `enable`."""
        major, minor = map(int, capability.split("."))
        self.library.fake_cuda_compute_capability(ctypes.c_int(10 * major + minor))

    def rename(self, device: int, name: str) -> None:
        """Set a GPU's name; "vdmrt fake GPU" after `enable`."""
        self.library.fake_cuda_rename(ctypes.c_int(device), ctypes.c_char_p(name.encode()))

    def lag(self, polls: int) -> None:
        """Keep graphs launched from now on pending, with all later work of their stream.

        Args:
            polls: Number of the query (cuEventQuery or cuStreamQuery) that ends it; a synchronization ends it at once.
                0 runs graphs when they are launched.
        """
        self.library.fake_cuda_lag(ctypes.c_uint(polls))

    def fail(self, code: int, nth: int = 1, name: str | None = None, sticky: bool = False) -> None:
        """Make one call return `code` without any effect; replaces an earlier injected failure.

        cuStreamEndCapture still ends the capture. Objects that a failed release did not release are counted in
        `withheld` instead of `live`.

        Args:
            code: The code to return.
            nth: Number of the call, counted from now; 1 is the next, 0 none.
            name: Exported name of the function; None counts calls of all functions.
            sticky: Whether later calls also return `code`, except releases, the context stack, error names and
                versions, as after an illegal address.
        """
        chosen = None if name is None else ctypes.c_char_p(name.encode())
        self.library.fake_cuda_fail(chosen, ctypes.c_uint64(nth), ctypes.c_int(code), ctypes.c_int(sticky))

    def failed(self) -> str | None:
        """Return the name of the call that the injected failure made fail; None if it was not reached."""
        return self._text(self.library.fake_cuda_failed) or None

    def calls(self) -> list[Call]:
        """Return the calls since `clear_calls` in the order of their return, at most 2^20."""
        return [_call(line) for line in self._text(self.library.fake_cuda_calls).splitlines()]

    def counts(self) -> dict[str, int]:
        """Return the number of calls of each function since `clear_calls`."""
        lines = self._text(self.library.fake_cuda_counts).splitlines()
        return {name: int(calls) for name, calls in (line.split("\t") for line in lines)}

    def bytes_moved(self, by: Literal["all", "calls", "graphs"] = "all") -> dict[str, int]:
        """Return the bytes of each kind of copy since `clear_calls`.

        Args:
            by: Whether to count copies by calls, by nodes of launched graphs, or both.
        """
        moved = _Moved()
        self.library.fake_cuda_bytes_moved(ctypes.byref(moved))
        chosen = {"all": slice(0, 2), "calls": slice(0, 1), "graphs": slice(1, 2)}[by]
        return {kind: sum(getattr(moved, kind)[chosen]) for kind, *_ in _Moved._fields_}

    def clear_calls(self) -> None:
        """Clear calls, counts and bytes moved."""
        self.library.fake_cuda_clear_calls()

    def live(self) -> Live:
        """Return the counts of live objects, without the withheld ones."""
        counted = self._count_live()
        return Live(**{name: getattr(counted, name) for name in Live.__dataclass_fields__})

    def withheld(self) -> int:
        """Return the number of objects that exist only because an injected failure prevented their release."""
        return int(self._count_live().withheld)

    def violations(self) -> list[str]:
        """Return the callers' invalid uses of the driver, one sentence each, at most 256."""
        return self._text(self.library.fake_cuda_violations).splitlines()

    def _count_live(self) -> _Live:
        counted = _Live()
        self.library.fake_cuda_count_live(ctypes.byref(counted))
        return counted

    @staticmethod
    def _text(write: Callable[..., int]) -> str:
        buffer = ctypes.create_string_buffer(1 << 12)
        while (length := write(buffer, ctypes.c_size_t(len(buffer)))) >= len(buffer):
            buffer = ctypes.create_string_buffer(2 * length + 1)
        return buffer.value.decode()


@contextmanager
def enabled_fake_cuda(devices: int = 1, memory_nbytes: int = MEMORY_NBYTES) -> Iterator[FakeCuda]:
    """Simulate a machine with GPUs inside the block, and one without after it."""
    fake = FakeCuda()
    fake.enable(devices, memory_nbytes)
    try:
        yield fake
    finally:
        if any(vars(fake.live()).values()):  # in a reference cycle: collected later it would meet another machine
            gc.collect()
        fake.disable()


@pytest.fixture
def fake_cuda() -> Iterator[FakeCuda]:
    """Enable one fake GPU of 1 GiB for this test."""
    with enabled_fake_cuda() as fake:
        yield fake


def build_library() -> Path:
    """Return the compiled driver in the folder for temporary files, named by the hash of its sources."""
    sources = sorted(SOURCES.glob("*.[ch]"))
    flags = (*FLAGS, *chosen_flags())
    text = b"".join(path.read_bytes() for path in sources) + " ".join(flags + LINK_FLAGS).encode()
    folder = Path(tempfile.gettempdir()) / f"vdmrt-fake-cuda-{os.getuid()}"
    library = folder / f"libcuda-{hashlib.sha256(text).hexdigest()[:16]}.so.1"
    if not library.exists():
        folder.mkdir(mode=0o700, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            built = Path(scratch) / library.name
            inputs = [str(path) for path in sources if path.suffix == ".c"]
            subprocess.run(["gcc", *flags, *inputs, *LINK_FLAGS, "-o", str(built)], check=True)
            built.replace(library)  # atomic, so that another test run never reads a partial file
    return library


@functools.cache
def _load() -> ctypes.CDLL:
    # If a library of that SONAME is already loaded, dlopen("libcuda.so.1") returns that one.
    library = ctypes.CDLL(str(build_library()), mode=ctypes.RTLD_GLOBAL)
    if not hasattr(ctypes.CDLL("libcuda.so.1"), "fake_cuda_enable"):
        raise RuntimeError("libcuda.so.1 is a real driver here: load the fake one before anything opens the real one")
    for name in ("failed", "calls", "counts", "violations"):
        getattr(library, f"fake_cuda_{name}").restype = ctypes.c_size_t
    # cuda-python looks up the driver's functions once per process: do it now, while the driver's version has them all.
    library.fake_cuda_disable()
    importlib.import_module("cuda.bindings.driver").cuDriverGetVersion()
    return library


def _call(line: str) -> Call:
    name, code, kind, nbytes, stream, flags = line.split("\t")
    return Call(name, int(code), kind, int(nbytes), int(stream), "c" in flags, "p" in flags, "i" in flags)
