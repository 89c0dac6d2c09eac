"""Environment of a profile: processor, versions, commit."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from ... import __version__
from ...hosts import usable_cpu_count
from ...hosts.driver import probe_driver
from ..report.report import Environment

if TYPE_CHECKING:
    from ...runtime.session.model import Model

__all__ = ["describe_environment"]

_PACKAGES = (
    *("numpy", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-cu11", "tensorrt-cu12", "tensorrt-cu13"),
    *("tensorrt-rtx", "tensorrt-rtx-cu12", "tensorrt-rtx-cu13"),
    *("nvidia-cublas", "nvidia-cublas-cu12", "nvidia-ml-py"),
)


def describe_environment(model: Model) -> Environment:
    """Return the environment in which a loaded model runs."""
    device = model.backend.device_name
    gpu, driver = (None, None) if device == "host" else _ask_driver(int(device.partition(":")[2] or 0))
    return Environment(
        vdmrt=__version__,
        commit=_find_commit(),
        python=platform.python_version(),
        platform=platform.platform(),
        cpu=_find_cpu(),
        cpu_count=usable_cpu_count(),
        device=device,
        gpu=gpu,
        driver=driver,
        packages=_find_versions(),
    )


def _ask_driver(index: int) -> tuple[str | None, str | None]:
    """Return the name of a GPU, and the newest CUDA that its driver supports."""
    found = probe_driver()
    name = found.gpus[index].name if index < len(found.gpus) else None
    return name, None if found.version is None else f"CUDA {found.version}"


def _find_versions() -> dict[str, str]:
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _find_cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _find_commit() -> str | None:
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "--no-optional-locks", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
