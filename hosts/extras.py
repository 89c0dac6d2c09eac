"""Installation advice: for a missing package, for TensorRT, and for conflicting ONNX Runtime distributions."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..bundle import version_numbers

if TYPE_CHECKING:
    from ..errors import Fail

__all__ = [
    "advise_tensorrt",
    "describe_missing",
    "install_command",
    "installed_versions",
    "need_packages",
    "needs_extra",
]

# By the newest CUDA that a driver supports.
_TENSORRTS = {13: "tensorrt-cu13", 12: "tensorrt-cu12", 11: "tensorrt-cu11"}


@contextmanager
def needs_extra(extra: str, task: str, *, fail: Fail) -> Iterator[None]:
    """Turn the ImportError of a missing package into an error with the command that installs it.

    Args:
        extra: The extra of vdmrt that contains what the block imports, as "calibrate".
        task: What needs it, as it reads before "needs", as "vdmrt calibrate".
        fail: Makes the error from a sentence; an exception class will do.

    Raises:
        Exception: What ``fail`` makes: a module outside of vdmrt is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "vdmrt"):
            raise  # a bug in vdmrt, which no installation fixes
        raise fail(describe_missing(extra, task, package)) from error


def need_packages(extra: str, task: str, *packages: str, fail: Fail) -> None:
    """Import packages before any work is done with them.

    Args:
        extra: The extra of vdmrt that contains them.
        task: What needs them.
        packages: Their import names.
        fail: Makes the error from a sentence; an exception class will do.

    Raises:
        Exception: What ``fail`` makes: one of them is not installed.
    """
    with needs_extra(extra, task, fail=fail):
        for package in packages:
            importlib.import_module(package)


def describe_missing(extra: str, task: str, package: str) -> str:
    """Return the sentence for a package that is not installed."""
    return f"{task} needs {package}, which is not installed; install it with {install_command(extra)}"


def install_command(extra: str, *, remove: Sequence[str] = ()) -> str:
    """Return the command that installs an extra; it first removes distributions with conflicting files."""
    install = f"pip install 'vdmrt[{extra}]'"
    return f"pip uninstall -y {' '.join(remove)} && {install}" if remove else install


def advise_tensorrt(cuda: str) -> str:
    """Return which TensorRT to install for a driver.

    Args:
        cuda: The newest CUDA that the driver supports, as "13.0".
    """
    newest = version_numbers(cuda)[:1] or (0,)
    package = _TENSORRTS.get(min(newest[0], max(_TENSORRTS)))
    if package is None:
        return f"this driver runs CUDA {cuda}, which no release supports any more: install a newer driver first"
    return f"this driver runs CUDA {cuda}: pip install {package}"


def installed_versions(names: Iterable[str]) -> dict[str, str]:
    """Return the versions of the distributions that are installed, by name. Imports none of them."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name) or "0"
        except (importlib.metadata.PackageNotFoundError, KeyError):  # KeyError: what is left has no version
            continue
    return found
