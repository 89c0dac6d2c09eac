"""The meter selects CUDA's GPU, and reports its absence in a sentence."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType

import pytest

from vdmrt.hosts.nvml import GpuMeter, open_meter, physical_gpu


@pytest.mark.parametrize(
    ("visible", "index", "found"),
    [("", 1, 1), ("2,0", 0, 2), ("2,0", 1, 0), ("GPU-5c0e, 1", 0, "GPU-5c0e"), ("3", 1, 1)],
)
def test_a_gpu_is_found_by_cuda_visible_devices(visible: str, index: int, found: int | str) -> None:
    assert physical_gpu(index, {"CUDA_VISIBLE_DEVICES": visible}) == found


def test_the_host_has_no_meter() -> None:
    assert open_meter("host") == (None, None)


def test_a_gpu_unknown_to_nvml_raises_one_sentence() -> None:
    with pytest.raises(OSError, match="NVML cannot open GPU 'GPU-none': "):
        GpuMeter("GPU-none")


def test_a_meter_that_does_not_open_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-none")

    meter, refusal = open_meter("cuda:0")

    assert meter is None
    assert refusal is not None and refusal.startswith("energy and clocks were not measured: NVML cannot open GPU")


@pytest.mark.parametrize("failing", ["nvmlDeviceGetHandleByIndex", "nvmlDeviceGetName", "nvmlSystemGetDriverVersion"])
def test_nvml_is_shut_down_if_the_gpu_cannot_be_opened(monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    calls: list[str] = []
    monkeypatch.setitem(sys.modules, "pynvml", nvml_failing_in(failing, calls))

    with pytest.raises(OSError, match=f"NVML cannot open GPU 0: {failing}"):
        GpuMeter(0)

    assert calls[0] == "nvmlInit" and calls[-2:] == [failing, "nvmlShutdown"]


def nvml_failing_in(failing: str, calls: list[str]) -> ModuleType:
    """Return an NVML that records its calls and fails in one of them."""

    class Nvml(ModuleType):
        NVMLError = type("NVMLError", (Exception,), {})

        def __getattr__(self, name: str) -> Callable[..., str]:
            def call(*given: object) -> str:
                calls.append(name)
                if name == failing:
                    raise self.NVMLError(name)
                return name

            return call

    return Nvml("pynvml")
