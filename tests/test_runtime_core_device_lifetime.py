"""Who frees device memory and when: close, the last reference, threads, and a module that goes away."""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import resource
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import pytest

from vdmrt.errors import DeviceError
from vdmrt.runtime import _core
from vdmrt.runtime._core import Device, host_device

CONSUMER = """
#include <stdio.h>
static struct { char tensor[56]; void (*deleter)(void *); } *managed; /* DLManagedTensor */
void keep(void *tensor) { managed = tensor; }
__attribute__((destructor)) static void end(void) { managed->deleter(managed); puts("released"); }
"""
CONSUMING_SCRIPT = """
import ctypes, sys
from vdmrt.runtime._core import host_device
memory = host_device().allocate(24)
capsule = ctypes.py_object(memory.dlpack(memory.address, (6,), 2, 32))
ctypes.pythonapi.PyCapsule_GetPointer.restype = ctypes.c_void_p
tensor = ctypes.pythonapi.PyCapsule_GetPointer(capsule, b"dltensor")
ctypes.pythonapi.Py_IncRef(capsule)  # never deleted, so that the tensor is the library's alone
ctypes.CDLL(sys.argv[1]).keep(ctypes.c_void_p(tensor))
"""


def test_closing_twice_is_allowed() -> None:
    device = host_device()
    memory = device.allocate(10)
    memory.close()
    memory.close()

    assert (memory.closed, memory.nbytes, device.allocated_nbytes) == (True, 10, 0)


def test_closed_memory_has_no_address() -> None:
    memory = host_device().allocate(10)
    assert not memory.closed

    memory.close()
    with pytest.raises(RuntimeError, match="^this memory of 10 bytes is closed and has no address$"):
        _ = memory.address


def test_memory_outlives_the_last_name_of_its_device() -> None:
    device = host_device()
    memory = device.allocate(64)
    del device
    gc.collect()
    ctypes.memset(memory.address, 3, 64)

    assert ctypes.string_at(memory.address, 64) == bytes([3]) * 64


def test_threads_that_close_together_free_once() -> None:
    device = host_device()
    for _ in range(200):
        memory = device.allocate(4096)
        threads = [threading.Thread(target=memory.close) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert device.allocated_nbytes == 0


def test_thousands_of_allocations_leave_nothing_behind() -> None:
    """10 GiB in all, half of it freed by close and half with the object."""
    device = host_device()
    device.allocate(2**20).close()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(5000):
        device.allocate(2**20).close()
        device.allocate(2**20)

    assert device.allocated_nbytes == 0
    unit_nbytes = 1 if sys.platform == "darwin" else 1024
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit_nbytes < 64 * 2**20


def test_objects_are_seen_by_the_garbage_collector() -> None:
    memory = host_device().allocate(8)

    assert gc.is_tracked(memory)
    assert [type(one) for one in gc.get_referents(memory)] == [Device, type]


def test_objects_give_their_type_back() -> None:
    device = host_device()
    types = (_core.Device, _core.Memory, _core.Ring)
    before = [sys.getrefcount(one) for one in types]
    for _ in range(1000):
        device.allocate(8)
        host_device()
        _core.Ring(3).segments(2)

    assert [sys.getrefcount(one) for one in types] == before


def test_module_loaded_twice_shares_nothing_and_goes_away() -> None:
    spec = importlib.util.find_spec("vdmrt.runtime._core")
    assert spec is not None and spec.loader is not None
    second = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(second)
    with pytest.raises(DeviceError, match="wanted 4611686018427387904 bytes"):
        second.host_device().allocate(2**62)
    assert second.Memory is not _core.Memory

    gone = [weakref.ref(second.Device), weakref.ref(second.Memory), weakref.ref(second.Ring)]
    del second, spec
    gc.collect()
    assert [one() for one in gone] == [None, None, None]


def test_a_consumer_of_dlpack_may_outlive_python(tmp_path: Path) -> None:
    """A library that the process unloads last releases a tensor whose interpreter is gone."""
    library = tmp_path / "consumer.so"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(library)], input=CONSUMER, text=True, check=True
    )

    command = [sys.executable, "-c", CONSUMING_SCRIPT, str(library)]
    done = subprocess.run(command, capture_output=True, text=True)

    assert (done.returncode, done.stdout, done.stderr) == (0, "released\n", "")
