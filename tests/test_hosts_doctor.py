"""The doctor's report of packages, backends, problems and commands in different environments."""

from __future__ import annotations

import dataclasses
import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from vdmrt.hosts.distributions import (
    EXTRAS,
    REQUIRED,
    check_extra,
    installed_distributions,
)
from vdmrt.hosts.doctor import Report, examine, render
from vdmrt.hosts.driver import CudaDriver
from vdmrt.hosts.gpu import Gpu
from vdmrt.hosts.onnxruntime import onnxruntime_distributions
from vdmrt.runtime._cli import find_core

BASE = {"numpy": "2.1.0", "click": "8.4.0", "rich": "13.0", "pillow": "10.0.0", "av": "14.0", "safetensors": "0.4.3"}
CPU = BASE | {"onnxruntime": "1.20.1"}
CUDA = BASE | {"onnxruntime-gpu": "1.22.0", "cuda-bindings": "13.0.1"}
NO_DRIVER = CudaDriver(None, (), "no NVIDIA driver: libcuda.so.1 does not load")
ONE_GPU = CudaDriver("12.8", (Gpu("NVIDIA L4", "8.9"),), "")
CPU_PROVIDERS = ("CPUExecutionProvider",)
CUDA_PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")


def fail() -> Any:
    raise ImportError("cannot import name 'x'")


def report_on(
    installed: Mapping[str, str],
    *,
    driver: CudaDriver = NO_DRIVER,
    providers: Callable[[], tuple[str, ...]] = lambda: CPU_PROVIDERS,
    core: Callable[[], str] = lambda: "_core.abi3.so",
) -> Report:
    return examine(core, installed=installed, probe=lambda: driver, providers=providers)


def readiness(report: Report) -> dict[str, bool]:
    return {backend.name: backend.ready for backend in report.backends}


def note_on(report: Report, backend: str) -> str:
    return next(found.note for found in report.backends if found.name == backend)


def printed(report: Report) -> str:
    console = Console(file=StringIO(), width=200)
    render(report, console)
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def test_the_requirements_are_those_of_pyproject() -> None:
    tomllib = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    with open(Path(__file__).parents[1] / "pyproject.toml", "rb") as file:
        project = tomllib.load(file)["project"]

    extras = {name: tuple(wanted) for name, wanted in project["optional-dependencies"].items() if name != "dev"}
    assert tuple(project["dependencies"]) == REQUIRED
    assert extras == EXTRAS


def test_this_environment_is_examined_and_printed() -> None:
    report = examine(find_core)

    assert report.python.startswith(f"{sys.version_info.major}.{sys.version_info.minor}.")
    assert report.cpu_count >= 1
    assert {package.name: package.version for package in report.packages}["numpy"]
    assert json.loads(json.dumps(dataclasses.asdict(report)))["vdmrt"] == report.vdmrt
    assert "Packages" in printed(report)


def test_the_core_is_found_here() -> None:
    assert "_core" in find_core()


def test_examining_imports_nothing_heavy() -> None:
    script = """
        import sys
        from vdmrt.hosts.onnxruntime import onnxruntime_distributions
        from vdmrt.hosts.doctor import examine
        onnxruntime_distributions()
        assert not {"av", "PIL", "rich", "torch", "onnx", "onnxruntime"} & set(sys.modules), sorted(sys.modules)
        examine(lambda: "_core.abi3.so")
        assert not {"av", "PIL", "rich", "torch", "onnx"} & set(sys.modules), sorted(sys.modules)
    """
    lines = [line.strip() for line in script.strip().splitlines()]

    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)


def test_a_machine_without_a_gpu_runs_on_the_cpu_without_problems() -> None:
    report = report_on(CPU)

    assert readiness(report) == {
        "onnxruntime on the CPU": True,
        "onnxruntime on CUDA": False,
        "tensorrt": False,
        "tensorrt-rtx": False,
    }
    assert note_on(report, "onnxruntime on the CPU") == "onnxruntime 1.20.1"
    assert note_on(report, "onnxruntime on CUDA") == note_on(report, "tensorrt") == NO_DRIVER.note
    assert report.problems == ()
    assert "No problems found." in printed(report)


def test_a_gpu_with_everything_installed_is_ready() -> None:
    installed = CUDA | {"tensorrt-cu12": "10.3.0", "onnx": "1.17.0", "tensorrt-rtx": "1.7.1.116"}
    report = report_on(installed, driver=ONE_GPU, providers=lambda: CUDA_PROVIDERS)

    assert readiness(report) == {
        "onnxruntime on the CPU": True,
        "onnxruntime on CUDA": True,
        "tensorrt": True,
        "tensorrt-rtx": True,
    }
    assert note_on(report, "onnxruntime on CUDA") == "NVIDIA L4"
    assert note_on(report, "tensorrt") == "NVIDIA L4, tensorrt-cu12 10.3.0; vdmrt build makes its engines"
    assert "CUDA driver 12.8" in printed(report) and "compute capability 8.9" in printed(report)


