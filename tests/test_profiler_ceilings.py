"""Ceilings of a GPU on the fake driver: timing, descriptions, and release of memory."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fake_cuda import Code, FakeCuda, Live
from host_function_backend import HostFunctionBackend

from vdmrt.bundle import FP16, open_bundle
from vdmrt.errors import BackendError, DeviceError
from vdmrt.profiler.analysis.cublas import Cublas, list_libraries
from vdmrt.profiler.analysis.gpu_ceilings import measure_gpu_ceilings
from vdmrt.profiler.analysis.roofline import best_ceilings, measure_ceilings, place_stages
from vdmrt.profiler.analysis.statistics import summarize
from vdmrt.profiler.report.report import Ceilings
from vdmrt.runtime import Model, load
from vdmrt.runtime._core import Device, cuda_device

SKY = Path(__file__).parents[1] / "examples" / "sky" / "bundle"
# The fake driver has cuBLAS's four functions beside its own.
LIBRARIES = ("libcublas.so.no", "libm.so.6", "libcuda.so.1")


@pytest.fixture
def device(fake_cuda: FakeCuda) -> Iterator[Device]:
    made = cuda_device(0)
    yield made
    made.close()
    assert fake_cuda.violations() == []
    assert fake_cuda.library.fake_cublas_live() == 0


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_products_are_of_row_major_matrices(dtype: str, device: Device) -> None:
    side = 24
    left, right = (np.random.default_rng(seed).standard_normal((side, side)).astype(dtype) for seed in (1, 2))
    found = np.zeros_like(left)
    memories = [device.allocate(found.nbytes) for _ in range(3)]
    for memory, matrix in zip(memories[1:], (left, right), strict=True):
        device.upload(memory.address, matrix.ctypes.data, matrix.nbytes)
    with Cublas(device, LIBRARIES) as cublas:
        cublas.multiply(*(memory.address for memory in memories), side=side, dtype=dtype)
        device.download(found.ctypes.data, memories[0].address, found.nbytes)
        device.synchronize()
    for memory in memories:
        memory.close()

    wanted = left.astype(np.float64) @ right.astype(np.float64)
    assert cublas.library == "libcuda.so.1"
    np.testing.assert_allclose(found, wanted, atol=1e-5 if dtype == "float32" else 1e-2)


def test_the_ceilings_are_timed_by_device_events(device: Device, fake_cuda: FakeCuda) -> None:
    fake_cuda.clear_calls()
    ceilings, missing = measure_gpu_ceilings(
        device, "float16", copy_nbytes=4 << 20, sides=(16, 32), libraries=LIBRARIES
    )

    assert missing is None
    assert ceilings.flops_per_second and ceilings.bytes_per_second > 0
    assert ceilings.copy.startswith("4 MiB within the device, read and written bytes, best of 14 rows of 8")
    assert ceilings.product and ceilings.product.startswith(("float16 16×16", "float16 32×32"))
    # One warm-up row, and seven of eight copies; the products are host functions.
    assert fake_cuda.bytes_moved()["DtoD"] == (1 + 7) * 8 * (4 << 20)
    assert fake_cuda.counts()["cuLaunchHostFunc"] == 2 * (1 + 7) * 8
    left = fake_cuda.live()
    assert (left.allocations, left.events) == (0, 0)


def test_a_copy_uses_at_most_a_quarter_of_free_memory(fake_cuda: FakeCuda) -> None:
    fake_cuda.enable(memory_nbytes=32 << 20)
    device = cuda_device(0)
    ceilings, _ = measure_gpu_ceilings(device, "float16", sides=(16,), libraries=LIBRARIES)
    device.close()

    assert re.match(r"[78](\.\d+)? MiB", ceilings.copy)


def test_without_cublas_there_is_a_copy_and_a_note_what_to_install(device: Device) -> None:
    ceilings, missing = measure_gpu_ceilings(device, "float32", copy_nbytes=1 << 20, libraries=())

    assert (ceilings.flops_per_second, ceilings.product) == (None, None)
    assert missing == (
        "no roofline: cuBLAS was not found; pip install nvidia-cublas-cu12 (or nvidia-cublas for CUDA 13), "
        "or install the CUDA toolkit's cuBLAS"
    )
    assert "GFLOP" not in ceilings.describe() and "GB/s" in ceilings.describe()


def test_a_cublas_that_does_not_start_is_named(device: Device, fake_cuda: FakeCuda) -> None:
    fake_cuda.fail(Code.NOT_INITIALIZED, name="cuCtxGetCurrent")

    with pytest.raises(BackendError, match=r"not found: libcuda.so.1 \(cublasCreate returned 1\); pip install"):
        Cublas(device, ["libcuda.so.1"])


def test_the_error_of_a_refused_product_contains_its_status(device: Device) -> None:
    with Cublas(device, LIBRARIES) as cublas:
        with pytest.raises(DeviceError, match="cublasGemmEx: cuBLAS returned status 7"):
            cublas.multiply(0, 0, 0, side=4, dtype="float32")
        cublas.close()


def test_memory_is_released_after_the_device_runs_out_of_it(fake_cuda: FakeCuda) -> None:
    fake_cuda.enable(memory_nbytes=16 << 20)
    device = cuda_device(0)
    with pytest.raises(DeviceError, match="OUT_OF_MEMORY"):
        measure_gpu_ceilings(device, "float32", sides=(2048,), libraries=LIBRARIES)
    assert fake_cuda.live().allocations == 0
    assert fake_cuda.library.fake_cublas_live() == 0
    device.close()
    assert fake_cuda.live() == Live(current=fake_cuda.live().current)


def test_libraries_are_searched_by_name_and_in_wheels() -> None:
    found = list(list_libraries())

    assert [name for name in found if "/" not in name] == [f"libcublas.so.{major}" for major in (13, 12, 11)]


def test_a_model_on_a_gpu_has_ceilings_of_the_gpu(fake_cuda: FakeCuda) -> None:
    with Model(open_bundle(SKY), HostFunctionBackend(), FP16) as model:
        ceilings, missing = measure_ceilings(model)
    gc.collect()  # the test double's calls and functions reference each other

    assert ceilings is not None and " MiB within the device" in ceilings.copy
    assert missing is not None and missing.startswith("no roofline: cuBLAS was not found")


def test_without_a_product_no_stage_is_placed() -> None:
    copy_only = Ceilings(None, 1e9, None, "copy")
    whole = Ceilings(2e9, 5e8, "product", "copy")

    with load(SKY, verify=False) as model:
        assert place_stages(model, copy_only, {}) == ()
        stages = place_stages(model, whole, {name: summarize([10.0]) for name in ("step", "fill")})
    assert [stage.stage for stage in stages] == ["step", "fill"]
    assert best_ceilings(copy_only, whole) == Ceilings(2e9, 1e9, "product", "copy")
    assert best_ceilings(None, whole) == whole
