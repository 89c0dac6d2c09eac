"""Optional dependencies: which extra brings a package that is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..errors import VdmrtError

__all__ = ["needs_extra"]


@contextmanager
def needs_extra(extra: str, task: str, *, fail: Callable[[str], VdmrtError]) -> Iterator[None]:
    """Turn a missing package into the command that installs it.

    Args:
        extra: The extra of vdmrt that brings what the block imports, as "calibrate".
        task: What needs it, as it reads before "needs", as "vdmrt calibrate".
        fail: Makes the error from a sentence; an exception class will do.

    Raises:
        VdmrtError: What ``fail`` makes: a module outside of vdmrt is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "vdmrt"):
            raise  # a bug of ours, which no installation mends
        raise fail(
            f"{task} needs {package}, which is not installed; install it with pip install 'vdmrt[{extra}]'"
        ) from error
