"""What does not fit into the host's memory is refused before it is allocated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from fake_cuda import FakeCuda

import vdmrt
from vdmrt.bundle import FP32
from vdmrt.errors import DeviceError
from vdmrt.runtime._core import cuda_device, host_device
from vdmrt.runtime.cache.lane_cache import LaneCache, lane_cache_nbytes
from vdmrt.runtime.device.memory_limits import free_nbytes, require_memory
from vdmrt.runtime.lane.lane import Lane


def test_what_fits_is_let_through() -> None:
    require_memory(host_device(), 4096, "a page", "none")


def test_what_does_not_fit_is_refused_with_both_numbers() -> None:
    with pytest.raises(DeviceError, match=r"a star needs 1024 TiB of memory, and host has [\d.]+ \wiB available; go"):
        require_memory(host_device(), 2**50, "a star", "go away")


def test_a_gpu_is_asked_for_its_own_memory(fake_cuda: FakeCuda) -> None:
    assert free_nbytes(cuda_device(0)) == 2**30


def test_a_lanes_cache_allocates_what_was_computed(tiny_bundle: Path) -> None:
    bundle, device = vdmrt.bundle.open_bundle(tiny_bundle), host_device()
    graphs, geometry = bundle.graphs(FP32), bundle.manifest.geometry

    cache = LaneCache(device, geometry, graphs)

    assert device.allocated_nbytes == lane_cache_nbytes(geometry, graphs)
    cache.close()


def test_a_lane_that_cannot_fit_is_refused_before_it_is_allocated(tiny_bundle: Path) -> None:
    with vdmrt.load(tiny_bundle, device="cpu", precision="fp32", threads=1) as model:
        graphs = model.bundle.graphs(FP32)
        programs = {stage: model.program(stage) for stage in ("fill", "denoise")}
        geometry = replace(model.manifest.geometry, layers=10**9)
        with pytest.raises(DeviceError, match="the KV cache of a lane needs .*iB available; close sessions or other"):
            Lane(model.backend, geometry, graphs, programs)
