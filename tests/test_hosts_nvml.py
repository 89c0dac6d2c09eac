"""The meter selects CUDA's GPU, and reports its absence in a sentence."""

from __future__ import annotations

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
