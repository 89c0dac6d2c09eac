"""Optional dependencies: which extra brings a package that is missing."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import Fail

__all__ = ["describe_missing", "need_packages", "needs_extra"]


@contextmanager
def needs_extra(extra: str, task: str, *, fail: Fail) -> Iterator[None]:
    """Turn a missing package into the command that installs it.

    Args:
        extra: The extra of vdmrt that brings what the block imports, as "calibrate".
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
            raise  # a bug of ours, which no installation mends
        raise fail(describe_missing(extra, task, package)) from error


def need_packages(extra: str, task: str, *packages: str, fail: Fail) -> None:
    """Import packages before any work is done with them.

    Args:
        extra: The extra of vdmrt that brings them.
        task: What needs them.
        packages: The names that they are imported by.
        fail: Makes the error from a sentence; an exception class will do.

    Raises:
        Exception: What ``fail`` makes: one of them is not installed.
    """
    with needs_extra(extra, task, fail=fail):
        for package in packages:
            importlib.import_module(package)


def describe_missing(extra: str, task: str, package: str) -> str:
    """Return the sentence for a package that is not installed."""
    return f"{task} needs {package}, which is not installed; install it with pip install 'vdmrt[{extra}]'"
