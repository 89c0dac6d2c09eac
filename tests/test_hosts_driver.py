"""The GPUs that the CUDA driver reports, and one sentence for each reason why there are none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_cuda import Code, FakeCuda, enabled_fake_cuda

from vdmrt.errors import BackendError
from vdmrt.hosts.driver import CudaDriver, _driver_version, current_gpu, find_gpu, probe_driver
from vdmrt.hosts.gpu import Gpu

PROBE = "from vdmrt.hosts.driver import probe_driver; print(probe_driver())"


def probe_elsewhere(code: str = PROBE, **environment: str) -> str:
    """Return the output of an interpreter without the fake driver."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True)
    return done.stdout


def test_the_driver_describes_its_gpus() -> None:
    with enabled_fake_cuda(devices=2, memory_nbytes=1 << 30) as cuda:
        cuda.driver_version(13000)
        cuda.rename(1, "another")
        driver = probe_driver()

    assert (driver.version, driver.note, driver.broken, driver.asked) == ("13.0", "", False, True)
    assert [gpu.name for gpu in driver.gpus] == ["vdmrt fake GPU", "another"]
    assert driver.gpus[1] == Gpu("another", "9.0", 1 << 30, 1, 0, 0, 0, "13.0", driver.gpus[1].driver, 1)


@pytest.mark.parametrize(
    ("code", "note", "broken"),
    [
        (100, "the driver sees no GPU", False),
        (34, "libcuda.so.1 is a stub for building", False),
        (803, "the driver does not start: cuInit returned 803", True),
        (123456, "libcuda.so.1 is no CUDA driver that cuda-bindings can ask: 123456 is not a valid CUresult", True),
    ],
)
def test_a_driver_that_does_not_start_is_reported_in_one_sentence(
    fake_cuda: FakeCuda, code: int, note: str, broken: bool
) -> None:
    fake_cuda.fail(code, name="cuInit")

    assert probe_driver() == CudaDriver("12.4", (), note, broken)


def test_an_absent_driver_is_reported_in_one_sentence() -> None:
    assert probe_driver("libabsent.so.1") == CudaDriver(None, (), "no NVIDIA driver: libabsent.so.1 does not load")


def test_without_a_driver_cuda_python_is_not_imported() -> None:
    script = f"{PROBE}; import sys; print('cuda' in sys.modules)".replace("driver()", "driver('libabsent.so.1')")

    assert probe_elsewhere(script).splitlines()[-1] == "False"


def test_a_driver_without_cuda_python_names_what_to_install(
    fake_cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", None)  # as if it were not installed

    driver = probe_driver()

    assert (driver.version, driver.gpus, driver.broken, driver.asked) == (None, (), False, False)
    assert driver.note.startswith("the NVIDIA driver is asked through cuda-bindings, which does not import (")
    assert driver.note.endswith("): pip install cuda-bindings")


def test_a_library_that_is_not_a_driver_is_reported(tmp_path: Path) -> None:
    (tmp_path / "other.c").write_text("int other(void) { return 0; }\n")
    library = str(tmp_path / "libcuda.so.1")
    subprocess.run(["gcc", "-shared", "-fPIC", str(tmp_path / "other.c"), "-o", library], check=True)

    found = probe_elsewhere(LD_LIBRARY_PATH=str(tmp_path))

    assert "libcuda.so.1 is no CUDA driver that cuda-bindings can ask: " in found
    assert "broken=True" in found


def test_a_missing_gpu_raises_one_sentence() -> None:
    with enabled_fake_cuda(devices=2) as cuda:
        cuda.rename(1, "another")

        assert (find_gpu(1, "it").name, find_gpu(1, "it").index) == ("another", 1)
        with pytest.raises(BackendError, match=r"wanted GPU 2, the driver sees 2 \(0: vdmrt fake GPU, 1: another\)"):
            find_gpu(2, "it")
        with pytest.raises(ValueError, match="a GPU's index must be at least 0, got -1"):
            find_gpu(-1, "it")


def test_a_machine_without_a_gpu_raises_one_sentence(fake_cuda: FakeCuda) -> None:
    fake_cuda.disable()

    with pytest.raises(BackendError, match="a task needs an NVIDIA GPU: the driver sees no GPU; take --backend onnx"):
        find_gpu(0, "a task")


def test_a_gpu_is_current_inside_and_released_after() -> None:
    with enabled_fake_cuda(devices=2) as cuda:
        find_gpu(1, "it")
        with current_gpu(1):
            assert (cuda.live().contexts, cuda.live().current) == (1, 1)

        assert (cuda.live().contexts, cuda.live().current) == (0, 0)


@pytest.mark.parametrize("name", ["cuDevicePrimaryCtxRetain", "cuCtxPushCurrent"])
def test_an_unusable_gpu_raises_one_sentence(fake_cuda: FakeCuda, name: str) -> None:
    find_gpu(0, "it")
    fake_cuda.fail(Code.OUT_OF_MEMORY, name=name if name.endswith("Retain") else f"{name}_v2")

    with pytest.raises(BackendError, match=f"does not work: {name} returned 2; see vdmrt doctor"), current_gpu(0):
        pass
    assert fake_cuda.live().contexts == 0


def test_the_drivers_version_is_read(tmp_path: Path) -> None:
    path = tmp_path / "version"
    path.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27 07:17:09 UTC 2025\nGCC 12\n")

    assert _driver_version(path) == "580.65.06"
    assert _driver_version(tmp_path / "none") == ""
