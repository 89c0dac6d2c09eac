"""The environment examined: what is installed, which backends will run, and what to install or remove."""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import os
import platform
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Report", "examine", "onnxruntime_distributions", "render"]

# As in pyproject.toml; a test holds the two together.
REQUIRED = ("numpy>=1.23", "click>=8.1", "rich>=13", "pillow>=10", "av>=12")
EXTRAS: Mapping[str, tuple[str, ...]] = {
    "cpu": ("onnxruntime>=1.20",),
    "cuda": ("onnxruntime-gpu>=1.20", "cuda-python>=12.6"),
    "tensorrt": ("tensorrt>=10.3", "cuda-python>=12.6"),
    "export": ("torch>=2.9", "onnx>=1.17", "onnxscript>=0.5", "safetensors>=0.4.3", "pyyaml>=6"),
}
# All of them own the folder site-packages/onnxruntime.
_ONNXRUNTIME_FAMILY = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-directml",
    "onnxruntime-openvino",
    "onnxruntime-qnn",
    "onnxruntime-rocm",
    "onnxruntime-training",
)
_NO_DEVICE, _STUB_LIBRARY = 100, 34  # of CUresult: a machine without a GPU, and a build image without a driver


@dataclass(frozen=True)
class Package:
    """A distribution that vdmrt can use: what is wanted, and the version found or None."""

    name: str
    wanted: str
    version: str | None


@dataclass(frozen=True)
class Extra:
    """One of vdmrt's extras.

    Attributes:
        name: As in ``vdmrt[name]``.
        missing: Requirements that are not met; none when the extra is complete.
        command: The line that completes it, or None.
    """

    name: str
    missing: tuple[str, ...]
    command: str | None


@dataclass(frozen=True)
class Gpu:
    """A CUDA device, as the driver names it."""

    name: str
    compute_capability: str


@dataclass(frozen=True)
class Driver:
    """The CUDA driver.

    Attributes:
        version: Newest CUDA that it runs, as "12.8", or None.
        gpus: In the driver's order.
        note: Why there are none, or an empty text.
        broken: Whether a driver is installed and does not start.
    """

    version: str | None
    gpus: tuple[Gpu, ...]
    note: str
    broken: bool = False


@dataclass(frozen=True)
class Backend:
    """A backend, whether it will run here, and on what or why not."""

    name: str
    ready: bool
    note: str


@dataclass(frozen=True)
class Report:
    """All that :func:`examine` found; ``dataclasses.asdict`` makes it JSON.

    Attributes:
        problems: What must be mended, one sentence each with the command; none when all is well.
    """

    vdmrt: str
    python: str
    platform: str
    cpu_count: int
    core: str
    packages: tuple[Package, ...]
    extras: tuple[Extra, ...]
    driver: Driver
    backends: tuple[Backend, ...]
    problems: tuple[str, ...]


def installed_distributions() -> dict[str, str]:
    """Return the version of each installed distribution that vdmrt knows, by name, importing none."""
    known = {_split(wanted)[0] for wanted in _all_requirements()} | set(_ONNXRUNTIME_FAMILY)
    found = {}
    for name in sorted(known | {"cuda-bindings"}):
        try:
            found[name] = importlib.metadata.version(name) or "0"
        except (importlib.metadata.PackageNotFoundError, KeyError):  # KeyError: a folder without METADATA
            continue
    return found


def onnxruntime_distributions(installed: Mapping[str, str] | None = None) -> list[str]:
    """Return the installed distributions that own the module ``onnxruntime``; more than one break each other.

    Args:
        installed: Versions by name; None asks the environment.
    """
    installed = installed_distributions() if installed is None else installed
    return [name for name in _ONNXRUNTIME_FAMILY if name in installed]


def probe_driver(load: Callable[[str], Any] = ctypes.CDLL) -> Driver:
    """Ask the CUDA driver for its version and devices. Never fails: what is wrong stands in the note.

    Args:
        load: Opens a shared library by name.
    """
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        cuda = load(name)
    except OSError:
        return Driver(None, (), f"no CUDA driver: {name} is not there")
    try:
        return _ask_driver(cuda)
    except AttributeError as e:
        return Driver(None, (), f"{name} is not a CUDA driver: {e}", broken=True)


def find_providers() -> tuple[str, ...]:
    """Return ONNX Runtime's execution providers, importing it.

    Raises:
        ImportError: It is not installed, or does not load.
    """
    try:
        return tuple(importlib.import_module("onnxruntime").get_available_providers())
    except Exception as e:  # a half-removed onnxruntime fails in many ways, and the doctor must survive them all
        raise ImportError(f"onnxruntime does not load: {e}") from e


def find_core() -> str:
    """Return where the C core was loaded from.

    Raises:
        ImportError: It was not built, or does not load.
    """
    return str(importlib.import_module("._core", __package__).__file__)


def examine(
    *,
    installed: Mapping[str, str] | None = None,
    probe: Callable[[], Driver] = probe_driver,
    providers: Callable[[], tuple[str, ...]] = find_providers,
    core: Callable[[], str] = find_core,
) -> Report:
    """Examine the environment. Changes nothing and imports no heavy library but ONNX Runtime.

    Args:
        installed: Versions of distributions by name; None asks the environment.
        probe: Asks the CUDA driver.
        providers: Names ONNX Runtime's execution providers, or raises ImportError.
        core: Loads the C core and says where it lies, or raises ImportError.
    """
    from .. import __version__

    installed = installed_distributions() if installed is None else installed
    driver = probe()
    core_note, core_problem = _try(core)
    backends = _judge_backends(installed, driver, providers)
    return Report(
        vdmrt=__version__,
        python=f"{platform.python_version()} ({sys.executable})",
        platform=platform.platform(),
        cpu_count=_count_cpus(),
        core=core_note,
        packages=tuple(_find_package(wanted, installed) for wanted in _all_requirements()),
        extras=tuple(_judge_extra(name, installed) for name in EXTRAS),
        driver=driver,
        backends=backends,
        problems=tuple(_find_problems(installed, driver, backends, core_problem)),
    )
