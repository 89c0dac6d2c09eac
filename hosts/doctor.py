"""Examination of the environment: installed packages, backends that can run, and problems with their remedies."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..bundle import RTX_TARGETS
from .cpu import usable_cpu_count
from .distributions import (
    EXTRAS,
    check_extra,
    complete_command,
    find_unmet,
    installed_distributions,
    list_packages,
    requirement_names,
)
from .driver import probe_driver
from .extras import install_command
from .onnxruntime import find_providers, onnxruntime_distributions

if TYPE_CHECKING:
    from rich.console import Console

    from .distributions import (
        Extra,
        Package,
    )
    from .driver import CudaDriver

__all__ = ["Report", "examine", "render"]


@dataclass(frozen=True)
class BackendCheck:
    """Whether a backend can run on this machine; ``note`` is its device or the reason."""

    name: str
    ready: bool
    note: str


@dataclass(frozen=True)
class Report:
    """The result of :func:`examine`; ``dataclasses.asdict`` makes it JSON.

    Attributes:
        cpu_count: CPUs that this process may use.
        core_loads: Whether the C core loads.
        core: Path of the loaded C core, or why it does not load.
        problems: Problems, each with the command that fixes it; empty without problems.
    """

    vdmrt: str
    python: str
    platform: str
    cpu_count: int
    core_loads: bool
    core: str
    packages: tuple[Package, ...]
    extras: tuple[Extra, ...]
    driver: CudaDriver
    backends: tuple[BackendCheck, ...]
    problems: tuple[str, ...]


def examine(
    core: Callable[[], str],
    *,
    installed: Mapping[str, str] | None = None,
    probe: Callable[[], CudaDriver] = probe_driver,
    providers: Callable[[], tuple[str, ...]] = find_providers,
) -> Report:
    """Examine the environment. Changes nothing; the only heavy library that it imports is ONNX Runtime.

    Args:
        core: Loads the C core and returns its path, or raises ImportError.
        installed: Versions of distributions by name; None reads the environment.
        probe: Queries the CUDA driver.
        providers: Returns ONNX Runtime's execution providers, or raises ImportError.
    """
    from .. import __version__

    installed = installed_distributions() if installed is None else installed
    driver = probe()
    core_loads, core_note = _load_core(core)
    provider_names, failure = _load_onnxruntime(installed, providers)
    backends = (
        _check_onnxruntime_cpu(installed, provider_names, failure),
        _check_onnxruntime_cuda(installed, provider_names, failure, driver),
        _check_tensorrt(installed, driver),
        _check_tensorrt_rtx(installed, driver),
    )
    problems = [*find_unmet(installed), *_find_onnxruntime_problems(installed, failure, driver)]
    if not core_loads:
        problems.append(f"the C core {core_note}; with a C compiler, pip install --force-reinstall vdmrt")
    if not any(backend.ready for backend in backends) and not onnxruntime_distributions(installed):
        problems.append(f"no backend is installed: {install_command('cpu')}")
    if driver.broken:
        problems.append(f"{driver.note}: reinstall the NVIDIA driver, or reboot after an update")
    return Report(
        vdmrt=__version__,
        python=f"{platform.python_version()} at {sys.executable}",
        platform=platform.platform(),
        cpu_count=usable_cpu_count(),
        core_loads=core_loads,
        core=core_note,
        packages=list_packages(installed),
        extras=tuple(check_extra(name, installed) for name in EXTRAS),
        driver=driver,
        backends=backends,
        problems=tuple(problems),
    )


def render(report: Report, console: Console | None = None) -> None:
    """Print a report for people, on ``console`` or standard output."""
    from rich.console import Console

    console = console or Console()
    console.print(f"vdmrt {report.vdmrt}, Python {report.python}", markup=False, highlight=False)
    console.print(f"{report.platform}, {report.cpu_count} CPUs", markup=False, highlight=False)
    for title, rows in _sections(report):
        _print_section(console, title, rows)
    if not report.problems:
        console.print("\nNo problems found.", style="green", highlight=False)
        return
    console.print(f"\nTo fix ({len(report.problems)})", style="bold red", highlight=False)
    for problem in report.problems:
        console.print(f"- {problem}", markup=False, highlight=False)


Rows = tuple[tuple[str, bool, str], ...]


def _sections(report: Report) -> tuple[tuple[str, Rows], ...]:
    driver = report.driver
    gpus: Rows = tuple((gpu.name, True, f"compute capability {gpu.compute_capability}") for gpu in driver.gpus)
    return (
        ("Backends", tuple((backend.name, backend.ready, backend.note) for backend in report.backends)),
        ("C core", (("vdmrt.runtime._core", report.core_loads, report.core),)),
        (f"CUDA driver {driver.version or ''}".rstrip(), gpus or (("GPU", False, driver.note),)),
        ("Extras", tuple((e.name, not e.missing, e.command or "complete") for e in report.extras)),
        ("Packages", tuple((p.name, p.version is not None, p.version or "-") for p in report.packages)),
    )


def _print_section(console: Console, title: str, rows: Rows) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", title_style="bold", box=None, show_header=False)
    for name, good, note in rows:
        # Text, because rich would read the brackets of vdmrt[cpu] as markup and drop them.
        table.add_row(Text("yes" if good else "no", "green" if good else "yellow"), Text(name), Text(note))
    console.print()
    console.print(table)


def _load_core(core: Callable[[], str]) -> tuple[bool, str]:
    try:
        return True, core()
    except ImportError as e:
        return False, f"does not load: {e}"


def _load_onnxruntime(
    installed: Mapping[str, str], providers: Callable[[], tuple[str, ...]]
) -> tuple[tuple[str, ...], str | None]:
    """Return ONNX Runtime's providers, and the reason where there are none, or None."""
    present = onnxruntime_distributions(installed)
    if not present:
        return (), "ONNX Runtime is not installed"
    if len(present) > 1:
        return (), f"{' and '.join(present)} are installed together and overwrite each other's files"
    try:
        return providers(), None
    except ImportError as e:
        return (), f"{present[0]} {installed[present[0]]} does not load: {e}"


