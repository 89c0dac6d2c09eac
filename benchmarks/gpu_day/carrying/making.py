"""Makes things once: a step that fails leaves the others, and what was made of the same code is not made again."""

from __future__ import annotations

import hashlib
import importlib.metadata
import shutil
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from ..running.settings import ROOT
from .archive import sha256_of

__all__ = ["Maker", "made_key"]

SKY = ROOT / "examples" / "sky"
_CODE = (
    "bundle",
    "calibration",
    "engines",
    "export",
    "runtime",
    "benchmarks/gpu_day/checks",
    "benchmarks/gpu_day/full_size",
    "benchmarks/gpu_day/rtx",
)
_LIBRARIES = ("numpy", "onnx", "onnxruntime", "torch")


class Maker:
    """Runs the steps of a preparation.

    Attributes:
        failed: Why what could not be made could not.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self._folder, self._key = folder, key
        self.failed: dict[str, str] = {}

    def make(self, what: str, target: Path, step: Callable[[Path], object]) -> bool:
        """Make a folder by a step, where it is not there from the same code; return whether it is there.

        The step writes into a folder beside it, so that nothing half made is taken for made.
        """
        mark = self._folder / f".{target.name}.made"
        if target.is_dir() and mark.is_file() and mark.read_text() == self._key:
            print(f"… {what}: there already", file=sys.stderr, flush=True)
            return True
        scratch, started = target.with_name(f".{target.name}.new"), time.monotonic()
        print(f"… {what}", file=sys.stderr, flush=True)
        for folder in (scratch, target):
            shutil.rmtree(folder, ignore_errors=True)
        scratch.mkdir(parents=True)
        try:
            step(scratch)
        except Exception as error:  # the day goes on with what can be made
            traceback.print_exc()
            self.failed[what] = f"{type(error).__name__}: {error}"
            return False
        scratch.rename(target)
        mark.write_text(self._key)
        print(f"  made in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
        return True


def made_key(golden: Path) -> str:
    """Return what changes when what things are made of does: code, recorded cases, the sky's bundle, libraries."""
    code = [path for folder in _CODE for path in (ROOT / folder).rglob("*.py")]
    code += [Path(__file__).with_name(f"{name}.py") for name in ("inputs", "prepare", "wheels")]
    data = [path for folder in (golden, SKY) for path in folder.rglob("*") if path.is_file() and _is_input(path)]
    digest = hashlib.sha256()
    for path in sorted({*code, *data}):
        digest.update(f"{path} {sha256_of(path)}\n".encode())
    for name in _LIBRARIES:
        digest.update(f"{name} {_version(name)}\n".encode())
    return digest.hexdigest()


def _is_input(path: Path) -> bool:
    return "engines" not in path.parts and "__pycache__" not in path.parts


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "none"
