"""Energy, clocks and temperature of a GPU over a block of work, from NVML."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType

__all__ = ["GpuMeter", "GpuReading", "open_meter", "physical_gpu"]

# Bits of nvmlDeviceGetCurrentClocksEventReasons for clocks lowered under load; idle and clocks set by the user are left
# out.
_HELD = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "thermal slowdown by software",
    0x40: "thermal slowdown by hardware",
    0x80: "power brake",
}


@dataclass(frozen=True)
class GpuReading:
    """Energy, clocks and temperature of a GPU over a block of work.

    Attributes:
        joules: Energy of the whole GPU.
        watts: Mean power.
        clock_mhz: SM clock at the end; 0 where NVML does not report it, as for the next two.
        memory_clock_mhz: Memory clock at the end.
        temperature_c: Temperature at the end, in °C.
        throttled: Why the clocks were lowered, in words; empty where they were not.
    """

    joules: float
    watts: float
    clock_mhz: int
    memory_clock_mhz: int
    temperature_c: int
    throttled: tuple[str, ...]


class GpuMeter:
    """Meter of one GPU that measures a ``with`` block.

    Attributes:
        name: The GPU's name.
        driver: The driver's version.
    """

    def __init__(self, gpu: int | str = 0) -> None:
        """Open NVML.

        Args:
            gpu: The GPU's index among all GPUs, or its UUID; see :func:`physical_gpu`.

        Raises:
            ImportError: nvidia-ml-py is not installed; pip install nvidia-ml-py.
            OSError: NVML has no driver or no such GPU.
        """
        module = importlib.import_module("pynvml")  # optional
        self._nvml = module
        try:
            module.nvmlInit()
            with ExitStack() as undo:
                undo.callback(module.nvmlShutdown)
                by_uuid = isinstance(gpu, str)
                self._gpu = module.nvmlDeviceGetHandleByUUID(gpu) if by_uuid else module.nvmlDeviceGetHandleByIndex(gpu)
                self.name = _text(module.nvmlDeviceGetName(self._gpu))
                self.driver = _text(module.nvmlSystemGetDriverVersion())
                undo.pop_all()
        except module.NVMLError as error:
            raise OSError(f"NVML cannot open GPU {gpu!r}: {error}") from error
        self._joules: float | None = None
        self._seconds = 0.0
        self._after: dict[str, int | None] = {}

    def __enter__(self) -> GpuMeter:
        self._joules, self._seconds = self._read_joules(), time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        nvml = self._nvml
        self._seconds = time.perf_counter() - self._seconds
        after = self._read_joules()
        self._joules = None if self._joules is None or after is None else after - self._joules
        self._after = {
            "clock": self._ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM),
            "memory": self._ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_MEM),
            "temperature": self._ask("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU),
            # Renamed in driver 535; older drivers have the old name.
            "held": self._ask("nvmlDeviceGetCurrentClocksEventReasons")
            or self._ask("nvmlDeviceGetCurrentClocksThrottleReasons"),
        }

    def read(self) -> GpuReading | None:
        """Return the measurement; None where the GPU does not report its energy (before Volta)."""
        if self._joules is None:
            return None
        held = self._after["held"] or 0
        return GpuReading(
            joules=self._joules,
            watts=self._joules / self._seconds if self._seconds else 0.0,
            clock_mhz=self._after["clock"] or 0,
            memory_clock_mhz=self._after["memory"] or 0,
            temperature_c=self._after["temperature"] or 0,
            throttled=tuple(reason for bit, reason in _HELD.items() if held & bit),
        )

    def close(self) -> None:
        """Close NVML."""
        self._nvml.nvmlShutdown()

    def _read_joules(self) -> float | None:
        millijoules = self._ask("nvmlDeviceGetTotalEnergyConsumption")
        return None if millijoules is None else millijoules / 1e3

    def _ask(self, function: str, *given: int) -> int | None:
        try:
            return int(getattr(self._nvml, function)(self._gpu, *given))
        except (AttributeError, self._nvml.NVMLError):
            return None


def open_meter(device: str) -> tuple[GpuMeter | None, str | None]:
    """Open the meter of a GPU; return None and the reason where there is none."""
    if not device.startswith("cuda"):
        return None, None
    try:
        return GpuMeter(physical_gpu(int(device.partition(":")[2] or 0))), None
    except (ImportError, OSError) as error:
        return None, f"energy and clocks were not measured: {error}"


def physical_gpu(index: int, environment: Mapping[str, str] | None = None) -> int | str:
    """Return the GPU of the machine that has CUDA's ``index``: NVML ignores CUDA_VISIBLE_DEVICES.

    Args:
        index: CUDA's index.
        environment: Environment variables; None reads the process's.
    """
    visible = (os.environ if environment is None else environment).get("CUDA_VISIBLE_DEVICES", "")
    chosen = [part.strip() for part in visible.split(",") if part.strip()]
    if index >= len(chosen):
        return index
    return int(chosen[index]) if chosen[index].isdigit() else chosen[index]


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
