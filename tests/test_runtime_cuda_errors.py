"""What is wrong with a machine, said where a model is loaded: driver, GPU, and memory at every stage."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest
from fake_cuda import Code, FakeCuda, enabled_fake_cuda
from host_function_backend import HostFunctionBackend

import vdmrt
from vdmrt.bundle import FP32, open_bundle
from vdmrt.errors import DeviceError
from vdmrt.runtime import Model


def test_a_gpu_of_a_number_that_is_not_there(tiny_bundle: Path, fake_cuda: FakeCuda) -> None:
    with pytest.raises(DeviceError, match=r"wanted GPU 5, and the driver sees 1 GPU\(s\), numbered from 0"):
        vdmrt.load(tiny_bundle, backend="onnxruntime", device="cuda:5")
    with pytest.raises(ValueError, match="device must be auto, cpu, cuda or cuda:N, got 'gpu:0'"):
        vdmrt.load(tiny_bundle, device="gpu:0")


def test_a_machine_without_a_gpu(tiny_bundle: Path, fake_cuda: FakeCuda) -> None:
    fake_cuda.disable()

    with pytest.raises(DeviceError, match=r"cuInit: CUDA_ERROR_NO_DEVICE .*or choose device='cpu'"):
        vdmrt.load(tiny_bundle, device="cuda")


def test_a_driver_that_is_too_old(tiny_bundle: Path, fake_cuda: FakeCuda) -> None:
    fake_cuda.driver_version(11030)

    with pytest.raises(DeviceError, match=r"a driver for CUDA 11\.4 or newer, found one for CUDA 11\.3"):
        vdmrt.load(tiny_bundle, device="cuda")


@pytest.mark.parametrize("name", ["cuMemAlloc_v2", "cuMemHostAlloc"])
def test_memory_that_is_short_at_any_stage_is_named_in_bytes(tiny_bundle: Path, name: str) -> None:
    """Codec, slab, staging, context, tensors, scratch, undo log: each allocation fails once, and nothing is left."""
    stage = 1
    while True:
        with enabled_fake_cuda() as fake:
            fake.fail(Code.OUT_OF_MEMORY, nth=stage, name=name)
            said = failure_of_a_start(tiny_bundle)
            gc.collect()
            assert fake.live().allocations == fake.live().pinned == 0 and fake.violations() == []
            if fake.failed() is None:
                break
        for part in (name, "wanted ", " bytes, GPU 0 has ", " bytes free", "close what is no longer used"):
            assert part in said, (stage, said)
        stage += 1

    assert stage > (12 if name == "cuMemAlloc_v2" else 4)


def failure_of_a_start(bundle: Path) -> str:
    """Load, start a session and close all; return what a failure says."""
    said = ""
    try:
        with Model(open_bundle(bundle), HostFunctionBackend(), FP32) as model:
            with model.session(seed=0, steps=2, rollback_chunks=1) as session:
                session.start(np.zeros((1, 4, 4, 6), np.float32))
    except DeviceError as error:
        said = str(error)
    return said