@pytest.mark.parametrize(("driver", "extra"), [(NO_DRIVER, "cpu"), (ONE_GPU, "cuda")])
def test_two_onnx_runtimes_are_a_problem_with_a_remedy(driver: CudaDriver, extra: str) -> None:
    report = report_on(CPU | CUDA, driver=driver, providers=fail)

    assert report.problems == (
        "onnxruntime and onnxruntime-gpu are installed together and overwrite each other's files: "
        f"pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'vdmrt[{extra}]'",
    )
    assert not any(readiness(report)[name] for name in ("onnxruntime on the CPU", "onnxruntime on CUDA"))
    assert f"vdmrt[{extra}]" in printed(report)


@pytest.mark.parametrize(
    ("installed", "found"),
    [
        (BASE, []),
        (CPU, ["onnxruntime"]),
        (CPU | CUDA, ["onnxruntime", "onnxruntime-gpu"]),
        (BASE | {"onnxruntime-directml": "1.20"}, ["onnxruntime-directml"]),
    ],
)
def test_the_distributions_of_onnx_runtime_are_listed(installed: Mapping[str, str], found: list[str]) -> None:
    assert onnxruntime_distributions(installed) == found


def test_this_environment_has_one_onnx_runtime() -> None:
    assert onnxruntime_distributions() == [name for name in installed_distributions() if "onnxruntime" in name]


def test_without_a_backend_the_cpu_is_offered() -> None:
    assert report_on(BASE, providers=fail).problems == ("no backend is installed: pip install 'vdmrt[cpu]'",)


def test_an_onnx_runtime_that_does_not_load_is_a_problem() -> None:
    report = report_on(CPU, providers=fail)

    assert report.problems == (
        "onnxruntime 1.20.1 does not load: cannot import name 'x': "
        "pip uninstall -y onnxruntime && pip install 'vdmrt[cpu]'",
    )
    assert not readiness(report)["onnxruntime on the CPU"]


def test_a_core_that_does_not_load_is_a_problem() -> None:
    report = report_on(CPU, core=fail)

    assert not report.core_loads
    assert report.problems == (
        "the C core does not load: cannot import name 'x'; with a C compiler, pip install --force-reinstall vdmrt",
    )


@pytest.mark.parametrize(("version", "found"), [("9.5", "9.5"), (None, "nothing")])
def test_an_unmet_requirement_is_a_problem(version: str | None, found: str) -> None:
    installed = {name: v for name, v in CPU.items() if name != "pillow"} | ({"pillow": version} if version else {})

    assert report_on(installed).problems == (f"vdmrt needs pillow>=10, found {found}: pip install 'pillow>=10'",)


@pytest.mark.parametrize(
    ("extra", "installed", "missing", "command"),
    [
        ("cpu", BASE, ("onnxruntime>=1.20",), "pip install 'vdmrt[cpu]'"),
        ("cpu", CPU, (), None),
        ("cpu", CUDA, (), None),
        ("cpu", BASE | {"onnxruntime": "1.9.0"}, ("onnxruntime>=1.20",), "pip install 'vdmrt[cpu]'"),
        ("cuda", CUDA, (), None),
        (
            "cuda",
            CPU,
            ("onnxruntime-gpu>=1.20", "cuda-bindings>=12.8"),
            "pip uninstall -y onnxruntime && pip install 'vdmrt[cuda]'",
        ),
        ("tensorrt", CPU, ("tensorrt>=10.3", "onnx>=1.17", "cuda-bindings>=12.8"), "pip install 'vdmrt[tensorrt]'"),
        ("tensorrt", {"tensorrt-cu13": "10.16.1.11", "onnx": "1.17.0", "cuda-bindings": "12.8.0"}, (), None),
    ],
)
def test_an_extra_is_complete_or_has_its_command(
    extra: str, installed: Mapping[str, str], missing: tuple[str, ...], command: str | None
) -> None:
    found = check_extra(extra, installed)

    assert (found.missing, found.command) == (missing, command)


@pytest.mark.parametrize(("version", "met"), [("2.9.0+cpu", True), ("2.13.0", True), ("2.8.1", False), ("0", False)])
def test_versions_are_compared_as_numbers(version: str, met: bool) -> None:
    assert ("torch>=2.9" not in check_extra("export", {"torch": version}).missing) is met


def test_an_onnx_runtime_without_cuda_has_an_install_command() -> None:
    report = report_on(CPU, driver=ONE_GPU)

    assert note_on(report, "onnxruntime on CUDA") == (
        "this ONNX Runtime was built without CUDA: pip uninstall -y onnxruntime && pip install 'vdmrt[cuda]'"
    )
    assert (
        note_on(report, "tensorrt")
        == "tensorrt>=10.3, onnx>=1.17, cuda-bindings>=12.8 missing: pip install 'vdmrt[tensorrt]'"
    )
    assert report.problems == ()


def test_a_driver_that_does_not_start_is_a_problem() -> None:
    broken = CudaDriver("12.8", (), "the driver does not start: cuInit returned 803", broken=True)

    assert report_on(CPU, driver=broken).problems == (
        "the driver does not start: cuInit returned 803: reinstall the NVIDIA driver, or reboot after an update",
    )


def test_a_driver_that_was_not_queried_is_not_a_problem() -> None:
    unasked = CudaDriver(None, (), "the NVIDIA driver is asked through ...: pip install cuda-bindings", asked=False)

    report = report_on(CPU, driver=unasked)

    assert report.problems == ()
    assert note_on(report, "tensorrt") == note_on(report, "onnxruntime on CUDA") == unasked.note
    assert readiness(report)["onnxruntime on the CPU"]
