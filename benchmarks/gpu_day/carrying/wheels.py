"""Wheels from the package index: for the GPU machine's Python, and for this one."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

__all__ = ["RTX", "download", "install", "unpacked"]

RTX = ("tensorrt_rtx_cu13_bindings==1.7.1.116", "tensorrt_rtx_cu13_libs==1.7.1.116")
_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def download(requirement: str, folder: Path, python: str) -> Path:
    """Return the wheel of a pinned requirement for a Python version, downloaded where it is not there yet.

    Raises:
        RuntimeError: pip does not find it; with what pip said.
    """
    place = folder / python / requirement
    if not list(place.glob("*.whl")):
        options = ["--no-deps", "--only-binary=:all:", "--implementation", "cp", "--python-version", python]
        options += [word for platform in _PLATFORMS for word in ("--platform", platform)]
        _pip("download", *options, "--dest", str(place), requirement)
    (wheel,) = place.glob("*.whl")
    return wheel


def install(requirements: Sequence[str], target: Path) -> Path:
    """Install pinned requirements for this interpreter into a folder of their own; return it."""
    mark = target / ".installed"
    if not mark.is_file() or mark.read_text() != "\n".join(requirements):
        _pip("install", "--no-deps", "--target", str(target), "--upgrade", *requirements)
        mark.write_text("\n".join(requirements))
    return target


def unpacked(wheel: Path) -> dict[str, Path]:
    """Unpack a wheel beside it; return its files, byte for byte as they came, by their path inside."""
    folder = wheel.with_suffix("")
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        if not all((folder / name).is_file() for name in names):
            archive.extractall(folder)
    return {name: folder / name for name in names}


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"pip {arguments[0]} {arguments[-1]} failed: {done.stderr.strip()[-800:]}")
