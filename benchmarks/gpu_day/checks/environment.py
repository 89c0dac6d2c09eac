"""What is on this machine, and what is not: GPU, driver, clocks, and the libraries of each interpreter."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from ..running.record import Recorder
from ..running.settings import Settings

__all__ = ["describe"]

_QUERY = (
    "name,driver_version,vbios_version,memory.total,memory.used,compute_cap,clocks.sm,clocks.mem,clocks.max.sm,"
    "clocks.max.mem,power.limit,temperature.gpu,pstate,persistence_mode,ecc.mode.current"
)
_MODULES = ("numpy", "torch", "triton", "onnxruntime", "tensorrt", "onnx", "cupy")


def describe(settings: Settings, record: Recorder) -> None:
    """Record the machine, and what this interpreter has."""
    _describe_machine(settings, record)
    _describe_interpreter(record)


def _describe_machine(settings: Settings, record: Recorder) -> None:
    """Record the GPU and the host."""
    record.note("host", cpu=_cpu_name(), cpus=len(os.sched_getaffinity(0)), kernel=platform.release())
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader"], capture_output=True, text=True, timeout=60
        )
    except FileNotFoundError:
        record.missing("GPU", "no nvidia-smi on the PATH: there is no NVIDIA driver")
        return
    if done.returncode:
        record.missing("GPU", f"nvidia-smi failed: {(done.stdout + done.stderr).strip()}")
        return
    for index, line in enumerate(done.stdout.strip().splitlines()):
        values = [value.strip() for value in line.split(",")]
        record.note(f"GPU {index}", **dict(zip(_QUERY.split(","), values)))  # noqa: B905  (older drivers answer less)


def _describe_interpreter(record: Recorder) -> None:
    """Record the versions that this interpreter has, and what it lacks."""
    versions: dict[str, Any] = {"python": platform.python_version()}
    for name in _MODULES:
        try:
            versions[name] = getattr(importlib.import_module(name), "__version__", "unknown")
        except Exception as error:  # a library that breaks on import is as good as absent
            versions[name] = f"not there: {type(error).__name__}: {error}"
    versions |= _details()
    record.note("interpreter", **versions)


def _details() -> dict[str, Any]:
    found: dict[str, Any] = {}
    try:
        import torch

        found |= {"torch_cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}  # type: ignore[no-untyped-call]
        if torch.cuda.is_available():
            found["multiprocessors"] = torch.cuda.get_device_properties(0).multi_processor_count
    except ImportError:
        pass
    try:
        import onnxruntime

        found["onnxruntime_providers"] = onnxruntime.get_available_providers()
    except ImportError:
        pass
    try:
        from vdmrt.runtime import _core

        found["core"] = Path(_core.__file__ or "").name
    except ImportError as error:
        found["core"] = f"not there: {error}"
    return found


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.processor())