def _check_onnxruntime_cpu(
    installed: Mapping[str, str], providers: tuple[str, ...], failure: str | None
) -> BackendCheck:
    if failure is None and "CPUExecutionProvider" not in providers:
        failure = f"this build has {', '.join(providers)} only"
    present = ", ".join(f"{name} {installed[name]}" for name in onnxruntime_distributions(installed))
    return BackendCheck("onnxruntime on the CPU", failure is None, failure or present)


def _check_onnxruntime_cuda(
    installed: Mapping[str, str], providers: tuple[str, ...], failure: str | None, driver: CudaDriver
) -> BackendCheck:
    failure = failure or driver.note
    if not failure and "CUDAExecutionProvider" not in providers:
        failure = f"this ONNX Runtime was built without CUDA: {complete_command('cuda', installed)}"
    return BackendCheck("onnxruntime on CUDA", not failure, failure or driver.gpus[0].name)


def _check_tensorrt(installed: Mapping[str, str], driver: CudaDriver) -> BackendCheck:
    extra = check_extra("tensorrt", installed)
    if driver.note:
        return BackendCheck("tensorrt", False, driver.note)
    if extra.missing:
        return BackendCheck("tensorrt", False, f"{', '.join(extra.missing)} missing: {extra.command}")
    present = _list_installed("tensorrt", installed)
    return BackendCheck("tensorrt", True, f"{driver.gpus[0].name}, {present}; vdmrt build makes its engines")


def _check_tensorrt_rtx(installed: Mapping[str, str], driver: CudaDriver) -> BackendCheck:
    """Check whether it can run; it builds on any machine where it is installed."""
    name, extra = "tensorrt-rtx", check_extra("tensorrt-rtx", installed)
    if extra.missing:
        missing = f"{', '.join(extra.missing)} missing: {extra.command}"
        return BackendCheck(name, False, f"{missing}" + (f"; {driver.note}" if driver.note else ""))
    builds = f"builds engines here ({_list_installed(name, installed)})"
    if driver.note:
        return BackendCheck(name, False, f"{builds}, and runs none: {driver.note}")
    usable = [gpu for gpu in driver.gpus if gpu.compute_capability in RTX_TARGETS]
    if not usable:
        gpu = driver.gpus[0]
        return BackendCheck(
            name, False, f"{builds}, and runs none: {gpu.name} ({gpu.compute_capability}) is no GPU for it"
        )
    return BackendCheck(name, True, f"{usable[0].name}, {builds}")


def _list_installed(extra: str, installed: Mapping[str, str]) -> str:
    names = requirement_names(extra)
    return ", ".join(f"{name} {version}" for name, version in installed.items() if name in names)


def _find_onnxruntime_problems(installed: Mapping[str, str], failure: str | None, driver: CudaDriver) -> Iterator[str]:
    present = onnxruntime_distributions(installed)
    if present and failure:
        extra = "cuda" if driver.gpus else "cpu"
        yield f"{failure}: {install_command(extra, remove=present)}"
